"""Prioritised sampling: a sum tree over the ring's slots.

The tree holds the validity rule: a slot without a transition that can be sampled has priority 0. So a sample is one
walk down the tree and cannot fail.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from mcurl.replay.sampling import NothingToSample, Records, Rows, first_open_return, first_whole_stack, is_sampleable

# Priorities are integers, so that sums are exact in any order: 24 bits behind the point, 40 in all. A million rows of
# the largest still sum below 2^63.
_ONE = 1 << 24
_LARGEST = 1 << 40


class SumTree:
    """``size`` non-negative int64 leaves; every inner node is the sum of its two children."""

    def __init__(self, size: int) -> None:
        self._depth = max(size - 1, 1).bit_length()
        self._nodes = np.zeros(2 << self._depth, np.int64)

    @property
    def total(self) -> int:
        return int(self._nodes[1])

    def get(self, leaves: Rows) -> npt.NDArray[np.int64]:
        """The values of some leaves, ``int64 [M]`` each."""
        return self._nodes[leaves + (1 << self._depth)]

    def set(self, leaves: Rows, values: npt.NDArray[np.int64]) -> None:
        """Assign values to leaves ``int64 [M]``; of a leaf that occurs twice, the last value counts."""
        nodes, at = self._nodes, leaves + (1 << self._depth)
        nodes[at] = values
        for _ in range(self._depth):
            at = at >> 1
            nodes[at] = nodes[2 * at] + nodes[2 * at + 1]

    def find(self, mass: npt.NDArray[np.int64]) -> Rows:
        """The leaf in which each cumulative sum, 0 <= mass < total, falls: ``int64 [M]``, never a leaf of value 0."""
        at = np.ones_like(mass)
        for _ in range(self._depth):
            at = 2 * at
            left = self._nodes[at]
            go_right = mass >= left
            mass = np.where(go_right, mass - left, mass)
            at = at + go_right
        return at - (1 << self._depth)


class Priorities:
    """Priorities of a ring's transitions.

    Call ``sync`` after every change of the records. It gives new transitions the largest priority so far, and
    overwritten ones (and those whose stack was) none.

    Args:
        exponent: transitions are sampled in proportion to priority ** exponent, 0 <= exponent.
    """

    def __init__(self, records: Records, exponent: float, *, frame_stack: int, n_step: int) -> None:
        self._records, self._exponent = records, exponent
        self._frame_stack, self._n_step = frame_stack, n_step
        self._tree = SumTree(records.capacity)
        self._first = self._stop = 0
        self._largest = _ONE

    def sync(self) -> None:
        """Bring the tree up to date with the records."""
        first, stop = (
            first_whole_stack(self._records, self._frame_stack),
            first_open_return(self._records, self._n_step),
        )
        stale = np.arange(self._first, first)
        fresh = np.arange(max(self._stop, first), stop)
        fresh = fresh[is_sampleable(self._records, fresh, self._frame_stack, self._n_step)]
        self._set(np.append(stale, fresh), np.repeat([0, self._largest], [len(stale), len(fresh)]))
        self._first, self._stop = first, stop

    def sample(self, batch: int, rng: np.random.Generator, beta: float) -> tuple[Rows, npt.NDArray[np.float32]]:
        """Sample one row from each of ``batch`` equal parts of the total priority.

        Args:
            beta: β, exponent of the importance weights, 0 to 1.

        Returns:
            Ids ``int64 [batch]``, and importance weights (N·P)^-β over their maximum, ``float32 [batch]``.

        Raises:
            NothingToSample: no transition is whole yet.
        """
        total = self._tree.total
        if total == 0:
            raise NothingToSample("the replay holds no transition that can be sampled yet")
        mass = ((np.arange(batch) + rng.random(batch)) * (total / batch)).astype(np.int64)
        slots = self._tree.find(np.minimum(mass, total - 1))
        values = self._tree.get(slots).astype(np.float64)
        weights = (values / values.min()) ** -beta  # N and the total cancel against the maximum
        oldest = self._records.oldest
        return oldest + (slots - oldest) % self._records.capacity, weights.astype(np.float32)

    def update(self, rows: Rows, priorities: npt.NDArray[Any]) -> None:
        """Set the priorities of rows ``int64 [B]`` to |priorities| ``[B]``. Rows that were overwritten, or whose stacks
        were, are ignored.

        Raises:
            ValueError: a priority is not finite.
        """
        sizes = np.abs(priorities.astype(np.float64))
        if not np.isfinite(sizes).all():
            raise ValueError("a priority is not finite: the loss it comes from is NaN or infinite")
        values = np.clip(sizes**self._exponent * _ONE, 1, _LARGEST).astype(np.int64)
        valid = rows >= self._first
        self._set(rows[valid], values[valid])
        self._largest = max(self._largest, int(values.max(initial=0)))

    def _set(self, rows: Rows, values: npt.NDArray[np.int64]) -> None:
        if len(rows):
            self._tree.set(rows % self._records.capacity, values)

    def state_dict(self) -> dict[str, Any]:
        """The priorities of the rows in the ring, oldest first, and the largest so far."""
        rows = np.arange(self._records.oldest, self._records.written)
        return {"values": self._tree.get(rows % self._records.capacity), "largest": self._largest}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what ``state_dict`` returned; the records must be restored first."""
        self._tree = SumTree(self._records.capacity)
        self._set(np.arange(self._records.oldest, self._records.written), np.asarray(state["values"], np.int64))
        self._largest = int(state["largest"])
        self._first, self._stop = (
            first_whole_stack(self._records, self._frame_stack),
            first_open_return(self._records, self._n_step),
        )
