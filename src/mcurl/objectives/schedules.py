"""Learning-rate schedules: factors on the base rate as functions of environment steps, counted from 1."""

from __future__ import annotations

import math


def inverse_sqrt_with_warmup(step: float, warmup: float) -> float:
    """Equation 10, ``min((step / warmup) ** -0.5, step / warmup)``: rises linearly to 1 at ``warmup``, then decays."""
    return min(math.sqrt(warmup / step), step / warmup)


def released_warmup(step: float, warmup: float, start: float = 5e-4) -> float:
    """The released code's schedule: linear from ``start`` to 1 at ``warmup``, then inverse square root."""
    return start + (1 - start) * step / warmup if step < warmup else math.sqrt(warmup / step)


def constant_then_inverse_sqrt(step: float, warmup: float) -> float:
    """1 up to ``warmup``, then inverse square root: the released code's encoder schedule for the contrastive loss."""
    return min(math.sqrt(warmup / step), 1.0)


def constant(step: float, warmup: float) -> float:
    """1 at every step."""
    return 1.0
