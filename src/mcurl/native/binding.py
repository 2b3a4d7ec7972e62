"""Helpers of all compiled layers."""

from __future__ import annotations

import contextlib
import ctypes
import mmap
import threading
from collections.abc import Sequence
from functools import cache

import torch
from torch import Tensor

from mcurl import native

BLOCK = 32
"""Rows and columns that are multiplied together; widths are multiples of it (``tiles.h``)."""
HUGE_PAGE = 2**21
"""Bytes."""
EPS = 1e-5
"""ε of LayerNorm, PyTorch's default."""

_kept = threading.local()


def layer(name: str, sizes: tuple[str, ...], *, forward: int, backward: int) -> ctypes.CDLL | None:
    """The library of a compiled layer, with declared argument types.

    Args:
        name: name of the operation, such as ``amx.dueling``.
        sizes: names of the functions that return the size of a buffer in floats, for a shape.
        forward, backward: number of pointer arguments of these functions, in addition to the shape.

    Returns:
        The library; None if it is disabled or cannot be built, or does not serve on this processor.
    """
    functions = native.library(name)
    return _declared(functions, sizes, forward, backward) if functions and native.gains(name) else None


@cache
def _declared(functions: ctypes.CDLL, sizes: tuple[str, ...], forward: int, backward: int) -> ctypes.CDLL | None:
    if not functions.supported():
        return None
    for size in sizes:
        function = getattr(functions, size)
        function.argtypes, function.restype = [ctypes.c_void_p], ctypes.c_int64
    functions.forward.argtypes = [ctypes.c_void_p] * (1 + forward)
    functions.backward.argtypes = [ctypes.c_void_p] * (1 + backward)
    functions.forward.restype = functions.backward.restype = None
    return functions


def check_differentiated_once() -> None:
    """Raise RuntimeError in a backward pass with ``create_graph=True``: gradients in C have no gradients."""
    if torch.is_grad_enabled():
        raise RuntimeError("compiled layers have no gradients of gradients: use compute.native=off")


def workspace(size: int, *, full: bool) -> Tensor:
    """Allocate a buffer ``float32 [size]``.

    If the rows fill whole blocks (``full``), it is uninitialised. Otherwise it is zero, because the padding rows of a
    block are multiplied too, and must be finite.
    """
    return (torch.empty if full else torch.zeros)(size)


def kept_workspace(size: int) -> Tensor:
    """A buffer ``float32 [size]`` of this thread, uninitialised, which its next call gets again.

    It lies in huge pages where the system has them: a layer that walks over a MB for each image spends some percent of
    its time on looking up small ones.
    """
    buffer: Tensor | None = getattr(_kept, "buffer", None)
    if buffer is None or len(buffer) < size:
        length = -(-4 * size // HUGE_PAGE) * HUGE_PAGE + HUGE_PAGE
        pages = mmap.mmap(-1, length, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        with contextlib.suppress(OSError, AttributeError):  # a kernel, or a system, without them
            pages.madvise(mmap.MADV_HUGEPAGE)
        whole = torch.frombuffer(pages, dtype=torch.float32)
        _kept.buffer = buffer = whole[-whole.data_ptr() % HUGE_PAGE // 4 :]
    return buffer[:size]


def addresses(tensors: Sequence[Tensor | None]) -> ctypes.Array[ctypes.c_void_p]:
    """Addresses of contiguous tensors, as an array of pointers; None becomes a null pointer."""
    assert all(tensor is None or tensor.is_contiguous() for tensor in tensors)
    return (ctypes.c_void_p * len(tensors))(*(None if tensor is None else tensor.data_ptr() for tensor in tensors))
