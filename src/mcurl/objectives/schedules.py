"""Learning-rate factors over the clock of environment steps."""

from __future__ import annotations

import math


def inverse_sqrt_with_warmup(step: float, warmup: float) -> float:
    """Equation 10: ``min((step / warmup) ** -0.5, step / warmup)``, with ``step`` counted from 1. Rises linearly to 1,
    then falls."""
    return min(math.sqrt(warmup / step), step / warmup)


def released_warmup(step: float, warmup: float, start: float = 5e-4) -> float:
    """The released code's form: linear from ``start`` (a fraction of the base rate) to 1 at ``warmup``, then inverse
    square root."""
    return start + (1 - start) * step / warmup if step < warmup else math.sqrt(warmup / step)


def constant_then_inverse_sqrt(step: float, warmup: float) -> float:
    """1 up to ``warmup``, then inverse square root: the released code's schedule of the encoder through the contrastive
    loss."""
    return min(math.sqrt(warmup / step), 1.0)


def constant(step: float, warmup: float) -> float:
    """No schedule."""
    return 1.0
