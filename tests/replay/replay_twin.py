"""The obvious replay: all rows ever stored in a list, every rule written out one row at a time. And histories to feed
both with."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from hypothesis import strategies as st

from mcurl.replay import Replay

FRAME = (2, 5, 6)


@dataclass
class Step:
    action: np.ndarray
    reward: float
    terminated: bool
    truncated: bool
    life_lost: bool


@dataclass
class Row:
    frame: np.ndarray
    episode: int
    step: int
    after: Step | None = None


class Twin:
    def __init__(self, capacity: int, frame_stack: int, stack_start: str, n_step: int, discount: float) -> None:
        self.capacity, self.frame_stack, self.stack_start, self.n_step, self.discount = (
            capacity,
            frame_stack,
            stack_start,
            n_step,
            discount,
        )
        self.rows: list[Row] = []
        self.open = False

    def begin(self, frame: np.ndarray) -> None:
        self.rows.append(Row(frame, self.rows[-1].episode + 1 if self.rows else 0, 0))
        self.open = True

    def append(
        self, action: np.ndarray, reward: float, frame: np.ndarray, terminated: bool, truncated: bool, life_lost: bool
    ) -> None:
        newest = self.rows[-1]
        newest.after = Step(action, reward, terminated, truncated, life_lost)
        self.rows.append(Row(frame, newest.episode, newest.step + 1))
        self.open = not (terminated or truncated)

    @property
    def held(self) -> range:
        return range(max(0, len(self.rows) - self.capacity), len(self.rows))

    def stack(self, row: int) -> np.ndarray | None:
        """The observation of a row, or None where a frame of it was overwritten."""
        frames = []
        for back in reversed(range(self.frame_stack)):
            back_to = max(row - back, row - self.rows[row].step)
            if back_to not in self.held:
                return None
            blank = self.stack_start == "blank" and back > self.rows[row].step
            frames.append(np.zeros_like(self.rows[back_to].frame) if blank else self.rows[back_to].frame)
        return np.concatenate(frames)

    def frame_rows(self, row: int) -> list[int]:
        """The row of each frame of a whole stack; -1: blank."""
        first = row - self.rows[row].step
        before = -1 if self.stack_start == "blank" else first
        return [row - back if row - back >= first else before for back in reversed(range(self.frame_stack))]

    def frames(self, ids: list[int]) -> np.ndarray:
        """A stack of any frames; -1: blank."""
        assert all(row == -1 or row in self.held for row in ids)
        return np.concatenate([np.zeros(FRAME, np.uint8) if row == -1 else self.rows[row].frame for row in ids])

    def observations(self) -> set[int]:
        return {row for row in self.held if self.stack(row) is not None}

    def transition(self, row: int) -> tuple[np.ndarray, np.ndarray, float, np.ndarray, float] | None:
        """obs, action, reward, next_obs, discount; None where it may not be drawn."""
        obs, first = self.stack(row), self.rows[row].after
        if obs is None or first is None:
            return None
        reward, discount, at = 0.0, 1.0, row
        for _ in range(self.n_step):
            after = self.rows[at].after
            if after is None:  # the episode's last row: cut off here, unless it still runs
                if self.open and at == len(self.rows) - 1:
                    return None
                break
            reward += discount * after.reward
            discount *= self.discount
            at += 1
            if after.terminated or after.life_lost:
                discount = 0.0
                break
        next_obs = self.stack(at)
        assert next_obs is not None
        return obs, first.action, reward, next_obs, discount

    def transitions(self) -> set[int]:
        return {row for row in self.held if self.transition(row) is not None}


@dataclass(frozen=True)
class Setup:
    capacity: int
    frame_stack: int
    stack_start: Any
    n_step: int
    discount: float = 0.9

    def twin(self) -> Twin:
        return Twin(self.capacity, self.frame_stack, self.stack_start, self.n_step, self.discount)

    def replay(self, **more: Any) -> Replay:
        return Replay(
            capacity=self.capacity,
            frame_shape=FRAME,
            frame_dtype="uint8",
            frame_stack=self.frame_stack,
            stack_start=self.stack_start,
            action_shape=(2,),
            action_dtype="float32",
            n_step=self.n_step,
            discount=self.discount,
            **more,
        )


@st.composite
def setups(draw: st.DrawFn) -> Setup:
    frame_stack, n_step = draw(st.sampled_from([1, 3, 4])), draw(st.sampled_from([1, 3, 20]))
    capacity = draw(st.integers(frame_stack + n_step + 1, frame_stack + n_step + 30))
    return Setup(capacity, frame_stack, draw(st.sampled_from(["repeat", "blank"])), n_step)


# "begin" may cut an episode off after its first frame.
RARE = ["life lost", "life lost and truncated", "terminated", "truncated", "begin", "close"]


@st.composite
def histories(draw: st.DrawFn) -> list[str]:
    """Up to 120 events, so that most rings wrap; episodes from one step to longer than the ring."""
    length, going_on = draw(st.integers(1, 120)), draw(st.sampled_from([0.3, 0.8, 0.95, 1.0]))
    rng = np.random.default_rng(draw(st.integers(0, 10_000)))
    return ["go" if rng.random() < going_on else str(rng.choice(RARE)) for _ in range(length)]


def play(event: str, rng: np.random.Generator, *stores: Replay | Twin) -> None:
    """One event, told to all stores alike; where no episode is open, one begins first."""
    frame, action, reward = (
        rng.integers(1, 256, FRAME, dtype=np.uint8),
        rng.random(2, np.float32),
        float(np.float32(rng.normal())),
    )
    for store in stores:
        is_open = store.open if isinstance(store, Twin) else store.records.open
        if event == "close":
            if isinstance(store, Twin):
                store.open = False
            else:
                store.close_as_truncated()
        elif event == "begin" or not is_open:
            store.begin(frame)
        else:
            store.append(
                action, reward, frame, event == "terminated", event.endswith("truncated"), event.startswith("life lost")
            )


def fill(rows: int, episode: int, *stores: Replay | Twin, seed: int = 0) -> None:
    """`rows` rows, in episodes of so many rows each that end in truncation."""
    rng = np.random.default_rng(seed)
    for row in range(rows):
        play("truncated" if row % episode == episode - 1 else "go", rng, *stores)
