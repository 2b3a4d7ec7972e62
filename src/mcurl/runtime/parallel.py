"""Parallel runs: each run is a process with its share of the CPU cores."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from types import FrameType

from mcurl.runtime.signals import stop_signals

ENVIRONMENT = {"LP_NUM_THREADS": "0", "PYTHONUNBUFFERED": "1"}
"""Environment variables of the processes. Software OpenGL renders in the calling thread, which costs 25 % less than
worker threads. Output is not buffered."""


class ParallelRuns:
    """Run several ``mcurl`` commands in parallel, and print their output as ``label | line``.

    Each process has its own session. So it receives a signal once, from this process, and not again from the terminal.

    Args:
        commands: label -> arguments of ``mcurl``.
        max_parallel: largest number of processes at a time, at least 1.
    """

    def __init__(self, commands: Mapping[str, Sequence[str]], max_parallel: int) -> None:
        self.commands, self.max_parallel = commands, max_parallel
        self._running: list[subprocess.Popen[str]] = []
        self._stopped = False

    def run(self) -> int:
        """Run all commands and wait for them. After a signal, no further command is started.

        Returns:
            The highest exit status; 128 + the signal's number for a killed process.
        """
        previous = {number: signal.signal(number, self._forward) for number in stop_signals()}
        try:
            with ThreadPoolExecutor(self.max_parallel) as pool:
                return max(pool.map(self._run_one, self.commands, self.commands.values()))
        finally:
            for number, handler in previous.items():
                signal.signal(number, handler)

    def _run_one(self, label: str, arguments: Sequence[str]) -> int:
        if self._stopped:
            return 0
        command = [sys.executable, "-m", "mcurl", *arguments]
        pipe = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
        with subprocess.Popen(command, env=os.environ | ENVIRONMENT, start_new_session=True, **pipe) as process:  # type: ignore[call-overload]
            self._running.append(process)
            if self._stopped:  # a signal arrived after the first check
                process.send_signal(signal.SIGINT)
            for line in process.stdout:
                with contextlib.suppress(OSError):  # training continues if standard output is closed
                    print(f"{label} | {line}", end="", flush=True)
        self._running.remove(process)
        status = int(process.returncode)
        return status if status >= 0 else 128 - status

    def _forward(self, number: int, frame: FrameType | None) -> None:
        self._stopped = True
        for process in self._running:
            process.send_signal(number)
