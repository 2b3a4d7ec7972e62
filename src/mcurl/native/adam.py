"""Adam on a clipped gradient in C: ``clip_grad_norm_`` and a fused Adam, four passes and some hundred small
operations, become two passes.

The plain twin is :func:`mcurl.agents.optim.clip_and_step` without it.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from functools import cache
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from mcurl import native


class Parameter(NamedTuple):
    """A parameter and what Adam keeps of it: ``float32`` on the CPU, all of one memory layout without gaps."""

    value: Tensor
    gradient: Tensor
    exp_avg: Tensor
    exp_avg_sq: Tensor
    steps: Tensor
    """``float32 []``."""
    rate: float


def available() -> bool:
    """Whether the compiled function is there."""
    return _functions() is not None


def step(parameters: Sequence[Parameter], *, beta1: float, beta2: float, eps: float, max_norm: float) -> Tensor:
    """One step of Adam in place, in torch's own threads, on the gradient of all parameters together clipped to a norm.
    Denormal numbers become zero.

    Args:
        parameters: their gradients are left as they are.
        max_norm: the largest norm that is not clipped; infinity clips nothing.

    Returns:
        The norm before clipping, ``float32 []`` (0 where nothing is clipped).

    Raises:
        RuntimeError: it is not available.
    """
    functions = _functions()
    if functions is None:
        raise RuntimeError("the compiled Adam is not available: no compiler, or it is disabled")
    addresses = np.array([tensor.data_ptr() for p in parameters for tensor in p[:5]], np.uint64)
    sizes = np.array([p.value.numel() for p in parameters], np.int64)
    rates = np.array([p.rate for p in parameters], np.float64)
    native.record("adam")
    return torch.tensor(
        functions.step(
            addresses.ctypes.data, sizes.ctypes.data, rates.ctypes.data, len(parameters), beta1, beta2, eps, max_norm
        )
    )


def _functions() -> ctypes.CDLL | None:
    functions = native.library("adam")
    return functions and _typed(functions)


@cache
def _typed(functions: ctypes.CDLL) -> ctypes.CDLL:
    functions.step.argtypes = [*[ctypes.c_void_p] * 3, ctypes.c_int64, *[ctypes.c_double] * 4]
    functions.step.restype = ctypes.c_double
    return functions
