"""Adam with gradient clipping in C.

It takes two passes over the parameters. ``clip_grad_norm_`` and PyTorch's fused Adam take four passes and some hundred
small operations. The plain version is in :func:`mcurl.agents.optim.clip_and_step`.
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
    """A parameter, its gradient and its state in Adam: dense ``float32`` CPU tensors of the same memory layout."""

    value: Tensor
    gradient: Tensor
    exp_avg: Tensor
    exp_avg_sq: Tensor
    steps: Tensor
    """Number of steps, ``float32 []``."""
    rate: float
    """Learning rate."""


def available() -> bool:
    """Whether the compiled function is available."""
    return _functions() is not None


def step(parameters: Sequence[Parameter], *, beta1: float, beta2: float, eps: float, max_norm: float) -> Tensor:
    """Clip the global gradient norm, and take a step of Adam in place, in PyTorch's threads.

    Denormal numbers are flushed to zero.

    Args:
        parameters: updated in place; their gradients are not changed.
        beta1, beta2, eps: of Adam.
        max_norm: largest gradient norm; infinity: no clipping.

    Returns:
        The norm before clipping, ``float32 []``; 0 without clipping.

    Raises:
        RuntimeError: the function is not available.
    """
    functions = _functions()
    if functions is None:
        raise RuntimeError("the compiled Adam is not available: no compiler, or it is disabled")
    addresses = np.array([tensor.data_ptr() for p in parameters for tensor in p[:5]], np.uint64)
    sizes = np.array([p.value.numel() for p in parameters], np.int64)
    rates = np.array([p.rate for p in parameters], np.float64)
    native.record_use("adam")
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
