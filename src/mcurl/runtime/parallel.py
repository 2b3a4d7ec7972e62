"""Several ``mcurl`` processes at a time, each with its share of the CPU cores."""

from __future__ import annotations

import contextlib
import os
import queue
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Hashable, Mapping, Sequence
from pathlib import Path
from types import FrameType
from typing import Any, Self

from mcurl.runtime.program import module_command
from mcurl.runtime.signals import stop_signals

ENVIRONMENT = {"LP_NUM_THREADS": "0", "PYTHONUNBUFFERED": "1"}
"""Environment variables of the processes. Software OpenGL renders in the calling thread, which costs 25 % less than
worker threads. Output is not buffered."""


class ProcessPool:
    """Processes of ``mcurl``. A context manager, to be used in the main thread.

    Each process has its own session. So it receives a signal once, from this process, and not again from the terminal.
    In the context, every stop signal is forwarded to all processes. At exit, processes that still run are stopped, as
    by Ctrl-C, and waited for.
    """

    queues = False
    """A started process runs at once."""

    def __init__(self) -> None:
        self.signal_number = 0
        """Number of the first stop signal; 0: none so far."""
        self._processes: dict[Hashable, subprocess.Popen[str]] = {}
        self._signalled: set[Hashable] = set()
        self._ended: queue.SimpleQueue[tuple[Hashable, int]] = queue.SimpleQueue()
        self._handlers: dict[int, Any] = {}

    def __enter__(self) -> Self:
        self._handlers = {number: signal.signal(number, self._forward) for number in stop_signals()}
        return self

    def __exit__(self, *error: object) -> None:
        try:
            if self._processes and not self.signal_number:
                self._send(signal.SIGINT)
            while self._processes:
                self.wait()
        finally:
            for number, handler in self._handlers.items():
                signal.signal(number, handler)

    @property
    def running(self) -> list[Hashable]:
        """Keys of the processes that have not ended."""
        return list(self._processes)

    def start(self, key: Hashable, arguments: Sequence[str], on_line: Callable[[str], None]) -> None:
        """Start a process.

        Args:
            key: name of the process in :meth:`wait`.
            arguments: of ``mcurl``.
            on_line: receives each line of the output, in another thread.
        """
        process = subprocess.Popen(
            [*module_command(), *arguments],
            env=os.environ | ENVIRONMENT,
            start_new_session=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
            text=True,
            errors="replace",
        )
        self._processes[key] = process
        threading.Thread(target=self._read, args=(key, process, on_line), daemon=True).start()
        if self.signal_number and key not in self._signalled:  # the signal arrived while the process was started
            self._send(self.signal_number, [key])

    def wait(self, timeout: float | None = None) -> dict[Hashable, int]:
        """Wait until a process ends.

        Args:
            timeout: wait at most this many seconds; None: as long as it takes.

        Returns:
            Key -> exit status of the processes that ended, 128 + the signal's number after a kill; empty after a
            timeout.
        """
        ended: dict[Hashable, int] = {}
        with contextlib.suppress(queue.Empty):
            key, status = self._ended.get(timeout=timeout)
            while True:
                ended[key] = status if status >= 0 else 128 - status
                del self._processes[key]
                self._signalled.discard(key)
                key, status = self._ended.get_nowait()
        return ended

    def _read(self, key: Hashable, process: subprocess.Popen[str], on_line: Callable[[str], None]) -> None:
        assert process.stdout is not None
        pass_on_nice(process)
        with process.stdout:
            for line in process.stdout:
                on_line(line)
        self._ended.put((key, process.wait()))

    def _forward(self, number: int, frame: FrameType | None) -> None:
        self.signal_number = self.signal_number or number
        self._send(number)

    def _send(self, number: int, keys: Sequence[Hashable] | None = None) -> None:
        for key in self.running if keys is None else keys:
            self._signalled.add(key)
            self._processes[key].send_signal(number)


def pass_on_nice(process: subprocess.Popen[str]) -> None:
    """Make ``nice`` count for a process with a session of its own. It may take some tenths of a second.

    Linux shares the cores between sessions, and a nice value between those of one session alone, unless the session has
    one, too (``man 7 sched``, "The autogroup feature"). So ``nice -n 19 mcurl suite run`` took half of a busy machine.
    """
    if (level := os.nice(0)) <= 0:
        return
    for _ in range(100):
        with contextlib.suppress(BlockingIOError):
            with contextlib.suppress(FileNotFoundError, PermissionError, ProcessLookupError):  # or without this feature
                Path(f"/proc/{process.pid}/autogroup").write_text(str(level))
            return
        time.sleep(0.1)  # without privileges, one session in a tenth of a second


def run_parallel(commands: Mapping[str, Sequence[str]], max_parallel: int) -> int:
    """Run several ``mcurl`` commands, and print their output as ``label | line``.

    After a signal, no further command is started.

    Args:
        commands: label -> arguments of ``mcurl``.
        max_parallel: largest number of processes at a time, at least 1.

    Returns:
        The highest exit status; 128 + the signal's number for a killed process.
    """

    def printer(label: str) -> Callable[[str], None]:
        def print_line(line: str) -> None:
            with contextlib.suppress(OSError):  # training continues if standard output is closed
                print(f"{label} | {line}", end="", flush=True)

        return print_line

    waiting, statuses = list(commands), [0]
    with ProcessPool() as pool:
        while pool.running or (waiting and not pool.signal_number):
            while waiting and len(pool.running) < max_parallel and not pool.signal_number:
                label = waiting.pop(0)
                pool.start(label, commands[label], printer(label))
            statuses += pool.wait(1).values()
    return max(statuses)
