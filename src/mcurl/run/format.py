"""The format of run folders, and which versions of a file are read: older ones are, newer ones are refused."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mcurl.errors import UserError

FORMAT = "mcurl-run"
"""Marks a folder as that of a run, in ``run.json``."""
VERSION = 2
"""Of all files of a run folder that name no version of their own. Checkpoints, the replay and recordings do."""


class NewerError(UserError):
    """A file was written by a newer version of mcurl."""


def check_run(folder: Path, metadata: Mapping[str, Any]) -> None:
    """Raise UserError if a folder is no run folder, NewerError if a newer one; ``metadata`` is its ``run.json``."""
    check_version(folder / "run.json", metadata, FORMAT, VERSION)


def check_version(path: Path, values: Mapping[str, Any], format_name: str, version: int) -> None:
    """Raise UserError if a file is of another format, NewerError if it is newer. Version 1 did not name itself."""
    found = values.get("version", 1)
    if values.get("format") != format_name or type(found) is not int:
        raise UserError(f"{path} is damaged: its format is not {format_name}")
    check_not_newer(path, found, version)


def check_not_newer(path: Path, found: int, version: int) -> None:
    """Raise NewerError if a file has a newer version than the one that this package writes."""
    if found > version:
        raise NewerError(
            f"{path} was written by a newer version of mcurl (format {found}, this one reads up to {version})"
        )
