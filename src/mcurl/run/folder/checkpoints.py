"""The checkpoints of a run.

checkpoints/<env_steps>/
    state.safetensors, state.json   the state of training, see mcurl.run.checkpoint
    policy/                         the policy's weights, in final checkpoints
    settings.json                   a copy of the run's settings
    manifest.json                   the lengths and checksums of the files above, and of the logs up to here

Checkpoints of older versions have ``logs.json``, the lengths of the logs, instead of the last two.
"""

from __future__ import annotations

import itertools
import os
import re
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mcurl.errors import UserError, argument
from mcurl.files import TEXT_BYTES, own_folder, read_bytes, read_object, real_folder, write_file
from mcurl.run.checkpoint import load_tree, recover, save_tree, write_atomically
from mcurl.run.folder.documents import Span, read_sealed, seal

RECENT_CHECKPOINTS = 2
"""Number of latest checkpoints to keep, in addition to final ones. The latest may be damaged by a disk failure."""
ASIDE = ".aside"
"""Suffix of what training left behind when it was continued from an earlier checkpoint. It does not count."""
_FORMAT, _VERSION = "mcurl-checkpoint", 2
_STATE, _POLICY, _SETTINGS, _MANIFEST = "state.json", "policy/state.json", "settings.json", "manifest.json"
_OLD_LOGS = "logs.json"


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
        """Load the tree that was passed to :meth:`mcurl.run.folder.Run.checkpoint`.

        Raises:
            UserError: the checkpoint is damaged. If there is an earlier one, the message says how to use it.
        """
        with self._earlier_named():
            self._check(_STATE)
            return load_tree(self.folder)

    def load_policy(self) -> Any:
        """Load the policy's weights of a final checkpoint. Raises UserError for other checkpoints."""
        self._check(_POLICY)
        return load_tree(self.folder / "policy")

    def logs(self) -> dict[str, Span]:
        """Name -> span of each log up to the checkpoint. Raises UserError if the checkpoint is damaged."""
        with self._earlier_named():
            values = self._manifest()
            try:
                return {str(name): Span.from_json(value) for name, value in values["logs"].items()}
            except (ValueError, KeyError, TypeError, AttributeError) as error:
                raise UserError(f"{self._manifest_path} is damaged: {error}") from error

    def settings(self) -> dict[str, Any] | None:
        """The run's settings at the checkpoint, as JSON values; None if it is of an older version."""
        if self._manifest_path.name == _OLD_LOGS:
            return None
        with self._earlier_named():
            self._check(_SETTINGS)
            return read_object(self.settings_path)

    @property
    def settings_path(self) -> Path:
        """The copy of the run's settings."""
        return self.folder / _SETTINGS

    @property
    def _manifest_path(self) -> Path:
        older = (self.folder / _OLD_LOGS).exists() and not (self.folder / _MANIFEST).exists()
        return self.folder / (_OLD_LOGS if older else _MANIFEST)

    def _manifest(self) -> dict[str, Any]:
        """What the checkpoint vouches for. Raises UserError if it is damaged, or of another checkpoint."""
        path = self._manifest_path
        if path.name == _OLD_LOGS:
            return {"logs": read_object(path), "files": {}}
        values = read_sealed(path, _FORMAT, _VERSION)
        if values.get("env_steps") != self.env_steps:
            raise UserError(f"{path} belongs to the checkpoint of {values.get('env_steps')} env steps")
        return values

    def _check(self, name: str) -> None:
        """Raise UserError if a file is not the one that was written with the checkpoint."""
        path, files = self.folder / name, self._manifest().get("files")
        if self._manifest_path.name == _OLD_LOGS:
            return
        try:
            span = Span.from_json(files[name]) if isinstance(files, dict) and name in files else None
            whole = span is not None and span.holds(read_bytes(path, TEXT_BYTES))
        except OSError as error:
            raise UserError(f"{path} cannot be read: {error.strerror}") from error
        except (ValueError, KeyError, TypeError) as error:
            raise UserError(f"{self._manifest_path} is damaged: {error}") from error
        if not whole:
            raise UserError(f"{path} is damaged, or belongs to another checkpoint: its checksum does not match")

    @contextmanager
    def _earlier_named(self) -> Iterator[None]:
        """A context manager that adds to a UserError how the checkpoint before this one is used."""
        try:
            yield
        except UserError as error:
            raise UserError(f"{error}{earlier_hint(self)}") from error


def earlier_hint(checkpoint: Checkpoint) -> str:
    """How the checkpoint before a damaged one is used; empty if there is none."""
    complete = Checkpoints(checkpoint.folder.parent).complete()
    earlier = [other.env_steps for other in complete if other.env_steps < checkpoint.env_steps]
    return f"; the one before it is used with {argument('checkpoint', max(earlier))}" if earlier else ""


class Checkpoints:
    """The folder of a run's checkpoints.

    Args:
        folder: ``checkpoints`` in the run folder.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def complete(self) -> list[Checkpoint]:
        """The complete checkpoints, oldest first."""
        return [Checkpoint(folder) for folder in self._folders() if (folder / _STATE).is_file()]

    def check_readable(self) -> None:
        """Raise UserError if something is in the folder's place whose entries cannot be listed."""
        try:
            if os.path.lexists(self.folder):
                os.listdir(self.folder)
        except OSError as error:
            raise UserError(f"{self.folder} cannot be read: {error.strerror}") from error

    def recover(self) -> None:
        """Clean up after a process that was killed while it replaced a checkpoint."""
        for old in self.folder.glob(".*.old"):
            if (match := re.fullmatch(r"\.([0-9]{9,})\.old", old.name)) and _is_ours(old):
                recover(self.folder / match[1])

    def save(
        self,
        env_steps: int,
        tree: Any,
        policy: Any,
        *,
        logs: Mapping[str, Span],
        settings: bytes,
        check: Callable[[], None],
    ) -> Checkpoint:
        """Save a checkpoint, and delete older ones. If the process is killed meanwhile, the previous one remains.

        Args:
            env_steps: simulator steps so far; the name of the folder. An existing checkpoint is replaced.
            tree: see :func:`mcurl.run.checkpoint.save_tree`.
            policy: the policy's weights; None: the checkpoint is not final.
            logs: see :meth:`mcurl.run.folder.logs.Logs.sync`.
            settings: the content of the run's ``settings.json``.
            check: called after everything is written; raises an exception if the checkpoint must not be kept.
        """

        def write(folder: Path) -> None:
            save_tree(folder, tree)
            if policy is not None:
                (folder / "policy").mkdir()
                save_tree(folder / "policy", policy)
            write_file(folder / _SETTINGS, settings)
            names = (_STATE, _SETTINGS, *([] if policy is None else [_POLICY]))
            manifest = {
                "format": _FORMAT,
                "version": _VERSION,
                "env_steps": env_steps,
                "logs": {name: span.to_json() for name, span in logs.items()},
                "files": {name: Span.of((folder / name).read_bytes()).to_json() for name in names},
            }
            write_file(folder / _MANIFEST, seal(manifest))
            check()

        checkpoint = Checkpoint(own_folder(self.folder) / f"{env_steps:09d}")
        name = checkpoint.folder.name
        for path in (checkpoint.folder, *(self.folder / f".{name}.{word}" for word in ("new", "old"))):
            if path.exists() and not _is_ours(path):
                _set_aside(path)
        write_atomically(checkpoint.folder, write)
        self._remove_older()
        return checkpoint

    def after(self, checkpoint: Checkpoint) -> list[Path]:
        """The folders of all later checkpoints."""
        return [folder for folder in self._folders() if int(folder.name) > checkpoint.env_steps]

    def set_aside_after(self, checkpoint: Checkpoint) -> list[Path]:
        """Rename all later checkpoints, before training is continued from this one. Returns their new paths."""
        return [_set_aside(folder) for folder in self.after(checkpoint)]

    def has_remains(self) -> bool:
        """Whether there is anything that may have been a checkpoint, or a part of one."""
        return any(not re.fullmatch(r"\.[0-9]+\.new", path.name) for path in self.folder.glob("*"))

    def renamed(self) -> list[Path]:
        """Folders that hold a checkpoint under another name, which do not count."""
        known = set(self._folders())
        return sorted(file.parent for file in self.folder.glob(f"*/{_STATE}") if file.parent not in known)

    def _folders(self) -> list[Path]:
        return sorted(
            path for path in self.folder.glob("*") if re.fullmatch(r"[0-9]{9,15}", path.name) and real_folder(path)
        )

    def _remove_older(self) -> None:
        newest = {checkpoint.folder for checkpoint in self.complete()[-RECENT_CHECKPOINTS:]}
        for folder in self._folders():
            if folder not in newest and not Checkpoint(folder).final and _is_ours(folder):
                # Delete this file first: a checkpoint without it does not count.
                (folder / _STATE).unlink(missing_ok=True)
                shutil.rmtree(folder)


def _is_ours(folder: Path) -> bool:
    """Whether there is nothing in a folder but the files of a checkpoint."""
    known = {_STATE, "state.safetensors", "policy", _SETTINGS, _MANIFEST, _OLD_LOGS}
    if not real_folder(folder):
        return False
    # A kill while a checkpoint is written leaves temporary files with hidden names.
    return all(path.name in known or path.name.startswith(".") for path in folder.iterdir())


def _set_aside(path: Path) -> Path:
    """Rename a file or folder, so that it does not count as a checkpoint. Returns its new path."""
    target = free_name_aside(path)
    path.rename(target)
    return target


def free_name_aside(path: Path) -> Path:
    """The first of ``NAME.aside``, ``NAME.aside-2``, ... that is not in use, for what training left behind."""
    names = (path.with_name(f"{path.name}{ASIDE}{f'-{number}' if number > 1 else ''}") for number in itertools.count(1))
    return next(name for name in names if not os.path.lexists(name))
