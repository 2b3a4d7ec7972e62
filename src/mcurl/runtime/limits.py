"""What this process may use: memory of the machine, of its control group, of its address space; and cores.

This module imports neither PyTorch nor NumPy.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

_CGROUPS = Path("/sys/fs/cgroup")
_UNKNOWN = 2**62


class Memory(NamedTuple):
    """Memory in bytes."""

    total: int
    free: int


def machine_memory() -> Memory | None:
    """The memory of the machine or, if that is less, of the control group (container, cluster job); None: unknown.

    Several processes share it.
    """
    whole = _whole_machine()
    if whole is None:
        return None
    limits = [whole, *_group_limits()]
    return Memory(min(limit.total for limit in limits), min(limit.free for limit in limits))


def total_memory() -> int:
    """Bytes of memory that all processes here may have; 2**62 where that is unknown."""
    memory = machine_memory()
    if memory is not None:
        return memory.total
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        return _UNKNOWN


def process_memory() -> int:
    """Bytes of memory that this process may have: :func:`total_memory`, or what is left of its address space."""
    return min(total_memory(), _address_space())


def _whole_machine() -> Memory | None:
    try:
        text = Path("/proc/meminfo").read_text(encoding="utf-8")
        lines = dict(line.split(":", 1) for line in text.splitlines() if ":" in line)
        total, free = (int(lines[name].split()[0]) * 1024 for name in ("MemTotal", "MemAvailable"))
    except (OSError, KeyError, ValueError):
        return None
    return Memory(total, free)


def cpu_quota() -> float:
    """How many cores the control groups of this process and their parents let it use; infinity: all."""
    quotas = [math.inf]
    for version, folder in _groups("cpu"):
        try:
            if version == 2:
                quota, period = (folder / "cpu.max").read_text(encoding="utf-8").split()
            else:
                names = "cpu.cfs_quota_us", "cpu.cfs_period_us"
                quota, period = ((folder / name).read_text(encoding="utf-8") for name in names)
            if int(quota) > 0:  # ValueError if it is "max"; -1 is none, too
                quotas.append(int(quota) / int(period))
        except (OSError, ValueError, ZeroDivisionError):
            continue
    return min(quotas)


def _group_limits() -> list[Memory]:
    """The limits of memory of this process's control groups and of their parents."""
    files = {
        2: ("memory.max", "memory.current", "inactive_file"),
        1: ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
    }
    found = []
    for version, folder in _groups("memory"):
        limit_name, used_name, cache_name = files[version]
        try:
            limit = int((folder / limit_name).read_text(encoding="utf-8"))  # ValueError if it is "max"
            used = int((folder / used_name).read_text(encoding="utf-8"))
            text = (folder / "memory.stat").read_text(encoding="utf-8")
            statistics = dict(line.split() for line in text.splitlines())
        except (OSError, ValueError):
            continue
        # The system drops the cache of files when memory is needed.
        found.append(Memory(limit, max(limit - used + int(statistics.get(cache_name, 0)), 0)))
    return found


def _groups(controller: str) -> Iterator[tuple[int, Path]]:
    """Version and folder of this process's control groups for a controller, and of their parents (versions 1 and 2)."""
    try:
        lines = Path("/proc/self/cgroup").read_text(encoding="utf-8").splitlines()
    except (OSError, ValueError):
        return
    for line in lines:
        controllers, _, group = line.partition(":")[2].partition(":")
        if controllers and controller not in controllers.split(","):
            continue
        root = _CGROUPS / controllers if controllers else _CGROUPS
        root = root if root.is_dir() else _CGROUPS / controller
        folder = root / group.strip().lstrip("/")
        for path in (folder, *folder.parents):
            yield (1 if controllers else 2), path


def _address_space() -> int:
    """Bytes that the limit of this process's address space (``ulimit -v``) leaves."""
    try:
        import resource

        limit, _ = resource.getrlimit(resource.RLIMIT_AS)
        if limit == resource.RLIM_INFINITY:
            return _UNKNOWN
        pages = int(Path("/proc/self/statm").read_text(encoding="utf-8").split()[0])
        return max(limit - pages * os.sysconf("SC_PAGE_SIZE"), 0)
    except (ImportError, OSError, ValueError):
        return _UNKNOWN
