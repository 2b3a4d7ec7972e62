"""Which positions of a sequence are masked, and how (section 3.2, data preparation)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

ROWS_AT_ONCE = 32
"""Observations are encoded in multiples of this."""


@dataclass(frozen=True)
class Mask:
    """A plan on the device: what the loss reads."""

    source: Tensor
    """``int64 [B, T]``: the row of the encoded queries that stands at each position. Row 0 is the zero observation."""
    selected: Tensor
    """``bool [B, T]``: M of eq. 4."""
    padded: Tensor
    """``bool [B, T]``: outside the episode; neither attended to, nor selected, nor a key."""


@dataclass(frozen=True)
class Plan:
    """The random choices of one masked update, on the host."""

    selected: np.ndarray
    """``bool [B, T]``: positions to be reconstructed, M of eq. 4."""
    zeroed: np.ndarray
    """``bool [B, T]``: selected positions shown as the zero observation (80 % of them)."""
    replaced: np.ndarray
    """``bool [B, T]``: selected positions shown as a random observation of the whole replay (10 %)."""
    padded: np.ndarray
    """``bool [B, T]``: positions outside their episode."""
    encoded: np.ndarray
    """``int64 [R]``: flat positions whose (own or replacing) observation passes the encoder. The zero observation is
    encoded once, before them."""
    source: np.ndarray
    """``int64 [B, T]``: row among [the zero observation, *encoded] that stands at each position."""

    def on(self, device: torch.device) -> Mask:
        """What the loss needs, as tensors; nobody waits for the transfer."""
        return Mask(
            *(
                torch.from_numpy(array).to(device, non_blocking=True)
                for array in (self.source, self.selected, self.padded)
            )
        )


def draw_mask(
    padded: np.ndarray, rate: float, zero: float, random: float, generator: np.random.Generator, *, compact: bool = True
) -> Plan:
    """Select each position inside its episode with probability ``rate``; of these, zero, replace or keep (BERT's
    80/10/10).

    Args:
        padded: ``bool [B, T]``.
        rate: ρ_m in [0, 1].
        zero, random: fractions of the selected that are zeroed and replaced; the rest stays as it is.
        compact: encode only what is seen; otherwise every position, so that shapes are fixed.
    """
    selected = (generator.random(padded.shape) < rate) & ~padded
    kind = generator.random(padded.shape)
    zeroed = selected & (kind < zero)
    replaced = selected & (kind >= zero) & (kind < zero + random)
    hidden = zeroed | padded
    encoded = _whole_groups(hidden) if compact else np.arange(padded.size)
    source = np.zeros(padded.size, np.int64)
    source[encoded] = 1 + np.arange(len(encoded))
    source[hidden.ravel()] = 0
    return Plan(selected, zeroed, replaced, padded, encoded, source.reshape(padded.shape))


def _whole_groups(hidden: np.ndarray) -> np.ndarray:
    """Flat positions that are seen, and as many hidden ones, which nobody looks at, as make whole groups of rows with
    the zero observation.

    Every new shape costs a CPU library a new kernel, which takes longer than the rows.
    """
    seen = np.flatnonzero(~hidden)
    spare = np.flatnonzero(hidden)[: -(1 + len(seen)) % ROWS_AT_ONCE]
    return np.concatenate([seen, spare])
