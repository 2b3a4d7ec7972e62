"""The store of scores: ``<results>/<benchmark>/<name>/<task>.csv``, one row for each episode of each evaluation.

Columns: ``seed,env_steps,episode,return,episodes``. ``episodes`` is the number of episodes that ``return`` is the mean
of: 1, except for evaluations of older versions, of which only the mean is known; ``episode`` is empty for these.
``<task>.json`` has the provenance of each seed, ``<task>-seed<k>.episodes`` the recorded episodes of its latest
evaluation, ``<task>-seed<k>-<env_steps>.episodes`` those of an earlier one. Files of older versions with the columns
``env_steps,return,seed,episodes`` (means only) are read, too.

A score is never replaced unless the user asks for it.
"""

from __future__ import annotations

import csv
import io
import json
import os
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import mcurl
from mcurl import files
from mcurl.config.tasks import methods
from mcurl.errors import UserError, printable
from mcurl.published.scores import BUDGET
from mcurl.recording import MAX_FILE_BYTES, SUFFIX, parse
from mcurl.report.checks import check_provenance, check_returns
from mcurl.report.runs import read_runs, run_folders
from mcurl.report.scores import MAX_LABEL, RunScores, cells, changed_between, merge, one_per_seed, same_run, skip
from mcurl.run.evaluations import parse_count, parse_number
from mcurl.run.format import check_not_newer
from mcurl.run.names import MAX_STEPS

COLUMNS = ("seed", "env_steps", "episode", "return", "episodes")
MEAN_COLUMNS = ("env_steps", "return", "seed", "episodes")
"""Columns of older versions: a row for each evaluation."""
FORMAT = 1
"""Version of what stands beside the scores; entries of older versions have none."""


@dataclass(frozen=True)
class Change:
    """What adding a run did to a store."""

    run: RunScores
    action: Literal["added", "updated", "unchanged", "replaced", "skipped"]
    path: Path
    """The CSV file of its cell."""
    reason: str = ""

    @property
    def written(self) -> bool:
        """Whether the store changed."""
        return self.action in ("added", "updated", "replaced")

    def __str__(self) -> str:
        reason = f": {self.reason}" if self.reason else ""
        return printable(f"{self.action} {self.path}, seed {self.run.seed}{reason}")


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
        about = _read_provenance(path)
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
        recordings=_recordings(path, seed, max(episodes)),
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


def _read_provenance(path: Path) -> dict[str, dict[str, Any]]:
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


# Changes


def add(results: Path, runs: Iterable[RunScores], replace_seeds: bool = False) -> list[Change]:
    """Add runs to a store. All runs are checked first: after an error, nothing has changed.

    Only one process at a time adds to a store; others wait.

    A run that went on since it was added is updated. An unfinished run is added if its seed is new, and replaces
    nothing.

    Args:
        results: folder of the store; it is created if it does not exist.
        runs: see :func:`mcurl.report.runs.read_runs`.
        replace_seeds: replace another run of the same cell and seed.

    Returns:
        What became of each run.

    Raises:
        UserError: a run has other settings than the runs of its cell, the store has another run with its seed, two of
            the runs have the same seed, or a folder inside the store is a link.
    """
    with files.locked_folder(results):
        return _add(results, runs, replace_seeds)


def _add(results: Path, runs: Iterable[RunScores], replace_seeds: bool) -> list[Change]:
    changes: list[Change] = []
    contents: dict[Path, list[RunScores]] = {}
    for group in cells(map(_without_damaged_recordings, runs)).values():
        path = cell_path(results, group[0])
        files.check_own_folder(path.parent.parent)
        files.check_own_folder(path.parent)
        stored = {run.seed: run for run in load_cell(path)}
        others = [run for run in stored.values() if run.task != group[0].task]
        if others or path in contents:
            raise UserError(f"{path} has scores of another task than {group[0].task}: use --name for another place")
        for number, run in enumerate(group):
            _check_settings(run, group[:number])
        for run in one_per_seed(group):
            change = _decide(run, path, stored, replace_seeds)
            changes.append(change)
            if change.written:
                stored[run.seed] = change.run
        if any(change.written for change in changes if change.path == path):
            contents[path] = list(stored.values())
    for path, kept in contents.items():
        _write(path, kept)
    return changes


_ADVICE = "use --name for another place, or --replace"


def _decide(run: RunScores, path: Path, stored: dict[int, RunScores], replace_seeds: bool) -> Change:
    """What to do with a run, given the runs in its cell. Raises UserError as :func:`add`."""
    old = stored.get(run.seed)
    if old is not None and same_run(run, old):
        return _update(run, old, path)
    if old is not None and not old.finished and run.env_steps >= old.env_steps and _same_start(run, old):
        reason = f"from {old.env_steps:,} to {run.env_steps:,} env steps, with some evaluations made again"
        return Change(run, "updated", path, reason)  # it had no final score that could be lost
    if old is not None and not run.finished:
        reason = f"{run.source} is unfinished, at {run.env_steps:,} of {run.budget:,} env steps, and replaces nothing"
        return Change(run, "skipped", path, reason)
    _check_settings(run, [other for other in stored.values() if other.seed != run.seed])
    if old is None:
        unfinished = "" if run.finished else f"unfinished, at {run.env_steps:,} of {run.budget:,} env steps"
        return Change(run, "added", path, unfinished or _describe(run))
    if not replace_seeds:
        origin = "from this run before its evaluations changed" if _same_start(run, old) else "from another run"
        raise UserError(
            f"{path} has seed {run.seed} already, {origin} ({_describe(old)}); {run.source} has "
            f"{_describe(run)}: {_ADVICE}"
        )
    return Change(run, "replaced", path, f"{_describe(old)} by {_describe(run)}")


def _same_start(run: RunScores, old: RunScores) -> bool:
    """Whether two records with equal settings are known to have started at one time."""
    started = run.provenance.get("started_at")
    return started is not None and started == old.provenance.get("started_at") and not changed_between(old, run)


def _update(run: RunScores, old: RunScores, path: Path) -> Change:
    """What to do with a run that the store has already, perhaps as it was earlier."""
    reasons = []
    if run.points.keys() - old.points.keys():
        reasons.append(f"from {old.env_steps:,} to {run.env_steps:,} env steps")
    elif old.points.keys() - run.points.keys():
        return Change(run, "unchanged", path, "the store has more of this run")
    if run.note and run.note != old.note:
        reasons.append("note")
    if run.recordings.keys() - old.recordings.keys():
        reasons.append("recorded episodes")
    if run.provenance.get("evaluated", []) != old.provenance.get("evaluated", []):
        reasons.append("evaluations after training")
    recordings = {**old.recordings, **run.recordings}  # the run may have lost some since
    kept = replace(run, recordings=recordings, provenance={"note": old.note or None} | run.provenance)
    return Change(kept, "updated", path, ", ".join(reasons)) if reasons else Change(run, "unchanged", path)


def _check_settings(run: RunScores, others: Iterable[RunScores]) -> None:
    """Raise UserError if a run differs from others of its cell in a setting."""
    for other in others:
        if changed := changed_between(other, run):
            key, (theirs, ours) = next(iter(changed.items()))
            raise UserError(
                f"{run.source} has {key}={ours}, and seed {other.seed} in {other.source} has {theirs}: "
                "runs with different settings are not seeds of one method; use --name for another place"
            )


def _describe(run: RunScores) -> str:
    """The last score of a run in words."""
    commit = run.provenance.get("commit")
    origin = f", commit {str(commit)[:7]}" if commit else ""
    return f"{run.points[run.env_steps]:.4g} at {run.env_steps:,} env steps{origin}"


def _write(path: Path, runs: Sequence[RunScores]) -> None:
    """Write a CSV file, its provenance, and the recordings that come from run folders."""
    path.parent.mkdir(parents=True, exist_ok=True)
    runs = sorted(runs, key=lambda run: run.seed)
    about = _read_provenance(path) | {f"seed {run.seed}": _provenance(run) for run in runs}
    for run in runs:
        if run.source != path:
            _copy_recordings(run, path)
    files.write_file(path.with_suffix(".json"), (json.dumps(about, indent=1, sort_keys=True) + "\n").encode())
    table = io.StringIO()
    writer = csv.writer(table, lineterminator="\n")
    writer.writerows([COLUMNS, *(row for run in runs for row in _episode_rows(run))])
    files.write_file(path, table.getvalue().encode())


def _provenance(run: RunScores) -> dict[str, Any]:
    known = {"format": FORMAT, "name": run.name, "label": run.label, "budget": run.budget, "finished": run.finished}
    return {key: value for key, value in (run.provenance | known).items() if value is not None}


def _episode_rows(run: RunScores) -> Iterator[tuple[int, int, int | str, str, int]]:
    for env_steps, values in sorted(run.episodes.items()):
        if env_steps in run.averaged:
            yield run.seed, env_steps, "", repr(values[0]), run.averaged[env_steps]
        else:
            yield from ((run.seed, env_steps, episode, repr(value), 1) for episode, value in enumerate(values))


def _recordings(table: Path, seed: int, final: int) -> dict[int, Path]:
    """The recordings of a seed beside its table: those of earlier evaluations have the env steps in their names."""
    pattern = re.compile(rf"{re.escape(table.stem)}-seed{seed}-(\d+){re.escape(SUFFIX)}")
    matches = ((path, pattern.fullmatch(path.name)) for path in sorted(table.parent.glob(f"*{SUFFIX}")))
    latest = _recording_path(table, seed)
    earlier = {int(match[1]): path for path, match in matches if match}
    return dict(sorted((earlier | ({final: latest} if latest.exists() else {})).items()))


def _recording_path(table: Path, seed: int, env_steps: int | None = None) -> Path:
    """Where the store keeps a recording; without ``env_steps``, that of the latest evaluation."""
    middle = "" if env_steps is None else f"-{env_steps}"
    return table.with_name(f"{table.stem}-seed{seed}{middle}{SUFFIX}")


def _without_damaged_recordings(run: RunScores) -> RunScores:
    """The run with those recordings that can be read; a message says which ones are left out."""
    whole = {}
    for env_steps, path in run.recordings.items():
        try:
            parse(files.read_bytes(path, MAX_FILE_BYTES), path)
            whole[env_steps] = path
        except (OSError, UserError) as error:
            skip(f"the recorded episodes at {env_steps:,} env steps: {error}")
    return replace(run, recordings=whole)


def _copy_recordings(run: RunScores, table: Path) -> None:
    """Copy the recorded episodes of a new run. Those of a run that it replaces do not fit its scores: they go."""
    contents = {}  # all are read first, because some may be in the store, under a name that another one takes
    for env_steps, source in run.recordings.items():
        last = env_steps == run.env_steps
        target = _recording_path(table, run.seed, None if last else env_steps)
        contents[target] = files.read_bytes(source, MAX_FILE_BYTES, follow=source.parent == table.parent)
    for target, data in contents.items():
        files.write_file(target, data)
    for old in _recordings(table, run.seed, run.env_steps).values():
        if old not in contents:
            old.unlink()
