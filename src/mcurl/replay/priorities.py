"""Prioritised draws: a sum tree over the ring's slots.

Whether a row may be drawn lives in the tree: a slot without a drawable transition has priority 0. So a draw is one walk
    down the tree and cannot fail.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from mcurl.replay.sampling import NothingToDraw, Records, Rows, is_drawable, whole_from, whole_until

# Priorities are integers, so that sums are exact in any order: 24 bits behind the point, 40 in all. A million rows of
# the largest still sum below 2^63.
_ONE = 1 << 24
_LARGEST = 1 << 40


class SumTree:
    """`size` non-negative int64 leaves; every inner node is the sum of its two children."""

    def __init__(self, size: int) -> None:
        self._depth = max(size - 1, 1).bit_length()
        self._nodes = np.zeros(2 << self._depth, np.int64)

    @property
    def total(self) -> int:
        return int(self._nodes[1])

    def get(self, leaves: Rows) -> npt.NDArray[np.int64]:
        """The values of some leaves."""
        return self._nodes[leaves + (1 << self._depth)]

    def set(self, leaves: Rows, values: npt.NDArray[np.int64]) -> None:
        """Assigns leaves; of a leaf given twice, the last value counts."""
        nodes, at = self._nodes, leaves + (1 << self._depth)
        nodes[at] = values
        for _ in range(self._depth):
            at = at >> 1
            nodes[at] = nodes[2 * at] + nodes[2 * at + 1]

    def find(self, mass: npt.NDArray[np.int64]) -> Rows:
        """The leaf in which each cumulative sum, 0 <= mass < total, falls. A leaf of value 0 is never found."""
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

    Call `follow` after every change of the records; it is what gives new transitions the largest priority seen, and
    broken or overwritten ones none.

    Args:
        exponent: transitions are drawn in proportion to priority ** exponent.
    """

    def __init__(self, records: Records, exponent: float, *, frame_stack: int, n_step: int) -> None:
        self._records, self._exponent = records, exponent
        self._frame_stack, self._n_step = frame_stack, n_step
        self._tree = SumTree(records.capacity)
        self._from = self._until = 0
        self._largest = _ONE

    def sync(self) -> None:
        """Brings the tree up to date with the records."""
        first, until = whole_from(self._records, self._frame_stack), whole_until(self._records, self._n_step)
        gone = np.arange(self._from, first)
        fresh = np.arange(max(self._until, first), until)
        fresh = fresh[is_drawable(self._records, fresh, self._frame_stack, self._n_step)]
        self._set(np.append(gone, fresh), np.repeat([0, self._largest], [len(gone), len(fresh)]))
        self._from, self._until = first, until

    def draw(self, batch: int, rng: np.random.Generator, beta: float) -> tuple[Rows, npt.NDArray[np.float32]]:
        """One row from each of `batch` equal parts of the total priority, and importance weights (N·P)^-β over their
        maximum, float32 [batch].

        Raises:
            NothingToDraw: no transition is whole yet.
        """
        total = self._tree.total
        if total == 0:
            raise NothingToDraw("the replay holds no transition that may be drawn yet")
        mass = ((np.arange(batch) + rng.random(batch)) * (total / batch)).astype(np.int64)
        slots = self._tree.find(np.minimum(mass, total - 1))
        drawn = self._tree.get(slots).astype(np.float64)
        weights = (drawn / drawn.min()) ** -beta  # N and the total cancel against the maximum
        oldest = self._records.oldest
        return oldest + (slots - oldest) % self._records.capacity, weights.astype(np.float32)

    def update(self, rows: Rows, priorities: npt.NDArray[Any]) -> None:
        """Sets the priorities of rows once drawn to |priorities|; those that may not be drawn any more are ignored.

        Raises:
            ValueError: a priorities is not finite.
        """
        error = np.abs(priorities.astype(np.float64))
        if not np.isfinite(error).all():
            raise ValueError("a priority is not finite: the loss it comes from is NaN or infinite")
        values = np.clip(error**self._exponent * _ONE, 1, _LARGEST).astype(np.int64)
        still = rows >= self._from
        self._set(rows[still], values[still])
        self._largest = max(self._largest, int(values.max(initial=0)))

    def _set(self, rows: Rows, values: npt.NDArray[np.int64]) -> None:
        if len(rows):
            self._tree.set(rows % self._records.capacity, values)

    def state_dict(self) -> dict[str, Any]:
        """The priorities of the rows held, oldest first, and the largest ever seen."""
        held = np.arange(self._records.oldest, self._records.written)
        return {"values": self._tree.get(held % self._records.capacity), "largest": self._largest}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restores what `state_dict` gave; the records must be restored first."""
        self._tree = SumTree(self._records.capacity)
        self._set(np.arange(self._records.oldest, self._records.written), np.asarray(state["values"], np.int64))
        self._largest = int(state["largest"])
        self._from, self._until = whole_from(self._records, self._frame_stack), whole_until(self._records, self._n_step)
