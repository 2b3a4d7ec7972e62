"""Sampling of rows: which rows can be sampled, as functions of the ring's records.

A row is identified by its *id*, the number of rows written before it; it is stored in slot ``id % capacity``. Ids only
grow, so an id identifies one row, even after that row is overwritten. Two ids, which never decrease, bound the rows
that can be sampled:

- ``first_whole_stack``: rows below it are overwritten, or their stacks contain overwritten frames;
- ``first_open_return``: transitions from it on have incomplete n-step returns, because their episode is not over.

Between the two, each row is an observation, and each row except the last of its episode is a transition. So every set
to sample from consists of one span of ids per episode. A sample is a random integer, looked up in the cumulative sizes
of the spans: it is exactly uniform, and needs no rejection.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

Rows = npt.NDArray[np.int64]
BoolArray = npt.NDArray[np.bool_]

TERMINATED, LIFE_LOST = 1, 2
ENDS_RETURN = TERMINATED | LIFE_LOST


class NothingToSample(Exception):  # noqa: N818 - a state of the replay, not an error
    """The replay contains no rows that can be sampled yet."""


def record_dtype(action_shape: tuple[int, ...], action_dtype: npt.DTypeLike) -> np.dtype[np.void]:
    """The dtype of a row without its frame, with the same layout in memory and on disk (little-endian, packed).

    ``step`` is the row's position in its episode, so ``id - step`` is the id of the episode's first row. Whether a row
    has an action, and whether its episode is truncated, follow from the start of the next episode; they are not stored.
    """
    action = np.dtype(action_dtype).newbyteorder("<")
    return np.dtype([("step", "<i4"), ("flags", "u1"), ("reward", "<f4"), ("action", action, action_shape)])


@dataclass(slots=True)
class Records:
    """Everything that a ring stores about its rows, except their frames.

    Attributes:
        table: ``[capacity]`` of ``record_dtype``, by slot.
        written: number of rows written so far, including overwritten ones.
        open: whether the newest row's episode is not over, so that its action is still missing.
        starts: ids of the first row of each episode with a row in the ring, ascending. Some may be smaller than the
            oldest row's id.
    """

    table: npt.NDArray[np.void]
    written: int = 0
    open: bool = False
    starts: Rows = field(default_factory=lambda: np.empty(0, np.int64))

    @property
    def capacity(self) -> int:
        """Number of slots."""
        return len(self.table)

    @property
    def oldest(self) -> int:
        """Id of the oldest row in the ring."""
        return max(0, self.written - len(self.table))

    def column(self, name: str, rows: Any) -> npt.NDArray[Any]:
        """The values of a column for ids of any shape: ``[*ids.shape, ...]``."""
        values: npt.NDArray[Any] = self.table[name][rows % len(self.table)]
        return values

    def begin(self) -> int:
        """Add the first row of an episode, and return its slot. An open episode is truncated."""
        first = max(int(np.searchsorted(self.starts, self.oldest, side="right")) - 1, 0)
        self.starts = np.append(self.starts[first:], self.written)
        return self._add(step=0)

    def append(self, action: Any, reward: float, flags: int) -> int:
        """Set the action, reward and flags of the newest row, add the next row, and return its slot."""
        newest = self.table[(self.written - 1) % self.capacity]
        newest["action"], newest["reward"], newest["flags"] = action, reward, flags
        return self._add(step=int(newest["step"]) + 1)

    def _add(self, step: int) -> int:
        slot = self.written % self.capacity
        self.table[slot] = np.zeros((), self.table.dtype)
        self.table[slot]["step"] = step
        self.written += 1
        self.open = True
        return slot

    def find_starts(self) -> None:
        """Recompute ``starts`` from the table."""
        rows = np.arange(self.oldest, self.written)
        self.starts = np.unique(rows - self.column("step", rows))


@dataclass(frozen=True, slots=True)
class Spans:
    """E ranges of ids: ``first[e]`` to ``stop[e] - 1``, ``int64 [E]`` each; a span with stop <= first is empty."""

    first: Rows
    stop: Rows

    @property
    def sizes(self) -> Rows:
        """Number of ids in each span, ``int64 [E]``."""
        sizes: Rows = np.maximum(self.stop - self.first, 0)
        return sizes

    def sample(self, n: int, rng: np.random.Generator) -> tuple[Rows, Rows]:
        """Sample ``n`` ids independently and uniformly from all spans.

        Returns:
            The ids ``int64 [n]``, and the indices of their spans ``int64 [n]``.

        Raises:
            NothingToSample: all spans are empty.
        """
        sizes = self.sizes
        ends = np.cumsum(sizes)
        if not len(ends) or ends[-1] == 0:
            raise NothingToSample("the replay holds nothing that can be sampled yet")
        index = rng.integers(ends[-1], size=n)
        span = np.searchsorted(ends, index, side="right")
        return self.first[span] + index - (ends[span] - sizes[span]), span


def first_whole_stack(records: Records, frame_stack: int) -> int:
    """Id of the first row whose stack contains no overwritten frame.

    The stacks of all later rows are complete too, because only the oldest episode in the ring can be incomplete.
    """
    oldest = records.oldest
    rows = np.arange(oldest, min(oldest + frame_stack - 1, records.written))
    first_frames = rows - np.minimum(records.column("step", rows), frame_stack - 1)
    return oldest + int(np.count_nonzero(first_frames < oldest))


def first_open_return(records: Records, n_step: int) -> int:
    """Id of the first row with an incomplete n-step return: fewer than n rewards, and no end of the return."""
    if not records.open:
        return records.written
    newest = records.written - 1
    start = newest - int(records.column("step", newest))
    first = max(newest - n_step + 1, start, records.oldest)
    ends = np.flatnonzero(records.column("flags", np.arange(first, newest)) & ENDS_RETURN)
    return first + (int(ends[-1]) + 1 if len(ends) else 0)


def episodes(records: Records, first: int = 0) -> Spans:
    """The rows of each episode, final rows included, without ids below ``first``."""
    return Spans(
        np.maximum(records.starts, first), np.append(records.starts[1:], records.written)[: len(records.starts)]
    )


def transitions(records: Records, frame_stack: int, n_step: int) -> Spans:
    """The transitions of each episode that can be sampled. The last row of an episode is not a transition."""
    spans = episodes(records, first_whole_stack(records, frame_stack))
    return Spans(spans.first, np.minimum(spans.stop - 1, first_open_return(records, n_step)))


def is_sampleable(records: Records, rows: Rows, frame_stack: int, n_step: int) -> BoolArray:
    """Whether ids ``int64 [N]`` are transitions that can be sampled: ``bool [N]``."""
    spans = transitions(records, frame_stack, n_step)
    if not len(records.starts):
        return np.zeros(len(rows), np.bool_)
    span = np.searchsorted(records.starts, rows, side="right") - 1
    valid: BoolArray = (span >= 0) & (rows >= spans.first[span]) & (rows < spans.stop[span])
    return valid


def observations(records: Records, frame_stack: int) -> Spans:
    """All rows with complete stacks, as one span."""
    return Spans(np.array([first_whole_stack(records, frame_stack)]), np.array([records.written]))


def sample_sequences(
    records: Records, frame_stack: int, length: int, batch: int, rng: np.random.Generator
) -> tuple[Rows, BoolArray]:
    """Sample ``batch`` windows of ``length`` rows, uniformly from all windows that contain a row of their episode.

    A window may start before its episode or end after it. So all rows of the replay have the same probability at each
    position. Positions outside the episode, and those with incomplete stacks, are padding. They have the id of the
    episode's nearest row, so that they can be gathered.

    Returns:
        Ids ``int64 [batch, length]``, and the padding ``bool [batch, length]``.

    Raises:
        NothingToSample: the replay is empty.
    """
    spans = episodes(records, first_whole_stack(records, frame_stack))
    first_start = np.where(spans.sizes > 0, spans.first - (length - 1), spans.stop)
    start, episode = Spans(first_start, spans.stop).sample(batch, rng)
    rows = start[:, None] + np.arange(length)
    inside = np.clip(rows, spans.first[episode, None], spans.stop[episode, None] - 1)
    return inside, inside != rows


def sample_consecutive(records: Records, frame_stack: int, length: int, batch: int, rng: np.random.Generator) -> Rows:
    """Sample ``batch`` windows of ``length`` consecutive rows, across episode ends: ids ``int64 [batch, length]``.

    Raises:
        NothingToSample: the replay has fewer than ``length`` rows with complete stacks.
    """
    span = observations(records, frame_stack)
    start, _ = Spans(span.first, span.stop - (length - 1)).sample(batch, rng)
    return start[:, None] + np.arange(length)


def n_step_windows(records: Records, rows: Rows, n_step: int) -> tuple[Rows, BoolArray]:
    """The lengths of the n-step returns of transitions ``int64 [N]``.

    A return ends at a termination or loss of life, at the end of a truncated episode, or after n transitions.

    Returns:
        The number of transitions k of each return, 1 <= k <= n, ``int64 [N]``, and whether it ends by termination or
        loss of life, without bootstrapping, ``bool [N]``.
    """
    ends = episodes(records).stop
    remaining = ends[np.searchsorted(records.starts, rows, side="right") - 1] - 1 - rows
    steps = np.arange(n_step)
    stops = (records.column("flags", rows[:, None] + steps) & ENDS_RETURN != 0) & (steps < remaining[:, None])
    ended = stops.any(axis=1)
    return np.where(ended, stops.argmax(axis=1) + 1, np.minimum(n_step, remaining)), ended


def stack_rows(records: Records, rows: Rows, frame_stack: int) -> tuple[Rows, BoolArray]:
    """The rows of the K frames of each stack, for rows ``int64 [N]``.

    Returns:
        Ids ``int64 [N, K]``, oldest first, and whether a frame is before the start of its episode, ``bool [N, K]``;
        such a frame has the id of the episode's first row.
    """
    offsets = np.arange(frame_stack - 1, -1, -1)
    step = records.column("step", rows)[:, None]
    return rows[:, None] - np.minimum(offsets, step), offsets > step
