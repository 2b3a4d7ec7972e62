"""CPU threads: their number, and how they wait. This module does not import PyTorch."""

from __future__ import annotations

import os


def available_cores() -> int:
    """Number of CPU cores that this process may use, at most OMP_NUM_THREADS if that is set."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    limit = os.environ.get("OMP_NUM_THREADS", "")
    return min(cores, int(limit)) if limit.isdecimal() and int(limit) > 0 else cores


def limit_openmp_spinning() -> None:
    """Let OpenMP threads sleep soon while they wait for each other.

    By default they spin for milliseconds. If other processes use the cores too, an update then takes 20 times as long.
    OpenMP reads its environment variables once, so this must be called before PyTorch is imported. Values of the user
    (OMP_WAIT_POLICY or GOMP_SPINCOUNT) are not changed. With the policy ``active``, threads spin a thousand times
    instead of a hundred where ``runtime.waiting`` shortens the wait.
    """
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", "30000")
        os.environ["OMP_WAIT_POLICY"] = "active"
