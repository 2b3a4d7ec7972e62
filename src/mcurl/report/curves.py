"""Learning curves: the figure of a comparison, and that of one task."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from statistics import fmean, stdev

from mcurl.errors import UserError
from mcurl.published import atari_random_and_human
from mcurl.published.catalogue import PublishedColumn, choose
from mcurl.report.model import Figure, Line, Mark, Panel, Points, Series, count
from mcurl.report.palette import STYLES, steps, styles
from mcurl.report.plan import FEWEST, TITLES, PlanScores, ShownArm, plan_of_benchmark, slug, thousands
from mcurl.report.scores import RunScores, notes, run_notes

MARK_STEP = 0.022
"""Distance between published marks at one env step, as a part of the axis."""


def curves(scores: PlanScores, columns: Sequence[PublishedColumn]) -> Figure:
    """Learning curves, one plot for each task that has runs; in a suite, for each task."""
    plan = scores.plan
    suite = plan.expected is not None
    tasks = [task for task in plan.tasks if suite or scores.has(task)]
    style = arm_styles(plan.arms)
    known = {arm.method for arm in plan.arms}
    compared = [column for column in columns if column.method in known]
    last = max((step for run in scores.runs for step in run.points), default=0)
    # Where all runs are short, their axis ends with them, and marks far to the right would squeeze the curves.
    end = max(plan.budgets) if suite and last >= max(plan.budgets) / 2 else last or max(plan.budgets)
    known_at = {task: {step for column in compared for step in column.env_steps(task)} for task in tasks}
    marked = {task: sorted(step for step in steps if step <= end * 1.02) for task, steps in known_at.items()}
    own = {arm.method: style[arm.name] for arm in reversed(plan.arms)} | {method: method for method in STYLES}
    marks = {task: _marks(task, marked[task], compared, own, end) for task in tasks}
    panels = tuple(
        Panel(
            task,
            tuple(filter(None, (_series(scores, task, arm, style[arm.name]) for arm in plan.arms))),
            marks[task],
            _levels(plan.benchmark, task),
            "" if scores.has(task) else "no run yet",
        )
        for task in tasks
    )
    right = max([end, *(mark.drawn_x for group in marks.values() for mark in group)])
    return Figure(
        f"{plan.key}-curves",
        f"{plan.title}: learning curves",
        panels,
        "frames" if plan.benchmark == "atari100k" else "env steps (action repeat included)",
        "mean return of an evaluation",
        _curves_caption(scores, panels, sorted(set().union(*marked.values())), any(known_at.values())),
        (0.0, max(right, 1) * 1.03),  # a run that has just begun has an evaluation at 0 alone
    )


def task_figure(runs: Iterable[RunScores], benchmark: str, task: str) -> Figure:
    """The learning curves of one task, as a figure of its own.

    Raises:
        UserError: there are no runs of the task.
    """
    group = [run for run in runs if (run.benchmark, run.task) == (benchmark, task)]
    if not group:
        raise UserError(f"there are no results of {benchmark}/{task}")
    plan = replace(plan_of_benchmark(benchmark, group), tasks=(task,))
    scores = PlanScores(plan, group)
    figure = curves(scores, choose(benchmark, None, {arm.method for arm in plan.arms}))
    found = [(arm, scores.find(task, arm)) for arm in plan.arms]
    # The notes of runs stand in the caption already.
    known = [f"{arm.label}: {text}." for arm, own in found for text in notes(own) if text not in run_notes(own)]
    return replace(
        figure,
        key=slug(f"{benchmark}-{task}"),
        title=f"{TITLES.get(benchmark, benchmark)}: {task}",
        panels=tuple(
            replace(panel, title="", series=tuple(_with_seeds(series) for series in panel.series))
            for panel in figure.panels
        ),
        caption=" ".join([figure.caption, *known]),
    )


def _with_seeds(series: Series) -> Series:
    """A curve whose label says how many seeds it has."""
    seeds = count(len(series.seeds) or 1, "seed")
    return replace(series, label=f"{series.label} ({seeds}{', unfinished' if series.partial else ''})")


def arm_styles(arms: Sequence[ShownArm]) -> dict[str, str]:
    """Name of an arm -> its style: a scale for the arms of a sweep, and the method's colour wherever it is free."""
    by_method: dict[str, list[str]] = {}
    for arm in arms:
        # The method itself is a step of a sweep over a setting (mask_rate=0.5), but not one of arms with free names.
        if arm.name != arm.method or any(other.name.startswith(f"{arm.name}-") and "=" in other.name for other in arms):
            by_method.setdefault(arm.method, []).append(arm.name)
    sweep = [name for names in by_method.values() if len(names) > 2 for name in names]
    found = steps(sweep)
    rest = [arm for arm in arms if arm.name not in found]
    for arm in rest:
        if arm.name in STYLES:
            found[arm.name] = arm.name
    for arm in rest:
        if arm.name not in found and arm.method in STYLES and arm.method not in found.values():
            found[arm.name] = arm.method
    return found | styles([arm.name for arm in rest if arm.name not in found])


def _series(scores: PlanScores, task: str, arm: ShownArm, style: str) -> Series | None:
    """Mean over the seeds at the env steps that all of them have; a band of one standard deviation from three seeds."""
    found = scores.find(task, arm)
    # An unfinished run would cut the mean short: it counts only where there is nothing else.
    runs = [run for run in found if run.finished] or found
    if not runs:
        return None
    unfinished = tuple(_points(run) for run in found if run not in runs)
    shared = sorted(set.intersection(*(set(run.points) for run in runs)))
    means, band = [], []
    for step in shared:
        values = [run.points[step] for run in runs]
        means.append((float(step), fmean(values)))
        if len(values) >= FEWEST:
            spread = stdev(values)
            band.append((float(step), fmean(values) - spread, fmean(values) + spread))
    seeds: tuple[Points, ...] = ()
    if len(runs) > 1:
        seeds = tuple(_points(run) for run in runs)
    partial = not any(run.finished for run in runs)
    return Series(style, arm.label, tuple(means), tuple(band), seeds, unfinished, partial)


def _points(run: RunScores) -> Points:
    return tuple((float(step), value) for step, value in run.points.items())


def _marks(
    task: str, env_steps: Sequence[int], columns: Sequence[PublishedColumn], style: Mapping[str, str], end: int
) -> tuple[Mark, ...]:
    """Published scores, a little to the right of their env steps and beside each other, in the style of the method."""
    marks = []
    for step in env_steps:
        found = [(column, score) for column in columns if (score := column.score(task, step))]
        for i, (column, score) in enumerate(found):
            methods_before = [other.method for other in columns[: columns.index(column)]]
            method = str(column.method)
            shape, offset = methods_before.count(method), MARK_STEP * end * (i + 1)
            marks.append(Mark(style[method], column.label, step, score.mean, score.std, shape, offset))
    return tuple(marks)


def _levels(benchmark: str, task: str) -> tuple[Line, ...]:
    if benchmark not in {"atari100k", "atari"} or task not in atari_random_and_human():
        return ()
    random, human = atari_random_and_human()[task]
    return Line("human", human, (7, 3)), Line("random policy", random, (1, 3))


def _curves_caption(scores: PlanScores, panels: Sequence[Panel], marked: Sequence[int], published: bool) -> str:
    drawn = [series for panel in panels for series in panel.series]
    parts = ["Thick: the mean over seeds, not smoothed."]
    if any(series.band for series in drawn):
        parts.append(f"Band: one standard deviation over seeds, from {FEWEST} seeds.")
    if any(series.seeds and not series.band for series in drawn):
        parts.append("Thin: each of two seeds.")
    if any(series.partial or series.unfinished for series in drawn):
        parts.append("Dotted: unfinished runs.")
    if marked:
        where = ", ".join(thousands(step) for step in marked[:-1])
        where = " and ".join(filter(None, (where, thousands(marked[-1]))))
        parts.append(
            f"Hollow: published scores at {where}, drawn side by side a little to the right; bar: one standard "
            "deviation over seeds, where it is known."
        )
    elif published:
        parts.append("The runs end before the env steps of the published scores, which are not shown.")
    places = [(task, arm) for task in scores.plan.tasks for arm in scores.plan.arms]
    known = [(task, arm, "; ".join(run_notes(scores.find(task, arm)))) for task, arm in places]
    return " ".join([*parts, *(f"{task}, {arm.label}, {text}." for task, arm, text in known if text)])
