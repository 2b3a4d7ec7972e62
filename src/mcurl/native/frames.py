"""Gathering of stacks of frames in C, as crops (:func:`gather`) or as patches (:func:`cut`, :func:`patches`).

Crops are for convolutions, patches for matrix products. The plain versions are ``FrameGather.gather_indexed`` and
``DataEfficientEncoder.patches``.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from functools import cache

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from mcurl import native

Rows = npt.NDArray[np.int64]

MAX_CHANNELS, MAX_CROP = 64, 4096
"""Largest number of channels of a stack, and largest side of a crop, that :func:`gather` supports."""
KERNEL = 5
"""Kernel size and stride of both convolutions of the patches."""


def available() -> bool:
    """Whether the compiled functions are available."""
    return _functions() is not None


def gather(frames: Tensor, slots: Rows, top: Rows, left: Rows, down: Rows, right: Rows, crop: int, out: Tensor) -> None:
    """Write windows of stacks into ``out``, in PyTorch's threads.

    Args:
        frames: ``uint8 [rows, C, H, W]``, contiguous, on the CPU.
        slots: ``int64 [N, K]``, row of each frame of each stack; negative: zeros.
        top, left, down, right: ``int64 [N]``, offsets of the crops in the frames, and in the output.
        crop: side of the crops.
        out: ``uint8 [N, K*C, size, size]``, channels-last.

    Raises:
        RuntimeError: the function is not available, or does not support stacks of this size.
    """
    functions = _functions()
    if functions is None or out.dtype != torch.uint8 or not out.is_contiguous(memory_format=torch.channels_last):
        raise RuntimeError("the compiled gather needs a C compiler and a channels-last uint8 output")
    slots, *corners = (np.ascontiguousarray(array, np.int64) for array in (slots, top, left, down, right))
    if functions.gather(
        frames.data_ptr(),
        *frames.shape[1:],
        slots.ctypes.data,
        slots.shape[1],
        *(array.ctypes.data for array in corners),
        len(out),
        crop,
        out.shape[-1],
        out.data_ptr(),
    ):
        raise RuntimeError(f"the compiled gather does not support stacks of shape {tuple(out.shape[1:])}")
    native.record_use("frames")


def supports_centre_crop(pixels: Tensor, size: int) -> bool:
    """Whether :func:`bind_centre_crop` is available and supports these observations: ``uint8`` on the CPU."""
    on_cpu = pixels.device.type == "cpu" and pixels.dtype == torch.uint8
    return on_cpu and pixels.shape[1] <= MAX_CHANNELS and size <= MAX_CROP and available()


def bind_centre_crop(pixels: Tensor, size: int) -> Callable[[Tensor], Tensor]:
    """Centre crops as a function of observations of one shape, ``uint8 [N, C, H, W]``, as ``pixels``.

    Returns:
        A function whose result is ``uint8 [N, C, size, size]``, channels-last.

    Raises:
        RuntimeError: it does not support such observations, see :func:`supports_centre_crop`.
    """
    functions = _functions()
    if functions is None or not supports_centre_crop(pixels, size):
        raise RuntimeError(f"the compiled crop does not support observations of shape {tuple(pixels.shape)} here")
    shape, (n, channels, height, width) = pixels.shape, pixels.shape
    slots, top, left = torch.arange(n), torch.full((n,), (height - size) // 2), torch.full((n,), (width - size) // 2)
    zeros = torch.zeros_like(slots)

    def apply(pixels: Tensor) -> Tensor:
        assert pixels.shape == shape
        pixels = pixels.contiguous()
        out = torch.empty((n, channels, size, size), dtype=torch.uint8, memory_format=torch.channels_last)
        corners = (corner.data_ptr() for corner in (top, left, zeros, zeros))
        functions.gather(
            pixels.data_ptr(), channels, height, width, slots.data_ptr(), 1, *corners, n, size, size, out.data_ptr()
        )
        native.record_use("frames")
        return out

    return apply


def cut(frames: Tensor, slots: Rows, top: Rows, left: Rows, down: Rows, right: Rows, crop: int, out: Tensor) -> None:
    """Write windows of stacks into ``out`` as the patches of two 5×5 convolutions of stride 5, in PyTorch's threads.

    Args:
        frames, slots: as for :func:`gather`.
        top, left, down, right: ``int64 [N]``, see :class:`mcurl.replay.augment.Window`.
        crop: size of the crop in pixels, see there.
        out: ``uint8 [N, Y, X, 5, 5, K*C, 5, 5]``, contiguous: the patches of the first convolution, grouped by the
            patches of the second.

    Raises:
        RuntimeError: the function is not available, or the frames are too wide.
    """
    functions = _functions()
    if functions is None or not out.is_contiguous() or not frames.is_contiguous():
        raise RuntimeError("the compiled cut needs a C compiler, contiguous frames and a contiguous output")
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
    native.record_use("frames")


def supports_patches(pixels: Tensor) -> bool:
    """Whether :func:`patches` is available and supports these observations: square, ``uint8``, on the CPU."""
    return (
        pixels.device.type == "cpu"
        and pixels.dtype == torch.uint8
        and pixels.shape[2] == pixels.shape[3]
        and available()
    )


def patches(pixels: Tensor, rows: int, columns: int) -> Tensor:
    """Cut observations ``uint8 [N, C, S, S]`` into patches, from the top left corner.

    Returns:
        ``uint8 [N, rows, columns, 5, 5, C, 5, 5]``, see :func:`cut`.

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
    functions.gather.argtypes = [pointer, *[number] * 3, pointer, number, *[pointer] * 4, *[number] * 3, pointer]
    functions.cut.argtypes = [pointer, *[number] * 3, pointer, number, *[pointer] * 4, *[number] * 4, pointer]
    functions.gather.restype = functions.cut.restype = ctypes.c_int
    return functions
