"""Scores of runs in one long format: ``results/<benchmark>/<method>/<task>.csv``, one line for each seed and
evaluation, and beside it how they were made.

The benchmark is the suite, or ``atari100k`` for Atari with that benchmark's budget.
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
    """Mean evaluation returns of one run."""

    task: str
    method: str
    seed: int
    points: dict[int, float]
    """env_steps -> mean return."""
    episodes: dict[int, int]
    """env_steps -> episodes that the mean is over."""
    provenance: dict[str, Any]
    """Label, settings, commit, versions, machine, and hours per 100k env steps."""

    @property
    def benchmark(self) -> str:
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
    """The curve of a run folder, under its method's name or another. Raises UserError where it is none, or has no
    evaluation yet."""
    returns: dict[int, list[float]] = defaultdict(list)
    try:
        settings = json.loads((folder / "settings.json").read_text())
        about = json.loads((folder / "run.json").read_text())
        for row in csv.DictReader(_whole_lines(folder / "evaluations.csv")):
            returns[int(row["env_steps"])].append(float(row["return"]))
        task, method, seed = settings["task"], label or run_name(settings), int(settings["seed"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{folder} is not a run folder, or damaged: {type(error).__name__} {error}") from error
    if not returns:
        raise UserError(f"{folder} has no evaluation yet")
    points = {step: fmean(values) for step, values in sorted(returns.items())}
    episodes = {step: len(values) for step, values in sorted(returns.items())}
    provenance = {
        key: about.get(key) for key in ("commit", "dirty", "mcurl", "torch", "cpu", "gpu", "cores", "compute")
    }
    provenance |= {"label": label or about.get("label") or method, "settings": settings}
    provenance |= {"hours_per_100k_env_steps": hours_per_100k(folder)}
    return Curve(task, method, seed, points, episodes, provenance)


def read_runs(places: Iterable[Path], label: str | None = None) -> list[Curve]:
    """The curves of all runs at or below the given places; those that have none are named on standard error. Raises
    UserError where none has."""
    found, folders = [], find_runs(places)
    for folder in folders:
        try:
            found.append(read_run(folder, label))
        except UserError as error:
            if len(folders) == 1:
                raise
            print(f"mcurl: left out: {error}", file=sys.stderr)
    if folders and not found:
        raise UserError("none of these runs can be reported")
    return found


def _whole_lines(path: Path) -> list[str]:
    """Without the half of a line that a kill may have left at the end."""
    return path.read_text().rpartition("\n")[0].splitlines()


def hours_per_100k(folder: Path) -> float | None:
    """Wall-clock hours per 100k env steps of a run, evaluations and checkpoints included; None before the first
    checkpoint."""
    path = folder / "speed.jsonl"
    lines = []
    for line in path.read_text().splitlines() if path.exists() else ():
        with contextlib.suppress(ValueError):  # a kill in the middle of a line
            lines.append(json.loads(line))
    steps = sum(line["seconds"] * line["env_steps_per_second"] for line in lines)
    return sum(line["seconds"] for line in lines) / steps * 100_000 / 3600 if steps else None


def find_runs(places: Iterable[Path]) -> list[Path]:
    """Every run folder at or below the given places. Raises UserError where there is none."""
    found: list[Path] = []
    for place in places:
        below = sorted(path.parent for path in place.glob("**/run.json"))
        if not below:
            raise UserError(f"there is no run in {place}")
        found += below
    return found


def save(curves: Iterable[Curve], results: Path) -> list[Path]:
    """Add runs to the results; a seed that is there already is replaced. Returns the files written."""
    written = []
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
        note = path.with_suffix(".json")
        seeds = json.loads(note.read_text()) if note.exists() else {}
        note.write_text(json.dumps(seeds | {f"seed {curve.seed}": curve.provenance}, indent=1, sort_keys=True) + "\n")
        written.append(path)
    return written


def load(results: Path, benchmark: str, name: str) -> dict[str, dict[int, dict[int, float]]]:
    """``method -> seed -> env_steps -> return`` of one task."""
    found: dict[str, dict[int, dict[int, float]]] = {}
    for path in sorted((results / benchmark).glob(f"*/{name}.csv")):
        seeds: dict[int, dict[int, float]] = defaultdict(dict)
        for row in _read_rows(path):
            seeds[int(row["seed"])][int(row["env_steps"])] = float(row["return"])
        found[path.parent.name] = dict(seeds)
    return found


def label_of(results: Path, benchmark: str, method: str, name: str) -> str:
    """The name of a method in tables and plots: a built-in one's own, else what its first run says."""
    if method in methods():
        return methods()[method].label
    note = results / benchmark / method / f"{name}.json"
    seeds: dict[str, Any] = json.loads(note.read_text()) if note.exists() else {}
    for provenance in seeds.values():
        return str(provenance.get("label", method))
    return method


def tasks(results: Path) -> list[tuple[str, str]]:
    """Benchmark and name of every task that has results. Raises UserError where none has."""
    found = sorted({(path.parts[-3], path.stem) for path in results.glob("*/*/*.csv")})
    if not found:
        raise UserError(f"{results} has no results")
    return found


def _read_rows(path: Path) -> list[dict[str, str]]:
    if not path.exists():
        return []
    with path.open(newline="") as file:
        reader = csv.DictReader(file)
        if tuple(reader.fieldnames or ()) != COLUMNS:
            raise UserError(f"{path} has the columns {', '.join(reader.fieldnames or ())}, not {', '.join(COLUMNS)}")
        return list(reader)
