"""How long a run still takes: the steps to come at their recent rate, and the evaluations to come."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Self


class Speed:
    """The rate of a counter over a sliding window.

    Args:
        window: length of the window in seconds.
        clock: returns the time in seconds.
    """

    def __init__(self, window: float, clock: Callable[[], float]) -> None:
        self.window, self.clock = window, clock
        self.points: deque[tuple[float, float]] = deque()
        self.newest = (0.0, 0.0)

    def update(self, count: float) -> None:
        """Record the current value of the counter."""
        now = self.clock()
        self.newest = now, count
        # About a hundred points are stored, however often it is called.
        if not self.points or now >= self.points[-1][0] + self.window / 100:
            self.points.append(self.newest)
        while len(self.points) > 1 and self.points[1][0] <= now - self.window:
            self.points.popleft()

    @property
    def rate(self) -> float | None:
        """Counts per second; None if the counter has not increased."""
        if not self.points:
            return None
        (first, low), (last, high) = self.points[0], self.newest
        return (high - low) / (last - first) if last > first and high > low else None


@dataclass(frozen=True)
class EvaluationSchedule:
    """The evaluations of a run, as :class:`mcurl.config.sections.EvaluationSettings` schedule them."""

    every: int = 0
    """Env steps between evaluations; 0: only at the end."""
    episodes: int = 0
    """Episodes in an evaluation."""
    final_episodes: int = 0
    """Episodes in the last evaluation; 0: as many as in the others."""

    @classmethod
    def of(cls, settings: Mapping[str, Any]) -> Self:
        """From the section ``evaluation`` of a run's settings."""
        return cls(*(int(settings.get(name, 0)) for name in ("every", "episodes", "final_episodes")))

    def episodes_after(self, env_steps: int, total: int) -> int:
        """Episodes of the evaluations after ``env_steps`` simulator steps, up to the end of the budget."""
        regular = (total - 1) // self.every - env_steps // self.every if self.every else 0
        return max(regular, 0) * self.episodes + (self.final_episodes or self.episodes)


WINDOW = 120.0
"""Seconds of training whose rate counts."""
WARM_UP = 5
"""First updates that are left out: they compile code and choose algorithms."""
FEWEST_UPDATES, SHORTEST = 20, 5.0
"""A rate counts after so many updates, or after at least two updates and so many seconds."""


class TimeLeft:
    """Estimates the time until the end of a run.

    Env steps count from the moment when updates run, at their rate in the last :data:`WINDOW` seconds of training.
    Evaluations count by the duration of an episode in the latest evaluation of this process.

    Args:
        total: budget in simulator steps.
        evaluations: the schedule of evaluations.
        clock: returns the time in seconds; tests replace it.
    """

    def __init__(
        self, total: int, evaluations: EvaluationSchedule | None = None, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.total, self.evaluations, self.clock = total, evaluations or EvaluationSchedule(), clock
        self.env_steps = 0
        self.seconds_per_episode: float | None = None
        self._trained = 0.0
        self._rate = Speed(WINDOW, lambda: self._trained)
        self._last: float | None = None
        self._first_updates: int | None = None
        self._counted_from: tuple[float, int] | None = None
        self._updates = 0
        self._evaluation: tuple[float, int, int] | None = None
        self._done = False

    def progress(self, env_steps: int, updates: int) -> None:
        """Receive the counters after an agent step. The time since the last call counts as training."""
        now = self.clock()
        if self._last is not None:
            self._trained += now - self._last
        self._last, self.env_steps = now, env_steps
        if self._first_updates is None:
            self._first_updates = updates
        if updates - self._first_updates >= WARM_UP:
            self._counted_from = self._counted_from or (self._trained, updates)
            self._updates = updates
            self._rate.update(env_steps)

    def evaluating(self, finished: int, episodes: int) -> None:
        """Receive how many episodes of an evaluation are finished. The time until it ends is no training."""
        begun = self.clock() if self._evaluation is None else self._evaluation[0]
        self._evaluation, self._last = (begun, finished, episodes), None

    def evaluated(self, env_steps: int) -> None:
        """Receive the end of an evaluation."""
        if self._evaluation is not None:
            begun, _, episodes = self._evaluation
            self._last = self.clock()
            self.seconds_per_episode = (self._last - begun) / episodes
        self._evaluation, self.env_steps = None, env_steps
        self._done = env_steps >= self.total

    @property
    def seconds(self) -> float | None:
        """Seconds until the end; None if unknown, because no or too few updates have run.

        Evaluations count as 0 as long as none has been timed, see :attr:`complete`.
        """
        steps = max(self.total - self.env_steps, 0)
        rate = self._rate.rate if self._enough() else None
        if steps and rate is None:
            return None
        later = self._later_episodes() * (self._seconds_per_episode() or 0.0)
        return (steps / rate if rate else 0.0) + self._present() + later

    @property
    def complete(self) -> bool:
        """Whether :attr:`seconds` includes all evaluations to come."""
        return self._seconds_per_episode() is not None or not (self._evaluation or self._later_episodes())

    def _enough(self) -> bool:
        if self._counted_from is None:
            return False
        trained, updates = self._trained - self._counted_from[0], self._updates - self._counted_from[1]
        return updates >= FEWEST_UPDATES or (updates >= 2 and trained >= SHORTEST)

    def _later_episodes(self) -> int:
        """Episodes of the evaluations that have not begun."""
        last = self.env_steps >= self.total and (self._done or self._evaluation is not None)
        return 0 if last else self.evaluations.episodes_after(self.env_steps, self.total)

    def _present(self) -> float:
        """Seconds until the present evaluation ends; 0 if there is none, or its speed is unknown."""
        if self._evaluation is None:
            return 0.0
        begun, _, episodes = self._evaluation
        return max(episodes * (self._seconds_per_episode() or 0.0) - (self.clock() - begun), 0.0)

    def _seconds_per_episode(self) -> float | None:
        """Of the present evaluation if half of it is finished, because its episodes overlap; else of the one before."""
        if self._evaluation is not None:
            begun, finished, episodes = self._evaluation
            if 2 * finished >= episodes:
                return (self.clock() - begun) / finished
        return self.seconds_per_episode
