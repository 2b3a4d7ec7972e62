"""Prioritised sampling (Schaul et al., 2016) with a sum tree over the ring's slots.

A slot without a transition that can be sampled has priority 0. So a sample needs one descent of the tree, and no
rejection.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from mcurl.replay.sampling import NothingToSample, Records, Rows, first_open_return, first_whole_stack, is_sampleable

# Fixed-point numbers of 40 bits, 24 of them fractional: their sums are exact in any order, and those of a million rows
# stay below 2^63.
_ONE = 1 << 24
_LARGEST = 1 << 40


class SumTree:
    """A binary tree over ``size`` non-negative int64 leaves; each inner node is the sum of its children."""

    def __init__(self, size: int) -> None:
        self._depth = max(size - 1, 1).bit_length()
        self._nodes = np.zeros(2 << self._depth, np.int64)

    @property
    def total(self) -> int:
        """The sum of all leaves."""
        return int(self._nodes[1])

    def get(self, leaves: Rows) -> npt.NDArray[np.int64]:
        """The values ``int64 [M]`` of leaves ``int64 [M]``."""
        return self._nodes[leaves + (1 << self._depth)]

    def set(self, leaves: Rows, values: npt.NDArray[np.int64]) -> None:
        """Assign values ``int64 [M]`` to leaves ``int64 [M]``; for repeated leaves, the last value is used."""
        nodes, index = self._nodes, leaves + (1 << self._depth)
        nodes[index] = values
        for _ in range(self._depth):
            index = index >> 1
            nodes[index] = nodes[2 * index] + nodes[2 * index + 1]

    def find(self, mass: npt.NDArray[np.int64]) -> Rows:
        """The leaf of each cumulative sum ``mass [M]``, 0 <= mass < total: ``int64 [M]``, never a leaf of value 0."""
        index = np.ones_like(mass)
        for _ in range(self._depth):
            index = 2 * index
            left = self._nodes[index]
            go_right = mass >= left
            mass = np.where(go_right, mass - left, mass)
            index = index + go_right
        return index - (1 << self._depth)


class Priorities:
    """Priorities of a ring's transitions.

    Call ``sync`` after every change of the records. It sets the priority of new transitions to the largest so far, and
    that of transitions with overwritten frames to 0.

    Args:
        records: of the ring.
        exponent: α; transitions are sampled in proportion to priority ** α, 0 <= α.
        frame_stack, n_step: of the replay.
    """

    def __init__(self, records: Records, exponent: float, *, frame_stack: int, n_step: int) -> None:
        self._records, self._exponent = records, exponent
        self._frame_stack, self._n_step = frame_stack, n_step
        self._tree = SumTree(records.capacity)
        self._first = self._stop = 0
        self._largest = _ONE

    def sync(self) -> None:
        """Bring the tree up to date with the records."""
        first, stop = self._bounds()
        removed = np.arange(self._first, first)
        added = np.arange(max(self._stop, first), stop)
        added = added[is_sampleable(self._records, added, self._frame_stack, self._n_step)]
        self._set(np.append(removed, added), np.repeat([0, self._largest], [len(removed), len(added)]))
        self._first, self._stop = first, stop

    def _bounds(self) -> tuple[int, int]:
        """The ids that bound the transitions that can be sampled."""
        return (
            first_whole_stack(self._records, self._frame_stack),
            first_open_return(self._records, self._n_step),
        )

    def sample(self, batch: int, rng: np.random.Generator, beta: float) -> tuple[Rows, npt.NDArray[np.float32]]:
        """Sample one row from each of ``batch`` equal strata of the total priority.

        Args:
            beta: β, exponent of the importance weights, 0 to 1.

        Returns:
            Ids ``int64 [batch]``, and importance weights (N·P)^-β, divided by their maximum, ``float32 [batch]``.

        Raises:
            NothingToSample: no transition can be sampled yet.
        """
        total = self._tree.total
        if total == 0:
            raise NothingToSample("the replay holds no transition that can be sampled yet")
        mass = ((np.arange(batch) + rng.random(batch)) * (total / batch)).astype(np.int64)
        slots = self._tree.find(np.minimum(mass, total - 1))
        values = self._tree.get(slots).astype(np.float64)
        weights = (values / values.min()) ** -beta  # N and the total priority cancel
        oldest = self._records.oldest
        return oldest + (slots - oldest) % self._records.capacity, weights.astype(np.float32)

    def update(self, rows: Rows, priorities: npt.NDArray[Any]) -> None:
        """Set the priorities of rows ``int64 [B]`` to |priorities| ``[B]``.

        Rows that are overwritten, or whose stacks are, are ignored.

        Raises:
            ValueError: a priority is not finite.
        """
        magnitudes = np.abs(priorities.astype(np.float64))
        if not np.isfinite(magnitudes).all():
            raise ValueError("a priority is not finite: the loss it comes from is NaN or infinite")
        values = np.clip(magnitudes**self._exponent * _ONE, 1, _LARGEST).astype(np.int64)
        valid = rows >= self._first
        self._set(rows[valid], values[valid])
        self._largest = max(self._largest, int(values.max(initial=0)))

    def _set(self, rows: Rows, values: npt.NDArray[np.int64]) -> None:
        if len(rows):
            self._tree.set(rows % self._records.capacity, values)

    def state_dict(self) -> dict[str, Any]:
        """The priorities of the rows in the ring, oldest first, and the largest priority so far."""
        rows = np.arange(self._records.oldest, self._records.written)
        return {"values": self._tree.get(rows % self._records.capacity), "largest": self._largest}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what ``state_dict`` returned; the records must be restored first."""
        self._tree = SumTree(self._records.capacity)
        self._set(np.arange(self._records.oldest, self._records.written), np.asarray(state["values"], np.int64))
        self._largest = int(state["largest"])
        self._first, self._stop = self._bounds()
