"""A line that says what a command does, with a clock; and what all outputs that tick share.

A command goes on if the terminal or pipe is closed.
"""

from __future__ import annotations

import contextlib
import sys
import threading
import time
from collections.abc import Callable
from typing import Any, Self, TextIO, cast

from rich.console import Console
from rich.live import Live
from rich.text import Text


class IgnoreBrokenPipe:
    """A text file that ignores errors of a closed pipe or terminal. The text is lost then.

    Characters that the file's encoding does not have are replaced.
    """

    def __init__(self, file: TextIO) -> None:
        self._file = file

    def write(self, text: str) -> int:
        with contextlib.suppress(OSError):
            try:
                self._file.write(text)
            except UnicodeEncodeError as error:
                self._file.write(text.encode(error.encoding, "replace").decode(error.encoding))
        return len(text)

    def flush(self) -> None:
        with contextlib.suppress(OSError):
            self._file.flush()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)


class Ticker:
    """Calls a function every second in a thread, so that a clock ticks while the main thread is busy.

    Args:
        tick: is called; it must be short.
        seconds: time between two calls; 0: no thread.
    """

    def __init__(self, tick: Callable[[], None], seconds: float = 1.0) -> None:
        self.tick, self.seconds = tick, seconds
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def start(self) -> None:
        if self.seconds > 0:
            self._thread.start()

    def stop(self) -> None:
        """Stop; after it, the function is not called any more."""
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join()

    def _run(self) -> None:
        while not self._stop.wait(self.seconds):
            self.tick()


class StatusLine:
    """Says on standard error what a command does, with a clock. Use it as a context manager.

    On a terminal it is a line that disappears at the end; else a new line appears now and then.

    Args:
        text: what the command does, such as ``"evaluating"``.
        console: output; None: standard error.
        every: seconds between two lines, if the console is not a terminal.
        tick: seconds between two ticks of the clock; 0: it ticks only at :meth:`update`.
        clock: returns the time in seconds; tests replace it.
    """

    def __init__(
        self,
        text: str,
        *,
        console: Console | None = None,
        every: float = 30.0,
        tick: float = 1.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.text, self.every, self.clock = text, every, clock
        self.console = console or Console(file=cast(TextIO, IgnoreBrokenPipe(sys.stderr)), highlight=False)
        self.finished = self.total = 0
        self._start_time = self._last = clock()
        live = self.console.is_terminal and not self.console.is_dumb_terminal
        self._live = (
            Live(console=self.console, auto_refresh=False, transient=True, get_renderable=self.line) if live else None
        )
        self._ticker = Ticker(self.tick, tick)

    def __enter__(self) -> Self:
        if self._live:
            self._live.start(refresh=True)
        self._ticker.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._ticker.stop()
        if self._live:
            self._live.stop()

    def update(self, finished: int, total: int) -> None:
        """Set how many parts are finished, and of how many."""
        self.finished, self.total = finished, total
        if not self._ticker.seconds:
            self.tick()

    def tick(self) -> None:
        """Show the present time, or print a line if there was none for ``every`` seconds."""
        if self._live:
            self._live.refresh()
        elif self.clock() - self._last >= self.every:
            self._last = self.clock()
            self.console.file.write(f"{self.line()}\n")
            self.console.file.flush()

    def line(self) -> Text:
        """What is done, the time so far and, once enough parts are finished, the time left."""
        elapsed = self.clock() - self._start_time
        parts = [f"{self.text}, {self.finished} of {self.total}" if self.total else self.text]
        parts.append(f"{format_duration(elapsed)} elapsed")
        # Parts that are done side by side end together, so the first few say little.
        if self.finished and self.finished >= min(20, self.total / 2):
            parts.append(f"{format_duration(elapsed / self.finished * (self.total - self.finished))} left")
        return Text(" · ".join(parts))


def format_duration(seconds: float) -> str:
    """Format a duration.

    >>> format_duration(59), format_duration(3700), format_duration(200_000)
    ('0:59', '1:01:40', '2 d 7 h')
    """
    whole = int(seconds)
    if whole >= 100 * 3600 // 2:
        return f"{whole // 86400} d {whole % 86400 // 3600} h"
    hours, minutes, rest = whole // 3600, whole % 3600 // 60, whole % 60
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
