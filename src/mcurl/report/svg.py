"""Figures as SVG: single plots for the page, whose colours follow its style sheet, and whole figures as files.

Only text is drawn, no library is needed, and equal figures are equal files.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from html import escape
from textwrap import wrap

from mcurl.report.axis import beyond, tick_labels, ticks, x_range, y_range
from mcurl.report.model import Figure, Line, Mark, Panel, Points, Series, number
from mcurl.report.palette import SHAPES, STYLES

WIDTH, HEIGHT = 320, 212
"""Size of one plot in pixels."""
LEFT, RIGHT, TOP, BOTTOM = 40, 10, 8, 24
"""Room around the axes."""
COLUMNS = 4
"""Plots beside each other in a file."""
DOTS = 30
"""A curve with more points has no dots."""
CHARACTER = 6.1
"""Width of a character of 11 pixels, on average, for the legend of a file."""

Scale = Callable[[float], float]
"""A value on an axis -> its place in pixels."""
SHEET = """
text{font:11px system-ui,-apple-system,"Segoe UI",Roboto,"Helvetica Neue",Arial,sans-serif;fill:#555}
.title{font-size:12.5px;font-weight:600;fill:#1c1c1c}.note{font-style:italic}.tick{text-anchor:end}.middle{text-anchor:middle}
.grid{stroke:#e7e5e0}.axis{stroke:#8a8780}.level{stroke:#77736b}.mean{fill:none;stroke:var(--c);
stroke-width:2;stroke-linejoin:round}.seed{fill:none;stroke:var(--c);opacity:.5}.band{fill:var(--c);opacity:.16}
.partial{stroke-dasharray:1 3;stroke-linecap:round}.dot{fill:var(--c)}.mark{fill:#fff;stroke:var(--c);stroke-width:1.6}
.bar{stroke:var(--c);stroke-width:1.2;fill:none}
""".replace("\n", "")
"""The style sheet of a file. The page has classes of the same names."""


def panel_svg(figure: Figure, panel: Panel) -> str:
    """One plot as an ``<svg>`` element for the page."""
    return (
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(describe(figure, panel))}">'
        f"{_panel(figure, panel)}</svg>"
    )


def describe(figure: Figure, panel: Panel) -> str:
    """A plot in words, for readers who do not see it: where each curve ends, and each mark."""
    title = panel.title or figure.title
    parts = [
        f"{series.label}: {_value(series.mean[-1][1])} at {_steps(series.mean[-1][0], figure.kilo)}"
        for series in panel.series
        if series.mean
    ]
    parts += [f"{mark.label}: {_value(mark.y)} at {_steps(mark.x, figure.kilo)}" for mark in panel.marks]
    parts += [f"{line.label}: {_value(line.y)}" for line in panel.lines]
    return f"{title}. {'; '.join(parts) or panel.note}."


def swatch(item: Series | Mark | Line) -> str:
    """The sign of a curve, mark or line in a legend, 28 by 12 pixels."""
    return f'<svg class="swatch" width="28" height="12" viewBox="0 0 28 12" aria-hidden="true">{_sign(item)}</svg>'


def figure_svg(figure: Figure) -> str:
    """A whole figure as a file."""
    columns = min(COLUMNS, max(len(figure.panels), 1))
    rows = math.ceil(max(len(figure.panels), 1) / columns)
    width, cell = columns * WIDTH + 24, HEIGHT + 22
    legend, legend_height = _legend(figure, width - 24)
    top = 34
    caption = wrap(figure.caption, int((width - 32) / CHARACTER))
    height = top + rows * cell + 26 + legend_height + 16 * len(caption)
    body = [
        f'<text class="title" x="16" y="20">{escape(figure.title)}</text>',
        *(
            f'<g transform="translate({20 + i % columns * WIDTH},{top + i // columns * cell})">'
            f'<text class="title" x="{LEFT}" y="12">{escape(panel.title)}</text>'
            f'<g transform="translate(0,18)">{_panel(figure, panel)}</g></g>'
            for i, panel in enumerate(figure.panels)
        ),
        f'<text class="middle" x="{width / 2:.0f}" y="{top + rows * cell + 10}">{escape(figure.x_label)}</text>',
        f'<text class="middle" transform="translate(14,{top + rows * cell / 2:.0f}) rotate(-90)">'
        f"{escape(figure.y_label)}</text>",
        f'<g transform="translate(24,{top + rows * cell + 26})">{legend}</g>',
        *(
            f'<text x="24" y="{top + rows * cell + 36 + legend_height + 16 * i}">{escape(line)}</text>'
            for i, line in enumerate(caption)
        ),
    ]
    colours = "".join(f".c-{name}{{--c:{style.light}}}" for name, style in STYLES.items())
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}" '
        f'role="img"><title>{escape(figure.title)}</title><style>{SHEET}{colours}</style>'
        f'<rect width="{width}" height="{height}" fill="#fff"/>{"".join(body)}</svg>\n'
    )


def _panel(figure: Figure, panel: Panel) -> str:
    x_low, x_high = x_range(figure, panel)
    y_low, y_high = y_range(figure, panel)
    wide, high = WIDTH - LEFT - RIGHT, HEIGHT - TOP - BOTTOM

    def x(value: float) -> float:
        return (value - x_low) / (x_high - x_low) * wide

    def y(value: float) -> float:
        return high - (value - y_low) / (y_high - y_low) * high

    x_ticks, y_ticks = ticks(x_low, x_high), ticks(y_low, y_high, 5)
    outside = [
        f'<text class="tick" x="{LEFT - 6}" y="{_n(TOP + y(value) + 3.5)}">{label}</text>'
        for value, label in zip(y_ticks, tick_labels(y_ticks), strict=True)
    ]
    outside += [
        f'<text class="middle" x="{_n(LEFT + x(value))}" y="{TOP + high + 16}">{label}</text>'
        for value, label in zip(x_ticks, tick_labels(x_ticks, figure.kilo), strict=True)
    ]
    frame = [f'<path class="grid" d="M0 {_n(y(value))}H{wide}"/>' for value in y_ticks]
    frame += [f'<path class="axis" d="M{_n(x(value))} {high}v4"/>' for value in x_ticks]
    frame.append(f'<path class="axis" d="M0 {high}H{wide}"/>')
    # Curves are clipped to the axes by an inner <svg>, which needs no name, unlike a clip path.
    curves = "".join(_series(series, x, y, figure.kilo) for series in panel.series)
    levels = "".join(_level(line, y, wide) for line in panel.lines if line.y <= y_high)
    inner = [f'<svg width="{wide}" height="{high}">{levels}{curves}</svg>']
    inner += [_mark(mark, x(mark.drawn_x), y, figure.kilo) for mark in panel.marks if x_low <= mark.drawn_x <= x_high]
    inner += [f'<text x="6" y="{10 + 13 * i}">{escape(text)}</text>' for i, text in enumerate(beyond(figure, panel))]
    if panel.note:
        inner.append(f'<text class="note middle" x="{wide / 2:.0f}" y="{high / 2:.0f}">{escape(panel.note)}</text>')
    return f'{"".join(outside)}<g transform="translate({LEFT},{TOP})">{"".join(frame)}{"".join(inner)}</g>'


def _series(series: Series, x: Scale, y: Scale, kilo: bool) -> str:
    parts = []
    if series.band:
        ends = [(step, high) for step, _, high in series.band] + [(step, low) for step, low, _ in reversed(series.band)]
        parts.append(f'<path class="band" d="{_path(ends, x, y)}Z"/>')
    if not series.band:
        parts += [f'<path class="seed" d="{_path(points, x, y)}"/>' for points in series.seeds if len(points) > 1]
    parts += [f'<path class="seed partial" d="{_path(points, x, y)}"/>' for points in series.unfinished]
    if len(series.mean) > 1:
        pattern = "" if series.partial else _dashes(STYLES[series.style].dash)
        partial = " partial" if series.partial else ""
        parts.append(f'<path class="mean{partial}"{pattern} d="{_path(series.mean, x, y)}"/>')
    if len(series.mean) <= DOTS:
        radius = 2 if len(series.mean) > 1 else 3.5
        parts += [
            f'<circle class="dot" cx="{_n(x(step))}" cy="{_n(y(value))}" r="{radius}">'
            f"<title>{escape(series.label)}, {_steps(step, kilo)}: {_value(value)}</title></circle>"
            for step, value in series.mean
        ]
    return f'<g class="c-{series.style}">{"".join(parts)}</g>'


def _mark(mark: Mark, x: float, y: Scale, kilo: bool) -> str:
    spread = "" if mark.std is None else f" ± {_value(mark.std)}"
    bar = ""
    if mark.std:
        low, high = y(mark.y - mark.std), y(mark.y + mark.std)
        bottom = min(low, y(0)) if mark.y >= 0 else low
        caps = f"M{_n(x - 3)} {_n(high)}h6M{_n(x)} {_n(high)}V{_n(bottom)}M{_n(x - 3)} {_n(bottom)}h6"
        bar = f'<path class="bar" d="{caps}"/>'
    return (
        f'<g class="c-{mark.style}">{bar}{_shape(mark.shape, x, y(mark.y))}'
        f"<title>{escape(mark.label)}, {_steps(mark.x, kilo)}: {_value(mark.y)}{spread}</title></g>"
    )


def _shape(shape: int, x: float, y: float) -> str:
    kind = SHAPES[shape % len(SHAPES)]
    if kind == "circle":
        return f'<circle class="mark" cx="{_n(x)}" cy="{_n(y)}" r="3.6"/>'
    outline = {"diamond": "m0-4.8l4.8 4.8l-4.8 4.8l-4.8-4.8z", "square": "m-3.4-3.4h6.8v6.8h-6.8z"}
    path = outline.get(kind, "m0-4.4l4.4 7.6h-8.8z")
    return f'<path class="mark" d="M{_n(x)} {_n(y)}{path}"/>'


def _level(line: Line, y: Scale, wide: float) -> str:
    height = _n(y(line.y))
    title = f"<title>{escape(line.label)}: {_value(line.y)}</title>"
    return f'<path class="level"{_dashes(line.dash)} d="M0 {height}H{wide}">{title}</path>'


def _legend(figure: Figure, width: float) -> tuple[str, int]:
    """The legend of a file, in as many lines as it needs, and its height."""
    parts, left, top = [], 0.0, 0
    for item in figure.legend():
        room = 44 + CHARACTER * len(item.label)
        if left and left + room > width:
            left, top = 0.0, top + 20
        parts.append(
            f'<g transform="translate({_n(left)},{top})">{_sign(item)}'
            f'<text x="34" y="10">{escape(item.label)}</text></g>'
        )
        left += room
    return "".join(parts), top + 24


def _sign(item: Series | Mark | Line) -> str:
    if isinstance(item, Line):
        return f'<path class="level"{_dashes(item.dash)} d="M0 6H28"/>'
    if isinstance(item, Mark):
        return f'<g class="c-{item.style}">{_shape(item.shape, 14, 6)}</g>'
    pattern = "" if item.partial else _dashes(STYLES[item.style].dash)
    partial = " partial" if item.partial else ""
    return f'<g class="c-{item.style}"><path class="mean{partial}"{pattern} d="M0 6H28"/></g>'


def _path(points: Points | Iterable[tuple[float, float]], x: Scale, y: Scale) -> str:
    return "M" + "L".join(f"{_n(x(step))} {_n(y(value))}" for step, value in points)


def _dashes(lengths: tuple[int, ...]) -> str:
    return f' stroke-dasharray="{" ".join(map(str, lengths))}"' if lengths else ""


def _n(value: float) -> str:
    """A coordinate with one decimal at most."""
    text = f"{value:.1f}".removesuffix(".0")
    return "0" if text == "-0" else text


def _value(value: float) -> str:
    size = abs(value)
    return number(value, 0 if size >= 100 else 1 if size >= 2 else 2)


def _steps(value: float, kilo: bool) -> str:
    return tick_labels([value], kilo)[0]
