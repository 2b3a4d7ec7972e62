"""The first convolution of Atari's encoder as a product of bytes on the processor's matrix units (AMX), and its gradient, in C."""

from __future__ import annotations

import ctypes
from functools import cache

import torch
from torch import Tensor

from mcurl.native import library

CHANNELS = 32
"""Of the convolution; nothing else is compiled."""
MOST_INPUTS = 512
"""Bytes in a patch."""


def available() -> bool:
    """Whether there is a compiler, and a processor with AMX that this process may use."""
    return _functions() is not None


def forward(patches: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """ReLU(x Wᵀ + b) for pixels x in [0, 1], in torch's own threads. Weights are rounded to 15 bits, the result to bfloat16, nothing between.

    Args:
        patches: ``uint8 [M, inputs]``, at most 512 inputs; 255 x.
        weight: ``float32 [32, inputs]``.
        bias: ``float32 [32]``.

    Returns:
        ``bfloat16 [M, 32]``.

    Raises:
        RuntimeError: it is not available, or takes no such patches.
    """
    patches, weight, bias = patches.contiguous(), weight.contiguous(), bias.contiguous()
    out = torch.empty((len(patches), CHANNELS), dtype=torch.bfloat16)
    _checked(patches, weight).forward(patches.data_ptr(), *patches.shape, weight.data_ptr(), bias.data_ptr(), out.data_ptr())
    return out


def backward(patches: Tensor, out: Tensor, gradient: Tensor) -> tuple[Tensor, Tensor]:
    """The gradients of weight and bias, ``float32 [32, inputs]`` and ``[32]``, from ``gradient`` of ``out``, both ``bfloat16 [M, 32]``.

    Raises as :func:`forward` does.
    """
    patches, gradient = patches.contiguous(), gradient.contiguous()
    weight, bias = torch.zeros((CHANNELS, patches.shape[1])), torch.zeros(CHANNELS)
    _checked(patches, weight).backward(patches.data_ptr(), out.data_ptr(), gradient.data_ptr(), *patches.shape, weight.data_ptr(), bias.data_ptr())
    return weight, bias


def _checked(patches: Tensor, weight: Tensor) -> ctypes.CDLL:
    functions = _functions()
    if functions is None:
        raise RuntimeError("the compiled product needs a compiler, and a processor with AMX")
    if patches.dtype != torch.uint8 or patches.shape[1] > MOST_INPUTS or weight.shape != (CHANNELS, patches.shape[1]):
        raise RuntimeError(f"the compiled product takes no {patches.dtype} patches of {patches.shape[1]} inputs for weights of {tuple(weight.shape)}")
    return functions


@cache
def _functions() -> ctypes.CDLL | None:
    functions = library("patches")
    if functions is None or not functions.supported():
        return None
    pointer, number = ctypes.c_void_p, ctypes.c_int64
    functions.forward.argtypes = [pointer, number, number, pointer, pointer, pointer]
    functions.backward.argtypes = [pointer, pointer, pointer, number, number, pointer, pointer]
    functions.forward.restype = functions.backward.restype = ctypes.c_int
    return functions
