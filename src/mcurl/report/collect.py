"""Scores of runs as CSV files, ``results/<benchmark>/<method>/<task>.csv``, one row for each seed and evaluation.

A JSON file of the same name contains the provenance of each seed. The benchmark is the suite, or ``atari100k`` for
Atari with the budget of that benchmark.
"""

from __future__ import annotations

import contextlib
import csv
import json
import sys
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

from mcurl.config.tasks import methods
from mcurl.errors import UserError
from mcurl.published.scores import BUDGET
from mcurl.run.names import run_name

COLUMNS = ("env_steps", "return", "seed", "episodes")


@dataclass(frozen=True)
class Curve:
    """The learning curve of one run: mean evaluation returns."""

    task: str
    """``suite/name``."""
    method: str
    """Name of the method, or the label that replaces it."""
    seed: int
    points: dict[int, float]
    """Env steps -> mean return."""
    episodes: dict[int, int]
    """Env steps -> number of episodes."""
    provenance: dict[str, Any]
    """Label, settings, commit, versions, machine, and hours per 100k env steps."""

    @property
    def benchmark(self) -> str:
        """The suite, or ``atari100k`` for Atari with a budget of 400k frames."""
        suite = self.task.partition("/")[0]
        return (
            "atari100k"
            if suite == "atari" and self.provenance["settings"].get("env_steps") == BUDGET["atari100k"]
            else suite
        )

    @property
    def name(self) -> str:
        """The task without its suite."""
        return self.task.partition("/")[2]


def read_run(folder: Path, label: str | None = None) -> Curve:
    """Read the learning curve of a run folder.

    Args:
        folder: a run folder.
        label: replaces the name of the method; None: no change.

    Raises:
        UserError: the folder is not a run folder, is damaged, or has no evaluation yet.
    """
    returns: dict[int, list[float]] = defaultdict(list)
    try:
        settings = json.loads((folder / "settings.json").read_text())
        metadata = json.loads((folder / "run.json").read_text())
        for row in csv.DictReader(_whole_lines(folder / "evaluations.csv")):
            returns[int(row["env_steps"])].append(float(row["return"]))
        task, method, seed = settings["task"], label or run_name(settings), int(settings["seed"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{folder} is not a run folder, or it is damaged: {type(error).__name__} {error}") from error
    if not returns:
        raise UserError(f"{folder} has no evaluation yet")
    points = {step: fmean(values) for step, values in sorted(returns.items())}
    episodes = {step: len(values) for step, values in sorted(returns.items())}
    provenance = {
        key: metadata.get(key) for key in ("commit", "dirty", "mcurl", "torch", "cpu", "gpu", "cores", "compute")
    }
    provenance |= {"label": label or metadata.get("label") or method, "settings": settings}
    provenance |= {"hours_per_100k_env_steps": hours_per_100k(folder)}
    return Curve(task, method, seed, points, episodes, provenance)


def read_runs(paths: Iterable[Path], label: str | None = None) -> list[Curve]:
    """Read the learning curves of all run folders at or below some paths.

    A run without evaluations is skipped, with a message on standard error.

    Args:
        paths: run folders, or folders that contain run folders.
        label: replaces the names of the methods; None: no change.

    Raises:
        UserError: there is no run folder, or no run has an evaluation.
    """
    curves, folders = [], find_runs(paths)
    for folder in folders:
        try:
            curves.append(read_run(folder, label))
        except UserError as error:
            if len(folders) == 1:
                raise
            print(f"mcurl: skipped: {error}", file=sys.stderr)
    if folders and not curves:
        raise UserError("none of these runs has results to report")
    return curves


def _whole_lines(path: Path) -> list[str]:
    """The complete lines of a log, which may end in an incomplete one after a kill."""
    return path.read_text().rpartition("\n")[0].splitlines()


def hours_per_100k(folder: Path) -> float | None:
    """Wall-clock hours per 100k env steps of a run, evaluations and checkpoints included.

    Returns:
        Hours; None before the first checkpoint.
    """
    path = folder / "speed.jsonl"
    lines = []
    for line in path.read_text().splitlines() if path.exists() else ():
        with contextlib.suppress(ValueError):  # an incomplete line after a kill
            lines.append(json.loads(line))
    steps = sum(line["seconds"] * line["env_steps_per_second"] for line in lines)
    return sum(line["seconds"] for line in lines) / steps * 100_000 / 3600 if steps else None


def find_runs(paths: Iterable[Path]) -> list[Path]:
    """The run folders at or below some paths. Raises UserError if there is none at or below one of them."""
    folders: list[Path] = []
    for path in paths:
        below = sorted(file.parent for file in path.glob("**/run.json"))
        if not below:
            raise UserError(f"there are no run folders in {path}")
        folders += below
    return folders


def save(curves: Iterable[Curve], results: Path) -> list[Path]:
    """Add curves to the results. A curve replaces an earlier one of the same task, method and seed.

    Returns:
        The CSV file of each curve.
    """
    paths = []
    for curve in curves:
        path = results / curve.benchmark / curve.method / f"{curve.name}.csv"
        path.parent.mkdir(parents=True, exist_ok=True)
        rows = [row for row in _read_rows(path) if int(row["seed"]) != curve.seed]
        rows += [
            dict(zip(COLUMNS, map(str, (step, value, curve.seed, curve.episodes[step])), strict=True))
            for step, value in curve.points.items()
        ]
        with path.open("w", newline="") as file:
            writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
            writer.writeheader()
            writer.writerows(sorted(rows, key=lambda row: (int(row["seed"]), int(row["env_steps"]))))
        provenance = path.with_suffix(".json")
        seeds = json.loads(provenance.read_text()) if provenance.exists() else {}
        text = json.dumps(seeds | {f"seed {curve.seed}": curve.provenance}, indent=1, sort_keys=True)
        provenance.write_text(text + "\n")
        paths.append(path)
    return paths


def load(results: Path, benchmark: str, name: str) -> dict[str, dict[int, dict[int, float]]]:
    """The results of one task: method -> seed -> env steps -> mean return."""
    curves: dict[str, dict[int, dict[int, float]]] = {}
    for path in sorted((results / benchmark).glob(f"*/{name}.csv")):
        seeds: dict[int, dict[int, float]] = defaultdict(dict)
        for row in _read_rows(path):
            seeds[int(row["seed"])][int(row["env_steps"])] = float(row["return"])
        curves[path.parent.name] = dict(seeds)
    return curves


def method_label(results: Path, benchmark: str, method: str, name: str) -> str:
    """The name of a method in tables and plots: of a built-in method, else from the provenance of its first run."""
    if method in methods():
        return methods()[method].label
    path = results / benchmark / method / f"{name}.json"
    seeds: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {}
    for provenance in seeds.values():
        return str(provenance.get("label", method))
    return method


def tasks(results: Path) -> list[tuple[str, str]]:
    """Benchmark and name of each task with results. Raises UserError if there are no results."""
    names = sorted({(path.parts[-3], path.stem) for path in results.glob("*/*/*.csv")})
    if not names:
        raise UserError(f"{results} has no results")
    return names


def _read_rows(path: Path) -> list[dict[str, str]]:
    if not path.exists():
        return []
    with path.open(newline="") as file:
        reader = csv.DictReader(file)
        if tuple(reader.fieldnames or ()) != COLUMNS:
            raise UserError(f"{path} has the columns {', '.join(reader.fieldnames or ())}, not {', '.join(COLUMNS)}")
        return list(reader)
