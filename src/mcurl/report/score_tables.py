"""Tables of a report: scores, scores in percent of a human, and how each run was made."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from statistics import fmean, median, stdev
from typing import Any

from mcurl.published import atari_random_and_human, human_normalised
from mcurl.published.catalogue import PublishedColumn
from mcurl.published.scores import Score
from mcurl.report.model import Cell, Column, Table, count
from mcurl.report.plan import FEWEST, PlanScores, ShownArm, thousands
from mcurl.report.scores import RunScores, cells, notes


def score_table(scores: PlanScores, columns: Sequence[PublishedColumn], budget: int) -> Table:
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
        "Mean over seeds, ± the standard deviation over seeds. An en dash: no run of this length. The best of our "
        f"methods is in bold where all of a row have at least {FEWEST} seeds."
    )
    steps_text = thousands(budget)
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


def provenance_table(runs: Iterable[RunScores]) -> Table:
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
    return Table("runs", f"All {count(len(rows), 'run')}", head, rows, caption=text)


def _provenance_row(run: RunScores) -> tuple[Cell, ...]:
    known: dict[str, Any] = run.provenance
    hours = known.get("hours_per_100k_env_steps")
    texts = [run.note, "" if run.finished else f"unfinished, of {run.budget:,} env steps"]
    texts.append("uncommitted changes" if known.get("dirty") else "")
    texts += [_later_evaluation(run, values) for values in known.get("evaluated") or ()]
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


def _later_evaluation(run: RunScores, values: Mapping[str, Any]) -> str:
    """What an evaluation after training found, in words."""
    seed = "" if values["seed"] == run.seed else f" of seed {values['seed']}"
    where = f" at {values['env_steps']:,} env steps" if values["env_steps"] != run.env_steps else ""
    mean = f"{values['mean']:.{_digits(values['mean'])}f}"
    return f"mcurl evaluate: {mean} over {count(values['episodes'], 'episode')}{seed}{where}"


def _own_cell(scores: PlanScores, task: str, arm: ShownArm, budget: int) -> Cell:
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


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]


def _digits(value: float) -> int:
    return 1 if abs(value) < 100 else 0
