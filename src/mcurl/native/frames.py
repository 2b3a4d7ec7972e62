"""Stacks of frames gathered out of a ring in C: as crops for convolutions (:func:`gather`), or as patches for matrix
products (:func:`cut`, :func:`patches`).

The plain twins are ``FrameGather._indexed`` and ``DataEfficientEncoder.patches``.
"""

from __future__ import annotations

import ctypes
from functools import cache

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from mcurl import native

Rows = npt.NDArray[np.int64]

KERNEL = 5
"""Side and stride of both convolutions that patches are cut for."""


def available() -> bool:
    """Whether the compiled functions are there."""
    return _functions() is not None


def gather(frames: Tensor, slots: Rows, top: Rows, left: Rows, out: Tensor) -> None:
    """Write crops of stacks into ``out``, in torch's own threads.

    Args:
        frames: ``uint8 [rows, C, H, W]``, contiguous, on the CPU.
        slots: ``[N, K]``, the row of each frame of each stack; negative: blank.
        top, left: ``[N]``.
        out: ``bfloat16 [N, K*C, size, size]``, channels-last.

    Raises:
        RuntimeError: it is not available, or does not support stacks of this size.
    """
    functions = _functions()
    if functions is None or not out.is_contiguous(memory_format=torch.channels_last):
        raise RuntimeError("the compiled gather needs a compiler, and writes channels-last")
    slots, top, left = (np.ascontiguousarray(array, np.int64) for array in (slots, top, left))
    corners = (array.ctypes.data for array in (top, left))
    if functions.gather(
        frames.data_ptr(),
        *frames.shape[1:],
        slots.ctypes.data,
        slots.shape[1],
        *corners,
        len(out),
        out.shape[-1],
        out.data_ptr(),
    ):
        raise RuntimeError(f"the compiled gather does not support stacks of shape {tuple(out.shape[1:])}")
    native.record("frames")


def cut(frames: Tensor, slots: Rows, top: Rows, left: Rows, down: Rows, right: Rows, crop: int, out: Tensor) -> None:
    """Write windows of stacks into ``out`` as the patches of two 5×5 convolutions of stride 5, in torch's own threads.

    Args:
        frames, slots: as for :func:`gather`.
        top, left, down, right: ``[N]``, and crop: row r of a window is row ``top + clamp(r - down, 0, crop - 1)`` of
            the frame, columns likewise.
        out: ``uint8 [N, Y, X, 5, 5, K*C, 5, 5]``, contiguous: patch (y, x) of the first convolution in patch (Y, X) of
            the second.

    Raises:
        RuntimeError: it is not available, or the frames are too wide.
    """
    functions = _functions()
    if functions is None or not out.is_contiguous() or not frames.is_contiguous():
        raise RuntimeError("the compiled cut needs a compiler, reads contiguous frames, and writes contiguous patches")
    arrays = [np.ascontiguousarray(array, np.int64) for array in (slots, top, left, down, right)]
    slots_address, *corners = (array.ctypes.data for array in arrays)
    if functions.cut(
        frames.data_ptr(),
        *frames.shape[1:],
        slots_address,
        slots.shape[1],
        *corners,
        crop,
        len(out),
        out.shape[1],
        out.shape[2],
        out.data_ptr(),
    ):
        raise RuntimeError(f"the compiled cut does not support frames of {tuple(frames.shape[2:])} pixels")
    native.record("frames")


def supports_patches(pixels: Tensor) -> bool:
    """Whether :func:`patches` takes observations like these: square, ``uint8``, on the CPU."""
    return (
        pixels.device.type == "cpu"
        and pixels.dtype == torch.uint8
        and pixels.shape[2] == pixels.shape[3]
        and available()
    )


def patches(pixels: Tensor, rows: int, columns: int) -> Tensor:
    """Whole observations ``uint8 [N, C, S, S]`` as :func:`cut` writes them: ``uint8 [N, rows, columns, 5, 5, C, 5, 5]``
    from the top left corner on.

    Raises:
        RuntimeError: as :func:`cut`.
    """
    n, channels, size, _ = pixels.shape
    out = torch.empty((n, rows, columns, KERNEL, KERNEL, channels, KERNEL, KERNEL), dtype=torch.uint8)
    zeros = np.zeros(n, np.int64)
    cut(pixels.contiguous(), np.arange(n)[:, None], zeros, zeros, zeros, zeros, size, out)
    return out


def _functions() -> ctypes.CDLL | None:
    functions = native.library("frames")
    return functions and _typed(functions)


@cache
def _typed(functions: ctypes.CDLL) -> ctypes.CDLL:
    pointer, number = ctypes.c_void_p, ctypes.c_int64
    functions.gather.argtypes = [pointer, *[number] * 3, pointer, number, *[pointer] * 2, *[number] * 2, pointer]
    functions.cut.argtypes = [pointer, *[number] * 3, pointer, number, *[pointer] * 4, *[number] * 4, pointer]
    functions.gather.restype = functions.cut.restype = ctypes.c_int
    return functions
