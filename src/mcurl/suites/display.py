"""The display of a pool: a live table on a terminal, plain lines otherwise.

Training continues if the terminal or pipe is closed.
"""

from __future__ import annotations

import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from typing import Literal, Self, TextIO, cast

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from mcurl.run.status import IgnoreBrokenPipe, format_duration
from mcurl.suites.pool import Entry
from mcurl.suites.suite import SuiteRun

_STYLES = {
    "running": "bold cyan",
    "failed": "bold red",
    "elsewhere": "magenta",
    "queued": "cyan",
    "stopped": "yellow",
    "waiting": "dim",
    "finished": "green",
}
"""State -> style. In this order, runs are shown if the terminal is too small for all."""
WIDE = 100
"""Width in characters from which on the latest training episode has a column."""
NARROW = 80
"""Width below which the speed has no column."""


class PoolDisplay:
    """The display of a pool. Use it as a context manager.

    Args:
        title: the suite.
        folder: where the runs are.
        jobs: number of processes at a time.
        console: output; None: standard output.
        every: seconds between two progress reports, if the console is not a terminal.
        clock: returns the time in seconds; tests replace it.
    """

    def __init__(
        self,
        title: str,
        folder: str,
        jobs: int,
        *,
        console: Console | None = None,
        every: float = 30.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.title, self.folder, self.jobs, self.every, self.clock = title, folder, jobs, every, clock
        self.console = console or Console(file=cast(TextIO, IgnoreBrokenPipe(sys.stdout)), highlight=False)
        self.entries: Sequence[Entry] = ()
        live = self.console.is_terminal and not self.console.is_dumb_terminal
        self._live = Live(console=self.console, auto_refresh=False, get_renderable=self.table) if live else None
        self._reported = clock()

    def __enter__(self) -> Self:
        if self._live:
            self._live.start()
        else:
            self._line(f"{self.title}: {self.jobs} at a time, in {self.folder}")
        return self

    def __exit__(self, *error: object) -> None:
        if self._live:
            self._live.stop()
        elif self.entries:  # otherwise an error came before the first run
            self._line(self.summary())

    def update(self, entries: Sequence[Entry]) -> None:
        """Show the runs as they are."""
        self.entries = entries
        if self._live:
            self._live.refresh()
        elif self.clock() - self._reported >= self.every:
            self._reported = self.clock()
            for entry in entries:
                if entry.state in ("running", "elsewhere"):
                    self._line(f"{entry.run.name}: {_progress(entry)}")
            self._line(self.summary())

    def event(self, entry: Entry, text: str) -> None:
        """Show that a run began, ended or failed: a line, above the table on a terminal."""
        self.message(f"{entry.run.name}: {text}")

    def message(self, text: str) -> None:
        """Print a line, above the table on a terminal."""
        if self._live:
            self.console.print(Text(text, overflow="fold"))
        else:
            self._line(text)

    def summary(self) -> str:
        """How many runs there are in each state, and how long the others take."""
        counts = Counter(entry.state for entry in self.entries)
        parts = [f"{counts['finished']} of {len(self.entries)} finished"]
        parts += [f"{counts[state]} {state}" for state in _STYLES if state != "finished" and counts[state]]
        if left := self._time_left():
            parts.append(f"about {format_duration(left)} left")
        return " · ".join(parts)

    def table(self) -> RenderableType:
        """Build the table. The runs that do not fit on the terminal are counted in its last line."""
        shown = self._shown()
        names = name_columns([entry.run for entry in self.entries])
        values = _value_columns(self.console.width)
        table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim", expand=False)
        free = self.console.width - sum(width + 2 for width, _ in values.values()) - 2 * len(names)
        widths = {title: max((len(text(e.run)) for e in shown), default=0) for title, text in names.items()}
        for title, width in _shrink(widths, free).items():
            side: Literal["left", "right"] = "right" if title == "seed" else "left"
            table.add_column(title, width=width, justify=side, no_wrap=True, overflow="ellipsis")
        for title, (width, _) in values.items():
            table.add_column(title, min_width=width, justify="left" if title == "state" else "right", no_wrap=True)
        for entry in shown:
            cells = [Text(cell(entry)) for _, cell in values.values()]
            cells[0].stylize(_STYLES[entry.state])
            table.add_row(*(Text(text(entry.run)) for text in names.values()), *cells)
        hidden = Counter(entry.state for entry in self.entries if entry not in shown)
        more = ", ".join(f"{hidden[state]} {state}" for state in _STYLES if hidden[state])
        rest = [Text(f"and {more}", "dim")] if more else []
        return Group(self._head(), Text(), table, *rest, Text(), self._foot())

    def _shown(self) -> list[Entry]:
        """The runs that fit on the terminal, in the order of the suite."""
        rows = max(self.console.height - (9 if self.console.width >= NARROW else 12), 3)
        if len(self.entries) <= rows:
            return list(self.entries)
        order = list(_STYLES)
        important = sorted(self.entries, key=lambda entry: order.index(entry.state))[:rows]
        return [entry for entry in self.entries if entry in important]

    def _head(self) -> RenderableType:
        grid = Table.grid(padding=(0, 2, 0, 0), expand=True)
        grid.add_column(no_wrap=True, overflow="ellipsis")
        grid.add_column(ratio=1, min_width=8)
        grid.add_column(justify="right", no_wrap=True)
        total = sum(entry.run.env_steps for entry in self.entries)
        done = sum(min(entry.status.env_steps, entry.run.env_steps) for entry in self.entries)
        bar = ProgressBar(max(total, 1), done, complete_style="cyan", finished_style="green")
        grid.add_row(Text(self.title, "bold"), bar, Text(f"{done / max(total, 1):4.0%}", "bold"))
        return grid

    def _foot(self) -> RenderableType:
        hint = "Ctrl-C saves all; the same command continues"
        return Group(Text(self.summary()), Text(f"{self.jobs} at a time, in {self.folder} · {hint}", "dim"))

    def _time_left(self) -> float | None:
        """Seconds until all runs are finished: each is assumed to be as fast as those that train now, on average."""
        rates = [entry.rate for entry in self.entries if entry.rate is not None]
        if not rates:
            return None
        left = sum(entry.run.env_steps - entry.status.env_steps for entry in self.entries if entry.open)
        longest = max((entry.seconds_left or 0 for entry in self.entries), default=0)
        return max(left / (sum(rates) / len(rates)) / max(self.jobs, len(rates)), longest)

    def _line(self, text: str) -> None:
        self.console.file.write(text + "\n")
        self.console.file.flush()


def name_columns(runs: Iterable[SuiteRun]) -> dict[str, Callable[[SuiteRun], str]]:
    """Title -> text of the columns that tell runs apart: what all runs have in common has no column."""
    runs = list(runs)
    one_suite = len({run.task.partition("/")[0] for run in runs}) == 1
    columns: dict[str, Callable[[SuiteRun], str]] = {
        "task": lambda run: run.task.partition("/")[2] if one_suite else run.task,
        "arm": lambda run: run.arm.name,
        "seed": lambda run: str(run.seed),
    }
    different = {title: text for title, text in columns.items() if len({text(run) for run in runs}) > 1}
    return different or {"arm": columns["arm"]}


def short_number(value: float) -> str:
    """Format a number in at most six characters.

    >>> short_number(812.3), short_number(99999), short_number(123_456), short_number(12_000_000)
    ('812.3', '99999', '123.5k', '12.0M')
    """
    if abs(value) >= 1e6:
        return f"{value / 1e6:.1f}M"
    if abs(value) >= 1e5:
        return f"{value / 1e3:.1f}k"
    return f"{value:.0f}" if abs(value) >= 1e4 else f"{value:.1f}"


def short_count(count: int) -> str:
    """Format a number of steps.

    >>> short_count(640), short_count(12_400), short_count(400_000)
    ('640', '12.4k', '400k')
    """
    if count < 1000:
        return str(count)
    return f"{count / 1000:.0f}k" if count >= 1e5 or count % 1000 == 0 else f"{count / 1000:.1f}k"


def _value_columns(width: int) -> dict[str, tuple[int, Callable[[Entry], str]]]:
    """Title -> width and text of the columns beside a run's name, for a terminal of so many characters.

    ``steps`` are simulator steps, ``return`` is the mean of the latest evaluation, ``episode`` the return of the latest
    training episode.
    """
    columns: dict[str, tuple[int, Callable[[Entry], str]]] = {
        "state": (9, lambda entry: entry.state),
        "steps": (6, lambda entry: short_count(entry.status.env_steps) if entry.status.env_steps else ""),
        "return": (6, lambda entry: _optional(entry.status.evaluation)),
        "episode": (6, lambda entry: _optional(entry.status.episode)),
        "steps/s": (7, lambda entry: _optional(entry.rate)),
        "left": (7, lambda entry: "" if entry.seconds_left is None else format_duration(entry.seconds_left)),
    }
    if width < WIDE:
        del columns["episode"]
    if width < NARROW:
        del columns["steps/s"]
    return columns


def _shrink(widths: dict[str, int], free: int) -> dict[str, int]:
    """Make the widest columns narrower until all fit into ``free`` characters, each at least as wide as its title."""
    widths = {title: max(width, len(title)) for title, width in widths.items()}
    while sum(widths.values()) > free:
        widest = max(widths, key=lambda title: widths[title] - len(title))
        if widths[widest] <= len(widest):
            break
        widths[widest] -= 1
    return widths


def _optional(value: float | None) -> str:
    return "" if value is None else short_number(value)


def _progress(entry: Entry) -> str:
    status, left = entry.status, entry.seconds_left
    parts = [entry.state, f"{status.env_steps:,}/{entry.run.env_steps:,} env steps"]
    parts += [f"evaluation {short_number(status.evaluation)}"] if status.evaluation is not None else []
    parts += [f"{short_number(entry.rate)} env steps/s"] if entry.rate is not None else []
    parts += [f"{format_duration(left)} left"] if left is not None else []
    return " · ".join(parts)
