"""Scores as one long table, for other tools: a row for each episode, as CSV or Parquet."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, get_type_hints

from mcurl import files
from mcurl.errors import UserError, suggest

if TYPE_CHECKING:
    from mcurl.report.scores import RunScores

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


def rows(runs: Iterable[RunScores]) -> Iterator[Row]:
    """The rows of runs. An evaluation of which only the mean is known has one row."""
    for run in runs:
        for env_steps, returns in run.episodes.items():
            for episode, value in enumerate(returns):
                known = None if env_steps in run.averaged else episode
                yield Row(run.benchmark, run.task, run.name, run.seed, env_steps, known, value)


def write_table(table: Iterable[Row], path: Path) -> int:
    """Write a table to a new file. The name's ending chooses the format.

    CSV: UTF-8, an empty cell for a missing episode, floats with all their digits. Parquet: strings, int64, and float64;
    null for a missing episode.

    Returns:
        The number of rows.

    Raises:
        UserError: unknown ending, no rows, a file of this name exists, or pyarrow is not installed.
    """
    check_target(path)
    ordered = sorted(table, key=lambda row: (*row[:5], -1 if row.episode is None else row.episode))
    if not ordered:
        raise UserError("there are no scores to write")
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        with files.new_file(path) as aside:
            (_write_csv if path.suffix == ".csv" else _write_parquet)(ordered, aside)
    except FileExistsError:
        raise UserError(f"{path} exists already: choose another name, or remove it first") from None
    return len(ordered)


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


def _write_csv(table: Sequence[Row], path: Path) -> None:
    with path.open("x", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(COLUMNS)
        writer.writerows((*row[:-1], repr(float(row.return_))) for row in table)


def _read_csv(path: Path) -> Iterator[Row]:
    reader = csv.reader(io.StringIO(files.read_text(path, follow=True), newline=""))
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
