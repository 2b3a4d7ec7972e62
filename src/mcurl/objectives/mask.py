"""Masks over sequences (section 3.2, data preparation).

:func:`sample_runs` samples the positions. :func:`compact_positions` lists those that the encoder has to encode.
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
"""Observations are encoded in multiples of this number, because CPU libraries compile a kernel for each new shape."""
Bools = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class MaskTensors:
    """A masked plan on the device."""

    source: Tensor
    """``int64 [B, T]``: row of the encoded queries at each position. Row 0 is the zero observation."""
    selected: Tensor
    """``bool [B, T]``: positions to reconstruct, M of eq. 4."""
    padded: Tensor
    """``bool [B, T]``: positions outside their episode; neither attended to, nor selected, nor keys."""


@dataclass(frozen=True, kw_only=True)
class MaskPlan(SequencePlan):
    """The random choices of one masked update, on the host."""

    selected: Bools
    """``bool [B, T]``: positions to reconstruct, M of eq. 4."""
    zeroed: Bools
    """``bool [B, T]``: positions whose observation is replaced with zeros."""
    source: npt.NDArray[np.int64]
    """``int64 [B, T]``: row of ``[zero observation, *encoded observations]`` at each position."""

    # All zeroed positions share one encoding of the zero observation.
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
    """Select positions inside their episode, and zero, replace or keep each of them (BERT's 80/10/10).

    Args:
        padded: ``bool [B, T]``, positions outside their episode.
        rate: ρ_m, the probability that a position is selected, in [0, 1].
        zero, random: fractions of the selected positions that are zeroed and replaced; the rest is unchanged.
        generator: source of the random numbers.
        run_length: select runs of this many positions; 1: independent positions.
        compact: encode only visible positions; False: all positions, so that shapes are fixed.
    """
    covered, choice = sample_runs(padded.shape, rate, run_length, generator)
    selected = covered & ~padded
    zeroed = selected & (choice < zero)
    replaced = selected & (choice >= zero) & (choice < zero + random)
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
    """Select single frames before they are stacked, so that no stack of the sequence contains a masked frame.

    A position is selected if all its frames are selected. Arguments as for :func:`plan_mask`, with ``rate`` and
    ``run_length`` in frames.
    """
    padded, frames = sequences.padded, sequences.frames
    batch, length, stack = frames.shape
    blank = frames < 0
    first = np.where(blank, np.iinfo(np.int64).max, frames).min((1, 2), keepdims=True)
    slot = np.where(blank, 0, frames - first)  # [B, T, K], index among the sequence's T + K - 1 frames
    covered, choice = sample_runs((batch, length + stack - 1), rate, run_length, generator)
    flat_slot = slot.reshape(batch, -1)
    covered = np.take_along_axis(covered, flat_slot, 1).reshape(frames.shape)
    choice = np.take_along_axis(choice, flat_slot, 1).reshape(frames.shape)
    masked = covered & ~padded[..., None] & ~blank
    zeroed_frames = masked & (choice < zero)
    replaced_frames = masked & (choice >= zero) & (choice < zero + random)
    selected = (masked | blank).all(-1) & ~padded
    zeroed = (zeroed_frames | blank).all(-1) & ~padded
    encoded, source = compact_positions(zeroed | padded, compact=compact)
    frame_mask = FrameMask(slot, zeroed_frames, replaced_frames)
    return MaskPlan(padded, encoded, frame_mask=frame_mask, selected=selected, zeroed=zeroed, source=source)


def sample_runs(
    shape: tuple[int, ...], rate: float, length: int, generator: np.random.Generator
) -> tuple[Bools, npt.NDArray[np.float64]]:
    """Cover each position of ``[B, T]`` with probability ``rate`` by runs of ``length`` positions, which may overlap.

    A run may start before position 0, so that all positions have the same probability.

    Returns:
        The covered positions, ``bool [B, T]``, and a uniform random number in [0, 1) for each, ``float64 [B, T]``,
        which is the same within a run.
    """
    batch, positions = shape
    start_rate = rate if length == 1 else 1 - (1 - rate) ** (1 / length)
    extended = (batch, positions + length - 1)
    starts = generator.random(extended) < start_rate
    uniform = generator.random(extended)
    if length == 1:
        return starts, uniform
    latest = np.maximum.accumulate(np.where(starts, np.arange(extended[1]), -length), axis=1)
    covered = np.arange(extended[1]) - latest < length
    uniform = np.take_along_axis(uniform, latest.clip(0), 1)
    return covered[:, length - 1 :], uniform[:, length - 1 :]


def compact_positions(hidden: Bools, *, compact: bool) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """List the positions to encode, and assign an encoded row to each position.

    Args:
        hidden: ``bool [B, T]``, positions that read the zero observation.
        compact: encode visible positions only, padded to a multiple of :data:`ROWS_PER_GROUP` rows; False: all.

    Returns:
        Flat indices of the positions to encode, ``int64 [R]``, and the row of
        ``[zero observation, *encoded observations]`` at each position, ``int64 [B, T]``; hidden positions have row 0.
    """
    encoded = _whole_groups(hidden) if compact else np.arange(hidden.size)
    source = np.zeros(hidden.size, np.int64)
    source[encoded] = 1 + np.arange(len(encoded))
    source[hidden.ravel()] = 0
    return encoded, source.reshape(hidden.shape)


def _whole_groups(hidden: Bools) -> npt.NDArray[np.int64]:
    """Flat indices of visible positions, filled up with hidden ones so that 1 + R is a multiple of the group size."""
    visible = np.flatnonzero(~hidden)
    filler = np.flatnonzero(hidden)[: -(1 + len(visible)) % ROWS_PER_GROUP]
    return np.concatenate([visible, filler])
