"""What the Python side of all compiled layers shares."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from functools import cache

import torch
from torch import Tensor

from mcurl import native

BLOCK = 32
"""Rows and columns that are multiplied together; widths are multiples of it (``tiles.h``)."""
EPS = 1e-5
"""Of norms, as PyTorch's."""


def layer(name: str, sizes: tuple[str, ...], *, forward: int, backward: int) -> ctypes.CDLL | None:
    """The functions of a compiled layer: ``forward`` and ``backward`` of a shape and so many pointers.

    Args:
        name: of the operation, such as ``amx.head``.
        sizes: functions of the shape alone, which say how many floats a buffer needs.
        forward, backward: pointers beside the shape.

    Returns:
        None where it is disabled, cannot be built, or the processor has no AMX.
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
    """A buffer ``float32 [size]``: uninitialised where the rows fill whole blocks, else zeros, since the rows that pad
    a block are multiplied too and must be numbers."""
    return (torch.empty if full else torch.zeros)(size)


def addresses(tensors: Sequence[Tensor | None]) -> ctypes.Array[ctypes.c_void_p]:
    """The addresses of contiguous tensors, for a struct of pointers."""
    assert all(tensor is None or tensor.is_contiguous() for tensor in tensors)
    return (ctypes.c_void_p * len(tensors))(*(None if tensor is None else tensor.data_ptr() for tensor in tensors))
