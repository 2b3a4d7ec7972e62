"""The file ``evaluations.csv`` of a run: ``env_steps,episode,return``, a row for each episode of each evaluation."""

from __future__ import annotations

import contextlib
import re
import zlib
from collections.abc import Iterable
from pathlib import Path

from mcurl import files
from mcurl.errors import UserError
from mcurl.run.format import check_seal

NAME = "evaluations.csv"
HEADER = "env_steps,episode,return"
_NUMBER = re.compile(r"[-+]?(\d+(\.\d*)?|\.\d+)(e[-+]?\d+)?|[-+]?(nan|inf)", re.ASCII | re.IGNORECASE)


def read_evaluations(folder: Path) -> dict[int, list[float]]:
    """Env steps -> returns of the episodes, of the complete lines; empty if a run folder has no such file.

    Where the lines behind the newest checkpoint cannot be read, as after a power cut, those before it count.

    Raises:
        UserError: the file is damaged, not as at the newest checkpoint, no plain file, or too large.
    """
    path = folder / NAME
    try:
        data, vouched = _read_vouched(folder)
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}") from error
    try:
        return _parse(data, path)
    except UserError:
        if not vouched:
            raise
        return _parse(data[:vouched], path)


def _parse(data: bytes, path: Path) -> dict[int, list[float]]:
    """Env steps -> returns of the complete lines of the file's content."""
    lines = files.complete_lines(data, path)
    if lines and lines[0] != HEADER:
        raise UserError(f"{path} is damaged: its first line is {lines[0][:80]!r}, not {HEADER}")
    return parse_rows(lines[1:], path)


def _read_vouched(folder: Path) -> tuple[bytes, int]:
    """The content of the file, which begins as at the newest checkpoint, and its length there; 0 if nothing says it.

    Raises:
        UserError: it does not: it is damaged, or was changed; or it is no plain file, or too large.
        OSError: it cannot be opened.
    """
    path, vouched = folder / NAME, _vouched(folder)
    while True:
        data = files.read_bytes(path, files.TEXT_BYTES)
        if vouched is None or (len(data) >= vouched[1] and zlib.crc32(data[: vouched[1]]) == vouched[2]):
            return data, 0 if vouched is None else vouched[1]
        before, vouched = vouched, _vouched(folder)
        if vouched == before:  # else the run has gone on, or was continued from an earlier checkpoint, meanwhile
            raise UserError(
                f"{path} is not as at the checkpoint of {before[0]:,} env steps: it is damaged, or another program "
                "changed it"
            )


def _vouched(folder: Path) -> tuple[int, int, int] | None:
    """Env steps of the newest checkpoint, and length and CRC-32 of the file there; None if nothing says it."""
    with contextlib.suppress(OSError):
        names = (path.name for path in (folder / "checkpoints").iterdir())
        for env_steps in sorted((int(name) for name in names if re.fullmatch(r"[0-9]{9,15}", name)), reverse=True):
            with contextlib.suppress(UserError, KeyError, TypeError, ValueError):
                path = folder / "checkpoints" / f"{env_steps:09d}" / "manifest.json"
                check_seal(path, manifest := files.read_object(path))
                span = manifest["logs"][NAME]
                return env_steps, int(span["bytes"]), int(span["crc32"])
    return None


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
