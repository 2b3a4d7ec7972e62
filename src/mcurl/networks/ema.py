"""Momentum copies: key encoders and target networks."""

from __future__ import annotations

import copy
from collections.abc import Iterable
from typing import TypeVar

import torch
from torch import Tensor, nn

M = TypeVar("M", bound=nn.Module)


def momentum_copy(module: M) -> M:
    """A copy that no gradient reaches."""
    return copy.deepcopy(module).requires_grad_(False)


@torch.no_grad()
def ema_update(copies: Iterable[Tensor], online: Iterable[Tensor], momentum: float) -> None:
    """θ_k ← m θ + (1 − m) θ_k, in float32 (a momentum of 0.001 vanishes in bf16), as one operation over all
    parameters."""
    following = list(copies)
    if following:
        torch._foreach_lerp_(following, list(online), momentum)
