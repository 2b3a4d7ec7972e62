"""CPU threads: their number, how they wait, and which one trains. This module does not import PyTorch."""

from __future__ import annotations

import math
import os
import threading

from mcurl.runtime.limits import cpu_quota


def available_cores() -> int:
    """Number of CPU cores that this process may use: its affinity, its control group's quota, OMP_NUM_THREADS."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quota = cpu_quota()
    limits = [cores] if math.isinf(quota) else [cores, math.ceil(quota)]
    wanted = os.environ.get("OMP_NUM_THREADS", "").partition(",")[0].strip()  # a number for each nested level
    return min([*limits, int(wanted)] if wanted.isdecimal() and int(wanted) > 0 else limits)


class TrainingLock:
    """Held by the thread whose run trains in this process, so that there is one such run at a time."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._owner: int | None = None

    def acquire(self) -> bool:
        """Take the lock for this thread; False: a run trains already."""
        if not self._lock.acquire(blocking=False):
            return False
        self._owner = threading.get_ident()
        return True

    def release(self) -> None:
        """Release the lock. The thread that acquired it must call it."""
        self._owner = None
        self._lock.release()

    @property
    def elsewhere(self) -> bool:
        """Whether a run trains in another thread."""
        return self._owner not in (None, threading.get_ident())


TRAINING = TrainingLock()


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
