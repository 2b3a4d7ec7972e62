"""Several runs at once, each in a process of its own with its share of the cores."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from types import FrameType

from mcurl.runtime.signals import signals

ALONE = {"LP_NUM_THREADS": "0", "PYTHONUNBUFFERED": "1"}
"""Software OpenGL draws in the thread that asks, which costs a quarter less than threads of its own; lines come when
they are printed."""


class ParallelRuns:
    """Runs command lines of `mcurl`, some at a time, and prints their lines as ``label | line``.

    Each is in a session of its own: signals reach it once, through us, and not a second time from the terminal.

    Args:
        commands: label -> arguments of `mcurl`.
        at_once: how many at a time.
    """

    def __init__(self, commands: Mapping[str, Sequence[str]], at_once: int) -> None:
        self.commands, self.at_once = commands, at_once
        self._running: list[subprocess.Popen[str]] = []
        self._stopped = False

    def run(self) -> int:
        """Wait for all; returns the highest exit status, a killed run's as a shell has it. After a signal no more are
        started."""
        before = {number: signal.signal(number, self._forward) for number in signals()}
        try:
            with ThreadPoolExecutor(self.at_once) as pool:
                return max(pool.map(self._one, self.commands, self.commands.values()))
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _one(self, label: str, arguments: Sequence[str]) -> int:
        if self._stopped:
            return 0
        command = [sys.executable, "-m", "mcurl", *arguments]
        pipe = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
        with subprocess.Popen(command, env=os.environ | ALONE, start_new_session=True, **pipe) as process:  # type: ignore[call-overload]
            self._running.append(process)
            if self._stopped:  # the signal came between the question above and now
                process.send_signal(signal.SIGINT)
            for line in process.stdout:
                with contextlib.suppress(OSError):  # where nobody reads any more, training goes on
                    print(f"{label} | {line}", end="", flush=True)
        self._running.remove(process)
        status = int(process.returncode)
        return status if status >= 0 else 128 - status

    def _forward(self, number: int, frame: FrameType | None) -> None:
        self._stopped = True
        for process in self._running:
            process.send_signal(number)
