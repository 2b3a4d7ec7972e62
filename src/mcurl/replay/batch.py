"""Typed batches: what the replay hands out, and what one update reads."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from torch import Tensor

Layout = Literal["planes", "channels_last", "patches"]
"""The order in memory of the pixels that a gather gives, see ``Replay``."""


@dataclass(frozen=True, slots=True)
class Transitions:
    """A batch of B n-step transitions.

    Attributes:
        obs: stacks, ``uint8 [B, K*C, h, w]``, oldest frame first, or in the replay's layout; ``float32 [B, K*D]`` for
            state observations.
        action: ``float32 [B, A]``, or ``int64 [B]`` for discrete actions.
        reward: ``float32 [B]``, the discounted sum of the next k <= n rewards.
        next_obs: like ``obs``, k transitions later. The final observation where an episode was cut off.
        discount: ``float32 [B]``, γ^k, or 0 where the episode (or a life) ended within the k transitions.
        rows: ``int64 [B]``, the ids of the rows, for ``Replay.update_priorities``. Always on the CPU: only the replay
            reads them.
        weights: ``float32 [B]``, importance weights in (0, 1]; ones unless sampled by priority.
    """

    obs: Tensor
    action: Tensor
    reward: Tensor
    next_obs: Tensor
    discount: Tensor
    rows: Tensor
    weights: Tensor

    def __len__(self) -> int:
        return len(self.rows)


@dataclass(frozen=True, slots=True)
class Contrast:
    """What the contrastive loss reads: pixels for queries and for keys, and the objective's own plan (opaque here).

    Attributes:
        query: ``[R, ...]``, stacks as ``Replay.gather_stacks`` gives them, or times their intensities.
        key: ``[R', ...]``, likewise.
        plan: whatever the objective needs to make sense of the pixels.
    """

    query: Tensor
    key: Tensor
    plan: Any


@dataclass(frozen=True, slots=True)
class Batch:
    """What one update reads.

    Attributes:
        transitions: the RL batch.
        contrast: the contrastive batch; None where the method has no contrastive loss, or nothing to contrast yet.
    """

    transitions: Transitions
    contrast: Contrast | None = None
