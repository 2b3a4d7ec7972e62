"""System, processor, memory and disk. This module does not import PyTorch."""

from __future__ import annotations

import os
import platform
import shutil
from pathlib import Path
from typing import NamedTuple

from mcurl.doctor.findings import Finding, Section
from mcurl.run.provenance import processor
from mcurl.runtime.limits import Memory, machine_memory
from mcurl.runtime.threads import available_cores

RUNS = Path("runs")
"""Folder of the runs, as the default of `mcurl train`."""


class Need(NamedTuple):
    """What a run takes, in bytes."""

    memory: int
    disk: int


def machine(need: Need | None) -> Section:
    """System, processor, memory and disk.

    Args:
        need: what the default task takes; None: unknown.
    """
    found, disk = machine_memory(), shutil.disk_usage(existing(RUNS)).free
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else 0.0
    values = {
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
        "python": platform.python_version(),
        "processor": processor(),
        "cores": os.cpu_count(),
        "usable_cores": available_cores(),
        "load": round(load, 1),
        "memory_bytes": found.total if found else None,
        "free_memory_bytes": found.free if found else None,
        "free_disk_bytes": disk,
        "needed_memory_bytes": need.memory if need else None,
        "needed_disk_bytes": need.disk if need else None,
    }
    rows = [
        ("system", f"{values['system']}, Python {values['python']}"),
        ("processor", f"{values['processor'] or 'unknown'}, {values['usable_cores']} of {values['cores']} cores"),
        ("memory", f"{gigabytes(found.free)} of {gigabytes(found.total)} free" if found else "unknown"),
        ("disk", f"{gigabytes(disk)} free for {RUNS.absolute()}"),
    ]
    if need is not None:
        rows.append(("default task", f"takes about {gigabytes(need.memory)} memory, {gigabytes(need.disk)} disk"))
    findings = _findings(need, found, disk)
    if load > 1.5 * available_cores():
        text = f"other programs use the cores: {load:.1f} want to compute. Training and the times here are slower"
        findings.append(Finding("warning", text))
    return Section("machine", "Machine", values, rows, findings)


def _findings(need: Need | None, found: Memory | None, disk: int) -> list[Finding]:
    findings = []
    if not os.access(existing(RUNS), os.W_OK):
        findings.append(Finding("error", f"{RUNS.absolute()} cannot be written: change the folder, or use --out"))
    if need is None:
        return findings
    smaller = "--set replay.capacity=N takes less, and changes the experiment"
    if found is not None and found.total < need.memory:
        findings.append(Finding("error", f"the memory is too small: {gigabytes(found.total)}. {smaller}"))
    elif found is not None and found.free < need.memory:
        text = f"only {gigabytes(found.free)} of memory are free: close other programs. {smaller}"
        findings.append(Finding("warning", text))
    if disk < need.disk:
        text = f"only {gigabytes(disk)} are free for {RUNS.absolute()}: free more, or use --out on another disk"
        findings.append(Finding("error", text))
    return findings


def existing(path: Path) -> Path:
    """The path, or its nearest parent that exists."""
    return next(folder for folder in (path.absolute(), *path.absolute().parents) if folder.exists())


def gigabytes(size: float) -> str:
    """A size in words, such as ``"3.9 GB"``."""
    return f"{size / 1e9:.1f} GB"
