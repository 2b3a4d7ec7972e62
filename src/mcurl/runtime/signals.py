"""Ctrl-C as a request, and so the end of a terminal or a kill: the run is saved first. A second one quits at once."""

from __future__ import annotations

import contextlib
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType


def signals() -> list[signal.Signals]:
    """Ctrl-C, `kill`, and a terminal that goes away, unless `nohup` says that this is nothing to stop for."""
    hang_up = [] if signal.getsignal(signal.SIGHUP) == signal.SIG_IGN else [signal.SIGHUP]
    return [signal.SIGINT, signal.SIGTERM, *hang_up]


class Interrupted(Exception):  # noqa: N818 - nothing went wrong
    """Training stopped at the user's wish, everything saved."""

    def __init__(self, signal_number: int = signal.SIGINT) -> None:
        super().__init__(f"stopped by signal {signal_number}")
        self.signal_number = signal_number


@dataclass
class Stop:
    """Whether the user asked to stop; the training loop and evaluations look at it between two steps."""

    signal_number: int = 0

    @property
    def requested(self) -> bool:
        return self.signal_number != 0

    def check(self) -> None:
        """Raises Interrupted where it was requested."""
        if self.requested:
            raise Interrupted(self.signal_number)


@contextmanager
def until_saved() -> Iterator[None]:
    """Before there is anything to save, a kill is like Ctrl-C: what was begun is taken back."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def quit_now(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    before = {number: signal.signal(number, quit_now) for number in signals()}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def stop_on_signal() -> Iterator[Stop]:
    """Turn the first of the signals into a request; a second one raises KeyboardInterrupt at once.

    Outside the main thread, where Python takes no signals, nothing is ever requested.
    """
    stop = Stop()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return

    def ask(number: int, frame: FrameType | None) -> None:
        if stop.requested:
            raise KeyboardInterrupt
        stop.signal_number = number
        # The signal may have come in the middle of another line to standard error, or standard error may be gone.
        with contextlib.suppress(RuntimeError, OSError):
            print("stopping and saving; once more quits at once", file=sys.stderr, flush=True)

    before = {number: signal.signal(number, ask) for number in signals()}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
