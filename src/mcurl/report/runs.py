"""Reading the scores of run folders, of unknown origin."""

from __future__ import annotations

import contextlib
import json
import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from mcurl import files
from mcurl.config.tasks import methods
from mcurl.errors import UserError, printable
from mcurl.published.scores import BUDGET
from mcurl.recording import find_recordings
from mcurl.report.checks import check_evaluated, check_provenance, check_returns
from mcurl.report.scores import MAX_LABEL, RunScores, skip
from mcurl.run.evaluations import NAME as EVALUATIONS
from mcurl.run.evaluations import read_evaluations
from mcurl.run.format import NewerError, check_run, check_settings_unchanged
from mcurl.run.names import MAX_STEPS, check_meaning, check_name, check_settings, run_name

_KEPT_METADATA = (
    *("commit", "dirty", "mcurl", "torch", "python", "packages", "environment", "cpu", "gpu", "cores", "compute"),
    *("started_at",),
)


def read_run(folder: Path, name: str | None = None, label: str | None = None, note: str = "") -> RunScores:
    """Read the scores of a run folder.

    Args:
        folder: a run folder.
        name: replaces the name of the run; None: no change.
        label: replaces its label; None: no change, or ``name`` where that is set.
        note: what a reader must know of the run.

    Raises:
        UserError: the folder is not a run folder, is damaged, or has no evaluation yet.
    """
    try:
        settings = files.read_object(folder / "settings.json")
        metadata = files.read_object(folder / "run.json")
        check_run(folder, metadata)
        check_settings(settings)
        own_name = check_name(str(metadata.get("name") or run_name(settings)))
        provenance = {key: metadata[key] for key in _KEPT_METADATA if key in metadata}
        provenance |= {"settings": settings, "resumed": metadata.get("resumed") or []}
        check_provenance(provenance)
        provenance["resumed"] = _resumed(metadata)
        budget = _budget(metadata.get("extended_to") or settings["env_steps"])
    except NewerError:
        raise
    except UserError as error:
        raise UserError(f"{folder} is not a run folder, or it is damaged: {error}") from error
    check_settings_unchanged(folder, settings, metadata)
    try:
        check_meaning(name or own_name, settings, methods())
    except UserError as error:
        raise UserError(f"{folder}: {error}; `mcurl collect --name NAME` gives it another") from error
    episodes = read_evaluations(folder)
    if not episodes:
        raise UserError(f"{folder} has no evaluation yet")
    check_returns(episodes, folder)
    provenance |= {"hours_per_100k_env_steps": hours_per_100k(folder)} | ({"note": note} if note else {})
    provenance |= {"evaluated": found} if (found := later_evaluations(folder)) else {}
    return RunScores(
        benchmark=benchmark_of(settings),
        task=settings["task"].partition("/")[2],
        name=name or own_name,
        label=label or name or printable(str(metadata.get("label") or own_name))[:MAX_LABEL],
        seed=settings["seed"],
        episodes=dict(sorted(episodes.items())),
        budget=budget,
        provenance=provenance,
        recordings=find_recordings(folder),
        source=folder,
    )


def later_evaluations(folder: Path) -> list[dict[str, Any]]:
    """What ``mcurl evaluate`` kept in a run folder: ``env_steps``, ``seed``, ``episodes`` and ``mean`` of each result.

    They are no scores: the user chose their checkpoint, seed and number of episodes. A damaged file is left out.
    """
    found = []
    for path in sorted((folder / "results").glob("*.json")):
        with contextlib.suppress(OSError, UserError):
            result = files.read_object(path)
            values = {key: result.get(key) for key in ("env_steps", "seed", "episodes", "mean")}
            check_evaluated(values)
            found.append(values)
    return found


def _budget(value: Any) -> int:
    if type(value) is not int or not 1 <= value <= MAX_STEPS:
        raise UserError(f"the budget is {str(value)[:100]!r}, not a whole number from 1")
    return value


def _resumed(metadata: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Commit and versions of those resumes that had others than the start of the run."""
    start = {key: metadata.get(key) for key in ("commit", "packages")}
    resumes = [{key: resume.get(key) for key in start} for resume in metadata.get("resumed") or ()]
    return [resume for resume in resumes if resume != start]


def benchmark_of(settings: Mapping[str, Any]) -> str:
    """The suite of a run, or ``atari100k`` for Atari with a budget of 400k frames."""
    suite = str(settings["task"]).partition("/")[0]
    return "atari100k" if suite == "atari" and settings.get("env_steps") == BUDGET["atari100k"] else suite


def read_runs(
    paths: Iterable[Path], name: str | None = None, label: str | None = None, note: str = ""
) -> list[RunScores]:
    """Read the scores of all run folders at or below some paths.

    A run without evaluations, or with damaged files, is skipped, with a message on standard error.

    Args:
        paths: run folders, or folders that contain run folders.
        name: see :func:`read_run`, as ``label`` and ``note``.

    Raises:
        UserError: there is no run folder, or no run has an evaluation.
    """
    runs, folders = [], find_runs(paths)
    for folder in folders:
        try:
            runs.append(read_run(folder, name, label, note))
        except UserError as error:
            if len(folders) == 1:
                raise
            skip(str(error))
    if not runs:
        raise UserError("none of these runs has results to report")
    return runs


def find_runs(paths: Iterable[Path]) -> list[Path]:
    """The run folders at or below some paths. Raises UserError if there is none at or below one of them."""
    folders: dict[Path, None] = {}
    for path in paths:
        below = run_folders(path)
        if not below:
            raise UserError(f"there are no run folders in {path}")
        folders |= dict.fromkeys(below)
    return list(folders)


def run_folders(path: Path) -> list[Path]:
    """The run folders at or below a path, with those that have lost their ``run.json``."""
    found = set(files.find_folders(path, "run.json"))
    found |= {folder for folder in files.find_folders(path, EVALUATIONS) if (folder / "settings.json").exists()}
    return sorted(found)


def hours_per_100k(folder: Path) -> float | None:
    """Wall-clock hours per 100k env steps of a run, evaluations and checkpoints included.

    Returns:
        Hours; None before the first checkpoint, or if the file cannot be read.
    """
    try:
        laps = [_lap(line) for line in files.read_text(folder / "speed.jsonl").splitlines()]
    except (UserError, OSError):
        return None
    seconds, steps = sum(lap[0] for lap in laps), sum(lap[1] for lap in laps)
    hours = seconds / steps * 100_000 / 3600 if steps else math.inf
    return hours if math.isfinite(hours) else None


def _lap(line: str) -> tuple[float, float]:
    """Seconds and env steps of a line of ``speed.jsonl``; zeros for a line that is incomplete after a kill."""
    try:
        values = json.loads(line)
        seconds, speed = float(values["seconds"]), float(values["env_steps_per_second"])
    except (ValueError, TypeError, KeyError, OverflowError, RecursionError):
        return 0.0, 0.0
    return (seconds, seconds * speed) if 0 <= seconds < 1e12 and 0 <= speed < 1e12 else (0.0, 0.0)
