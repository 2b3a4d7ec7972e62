"""Typed batches: transitions from the replay, the contrastive batch, and both together for one update."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from torch import Tensor

Layout = Literal["planes", "channels_last", "patches"]
"""Memory layout of gathered pixels, see ``Replay``."""


@dataclass(frozen=True, slots=True)
class Transitions:
    """A batch of B n-step transitions.

    Attributes:
        obs: stacks ``uint8 [B, K*C, h, w]``, oldest frame first, in the replay's layout; states ``float32 [B, K*D]``.
        action: ``float32 [B, A]``, or ``int64 [B]`` for discrete actions.
        reward: ``float32 [B]``, the discounted sum of the next k <= n rewards.
        next_obs: like ``obs``, k transitions later; the final observation if the episode was truncated.
        discount: ``float32 [B]``, γ^k, or 0 if the episode terminated (or a life was lost) within the k transitions.
        rows: ``int64 [B]``, ids of the rows, for ``Replay.update_priorities``; always on the CPU.
        weights: ``float32 [B]``, importance weights in (0, 1]; ones with uniform sampling.
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
    """The contrastive batch: pixels of queries and keys, and the objective's plan.

    Attributes:
        query: ``[R, ...]``, stacks from ``Replay.gather_stacks``, with intensity jitter if configured.
        key: ``[N, ...]``, likewise.
        plan: result of the objective's ``plan(...).to(device)``; None for views of the RL batch.
    """

    query: Tensor
    key: Tensor
    plan: Any


@dataclass(frozen=True, slots=True)
class Batch:
    """The data of one update.

    Attributes:
        transitions: the RL batch.
        contrast: the contrastive batch; None without a contrastive loss, and while no sequence can be sampled.
    """

    transitions: Transitions
    contrast: Contrast | None = None
