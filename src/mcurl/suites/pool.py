"""The local pool: trains the runs of a suite, several at a time, each in a process of its own.

What is done and what is under way is read from the run folders. So several pools may share a folder: a run that another
process trains is left to it, and taken over if that process ends before the run is finished.
"""

from __future__ import annotations

import signal
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, Self

from mcurl.run.eta import Speed
from mcurl.runtime.parallel import ProcessPool
from mcurl.suites.status import RunStatus, State, read_status
from mcurl.suites.suite import SuiteRun

RETRIES = 2
"""How often a run is started again after a failure, without a new checkpoint in between."""
POLL_SECONDS = 1.0
"""Interval between two looks at the folders of the runs that are trained."""
SCAN_SECONDS = 5.0
"""Interval between two looks at the folders of all other runs."""
SPEED_SECONDS = 300.0
"""The speed of a run is its mean over this time."""
OUTPUT_LINES = 30
"""Number of last lines of a process's output that are kept, to report a failure."""


@dataclass(eq=False)
class Entry:
    """A run in the pool."""

    run: SuiteRun
    status: RunStatus
    """What its folder says."""
    own: bool = False
    """Whether a process of this pool trains it."""
    queued: bool = False
    """Whether that process still waits for a machine."""
    failures: int = 0
    """Failures in a row, without a new checkpoint in between."""
    output: deque[str] = field(default_factory=lambda: deque(maxlen=OUTPUT_LINES))
    """The last lines of the output of its process."""
    failure: str = ""
    """Why the pool has given it up; empty: it has not."""
    started_from: int | None = None
    """Simulator steps of the checkpoint that its process started from."""
    _speed: Speed | None = None
    _first_seen: int = -1

    @property
    def state(self) -> str:
        """The state in one word: a :class:`State`, ``queued``, or ``elsewhere``: another process trains it."""
        if self.own:
            return "queued" if self.queued else str(State.RUNNING)
        if self.failure:
            return str(State.FAILED)
        return "elsewhere" if self.status.state is State.RUNNING else str(self.status.state)

    @property
    def open(self) -> bool:
        """Whether the run is neither finished nor given up."""
        return self.state not in (State.FINISHED, State.FAILED)

    @property
    def rate(self) -> float | None:
        """Simulator steps per second, while a process trains it; None as long as it is not known."""
        return self._speed.rate if self._speed is not None else None

    @property
    def seconds_left(self) -> float | None:
        """Seconds until it is finished; None if nothing trains it, or its speed is unknown."""
        return None if self.rate is None else max(self.run.env_steps - self.status.env_steps, 0) / self.rate

    def measure(self) -> None:
        """Measure the speed, from the first progress that is seen: starting up and loading do not count."""
        if self.status.state is not State.RUNNING:
            self._speed, self._first_seen = None, -1
        elif self._first_seen < 0:
            self._first_seen = self.status.env_steps
        elif self._speed is not None or self.status.env_steps != self._first_seen:
            self._speed = self._speed or Speed(SPEED_SECONDS, time.monotonic)
            self._speed.update(self.status.env_steps)


class RunsDisplay(Protocol):
    """Shows a pool."""

    def update(self, entries: Sequence[Entry]) -> None:
        """Show the runs as they are. Called about once per second."""

    def event(self, entry: Entry, text: str) -> None:
        """Show that a run began, ended or failed.

        Args:
            entry: the run.
            text: what happened, in a few words.
        """

    def message(self, text: str) -> None:
        """Show a message about the pool."""


class Processes(Protocol):
    """Processes of ``mcurl``: :class:`mcurl.runtime.parallel.ProcessPool`, or the same on other machines."""

    queues: bool
    """Whether a started process may have to wait for a machine."""
    signal_number: int
    """Number of the first stop signal; 0: none so far."""

    def __enter__(self) -> Self: ...

    def __exit__(self, *error: object) -> None: ...

    @property
    def running(self) -> Sequence[object]:
        """Runs whose processes have not ended."""

    def start(self, run: SuiteRun, arguments: list[str], on_line: Callable[[str], None], /) -> None:
        """Start ``mcurl`` with these arguments. ``on_line`` receives the last lines of its output at least."""

    def wait(self, timeout: float, /) -> Mapping[Any, int]:
        """Wait until a process ends, at most so many seconds. Returns run -> exit status."""


class Pool:
    """Trains runs until each is finished or given up.

    Args:
        runs: in the order in which they are started. Runs that have a checkpoint come first.
        out: folder of all runs.
        jobs: number of processes at a time, at least 1.
        processes: where they run; None: on this machine.
        overrides: values of settings for this machine, such as ``compute.threads=1``.
        retries: how often a run is started again after a failure, without a new checkpoint in between.
        display: shows the pool.
        poll_seconds: interval between two looks at the folders.
    """

    def __init__(
        self,
        runs: Iterable[SuiteRun],
        out: Path,
        *,
        jobs: int,
        display: RunsDisplay,
        processes: Processes | None = None,
        overrides: Sequence[str] = (),
        retries: int = RETRIES,
        poll_seconds: float = POLL_SECONDS,
    ) -> None:
        self.out, self.jobs, self.display, self.overrides, self.retries = out, jobs, display, overrides, retries
        self.poll_seconds = poll_seconds
        self.entries = {run: Entry(run, read_status(run, out)) for run in runs}
        self._processes: Processes = processes or ProcessPool()
        self._scanned = time.monotonic()
        for entry in self.entries.values():
            entry.failure = entry.status.reason

    def run(self) -> int:
        """Train until each run is finished or given up, or until a stop signal.

        Returns:
            0 if all are finished; 1 if a run is given up; 128 + the signal's number.
        """
        told = False
        with self._processes as processes:
            while processes.running or (self._open() and not processes.signal_number):
                while not processes.signal_number and len(processes.running) < self.jobs and (entry := self._next()):
                    self._start(entry)
                if processes.signal_number and not told:
                    told = True
                    self.display.message("Saving all runs before exit. Press Ctrl-C again to quit without saving.")
                self.display.update(list(self.entries.values()))
                for run, status in processes.wait(self.poll_seconds).items():
                    self._end(self.entries[run], status)
                self._look()
            self.display.update(list(self.entries.values()))
        if processes.signal_number:
            return 128 + processes.signal_number
        return int(any(entry.failure for entry in self.entries.values()))

    def _open(self) -> list[Entry]:
        return [entry for entry in self.entries.values() if entry.open]

    def _next(self) -> Entry | None:
        """The next run to start: one that has begun, else the first that waits."""
        ready = [entry for entry in self._open() if entry.status.state in (State.STOPPED, State.WAITING)]
        ready = [entry for entry in ready if not entry.own]
        return min(ready, key=lambda entry: entry.status.state is State.WAITING, default=None)

    def _start(self, entry: Entry) -> None:
        entry.status = read_status(entry.run, self.out)
        entry.failure = entry.status.reason
        if entry.status.state not in (State.STOPPED, State.WAITING):  # another process was faster
            return
        entry.own, entry.queued, entry.started_from = True, self._processes.queues, entry.status.checkpoint
        entry.output.clear()
        if entry.status.state is State.WAITING:
            arguments = entry.run.arguments(self.out, self.overrides)
            self.display.event(entry, "started")
        else:
            arguments = entry.run.resume_arguments(self.out)
            self.display.event(entry, f"resumed from {entry.status.checkpoint or 0:,} env steps")
        self._processes.start(entry.run, arguments, _keep(entry.output))

    def _end(self, entry: Entry, exit_status: int) -> None:
        """Decide what becomes of a run whose process has ended."""
        entry.own, entry.status = False, read_status(entry.run, self.out)
        entry.measure()
        state = entry.status.state
        if state is State.FINISHED:
            self.display.event(entry, f"finished{_score(entry.status)}")
        elif self._processes.signal_number:
            self.display.event(entry, f"stopped at {entry.status.checkpoint or 0:,} env steps")
        elif state is State.RUNNING:
            self.display.event(entry, "another process trains it")
        else:
            self._fail(entry, exit_status)

    def _fail(self, entry: Entry, exit_status: int) -> None:
        if (entry.status.checkpoint or 0) > (entry.started_from or 0):
            entry.failures = 0
        entry.failures += 1
        reason = entry.status.reason or _reason(entry.output, exit_status)
        if entry.status.state is State.FAILED or entry.failures > self.retries or _asked_to_stop(exit_status):
            entry.failure = reason
            self.display.event(entry, f"failed: {reason}")
        else:
            self.display.event(entry, f"failed, attempt {entry.failures} of {self.retries + 1}: {reason}")

    def _look(self) -> None:
        """Read the folders: of runs that are trained each time, of the others less often."""
        now = time.monotonic()
        scan = now - self._scanned >= min(SCAN_SECONDS, 5 * self.poll_seconds)
        self._scanned = now if scan else self._scanned
        for entry in self._open():
            if entry.own or scan:
                entry.status = read_status(entry.run, self.out)
                entry.queued = entry.own and self._processes.queues and entry.status.state is not State.RUNNING
                entry.measure()
            if not entry.own:
                entry.failure = entry.status.reason
                if entry.status.state is State.FINISHED:
                    self.display.event(entry, f"finished by another process{_score(entry.status)}")


def _score(status: RunStatus) -> str:
    return "" if status.evaluation is None else f", mean return {status.evaluation:,.1f}"


def _keep(lines: deque[str]) -> Callable[[str], None]:
    return lambda line: lines.append(line.rstrip())


def _asked_to_stop(exit_status: int) -> bool:
    """Whether a process ended because somebody else than the pool asked it to, by Ctrl-C, ``kill`` or a hang-up."""
    return exit_status in (128 + 1, 128 + 2, 128 + 15)


def _reason(output: Iterable[str], exit_status: int) -> str:
    """Why a process failed: the last line of its output, and how it ended."""
    if exit_status == 128 + signal.SIGKILL:  # its last line is about something else
        return f"signal {int(signal.SIGKILL)}"
    lines = [line for line in output if line.strip()]
    last = lines[-1].strip().removeprefix("mcurl: ") if lines else ""
    how = f"signal {exit_status - 128}" if exit_status > 128 else f"exit status {exit_status}"
    return f"{how}: {last}" if last else how
