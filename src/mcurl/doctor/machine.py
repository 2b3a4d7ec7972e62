"""System, processor, memory and disk. This module does not import PyTorch."""

from __future__ import annotations

import os
import platform
import shutil
from pathlib import Path
from typing import NamedTuple

from mcurl.doctor.findings import Finding, Section
from mcurl.run.provenance import processor
from mcurl.runtime.threads import available_cores

RUNS = Path("runs")
"""Folder of the runs, as the default of `mcurl train`."""
_CGROUPS = Path("/sys/fs/cgroup")


class Need(NamedTuple):
    """What a run takes, in bytes."""

    memory: int
    disk: int


class Memory(NamedTuple):
    """Memory that this process may use, in bytes."""

    total: int
    free: int


def machine(need: Need | None) -> Section:
    """System, processor, memory and disk.

    Args:
        need: what the default task takes; None: unknown.
    """
    found, disk = memory(), shutil.disk_usage(existing(RUNS)).free
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


def memory() -> Memory | None:
    """The memory of the machine or, if that is less, of the control group (container, cluster job); None: unknown."""
    whole = _machine_memory()
    if whole is None:
        return None
    limits = [whole, *_group_limits()]
    return Memory(min(limit.total for limit in limits), min(limit.free for limit in limits))


def _machine_memory() -> Memory | None:
    try:
        lines = dict(line.split(":", 1) for line in Path("/proc/meminfo").read_text().splitlines() if ":" in line)
        total, free = (int(lines[name].split()[0]) * 1024 for name in ("MemTotal", "MemAvailable"))
    except (OSError, KeyError, ValueError):
        return None
    return Memory(total, free)


def _group_limits() -> list[Memory]:
    """The limits of this process's control group and of its parents (version 2)."""
    try:
        group = Path("/proc/self/cgroup").read_text().rpartition("::")[2].strip().lstrip("/")
    except OSError:
        return []
    found = []
    for folder in (_CGROUPS / group, *(_CGROUPS / group).parents):
        try:
            limit = int((folder / "memory.max").read_text())  # ValueError if it is "max"
            used = int((folder / "memory.current").read_text())
            statistics = dict(line.split() for line in (folder / "memory.stat").read_text().splitlines())
        except (OSError, ValueError):
            continue
        # The system drops the cache of files when memory is needed.
        found.append(Memory(limit, max(limit - used + int(statistics.get("inactive_file", 0)), 0)))
    return found


def existing(path: Path) -> Path:
    """The path, or its nearest parent that exists."""
    return next(folder for folder in (path.absolute(), *path.absolute().parents) if folder.exists())


def gigabytes(size: float) -> str:
    """A size in words, such as ``"3.9 GB"``."""
    return f"{size / 1e9:.1f} GB"
