"""How long the runs of a suite take on this machine: from finished parts of runs, or from a short measurement."""

from __future__ import annotations

import hashlib
import json
import statistics
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any

from mcurl import __version__
from mcurl.config.tasks import flatten
from mcurl.errors import UserError
from mcurl.files import cache_folder, read_text, write_file
from mcurl.run.folder import Run
from mcurl.run.names import action_repeat
from mcurl.run.provenance import machine_metadata
from mcurl.runtime.threads import available_cores
from mcurl.suites.suite import SuiteRun

AGENT_STEPS = {"dmc": 40, "atari": 300}
"""Suite of tasks -> agent steps that are timed."""
OTHER_AGENT_STEPS = 300
"""Agent steps that are timed in other suites of tasks."""


def kind(run: SuiteRun) -> str:
    """A key that runs share if they do the same work per step: all settings but task, seed, budget and threads."""
    settings = dict(flatten(run.settings.to_json()))
    for key in ("task", "seed", "env_steps", "env.task", "compute.threads"):
        settings.pop(key, None)
    text = json.dumps([run.task.partition("/")[0], settings], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def speeds(runs: Iterable[SuiteRun], out: Path, jobs: int) -> dict[str, float]:
    """The known speeds on this machine with so many runs at a time.

    Args:
        runs: of a suite.
        out: folder of all runs.
        jobs: number of runs at a time.

    Returns:
        Kind -> seconds per simulator step. Runs in ``out`` count first, evaluations included, then measurements.
    """
    known: dict[str, list[float]] = {}
    for run in runs:
        if seconds := _seconds_of_run(run.folder(out), jobs):
            known.setdefault(kind(run), []).append(seconds)
    return _read_cache().get(_machine(jobs), {}) | {key: statistics.median(values) for key, values in known.items()}


def measure(run: SuiteRun, jobs: int) -> float:
    """Time the training of a run for a short time, with ``jobs`` runs at a time, and remember the result.

    Returns:
        Seconds per simulator step, without evaluations.

    Raises:
        UserError: a run ended early.
    """
    from mcurl.bench.runs import time_intervals

    settings = run.settings
    suite = run.task.partition("/")[0]
    agent_steps = AGENT_STEPS.get(suite, OTHER_AGENT_STEPS)
    interval = agent_steps * action_repeat(settings.to_json()["env"])
    values = [f"checkpoint.every={interval}", f"compute.threads={threads(jobs)}"]
    if hasattr(settings.agent_settings, "learning_starts"):
        values.append(f"{settings.parts.agent.section}.learning_starts={agent_steps // 2}")
    try:
        # The arm's settings first, so that those of the measurement take precedence.
        seconds = time_intervals([*run.arguments(Path())[1:], "--set", *values], jobs, 1)
    except RuntimeError as error:
        raise UserError(f"{run.name} cannot be timed: {error}; try `mcurl train` with its settings") from error
    result = statistics.fmean(seconds) / interval
    _remember(jobs, kind(run), result)
    return result


def threads(jobs: int) -> int:
    """CPU threads of each run, with so many at a time."""
    return max(available_cores() // jobs, 1)


def _seconds_of_run(folder: Path, jobs: int) -> float | None:
    """Seconds per simulator step of a run on this machine with as many threads, the median of its intervals."""
    try:
        metadata = Run(folder).metadata
        lines = [json.loads(line) for line in read_text(folder / "speed.jsonl").splitlines()]
        laps = [1 / float(line["env_steps_per_second"]) for line in lines]
        used = metadata.get("compute", {}).get("threads")
    except (UserError, OSError, ValueError, KeyError, TypeError, ArithmeticError, AttributeError, RecursionError):
        return None
    machine = {key: metadata.get(key) for key in _this_machine()}
    same = machine == _this_machine() and used == threads(jobs)
    return statistics.median(laps) if same and laps else None


@cache
def _this_machine() -> dict[str, Any]:
    return {key: value for key, value in machine_metadata().items() if key != "platform"}


def _machine(jobs: int) -> str:
    """The key of a machine in the cache."""
    return json.dumps([*_this_machine().values(), __version__, jobs, threads(jobs)])


def _cache_file() -> Path:
    return cache_folder() / "speed.json"


def _read_cache() -> dict[str, dict[str, float]]:
    """Machine -> kind -> seconds per simulator step; empty if the file is missing or damaged."""
    try:
        values: Mapping[str, Mapping[str, Any]] = json.loads(_cache_file().read_bytes())
        return {
            machine: {key: float(entry["seconds_per_env_step"]) for key, entry in entries.items()}
            for machine, entries in values.items()
        }
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return {}


def _remember(jobs: int, key: str, seconds: float) -> None:
    try:
        path = _cache_file()
        values = json.loads(path.read_bytes()) if _read_cache() else {}
        now = datetime.now(UTC).isoformat(timespec="seconds")
        values.setdefault(_machine(jobs), {})[key] = {"seconds_per_env_step": seconds, "measured_at": now}
        path.parent.mkdir(parents=True, exist_ok=True)
        write_file(path, json.dumps(values, indent=1) + "\n")
    except OSError:  # it is measured again next time
        return
