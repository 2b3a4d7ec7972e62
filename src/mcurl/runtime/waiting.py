"""How OpenMP threads wait for each other: awake while the cores are free, asleep while other processes use them.

A thread that waits awake holds a core, and the thread that it waits for may need this core. The system moves it only
to a core that is idle. So an update beside one busy process took five times as long, where four fifths of the time were
waiting. But waking up a thread takes time too: where the cores are free, threads that sleep make an update a quarter
longer.

GNU's OpenMP reads the length of the wait once, but shortens it while a process has more OpenMP threads than cores
(https://gcc.gnu.org/onlinedocs/libgomp/GOMP_005fSPINCOUNT.html). A team of threads that only sleep has this effect, and
can be started and ended at any time.
"""

from __future__ import annotations

import contextlib
import os
import threading
import time
from pathlib import Path

from mcurl.native import teams

INTERVAL = 0.25
"""Shortest time between two measurements, s."""
BUSY, FREE = 0.45, 0.38
"""Waiting for a core, as a share of the time and summed over the threads: from BUSY on, threads sleep; below FREE, they
wait awake again. With two cores, the share is 0.02 to 0.1 on a quiet machine, up to 0.3 if the environment renders
during the update, and beside one busy process 0.7 to 0.8, or 0.45 to 0.5 once threads sleep."""
TASKS = Path("/proc/self/task")


class AdaptiveWaiting:
    """Chooses how OpenMP threads wait, by how long the threads of this process waited for a core.

    It has no effect with one thread, with another OpenMP than GNU's, or on another system than Linux.

    Args:
        threads: number of OpenMP threads of an update.
    """

    def __init__(self, threads: int) -> None:
        self.threads = threads
        self._since = (time.monotonic(), _waited()) if threads > 1 and teams.available() else None
        self._end: threading.Event | None = None

    @property
    def asleep(self) -> bool:
        """Whether threads sleep while they wait."""
        return self._end is not None

    def check(self) -> None:
        """Measure and choose, if :data:`INTERVAL` has passed. To be called after each update."""
        if self._since is None:
            return
        now, (start, waited_before) = time.monotonic(), self._since
        if now - start < INTERVAL:
            return
        waited = _waited()
        share = (waited - waited_before) / (now - start)
        self._since = now, waited
        if not self.asleep and share >= BUSY:
            self._sleep()
        elif self.asleep and share < FREE:
            self.close()

    def close(self) -> None:
        """Let threads wait awake again."""
        if self._end is not None:
            self._end.set()
            self._end = None

    def _sleep(self) -> None:
        started, self._end = threading.Event(), threading.Event()
        extra = max(len(os.sched_getaffinity(0)) - self.threads, 0) + 2  # with the others, one more than cores
        threading.Thread(target=_hold_team, args=(extra, started, self._end), daemon=True).start()
        started.wait()


def _hold_team(threads: int, started: threading.Event, end: threading.Event) -> None:
    teams.open_team(threads)
    started.set()
    end.wait()


def _waited() -> float:
    """Time that the threads of this process have been ready but without a core, s; 0 if the system does not tell."""
    total = 0
    for task in TASKS.glob("*/schedstat"):
        with contextlib.suppress(OSError):  # this thread has just ended
            total += int(task.read_text().split()[1])
    return total / 1e9
