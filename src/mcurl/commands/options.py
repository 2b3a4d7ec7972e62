"""What several commands read from their options."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from mcurl.errors import UserError

if TYPE_CHECKING:
    from mcurl.config.settings import TrainSettings
    from mcurl.run.folder import Checkpoint, Run


def open_run(path: Path, *, train: bool = False) -> Run:
    """Open the run that a command names, see :meth:`Run.open`. Raises UserError if it is none."""
    from mcurl.run.folder import Run, is_run

    if not is_run(path) and os.path.exists(path / "config.json"):
        from mcurl.export.folder import is_export  # takes seconds

        if is_export(path):
            raise UserError(f"{path} is an exported policy, not a run folder: `mcurl.load` in Python opens it")
    return Run.open(path, train=train)


def chosen_checkpoint(run: Run, env_steps: str | None) -> Checkpoint:
    """The checkpoint of --checkpoint; the latest one without it."""
    from mcurl.config.fields import read_value

    if env_steps is None:
        return run.latest_checkpoint()
    return run.checkpoint_at(read_value("--checkpoint", int, env_steps))


def import_from_current_folder() -> None:
    """Let modules that the user names on the command line lie in the current folder.

    Modules in the settings of a run are not searched there, because a run folder of unknown origin must not execute its
    code.
    """
    if "" not in sys.path:
        sys.path.insert(0, "")


def import_modules(modules: Sequence[str]) -> None:
    """Import the modules of --import, which may lie in the current folder. Raises UserError if one cannot be."""
    if modules:
        from mcurl.registry import import_user_module

        import_from_current_folder()
        for module in modules:
            import_user_module(module)


def resolve_settings(options: argparse.Namespace, seed: int = 1) -> TrainSettings:
    """The settings of a run from the options of ``train``, or of another command that takes them.

    Raises:
        UserError: an option or a setting is wrong, see :func:`mcurl.config.resolve.resolve`.
    """
    from mcurl.config.resolve import resolve

    import_from_current_folder()
    threads = [f"compute.threads={options.threads}"] if options.threads else []
    return resolve(
        options.task,
        options.method,
        agent=options.agent,
        seed=seed,
        env_steps=options.env_steps,
        preset=options.preset,
        overrides=[*options.overrides, *threads],
    )
