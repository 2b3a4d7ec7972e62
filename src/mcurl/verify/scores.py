"""Which scores are to be verified in results folders, run folders and files, and what the files say about each."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

from mcurl import files
from mcurl.config.tasks import methods
from mcurl.errors import UserError
from mcurl.published.scores import is_score
from mcurl.recording import SUFFIX, DamagedError, Recording, episode_seed, find_recordings, read
from mcurl.report.scores import RunScores
from mcurl.report.store import COLUMNS, MEAN_COLUMNS, load_cell
from mcurl.run.evaluations import read_evaluations
from mcurl.run.format import NewerError, check_run, check_settings_unchanged
from mcurl.run.names import action_repeat, check_settings
from mcurl.verify.replay import Mismatch


@dataclass(frozen=True)
class RecordedScore:
    """A score that is to be verified, or whose episodes were not recorded."""

    title: str
    """Benchmark, name, task and seed."""
    recording: Path | None
    """The file of its episodes; None: not recorded."""
    expected: Expected | None = None
    """What the results or the run say; None for a file of its own."""
    damage: str = ""
    """Why the table or the run folder cannot be read; then ``recording`` is that path."""

    @property
    def stem(self) -> str:
        """The title with only the characters of file names, for names of pictures."""
        return re.sub(r"[^\w.]+", "-", self.title)


@dataclass(frozen=True)
class Expected:
    """What the results or the run folder say about the episodes."""

    source: Path
    """The file with the returns."""
    task: str
    """``suite/name``; ``*/name`` if the suite is not known."""
    seed: int
    """Seed of the run."""
    env_steps: int | None
    """Simulator steps of training; None: one of those in ``returns``."""
    returns: dict[int, list[float]]
    """Env steps -> return of each episode, or their mean."""
    episodes: dict[int, int]
    """Env steps -> number of episodes."""
    env: dict[str, Any] | None = None
    """Settings of the environment; None: unknown."""
    method: str | None = None
    """The method of the run; None: unknown."""
    checkpoints: Path | None = None
    """The folder of the run's checkpoints."""


def find(paths: Iterable[Path]) -> list[RecordedScore]:
    """All scores in results folders, run folders, folders that contain them, and files.

    Raises:
        UserError: a path does not exist, or contains no scores.
    """
    scores: list[RecordedScore] = []
    for path in paths:
        found = list(_find(path))
        if not found:
            raise UserError(f"there is nothing to verify in {path}: no results, no run folders, no *{SUFFIX} files")
        scores += [score for score in found if score not in scores]
    return scores


def _find(path: Path) -> Iterator[RecordedScore]:
    if path.is_file():
        yield from _file(path)
        return
    if not path.is_dir():
        raise UserError(f"{path} does not exist")
    runs = files.find_folders(path, "run.json")
    for run in runs:
        yield from _run(run)
    tables = sorted(
        file for file in path.glob("**/*.csv") if not any(run in file.parents for run in runs) and _is_table(file)
    )
    for table in tables:
        yield from _table(table)
    known = {file for table in tables for file in _recordings_beside(table)}
    for file in sorted(path.glob(f"**/*{SUFFIX}")):
        if file not in known and not any(run in file.parents for run in runs):
            yield _alone(file)


def _file(path: Path) -> Iterator[RecordedScore]:
    """The score of one file: of its table or its run folder, if it lies in one."""
    if path.parent.name == "episodes" and (path.parents[1] / "run.json").is_file():
        yield from (score for score in _run(path.parents[1]) if score.recording == path or score.damage)
        return
    for table in sorted(path.parent.glob("*.csv")):
        if path in _recordings_beside(table):
            yield from (score for score in _table(table) if score.recording == path or score.damage)
            return
    yield _alone(path)


def _alone(recording: Path) -> RecordedScore:
    """A recording without a table."""
    if table := _lost_table(recording):
        return RecordedScore(str(recording), recording, damage=f"{table} with its score is missing")
    return RecordedScore(str(recording), recording)


# Run folders


def _run(folder: Path) -> Iterator[RecordedScore]:
    try:
        settings = files.read_object(folder / "settings.json")
        check_run(folder, metadata := files.read_object(folder / "run.json"))
        check_settings(settings)
        check_settings_unchanged(folder, settings, metadata)
        returns = read_evaluations(folder)
        task, seed, env = settings["task"], settings["seed"], settings.get("env")
        method, budget = settings["method"], settings["env_steps"]
        if not isinstance(env, dict):
            raise UserError("env is not a table of settings")
    except UserError as error:
        reason = str(error) if isinstance(error, NewerError) else f"the run folder is damaged: {error}"
        yield RecordedScore(str(folder), folder, damage=reason)
        return
    recordings = find_recordings(folder)
    for env_steps, path in recordings.items():
        episodes = {steps: len(values) for steps, values in returns.items()}
        source, checkpoints = folder / "evaluations.csv", folder / "checkpoints"
        expected = Expected(source, task, seed, env_steps, returns, episodes, env, method, checkpoints)
        yield RecordedScore(f"{folder} at {env_steps:,} env steps", path, expected)
    if not recordings:
        yield RecordedScore(str(folder), None)
        return
    for env_steps in returns:
        if env_steps not in recordings and is_score(task, env_steps, action_repeat(env), budget):
            yield RecordedScore(f"{folder} at {env_steps:,} env steps", None)


# Results


_RECORDING = re.compile(rf"(.+?)-seed(\d+)(-\d+)?{re.escape(SUFFIX)}")
"""``<task>-seed<k>.episodes``, ``<task>-seed<k>-<env_steps>.episodes``."""


def _recordings_beside(table: Path) -> dict[Path, int]:
    """Recording -> seed, of the files ``<task>-seed<k>.episodes`` and ``<task>-seed<k>-<env_steps>.episodes``."""
    matches = ((path, _RECORDING.fullmatch(path.name)) for path in sorted(table.parent.glob(f"*{SUFFIX}")))
    return {path: int(match[2]) for path, match in matches if match and match[1] == table.stem}


def _lost_table(recording: Path) -> Path | None:
    """The table that a recording belongs to, if what is known of its runs is beside it, but the table is missing."""
    match = _RECORDING.fullmatch(recording.name)
    if match is None:
        return None
    table = recording.with_name(f"{match[1]}.csv")
    return table if table.with_suffix(".json").exists() and not table.exists() else None


def _is_table(path: Path) -> bool:
    """Whether a CSV file is one of a results folder: by its columns, or by the files beside it."""
    try:
        with files.open_plain(path, follow=True) as file:
            columns = tuple(file.readline(1000).decode("utf-8", "replace").strip().split(","))
    except (OSError, UserError):
        return False
    return columns in (COLUMNS, MEAN_COLUMNS) or path.with_suffix(".json").exists() or bool(_recordings_beside(path))


def _table(table: Path) -> Iterator[RecordedScore]:
    """The scores of one ``<benchmark>/<name>/<task>.csv``: its seeds, in ascending order."""
    try:
        runs = {run.seed: run for run in load_cell(table.resolve())}
    except UserError as error:
        yield RecordedScore(str(table), table, damage=str(error))
        return
    recordings = _recordings_beside(table)
    for seed in sorted({*runs, *recordings.values()}):
        title = f"{table.with_suffix('')} seed {seed}"
        if seed in runs:
            yield from _seed(runs[seed], table, title)
        else:
            for path in (path for path, number in recordings.items() if number == seed):
                yield RecordedScore(title, path, Expected(table, f"*/{table.stem}", seed, None, {}, {}))


def _seed(run: RunScores, table: Path, title: str) -> Iterator[RecordedScore]:
    """The scores of one seed of a table. Each evaluation that tables show as a score needs a recording of its own."""
    if not run.recordings:
        yield RecordedScore(title, None)
        return
    for env_steps, path in run.recordings.items():
        beside = table.with_name(path.name)  # as the user wrote the path of the table
        yield RecordedScore(f"{title} at {env_steps:,} env steps", beside, _expected(run, table, env_steps))
    for env_steps in run.scored:
        if env_steps not in run.recordings:
            yield RecordedScore(f"{title} at {env_steps:,} env steps", None)


def _expected(run: RunScores, table: Path, env_steps: int) -> Expected:
    counts = {steps: run.number_of_episodes(steps) for steps in run.episodes}
    task = str(run.settings.get("task", f"*/{run.task}"))
    method = run.settings.get("method") or (run.name if run.name in methods() else None)
    return Expected(table, task, run.seed, env_steps, run.episodes, counts, run.settings.get("env"), method)


# Checks without the simulator


def load(score: RecordedScore) -> Recording:
    """Read the recording of a score, and check it against the results or the run.

    Raises:
        Mismatch: the recording or the table is damaged, or they do not belong together.
        UserError: a file of its own is not a recording.
    """
    assert score.recording is not None
    if score.damage:
        raise Mismatch(score.damage)
    try:
        recording = read(score.recording)
    except DamagedError as error:
        raise Mismatch(str(error)) from error
    except UserError as error:
        if score.expected is None:
            raise
        raise Mismatch(str(error)) from error
    _check_seeds(recording)
    if score.expected is not None:
        _check_expected(recording, score.expected)
    return recording


def _check_seeds(recording: Recording) -> None:
    """The seeds of the episodes follow from the run's seed and env steps, so nobody chose them."""
    for episode, seed in enumerate(recording.seeds):
        if seed != (derived := episode_seed(recording.seed, recording.env_steps, episode)):
            raise Mismatch(f"episode {episode} has the seed {seed}, not {derived}, which follows from the run's seed")


def _check_expected(recording: Recording, expected: Expected) -> None:
    source, env_steps = expected.source, recording.env_steps
    suite, _, task = expected.task.partition("/")
    if task != recording.task.partition("/")[2] or suite not in ("*", recording.task.partition("/")[0]):
        raise Mismatch(f"the episodes are of {recording.task}, the score of {expected.task.removeprefix('*/')}")
    if recording.seed != expected.seed:
        raise Mismatch(f"the episodes are of seed {recording.seed}, the score of seed {expected.seed}")
    if expected.method not in (None, recording.method):
        raise Mismatch(f"the episodes are of {recording.method}, the score of {expected.method}")
    if expected.env_steps not in (None, env_steps):
        raise Mismatch(f"the episodes are of {env_steps:,} env steps, the score of {expected.env_steps:,}")
    if env_steps not in expected.returns:
        raise Mismatch(f"the episodes are of {env_steps:,} env steps, for which {source} has no score")
    if expected.env is not None and expected.env != dict(recording.env):
        keys = sorted(key for key in {*expected.env, *recording.env} if _differs(key, expected.env, recording.env))
        raise Mismatch(f"the episodes have other settings of the environment than the run: {', '.join(keys)}")
    _check_returns(recording, expected.returns[env_steps], expected.episodes[env_steps], source)
    if expected.checkpoints is not None:
        _check_policy(recording, expected.checkpoints / f"{env_steps:09d}" / "policy")


def _differs(key: str, a: Any, b: Any) -> bool:
    return bool(a.get(key) != b.get(key))


def _check_returns(recording: Recording, values: Sequence[float], episodes: int, source: Path) -> None:
    """The table has the return of each episode, or their mean."""
    if episodes != recording.episodes:
        raise Mismatch(f"{recording.episodes} episodes are recorded, but {source} has {episodes}")
    single = len(values) == recording.episodes
    if list(values) != (list(recording.returns) if single else [fmean(recording.returns)]):
        raise Mismatch(f"the score in {source} is {fmean(values)!r}, that of the episodes {fmean(recording.returns)!r}")


def _check_policy(recording: Recording, folder: Path) -> None:
    """The weights in the final checkpoint of a run are those that played."""
    if not folder.is_dir():
        return
    from mcurl.run.checkpoint import load_tree, tree_hash

    try:
        policy = tree_hash(load_tree(folder))
    except UserError as error:
        raise Mismatch(str(error)) from error
    if policy != recording.policy:
        raise Mismatch(f"the weights in {folder} are not those that played the episodes")
