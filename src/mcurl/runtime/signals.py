"""Stop training on a signal: Ctrl-C, ``kill``, or a closed terminal.

The first signal requests a stop, so that the run is saved before exit. The second signal raises KeyboardInterrupt. On
the command line it also ends the process after some seconds, whatever an environment does.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType

_QUIT_SECONDS = 8.0
"""Time for an orderly exit after the second signal: longer than the time for an environment to close."""
_command_line = False
"""Whether a KeyboardInterrupt ends this process; a notebook goes on."""


def stop_signals() -> list[signal.Signals]:
    """The signals that stop a run: SIGINT, SIGTERM, and SIGHUP unless it is ignored (``nohup``)."""
    hang_up = [] if signal.getsignal(signal.SIGHUP) == signal.SIG_IGN else [signal.SIGHUP]
    return [signal.SIGINT, signal.SIGTERM, *hang_up]


class Interrupted(Exception):  # noqa: N818 - not an error
    """The user stopped the run, by a signal or from a callback, and the run is saved.

    Attributes:
        signal_number: number of the signal; 0: a callback stopped the run.
        reason: why, in words.
    """

    def __init__(self, signal_number: int = signal.SIGINT, reason: str = "") -> None:
        self.signal_number, self.reason = signal_number, reason or f"stopped by signal {signal_number}"
        super().__init__(self.reason)


@dataclass
class Stop:
    """Request to stop. The training loop and evaluations check it between two steps."""

    signal_number: int = 0
    """Number of the first signal; 0: no signal so far."""
    reason: str = ""
    """Why a callback stops the run; empty: no callback did so far."""

    @property
    def requested(self) -> bool:
        """Whether a signal arrived, or a callback asked for a stop."""
        return self.signal_number != 0 or self.reason != ""

    def check(self) -> None:
        """Raise Interrupted if a stop was requested."""
        if self.requested:
            raise Interrupted(self.signal_number, self.reason)


@contextmanager
def signals_as_keyboard_interrupt() -> Iterator[None]:
    """A context manager in which every stop signal raises KeyboardInterrupt.

    It covers the time before training starts, when there is nothing to save. Outside the main thread, where Python
    cannot handle signals, it has no effect. For commands: a second signal, here or in :func:`stop_on_signal`, also ends
    the process after some seconds.
    """
    global _command_line
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    received = []

    def interrupt(number: int, frame: FrameType | None) -> None:
        received.append(number)
        if len(received) == 2:
            _quit_later(number)
        raise KeyboardInterrupt

    previous = {number: signal.signal(number, interrupt) for number in stop_signals()}
    _command_line = True
    try:
        yield
    finally:
        _command_line = False
        for number, handler in previous.items():
            signal.signal(number, handler)


@contextmanager
def stop_on_signal(stop: Stop | None = None) -> Iterator[Stop]:
    """A context manager in which the first stop signal sets the request, and the second raises KeyboardInterrupt.

    Outside the main thread, where Python cannot handle signals, no signal sets it.

    Args:
        stop: the request; None: a new one.
    """
    stop = stop or Stop()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return

    def request_stop(number: int, frame: FrameType | None) -> None:
        if stop.signal_number:
            if _command_line:
                _quit_later(number)
            raise KeyboardInterrupt
        stop.signal_number = number
        # The signal may interrupt another write to standard error, or standard error may be closed.
        with contextlib.suppress(RuntimeError, OSError):
            print("Saving before exit. Press Ctrl-C again to quit without saving.", file=sys.stderr, flush=True)

    previous = {number: signal.signal(number, request_stop) for number in stop_signals()}
    try:
        yield stop
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def _quit_later(number: int) -> None:
    """End the process after some seconds, also if an environment hangs, or ignores the KeyboardInterrupt."""

    def quit_process() -> None:
        time.sleep(_QUIT_SECONDS)
        if sys.stderr.isatty():
            os.write(2, b"\x1b[?25h")  # the display hides the cursor
        os.write(2, b"mcurl: stopped without saving; something did not end by itself\n")
        os._exit(128 + number)

    threading.Thread(target=quit_process, name="quit", daemon=True).start()
