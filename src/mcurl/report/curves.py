"""Learning curves: our seeds, each as a line, their mean on top, and what others published as a mark."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import cycle
from pathlib import Path
from typing import Any

from mcurl.errors import UserError
from mcurl.published.scores import BUDGET, seeds, sources
from mcurl.report.collect import load

NAMES = {"mcurl": "M-CURL", "curl": "CURL", "none": "RL alone", "none-nocrop": "RL alone, no crops"}
COLOURS = {"mcurl": "#c8102e", "curl": "#1f5fa8", "none": "#5b8c3a", "none-nocrop": "#8a8a8a"}
OTHER_COLOURS = ("#e08a1e", "#7a4fa3", "#333333", "#17a2a2")
MARKERS = "Dosv"


def draw(results: Path, benchmark: str, name: str, target: Path) -> None:
    """Draw one task's curves into ``target`` (png, svg or pdf).

    The axis of the returns begins at 0 where none is below it.

    Raises:
        UserError: there are no results of the task, or matplotlib is not installed.
    """
    found = load(results, benchmark, name)
    if not found:
        raise UserError(f"{results} has no results of {benchmark}/{name}")
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise UserError("drawing needs matplotlib: pip install 'mcurl[report]'") from None
    figure = Figure(figsize=(8.4, 4.0), dpi=150, layout="constrained")
    axes = figure.subplots()
    others = cycle(OTHER_COLOURS)
    for method in in_order(found):
        _draw_method(axes, method, found[method], COLOURS.get(method) or next(others))
    _draw_published(axes, benchmark, name)
    axes.set_title(f"{benchmark}/{name}")
    axes.set_xlabel("env steps (action repeat included)")
    axes.set_ylabel("evaluation return, mean of the episodes")
    if min(value for curves in found.values() for points in curves.values() for value in points.values()) >= 0:
        axes.set_ylim(bottom=0)
    axes.xaxis.set_major_formatter(lambda value, _: f"{value / 1000:.0f}k" if value else "0")
    axes.spines[["top", "right"]].set_visible(False)
    figure.legend(frameon=False, fontsize=8, loc="outside right upper")
    target.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(target)


def in_order(methods: Iterable[str]) -> list[str]:
    """The paper's methods first, in its order; others by name."""
    return sorted(methods, key=lambda method: (list(NAMES).index(method) if method in NAMES else len(NAMES), method))


def _draw_method(axes: Any, method: str, curves: dict[int, dict[int, float]], colour: str) -> None:
    shared = sorted(set.intersection(*(set(points) for points in curves.values())))
    mean = [sum(points[step] for points in curves.values()) / len(curves) for step in shared]
    if len(curves) > 1:
        for points in curves.values():
            axes.plot(list(points), list(points.values()), color=colour, linewidth=0.8, alpha=0.35)
    axes.plot(shared, mean, color=colour, linewidth=2, label=f"{NAMES.get(method, method)} ({seeds(len(curves))})")


def _draw_published(axes: Any, benchmark: str, name: str) -> None:
    """A mark for each source, side by side behind the budget, in its method's colour, with the standard deviation over
    seeds where it is known."""
    scores = [(source, score) for source in sources(benchmark) if source.method and (score := source.score(name))]
    for i, (source, score) in enumerate(scores):
        assert source.method is not None
        steps = BUDGET[benchmark] * (1.015 + 0.015 * i)
        label = source.name if score.seeds is None else f"{source.name} ({seeds(score.seeds)})"
        fmt = MARKERS[[other.method for other, _ in scores[:i]].count(source.method) % len(MARKERS)]
        axes.errorbar(
            [steps],
            [score.mean],
            score.std,
            fmt=fmt,
            color=COLOURS[source.method],
            markersize=4,
            capsize=3,
            label=label,
        )
