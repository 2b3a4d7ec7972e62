"""What a run writes and deletes is its own: plain files and folders in the run folder, no links to others."""

from __future__ import annotations

import os
import re
import stat
from pathlib import Path

from mcurl.errors import UserError
from mcurl.files import check_changeable, kind, real_folder

FOLDERS = ("checkpoints", "replay", "episodes", "tensorboard", "results")
CHANGED_IN_PLACE = ("lock", "metrics.jsonl", "evaluations.csv", "speed.jsonl")
REPLACED = ("settings.json", "run.json")
CHECKPOINT_FILES = ("state.safetensors", "state.json", "settings.json", "manifest.json", "logs.json")
_CHECKPOINT = re.compile(r"[0-9]{9,}|\.[0-9]{9,}\.(new|old)")


def check_own(folder: Path) -> None:
    """Check a run folder before anything in it is changed. The folder itself may be a link.

    Raises:
        UserError: a link, or something else of another kind, is in the place of a file or folder that a run writes.
    """
    for name in FOLDERS:
        _check_folder(folder / name)
    for name in CHANGED_IN_PLACE:
        check_changeable(folder / name)
    for name in REPLACED:
        _check_plain(folder / name)
    for path in _entries(folder / "replay"):
        if path.suffix == ".bin":
            check_changeable(path)
    for path in _entries(folder / "checkpoints"):
        if _CHECKPOINT.fullmatch(path.name):
            _check_folder(path)
            _check_folder(path / "policy")
            for name in CHECKPOINT_FILES:
                _check_plain(path / name)


def _entries(folder: Path) -> list[Path]:
    return sorted(folder.iterdir()) if folder.is_dir() else []


def _check_folder(path: Path) -> None:
    if os.path.lexists(path) and not real_folder(path):
        raise UserError(f"{path} is {kind(path)}, not a folder of its own: nothing in this run folder was changed")


def _check_plain(path: Path) -> None:
    if os.path.lexists(path) and not stat.S_ISREG(path.lstat().st_mode):
        raise UserError(f"{path} is {kind(path)}, not a plain file: nothing in this run folder was changed")
