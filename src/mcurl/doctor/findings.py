"""The parts of a report: sections, and findings of what is missing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple


class Finding(NamedTuple):
    """Something that is missing."""

    level: Literal["error", "warning"]
    """error: training the default task does not work. warning: it works, slower or with less."""
    text: str
    """What is missing, and how to get it."""


@dataclass(frozen=True)
class Section:
    """A part of the report."""

    key: str
    """Its key in JSON."""
    title: str
    values: Mapping[str, Any]
    """What was found, as JSON values."""
    rows: Sequence[tuple[str, str]]
    """Label and text of each row, for people."""
    findings: Sequence[Finding] = ()
    """What is missing."""
