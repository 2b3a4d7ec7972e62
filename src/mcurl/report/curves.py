"""Plots of learning curves: a thin line for each seed, a thick line for the mean, markers for published scores."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import cycle
from pathlib import Path
from typing import Any

from mcurl.config.tasks import methods as methods_by_name
from mcurl.errors import UserError
from mcurl.published.scores import BUDGET, seeds, sources
from mcurl.report.collect import load, method_label

COLOURS = {
    "mcurl": "#c8102e",
    "curl": "#1f5fa8",
    "rl-only": "#5b8c3a",
    "rl-only-nocrop": "#8a8a8a",
    "seq-curl": "#17a2a2",
    "sym-curl": "#e08a1e",
    "sac-state": "#333333",
}
OTHER_COLOURS = ("#7a4fa3", "#b5651d", "#d16ba5", "#4d4d80")
MARKERS = "Dosv"


def plot(results: Path, benchmark: str, name: str, target: Path) -> None:
    """Plot the learning curves of one task. The axis of returns starts at 0 unless a return is negative.

    Args:
        results: folder of the results.
        benchmark: a folder of ``results``, such as ``"dmc"``.
        name: the task without its suite.
        target: path of the figure, a png, svg or pdf file.

    Raises:
        UserError: there are no results of the task, or matplotlib is not installed.
    """
    curves = load(results, benchmark, name)
    if not curves:
        raise UserError(f"{results} has no results of {benchmark}/{name}")
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise UserError("plotting needs matplotlib: pip install 'mcurl[report]'") from None
    figure = Figure(figsize=(8.4, 4.0), dpi=150, layout="constrained")
    axes = figure.subplots()
    others = cycle(OTHER_COLOURS)
    for method in sort_methods(curves):
        label = method_label(results, benchmark, method, name)
        _plot_method(axes, label, curves[method], COLOURS.get(method) or next(others))
    _plot_published(axes, benchmark, name)
    axes.set_title(f"{benchmark}/{name}")
    axes.set_xlabel("env steps (action repeat included)")
    axes.set_ylabel("evaluation return, mean of the episodes")
    if min(value for seeds in curves.values() for points in seeds.values() for value in points.values()) >= 0:
        axes.set_ylim(bottom=0)
    axes.xaxis.set_major_formatter(lambda value, _: f"{value / 1000:.0f}k" if value else "0")
    axes.spines[["top", "right"]].set_visible(False)
    figure.legend(frameon=False, fontsize=8, loc="outside right upper")
    target.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(target)


def sort_methods(methods: Iterable[str]) -> list[str]:
    """Sort names of methods: built-in methods first, in the order of ``methods.toml``, then others by name."""
    names = list(methods_by_name())
    return sorted(methods, key=lambda method: (names.index(method) if method in names else len(names), method))


def _plot_method(axes: Any, label: str, curves: dict[int, dict[int, float]], colour: str) -> None:
    shared = sorted(set.intersection(*(set(points) for points in curves.values())))
    mean = [sum(points[step] for points in curves.values()) / len(curves) for step in shared]
    if len(curves) > 1:
        for points in curves.values():
            axes.plot(list(points), list(points.values()), color=colour, linewidth=0.8, alpha=0.35)
    axes.plot(shared, mean, color=colour, linewidth=2, label=f"{label} ({seeds(len(curves))})")


def _plot_published(axes: Any, benchmark: str, name: str) -> None:
    """Plot a marker for each published score, to the right of the budget, with its standard deviation if known."""
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
