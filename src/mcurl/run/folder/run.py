"""An open run folder."""

from __future__ import annotations

import contextlib
import json
import shlex
import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Self

from mcurl.errors import UserError, argument, call_or_command, printable
from mcurl.files import JSON_BYTES, own_folder, read_bytes, read_object, write_file
from mcurl.recording import recording_path
from mcurl.run.evaluations import read_evaluations
from mcurl.run.folder.checkpoints import Checkpoint, Checkpoints, free_name_aside
from mcurl.run.folder.create import make_folder, remove_empty
from mcurl.run.folder.documents import Span, differences, seal
from mcurl.run.folder.lock import Lock
from mcurl.run.folder.logs import EVALUATIONS, METRICS, SPEED, Logs
from mcurl.run.folder.own import check_own
from mcurl.run.folder.paths import as_json, is_run, run_folder, suggest_runs
from mcurl.run.folder.results import keep_result, kept_results
from mcurl.run.format import FORMAT, VERSION, check_run, check_seal, check_settings_unchanged, settings_crc32
from mcurl.run.names import MAX_STEPS, check_name, check_settings, run_name, user_modules
from mcurl.run.provenance import environment_packages, run_metadata
from mcurl.runtime.program import command_line


class SettingsChangedError(UserError):
    """The settings of a run are not those that a checkpoint was made with."""


class Run:
    """An open run folder. Use it as a context manager, which closes the logs and releases the lock at exit.

    Args:
        folder: path of an existing run folder; :meth:`create` and :meth:`open` check it.

    Attributes:
        folder: path of the run folder.
        begun_anew: whether :meth:`create` found a run that was stopped before its first checkpoint.
        reached: the checkpoint that this object saved last, or from which it continued; None: none so far.
    """

    def __init__(self, folder: Path) -> None:
        self.reached: Checkpoint | None = None
        self.begun_anew = False
        self._created: list[Path] = []
        self._settings: bytes | None = None
        self._use(folder, Lock(folder))

    def _use(self, folder: Path, lock: Lock) -> None:
        self.folder, self._lock = folder, lock
        lock.folder = folder
        self._logs = Logs(folder, self.check_owner, self._vouched_bytes)
        self._checkpoints = Checkpoints(folder / "checkpoints")

    @classmethod
    def create(cls, out: Path, settings: Mapping[str, Any], *, name: str | None = None, label: str = "") -> Self:
        """Create the folder of a new run, and lock it for training.

        Args:
            out: folder of all runs; it is created if it does not exist.
            settings: all settings as JSON values. The path of the folder contains ``task`` and ``seed``.
            name: name of the run in its folder and in results; None: the names of the method and of a user's agent.
            label: name in tables and plots; empty: ``name``.

        What is left of a run with these settings that was stopped before its first checkpoint is begun anew, see
        :attr:`begun_anew`.

        Raises:
            UserError: the folder exists, or cannot be created, or the name does not fit into its path.
        """
        folder = run_folder(out, settings, name)
        name = name or run_name(settings)
        cls.refuse_existing(folder, settings)
        about = {"name": name, "label": label or name, "settings_crc32": settings_crc32(settings), **run_metadata()}
        metadata = seal({"format": FORMAT, "version": VERSION, **about, "resumed": []})
        if folder.exists():
            return cls._begin_anew(folder, metadata)
        try:
            lock, created = make_folder(folder, {"settings.json": as_json(settings), "run.json": metadata})
        except OSError as error:
            cls.refuse_existing(folder, settings)
            raise UserError(f"cannot create {folder}: {error.strerror}") from error
        run = cls(folder)
        run._use(folder, lock)
        run._created, run._settings = created, as_json(settings).encode()
        return run

    @classmethod
    def _begin_anew(cls, folder: Path, metadata: str) -> Self:
        """Lock and empty the folder of a run that was stopped before its first checkpoint."""
        run = cls.open(folder, train=True)
        try:
            run.restart()
            write_file(folder / "run.json", metadata)
        except BaseException:
            run.close()
            raise
        run.begun_anew = True
        return run

    @classmethod
    def open(cls, path: Path, *, train: bool = False) -> Self:
        """Open a run.

        Args:
            path: path of the run folder.
            train: lock the folder for training, and clean up after a killed process. Otherwise nothing in the folder
                is changed.

        Raises:
            UserError: ``path`` is not a run folder, or was written by a newer version; or, to train, another process
                trains this run, or a link is in the place of what it writes.
        """
        run = cls(path)
        if not is_run(path):
            run._check_parts()
            raise UserError(f"{path} is not a run folder: {suggest_runs(path)}")
        check_run(path, run.metadata)
        if train:
            check_own(path)
            check_seal(path / "run.json", run.metadata)
            run._lock.acquire()
            run._checkpoints.recover()
            run._settings = read_bytes(path / "settings.json", JSON_BYTES)
        return run

    def _check_parts(self) -> None:
        """Raise UserError if the folder is that of a run, but its settings or metadata are missing or damaged."""
        if self.checkpoints() and (self.folder / "lock").is_file():
            read_object(self.folder / "run.json")
            self.settings  # noqa: B018

    @staticmethod
    def refuse_existing(folder: Path, settings: Mapping[str, Any]) -> None:
        """Raise UserError if ``folder`` exists. The message says how to resume its run, or how to avoid it.

        A run with the same settings that never had a checkpoint is not refused, unless a process trains it.
        """
        if not folder.exists():
            return
        if is_run(folder) and (run := Run(folder)).resumable:
            if not run.checkpoints() and run.settings == json.loads(as_json(settings)) and not run.locked:
                return
            again = call_or_command(f"mcurl.resume({str(folder)!r})", run.command("resume"))
            raise UserError(f"{folder} exists already: use `{again}`, or another {_elsewhere()}")
        message = f"without a checkpoint: move it away, or use another {_elsewhere()}"
        raise UserError(f"{folder} exists already, {message}")

    def command(self, name: str, *words: object) -> str:
        """The command line that a user can type to resume or evaluate the run, with the modules that it needs."""
        try:
            modules = user_modules(self.settings)
        except UserError:  # the command itself says what is wrong
            modules = []
        options = [word for module in modules for word in ("--import", module)]
        return printable(command_line(name, self.folder, *words, *options))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the logs and release the lock."""
        self._logs.close()
        self._lock.release()

    @property
    def lock_note(self) -> str:
        """What to tell the user of the lock; empty if this object holds it as it should."""
        return self._lock.note

    @property
    def locked(self) -> bool:
        """Whether a process trains this run. Nothing is changed."""
        return self._lock.held_by_another

    @property
    def resumable(self) -> bool:
        """Whether training can continue: from a checkpoint or, if there never was one, from the beginning."""
        return bool(self.checkpoints()) or not self._had_checkpoint()

    @property
    def settings(self) -> dict[str, Any]:
        """The settings as JSON values, as they were passed to :meth:`create`. Raises UserError if they are damaged."""
        path = self.folder / "settings.json"
        try:
            settings = read_object(path)
            check_settings(settings)
        except UserError as error:
            text = str(error)
            error = error if str(path) in text else UserError(f"{path} is damaged: {text}")
            copies = [checkpoint.settings_path for checkpoint in self.checkpoints()]
            hint = next((f"; a copy is in {copy}" for copy in reversed(copies) if copy.is_file()), "")
            raise UserError(f"{error}{hint}") from error
        return settings

    def check_settings(self, checkpoint: Checkpoint | None) -> list[str]:
        """Check that the settings are those that the run was trained with.

        Args:
            checkpoint: from which training continues, or whose policy is used; None: from the beginning.

        Returns:
            What was changed in the section ``compute``, in words. It may change the arithmetic, not what is computed.

        Raises:
            SettingsChangedError: another setting was changed.
            UserError: the settings or the checkpoint are damaged.
        """
        path, settings = self.folder / "settings.json", self.settings
        before = checkpoint.settings() if checkpoint else None
        if checkpoint is None or before is None:
            check_settings_unchanged(self.folder, settings, self.metadata)
            return []
        changes = differences(before, settings)
        if changed := [text for name, text in changes.items() if not name.startswith("compute.")]:
            since = f"was changed since the checkpoint at {checkpoint.env_steps:,} env steps"
            copy = f"cp {shlex.quote(str(checkpoint.settings_path))} {shlex.quote(str(path))}"
            raise SettingsChangedError(f"{path} {since}: {'; '.join(changed[:3])}. To put the settings back: {copy}")
        return list(changes.values())

    @property
    def name(self) -> str:
        """The name of the run, which its folder, results and plots contain."""
        return check_name(str(self.metadata.get("name") or run_name(self.settings)))

    @property
    def env_steps(self) -> int:
        """The budget in simulator steps: of the settings, or of the last extension.

        Schedules do not use it. Their horizon is the budget of the settings.
        """
        budget = self.metadata.get("extended_to") or self.settings["env_steps"]
        if type(budget) is not int or not 1 <= budget <= MAX_STEPS:
            raise UserError(f"{self.folder / 'run.json'} is damaged: extended_to is not a whole number from 1")
        return budget

    @property
    def metadata(self) -> dict[str, Any]:
        """The contents of ``run.json``: versions, commit, machine, command line, resumes."""
        return read_object(self.folder / "run.json")

    @property
    def replay_folder(self) -> Path:
        """The folder of the replay's files."""
        return self.folder / "replay"

    def record_resume(self, extend_to: int | None = None) -> None:
        """Add the metadata of this process to ``run.json``.

        Args:
            extend_to: new budget in simulator steps; None: the budget is not changed.
        """
        before = self.metadata.get("resumed")
        resumed = [*(before if isinstance(before, list) else []), run_metadata()]
        self._record({"resumed": resumed} | ({} if extend_to is None else {"extended_to": extend_to}))

    def record_compute(self, values: Mapping[str, Any]) -> None:
        """Write to ``run.json`` what the run computes with, see :func:`mcurl.runtime.device.compute_metadata`."""
        if self.metadata.get("compute") != values:
            self._record({"compute": dict(values)})

    def record_environment(self, entry_point: object) -> None:
        """Write to ``run.json`` the versions of the packages that provide the environment.

        Args:
            entry_point: see :func:`mcurl.run.provenance.environment_packages`.
        """
        if self.metadata.get("environment") != (packages := environment_packages(entry_point)):
            self._record({"environment": packages})

    def _record(self, values: Mapping[str, Any]) -> None:
        """Set values in ``run.json``."""
        metadata = self.metadata
        check_seal(self.folder / "run.json", metadata)
        write_file(self.folder / "run.json", seal(metadata | {"version": VERSION, **values}))

    @property
    def sinks(self) -> list[str]:
        """Names of the run's additional sinks, for :func:`mcurl.run.logger.make_sinks`."""
        names = self.metadata.get("log", [])
        if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
            raise UserError(f"{self.folder / 'run.json'} is damaged: log is not a list of names")
        return names

    def add_sinks(self, names: Iterable[str]) -> None:
        """Add sinks to ``run.json``, so that the run uses them now and after each resume."""
        previous = self.sinks
        if (sinks := list(dict.fromkeys([*previous, *names]))) != previous:
            self._record({"log": sinks})

    def log(self, env_steps: int, metrics: Mapping[str, float]) -> None:
        """Add a line to ``metrics.jsonl``. Floats are exact. The values must not depend on wall-clock time."""
        self._logs.write(METRICS, json.dumps({"env_steps": env_steps, **metrics}))

    def log_speed(self, env_steps: int, values: Mapping[str, float]) -> None:
        """Add a line to ``speed.jsonl``."""
        self._logs.write(SPEED, json.dumps({"env_steps": env_steps, **values}))

    def log_evaluation(self, env_steps: int, returns: Iterable[float]) -> None:
        """Add the return of each episode to ``evaluations.csv``."""
        self._logs.write(
            EVALUATIONS, *(f"{env_steps},{episode},{float(value)!r}" for episode, value in enumerate(returns))
        )

    def metrics(self) -> list[tuple[int, dict[str, float]]]:
        """Env steps and values of each line of ``metrics.jsonl``. Raises UserError if a line is damaged."""
        return self._logs.metrics()

    def evaluations(self, until: int | None = None) -> dict[int, list[float]]:
        """Env steps -> returns of the evaluations so far, or up to ``until`` simulator steps."""
        return self._logs.evaluations(until)

    def checked_evaluations(self) -> dict[int, list[float]]:
        """As :meth:`evaluations`. Raises UserError if the file does not begin as at the newest checkpoint, too."""
        return read_evaluations(self.folder)

    def save_recording(self, env_steps: int, data: bytes) -> None:
        """Write the recorded episodes of an evaluation, see :meth:`mcurl.recording.Recording.to_bytes`.

        Raises:
            UserError: this process must not write any more, see :meth:`check_owner`, or a link is in the place.
        """
        self.check_owner()
        path = recording_path(self.folder, env_steps)
        own_folder(path.parent)
        write_file(path, data)

    def keep_result(self, env_steps: int, seed: int, values: Mapping[str, Any]) -> Path:
        """Keep the result of an evaluation after training: see :func:`mcurl.run.folder.results.keep_result`."""
        return keep_result(self.folder, env_steps, seed, values)

    def results(self) -> list[dict[str, Any]]:
        """The results that :meth:`keep_result` kept, by file name. Raises UserError if one is damaged."""
        return kept_results(self.folder)

    def discard_if_empty(self) -> None:
        """Delete the run folder if this object created it, and nothing was logged or saved in it."""
        if (
            self._created
            and self._lock.is_last_owner
            and not self.checkpoints()
            and (self.folder / METRICS).stat().st_size == 0
            and not self.evaluations()
        ):
            shutil.rmtree(self.folder)
            remove_empty(self._created[1:])

    def check_owner(self) -> None:
        """Raise UserError if another process took over the training of this run.

        This happens only on a file system whose locks do not hold across machines, after a scheduler has given up a
        machine that still computes. This process must not write to the folder any more.
        """
        self._lock.check()

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
        settings = self._settings if self._settings is not None else (self.folder / "settings.json").read_bytes()
        # check_owner again at the end, because writing takes seconds.
        self.reached = self._checkpoints.save(
            env_steps, tree, policy, logs=self._logs.sync(), settings=settings, check=self.check_owner
        )
        return self.reached

    def checkpoints(self) -> list[Checkpoint]:
        """The complete checkpoints, oldest first."""
        return self._checkpoints.complete()

    def latest_checkpoint(self) -> Checkpoint:
        """The latest complete checkpoint. Raises UserError if there is none yet."""
        checkpoints = self.checkpoints()
        if not checkpoints:
            self._checkpoints.check_readable()
            if self.resumable:
                again = call_or_command(f"mcurl.resume({str(self.folder)!r})", self.command("resume"))
                hint = f"wait for the first one or, if the run was stopped before it, use `{again}`"
            elif renamed := self._checkpoints.renamed():
                hint = (
                    f"they were renamed: {', '.join(map(str, renamed[:3]))}; give one its name back, such as 000100000"
                )
            else:
                hint = f"they were removed, so start a new run with another {_elsewhere()}"
            raise UserError(f"{self.folder} has no checkpoint{' yet' if self.resumable else ''}: {hint}")
        return checkpoints[-1]

    def check_budget(self, env_steps: int | None, at: int | None = None) -> Checkpoint | None:
        """Check that something remains to train.

        Args:
            env_steps: the new budget in simulator steps; None: the run's own.
            at: simulator steps of the checkpoint from which training continues; None: the latest.

        Returns:
            The checkpoint from which training continues; None if it starts from the beginning.

        Raises:
            UserError: nothing remains to train, the new budget is too small, or there is no such checkpoint.
        """
        checkpoint = self.start(at)
        steps = checkpoint.env_steps if checkpoint else 0
        if env_steps is not None and (env_steps <= steps or env_steps < self.env_steps):
            current = f"a budget of {self.env_steps:,}" if env_steps > steps else f"{steps:,}"
            enough = f"at least {self.env_steps:,}" if steps < self.env_steps else f"above {steps:,}"
            least = f"{argument('env_steps')} must be {enough}"
            raise UserError(f"{self.folder} has {current} env steps already: {least}")
        if env_steps is None and checkpoint and checkpoint.final and steps >= self.env_steps:
            more = f"use a larger {argument('env_steps')} to continue"
            raise UserError(f"{self.folder} is complete with {steps:,} env steps: {more}")
        return checkpoint

    def checkpoint_at(self, env_steps: int) -> Checkpoint:
        """The complete checkpoint at this number of simulator steps. Raises UserError if there is none."""
        self.latest_checkpoint()
        for checkpoint in self.checkpoints():
            if checkpoint.env_steps == env_steps:
                return checkpoint
        there = ", ".join(f"{checkpoint.env_steps:,}" for checkpoint in self.checkpoints())
        raise UserError(f"{self.folder} has no checkpoint at {env_steps:,} env steps: there are {there}")

    def start(self, at: int | None = None) -> Checkpoint | None:
        """The checkpoint from which training continues; None if it starts from the beginning.

        Args:
            at: simulator steps of the checkpoint; None: the latest.

        Raises:
            UserError: there is no such checkpoint, or the checkpoints were removed.
        """
        if at is not None:
            return self.checkpoint_at(at)
        return None if self.resumable and not self.checkpoints() else self.latest_checkpoint()

    def rewind(self, checkpoint: Checkpoint) -> list[Path]:
        """Cut the logs back to their length at a checkpoint, before training continues from it.

        Each log becomes a new file. So a process that still has the old one open cannot write to it, see
        :meth:`check_owner`.

        Recordings of later evaluations are deleted; the resumed run writes them again. Later checkpoints are renamed,
        because their rows of the replay will be gone. If there are any, logs and recordings are first copied to
        ``logs.aside``. If the process is killed meanwhile, it can be done again.

        Returns:
            Where the later checkpoints and the copy of the logs are now; empty if there were no later checkpoints.

        Raises:
            UserError: a log is not as at the checkpoint. Nothing is changed.
        """
        spans = checkpoint.logs()
        self._logs.check(spans, checkpoint.env_steps)
        aside = []
        if self._checkpoints.after(checkpoint):
            copy = free_name_aside(self.folder / "logs")
            self._logs.copy(copy)
            aside = [*self._checkpoints.set_aside_after(checkpoint), copy]
        self._logs.rewind(spans, checkpoint.env_steps)
        self.reached = checkpoint
        return aside

    def restart(self) -> None:
        """Empty the logs of a run that was stopped before its first checkpoint, to train from the beginning.

        Raises:
            UserError: the run once had a checkpoint.
        """
        if self.checkpoints() or not self.resumable:
            raise UserError(f"{self.folder} has or had a checkpoint: it cannot begin anew")
        self._logs.restart()

    def _had_checkpoint(self) -> bool:
        """Whether there was a checkpoint, although its files may be gone."""
        if self._checkpoints.has_remains():
            return True
        # Runs of older versions do not record what they compute with.
        if "compute" in self.metadata:
            return True
        every = self._whole_number("checkpoint", "every")
        step = self._whole_number("env", "action_repeat") or self._whole_number("env", "frame_skip") or 1
        # An evaluation within the agent step of the first checkpoint is made before it.
        return 0 < every <= max(self.evaluations(), default=0) - step

    def _whole_number(self, section: str, name: str) -> int:
        """The value of a setting; 0 if it is missing, or no whole number."""
        values = self.settings.get(section, {})
        value = values.get(name, 0) if isinstance(values, dict) else 0
        return value if type(value) is int else 0

    def _vouched_bytes(self, name: str) -> int:
        """The length of a log at the latest checkpoint whose files can be read; 0 if there is none."""
        for checkpoint in reversed(self.checkpoints()):
            with contextlib.suppress(UserError):
                return checkpoint.logs().get(name, Span()).length
        return 0


def _elsewhere() -> str:
    """The arguments with which a new run has another folder."""
    seed, name, out = map(argument, ("seed", "name", "out"))
    return f"{seed}, {name} or {out}"
