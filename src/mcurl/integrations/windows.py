"""Padded windows of consecutive rows, from any buffer that knows where its episodes end."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from mcurl.errors import UserError
from mcurl.replay.sampling import BoolArray, Rows, Spans


@dataclass(frozen=True)
class Episodes:
    """Where the episodes of a buffer begin and end.

    Rows are counted by age, one environment after the other. So an episode is one span, also where a ring wraps around.

    Attributes:
        spans: first age of each episode, and the age after its last.
        size: N, rows of each environment.
        envs: E, environments.
        position: row of the oldest step, 0 to N - 1.
    """

    spans: Spans
    size: int
    envs: int
    position: int

    @classmethod
    def from_dones(cls, dones: npt.ArrayLike, *, position: int = 0) -> Episodes:
        """The episodes of rows with flags.

        Args:
            dones: ``[N]``, or ``[N, E]`` for E environments side by side, bool or number: whether a row is the last of
                its episode, by termination or by truncation. Only rows that have been written.
            position: of a ring that is full, the row that is written next, which is the oldest; otherwise 0.

        Raises:
            UserError: there are no rows, or the shape or the position is wrong.
        """
        flags = np.asarray(dones)
        if flags.ndim not in (1, 2) or flags.size == 0:
            raise UserError(f"dones of shape {flags.shape}: expected [N] or [N, environments], with at least one row")
        flags = flags.reshape(len(flags), -1)
        rows, envs = np.nonzero(flags)
        return cls._from_ends(rows, envs, *flags.shape, position)

    @classmethod
    def from_ends(cls, ends: npt.ArrayLike, size: int, *, position: int = 0) -> Episodes:
        """The episodes of ``size`` rows of one environment, by the index of the last row of each.

        Args:
            ends: ``int [M]``, in any order, 0 to ``size - 1``.
            size: N, rows that have been written.
            position: as for :meth:`from_dones`.

        Raises:
            UserError: there are no rows, or an index or the position is out of range.
        """
        rows = np.asarray(ends, dtype=np.int64)
        if size < 1:
            raise UserError(f"a buffer of {size} rows has no episodes: expected at least one row")
        if rows.size and not 0 <= rows.min() <= rows.max() < size:
            raise UserError(f"episode ends from {rows.min()} to {rows.max()}: expected 0 to {size - 1}")
        return cls._from_ends(rows, np.zeros_like(rows), size, 1, position)

    @classmethod
    def _from_ends(cls, rows: Rows, env: Rows, size: int, envs: int, position: int) -> Episodes:
        if not 0 <= position < size:
            raise UserError(f"position={position} in {size} rows: expected 0 to {size - 1}; 0 if the ring is not full")
        newest = np.arange(1, envs + 1) * size  # the newest row of an environment ends what is known of its episode
        stop = np.unique(np.concatenate([env * size + (rows - position) % size + 1, newest]))
        return cls(Spans(np.append(0, stop[:-1]), stop), size, envs, position)

    def sample(
        self, batch: int, length: int, generator: np.random.Generator, *, cross_episodes: bool = False
    ) -> tuple[Rows, BoolArray]:
        """Sample ``batch`` windows of ``length`` rows, uniformly from all windows with a row of their episode.

        A window may start before its episode or end after it. So every row, also the first of an episode, has the same
        probability at each position of a window, as in the library's own replay. Positions outside the episode are
        padding. They have the index of the episode's nearest row, so that they can be read.

        Args:
            batch: B.
            length: T.
            generator: source of the random numbers.
            cross_episodes: windows run across the ends of episodes instead, without padding.

        Returns:
            Indices of rows ``int64 [B, T]``, and the padding ``bool [B, T]``. With E environments side by side, the
            indices are those of the first two axes as one: of ``observations.reshape(N * E, ...)``.

        Raises:
            UserError: a number is below 1, or, with ``cross_episodes``, there are fewer than ``length`` rows.
        """
        if batch < 1 or length < 1:
            raise UserError(f"{batch} windows of {length} rows: expected at least one of at least one row")
        if cross_episodes:
            return self._across(batch, length, generator)
        first, stop = self.spans.first, self.spans.stop
        start, episode = Spans(first - (length - 1), stop).sample(batch, generator)
        ages = start[:, None] + np.arange(length)
        inside = np.clip(ages, first[episode, None], stop[episode, None] - 1)
        return self._index(inside), inside != ages

    def _across(self, batch: int, length: int, generator: np.random.Generator) -> tuple[Rows, BoolArray]:
        if length > self.size:
            raise UserError(f"sequences of {length} rows need a buffer of at least {length} rows, not {self.size}")
        first = np.arange(self.envs) * self.size
        start, _ = Spans(first, first + self.size - (length - 1)).sample(batch, generator)
        ages = start[:, None] + np.arange(length)
        return self._index(ages), np.zeros(ages.shape, np.bool_)

    def _index(self, ages: Rows) -> Rows:
        env, age = np.divmod(ages, self.size)
        return (age + self.position) % self.size * self.envs + env
