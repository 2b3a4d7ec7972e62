"""How much memory there is: of the machine, of this process's control group, and of its address space.

This module imports neither PyTorch nor NumPy.
"""

from __future__ import annotations

import os
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


def _group_limits() -> list[Memory]:
    """The limits of this process's control groups and of their parents (versions 1 and 2)."""
    try:
        lines = Path("/proc/self/cgroup").read_text(encoding="utf-8").splitlines()
    except (OSError, ValueError):
        return []
    found = []
    for line in lines:
        controllers, _, group = line.partition(":")[2].partition(":")
        if not controllers:
            found += _limits(_CGROUPS, group, ("memory.max", "memory.current", "inactive_file"))
        elif "memory" in controllers.split(","):
            names = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
            found += _limits(_CGROUPS / "memory", group, names)
    return found


def _limits(root: Path, group: str, names: tuple[str, str, str]) -> list[Memory]:
    """The limits of a group and its parents. ``names``: the files of limit and use, and the line of the file cache."""
    limit_name, used_name, cache_name = names
    found = []
    folder = root / group.strip().lstrip("/")
    for path in (folder, *folder.parents):
        try:
            limit = int((path / limit_name).read_text(encoding="utf-8"))  # ValueError if it is "max"
            used = int((path / used_name).read_text(encoding="utf-8"))
            text = (path / "memory.stat").read_text(encoding="utf-8")
            statistics = dict(line.split() for line in text.splitlines())
        except (OSError, ValueError):
            continue
        # The system drops the cache of files when memory is needed.
        found.append(Memory(limit, max(limit - used + int(statistics.get(cache_name, 0)), 0)))
    return found


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
