"""The logs of a run: text files to which lines are added, and which a resume cuts back to a checkpoint."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from mcurl.errors import UserError
from mcurl.files import TEXT_BYTES, new_folder, open_plain, read_bytes, sync, write_all, write_file
from mcurl.recording import FOLDER as RECORDINGS
from mcurl.recording import MAX_FILE_BYTES, find_recordings
from mcurl.run.evaluations import HEADER, NAME, parse_row
from mcurl.run.folder.documents import Span

T = TypeVar("T")
METRICS, EVALUATIONS, SPEED = "metrics.jsonl", NAME, "speed.jsonl"
EVALUATIONS_HEADER = f"{HEADER}\n"
DETERMINISTIC = (METRICS, EVALUATIONS)
"""Logs that :meth:`Logs.rewind` truncates; a resumed run writes the same lines again."""


class Logs:
    """The logs in a run folder.

    Args:
        folder: the run folder.
        check_owner: called before a log is opened for writing; raises UserError if this process must not write.
        vouched_bytes: name of a log -> its length at the latest checkpoint; lines up to there must be whole.
    """

    def __init__(
        self, folder: Path, check_owner: Callable[[], None], vouched_bytes: Callable[[str], int] = lambda name: 0
    ) -> None:
        self.folder, self._check_owner, self._vouched_bytes = folder, check_owner, vouched_bytes
        self._files: dict[str, Any] = {}
        self._spans: dict[str, Span] = {}

    def write(self, name: str, *lines: str) -> None:
        """Add lines to a log."""
        if name not in self._files:
            self._check_owner()
            span = self._span(name)
            self._files[name] = open_plain(self.folder / name, "ab")
            self._spans[name] = span
        for line in lines:  # each in one piece, so that readers of the log see complete lines
            write_all(self._files[name], data := f"{line}\n".encode())
            self._spans[name] = self._spans[name].extended(data)

    def close(self) -> None:
        """Close the files."""
        for file in self._files.values():
            file.close()
        self._files, self._spans = {}, {}

    def sync(self) -> dict[str, Span]:
        """Sync all logs to the disk. Returns name -> span of those that a resume cuts back.

        Raises:
            UserError: a log does not have the length of what this process wrote.
        """
        if (self.folder / SPEED).exists():
            sync(self.folder / SPEED)
        return {name: self._sync(name) for name in DETERMINISTIC}

    def metrics(self) -> list[tuple[int, dict[str, float]]]:
        """Env steps and values of each line of ``metrics.jsonl``. Raises UserError if a line is damaged."""
        return self._parse(METRICS, _metrics_line)

    def evaluations(self, until: int | None = None) -> dict[int, list[float]]:
        """Env steps -> returns of the evaluations so far, or up to ``until`` simulator steps.

        Raises:
            UserError: a line is damaged.
        """
        evaluations: dict[int, list[float]] = {}
        for env_steps, value in self._parse(EVALUATIONS, parse_row, first=1):
            if until is None or env_steps <= until:
                evaluations.setdefault(env_steps, []).append(value)
        return evaluations

    def _parse(self, name: str, parse: Callable[[str], T], first: int = 0) -> list[T]:
        """Parse the complete lines of a log from number ``first`` on; empty if there is no log.

        A kill or a power cut leaves an incomplete line or garbage at the end. Reading stops there, unless a checkpoint
        vouches for the line. Raises UserError then.
        """
        path, values, end = self.folder / name, list[T](), 0
        lines = read_bytes(path, TEXT_BYTES).split(b"\n")[:-1] if os.path.lexists(path) else []
        for number, line in enumerate(lines):
            end += len(line) + 1
            if number < first:
                continue
            try:
                values.append(parse(line.decode()))
            except (ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError) as error:
                if end > self._vouched_bytes(name):
                    break
                raise UserError(f"{path} is damaged in line {number + 1}: {error}") from error
        return values

    def check(self, spans: Mapping[str, Span], env_steps: int) -> None:
        """Raise UserError if a log is not as at a checkpoint of ``env_steps`` simulator steps."""
        for name, span in spans.items():
            self._vouched(name, span, env_steps)

    def rewind(self, spans: Mapping[str, Span], env_steps: int) -> None:
        """Cut the logs back to their spans at a checkpoint of ``env_steps`` simulator steps.

        Each log becomes a new file. So a process that still has the old one open cannot write to it.

        Raises:
            UserError: a log is not as at the checkpoint. No log is changed.
        """
        if unknown := {*spans} - {*DETERMINISTIC}:
            raise UserError(f"the checkpoint of {env_steps:,} env steps is damaged: {min(unknown)} is none of its logs")
        contents = {name: self._vouched(name, span, env_steps) for name, span in spans.items()}
        self.close()
        for name, content in contents.items():
            write_file(self.folder / name, content)
            self._spans[name] = Span.of(content)
        for recorded_at, path in find_recordings(self.folder).items():
            if recorded_at > env_steps:
                path.unlink()

    def copy(self, folder: Path) -> None:
        """Copy the logs that a resume cuts back, and the recordings, to a new folder.

        Raises:
            UserError: a file cannot be copied. Nothing is left at ``folder`` then.
        """
        logs = [path for name in DETERMINISTIC if os.path.lexists(path := self.folder / name)]
        try:
            with new_folder(folder) as new:
                (new / RECORDINGS).mkdir()
                for path in (*logs, *find_recordings(self.folder).values()):
                    write_file(new / path.relative_to(self.folder), read_bytes(path, max(TEXT_BYTES, MAX_FILE_BYTES)))
        except OSError as error:
            raise UserError(f"the logs cannot be copied to {folder}: {error.strerror}") from error

    def restart(self) -> None:
        """Empty the logs, and delete the recordings."""
        self.close()
        write_file(self.folder / METRICS, "")
        write_file(self.folder / EVALUATIONS, EVALUATIONS_HEADER)
        for path in find_recordings(self.folder).values():
            path.unlink()

    def _vouched(self, name: str, span: Span, env_steps: int) -> bytes:
        """The bytes of a log at a checkpoint. Raises UserError if they are not there any more."""
        path, place = self.folder / name, f"at the checkpoint of {env_steps:,} env steps"
        try:
            with open_plain(path) as log:
                content = log.read(min(span.length, TEXT_BYTES))
        except OSError as error:
            raise UserError(f"{path} cannot be read: {error.strerror}") from error
        if len(content) < span.length:
            raise UserError(f"{path} is shorter than {place} ({span.length} bytes): another program changed it")
        if not span.holds(content):
            raise UserError(f"{path} is not as {place}: it is damaged, or another program changed it")
        return content

    def _span(self, name: str) -> Span:
        """The span of what this process knows of a log; the first time, of the whole file."""
        if name not in self._spans:
            with contextlib.suppress(FileNotFoundError):
                return Span.of(read_bytes(self.folder / name, TEXT_BYTES))
        return self._spans.get(name, Span())

    def _sync(self, name: str) -> Span:
        path, span = self.folder / name, self._span(name)
        if span.length == 0 and not path.exists():
            return span
        try:
            sync(path)
            size = path.stat().st_size
        except OSError as error:
            raise UserError(f"{path} cannot be written: {error.strerror}") from error
        if size != span.length:
            raise UserError(
                f"{path} has {size} bytes, not {span.length}: another program changed it while the run trained"
            )
        return span


def _metrics_line(line: str) -> tuple[int, dict[str, float]]:
    values = json.loads(line)
    env_steps = values.pop("env_steps")
    if type(env_steps) is not int or not all(type(value) in (int, float) for value in values.values()):
        raise ValueError("a value is not a number")
    return env_steps, {name: float(value) for name, value in values.items()}
