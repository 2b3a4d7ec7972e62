"""``mcurl verify``: verifies the scores in some paths, and prints a line for each."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from mcurl.errors import UserError, printable
from mcurl.pictures import pyav
from mcurl.recording import Recording
from mcurl.verify import scores
from mcurl.verify.pool import ReplayTask, import_modules, play_all
from mcurl.verify.replay import Mismatch, env_settings
from mcurl.verify.scores import RecordedScore


@dataclass(frozen=True)
class Show:
    """Where the best and the median episode of each score are shown."""

    picture: Path | None = None
    """Folder of contact sheets; None: none."""
    video: Path | None = None
    """Folder of videos; None: none."""

    def files(self, score: RecordedScore, recording: Recording) -> dict[int, list[Path]]:
        """Episode -> the files that show it."""
        files: dict[int, list[Path]] = {}
        for label, episode in recording.best_and_median().items():
            for folder, suffix in ((self.picture, ".png"), (self.video, ".mp4")):
                if folder is not None:
                    files.setdefault(episode, []).append(folder / f"{score.stem}-{label}{suffix}")
        return files


def verify(
    paths: Sequence[Path],
    *,
    jobs: int,
    modules: Sequence[str] = (),
    show: Show | None = None,
    keep_going: bool = False,
    strict: bool = False,
) -> int:
    """Verify all scores in some paths.

    Args:
        paths: results folders, run folders and files.
        jobs: number of processes, at least 1.
        modules: modules with the user's own environments.
        show: where the best and the median episodes are shown; None: nowhere.
        keep_going: do not stop at the first score that does not come out.
        strict: a score without recorded episodes fails.

    Returns:
        The exit status: 0, or 1 if a score does not come out or, with ``strict``, is not recorded.

    Raises:
        UserError: there is nothing to verify, an environment cannot be made, or a picture exists already.
    """
    found = scores.find(paths)
    recorded = [score for score in found if score.recording is not None]
    missing = [score.title for score in found if score.recording is None]
    if not recorded:
        count = "the score has no" if len(missing) == 1 else f"none of the {len(missing)} scores has"
        raise UserError(f"{count} recorded episodes: `mcurl evaluate RUN --final --record` records those of a run")
    if show is not None and show.video is not None:
        pyav()
    import_modules(modules)
    tasks, failures = _check_files(recorded, modules, show or Show(), keep_going)
    verified = 0
    if keep_going or not failures:
        for task, outcome in play_all(tasks, jobs, modules):
            if isinstance(outcome, Mismatch):
                failures += 1
                _print_failure(task.score, outcome)
                if not keep_going:
                    break
            else:
                verified += 1
                _print_success(task, outcome)
    for title in missing:
        print(f"{printable(title)}: not recorded")
    total = f"{verified} of {len(recorded)} recorded scores verified"
    total += f", {failures} failed" if failures else ""
    total += f", {len(missing)} not recorded" if missing else ""
    print(total)
    return 1 if failures or (strict and missing) else 0


def _check_files(
    recorded: Sequence[RecordedScore], modules: Sequence[str], show: Show, keep_going: bool
) -> tuple[list[ReplayTask], int]:
    """Read all recordings, and check what needs no simulator.

    Returns:
        What is to be played, and the number of failures.
    """
    tasks: list[ReplayTask] = []
    failures = 0
    for score in recorded:
        try:
            recording = scores.load(score)
        except Mismatch as mismatch:
            failures += 1
            _print_failure(score, mismatch)
            if not keep_going:
                break
        else:
            env_settings(recording, modules)
            tasks.append(ReplayTask(score, recording, show.files(score, recording)))
    for path in (path for task in tasks for paths in task.shown.values() for path in paths):
        if path.exists():
            raise UserError(f"{path} exists already: use another folder")
        path.parent.mkdir(parents=True, exist_ok=True)
    return tasks, failures


def _print_failure(score: RecordedScore, mismatch: Mismatch) -> None:
    print(f"mcurl: {printable(score.title)} does not come out: {printable(str(mismatch))}", file=sys.stderr, flush=True)


def _print_success(task: ReplayTask, deviation: float) -> None:
    title, accuracy = printable(task.score.title), "exactly" if deviation == 0 else f"within {deviation:.0e}"
    recording, expected = task.recording, task.score.expected
    unknown = "; the settings of the environment are not beside it" if expected and expected.env is None else ""
    print(f"{title}: {recording.score:.2f} over {recording.episodes} episodes, {accuracy}{unknown}", flush=True)
    for episode, paths in task.shown.items():
        for path in paths:
            print(f"  {path}: episode {episode}, return {recording.returns[episode]:.2f}", flush=True)
