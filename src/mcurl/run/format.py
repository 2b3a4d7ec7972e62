"""The format of run folders, and which versions of a file are read: older ones are, newer ones are refused."""

from __future__ import annotations

import json
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mcurl.errors import UserError

FORMAT = "mcurl-run"
"""Marks a folder as that of a run, in ``run.json``."""
VERSION = 2
"""Of all files of a run folder that name no version of their own. Checkpoints, the replay and recordings do."""

CRC = "crc32"
"""Under this key, a JSON file has the checksum of its other values."""


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


def values_crc32(values: Mapping[str, Any]) -> int:
    """CRC-32 of JSON values; order and spaces in a file do not matter."""
    return zlib.crc32(json.dumps(values, sort_keys=True).encode())


def check_seal(path: Path, values: Mapping[str, Any]) -> None:
    """Raise UserError if the checksum in a file does not match its values. Older versions have no checksum."""
    if CRC not in values and values.get("version", 1) == 1:
        return
    if values.get(CRC) != values_crc32({key: value for key, value in values.items() if key != CRC}):
        raise UserError(f"{path} is damaged, or was changed by another program: its checksum does not match")


def settings_crc32(settings: Mapping[str, Any]) -> int:
    """The checksum of the settings that decide on the result, which ``run.json`` has under ``settings_crc32``."""
    return values_crc32({key: value for key, value in settings.items() if key != "compute"})


def check_settings_unchanged(folder: Path, settings: Mapping[str, Any], metadata: Mapping[str, Any]) -> None:
    """Raise UserError if a run's settings are not those that it began with. Runs of older versions do not know them."""
    if metadata.get("settings_crc32", found := settings_crc32(settings)) != found:
        raise UserError(
            f"{folder / 'settings.json'} was changed since the run began: put the settings back, or begin a new run"
        )
