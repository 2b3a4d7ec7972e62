"""The gather in C, built once where the machine has a compiler; where it has none, nobody is told and NumPy does it."""

from __future__ import annotations

import ctypes
import hashlib
import os
import platform
import shutil
import subprocess
import tempfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from mcurl.replay.batch import Window

SOURCE = Path(__file__).with_name("gather.c")

Rows = npt.NDArray[np.int64]


def available() -> bool:
    """Whether the compiled gather is there."""
    return _library() is not None


def gather(frames: Tensor, slots: Rows, top: Rows, left: Rows, out: Tensor) -> None:
    """Write crops of stacks into ``out``, in as many threads as torch uses.

    Args:
        frames: ``uint8 [rows, C, H, W]``, contiguous, on the CPU.
        slots: ``[N, K]``, the row of each frame of each stack; negative: blank.
        top, left: ``[N]``.
        out: ``bfloat16 [N, K*C, size, size]``, channels-last.

    Raises:
        RuntimeError: it is not available, or takes no stacks of this size.
    """
    library = _library()
    if library is None or not out.is_contiguous(memory_format=torch.channels_last):
        raise RuntimeError("the compiled gather needs a compiler, and writes channels-last")
    size, (channels, height, width) = out.shape[-1], frames.shape[1:]
    slots, top, left = (np.ascontiguousarray(array, np.int64) for array in (slots, top, left))

    def part(first: int, stop: int) -> int:
        return int(library.gather(
            frames.data_ptr(), channels, height, width, slots[first:].ctypes.data, slots.shape[1], top[first:].ctypes.data, left[first:].ctypes.data,
            stop - first, size, out[first:].data_ptr(),
        ))  # fmt: skip

    _in_parts(part, out)


def cut(frames: Tensor, slots: Rows, window: Window, out: Tensor) -> None:
    """Write windows of stacks into ``out`` as the patches of two 5×5 convolutions of stride 5, in as many threads as torch uses.

    Args:
        frames, slots: as for :func:`gather`.
        window: of N stacks, at least 25 pixels wide.
        out: ``bfloat16 [N, Y·X·5·5, K*C·5·5]``, contiguous, where Y = X = ⌊size/25⌋: patch (y, x) of the first convolution in patch (Y, X) of the second.

    Raises:
        RuntimeError: it is not available, or takes no windows of this size.
    """
    library = _library()
    if library is None or not out.is_contiguous():
        raise RuntimeError("the compiled cut needs a compiler, and writes contiguous patches")
    blocks, (channels, height, width) = window.size // 25, frames.shape[1:]
    slots, *corners = (np.ascontiguousarray(array, np.int64) for array in (slots, window.top, window.left, window.down, window.right))

    def part(first: int, stop: int) -> int:
        return int(library.cut(
            frames.data_ptr(), channels, height, width, slots[first:].ctypes.data, slots.shape[1], *(corner[first:].ctypes.data for corner in corners),
            window.crop, stop - first, blocks, blocks, out[first:].data_ptr(),
        ))  # fmt: skip

    _in_parts(part, out)


def _in_parts(part: Callable[[int, int], int], out: Tensor) -> None:
    """Calls ``part(first, stop)`` for shares of the rows of ``out``, in as many threads as torch uses."""
    parts = max(1, min(torch.get_num_threads(), len(out) // 16))
    bounds = np.linspace(0, len(out), parts + 1).astype(int).tolist()
    failed = _pool().map(part, bounds[:-1], bounds[1:]) if parts > 1 else [part(0, len(out))]
    if any(failed):
        raise RuntimeError(f"the compiled gather takes no stacks of shape {tuple(out.shape[1:])}")


@cache
def _pool() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(os.cpu_count(), thread_name_prefix="gather")


@cache
def _library() -> ctypes.CDLL | None:
    """The compiled functions; built into the user's cache at first use."""
    source = SOURCE.read_bytes()
    folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "mcurl"
    path = folder / f"gather-{hashlib.sha256(source).hexdigest()[:16]}-{platform.machine()}.so"
    try:
        if not path.exists():
            _compile(path)
        library = ctypes.CDLL(str(path))
        gather, cut = library.gather, library.cut
    except (OSError, AttributeError, subprocess.SubprocessError):
        return None
    pointer, number = ctypes.c_void_p, ctypes.c_int64
    gather.argtypes = [pointer, number, number, number, pointer, number, pointer, pointer, number, number, pointer]
    cut.argtypes = [pointer, number, number, number, pointer, number, *[pointer] * 4, *[number] * 4, pointer]
    gather.restype = cut.restype = ctypes.c_int
    return library


def _compile(path: Path) -> None:
    compiler = shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
    if compiler is None:
        raise OSError("no C compiler")
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent) as scratch:
        built = Path(scratch) / path.name
        subprocess.run([compiler, "-O3", "-shared", "-fPIC", "-o", str(built), str(SOURCE)], check=True, capture_output=True, timeout=60)
        os.replace(built, path)  # whole or not at all: two runs may build it at once
