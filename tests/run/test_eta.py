"""The time left: unknown until updates run, then right within a factor of 1.5, on runs whose speed is made up."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import pytest

from mcurl.run.eta import EvaluationSchedule, TimeLeft


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


@dataclass
class Run:
    """A run with a fake clock: random steps, then an update a step; evaluations; a slow first update; saving."""

    total: int = 100_000
    repeat: int = 8
    random_steps: int = 1000
    random_seconds: float = 0.01
    update_seconds: float = 0.17
    first_update_seconds: float = 30.0
    episode_seconds: float = 1.2
    evaluations: EvaluationSchedule = field(default_factory=lambda: EvaluationSchedule(20_000, 10))
    save_seconds: float = 3.0
    start: int = 0
    """Env steps at which it is resumed; 0: a new run."""

    def play(self) -> Iterator[tuple[int, int, float, TimeLeft]]:
        """After each step and each second of an evaluation: env steps, updates of this process, the time, the rest."""
        clock = Clock()
        left = TimeLeft(self.total, self.evaluations, clock)
        updates, first = self.start, True
        if not self.start:
            yield from self._evaluate(left, clock, 0, updates)
        for env_steps in range(self.start + self.repeat, self.total + 1, self.repeat):
            clock.now += self.random_seconds
            if env_steps > self.random_steps * self.repeat:
                clock.now += self.first_update_seconds if first else self.update_seconds
                updates, first = updates + 1, False
            left.progress(env_steps, updates)
            yield env_steps, updates - self.start, clock.now, left
            if env_steps == self.total or (self.evaluations.every and env_steps % self.evaluations.every == 0):
                yield from self._evaluate(left, clock, env_steps, updates)
                clock.now += self.save_seconds
        self.end = clock.now

    def _evaluate(
        self, left: TimeLeft, clock: Clock, env_steps: int, updates: int
    ) -> Iterator[tuple[int, int, float, TimeLeft]]:
        last = env_steps == self.total
        episodes = (last and self.evaluations.final_episodes) or self.evaluations.episodes
        for finished in range(episodes):
            left.evaluating(finished, episodes)
            yield env_steps, updates - self.start, clock.now, left
            clock.now += self.episode_seconds
        left.evaluated(env_steps)


@pytest.mark.parametrize(
    "run",
    [
        Run(),
        Run(update_seconds=0.9, first_update_seconds=5),
        Run(
            total=400_000,
            repeat=4,
            update_seconds=0.02,
            evaluations=EvaluationSchedule(40_000, 10, 100),
            episode_seconds=9,
        ),
        Run(evaluations=EvaluationSchedule(0, 10)),
        Run(total=20_000, repeat=1, evaluations=EvaluationSchedule(5000, 50), episode_seconds=5, random_steps=4000),
    ],
)
def test_the_time_left_is_unknown_until_updates_run_and_then_right(run: Run) -> None:
    guesses = [(updates, now, left.seconds, left.complete) for _, updates, now, left in run.play()]
    assert all(seconds is None for updates, _, seconds, _ in guesses if updates == 0)
    known = [(now, seconds) for _, now, seconds, complete in guesses if seconds is not None and complete]
    assert known
    first_update = next(now for updates, now, _, _ in guesses if updates)
    assert known[0][0] - first_update < 20  # seconds: known soon
    for now, seconds in known:
        true = run.end - now
        if true > 30:  # seconds
            assert true / 1.5 <= seconds <= true * 1.5, (now, seconds, true)


def test_a_resumed_run_says_that_evaluations_come_on_top() -> None:
    run = Run(start=40_000)
    seen = [(env_steps, left.seconds, left.complete) for env_steps, _, _, left in run.play()]
    before = [(steps, seconds, complete) for steps, seconds, complete in seen if steps < 60_000]
    assert not any(complete for _, _, complete in before)
    steps, seconds, _ = before[-1]
    assert seconds == pytest.approx((run.total - steps) / 8 * 0.18, rel=0.05)
    assert all(complete for steps, _, complete in seen if steps > 60_000)


def test_a_change_of_speed_is_seen_after_the_window() -> None:
    clock = Clock()
    left = TimeLeft(1_000_000, None, clock)
    for step in range(2000):
        clock.now += 0.1 if step < 1000 else 0.4
        left.progress(step, step)
    assert left.seconds == pytest.approx((1_000_000 - 1999) * 0.4, rel=0.01)


def test_nothing_is_left_at_the_end() -> None:
    run = Run(total=16_000)
    *_, (_, _, _, left) = run.play()
    assert left.seconds == 0
    assert left.complete


def test_the_schedule_counts_the_episodes_to_come() -> None:
    schedule = EvaluationSchedule.of({"every": 10, "episodes": 2, "final_episodes": 5, "parallel": 9})
    assert [schedule.episodes_after(steps, 30) for steps in (0, 9, 10, 29)] == [2 + 2 + 5, 9, 2 + 5, 5]
    assert EvaluationSchedule(10, 2).episodes_after(0, 25) == 2 + 2 + 2
    assert EvaluationSchedule(0, 2).episodes_after(7, 25) == 2
