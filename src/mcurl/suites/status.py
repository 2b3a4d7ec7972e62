"""What is under way and what is done, read from the run folders. There is no other record."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from statistics import fmean
from typing import Any

from mcurl.config.tasks import flatten
from mcurl.errors import UserError
from mcurl.files import open_plain
from mcurl.run.folder import Run
from mcurl.run.names import MAX_STEPS, SAME_LEARNING
from mcurl.suites.suite import SuiteRun

_TAIL_BYTES = 16_384
_IRRELEVANT = (
    *SAME_LEARNING,
    *("checkpoint.every", "evaluation.parallel"),
)
"""Settings in which a run may differ from its suite: they change neither what is learned nor the scores."""


class State(StrEnum):
    """The state of a run folder."""

    WAITING = "waiting"
    """There is no folder yet."""
    STOPPED = "stopped"
    """Not finished, and no process trains it."""
    RUNNING = "running"
    """A process trains it."""
    FINISHED = "finished"
    """It reached the budget of the suite."""
    FAILED = "failed"
    """The folder belongs to something else, or is damaged."""


@dataclass(frozen=True)
class RunStatus:
    """What a run folder says."""

    state: State
    env_steps: int = 0
    """Simulator steps of the last line of ``metrics.jsonl``; of a finished run the budget that it reached."""
    checkpoint: int | None = None
    """Simulator steps of the latest checkpoint, if any."""
    evaluation: float | None = None
    """Mean return of the latest evaluation, if any; of a finished run, of its final evaluation."""
    episode: float | None = None
    """Return of the latest training episode, if any."""
    reason: str = ""
    """Why the state is FAILED."""


def read_status(run: SuiteRun, out: Path) -> RunStatus:
    """Read the state of a run below ``out``. Nothing is changed."""
    folder = run.folder(out)
    if not folder.exists():
        return RunStatus(State.WAITING)
    try:
        opened = Run.open(folder)
        if difference := settings_difference(opened.settings, run):
            return RunStatus(State.FAILED, reason=f"{folder} is another run: {difference}; use another --out")
        return _status(opened, run.env_steps)
    except UserError as error:
        return RunStatus(State.FAILED, reason=str(error))
    except (OSError, ValueError, TypeError) as error:  # a damaged folder must not stop the other runs
        return RunStatus(State.FAILED, reason=f"{folder} is damaged: {type(error).__name__} {error}")


def settings_difference(values: Mapping[str, Any], run: SuiteRun) -> str:
    """The first setting in which a run folder differs from a run of a suite, in words; empty if there is none.

    Args:
        values: the settings in the run folder, as JSON values.
        run: the run that the folder should hold.

    Raises:
        UserError: the settings of the folder are invalid.
    """
    from mcurl.config.settings import TrainSettings

    expected = run.settings.to_json()
    for key in ("task", "method", "agent", "seed", "env_steps"):
        # Compared first, so that a folder of unknown origin cannot name modules to import.
        if values.get(key) != expected[key]:
            return f"its {key} is {values.get(key)}, not {expected[key]}"
    found = dict(flatten(TrainSettings.from_json(values).to_json()))
    for key, value in flatten(expected):
        if key not in _IRRELEVANT and found.get(key) != value:
            return f"its {key} is {found.get(key)}, not {value}"
    return ""


def _status(run: Run, budget: int) -> RunStatus:
    checkpoints = run.checkpoints()
    latest = checkpoints[-1].env_steps if checkpoints else None
    evaluations = run.evaluations()
    ends = [checkpoint.env_steps for checkpoint in checkpoints if checkpoint.final]
    if not checkpoints and not run.resumable:  # they were deleted to free space; the scores remain
        ends = list(evaluations)
    if reached := [end for end in ends if end >= budget]:
        score = evaluations.get(min(reached))
        return RunStatus(State.FINISHED, min(reached), latest, fmean(score) if score else None)
    env_steps, episode = _progress(run.folder / "metrics.jsonl")
    mean = fmean(evaluations[max(evaluations)]) if evaluations else None
    state = State.RUNNING if run.locked else State.STOPPED
    return RunStatus(state, max(env_steps, latest or 0), latest, mean, episode)


def _progress(path: Path) -> tuple[int, float | None]:
    """The env steps of the last line of a log, and the return of the last training episode in its last lines."""
    env_steps = 0
    for values in _last_lines(path):
        steps = values.get("env_steps", 0)
        env_steps = max(env_steps, steps if type(steps) is int and 0 <= steps <= MAX_STEPS else 0)
        value = values.get("episode/return")
        if isinstance(value, float) and math.isfinite(value):
            return env_steps, value
    return env_steps, None


def _last_lines(path: Path) -> Iterator[dict[str, Any]]:
    """The last lines of a file of JSON objects, the newest first. A line that is not complete is left out."""
    try:
        with open_plain(path) as file:
            size = file.seek(0, 2)
            file.seek(max(size - _TAIL_BYTES, 0))
            lines = file.read().rpartition(b"\n")[0].split(b"\n")
    except (OSError, UserError):
        return
    for line in reversed(lines if size <= _TAIL_BYTES else lines[1:]):
        try:
            values = json.loads(line)
        except (ValueError, RecursionError):
            continue
        if isinstance(values, dict):
            yield values
