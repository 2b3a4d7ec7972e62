"""Scores as one long table, for other tools: a row for each episode, as CSV or Parquet."""

from __future__ import annotations

import csv
import math
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any, NamedTuple, get_type_hints

from mcurl.errors import UserError, suggest

FORMATS = (".csv", ".parquet")


class Row(NamedTuple):
    """One episode of an evaluation. The columns of the table are the fields, in this order."""

    suite: str
    """The benchmark: dmc, atari100k, ..."""
    task: str
    """The task without its suite."""
    method: str
    """Name of the method with its settings, as in the results."""
    seed: int
    env_steps: int
    """Simulator steps before the evaluation, action repeat included."""
    episode: int | None
    """Index of the episode, from 0; None where only the mean of the evaluation is known."""
    return_: float
    """Sum of rewards: of the episode, or the mean over the evaluation's episodes where ``episode`` is None."""


COLUMNS = tuple(field.rstrip("_") for field in Row._fields)


def episode_rows(
    suite: str, task: str, method: str, seed: int, evaluations: Mapping[int, Sequence[float]]
) -> Iterator[Row]:
    """The rows of one run. ``evaluations``: env steps -> returns of the episodes."""
    for env_steps, returns in sorted(evaluations.items()):
        for episode, value in enumerate(returns):
            yield Row(suite, task, method, seed, env_steps, episode, value)


def mean_rows(suite: str, task: str, method: str, seed: int, means: Mapping[int, float]) -> Iterator[Row]:
    """The rows of one run of which only means are known. ``means``: env steps -> mean return."""
    for env_steps, value in sorted(means.items()):
        yield Row(suite, task, method, seed, env_steps, None, value)


def write_table(rows: Iterable[Row], path: Path) -> int:
    """Write a table to a new file. The name's ending chooses the format.

    CSV: UTF-8, an empty cell for a missing episode, floats with all their digits. Parquet: strings, int64, and float64;
    null for a missing episode.

    Returns:
        The number of rows.

    Raises:
        UserError: unknown ending, no rows, a file of this name exists, or pyarrow is not installed.
    """
    check_target(path)
    table = sorted(rows, key=lambda row: (*row[:5], -1 if row.episode is None else row.episode))
    if not table:
        raise UserError("there are no scores to write")
    path.parent.mkdir(parents=True, exist_ok=True)
    (_write_csv if path.suffix == ".csv" else _write_parquet)(table, path)
    return len(table)


def check_target(path: Path) -> None:
    """Raise UserError if a table cannot be written to ``path``: see :func:`write_table`."""
    if path.suffix not in FORMATS:
        raise UserError(f"{path}: expected a name that ends in .csv or .parquet: {suggest(path.suffix, FORMATS)}")
    if path.exists():
        raise UserError(f"{path} exists already: choose another name, or remove it first")
    if path.suffix == ".parquet":
        _pyarrow()


def read_table(path: Path) -> list[Row]:
    """Read a table that :func:`write_table` made.

    Raises:
        UserError: the file cannot be read, or is not such a table.
    """
    if path.suffix not in FORMATS:
        raise UserError(f"{path}: expected a name that ends in .csv or .parquet: {suggest(path.suffix, FORMATS)}")
    try:
        return list(_read_csv(path) if path.suffix == ".csv" else _read_parquet(path))
    except (OSError, ValueError, TypeError, KeyError, csv.Error) as error:
        raise UserError(f"{path} is not a table of scores: {type(error).__name__} {error}") from error


def final_scores(rows: Iterable[Row], env_steps: int) -> dict[str, dict[str, list[float]]]:
    """Scores at a budget: method -> task -> the score of each seed, in the order of seeds.

    The score of a run is the mean return of its evaluation at ``env_steps``.

    Raises:
        UserError: the rows are of several suites.
    """
    returns: dict[tuple[str, str, int], list[float]] = defaultdict(list)
    suites = set()
    for row in rows:
        if row.env_steps == env_steps:
            suites.add(row.suite)
            returns[row.method, row.task, row.seed].append(row.return_)
    if len(suites) > 1:
        raise UserError(f"scores of several suites cannot be compared: {', '.join(sorted(suites))}")
    scores: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    for (method, task, _), values in sorted(returns.items()):
        scores[method][task].append(fmean(values))
    return {method: dict(tasks) for method, tasks in scores.items()}


def _write_csv(table: Sequence[Row], path: Path) -> None:
    with path.open("x", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(COLUMNS)
        writer.writerows((*row[:-1], repr(float(row.return_))) for row in table)


def _read_csv(path: Path) -> Iterator[Row]:
    with path.open(newline="", encoding="utf-8") as file:
        reader = csv.reader(file)
        if tuple(header := next(reader, [])) != COLUMNS:
            raise ValueError(f"its columns are {', '.join(header)}, not {', '.join(COLUMNS)}")
        for suite, task, method, seed, env_steps, episode, value in reader:
            yield _row(suite, task, method, int(seed), int(env_steps), int(episode) if episode else None, float(value))


def _row(*cells: Any) -> Row:
    row = Row(*cells)
    if not math.isfinite(row.return_):
        raise ValueError(f"expected a finite return, not {row.return_}")
    return row


def _pyarrow() -> Any:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError:
        raise UserError("Parquet needs pyarrow: pip install 'mcurl[parquet]', or choose a name in .csv") from None
    return pyarrow


def _schema(pa: Any) -> Any:
    types = {str: pa.string(), int: pa.int64(), int | None: pa.int64(), float: pa.float64()}
    return pa.schema(list(zip(COLUMNS, (types[hint] for hint in get_type_hints(Row).values()), strict=True)))


def _write_parquet(table: Sequence[Row], path: Path) -> None:
    pa = _pyarrow()
    columns = [list(column) for column in zip(*table, strict=True)]
    with path.open("xb") as file:
        pa.parquet.write_table(pa.table(columns, schema=_schema(pa)), file, compression="zstd")


def _read_parquet(path: Path) -> Iterator[Row]:
    pa = _pyarrow()
    table = pa.parquet.read_table(path)
    if not table.schema.equals(_schema(pa)):
        raise ValueError(f"its columns are {', '.join(map(str, table.schema))}, not {', '.join(map(str, _schema(pa)))}")
    for cells in zip(*(column.to_pylist() for column in table.columns), strict=True):
        yield _row(*cells)
