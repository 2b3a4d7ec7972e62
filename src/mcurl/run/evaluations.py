"""The file ``evaluations.csv`` of a run: ``env_steps,episode,return``, a row for each episode of each evaluation."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

from mcurl import files
from mcurl.errors import UserError

NAME = "evaluations.csv"
HEADER = "env_steps,episode,return"
_NUMBER = re.compile(r"[-+]?(\d+(\.\d*)?|\.\d+)(e[-+]?\d+)?|[-+]?(nan|inf)", re.ASCII | re.IGNORECASE)


def read_evaluations(folder: Path) -> dict[int, list[float]]:
    """Env steps -> returns of the episodes, of the complete lines; empty if a run folder has no such file.

    Raises:
        UserError: the file is damaged, no plain file, or too large.
    """
    path = folder / NAME
    try:
        lines = files.whole_lines(path)
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}") from error
    if lines and lines[0] != HEADER:
        raise UserError(f"{path} is damaged: its first line is {lines[0][:80]!r}, not {HEADER}")
    return parse_rows(lines[1:], path)


def parse_rows(lines: Iterable[str], path: Path) -> dict[int, list[float]]:
    """Env steps -> returns of the lines below the header; ``path`` stands in messages. Raises UserError for others."""
    evaluations: dict[int, list[float]] = {}
    for number, line in enumerate(lines, 2):
        try:
            env_steps, value = parse_row(line)
        except ValueError as error:
            raise UserError(f"{path} is damaged in line {number}: {error}") from error
        evaluations.setdefault(env_steps, []).append(value)
    return evaluations


def parse_row(line: str) -> tuple[int, float]:
    """Env steps and return in a line. Raises ValueError for anything else than ``env_steps,episode,return``."""
    cells = line.split(",")
    if len(cells) != 3:
        raise ValueError(f"it is not {HEADER}")
    parse_count(cells[1])
    return parse_count(cells[0]), parse_number(cells[2])


def parse_count(text: str) -> int:
    """The whole number from 0 in a text. Raises ValueError for anything else."""
    if not (text.isascii() and text.isdecimal() and len(text) <= 15):
        raise ValueError(f"{text[:40]!r} is not a whole number from 0")
    return int(text)


def parse_number(text: str) -> float:
    """The number in a text, as Python writes floats; may be nan or inf. Raises ValueError for anything else."""
    if not _NUMBER.fullmatch(text):
        raise ValueError(f"{text[:40]!r} is not a number")
    return float(text)
