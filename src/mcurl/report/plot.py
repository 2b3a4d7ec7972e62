"""Figures as PNG, PDF or SVG files with matplotlib, in the style of the page's plots on white."""

from __future__ import annotations

import io
import math
from pathlib import Path
from textwrap import wrap
from typing import Any

from mcurl import files
from mcurl.errors import UserError
from mcurl.report.axis import beyond, tick_labels, ticks, x_range, y_range
from mcurl.report.model import Figure, Line, Mark, Panel, Series
from mcurl.report.palette import STYLES

MARKERS = "Dos^"
"""matplotlib's names of ``palette.SHAPES``."""
COLUMNS = 4
"""Plots beside each other."""
GREY = "#77736b"


def check_matplotlib() -> None:
    """Raise UserError if matplotlib is not installed."""
    try:
        import matplotlib  # noqa: F401
    except ImportError:
        raise UserError("plotting needs matplotlib: pip install 'mcurl[report]'") from None


def save(figure: Figure, target: Path) -> None:
    """Draw a figure into a file. Equal figures are equal files, by one version of matplotlib.

    Args:
        figure: the figure.
        target: path of the file; its folder is made if there is none.

    Raises:
        UserError: matplotlib is not installed.
    """
    check_matplotlib()
    target.parent.mkdir(parents=True, exist_ok=True)
    from matplotlib import rc_context
    from matplotlib.figure import Figure as Canvas

    columns = min(COLUMNS, max(len(figure.panels), 1))
    rows = math.ceil(max(len(figure.panels), 1) / columns)
    single = len(figure.panels) == 1
    size = (8.4, 4.2) if single else (3.1 * columns, 2.25 * rows + 1.0)
    if not single and (items := len(figure.legend())):
        size = (size[0], size[1] + 0.18 * (math.ceil(items / _legend_columns(figure, size[0])) - 1))
    with rc_context({"svg.hashsalt": "mcurl", "font.size": 9, "text.parse_math": False}):
        canvas = Canvas(figsize=size, dpi=120, layout="constrained")
        grid = canvas.subplots(rows, columns, squeeze=False)
        for axes, panel in zip(grid.flat, figure.panels, strict=False):
            _panel(axes, figure, panel)
        for axes in list(grid.flat)[len(figure.panels) :]:
            axes.set_axis_off()
        for axes in list(grid.flat)[max(len(figure.panels) - columns, 0) : len(figure.panels)]:
            axes.set_xlabel(figure.x_label, fontsize=8)
        canvas.supylabel(figure.y_label, fontsize=8)
        canvas.supxlabel("\n".join(wrap(figure.caption, int(size[0] * 19))), x=0.01, ha="left", fontsize=7, color=GREY)
        _legend(canvas, figure, single)
        # No date and no version stand in the file: they would make every file another one.
        names = {".svg": ("Date", "Creator"), ".pdf": ("CreationDate", "Producer", "Creator")}
        metadata, content = dict.fromkeys(names.get(target.suffix, ("Software",))), io.BytesIO()
        canvas.savefig(content, format=target.suffix[1:] or None, metadata=metadata)
    files.write_file(target, content.getvalue())


def _legend(canvas: Any, figure: Figure, single: bool) -> None:
    """The legend, with the title of the figure above it where a title of the canvas would overlap it."""
    handles = [_handle(item) for item in figure.legend()]
    style: dict[str, Any] = {"frameon": False, "fontsize": 8}
    if single or not handles:
        canvas.suptitle(figure.title, fontsize=10, fontweight="bold")
    if single and handles:
        canvas.legend(handles=handles, loc="outside right upper", **style)
    elif handles:
        style |= {"ncols": _legend_columns(figure, canvas.get_figwidth()), "title": figure.title, "alignment": "left"}
        canvas.legend(
            handles=handles, loc="outside upper left", title_fontproperties={"size": 10, "weight": "bold"}, **style
        )


def _legend_columns(figure: Figure, width: float) -> int:
    """As many columns as fit into a width in inches, up to five."""
    handle, letter = 0.53, 0.063  # inches, with the space around the handle
    widest = handle + letter * max(len(item.label) for item in figure.legend())
    return max(1, min(5, int(width / widest)))


def _panel(axes: Any, figure: Figure, panel: Panel) -> None:
    (x_low, x_high), (y_low, y_high) = x_range(figure, panel), y_range(figure, panel)
    for line in (line for line in panel.lines if line.y <= y_high):
        axes.axhline(line.y, color=GREY, linewidth=0.9, linestyle=(0, line.dash), zorder=1)
    for series in panel.series:
        _series(axes, series)
    for mark in (mark for mark in panel.marks if x_low <= mark.drawn_x <= x_high):
        colour = STYLES[mark.style].light
        low = None if mark.std is None else min(mark.std, mark.y) if mark.y >= 0 else mark.std
        axes.errorbar(
            [mark.drawn_x],
            [mark.y],
            None if low is None else [[low], [mark.std]],
            fmt=MARKERS[mark.shape % len(MARKERS)],
            color=colour,
            markerfacecolor="white",
            markersize=5,
            elinewidth=1,
            capsize=2.5,
            zorder=4,
            clip_on=False,
        )
    axes.set_xlim(x_low, x_high)
    axes.set_ylim(y_low, y_high)
    x_ticks, y_ticks = ticks(x_low, x_high), ticks(y_low, y_high, 5)
    axes.set_xticks(x_ticks, tick_labels(x_ticks, figure.kilo))
    axes.set_yticks(y_ticks, tick_labels(y_ticks))
    if panel.title:
        axes.set_title(panel.title, fontsize=9, loc="left")
    for i, text in enumerate(beyond(figure, panel)):
        style: dict[str, Any] = {"ha": "left", "va": "top", "fontsize": 7, "color": GREY}
        axes.text(0.02, 0.99 - 0.1 * i, text, transform=axes.transAxes, **style)
    if panel.note:
        axes.text(0.5, 0.5, panel.note, transform=axes.transAxes, ha="center", style="italic", color=GREY)
    axes.grid(axis="y", color="#e7e5e0", linewidth=0.7)
    axes.set_axisbelow(True)
    axes.tick_params(labelsize=8, colors="#555555", length=3)
    axes.spines[["top", "right", "left"]].set_visible(False)


def _series(axes: Any, series: Series) -> None:
    colour = STYLES[series.style].light
    if series.band:
        steps, low, high = zip(*series.band, strict=True)
        axes.fill_between(steps, low, high, color=colour, alpha=0.16, linewidth=0)
    if not series.band:
        for points in series.seeds:
            axes.plot(*zip(*points, strict=True), color=colour, linewidth=0.8, alpha=0.5)
    for points in series.unfinished:
        axes.plot(*zip(*points, strict=True), ":", color=colour, linewidth=0.8, alpha=0.5)
    if series.mean:
        handle = _handle(series)
        handle.set_data(*zip(*series.mean, strict=True))
        # A single point, or a few, would not be seen as a line.
        handle.set_marker("o" if len(series.mean) <= 30 else "")
        handle.set_markersize(6 if len(series.mean) == 1 else 2.5)
        axes.add_line(handle)


def _handle(item: Series | Mark | Line) -> Any:
    """A line of matplotlib that looks like the item, for the legend."""
    from matplotlib.lines import Line2D

    if isinstance(item, Line):
        return Line2D([], [], color=GREY, linewidth=0.9, linestyle=(0, item.dash), label=item.label)
    colour = STYLES[item.style].light
    if isinstance(item, Mark):
        marker = MARKERS[item.shape % len(MARKERS)]
        return Line2D([], [], color=colour, linestyle="", marker=marker, markerfacecolor="white", label=item.label)
    dash = (1, 3) if item.partial else STYLES[item.style].dash
    style: Any = (0, tuple(length / 2 for length in dash)) if dash else "-"
    return Line2D([], [], color=colour, linewidth=2, linestyle=style, label=item.label)
