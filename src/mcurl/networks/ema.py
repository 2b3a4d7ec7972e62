"""Momentum copies: key encoders and target networks."""

from __future__ import annotations

import copy
from collections.abc import Iterable
from typing import TypeVar

import torch
from torch import Tensor, nn

M = TypeVar("M", bound=nn.Module)


def momentum_copy(module: M) -> M:
    """A deep copy of a module whose parameters do not require a gradient."""
    return copy.deepcopy(module).requires_grad_(False)


@torch.no_grad()
def ema_update(copies: Iterable[Tensor], online: Iterable[Tensor], momentum: float) -> None:
    """θ_k ← m θ + (1 − m) θ_k for all parameters at once.

    Args:
        copies: θ_k, float32 parameters that are updated in place (bfloat16 is too coarse for a momentum of 0.001).
        online: θ, the parameters of the online network in the same order.
        momentum: m, 0 to 1; 1 copies the parameters.
    """
    targets = list(copies)
    if targets:
        torch._foreach_lerp_(targets, list(online), momentum)
