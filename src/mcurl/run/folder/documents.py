"""JSON files with a format, a version and a checksum, and the checksums of other files."""

from __future__ import annotations

import json
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mcurl.files import read_object
from mcurl.run.folder.paths import as_json
from mcurl.run.format import CRC, check_seal, check_version, values_crc32


@dataclass(frozen=True)
class Span:
    """The first bytes of a file, by which damage is noticed."""

    length: int = 0
    """Number of bytes, from the beginning of the file."""
    crc32: int | None = 0
    """CRC-32 of these bytes; None: unknown, in checkpoints of older versions."""

    def extended(self, data: bytes) -> Span:
        """This span and the bytes after it."""
        return Span(self.length + len(data), zlib.crc32(data, self.crc32 or 0))

    def holds(self, data: bytes) -> bool:
        """Whether these are the bytes of the span."""
        return len(data) == self.length and self.crc32 in (None, zlib.crc32(data))

    @classmethod
    def of(cls, data: bytes) -> Span:
        """The span of a whole file's content."""
        return cls().extended(data)

    def to_json(self) -> dict[str, int | None]:
        """``bytes`` and ``crc32``."""
        return {"bytes": self.length, "crc32": self.crc32}

    @classmethod
    def from_json(cls, value: Any) -> Span:
        """From :meth:`to_json`, or from a length. Raises ValueError for something else."""
        length, crc = (value, None) if type(value) is int else (value["bytes"], value["crc32"])
        if type(length) is not int or length < 0 or (type(crc) is not int and crc is not None):
            raise ValueError(f"{value!r} is not a length with a checksum")
        return cls(length, crc)


def seal(values: Mapping[str, Any]) -> str:
    """The text of a JSON file with a checksum of its values, under ``crc32``."""
    values = {key: value for key, value in values.items() if key != CRC}
    return as_json({**values, CRC: values_crc32(values)})


def read_sealed(path: Path, format_name: str, version: int) -> dict[str, Any]:
    """Read a JSON object that :func:`seal` wrote.

    Raises:
        UserError: the file cannot be read, is damaged, is of another format, or of a newer version.
    """
    values = read_object(path)
    check_version(path, values, format_name, version)
    check_seal(path, values)
    return values


def differences(before: Mapping[str, Any], now: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    """``section.name`` -> what changed between two settings, in words."""
    changes: dict[str, str] = {}
    for key in dict.fromkeys([*before, *now]):
        a, b, name = before.get(key), now.get(key), f"{prefix}{key}"
        if isinstance(a, Mapping) and isinstance(b, Mapping):
            changes |= differences(a, b, f"{name}.")
        elif a != b or type(a) is not type(b):
            old, new = (json.dumps(values[key]) if key in values else "missing" for values in (before, now))
            changes[name] = f"{name} is {new}, was {old}"
    return changes
