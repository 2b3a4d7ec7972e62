"""The progress display of a run: a live panel on a terminal, plain lines otherwise.

Training continues if the terminal or pipe is closed.
"""

from __future__ import annotations

import math
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from statistics import fmean, pstdev
from typing import Self, TextIO, cast

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.panel import Panel
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from mcurl.run.eta import EvaluationSchedule, Speed, TimeLeft
from mcurl.run.status import IgnoreBrokenPipe, Ticker, format_duration

RECENT_EPISODES = 10
"""Number of latest training episodes whose mean return is shown."""
MAX_METRICS = 12
"""Largest number of metrics on the panel or in a line."""
_BLOCKS = "▁▂▃▄▅▆▇█"


class Display:
    """The progress display of a run. Use it as a context manager.

    All methods are cheap enough to be called at every step. A thread keeps the clock ticking while none is called.

    Args:
        total_env_steps: budget in simulator steps.
        title: title of the panel, such as ``"mcurl · dmc/cartpole-swingup · seed 1"``.
        subtitle: subtitle of the panel, such as the run folder.
        console: output; None: standard output.
        every: seconds between two progress lines, if the console is not a terminal.
        evaluations: the schedule of evaluations, for the time left.
        tick: seconds between two ticks of the clock; 0: it ticks only when a method is called.
        clock: returns the time in seconds; tests replace it.
    """

    def __init__(
        self,
        total_env_steps: int,
        title: str,
        subtitle: str = "",
        *,
        console: Console | None = None,
        every: float = 30.0,
        evaluations: EvaluationSchedule | None = None,
        tick: float = 1.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.total, self.title, self.subtitle = total_env_steps, title, subtitle
        self.console = console or Console(file=cast(TextIO, IgnoreBrokenPipe(sys.stdout)), highlight=False)
        self.every, self.clock = every, clock
        self.env_steps = 0
        self.metrics: dict[str, float] = {}
        self.returns: deque[float] = deque(maxlen=RECENT_EPISODES)
        self.episodes = 0
        self.evaluations: list[tuple[int, float, float]] = []
        self.activity = ""
        self._start_time, self._started = clock(), False
        self._speed, self._updates = Speed(20, clock), Speed(20, clock)
        self._left = TimeLeft(total_env_steps, evaluations, clock)
        self._lock = threading.RLock()
        self._ticker = Ticker(self.tick, tick)
        live = self.console.is_terminal and not self.console.is_dumb_terminal
        # Not Rich's own thread, which would read what the training loop writes meanwhile.
        self._live = Live(console=self.console, auto_refresh=False, get_renderable=self.panel) if live else None
        self._last_refresh = -math.inf if live else clock()

    def __enter__(self) -> Self:
        self._ticker.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._ticker.stop()
        self.activity = ""
        if self._live:
            self._live.stop()
        elif self.env_steps:
            self._line(self._progress_line())

    def tick(self) -> None:
        """Refresh the panel with the present time, or print a line if there was none for ``every`` seconds."""
        with self._lock:
            if self._live and not self._started:
                return
            self._refresh(idle=True)

    def update(self, env_steps: int, metrics: Mapping[str, float] | None = None, updates: int | None = None) -> None:
        """Update the counters and metrics.

        Args:
            env_steps: simulator steps so far.
            metrics: name -> value of new metrics. Each is shown until its next value.
            updates: updates so far; None: unchanged.
        """
        with self._lock:
            self.env_steps = env_steps
            self.metrics.update(metrics or {})
            self._speed.update(env_steps)
            if updates is not None:
                self._updates.update(updates)
                self._left.progress(env_steps, updates)
            self._refresh()

    def episode(self, value: float) -> None:
        """Add the return of a training episode."""
        with self._lock:
            self.returns.append(value)
            self.episodes += 1
            self._refresh()

    def evaluation(self, env_steps: int, returns: Iterable[float]) -> None:
        """Add the returns of an evaluation, one for each episode."""
        values = [float(value) for value in returns]
        with self._lock:
            self._start()
            self.evaluations.append((env_steps, fmean(values), _spread(values)))
            self.activity = ""
            self._left.evaluated(env_steps)
            if not self._live:
                parts = [self._evaluation_text().plain, f"{len(values)} episodes", self._best_text().plain]
                self._line(f"{'evaluation':<12}{' · '.join(parts)}")
            self._refresh(now=True)

    def evaluating(self, env_steps: int, finished: int, episodes: int) -> None:
        """Show how many episodes of an evaluation are finished, until :meth:`evaluation`."""
        with self._lock:
            self.env_steps = env_steps
            self._left.evaluating(finished, episodes)
            self.status(f"evaluating, {finished} of {episodes}")

    def load_evaluations(self, evaluations: Mapping[int, Iterable[float]]) -> None:
        """Add the evaluations before a resume, without printing a line for each.

        Args:
            evaluations: env steps -> returns.
        """
        for env_steps, returns in evaluations.items():
            values = list(returns)
            self.evaluations.append((env_steps, fmean(values), _spread(values)))

    def status(self, activity: str) -> None:
        """Show an activity, such as ``"evaluating, 3 of 10"``, on the panel; an empty string removes it."""
        with self._lock:
            changed, self.activity = activity != self.activity, activity
            self._refresh(now=changed)

    def message(self, text: str) -> None:
        """Print a line, above the panel on a terminal."""
        with self._lock:
            self._start()
            if self._live:
                self.console.print(Text(text))
            else:
                self._line(text)

    def panel(self) -> RenderableType:
        """Build the panel."""
        parts: list[RenderableType] = [self._progress(), Text(), self._results()]
        if self.metrics:
            parts += [Text(), self._metrics()]
        parts += [Text(), self._footer()]
        return Panel(
            Group(*parts),
            title=Text(f" {self.title} ", style="bold"),
            title_align="left",
            subtitle=Text(f" {self.subtitle} ", style="dim") if self.subtitle else None,
            subtitle_align="left",
            border_style="cyan",
            padding=(1, 2),
            # Three columns are free for the terminal's ^C, which would otherwise start a new line.
            width=min(self.console.width - 3, 100),
        )

    def _start(self) -> None:
        """Start the display at the first output, so that errors before it appear alone."""
        if self._started:
            return
        self._started = True
        if self._live:
            self._live.start()
        else:
            self._line(" · ".join(part for part in (self.title, f"{self.total:,} env steps", self.subtitle) if part))

    def _refresh(self, now: bool = False, idle: bool = False) -> None:
        """Show the present state if it is time to, or ``now`` on a panel.

        ``idle``: called by the clock. It leaves the first output to the run, unless that takes longer than ``every``.
        """
        if not self._live:
            if self.clock() - self._last_refresh >= self.every:
                self._start()
                self._last_refresh = self.clock()
                self._line(self._progress_line())
            elif not idle:
                self._start()
            return
        self._start()
        if now or self.clock() - self._last_refresh >= 0.25:
            self._last_refresh = self.clock()
            self._live.refresh()

    def _line(self, text: str) -> None:
        self.console.file.write(text + "\n")
        self.console.file.flush()

    def _progress_line(self) -> str:
        share = f"{self.env_steps:,}/{self.total:,} ({self.env_steps / self.total:.0%})"
        parts = [self.activity] if self.activity else []
        parts += [f"return {fmean(self.returns):.1f}"] if self.returns else []
        parts += [f"{name} {_number(value)}" for name, value in list(self.metrics.items())[:MAX_METRICS]]
        return f"{'env steps':<12}{share} · " + " · ".join([*parts, *self._rates(), self._time_left()])

    def _progress(self) -> RenderableType:
        grid = Table.grid(padding=(0, 2, 0, 0), expand=True)
        grid.add_column(no_wrap=True)
        grid.add_column(ratio=1)
        grid.add_column(justify="right", no_wrap=True)
        steps = Text.assemble((f"{self.env_steps:,}", "bold"), (f" / {self.total:,} env steps", "dim"))
        done = self.env_steps >= self.total
        bar = ProgressBar(self.total, min(self.env_steps, self.total), complete_style="cyan", finished_style="green")
        grid.add_row(steps, bar, Text(f"{self.env_steps / self.total:4.0%}", "bold green" if done else "bold"))
        return grid

    def _results(self) -> RenderableType:
        grid = Table.grid(padding=(0, 3, 0, 0))
        grid.add_column(style="dim", no_wrap=True)
        grid.add_column(no_wrap=True)
        grid.add_column(no_wrap=True)
        grid.add_column(no_wrap=True, overflow="crop")
        if self.returns:
            recent = Text.assemble("mean of last ", f"{len(self.returns)}: ", (f"{fmean(self.returns):.1f}", "bold"))
            grid.add_row(
                "episode", Text(f"{self.returns[-1]:.1f}", "bold"), recent, Text(sparkline(self.returns), "cyan")
            )
        else:
            grid.add_row("episode", Text("–", "dim"), "", "")
        if self.evaluations:
            grid.add_row(
                "evaluation",
                self._evaluation_text(),
                self._best_text(),
                Text(sparkline([mean for _, mean, _ in self.evaluations][-24:]), "green"),
            )
        else:
            grid.add_row("evaluation", Text("–", "dim"), "", "")
        return grid

    def _evaluation_text(self) -> Text:
        at, mean, deviation = self.evaluations[-1]
        return Text.assemble((f"{mean:.1f}", "bold green"), f" ± {deviation:.1f}", (f" at {at:,}", "dim"))

    def _best_text(self) -> Text:
        at, mean, _ = max(self.evaluations, key=lambda evaluation: evaluation[1])
        return Text.assemble("best ", (f"{mean:.1f}", "bold"), (f" at {at:,}", "dim"))

    def _metrics(self) -> RenderableType:
        """Names and values of metrics, in up to three pairs of columns."""
        pairs = 3 if self.console.width >= 90 else 2 if self.console.width >= 60 else 1
        grid = Table.grid(padding=(0, 3, 0, 0))
        for _ in range(pairs):
            grid.add_column(style="dim", no_wrap=True)
            grid.add_column(justify="right", no_wrap=True, min_width=9)
        items = list(self.metrics.items())[:MAX_METRICS]
        for row in range(0, len(items), pairs):
            grid.add_row(*(cell for name, value in items[row : row + pairs] for cell in (Text(name), _coloured(value))))
        return grid

    def _footer(self) -> RenderableType:
        grid = Table.grid(expand=True)
        grid.add_column(no_wrap=True)
        grid.add_column(justify="right", no_wrap=True)
        left = (
            Text.assemble((f"{self.activity}…", "bold yellow"))
            if self.activity
            else Text(" · ".join(self._rates()) or "starting", "dim")
        )
        elapsed = format_duration(self.clock() - self._start_time)
        grid.add_row(left, Text(f"{elapsed} elapsed · {self._time_left()}", "dim"))
        return grid

    def _rates(self) -> list[str]:
        named = (("env steps/s", self._speed.rate), ("updates/s", self._updates.rate))
        return [f"{rate:,.{1 if rate < 100 else 0}f} {name}" for name, rate in named if rate is not None]

    def _time_left(self) -> str:
        if self.env_steps >= self.total and not self.activity:
            return "done"
        seconds = self._left.seconds
        if seconds is None:
            return "time left unknown"
        return f"{format_duration(seconds)}{'' if self._left.complete else ' + evaluations'} left"


def sparkline(values: Iterable[float]) -> str:
    """A line chart of finite values in block characters; empty for fewer than two values.

    >>> sparkline([1, 2, 4])
    '▁▃█'
    """
    finite = [value for value in values if math.isfinite(value)]
    if len(finite) < 2:
        return ""
    low, high = min(finite), max(finite)
    return "".join(_BLOCKS[round((value - low) / ((high - low) or 1.0) * (len(_BLOCKS) - 1))] for value in finite)


def _spread(values: list[float]) -> float:
    """Population standard deviation; nan if a value is not finite."""
    return pstdev(values) if all(map(math.isfinite, values)) else math.nan


def _coloured(value: float) -> Text:
    return Text(_number(value), "" if math.isfinite(value) else "bold red")


def _number(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 1e4 and math.isfinite(value) else f"{value:.4g}"
