"""Which positions of a sequence are masked, and how (section 3.2, data preparation).

Choosing positions (:func:`sample_runs`) is apart from compacting what the encoder sees (:func:`compact_positions`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from mcurl.objectives.base import FrameMask, SequencePlan, Sequences

ROWS_PER_GROUP = 32
"""Observations are encoded in multiples of this: every new shape costs a CPU library a new kernel."""
Bools = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class MaskTensors:
    """A plan on the device: what the loss reads."""

    source: Tensor
    """``int64 [B, T]``: the row of the encoded queries that stands at each position. Row 0 is the zero observation."""
    selected: Tensor
    """``bool [B, T]``: M of eq. 4."""
    padded: Tensor
    """``bool [B, T]``: outside the episode; neither attended to, nor selected, nor a key."""


@dataclass(frozen=True, kw_only=True)
class MaskPlan(SequencePlan):
    """The random choices of one masked update (host)."""

    selected: Bools
    """``bool [B, T]``: positions to be reconstructed, M of eq. 4."""
    zeroed: Bools
    """``bool [B, T]``: positions shown as the zero observation."""
    source: npt.NDArray[np.int64]
    """``int64 [B, T]``: row among [the zero observation, *encoded] that stands at each position."""

    # Zeroing comes before the crop, so that one encoding serves every zeroed position.
    zero_first: ClassVar[bool] = True

    def to(self, device: torch.device) -> MaskTensors:
        arrays = (self.source, self.selected, self.padded)
        return MaskTensors(*(torch.from_numpy(array).to(device, non_blocking=True) for array in arrays))


def plan_mask(
    padded: Bools,
    rate: float,
    zero: float,
    random: float,
    generator: np.random.Generator,
    *,
    run_length: int = 1,
    compact: bool = True,
) -> MaskPlan:
    """Select positions inside their episode; of these, zero, replace or keep (BERT's 80/10/10).

    Args:
        padded: ``bool [B, T]``.
        rate: ρ_m in [0, 1], the probability that a position is selected.
        zero, random: fractions of the selected that are zeroed and replaced; the rest stays as it is.
        run_length: positions are selected in runs of so many; 1: independently of each other.
        compact: encode only what is seen; otherwise every position, so that shapes are fixed.
    """
    covered, kind = sample_runs(padded.shape, rate, run_length, generator)
    selected = covered & ~padded
    zeroed = selected & (kind < zero)
    replaced = selected & (kind >= zero) & (kind < zero + random)
    encoded, source = compact_positions(zeroed | padded, compact=compact)
    return MaskPlan(padded, encoded, replaced, selected=selected, zeroed=zeroed, source=source)


def plan_frame_mask(
    sequences: Sequences,
    rate: float,
    zero: float,
    random: float,
    generator: np.random.Generator,
    *,
    run_length: int = 1,
    compact: bool = True,
) -> MaskPlan:
    """Select single frames before they are stacked, so that a stack's neighbours show nothing of a hidden frame.

    A position counts as selected when all its frames are. Arguments as for :func:`plan_mask`; ``rate`` is that of
    frames.
    """
    padded, frames = sequences.padded, sequences.frames
    batch, length, stack = frames.shape
    blank = frames < 0
    first = np.where(blank, np.iinfo(np.int64).max, frames).min((1, 2), keepdims=True)
    slot = np.where(blank, 0, frames - first)  # [B, T, K], within the window's T + K - 1 frames
    covered, kind = sample_runs((batch, length + stack - 1), rate, run_length, generator)
    at = slot.reshape(batch, -1)
    covered = np.take_along_axis(covered, at, 1).reshape(frames.shape)
    kind = np.take_along_axis(kind, at, 1).reshape(frames.shape)
    hidden = covered & ~padded[..., None] & ~blank
    zeroed_frames = hidden & (kind < zero)
    replaced_frames = hidden & (kind >= zero) & (kind < zero + random)
    selected = (hidden | blank).all(-1) & ~padded
    zeroed = (zeroed_frames | blank).all(-1) & ~padded
    encoded, source = compact_positions(zeroed | padded, compact=compact)
    frame_mask = FrameMask(slot, zeroed_frames, replaced_frames)
    return MaskPlan(padded, encoded, frame_mask=frame_mask, selected=selected, zeroed=zeroed, source=source)


def sample_runs(
    shape: tuple[int, ...], rate: float, length: int, generator: np.random.Generator
) -> tuple[Bools, npt.NDArray[np.float64]]:
    """Cover each position of ``[B, T]`` with probability ``rate`` by runs of ``length`` positions, which may overlap.

    A run may begin before the window, so that every position is covered equally often.

    Returns:
        What is covered, ``bool [B, T]``, and a number in [0, 1) of the run that covers it, ``float64 [B, T]``.
    """
    batch, positions = shape
    begin_rate = rate if length == 1 else 1 - (1 - rate) ** (1 / length)
    extended = (batch, positions + length - 1)
    begins = generator.random(extended) < begin_rate
    kind = generator.random(extended)
    if length == 1:
        return begins, kind
    latest = np.maximum.accumulate(np.where(begins, np.arange(extended[1]), -length), axis=1)
    covered = np.arange(extended[1]) - latest < length
    kind = np.take_along_axis(kind, latest.clip(0), 1)
    return covered[:, length - 1 :], kind[:, length - 1 :]


def compact_positions(hidden: Bools, *, compact: bool) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Which flat positions pass the encoder ``int64 [R]``, and which row of [the zero observation, *them] stands at
    each position ``int64 [B, T]``; hidden ones read row 0.
    """
    encoded = _whole_groups(hidden) if compact else np.arange(hidden.size)
    source = np.zeros(hidden.size, np.int64)
    source[encoded] = 1 + np.arange(len(encoded))
    source[hidden.ravel()] = 0
    return encoded, source.reshape(hidden.shape)


def _whole_groups(hidden: Bools) -> npt.NDArray[np.int64]:
    """Flat positions that are seen, and hidden ones, which nobody reads, to whole groups of rows with the zero row."""
    seen = np.flatnonzero(~hidden)
    spare = np.flatnonzero(hidden)[: -(1 + len(seen)) % ROWS_PER_GROUP]
    return np.concatenate([seen, spare])
