"""Threads of the processor: how many there are, and how they wait. Imports no PyTorch."""

from __future__ import annotations

import os


def available_cores() -> int:
    """Cores that this process may use, at most OMP_NUM_THREADS where that is set."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    limit = os.environ.get("OMP_NUM_THREADS", "")
    return min(cores, int(limit)) if limit.isdecimal() and int(limit) > 0 else cores


def limit_openmp_spinning() -> None:
    """Let threads that wait for each other sleep soon.

    By default they spin for milliseconds, and an update beside other busy processes takes 20 times as long. OpenMP
    reads this once, when PyTorch is imported; what the user has set stays.
    """
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", "30000")
