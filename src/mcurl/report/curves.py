"""Plots of learning curves: a thin line for each seed, a thick line for the mean, markers for published scores."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import cycle
from pathlib import Path
from statistics import fmean
from textwrap import wrap
from typing import Any

from mcurl.errors import UserError
from mcurl.published.scores import BUDGETS, seeds, sources
from mcurl.report.scores import RunScores, cells, notes

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


def plot(runs: Iterable[RunScores], benchmark: str, task: str, target: Path) -> None:
    """Plot the learning curves of one task. The axis of returns starts at 0 unless a return is negative.

    Unfinished runs are dotted, and not in a mean with finished ones. What must be known of single runs stands below.

    Args:
        runs: see :func:`mcurl.report.store.read`; those of other tasks are left out.
        benchmark: the suite, or ``"atari100k"``.
        task: the task without its suite.
        target: path of the figure, a png, svg or pdf file.

    Raises:
        UserError: there are no runs of the task, or matplotlib is not installed.
    """
    groups = {name: group for (*place, name), group in cells(runs).items() if place == [benchmark, task]}
    if not groups:
        raise UserError(f"there are no results of {benchmark}/{task}")
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise UserError("plotting needs matplotlib: pip install 'mcurl[report]'") from None
    figure = Figure(figsize=(8.4, 4.0), dpi=150, layout="constrained")
    axes = figure.subplots()
    others = cycle(OTHER_COLOURS)
    texts = []
    for name, group in groups.items():
        _plot_runs(axes, group, COLOURS.get(name) or next(others))
        texts += [f"{group[0].label}: {text}" for text in notes(group)]
    _plot_published(axes, benchmark, task, max(run.env_steps for group in groups.values() for run in group))
    axes.set_title(f"{benchmark}/{task}")
    axes.set_xlabel("env steps (action repeat included)")
    axes.set_ylabel("evaluation return, mean of the episodes")
    if min(value for group in groups.values() for run in group for value in run.points.values()) >= 0:
        axes.set_ylim(bottom=0)
    axes.xaxis.set_major_formatter(lambda value, _: f"{value / 1000:g}k" if value else "0")
    axes.spines[["top", "right"]].set_visible(False)
    figure.legend(frameon=False, fontsize=8, loc="outside right upper")
    if texts:
        lines = [line for text in texts for line in wrap(text, 120, subsequent_indent="    ")]
        figure.supxlabel("\n".join(lines), x=0.01, ha="left", fontsize=7)
    target.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(target)


def _plot_runs(axes: Any, runs: Sequence[RunScores], colour: str) -> None:
    complete = [run for run in runs if run.finished] or list(runs)
    shared = sorted(set.intersection(*(set(run.points) for run in complete)))
    mean = [fmean(run.points[step] for run in complete) for step in shared]
    for run in runs:
        if len(runs) > 1:
            line = "-" if run.finished else ":"
            axes.plot(list(run.points), list(run.points.values()), line, color=colour, linewidth=0.8, alpha=0.4)
    marker = "o" if len(shared) == 1 else ""
    line = "-" if complete[0].finished else ":"
    label = f"{runs[0].label} ({seeds(len(complete))}{'' if complete[0].finished else ', unfinished'})"
    axes.plot(shared, mean, line, marker=marker, color=colour, linewidth=2, label=label)


def _plot_published(axes: Any, benchmark: str, task: str, last: int) -> None:
    """Plot a marker for each published score at the budgets up to the last evaluation, or at the first budget.

    A marker is to the right of its budget, with its standard deviation if known.
    """
    budgets = BUDGETS.get(benchmark, ())
    for budget in [steps for steps in budgets if steps <= last] or budgets[:1]:
        _plot_markers(axes, benchmark, task, budget, "" if budget == budgets[0] else f", at {budget // 1000}k")


def _plot_markers(axes: Any, benchmark: str, task: str, budget: int, suffix: str) -> None:
    published = sources(benchmark, budget)
    scores = [(source, score) for source in published if source.method and (score := source.score(task))]
    for i, (source, score) in enumerate(scores):
        assert source.method is not None
        steps = budget * (1.015 + 0.015 * i)
        label = source.name + suffix + ("" if score.seeds is None else f" ({seeds(score.seeds)})")
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
