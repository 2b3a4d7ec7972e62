"""Which rows can be sampled: the one validity rule, as functions of the rows' records.

A row is named by its *id*, the number of rows written before it; it lies in slot ``id % capacity`` of the ring. Ids
only grow, so an id whose row was overwritten is recognised as stale. Two ids, which never decrease, bound what can be
sampled:

- ``first_whole_stack``: rows below it were overwritten, or have stacks that reach into overwritten rows;
- ``first_open_return``: transitions from it on lack some of their n rewards, because their episode still runs.

Between the two, every row is an observation, and every row but the last of each episode is a transition. So each set to
sample from is one span of ids per episode. A sample is one integer looked up in their cumulative sizes: exactly
uniform, and nothing is ever rejected.
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


class NothingToSample(Exception):  # noqa: N818 - it names the state, not a fault
    """The replay holds nothing yet that can be sampled."""


def record_dtype(action_shape: tuple[int, ...], action_dtype: npt.DTypeLike) -> np.dtype[np.void]:
    """What is stored of a row beside its frame; the same bytes in memory and on disk (little-endian, packed).

    ``step`` is the row's position in its episode. An episode is named by the id of its first row, ``id - step``. That a
    row has an action, and that an episode was truncated rather than terminated, follows from where the next episode
    begins, so neither is stored.
    """
    action = np.dtype(action_dtype).newbyteorder("<")
    return np.dtype([("step", "<i4"), ("flags", "u1"), ("reward", "<f4"), ("action", action, action_shape)])


@dataclass(slots=True)
class Records:
    """The ring's bookkeeping.

    Attributes:
        table: ``[capacity]`` of ``record_dtype``, by slot.
        written: rows ever written.
        open: whether the newest row waits for an action.
        starts: ascending ids of the first rows of all episodes with a row in the ring. The first few may lie before the
            oldest row.
    """

    table: npt.NDArray[np.void]
    written: int = 0
    open: bool = False
    starts: Rows = field(default_factory=lambda: np.empty(0, np.int64))

    @property
    def capacity(self) -> int:
        return len(self.table)

    @property
    def oldest(self) -> int:
        """Id of the oldest row in the ring."""
        return max(0, self.written - len(self.table))

    def column(self, name: str, rows: Any) -> npt.NDArray[Any]:
        """A column of the table at some ids, of the ids' shape (and that of an action)."""
        values: npt.NDArray[Any] = self.table[name][rows % len(self.table)]
        return values

    def begin(self) -> int:
        """Add the first row of an episode, which closes the episode before it as it stands; return its slot."""
        first = max(int(np.searchsorted(self.starts, self.oldest, side="right")) - 1, 0)
        self.starts = np.append(self.starts[first:], self.written)
        return self._add(step=0)

    def append(self, action: Any, reward: float, flags: int) -> int:
        """Close the newest row and add the next of its episode; return that one's slot."""
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
    """Ids from ``first[e]`` up to and without ``stop[e]``, ``int64 [E]`` each; a span with stop <= first is empty."""

    first: Rows
    stop: Rows

    @property
    def sizes(self) -> Rows:
        """``int64 [E]``."""
        sizes: Rows = np.maximum(self.stop - self.first, 0)
        return sizes

    def sample(self, n: int, rng: np.random.Generator) -> tuple[Rows, Rows]:
        """Sample ``n`` ids independently and uniformly over all spans.

        Returns:
            The ids ``int64 [n]``, and the index of each one's span ``int64 [n]``.

        Raises:
            NothingToSample: all spans are empty.
        """
        sizes = self.sizes
        ends = np.cumsum(sizes)
        if not len(ends) or ends[-1] == 0:
            raise NothingToSample("the replay holds nothing that can be sampled yet")
        at = rng.integers(ends[-1], size=n)
        span = np.searchsorted(ends, at, side="right")
        return self.first[span] + at - (ends[span] - sizes[span]), span


def first_whole_stack(records: Records, frame_stack: int) -> int:
    """Id of the first row whose stack reads no overwritten row.

    All later rows' stacks are whole too: only the ring's oldest episode can lack its beginning.
    """
    oldest = records.oldest
    head = np.arange(oldest, min(oldest + frame_stack - 1, records.written))
    reach = head - np.minimum(records.column("step", head), frame_stack - 1)
    return oldest + int(np.count_nonzero(reach < oldest))


def first_open_return(records: Records, n_step: int) -> int:
    """Id of the first row whose n-step return is not known yet: n transitions have not followed, and neither has an end
    of the return."""
    if not records.open:
        return records.written
    newest = records.written - 1
    start = newest - int(records.column("step", newest))
    first = max(newest - n_step + 1, start, records.oldest)
    ends = np.flatnonzero(records.column("flags", np.arange(first, newest)) & ENDS_RETURN)
    return first + (int(ends[-1]) + 1 if len(ends) else 0)


def episodes(records: Records, first: int = 0) -> Spans:
    """The rows of each episode from id ``first`` on, final rows included."""
    return Spans(
        np.maximum(records.starts, first), np.append(records.starts[1:], records.written)[: len(records.starts)]
    )


def transitions(records: Records, frame_stack: int, n_step: int) -> Spans:
    """The transitions of each episode that can be sampled. The last row of an episode has no action, nor has the newest
    row while its episode runs."""
    spans = episodes(records, first_whole_stack(records, frame_stack))
    return Spans(spans.first, np.minimum(spans.stop - 1, first_open_return(records, n_step)))


def is_sampleable(records: Records, rows: Rows, frame_stack: int, n_step: int) -> BoolArray:
    """Which of some ids ``int64 [N]`` are transitions that can be sampled: ``bool [N]``."""
    spans = transitions(records, frame_stack, n_step)
    if not len(records.starts):
        return np.zeros(len(rows), np.bool_)
    span = np.searchsorted(records.starts, rows, side="right") - 1
    valid: BoolArray = (span >= 0) & (rows >= spans.first[span]) & (rows < spans.stop[span])
    return valid


def observations(records: Records, frame_stack: int) -> Spans:
    """All rows whose stacks are whole, as one span."""
    return Spans(np.array([first_whole_stack(records, frame_stack)]), np.array([records.written]))


def sample_sequences(
    records: Records, frame_stack: int, length: int, batch: int, rng: np.random.Generator
) -> tuple[Rows, BoolArray]:
    """Sample ``batch`` windows of ``length`` rows, uniformly over all windows that hold at least one row of an episode.

    A window may begin before the episode or end after it. So each row of the replay is at each position of as many
    windows as any other row: one. Positions outside the episode, or without a whole stack, are padded; they name the
    episode's nearest row, so that they can be gathered.

    Returns:
        Ids ``int64 [batch, length]``, and which positions are padding, ``bool [batch, length]``.

    Raises:
        NothingToSample: the replay is empty.
    """
    spans = episodes(records, first_whole_stack(records, frame_stack))
    begin = np.where(spans.sizes > 0, spans.first - (length - 1), spans.stop)
    start, episode = Spans(begin, spans.stop).sample(batch, rng)
    rows = start[:, None] + np.arange(length)
    inside = np.clip(rows, spans.first[episode, None], spans.stop[episode, None] - 1)
    return inside, inside != rows


def sample_consecutive(records: Records, frame_stack: int, length: int, batch: int, rng: np.random.Generator) -> Rows:
    """Sample ``batch`` runs of ``length`` consecutive rows of the ring, across ends of episodes: ``int64 [batch,
    length]``.

    Raises:
        NothingToSample: the replay has fewer than ``length`` rows with whole stacks.
    """
    span = observations(records, frame_stack)
    start, _ = Spans(span.first, span.stop - (length - 1)).sample(batch, rng)
    return start[:, None] + np.arange(length)


def n_step_windows(records: Records, rows: Rows, n_step: int) -> tuple[Rows, BoolArray]:
    """How far the n-step returns of transitions ``int64 [N]`` reach.

    A return stops at a termination or loss of life, at the end of an episode that was truncated, or after n
    transitions.

    Returns:
        The number of transitions k of each return, 1 <= k <= n, ``int64 [N]``, and whether the return ends with them
        (no bootstrap), ``bool [N]``.
    """
    ends = episodes(records).stop
    left = ends[np.searchsorted(records.starts, rows, side="right") - 1] - 1 - rows
    ahead = np.arange(n_step)
    stops = (records.column("flags", rows[:, None] + ahead) & ENDS_RETURN != 0) & (ahead < left[:, None])
    ended = stops.any(axis=1)
    return np.where(ended, stops.argmax(axis=1) + 1, np.minimum(n_step, left)), ended


def stack_rows(records: Records, rows: Rows, frame_stack: int) -> tuple[Rows, BoolArray]:
    """The rows of the K frames of each stack, for rows ``int64 [N]``.

    Returns:
        Ids ``int64 [N, K]``, oldest first, and which lie before their episode's first row, ``bool [N, K]``; those name
        the first row.
    """
    back = np.arange(frame_stack - 1, -1, -1)
    step = records.column("step", rows)[:, None]
    return rows[:, None] - np.minimum(back, step), back > step
