"""All sections of `mcurl doctor`, as text of 80 columns or as JSON."""

from __future__ import annotations

import textwrap
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from mcurl.doctor.findings import Finding, Section
from mcurl.doctor.machine import Need, machine
from mcurl.doctor.opengl import nvidia_gpu, opengl
from mcurl.doctor.packages import packages
from mcurl.errors import UserError

TASK, METHOD = "dmc/cartpole-swingup", "mcurl"
"""What `make train` and the documentation's first example train."""
WIDTH = 80
_LABEL = 14
_PROCESS_BYTES = 900_000_000
"""Memory of a DMControl run without its replay, as `mcurl bench memory` measures it (docs/performance.md)."""
_CHECKPOINTS = 3
_CHECKPOINT_BYTES = 120_000_000
"""A checkpoint of M-CURL with SAC. Two are kept, and a third one is written beside them."""


@dataclass(frozen=True)
class Report:
    """What was found."""

    sections: list[Section]

    @property
    def findings(self) -> list[Finding]:
        """What is missing, errors first."""
        found = [finding for section in self.sections for finding in section.findings]
        return sorted(found, key=lambda finding: finding.level != "error")

    @property
    def can_train(self) -> bool:
        """Whether nothing is missing that training of the default task needs."""
        return all(finding.level != "error" for finding in self.findings)

    def to_json(self) -> dict[str, Any]:
        """The report as JSON values: task, can_train, findings, and the values of each section."""
        findings = [finding._asdict() for finding in self.findings]
        values = {section.key: dict(section.values) for section in self.sections}
        return {"task": TASK, "method": METHOD, "can_train": self.can_train, "findings": findings, **values}

    def to_text(self) -> str:
        """The report in lines of at most 80 columns."""
        lines = []
        for section in self.sections:
            lines += [section.title, *(line for label, text in section.rows for line in _row(label, text)), ""]
        if self.findings:
            lines += ["Missing", *(line for level, text in self.findings for line in _row(level, text)), ""]
        if not self.can_train:
            return "\n".join([*lines, f"{TASK} cannot be trained here"])
        return "\n".join([*lines, f"{TASK} can be trained here: mcurl train {TASK}"])


def examine(progress: Callable[[str], None] = lambda text: None) -> Report:
    """Examine the machine. Nothing is changed, except that native layers are compiled into the user's cache.

    Args:
        progress: receives what is examined next.
    """
    from mcurl.doctor.compute import compute, native

    progress("PyTorch")
    computing = _guarded("compute", compute)
    sections = [_guarded("machine", lambda: machine(_need() if computing.values else None)), computing]
    if computing.values:
        progress("native layers; they are compiled now if they were not")
        sections.append(_guarded("native", native))
    progress("OpenGL")
    sections.append(_guarded("opengl", lambda: opengl(TASK, gpu=nvidia_gpu())))
    progress("packages")
    sections.append(_guarded("packages", packages))
    return Report(sections)


def _guarded(key: str, examination: Callable[[], Section]) -> Section:
    """A section. Whatever is broken in an unforeseen way is an error in the report, and does not end it."""
    try:
        return examination()
    except Exception as error:
        reason = " ".join(f"{type(error).__name__}: {error}".split())[:300]
        return Section(key, key, {}, [("failed", reason)], [Finding("error", f"{key} cannot be examined: {reason}")])


def _need() -> Need | None:
    """What a run of the default task takes: its replay, in memory and on the disk, and the rest."""
    from mcurl.config.resolve import resolve

    try:
        settings = resolve(TASK, METHOD)
    except UserError:
        return None
    env = settings.env
    rows = min(settings.replay.capacity, settings.env_steps // env.action_repeat)
    replay = rows * 3 * env.image_size**2
    return Need(replay + _PROCESS_BYTES, replay + _CHECKPOINTS * _CHECKPOINT_BYTES)


def _row(label: str, text: str) -> list[str]:
    """A label and a wrapped text; a long label stands in a line of its own."""
    indent = " " * (_LABEL + 4)
    first = f"  {label:<{_LABEL}}  "
    if len(label) <= _LABEL:
        return textwrap.wrap(text, WIDTH, initial_indent=first, subsequent_indent=indent, break_on_hyphens=False)
    head = textwrap.wrap(label, WIDTH, initial_indent="  ", subsequent_indent="    ")
    return head + textwrap.wrap(text, WIDTH, initial_indent=indent, subsequent_indent=indent, break_on_hyphens=False)
