"""Adding runs to the store of scores: `mcurl collect`. A score is never replaced unless the user asks for it."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from mcurl import files
from mcurl.errors import UserError, printable
from mcurl.recording import MAX_FILE_BYTES, parse
from mcurl.report.scores import RunScores, cells, changed_between, one_per_seed, same_run, skip
from mcurl.report.store import COLUMNS, FORMAT, cell_path, load_cell, read_provenance, recording_path, recordings


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
    about = read_provenance(path) | {f"seed {run.seed}": _provenance(run) for run in runs}
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
        target = recording_path(table, run.seed, None if last else env_steps)
        contents[target] = files.read_bytes(source, MAX_FILE_BYTES, follow=source.parent == table.parent)
    for target, data in contents.items():
        files.write_file(target, data)
    for old in recordings(table, run.seed, run.env_steps).values():
        if old not in contents:
            old.unlink()
