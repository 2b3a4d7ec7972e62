"""The checkpoints of a run."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mcurl.errors import UserError
from mcurl.run.checkpoint import load_tree, recover, save_tree, write_atomically, write_file
from mcurl.run.folder.paths import as_json, read_object

RECENT_CHECKPOINTS = 2
"""Number of latest checkpoints to keep, in addition to final ones. The latest may be damaged by a disk failure."""


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
        return dict(read_object(self.folder / "logs.json"))


class Checkpoints:
    """The folder of a run's checkpoints.

    Args:
        folder: ``checkpoints`` in the run folder.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def complete(self) -> list[Checkpoint]:
        """The complete checkpoints, oldest first."""
        return [Checkpoint(folder) for folder in self._folders() if (folder / "state.json").exists()]

    def recover(self) -> None:
        """Clean up after a process that was killed while it replaced a checkpoint."""
        for name in {re.sub(r"^\.|\.old$", "", old.name) for old in self.folder.glob(".*.old")}:
            recover(self.folder / name)

    def save(
        self, env_steps: int, tree: Any, policy: Any, logs: Mapping[str, int], check: Callable[[], None]
    ) -> Checkpoint:
        """Save a checkpoint, and delete older ones. If the process is killed meanwhile, the previous one remains.

        Args:
            env_steps: simulator steps so far; the name of the folder. An existing checkpoint is replaced.
            tree: see :func:`mcurl.run.checkpoint.save_tree`.
            policy: the policy's weights; None: the checkpoint is not final.
            logs: see :meth:`mcurl.run.folder.logs.Logs.sync`.
            check: called after everything is written; raises an exception if the checkpoint must not be kept.
        """

        def write(folder: Path) -> None:
            save_tree(folder, tree)
            write_file(folder / "logs.json", as_json(logs))
            if policy is not None:
                (folder / "policy").mkdir()
                save_tree(folder / "policy", policy)
            check()

        checkpoint = Checkpoint(self.folder / f"{env_steps:09d}")
        write_atomically(checkpoint.folder, write)
        self._remove_older()
        return checkpoint

    def _folders(self) -> list[Path]:
        return sorted(path for path in self.folder.glob("*") if path.name.isdigit())

    def _remove_older(self) -> None:
        newest = {checkpoint.folder for checkpoint in self.complete()[-RECENT_CHECKPOINTS:]}
        for folder in self._folders():
            if folder not in newest and not Checkpoint(folder).final:
                # Delete this file first: a checkpoint without it does not count.
                (folder / "state.json").unlink(missing_ok=True)
                shutil.rmtree(folder)
