"""The store of scores: ``<results>/<benchmark>/<name>/<task>.csv``, one row for each episode of each evaluation.

Columns: ``seed,env_steps,episode,return,episodes``. ``episodes`` is the number of episodes that ``return`` is the mean
of: 1, except for evaluations of older versions, of which only the mean is known; ``episode`` is empty for these.
``<task>.json`` has the provenance of each seed, ``<task>-seed<k>.episodes`` the recorded episodes of its latest
evaluation, ``<task>-seed<k>-<env_steps>.episodes`` those of an earlier one. Files of older versions with the columns
``env_steps,return,seed,episodes`` (means only) are read, too.

:mod:`mcurl.report.collect` adds to it.
"""

from __future__ import annotations

import csv
import io
import os
import re
from collections import defaultdict
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import mcurl
from mcurl import files
from mcurl.config.tasks import methods
from mcurl.errors import UserError, printable
from mcurl.published.scores import BUDGET
from mcurl.recording import SUFFIX
from mcurl.report.checks import check_provenance, check_returns
from mcurl.report.runs import read_runs, run_folders
from mcurl.report.scores import MAX_LABEL, RunScores, cells, merge, skip
from mcurl.run.evaluations import parse_count, parse_number
from mcurl.run.format import check_not_newer
from mcurl.run.names import MAX_STEPS, check_meaning

COLUMNS = ("seed", "env_steps", "episode", "return", "episodes")
MEAN_COLUMNS = ("env_steps", "return", "seed", "episodes")
"""Columns of older versions: a row for each evaluation."""
FORMAT = 1
"""Version of what stands beside the scores; entries of older versions have none."""


def shipped_results() -> Path:
    """The results that come with the package: those of the wheel, or of the checkout. Raises UserError without any."""
    package = Path(mcurl.__file__).parent
    for folder in (package / "results", package.parents[1] / "results"):
        if folder.is_dir():
            return folder
    raise UserError("this installation has no results: pass --results DIR")


def read(paths: Iterable[Path]) -> list[RunScores]:
    """Read stores and run folders, for tables and plots. Nothing is changed.

    Args:
        paths: stores, run folders, or folders that contain run folders.

    Raises:
        UserError: a path has no scores, or two runs have the same seed and settings.
    """
    runs: list[RunScores] = []
    for path in paths:
        runs += read_runs([path]) if run_folders(path) else load(path)
    return merge(runs)


def load(results: Path) -> list[RunScores]:
    """Read a store. A damaged file, and a seed with a return that is not a number, are skipped, with a message.

    Returns:
        The runs, sorted by benchmark, task, name and seed.

    Raises:
        UserError: there are no scores, or none that can be read.
    """
    paths = sorted(path for path in results.glob("*/*/*.csv") if not path.name.startswith("."))
    if not paths:
        what = "has no scores" if results.is_dir() else "is not a folder" if results.exists() else "does not exist"
        raise UserError(f"{results} {what}: expected run folders, or a folder of scores as `mcurl collect` makes it")
    runs = []
    for path in paths:
        try:
            cell = load_cell(path, lenient=True)
        except UserError as error:
            if len(paths) == 1:
                raise
            skip(str(error))
            continue
        for run in cell:
            try:
                check_returns(run.episodes, f"seed {run.seed} in {path}")
                runs.append(run)
            except UserError as error:
                skip(str(error))
    if not runs:
        raise UserError(f"{results} has no scores: expected run folders, or a folder of scores that can be read")
    return [run for group in cells(runs).values() for run in group]


def load_cell(path: Path, lenient: bool = False) -> list[RunScores]:
    """The runs in one CSV file of a store; none if there is no such file.

    Args:
        path: the file.
        lenient: read the scores even if the provenance beside them is damaged, with a message.

    Raises:
        UserError: the scores are damaged or, unless ``lenient``, their provenance.
    """
    if not path.exists():
        return []
    evaluations: dict[int, dict[int, dict[int | None, float]]] = defaultdict(lambda: defaultdict(dict))
    averaged: dict[int, dict[int, int]] = defaultdict(dict)
    for number, row in _rows(path):
        try:
            seed, env_steps, value, count, episode = _convert(row)
            evaluation = evaluations[seed][env_steps]
            if episode in evaluation or None in evaluation or (episode is None and evaluation):
                raise ValueError(f"seed {seed} has this evaluation, or this episode of it, already")
        except ValueError as error:
            raise UserError(f"{path} is damaged in line {number}: {error}") from error
        evaluation[episode] = value
        if episode is None:
            averaged[seed][env_steps] = count
    try:
        about = read_provenance(path)
    except UserError as error:
        if not lenient:
            raise
        skip(f"what is known of these runs beside their scores: {error}")
        about = {}
    return [
        _run(path, seed, _returns(path, seed, found), averaged[seed], about.get(f"seed {seed}", {}))
        for seed, found in sorted(evaluations.items())
    ]


def _convert(row: Mapping[str, str]) -> tuple[int, int, float, int, int | None]:
    """Seed, env steps, return, number of episodes, and the number of the episode; None: the return is a mean.

    Raises:
        ValueError: a value is missing, or not what its column holds.
    """
    if None in row or None in row.values():
        raise ValueError(f"expected {len(row) - (None in row)} values")
    seed, env_steps, count = (parse_count(row[key]) for key in ("seed", "env_steps", "episodes"))
    if not count:
        raise ValueError("an evaluation of no episodes")
    number = row.get("episode")
    episode = parse_count(number) if number and count == 1 else None
    return seed, env_steps, parse_number(row["return"]), count, episode


def _returns(path: Path, seed: int, evaluations: Mapping[int, Mapping[int | None, float]]) -> dict[int, list[float]]:
    """Env steps -> returns, in the order of the episodes. Raises UserError if an episode is missing."""
    returns = {}
    for env_steps, found in sorted(evaluations.items()):
        order: Iterable[int | None] = (None,) if None in found else range(len(found))
        if missing := [number for number in order if number not in found]:
            raise UserError(f"{path} is damaged: seed {seed} has no episode {missing[0]} at {env_steps:,} env steps")
        returns[env_steps] = [found[number] for number in order]
    return returns


def _run(
    path: Path, seed: int, episodes: dict[int, list[float]], averaged: dict[int, int], provenance: dict[str, Any]
) -> RunScores:
    benchmark, name = map(printable, path.parts[-3:-1])
    settings = provenance.get("settings") or {}
    suite, _, task = str(settings.get("task", f"{benchmark.removesuffix('100k')}/{path.stem}")).partition("/")
    about = path.with_suffix(".json")
    if "task" in settings and (benchmark.removesuffix("100k"), path.stem) != (suite, file_name(task)):
        raise UserError(f"{about} does not belong to {path.name}: its seed {seed} is of {suite}/{task}")
    if (first := provenance.get("name", name)) != name:
        raise UserError(f"{about} says that seed {seed} is of {first}, but its folder is {name}: was it renamed?")
    if settings.get("seed", seed) != seed:
        raise UserError(f"{about} does not belong to {path.name}: its seed {seed} has the settings of another seed")
    if settings.get("method"):
        try:
            check_meaning(name, settings, methods())
        except UserError as error:
            raise UserError(f"{about} does not belong to {path.name}: of seed {seed}, {error}") from error
    label = provenance.get("label") or (methods()[name].label if name in methods() else name)
    budget = provenance.get("budget") or settings.get("env_steps") or BUDGET.get(benchmark) or max(episodes)
    if type(budget) is not int or not 0 <= budget <= MAX_STEPS:
        raise UserError(f"{path.with_suffix('.json')} is damaged: the budget of seed {seed} is not a whole number")
    return RunScores(
        benchmark=benchmark,
        task=printable(task),
        name=name,
        label=printable(str(label))[:MAX_LABEL],
        seed=seed,
        episodes=episodes,
        averaged=averaged,
        budget=budget,
        provenance=provenance,
        recordings=recordings(path, seed, max(episodes)),
        source=path,
    )


def _rows(path: Path) -> list[tuple[int, dict[str, str]]]:
    """The rows of a CSV file, with the numbers of their lines."""
    try:
        # Links are followed: a package manager may have linked the files of the package.
        text = files.read_text(path, follow=True).removeprefix("\ufeff")
        reader = csv.DictReader(io.StringIO(text, newline=""))
        columns = tuple(reader.fieldnames or ())
        if columns not in (COLUMNS, MEAN_COLUMNS):
            names = ", ".join(columns) or "none"
            raise UserError(f"{path} is not a file of scores: its columns are {names}, not {', '.join(COLUMNS)}")
        return [(reader.line_num, row) for row in reader]
    except (OSError, csv.Error) as error:
        raise UserError(f"{path} cannot be read: {error}") from error


def read_provenance(path: Path) -> dict[str, dict[str, Any]]:
    """``"seed <k>"`` -> provenance, from the JSON file beside a CSV file; empty if there is none."""
    path = path.with_suffix(".json")
    if not os.path.lexists(path):
        return {}
    seeds = files.read_object(path, files.TEXT_BYTES, follow=True)
    for seed, about in seeds.items():
        if not isinstance(about, dict):
            raise UserError(f"{path} is damaged: it is not an object with an object for each seed")
        version = about.get("format", FORMAT)
        try:
            if type(version) is not int:
                raise UserError("format is not a whole number")
            check_provenance(about)
        except UserError as error:
            raise UserError(f"{path} is damaged: of {seed}, {error}") from error
        check_not_newer(path, version, FORMAT)
    return seeds


def cell_path(results: Path, run: RunScores) -> Path:
    """The CSV file of a run in a store."""
    return results / run.benchmark / run.name / f"{file_name(run.task)}.csv"


def file_name(task: str) -> str:
    """A task with only the characters of file names.

    >>> file_name("my_envs:Corridor-v0")
    'my_envs-Corridor-v0'
    """
    return re.sub(r"[^\w.-]+", "-", task)


def recordings(table: Path, seed: int, final: int) -> dict[int, Path]:
    """The recordings of a seed beside its table: those of earlier evaluations have the env steps in their names."""
    pattern = re.compile(rf"{re.escape(table.stem)}-seed{seed}-(\d+){re.escape(SUFFIX)}")
    matches = ((path, pattern.fullmatch(path.name)) for path in sorted(table.parent.glob(f"*{SUFFIX}")))
    latest = recording_path(table, seed)
    earlier = {int(match[1]): path for path, match in matches if match}
    return dict(sorted((earlier | ({final: latest} if latest.exists() else {})).items()))


def recording_path(table: Path, seed: int, env_steps: int | None = None) -> Path:
    """Where the store keeps a recording; without ``env_steps``, that of the latest evaluation."""
    middle = "" if env_steps is None else f"-{env_steps}"
    return table.with_name(f"{table.stem}-seed{seed}{middle}{SUFFIX}")
