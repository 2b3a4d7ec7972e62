"""Statistics over tasks and the paper's claims, as parts of a report."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import combinations

import numpy as np

from mcurl.published import atari_random_and_human
from mcurl.published.catalogue import PublishedColumn
from mcurl.report import paper
from mcurl.report.claims import Above, Alike, Best, Check, Finding, Median, Superhuman, Wins
from mcurl.report.claims import Verdict as ClaimVerdict
from mcurl.report.model import Block, Cell, CheckedClaim, Claims, Column, Figure, Panel, Series, Table, Verdict, count
from mcurl.report.scores import RunScores
from mcurl.report.statistics import (
    AGGREGATES,
    MIN_SEEDS,
    Array,
    Estimate,
    aggregate,
    estimate,
    human_normalise,
    probability_of_improvement,
    profile,
    score_matrix,
)

VERDICTS: dict[ClaimVerdict, Verdict] = {"holds": "agrees", "differs": "disagrees", "not enough data": "unknown"}
MOST_DMC = 1000.0
"""The highest return of a task of DMControl."""
FEWEST_TASKS = 2
"""With fewer tasks a statistic over tasks says nothing."""
PROFILE_TASKS = 5
"""With fewer tasks a performance profile is a few steps."""
THRESHOLDS = np.linspace(0, 2, 81)
"""Normalised scores at which a performance profile is drawn."""
CAPTION = (
    "Over {tasks}, which every method here has: {names}. 100 % is {unit}. In brackets: 95 % intervals by a "
    "stratified bootstrap over seeds, from {seeds} seeds of each task. Runs that were chosen for their results do "
    "not count. IQM: interquartile mean. The IQM and the optimality gap of published columns are of means over seeds, "
    "not of runs."
)

Own = Mapping[str, Mapping[str, Sequence[float]]]
"""Name of an arm -> task -> scores of its runs."""


def statistics(
    key: str,
    benchmark: str,
    labels: Mapping[str, tuple[str, str]],
    runs: Iterable[RunScores],
    budget: int,
    columns: Sequence[PublishedColumn],
) -> list[Block]:
    """Tables of aggregate scores and of probabilities of improvement, and performance profiles.

    Args:
        key: beginning of the names of their files.
        benchmark: ``"atari100k"`` (scores in percent of a human) or ``"dmc"`` (in percent of 1000).
        labels: name of an arm -> its label and style.
        runs: all runs.
        budget: env steps.
        columns: published columns.

    Returns:
        Nothing where fewer than ``FEWEST_TASKS`` tasks have runs of two arms.
    """
    known = atari_random_and_human() if benchmark == "atari100k" else None
    found = {
        name: {task: scores for task, scores in cells.items() if known is None or task in known}
        for name, cells in paper.final_scores(runs, benchmark, budget).items()
    }
    found = {name: found[name] for name in labels if found.get(name)}
    names, tasks = _compared(found)
    if len(tasks) < FEWEST_TASKS or len(names) < 2:
        return []
    own = {name: _normalise(benchmark, score_matrix(found[name], tasks), tasks) for name in names}
    others = [labels[name][0] for name in found if name not in names]
    matrices = {labels[name][0]: scores for name, scores in own.items()}
    blocks: list[Block] = [
        _aggregates(key, benchmark, matrices, tasks, budget, columns, others),
        _improvements(key, matrices, tasks),
    ]
    if len(tasks) >= PROFILE_TASKS:
        blocks.append(_profiles(key, benchmark, {labels[name]: scores for name, scores in own.items()}))
    return blocks


def claims(
    key: str, benchmark: str, runs: Sequence[RunScores], arms: set[str] | None, tasks: set[str]
) -> Claims | None:
    """What the paper says of a benchmark, what its own numbers say, and what our scores say.

    Args:
        key: name of its file.
        benchmark: the benchmark.
        runs: all runs.
        arms: only claims about these arms; None: all claims about the benchmark.
        tasks: only claims about these tasks, unless ``arms`` is None.
    """
    statements: dict[str, list[paper.Statement]] = {}
    for statement in paper.evaluate(lambda name, budget: paper.final_scores(runs, name, budget)):
        if statement.claim.benchmark == benchmark and (arms is None or _concerns(statement.claim.check, arms, tasks)):
            statements.setdefault(statement.claim.name, []).append(statement)
    if not statements:
        return None
    text = (
        f"A task counts where all methods have {MIN_SEEDS} seeds. Runs that were chosen for their results do not count."
    )
    if benchmark == "atari100k":
        text += " In Table 1, CURL's column holds maxima over evaluations (from CURL's paper)."
    return Claims(f"{key}-claims", "The paper's claims", tuple(map(_claim, statements.values())), text)


def _claim(statements: list[paper.Statement]) -> CheckedClaim:
    claim = statements[0].claim
    published = next(statement.finding for statement in statements if statement.basis != paper.OURS)
    ours = [statement.finding for statement in statements if statement.basis == paper.OURS]
    finding = ours[0] if ours else Finding("not enough data", "not a method of this package")
    return CheckedClaim(
        f"{claim.name[0].upper()}{claim.name[1:]}: {claim.said}",
        claim.words,
        claim.place,
        _found(published),
        VERDICTS[published.verdict],
        _found(finding),
        VERDICTS[finding.verdict],
    )


def _found(finding: Finding) -> str:
    return f"{finding.found}; {finding.details}" if finding.details else finding.found


def _concerns(check: Check, arms: set[str], tasks: set[str]) -> bool:
    """Whether a suite has the methods and tasks of a claim."""
    if isinstance(check, Above | Alike):
        return {name for pair in check.pairs for name in pair} <= arms and set(check.tasks) <= tasks
    if isinstance(check, Wins):
        return {check.method, check.baseline} <= arms and set(check.tasks) <= tasks
    if isinstance(check, Best | Superhuman | Median):
        games = check.tasks if isinstance(check, Best) else check.games
        return "mcurl" in arms and set(games) <= tasks
    return False


def _compared(found: Own) -> tuple[list[str], list[str]]:
    """The arms that are compared, and their common tasks, sorted.

    An arm with few tasks must not decide on how many tasks the others are compared. So arms are left out, one at a
    time, as long as this leaves more cells, arms times common tasks. The first arm stays.
    """
    arms = [name for name in found if len(found[name]) >= FEWEST_TASKS]
    while len(arms) > 2:
        fewer = [[name for name in arms if name != other] for other in arms[1:]]
        best = max(fewer, key=lambda names: len(_common(found, names)))
        if len(best) * len(_common(found, best)) <= len(arms) * len(_common(found, arms)):
            break
        arms = best
    tasks = _common(found, arms)
    if len(arms) > 1 and len(tasks) < FEWEST_TASKS:  # the first arm has no tasks in common with the others
        return _compared({name: found[name] for name in found if name != arms[0]})
    return arms, sorted(tasks)


def _common(found: Own, names: Sequence[str]) -> set[str]:
    return set.intersection(*(set(found[name]) for name in names)) if names else set()


def _normalise(benchmark: str, scores: Array, tasks: Sequence[str]) -> Array:
    return human_normalise(scores, tasks) if benchmark == "atari100k" else scores / MOST_DMC


def _aggregates(
    key: str,
    benchmark: str,
    own: Mapping[str, Array],
    tasks: Sequence[str],
    budget: int,
    columns: Sequence[PublishedColumn],
    others: Sequence[str],
) -> Table:
    head = (
        Column("method", "Method", numeric=False),
        Column("basis", "Source", numeric=False),
        Column("tasks", "Tasks"),
        Column("seeds", "Seeds of a task", numeric=False),
        *(Column(name.replace(" ", "_"), f"{name[0].upper()}{name[1:]}, %") for name in AGGREGATES),
    )
    rows = [_aggregate_row(label, "this package", scores, True) for label, scores in own.items()]
    games = list(atari_random_and_human()) if benchmark == "atari100k" else []
    for subset in (tasks, games) if games and len(games) != len(tasks) else (tasks,):
        for column in columns:
            values = [score.mean for task in subset if (score := column.score(task, budget))]
            if len(values) == len(subset) and column.name not in {"random", "human"}:
                scores = _normalise(benchmark, np.array([values]), subset)
                rows.append(_aggregate_row(column.method_label, column.source, scores, False, column.note))
    caption = CAPTION.format(
        tasks=count(len(tasks), "task"),
        names=", ".join(tasks),
        unit="a human, 0 % a random policy" if benchmark == "atari100k" else "a return of 1000",
        seeds=MIN_SEEDS,
    )
    if others:
        caption += f" Left out, because they lack some of these tasks: {', '.join(others)}."
    return Table(f"{key}-aggregates", f"Aggregate scores after {budget // 1000}k", head, tuple(rows), caption=caption)


def _aggregate_row(label: str, source: str, scores: Array, runs: bool, note: str = "") -> tuple[Cell, ...]:
    result = aggregate(scores)
    few, most = result.fewest_runs, result.most_runs
    seeds = "" if not runs else str(few) if few == most else f"{few} to {most}"
    cells = (_percent(estimate) for estimate in result.estimates.values())
    return (Cell(label, note=note), Cell(source), Cell(value=result.tasks), Cell(seeds), *cells)


def _improvements(key: str, own: Mapping[str, Array], tasks: Sequence[str]) -> Table:
    head = (
        Column("first", "Method", numeric=False),
        Column("second", "Than", numeric=False),
        Column("probability", "Probability, %"),
    )
    rows = tuple(
        (Cell(first), Cell(second), _percent(estimate(probability_of_improvement, own[first], own[second])))
        for first, second in combinations(own, 2)
    )
    text = f"That a run of one method is better than a run of another, on the mean of {count(len(tasks), 'task')}."
    return Table(f"{key}-improvement", "Probability of improvement", head, rows, caption=text)


def _profiles(key: str, benchmark: str, own: Mapping[tuple[str, str], Array]) -> Figure:
    series = []
    for (label, style), scores in own.items():
        values, bounds = profile(scores, THRESHOLDS)
        xs = 100 * THRESHOLDS
        band = () if bounds is None else tuple(zip(xs.tolist(), bounds.low.tolist(), bounds.high.tolist(), strict=True))
        series.append(Series(style, label, tuple(zip(xs.tolist(), values.tolist(), strict=True)), band))
    unit = "a human" if benchmark == "atari100k" else "1000"
    return Figure(
        f"{key}-profiles",
        "Performance profiles",
        (Panel("", tuple(series)),),
        f"score, percent of {unit}",
        "share of runs above it",
        "The share of runs with a score above each threshold, over all tasks. Band: 95 % interval.",
        (0.0, 200.0 if benchmark == "atari100k" else 100.0),
        (0.0, 1.0),
        kilo=False,
    )


def _percent(result: Estimate) -> Cell:
    interval = None if result.interval is None else (100 * result.interval[0], 100 * result.interval[1])
    return Cell(value=100 * result.value, interval=interval, digits=1)
