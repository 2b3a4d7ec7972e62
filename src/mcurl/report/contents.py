"""What a report contains: tables, figures, claims and provenance, from scores and published columns."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from statistics import fmean, median, stdev
from typing import Any, Protocol

from mcurl.errors import UserError
from mcurl.published import atari_random_and_human, human_normalised
from mcurl.published.catalogue import Column as PublishedColumn
from mcurl.published.catalogue import choose
from mcurl.published.scores import BUDGETS, Score
from mcurl.report import summary
from mcurl.report.model import (
    Block,
    Cell,
    Column,
    Figure,
    Line,
    Mark,
    Panel,
    Points,
    Report,
    Section,
    Series,
    Table,
    count,
)
from mcurl.report.palette import STYLES, steps, styles
from mcurl.report.scores import RunScores, benchmark_of, cells, notes, sort_names
from mcurl.run.names import run_name

TITLES = {"atari100k": "Atari 100k", "dmc": "DMControl", "atari": "Atari"}
"""Benchmark -> its name for people."""
SCORES = {
    "atari100k": "The score is the mean of 100 full games with the final weights, after 400k frames.",
    "dmc": "The score is the mean return of the first evaluation at or after the budget, within one agent step.",
}
FEWEST = 3
"""The fewest seeds with which a mean has a band, and with which the best of a row is set in bold."""
LARGEST = 1e12
"""Scores beyond it are no scores."""
MARK_STEP = 0.022
"""Distance between published marks at one budget, as a part of the axis."""


@dataclass(frozen=True)
class Arm:
    """What is compared: the runs of one name."""

    name: str
    label: str
    method: str
    """As ``RunScores.method``."""


@dataclass(frozen=True)
class Plan:
    """A comparison: a suite, as far as it belongs to one benchmark, or all runs of a benchmark."""

    key: str
    """Name of files and anchors."""
    title: str
    benchmark: str
    arms: tuple[Arm, ...]
    tasks: tuple[str, ...]
    """Tasks without their suite."""
    budgets: tuple[int, ...]
    """Env steps at which scores are compared."""
    expected: int | None = None
    """Number of seeds of each arm and task that the suite asks for; None: no suite."""
    source: str = ""
    """Where the suite comes from."""


@dataclass(frozen=True)
class Scores:
    """The runs of a plan, found by task and arm."""

    plan: Plan
    all_runs: tuple[RunScores, ...]

    @cached_property
    def _cells(self) -> dict[tuple[str, str], list[RunScores]]:
        tasks, names = set(self.plan.tasks), {arm.name for arm in self.plan.arms}
        return {
            (task, name): group
            for (benchmark, task, name), group in cells(self.all_runs).items()
            if benchmark == self.plan.benchmark and task in tasks and name in names
        }

    @property
    def runs(self) -> list[RunScores]:
        """The runs of the plan."""
        return [run for group in self._cells.values() for run in group]

    def find(self, task: str, arm: Arm) -> list[RunScores]:
        """The runs of a task and an arm, by seed."""
        return self._cells.get((task, arm.name), [])

    def scored(self, task: str, arm: Arm, env_steps: int) -> list[RunScores]:
        """Those that have a score at a budget."""
        return [run for run in self.find(task, arm) if run.score(env_steps) is not None]

    def scores(self, task: str, arm: Arm, env_steps: int) -> list[float]:
        """One score for each of these."""
        return [score for run in self.find(task, arm) if (score := run.score(env_steps)) is not None]

    def has(self, task: str) -> bool:
        """Whether a task has a run."""
        return any(self.find(task, arm) for arm in self.plan.arms)


class SuiteArm(Protocol):
    """An arm of a suite, as ``mcurl.suites`` has it."""

    @property
    def name(self) -> str: ...
    @property
    def label(self) -> str: ...
    @property
    def method(self) -> str: ...
    @property
    def agent(self) -> str | None: ...


class SuiteLike(Protocol):
    """A suite, as ``mcurl.suites`` has it."""

    @property
    def name(self) -> str: ...
    @property
    def title(self) -> str: ...
    @property
    def source(self) -> str: ...
    @property
    def arms(self) -> Sequence[SuiteArm]: ...
    @property
    def tasks(self) -> Sequence[str]: ...
    @property
    def seeds(self) -> Sequence[int]: ...
    @property
    def env_steps(self) -> int | None: ...
    @property
    def score_at(self) -> Sequence[int]: ...


def plans_of_suite(suite: SuiteLike) -> list[Plan]:
    """The comparisons of a suite: one for each benchmark that its tasks belong to."""
    tasks: dict[str, list[str]] = {}
    for task in suite.tasks:
        benchmark = benchmark_of({"task": task, "env_steps": suite.env_steps})
        tasks.setdefault(benchmark, []).append(task.partition("/")[2])
    arms = tuple(Arm(arm.name, arm.label, run_name({"agent": arm.agent, "method": arm.method})) for arm in suite.arms)
    several = len(tasks) > 1
    return [
        Plan(
            _slug(f"{suite.name}-{benchmark}" if several else suite.name),
            f"{suite.title} ({TITLES.get(benchmark, benchmark)})" if several else suite.title,
            benchmark,
            arms,
            tuple(names),
            tuple(suite.score_at) or ((suite.env_steps,) if suite.env_steps else BUDGETS.get(benchmark, ())),
            len(suite.seeds),
            suite.source,
        )
        for benchmark, names in tasks.items()
    ]


def plans_of_runs(runs: Iterable[RunScores]) -> list[Plan]:
    """One comparison for each benchmark that has runs."""
    runs = list(runs)
    return [plan_of_benchmark(benchmark, runs) for benchmark in sorted({run.benchmark for run in runs})]


def plan_of_benchmark(benchmark: str, runs: Iterable[RunScores]) -> Plan:
    """All runs of a benchmark. Atari 100k has all its 26 games; other benchmarks have the tasks that were run."""
    runs = [run for run in runs if run.benchmark == benchmark]
    first = {run.name: run for run in reversed(runs)}
    tasks = sorted({run.task for run in runs})
    last = max((run.env_steps for run in runs), default=0)
    budgets = tuple(budget for budget in BUDGETS.get(benchmark, ()) if budget <= last) or (last,)
    if benchmark == "atari100k":
        games = list(atari_random_and_human())
        tasks, budgets = [*games, *(task for task in tasks if task not in games)], BUDGETS[benchmark]
    arms = tuple(Arm(name, first[name].label, first[name].method) for name in sort_names(first))
    return Plan(_slug(benchmark), TITLES.get(benchmark, benchmark), benchmark, arms, tuple(tasks), budgets)


def report(
    runs: Sequence[RunScores],
    suites: Sequence[SuiteLike] = (),
    published: Sequence[str] | None = None,
    command: str = "",
) -> Report:
    """The report over some runs.

    Args:
        runs: see :func:`mcurl.report.store.read`.
        suites: a section for each; none: a section for each benchmark that has runs.
        published: names of published columns; None: the default ones.
        command: the command that makes the report.

    Raises:
        UserError: there is no published column of a name, no run belongs to the suites, or a score is not a number.
    """
    check_numbers(runs)
    plans = [plan for suite in suites for plan in plans_of_suite(suite)] or plans_of_runs(runs)
    used = {id(run): run for plan in plans for run in Scores(plan, tuple(runs)).runs}
    if not used:
        raise UserError(f"no run belongs to {' or '.join(suite.name for suite in suites)}: see `mcurl suite show`")
    shown = [run for run in runs if id(run) in used]
    sections = [section(plan, shown, published) for plan in plans]
    title = suites[0].title if len(suites) == 1 else "M-CURL: scores"
    return Report(title, _summary(shown), (*sections, provenance(shown)), command)


def check_numbers(runs: Iterable[RunScores]) -> None:
    """Raise UserError if a score or its env steps cannot be drawn: not a number, or beyond ``LARGEST``."""
    for run in runs:
        for step, value in run.points.items():
            if not (abs(step) <= LARGEST and abs(value) <= LARGEST):
                raise UserError(f"{run}: the score at {step} env steps is {value}, which is no score ({run.source})")


def _summary(runs: Sequence[RunScores]) -> tuple[str, ...]:
    groups = cells(runs)
    tasks = {(benchmark, task) for benchmark, task, _ in groups}
    text = f"{count(len(runs), 'run')} of {count(len(tasks), 'task')}, beside published scores."
    if unfinished := sum(not run.finished for run in runs):
        text += f" {unfinished} of them {'is' if unfinished == 1 else 'are'} unfinished."
    most = max(len(group) for group in groups.values())
    if most >= FEWEST:
        return (text,)
    few = f"No method has more than {count(most, 'seed')} on a task: nothing here says which method is better."
    return text, few


def section(plan: Plan, runs: Iterable[RunScores], published: Sequence[str] | None = None) -> Section:
    """The section of a plan: tables of scores, and learning curves.

    Args:
        plan: what is compared.
        runs: all runs; others than the plan's are left out.
        published: names of ``published.catalogue``; None: the default columns.

    Raises:
        UserError: there is no published column of a name.
    """
    scores = Scores(plan, tuple(runs))
    columns = choose(plan.benchmark, published, {arm.method for arm in plan.arms})
    blocks: list[Block] = []
    for budget in plan.budgets:
        table = score_table(scores, columns, budget)
        blocks += [table, normalised_table(table)] if plan.benchmark == "atari100k" else [table]
    blocks.append(curves(scores, columns))
    if plan.benchmark in BUDGETS:
        style = arm_styles(plan.arms)
        labels = {arm.name: (arm.label, style[arm.name]) for arm in plan.arms}
        for budget in plan.budgets:
            key = f"{plan.key}-{_thousands(budget)}"
            blocks += summary.statistics(key, plan.benchmark, labels, scores.runs, budget, columns)
        arms = None if plan.expected is None else set(labels)
        claims = summary.claims(plan.key, plan.benchmark, scores.runs, arms, set(plan.tasks))
        blocks += [claims] if claims else []
    return Section(plan.key, plan.title, _introduction(scores), tuple(blocks))


def score_table(scores: Scores, columns: Sequence[PublishedColumn], budget: int) -> Table:
    """Scores at a budget: one row for each task; our columns, then the published ones."""
    plan = scores.plan
    atari = plan.benchmark == "atari100k"
    columns = [column for column in columns if any(column.score(task, budget) for task in plan.tasks)]
    reference = [column for column in columns if column.name in {"random", "human"}]
    others = [column for column in columns if column not in reference]
    head = [
        Column("task", "Game" if atari else "Task", numeric=False),
        *(Column(arm.name, arm.label, "This package") for arm in plan.arms),
        *(
            Column(f"published_{column.name}", column.method_label, _capital(column.source), column.note)
            for column in others
        ),
        *(Column(f"reference_{column.name}", column.label, "Reference", column.note) for column in reference),
    ]
    rows = []
    for task in plan.tasks:
        own = _mark_best([_own_cell(scores, task, arm, budget) for arm in plan.arms])
        beside = (_published_cell(column.score(task, budget)) for column in (*others, *reference))
        rows.append((Cell(task), *own, *beside))
    caption = (
        "Mean over seeds, ± the standard deviation over seeds. An en dash: no run. The best of our methods is in bold "
        f"where all of a row have at least {FEWEST} seeds."
    )
    steps_text = _thousands(budget)
    title = f"{plan.title}: scores after {steps_text} {'frames' if atari else 'env steps'}"
    if atari and plan.tasks == tuple(atari_random_and_human()):
        title = f"Table 1: {len(plan.tasks)} Atari games after {steps_text} frames"
    return Table(f"{plan.key}-scores-{steps_text}", title, tuple(head), tuple(rows), (), caption)


def normalised_table(table: Table) -> Table:
    """A table of Atari scores in percent of a human: 0 is a random policy. Median and mean stand below."""

    def normalise(game: str, cell: Cell) -> Cell:
        if cell.value is None:
            return cell
        low, high = atari_random_and_human()[game]
        std = None if cell.std is None else 100 * cell.std / (high - low)
        value = 100 * human_normalised(game, cell.value)
        return replace(cell, value=value, std=std, digits=1)

    kept = [i for i, column in enumerate(table.columns) if not column.key.startswith("reference_")]
    rows = tuple(
        (row[0], *(normalise(row[0].text, row[i]) for i in kept[1:]))
        for row in table.rows
        if row[0].text in atari_random_and_human()
    )

    def summary(label: str, of: Callable[[list[float]], float]) -> tuple[Cell, ...]:
        columns = [[row[i].value for row in rows] for i in range(1, len(kept))]
        numbers = [[value for value in column if value is not None] for column in columns]
        cells = (
            Cell(value=of(values), digits=1) if len(values) == len(rows) else Cell(missing=True) for values in numbers
        )
        return (Cell(label), *cells)

    return Table(
        f"{table.key}-human",
        f"{table.title}, in percent of a human",
        tuple(table.columns[i] for i in kept),
        rows,
        (summary("Median", median), summary("Mean", fmean)),
        "0 is a random policy, 100 a human. Median and mean are of columns that have all games.",
    )


def curves(scores: Scores, columns: Sequence[PublishedColumn]) -> Figure:
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
    budgets = [budget for budget in BUDGETS.get(plan.benchmark, ()) if budget <= end * 1.02]
    marks = {task: _marks(task, budgets, compared, end) for task in tasks}
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
    right = max([end, *(mark.x for group in marks.values() for mark in group)])
    return Figure(
        f"{plan.key}-curves",
        f"{plan.title}: learning curves",
        panels,
        "frames" if plan.benchmark == "atari100k" else "env steps (action repeat included)",
        "mean return of an evaluation",
        _curves_caption(scores, budgets, bool(compared)),
        (0.0, right * 1.03),
    )


def task_figure(runs: Iterable[RunScores], benchmark: str, task: str) -> Figure:
    """The learning curves of one task, as a figure of its own.

    Raises:
        UserError: there are no runs of the task.
    """
    group = [run for run in runs if (run.benchmark, run.task) == (benchmark, task)]
    check_numbers(group)
    if not group:
        raise UserError(f"there are no results of {benchmark}/{task}")
    plan = replace(plan_of_benchmark(benchmark, group), tasks=(task,))
    scores = Scores(plan, tuple(group))
    figure = curves(scores, choose(benchmark, None, {arm.method for arm in plan.arms}))
    known = [f"{arm.label}: {text}." for arm in plan.arms for text in notes(scores.find(task, arm))]
    return replace(
        figure,
        key=_slug(f"{benchmark}-{task}"),
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


def provenance(runs: Iterable[RunScores]) -> Section:
    """How each run was made."""
    head = (
        Column("run", "Run", numeric=False),
        Column("seed", "Seed"),
        Column("env_steps", "Env steps"),
        Column("hours_per_100k", "Hours per 100k"),
        Column("commit", "Commit", numeric=False),
        Column("simulator", "Simulator", numeric=False),
        Column("torch", "PyTorch", numeric=False),
        Column("machine", "Machine", numeric=False),
        Column("note", "To know", numeric=False),
    )
    rows = tuple(_provenance_row(run) for group in cells(runs).values() for run in group)
    text = "Hours are wall-clock time with evaluations and checkpoints, and with pauses, if there were any."
    table = Table("runs", f"All {count(len(rows), 'run')}", head, rows, caption=text)
    return Section("provenance", "How each score was made", (), (table,))


def _provenance_row(run: RunScores) -> tuple[Cell, ...]:
    known: dict[str, Any] = run.provenance
    hours = known.get("hours_per_100k_env_steps")
    texts = [run.note, "" if run.finished else f"unfinished, of {run.budget:,} env steps"]
    texts.append("uncommitted changes" if known.get("dirty") else "")
    return (
        Cell(f"{run.benchmark}/{run.task} {run.name}"),
        Cell(value=run.seed),
        Cell(value=run.env_steps),
        Cell(value=float(hours), digits=2) if isinstance(hours, int | float) else Cell(),
        Cell(str(known.get("commit") or "")[:7]),
        Cell(run.simulator),
        Cell(str(known.get("torch") or "")),
        Cell(str(known.get("gpu") or known.get("cpu") or "")),
        Cell("; ".join(filter(None, texts))),
    )


def arm_styles(arms: Sequence[Arm]) -> dict[str, str]:
    """Name of an arm -> its style: a scale for the arms of a sweep, and the method's colour wherever it is free."""
    by_method: dict[str, list[str]] = {}
    for arm in arms:
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


def _own_cell(scores: Scores, task: str, arm: Arm, budget: int) -> Cell:
    values = scores.scores(task, arm, budget)
    if not values:
        return Cell(missing=True)
    mean = fmean(values)
    return Cell(
        value=mean,
        std=stdev(values) if len(values) > 1 else None,
        seeds=len(values),
        expected=scores.plan.expected,
        digits=_digits(mean),
        note="; ".join(notes(scores.scored(task, arm, budget))),
    )


def _published_cell(score: Score | None) -> Cell:
    if score is None:
        return Cell()
    return Cell(value=score.mean, std=score.std, seeds=score.seeds, digits=_digits(score.mean))


def _mark_best(cells: list[Cell]) -> list[Cell]:
    """The cells, the highest in bold, if there are several and all have enough seeds."""
    if len(cells) < 2 or any((cell.seeds or 0) < FEWEST for cell in cells):
        return cells
    best = max(cell.value or 0.0 for cell in cells)
    return [replace(cell, strong=cell.value == best) for cell in cells]


def _series(scores: Scores, task: str, arm: Arm, style: str) -> Series | None:
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


def _marks(task: str, budgets: Sequence[int], columns: Sequence[PublishedColumn], end: int) -> tuple[Mark, ...]:
    """Published scores, a little to the right of their budgets and beside each other."""
    marks = []
    for budget in budgets:
        found = [(column, score) for column in columns if (score := column.score(task, budget))]
        for i, (column, score) in enumerate(found):
            methods_before = [other.method for other in columns[: columns.index(column)]]
            method = str(column.method)
            x = budget + MARK_STEP * end * (i + 1)
            marks.append(Mark(method, column.label, x, score.mean, score.std, methods_before.count(method)))
    return tuple(marks)


def _levels(benchmark: str, task: str) -> tuple[Line, ...]:
    if benchmark not in {"atari100k", "atari"} or task not in atari_random_and_human():
        return ()
    random, human = atari_random_and_human()[task]
    return Line("human", human, (7, 3)), Line("random policy", random, (1, 3))


def _introduction(scores: Scores) -> tuple[str, ...]:
    plan = scores.plan
    lines = [SCORES[plan.benchmark]] if plan.benchmark in SCORES else []
    if plan.source:
        lines.insert(0, f"{plan.source}.")
    if plan.expected is not None:
        asked = len(plan.tasks) * len(plan.arms) * plan.expected
        places = [(task, arm) for task in plan.tasks for arm in plan.arms]
        done = sum(min(len(scores.scores(task, arm, plan.budgets[-1])), plan.expected) for task, arm in places)
        lines.append(f"{done} of {count(asked, 'run')} are there.")
    return tuple(lines)


def _curves_caption(scores: Scores, budgets: Sequence[int], marks: bool) -> str:
    seeds = {len(scores.find(task, arm)) for task in scores.plan.tasks for arm in scores.plan.arms}
    parts = ["Thick: the mean over seeds, not smoothed."]
    if max(seeds, default=0) >= FEWEST:
        parts.append(f"Band: one standard deviation over seeds, from {FEWEST} seeds.")
    if 2 in seeds:
        parts.append("Thin: each of two seeds.")
    if any(not run.finished for run in scores.runs):
        parts.append("Dotted: unfinished runs.")
    if marks and budgets:
        where = " and ".join(_thousands(budget) for budget in budgets)
        parts.append(
            f"Hollow: published scores at {where}, drawn beside each other to the right of it; bar: one standard "
            "deviation over seeds, where it is known."
        )
    elif marks:
        parts.append("The runs end before the env steps of the published scores, which are not shown.")
    return " ".join(parts)


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]


def _digits(value: float) -> int:
    return 1 if abs(value) < 100 else 0


def _thousands(value: int) -> str:
    return f"{value / 1000:g}k" if value >= 1000 else str(value)


def _slug(text: str) -> str:
    """A text as a name of a file or an anchor."""
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-") or "part"
