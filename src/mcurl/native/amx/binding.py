"""Helpers of all compiled layers."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from functools import cache

import torch
from torch import Tensor

from mcurl import native

BLOCK = 32
"""Rows and columns of a block of a matrix product (``tiles.h``); widths are multiples of it."""
EPS = 1e-5
"""ε of LayerNorm, PyTorch's default."""


def layer(name: str, sizes: tuple[str, ...], *, forward: int, backward: int) -> ctypes.CDLL | None:
    """The library of a compiled layer, with declared argument types.

    Args:
        name: name of the operation, such as ``amx.head``.
        sizes: names of the functions that return the size of a buffer in floats, for a shape.
        forward, backward: number of pointer arguments of these functions, in addition to the shape.

    Returns:
        The library; None if it is disabled or cannot be built, or if the processor has no AMX.
    """
    functions = native.library(name)
    return functions and _layer(functions, sizes, forward, backward)


@cache
def _layer(functions: ctypes.CDLL, sizes: tuple[str, ...], forward: int, backward: int) -> ctypes.CDLL | None:
    if not functions.supported():
        return None
    for size in sizes:
        function = getattr(functions, size)
        function.argtypes, function.restype = [ctypes.c_void_p], ctypes.c_int64
    functions.forward.argtypes = [ctypes.c_void_p] * (1 + forward)
    functions.backward.argtypes = [ctypes.c_void_p] * (1 + backward)
    functions.forward.restype = functions.backward.restype = None
    return functions


def workspace(size: int, *, full: bool) -> Tensor:
    """Allocate a buffer ``float32 [size]``.

    If the rows fill whole blocks (``full``), it is uninitialised. Otherwise it is zero, because the padding rows of a
    block are multiplied too, and must be finite.
    """
    return (torch.empty if full else torch.zeros)(size)


def addresses(tensors: Sequence[Tensor | None]) -> ctypes.Array[ctypes.c_void_p]:
    """Addresses of contiguous tensors, as an array of pointers; None becomes a null pointer."""
    assert all(tensor is None or tensor.is_contiguous() for tensor in tensors)
    return (ctypes.c_void_p * len(tensors))(*(None if tensor is None else tensor.data_ptr() for tensor in tensors))
