"""A Markdown table that compares scores at a benchmark's budgets with published ones."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from statistics import fmean, stdev

from mcurl.errors import UserError, suggest
from mcurl.published import atari_random_and_human, human_normalised
from mcurl.published.scores import BUDGETS, Score, Source, seeds, sources
from mcurl.report.scores import RunScores, cells, distinct_labels, notes, sort_names


def markdown(runs: Iterable[RunScores], benchmark: str) -> str:
    """Make the table, with one row for each task with a run that reached a budget of the benchmark.

    Columns are own and published scores at each budget that a run has reached. A run that continued beyond a budget
    counts with its score at the budget: that of the first evaluation at or after it, within one agent step. Below the
    table stands what must be known of single scores.

    Args:
        runs: see :func:`mcurl.report.store.read`.
        benchmark: ``"dmc"`` or ``"atari100k"``.

    Raises:
        UserError: there are no published scores of the benchmark, or no run has reached its first budget.
    """
    if benchmark not in BUDGETS:
        raise UserError(f"there are no published scores of {benchmark!r}: {suggest(benchmark, BUDGETS)}")
    groups = {(task, name): group for (other, task, name), group in cells(runs).items() if other == benchmark}
    if not groups:
        raise UserError(f"there are no results of {benchmark}")
    columns = [column for budget in BUDGETS[benchmark] for column in _columns(groups, benchmark, budget)]
    tasks = list(dict.fromkeys(task for column in columns for task in column.own))
    if not tasks:
        raise UserError(f"no run of {benchmark} has reached {BUDGETS[benchmark][0]:,} env steps yet")
    footnotes: dict[str, int] = {}
    rows = [["task", *(column.heading for column in columns)], ["---", *["---:"] * len(columns)]]
    rows += [[task, *(column.cell(task, footnotes) for column in columns)] for task in tasks]
    return "\n\n".join([_rows_as_markdown(rows), *(f"[{number}] {text}" for text, number in footnotes.items())])


class _Column:
    """Own scores of one name, or those of one source, at one budget."""

    def __init__(self, heading: str, benchmark: str, budget: int) -> None:
        self.heading, self.benchmark, self.budget = heading, benchmark, budget
        self.own: dict[str, Sequence[RunScores]] = {}
        """Task -> runs, at least one with a score; empty for a source."""
        self.source: Source | None = None

    def cell(self, task: str, footnotes: dict[str, int]) -> str:
        """Mean and standard deviation over seeds, number of seeds, on Atari the human-normalised mean, footnotes."""
        if self.source is not None:
            return str(self.source.score(task) or "")
        if not (runs := self.own.get(task)):
            return ""
        values = [run.points[step] for run in runs if (step := run.evaluation_at(self.budget)) is not None]
        score = Score(fmean(values), stdev(values) if len(values) > 1 else None)
        normalised = self.benchmark == "atari100k" and task in atari_random_and_human()
        suffix = f", {human_normalised(task, score.mean):.2f}" if normalised else ""
        texts = [f"{task}, {runs[0].label}: {text}" for text in notes(runs)]
        numbers = [footnotes.setdefault(text, len(footnotes) + 1) for text in texts]
        return f"{score} ({seeds(len(values))}{suffix})" + "".join(f" [{number}]" for number in numbers)


def _columns(groups: dict[tuple[str, str], list[RunScores]], benchmark: str, budget: int) -> list[_Column]:
    """The columns of one budget; empty if no run has reached it."""
    at = f", at {budget // 1000}k" if len(BUDGETS[benchmark]) > 1 else ""
    own: dict[str, _Column] = {}
    labels = distinct_labels({name: group[0].label for (_, name), group in groups.items()})
    for name in sort_names({name for _, name in groups}):
        for (task, other), group in groups.items():
            if other == name and any(run.score(budget) is not None for run in group):
                heading = f"{labels[name]}, this package{at}"
                own.setdefault(name, _Column(heading, benchmark, budget)).own[task] = group
    if not own:
        return []
    published = []
    methods = {run.method for column in own.values() for group in column.own.values() for run in group}
    for source in sources(benchmark, budget):
        if source.beside_own and source.method not in methods:
            continue
        column = _Column(f"{source.name}{at}", benchmark, budget)
        column.source = source
        published.append(column)
    return [*own.values(), *published]


def overview(runs: Iterable[RunScores]) -> str:
    """A Markdown table of the last score of each cell, with what must be known of it.

    The score is the mean over the seeds at the last evaluation that they share; an unfinished run does not count beside
    finished ones.
    """
    rows = [
        ["benchmark", "task", "name", "seeds", "env steps", "score", "to know"],
        ["---"] * 3 + ["---:"] * 3 + ["---"],
    ]
    for (benchmark, task, name), group in cells(runs).items():
        counted = [run for run in group if run.finished] or group
        shared = set.intersection(*(set(run.points) for run in counted))
        values = [run.points[max(shared)] for run in counted] if shared else []
        score = Score(fmean(values), stdev(values) if len(values) > 1 else None) if values else ""
        numbers = ", ".join(str(run.seed) for run in counted)
        steps = f"{max(shared):,}" if shared else ""
        rows.append([benchmark, task, name, numbers, steps, str(score), "; ".join(notes(group))])
    return _rows_as_markdown(rows)


def _rows_as_markdown(rows: Iterable[Iterable[str]]) -> str:
    def escape(cell: str) -> str:
        return " ".join(cell.split()).replace("|", "&#124;")

    return "\n".join(f"| {' | '.join(map(escape, row))} |" for row in rows)
