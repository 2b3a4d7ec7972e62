"""The run folder: settings, logs and checkpoints of a run. A run is never overwritten or deleted.

<out>/<suite>-<task>/<name>-seed<k>/      the name: the method and changed settings, or --name
    settings.json       all resolved settings
    run.json            name, label, versions, commit, machine, command line; one more entry for each resume
    metrics.jsonl       one JSON object per line, without times: the same seed gives the same file
    evaluations.csv     env_steps,episode,return
    episodes/<env_steps>.episodes   the episodes of the evaluations that give a score, to play them again
    results/<env_steps>-seed<k>-<n>episodes.json   what `mcurl evaluate` found, one file for each result
    speed.jsonl         wall-clock times
    tensorboard/        TensorBoard event files, with --log tensorboard
    checkpoints/<env_steps>/   the two latest checkpoints and all final ones
    replay/             files of the replay, to which new frames are appended
    lock                locked by the process that trains, and naming it
"""

from __future__ import annotations

import contextlib
import fcntl
import itertools
import json
import os
import platform
import re
import secrets
import shutil
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from mcurl.errors import UserError, suggest
from mcurl.recording import find_recordings, recording_path
from mcurl.run.checkpoint import load_tree, recover, save_tree, write_atomically, write_file
from mcurl.run.names import check_name, run_name
from mcurl.run.provenance import environment_packages, run_metadata
from mcurl.runtime.program import command_line

FORMAT = "mcurl-run"
RECENT_CHECKPOINTS = 2
"""Number of latest checkpoints to keep, in addition to final ones. The latest may be damaged by a disk failure."""
_EVALUATIONS_HEADER = "env_steps,episode,return\n"
_LOCK_ATTEMPTS = 4
_DETERMINISTIC_LOGS = ("metrics.jsonl", "evaluations.csv")
"""Logs that :meth:`Run.rewind` truncates; a resumed run writes the same lines again."""


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint of a run."""

    folder: Path
    """``checkpoints/<env_steps>`` in the run folder."""

    @property
    def env_steps(self) -> int:
        """Simulator steps at the checkpoint."""
        return int(self.folder.name)

    @property
    def final(self) -> bool:
        """Whether it was saved at the end of training, with the policy's weights in ``policy/``."""
        return (self.folder / "policy").is_dir()

    def load(self) -> Any:
        """Load the tree that was passed to :meth:`Run.checkpoint`.

        Raises:
            UserError: the checkpoint is damaged. If there is an earlier one, the message says how to use it.
        """
        try:
            return load_tree(self.folder)
        except UserError as error:
            earlier = [other.name for other in self.folder.parent.glob("[0-9]*") if other.name < self.folder.name]
            hint = f"; move {self.folder} away to resume from {int(max(earlier)):,} env steps" if earlier else ""
            raise UserError(f"{error}{hint}") from error

    def load_policy(self) -> Any:
        """Load the policy's weights of a final checkpoint. Raises UserError for other checkpoints."""
        return load_tree(self.folder / "policy")

    def log_bytes(self) -> dict[str, int]:
        """Name -> length in bytes of each log at the checkpoint."""
        return dict(_read(self.folder / "logs.json"))


class Run:
    """An open run folder. Use it as a context manager, which closes the logs and releases the lock at exit.

    Args:
        folder: path of an existing run folder; :meth:`create` and :meth:`open` check it.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._logs: dict[str, Any] = {}
        self._lock: Any = None
        self._owner = ""
        self._created: list[Path] = []

    @classmethod
    def create(cls, out: Path, settings: Mapping[str, Any], *, name: str | None = None, label: str = "") -> Self:
        """Create the folder of a new run, and lock it for training.

        Args:
            out: folder of all runs; it is created if it does not exist.
            settings: all settings as JSON values. The path of the folder contains ``task`` and ``seed``.
            name: name of the run in its folder and in results; None: the names of the method and of a user's agent.
            label: name in tables and plots; empty: ``name``.

        Raises:
            UserError: the folder exists, or cannot be created, or the name does not fit into its path.
        """
        folder = run_folder(out, settings, name)
        name = name or run_name(settings)
        cls.refuse_existing(folder)
        created = [path for path in (folder, *folder.parents) if not path.exists()]
        metadata = _json({"format": FORMAT, "name": name, "label": label or name, **run_metadata(), "resumed": []})
        # Other processes see the folder when it is complete and locked.
        draft = folder.with_name(f".{folder.name}.{os.getpid()}")
        try:
            for subfolder in ("checkpoints", "replay"):
                (draft / subfolder).mkdir(parents=True)
            (draft / "metrics.jsonl").touch()
            (draft / "evaluations.csv").write_text(_EVALUATIONS_HEADER)
            write_file(draft / "settings.json", _json(settings))
            write_file(draft / "run.json", metadata)
            run = cls(draft)
            run._acquire_lock()
            draft.rename(folder)
        except OSError as error:
            shutil.rmtree(draft, ignore_errors=True)
            cls.refuse_existing(folder)
            raise UserError(f"cannot create {folder}: {error.strerror}") from error
        run.folder, run._created = folder, created
        return run

    @classmethod
    def open(cls, path: Path, *, train: bool = False) -> Self:
        """Open a run.

        Args:
            path: path of the run folder.
            train: lock the folder for training, and clean up after a killed process. Otherwise nothing in the folder
                is changed.

        Raises:
            UserError: ``path`` is not a run folder, or another process trains this run.
        """
        if not is_run(path):
            raise UserError(f"{path} is not a run folder: {_suggest_runs(path)}")
        run = cls(path)
        if train:
            run._acquire_lock()
            for name in {re.sub(r"^\.|\.old$", "", old.name) for old in (path / "checkpoints").glob(".*.old")}:
                recover(path / "checkpoints" / name)
        return run

    @staticmethod
    def refuse_existing(folder: Path) -> None:
        """Raise UserError if ``folder`` exists. The message says how to resume its run, or how to avoid it."""
        if not folder.exists():
            return
        if is_run(folder) and Run(folder).resumable:
            again = command_line("resume", folder)
            raise UserError(f"{folder} exists already: use `{again}`, or another --seed, --name or --out")
        message = "without a checkpoint: move it away, or use another --seed, --name or --out"
        raise UserError(f"{folder} exists already, {message}")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the logs and release the lock."""
        for log in (*self._logs.values(), *([self._lock] if self._lock else [])):
            log.close()
        self._logs, self._lock = {}, None

    @property
    def locked(self) -> bool:
        """Whether a process trains this run. Nothing is changed."""
        try:
            with (self.folder / "lock").open() as file:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        except FileNotFoundError:
            return False
        return False

    @property
    def resumable(self) -> bool:
        """Whether training can continue: from a checkpoint or, if there never was one, from the beginning."""
        return bool(self.checkpoints()) or not self._had_checkpoint()

    @property
    def settings(self) -> dict[str, Any]:
        """The settings as JSON values, as they were passed to :meth:`create`. Raises UserError if they are damaged."""
        settings = _read(self.folder / "settings.json")
        if missing := {"task", "method", "seed", "env_steps"} - settings.keys():
            raise UserError(f"{self.folder / 'settings.json'} is damaged: {min(missing)} is missing")
        return settings

    @property
    def name(self) -> str:
        """The name of the run, which its folder, results and plots contain."""
        return str(self.metadata.get("name") or run_name(self.settings))

    @property
    def env_steps(self) -> int:
        """The budget in simulator steps: of the settings, or of the last extension.

        Schedules do not use it. Their horizon is the budget of the settings.
        """
        return int(self.metadata.get("extended_to") or self.settings["env_steps"])

    @property
    def metadata(self) -> dict[str, Any]:
        """The contents of ``run.json``: versions, commit, machine, command line, resumes."""
        return _read(self.folder / "run.json")

    @property
    def replay_folder(self) -> Path:
        """The folder of the replay's files."""
        return self.folder / "replay"

    def record_resume(self, extend_to: int | None = None) -> None:
        """Add the metadata of this process to ``run.json``.

        Args:
            extend_to: new budget in simulator steps; None: the budget is not changed.
        """
        metadata = self.metadata
        metadata.setdefault("resumed", []).append(run_metadata())
        if extend_to is not None:
            metadata["extended_to"] = extend_to
        write_file(self.folder / "run.json", _json(metadata))

    def record_compute(self, values: Mapping[str, Any]) -> None:
        """Write to ``run.json`` what the run computes with, see :func:`mcurl.runtime.device.compute_metadata`."""
        metadata = self.metadata
        if metadata.get("compute") != values:
            write_file(self.folder / "run.json", _json(metadata | {"compute": dict(values)}))

    def record_environment(self, entry_point: object) -> None:
        """Write to ``run.json`` the versions of the packages that provide the environment.

        Args:
            entry_point: see :func:`mcurl.run.provenance.environment_packages`.
        """
        metadata = self.metadata
        if metadata.get("environment") != (packages := environment_packages(entry_point)):
            write_file(self.folder / "run.json", _json(metadata | {"environment": packages}))

    @property
    def sinks(self) -> list[str]:
        """Names of the run's additional sinks, for :func:`mcurl.run.logger.make_sinks`."""
        return list(self.metadata.get("log", []))

    def add_sinks(self, names: Iterable[str]) -> None:
        """Add sinks to ``run.json``, so that the run uses them now and after each resume."""
        metadata = self.metadata
        previous = metadata.get("log", [])
        metadata["log"] = list(dict.fromkeys([*previous, *names]))
        if metadata["log"] != previous:
            write_file(self.folder / "run.json", _json(metadata))

    def log(self, env_steps: int, metrics: Mapping[str, float]) -> None:
        """Add a line to ``metrics.jsonl``. Floats are exact. The values must not depend on wall-clock time."""
        self._write("metrics.jsonl", json.dumps({"env_steps": env_steps, **metrics}))

    def log_speed(self, env_steps: int, values: Mapping[str, float]) -> None:
        """Add a line to ``speed.jsonl``."""
        self._write("speed.jsonl", json.dumps({"env_steps": env_steps, **values}))

    def log_evaluation(self, env_steps: int, returns: Iterable[float]) -> None:
        """Add the return of each episode to ``evaluations.csv``."""
        self._write(
            "evaluations.csv", *(f"{env_steps},{episode},{float(value)!r}" for episode, value in enumerate(returns))
        )

    def metrics(self) -> list[tuple[int, dict[str, float]]]:
        """Env steps and values of each line of ``metrics.jsonl``. Raises UserError if a line is damaged."""
        metrics = []
        for number, line in enumerate(self._whole_lines("metrics.jsonl"), 1):
            try:
                values = json.loads(line)
                metrics.append((int(values.pop("env_steps")), values))
            except (ValueError, KeyError, TypeError, AttributeError) as error:
                raise UserError(f"{self.folder / 'metrics.jsonl'} is damaged in line {number}: {error}") from error
        return metrics

    def evaluations(self, until: int | None = None) -> dict[int, list[float]]:
        """Env steps -> returns of the evaluations so far, or up to ``until`` simulator steps.

        Raises:
            UserError: a line is damaged.
        """
        evaluations: dict[int, list[float]] = {}
        for number, line in enumerate(self._whole_lines("evaluations.csv")[1:], 2):
            try:
                env_steps, _, value = line.split(",")
                if until is None or int(env_steps) <= until:
                    evaluations.setdefault(int(env_steps), []).append(float(value))
            except ValueError as error:
                raise UserError(f"{self.folder / 'evaluations.csv'} is damaged in line {number}: {error}") from error
        return evaluations

    def save_recording(self, env_steps: int, data: bytes) -> None:
        """Write the recorded episodes of an evaluation, see :meth:`mcurl.recording.Recording.to_bytes`."""
        path = recording_path(self.folder, env_steps)
        path.parent.mkdir(exist_ok=True)
        write_file(path, data)

    def keep_result(self, env_steps: int, seed: int, values: Mapping[str, Any]) -> Path:
        """Keep the result of an evaluation after training, in ``results``. No file is overwritten.

        Args:
            env_steps: simulator steps of training before the evaluation.
            seed: seed of the episodes.
            values: the result as JSON values, with ``returns``.

        Returns:
            The new file, or the one that holds the same result already.
        """
        folder = self.folder / "results"
        folder.mkdir(exist_ok=True)
        stem, text = f"{env_steps:09d}-seed{seed}-{len(values['returns'])}episodes", _json(values)
        for number in itertools.count(1):
            path = folder / f"{stem}{f'-{number}' if number > 1 else ''}.json"
            with contextlib.suppress(FileExistsError), path.open("x") as file:
                file.write(text)
                return path
            if path.read_text() == text:
                return path
        raise AssertionError

    def discard_if_empty(self) -> None:
        """Delete the run folder if this object created it, and nothing was logged or saved in it."""
        if (
            self._created
            and self._holder() == self._owner
            and not self.checkpoints()
            and (self.folder / "metrics.jsonl").stat().st_size == 0
            and not self.evaluations()
        ):
            shutil.rmtree(self.folder)
            with contextlib.suppress(OSError):  # the parent folder contains another run
                for parent in self._created[1:]:
                    parent.rmdir()

    def check_owner(self) -> None:
        """Raise UserError if another process took over the training of this run.

        This happens only on a file system whose locks do not hold across machines, after a scheduler has given up a
        machine that still computes. This process must not write to the folder any more.
        """
        if self._lock is not None and (holder := self._holder()) != self._owner:
            raise UserError(f"{self.folder} is trained by {_another(holder)} now: this process stops without saving")

    def checkpoint(self, env_steps: int, tree: Any, policy: Any = None) -> Checkpoint:
        """Save a checkpoint, and delete older ones.

        If the process is killed meanwhile, the previous checkpoint remains.

        Args:
            env_steps: simulator steps so far; the name of the folder. An existing checkpoint is replaced.
            tree: see :func:`mcurl.run.checkpoint.save_tree`. The files of the replay must be synced before.
            policy: the policy's weights, in the same form. A checkpoint with a policy is final, and is never deleted.

        Raises:
            UserError: another process took over the run, see :meth:`check_owner`. Nothing is saved.
        """
        self.check_owner()
        lengths = {name: self._sync(name) for name in _DETERMINISTIC_LOGS}
        self._sync("speed.jsonl")

        def write(folder: Path) -> None:
            save_tree(folder, tree)
            write_file(folder / "logs.json", _json(lengths))
            if policy is not None:
                (folder / "policy").mkdir()
                save_tree(folder / "policy", policy)
            self.check_owner()  # again, because writing takes seconds

        checkpoint = Checkpoint(self.folder / "checkpoints" / f"{env_steps:09d}")
        write_atomically(checkpoint.folder, write)
        self._remove_older()
        return checkpoint

    def checkpoints(self) -> list[Checkpoint]:
        """The complete checkpoints, oldest first."""
        return [Checkpoint(folder) for folder in self._checkpoint_folders() if (folder / "state.json").exists()]

    def latest_checkpoint(self) -> Checkpoint:
        """The latest complete checkpoint. Raises UserError if there is none yet."""
        checkpoints = self.checkpoints()
        if not checkpoints:
            if self.resumable:
                again = command_line("resume", self.folder)
                hint = f"wait for the first one or, if the run was stopped before it, use `{again}`"
            else:
                hint = "they were removed, so start a new run with another --seed, --name or --out"
            raise UserError(f"{self.folder} has no checkpoint{' yet' if self.resumable else ''}: {hint}")
        return checkpoints[-1]

    def check_budget(self, env_steps: int | None) -> Checkpoint | None:
        """Check that something remains to train.

        Args:
            env_steps: the new budget in simulator steps; None: the run's own.

        Returns:
            The checkpoint from which training continues; None if it starts from the beginning.

        Raises:
            UserError: nothing remains to train, the new budget is too small, or the checkpoints were removed.
        """
        checkpoint = None if self.resumable and not self.checkpoints() else self.latest_checkpoint()
        steps = checkpoint.env_steps if checkpoint else 0
        if env_steps is not None and (env_steps <= steps or env_steps < self.env_steps):
            current = f"a budget of {self.env_steps:,}" if env_steps > steps else f"{steps:,}"
            raise UserError(f"{self.folder} has {current} env steps already: --env-steps must be above {env_steps:,}")
        if env_steps is None and checkpoint and checkpoint.final and steps >= self.env_steps:
            raise UserError(f"{self.folder} is complete with {steps:,} env steps: use a larger --env-steps to continue")
        return checkpoint

    def checkpoint_at(self, env_steps: int) -> Checkpoint:
        """The complete checkpoint at this number of simulator steps. Raises UserError if there is none."""
        self.latest_checkpoint()
        for checkpoint in self.checkpoints():
            if checkpoint.env_steps == env_steps:
                return checkpoint
        there = ", ".join(f"{checkpoint.env_steps:,}" for checkpoint in self.checkpoints())
        raise UserError(f"{self.folder} has no checkpoint at {env_steps:,} env steps: there are {there}")

    def rewind(self, checkpoint: Checkpoint) -> None:
        """Cut the logs back to their length at a checkpoint, before training continues from it.

        Each log becomes a new file. So a process that still has the old one open cannot write to it, see
        :meth:`check_owner`.

        Recordings of later evaluations are deleted; the resumed run writes them again.

        Raises:
            UserError: a log is shorter than at the checkpoint. No log is changed.
        """
        for name, length in checkpoint.log_bytes().items():
            path = self.folder / name
            if not path.exists() or path.stat().st_size < length:
                raise UserError(
                    f"{path} is shorter than at the checkpoint of {checkpoint.env_steps} env steps ({length} bytes): "
                    "another program changed it"
                )
        for name, length in checkpoint.log_bytes().items():
            with (self.folder / name).open("rb") as log:
                write_file(self.folder / name, log.read(length))
        for env_steps, path in find_recordings(self.folder).items():
            if env_steps > checkpoint.env_steps:
                path.unlink()

    def restart(self) -> None:
        """Empty the logs of a run that was stopped before its first checkpoint, to train from the beginning.

        Raises:
            UserError: the run once had a checkpoint.
        """
        if not self.resumable:
            self.latest_checkpoint()
        write_file(self.folder / "metrics.jsonl", "")
        write_file(self.folder / "evaluations.csv", _EVALUATIONS_HEADER)
        for path in find_recordings(self.folder).values():
            path.unlink()

    def _write(self, name: str, *lines: str) -> None:
        if name not in self._logs:
            self.check_owner()
            # Line buffering, so that readers of the log see complete lines.
            self._logs[name] = (self.folder / name).open("a", buffering=1)
        for line in lines:
            self._logs[name].write(line + "\n")

    def _whole_lines(self, name: str) -> list[str]:
        """The complete lines of a log, which may end in an incomplete one after a kill; empty if there is no log."""
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
        newest = {checkpoint.folder for checkpoint in self.checkpoints()[-RECENT_CHECKPOINTS:]}
        for folder in self._checkpoint_folders():
            if folder not in newest and not Checkpoint(folder).final:
                # Delete this file first: a checkpoint without it does not count.
                (folder / "state.json").unlink(missing_ok=True)
                shutil.rmtree(folder)

    def _acquire_lock(self) -> None:
        """Lock the folder for training. Raises UserError if another process holds the lock."""
        self._lock = (self.folder / "lock").open("a+")
        try:
            self._try_lock()
        except OSError as error:
            self.close()
            raise UserError(f"{self.folder} is being trained by {_another(self._holder())}") from error
        self._owner = f"process {os.getpid()} on {platform.node()}, {secrets.token_hex(8)}"
        self._lock.truncate(0)
        self._lock.write(self._owner)
        self._lock.flush()
        os.fsync(self._lock.fileno())

    def _holder(self) -> str:
        """What the last process that locked the folder wrote into ``lock``."""
        # Opened anew: NFS compares a file with the server's when it is opened.
        with contextlib.suppress(OSError):
            return (self.folder / "lock").read_text()
        return ""

    def _had_checkpoint(self) -> bool:
        """Whether there was a checkpoint, although its files may be gone."""
        every = self.settings.get("checkpoint", {}).get("every", 0)
        # Runs of older versions do not record what they compute with.
        return "compute" in self.metadata or 0 < every < max(self.evaluations(), default=0)

    def _try_lock(self) -> None:
        """Lock the file. Tries again for a moment, because :attr:`locked` of another process locks it too."""
        for attempt in range(_LOCK_ATTEMPTS):
            try:
                fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return
            except BlockingIOError:
                if attempt == _LOCK_ATTEMPTS - 1:
                    raise
                time.sleep(0.05)


def run_folder(out: Path, settings: Mapping[str, Any], name: str | None = None) -> Path:
    """Path of a run's folder: ``<out>/<suite>-<task>/<name>-seed<k>``, with only the characters of file names.

    Raises UserError if the name does not fit into a path. None: the names of the method and of a user's agent.

    >>> str(run_folder(Path("runs"), {"task": "dmc/cartpole-swingup", "method": "mcurl", "seed": 1}))
    'runs/dmc-cartpole-swingup/mcurl-seed1'
    """
    task = re.sub(r"[^\w.-]+", "-", settings["task"])
    return out / task / f"{check_name(name) if name is not None else run_name(settings)}-seed{settings['seed']}"


def _another(holder: str) -> str:
    return f"another process ({holder.partition(',')[0]})" if holder else "another process"


def is_run(path: Path) -> bool:
    """Whether a path is a run folder. The format in ``run.json`` excludes folders of other programs."""
    try:
        return (path / "settings.json").is_file() and _read(path / "run.json").get("format") == FORMAT
    except UserError:
        return False


def _suggest_runs(path: Path) -> str:
    """Suggest runs below ``path``, or below its first parent that contains runs."""
    for folder in (path, *path.parents[:3]):
        runs = [
            run.parent
            for depth in ("*", "*/*", "*/*/*")
            for run in folder.glob(f"{depth}/run.json")
            if is_run(run.parent)
        ]
        if runs:
            return suggest(str(path), [str(run) for run in runs], max_choices=4)
    return "there are no runs nearby"


def _read(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_bytes())
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}") from error
    except ValueError as error:
        raise UserError(f"{path} is damaged: {error}") from error
    if not isinstance(value, dict):
        raise UserError(f"{path} is damaged: it is not a JSON object")
    return value


def _json(value: Any) -> str:
    return json.dumps(value, indent=2) + "\n"
