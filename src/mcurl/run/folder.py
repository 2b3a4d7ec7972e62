"""The run folder: what was set, what was measured, and where to go on. A run is never overwritten or deleted.

<out>/<suite>-<task>/<method>-seed<k>/
    settings.json       every setting, resolved
    run.json            versions, commit, machine, command line; one entry more for every resume
    metrics.jsonl       one object a line, no wall-clock: the same seed gives the same file
    evaluations.csv     env_steps,episode,return
    speed.jsonl         what depends on the wall-clock
    tensorboard/        a view of the logs, where it was asked for
    checkpoints/<env_steps>/   the newest two and every final one
    replay/             files of the replay, which only grow
    lock                held by the process that trains
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import re
import shutil
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from mcurl.errors import UserError, suggest
from mcurl.run.checkpoint import load_tree, recover, save_tree, write_atomically, write_file
from mcurl.run.names import run_name
from mcurl.run.provenance import run_metadata

FORMAT = "mcurl-run"
KEPT = 2
"""Checkpoints that are kept beside the final ones: the newest may be the victim of a failing disk."""
_REWOUND = ("metrics.jsonl", "evaluations.csv")
"""Logs whose lines after a checkpoint are written again, identically, by the run that goes on from it."""


@dataclass(frozen=True)
class Checkpoint:
    """One saved moment of a run."""

    folder: Path

    @property
    def env_steps(self) -> int:
        return int(self.folder.name)

    @property
    def final(self) -> bool:
        """Saved at the end of a training, with the policy's weights apart in ``policy/``."""
        return (self.folder / "policy").is_dir()

    def load(self) -> Any:
        """The tree that was given to :meth:`Run.checkpoint`. Raises UserError where it is damaged, with the way out if
        there is an earlier one."""
        try:
            return load_tree(self.folder)
        except UserError as error:
            earlier = [other.name for other in self.folder.parent.glob("[0-9]*") if other.name < self.folder.name]
            way_out = f"; move {self.folder} away to go on from {int(max(earlier)):,} env steps" if earlier else ""
            raise UserError(f"{error}{way_out}") from error

    def load_policy(self) -> Any:
        """The policy's weights alone; of a final checkpoint only."""
        return load_tree(self.folder / "policy")

    def log_bytes(self) -> dict[str, int]:
        """Length of each log at that moment, in bytes."""
        return dict(_read(self.folder / "logs.json"))


class Run:
    """An open run folder. Use it as a context manager: leaving it closes the logs and lets go of the lock."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._logs: dict[str, Any] = {}
        self._lock: Any = None
        self._made: list[Path] = []

    @classmethod
    def create(cls, out: Path, settings: Mapping[str, Any], *, label: str = "") -> Self:
        """Make the folder of a new run, locked for training.

        Args:
            out: folder of all runs; made where it does not exist.
            settings: every setting as JSON values; ``task``, ``method``, ``agent`` and ``seed`` name the folder.
            label: name in tables and plots.

        Raises:
            UserError: the folder exists, or cannot be made.
        """
        folder = folder_of(out, settings)
        cls.refuse_existing(folder)
        made = [place for place in (folder, *folder.parents) if not place.exists()]
        about = _json({"format": FORMAT, "label": label, **run_metadata(), "resumed": []})
        try:
            folder.mkdir(parents=True)
            for name in ("checkpoints", "replay"):
                (folder / name).mkdir()
            (folder / "metrics.jsonl").touch()
            (folder / "evaluations.csv").write_text("env_steps,episode,return\n")
            write_file(folder / "settings.json", _json(settings))
            write_file(folder / "run.json", about)
        except OSError as error:
            raise UserError(f"cannot make {folder}: {error.strerror}") from error
        run = cls(folder)
        run._made = made
        run._take_lock()
        return run

    @classmethod
    def open(cls, path: Path, *, train: bool = False) -> Self:
        """Open a run.

        Args:
            train: take the lock and settle what a kill left; without it nothing in the folder is touched.

        Raises:
            UserError: ``path`` is no run (the nearest one is named), or another process trains in it.
        """
        if not _is_run(path):
            raise UserError(f"{path} is no run: {_nearest_runs(path)}")
        run = cls(path)
        if train:
            run._take_lock()
            for name in {re.sub(r"^\.|\.old$", "", old.name) for old in (path / "checkpoints").glob(".*.old")}:
                recover(path / "checkpoints" / name)
        return run

    @staticmethod
    def refuse_existing(folder: Path) -> None:
        """Raise UserError, with the ways to go on, where something stands at ``folder``."""
        if not folder.exists():
            return
        if _is_run(folder) and Run(folder).checkpoints():
            raise UserError(
                f"{folder} exists already: go on with `mcurl resume {folder}`, or give another --seed or --out"
            )
        raise UserError(f"{folder} exists already, without a checkpoint: move it away, or give another --seed or --out")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the logs and let go of the lock."""
        for log in (*self._logs.values(), *([self._lock] if self._lock else [])):
            log.close()
        self._logs, self._lock = {}, None

    @property
    def settings(self) -> dict[str, Any]:
        """The settings as JSON values, as they were given to :meth:`create`. Raises UserError where they are none of a
        run."""
        found = _read(self.folder / "settings.json")
        if missing := {"task", "method", "seed", "env_steps"} - found.keys():
            raise UserError(f"{self.folder / 'settings.json'} is damaged: {min(missing)} is missing")
        return found

    @property
    def env_steps(self) -> int:
        """The run's budget in simulator steps: that of its settings, or what it was extended to since. Schedules read
        the settings, not this."""
        return int(self.about.get("extended_to") or self.settings["env_steps"])

    @property
    def about(self) -> dict[str, Any]:
        """What ``run.json`` says: versions, commit, machine, command line, resumes."""
        return _read(self.folder / "run.json")

    @property
    def replay_folder(self) -> Path:
        """For the replay's own files, which only grow."""
        return self.folder / "replay"

    def note_resume(self, extend_to: int | None = None) -> None:
        """Add a line about this process to ``run.json``; with ``extend_to`` the budget grows to so many simulator
        steps."""
        about = self.about
        about.setdefault("resumed", []).append(run_metadata())
        if extend_to is not None:
            about["extended_to"] = extend_to
        write_file(self.folder / "run.json", _json(about))

    def note_compute(self, values: Mapping[str, Any]) -> None:
        """Note in ``run.json`` what the run computes with: threads in effect, accelerated layers that served, ..."""
        about = self.about
        if about.get("compute") != values:
            write_file(self.folder / "run.json", _json(about | {"compute": dict(values)}))

    @property
    def sinks(self) -> list[str]:
        """Names of the sinks that the run has beside its own files, for ``logger.make_sinks``."""
        return list(self.about.get("log", []))

    def add_sinks(self, names: Iterable[str]) -> None:
        """Note in ``run.json`` that the run has these sinks too, from now on and after every resume."""
        about = self.about
        before = about.get("log", [])
        about["log"] = list(dict.fromkeys([*before, *names]))
        if about["log"] != before:
            write_file(self.folder / "run.json", _json(about))

    def log(self, env_steps: int, metrics: Mapping[str, float]) -> None:
        """Add a line to ``metrics.jsonl``. Floats are exact; nothing here may depend on the wall-clock."""
        self._write("metrics.jsonl", json.dumps({"env_steps": env_steps, **metrics}))

    def log_speed(self, env_steps: int, values: Mapping[str, float]) -> None:
        """Add a line to ``speed.jsonl``: seconds, rates, memory."""
        self._write("speed.jsonl", json.dumps({"env_steps": env_steps, **values}))

    def log_evaluation(self, env_steps: int, returns: Iterable[float]) -> None:
        """Add the return of each episode to ``evaluations.csv``."""
        self._write(
            "evaluations.csv", *(f"{env_steps},{episode},{float(value)!r}" for episode, value in enumerate(returns))
        )

    def metrics(self) -> list[tuple[int, dict[str, float]]]:
        """Env steps and values of each line of ``metrics.jsonl``, as logged so far. Raises UserError where a line is
        damaged."""
        found = []
        for number, line in enumerate(self._whole_lines("metrics.jsonl"), 1):
            try:
                values = json.loads(line)
                found.append((int(values.pop("env_steps")), values))
            except (ValueError, KeyError, TypeError, AttributeError) as error:
                raise UserError(f"{self.folder / 'metrics.jsonl'} is damaged in line {number}: {error}") from error
        return found

    def evaluations(self, until: int | None = None) -> dict[int, list[float]]:
        """Env steps -> returns, as logged so far; up to ``until`` simulator steps."""
        found: dict[int, list[float]] = {}
        for line in self._whole_lines("evaluations.csv")[1:]:
            env_steps, _, value = line.split(",")
            if until is None or int(env_steps) <= until:
                found.setdefault(int(env_steps), []).append(float(value))
        return found

    def discard_if_empty(self) -> None:
        """Take back a run that this object made and that came to nothing: its folder goes, unless anything was logged
        or saved in it."""
        if (
            self._made
            and not self.checkpoints()
            and (self.folder / "metrics.jsonl").stat().st_size == 0
            and not self.evaluations()
        ):
            shutil.rmtree(self.folder)
            with contextlib.suppress(OSError):  # Another run is beside it.
                for parent in self._made[1:]:
                    parent.rmdir()

    def checkpoint(self, env_steps: int, tree: Any, policy: Any = None) -> Checkpoint:
        """Save a moment: at a kill, the run has either this checkpoint or the one before. Older ones are removed once
        it is in place.

        Args:
            env_steps: simulator steps taken; names the folder. One that exists is replaced.
            tree: for ``checkpoint.save_tree``. What the replay wrote must be on the disk before.
            policy: the policy's weights; given at the end of a training, and makes the checkpoint one that is kept for
                ever.
        """
        lengths = {name: self._sync(name) for name in _REWOUND}
        self._sync("speed.jsonl")

        def write(folder: Path) -> None:
            save_tree(folder, tree)
            write_file(folder / "logs.json", _json(lengths))
            if policy is not None:
                (folder / "policy").mkdir()
                save_tree(folder / "policy", policy)

        made = Checkpoint(self.folder / "checkpoints" / f"{env_steps:09d}")
        write_atomically(made.folder, write)
        self._remove_older()
        return made

    def checkpoints(self) -> list[Checkpoint]:
        """Whole checkpoints, the oldest first."""
        return [Checkpoint(folder) for folder in self._checkpoint_folders() if (folder / "state.json").exists()]

    def latest_checkpoint(self) -> Checkpoint:
        """The newest. Raises UserError where there is none yet."""
        found = self.checkpoints()
        if not found:
            raise UserError(
                f"{self.folder} has no checkpoint yet: wait for its first one or, if it was stopped before, "
                "train anew with another --seed or --out"
            )
        return found[-1]

    def rewind(self, checkpoint: Checkpoint) -> None:
        """Cut the logs back to the moment of a checkpoint, before training goes on from it. Raises UserError where a
        log lost lines since."""
        for name, length in checkpoint.log_bytes().items():
            path = self.folder / name
            if not path.exists() or path.stat().st_size < length:
                raise UserError(
                    f"{path} is shorter than at the checkpoint of {checkpoint.env_steps} env steps ({length} bytes): "
                    "it was changed from outside"
                )
        for name, length in checkpoint.log_bytes().items():
            os.truncate(self.folder / name, length)

    def _write(self, name: str, *lines: str) -> None:
        if name not in self._logs:
            self._logs[name] = (self.folder / name).open(
                "a", buffering=1
            )  # Whole lines reach the file, so that it can be followed.
        for line in lines:
            self._logs[name].write(line + "\n")

    def _whole_lines(self, name: str) -> list[str]:
        """Lines of a log, without the half that a kill may have left; none where there is no such log."""
        path = self.folder / name
        return path.read_text().rpartition("\n")[0].splitlines() if path.exists() else []

    def _sync(self, name: str) -> int:
        if not (self.folder / name).exists():
            return 0
        with (self.folder / name).open("ab") as file:
            os.fsync(file.fileno())
            return file.tell()

    def _checkpoint_folders(self) -> list[Path]:
        return sorted(path for path in (self.folder / "checkpoints").glob("*") if path.name.isdigit())

    def _remove_older(self) -> None:
        newest = {checkpoint.folder for checkpoint in self.checkpoints()[-KEPT:]}
        for folder in self._checkpoint_folders():
            if folder not in newest and not Checkpoint(folder).final:
                (folder / "state.json").unlink(missing_ok=True)  # First: half a removed checkpoint is none.
                shutil.rmtree(folder)

    def _take_lock(self) -> None:
        self._lock = (self.folder / "lock").open("a+")
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            self._lock.seek(0)
            holder = self._lock.read().strip()
            self.close()
            raise UserError(
                f"{self.folder} is being trained by another process" + (f" ({holder})" if holder else "")
            ) from error
        self._lock.truncate(0)
        self._lock.write(f"process {os.getpid()}")
        self._lock.flush()


def folder_of(out: Path, settings: Mapping[str, Any]) -> Path:
    """``<out>/<suite>-<task>/<method>-seed<k>``, whatever characters the names have.

    >>> str(folder_of(Path("runs"), {"task": "dmc/cartpole-swingup", "method": "mcurl", "seed": 1}))
    'runs/dmc-cartpole-swingup/mcurl-seed1'
    """
    task = re.sub(r"[^\w.-]+", "-", settings["task"])
    return out / task / f"{run_name(settings)}-seed{settings['seed']}"


def _is_run(path: Path) -> bool:
    """Both files, and ours: other programs have a ``settings.json`` too."""
    try:
        return (path / "settings.json").is_file() and _read(path / "run.json").get("format") == FORMAT
    except UserError:
        return False


def _nearest_runs(path: Path) -> str:
    """The nearest run in the first parent that has any; a folder above runs lists them."""
    for place in (path, *path.parents[:3]):
        found = [
            run.parent
            for depth in ("*", "*/*", "*/*/*")
            for run in place.glob(f"{depth}/run.json")
            if _is_run(run.parent)
        ]
        if found:
            return suggest(str(path), [str(run) for run in found], max_choices=4)
    return "there is no run near it"


def _read(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_bytes())
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}") from error
    except ValueError as error:
        raise UserError(f"{path} is damaged: {error}") from error
    if not isinstance(value, dict):
        raise UserError(f"{path} is damaged: it holds no object")
    return value


def _json(value: Any) -> str:
    return json.dumps(value, indent=2) + "\n"
