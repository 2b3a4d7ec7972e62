"""The logs of a run: text files to which lines are added, and which a resume cuts back to a checkpoint."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from mcurl.errors import UserError
from mcurl.recording import find_recordings
from mcurl.run.checkpoint import write_file

METRICS, EVALUATIONS, SPEED = "metrics.jsonl", "evaluations.csv", "speed.jsonl"
EVALUATIONS_HEADER = "env_steps,episode,return\n"
DETERMINISTIC = (METRICS, EVALUATIONS)
"""Logs that :meth:`Logs.rewind` truncates; a resumed run writes the same lines again."""


class Logs:
    """The logs in a run folder.

    Args:
        folder: the run folder.
        check_owner: called before a log is opened for writing; raises UserError if this process must not write.
    """

    def __init__(self, folder: Path, check_owner: Callable[[], None]) -> None:
        self.folder, self._check_owner = folder, check_owner
        self._files: dict[str, Any] = {}

    def write(self, name: str, *lines: str) -> None:
        """Add lines to a log."""
        if name not in self._files:
            self._check_owner()
            # Line buffering, so that readers of the log see complete lines.
            self._files[name] = (self.folder / name).open("a", buffering=1)
        for line in lines:
            self._files[name].write(line + "\n")

    def close(self) -> None:
        """Close the files."""
        for file in self._files.values():
            file.close()
        self._files = {}

    def sync(self) -> dict[str, int]:
        """Sync all logs to the disk. Returns name -> length in bytes of those that a resume cuts back."""
        self._sync(SPEED)
        return {name: self._sync(name) for name in DETERMINISTIC}

    def metrics(self) -> list[tuple[int, dict[str, float]]]:
        """Env steps and values of each line of ``metrics.jsonl``. Raises UserError if a line is damaged."""
        metrics = []
        for number, line in enumerate(self._whole_lines(METRICS), 1):
            try:
                values = json.loads(line)
                metrics.append((int(values.pop("env_steps")), values))
            except (ValueError, KeyError, TypeError, AttributeError) as error:
                raise UserError(f"{self.folder / METRICS} is damaged in line {number}: {error}") from error
        return metrics

    def evaluations(self, until: int | None = None) -> dict[int, list[float]]:
        """Env steps -> returns of the evaluations so far, or up to ``until`` simulator steps."""
        evaluations: dict[int, list[float]] = {}
        for line in self._whole_lines(EVALUATIONS)[1:]:
            env_steps, _, value = line.split(",")
            if until is None or int(env_steps) <= until:
                evaluations.setdefault(int(env_steps), []).append(float(value))
        return evaluations

    def rewind(self, lengths: Mapping[str, int], env_steps: int) -> None:
        """Cut the logs back to their lengths at a checkpoint of ``env_steps`` simulator steps.

        Each log becomes a new file. So a process that still has the old one open cannot write to it.

        Raises:
            UserError: a log is shorter than at the checkpoint. No log is changed.
        """
        for name, length in lengths.items():
            path = self.folder / name
            if not path.exists() or path.stat().st_size < length:
                raise UserError(
                    f"{path} is shorter than at the checkpoint of {env_steps} env steps ({length} bytes): "
                    "another program changed it"
                )
        for name, length in lengths.items():
            with (self.folder / name).open("rb") as log:
                write_file(self.folder / name, log.read(length))
        for recorded_at, path in find_recordings(self.folder).items():
            if recorded_at > env_steps:
                path.unlink()

    def restart(self) -> None:
        """Empty the logs, and delete the recordings."""
        write_file(self.folder / METRICS, "")
        write_file(self.folder / EVALUATIONS, EVALUATIONS_HEADER)
        for path in find_recordings(self.folder).values():
            path.unlink()

    def _whole_lines(self, name: str) -> list[str]:
        """The complete lines of a log, which may end in an incomplete one after a kill; empty if there is no log."""
        path = self.folder / name
        return path.read_text().rpartition("\n")[0].splitlines() if path.exists() else []

    def _sync(self, name: str) -> int:
        if not (self.folder / name).exists():
            return 0
        with (self.folder / name).open("ab") as file:
            os.fsync(file.fileno())
            return file.tell()
