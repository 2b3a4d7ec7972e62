"""The gather in C, built once where the machine has a compiler; where it has none, nobody is told and NumPy does it."""

from __future__ import annotations

import ctypes
import hashlib
import os
import platform
import shutil
import subprocess
import tempfile
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
    """Write crops of stacks into ``out``, in torch's own threads.

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
    slots, top, left = (np.ascontiguousarray(array, np.int64) for array in (slots, top, left))
    corners = (array.ctypes.data for array in (top, left))
    if library.gather(frames.data_ptr(), *frames.shape[1:], slots.ctypes.data, slots.shape[1], *corners, len(out), out.shape[-1], out.data_ptr()):
        raise RuntimeError(f"the compiled gather takes no stacks of shape {tuple(out.shape[1:])}")


def cut(frames: Tensor, slots: Rows, window: Window, out: Tensor) -> None:
    """Write windows of stacks into ``out`` as the patches of two 5×5 convolutions of stride 5, in torch's own threads.

    Args:
        frames, slots: as for :func:`gather`.
        window: of N stacks, at least 25 pixels wide.
        out: ``bfloat16 [N, Y·X·5·5, K*C·5·5]``, contiguous, where Y = X = ⌊size/25⌋: patch (y, x) of the first convolution in patch (Y, X) of the second.

    Raises:
        RuntimeError: it is not available.
        MemoryError: there is none left.
    """
    library = _library()
    if library is None or not out.is_contiguous():
        raise RuntimeError("the compiled cut needs a compiler, and writes contiguous patches")
    slots, *arrays = (np.ascontiguousarray(array, np.int64) for array in (slots, window.top, window.left, window.down, window.right))
    corners, blocks = (array.ctypes.data for array in arrays), window.size // 25
    if library.cut(frames.data_ptr(), *frames.shape[1:], slots.ctypes.data, slots.shape[1], *corners, window.crop, len(out), blocks, blocks, out.data_ptr()):
        raise MemoryError("no memory left to cut windows in")


@cache
def _library() -> ctypes.CDLL | None:
    """The compiled functions; built into the user's cache at first use."""
    source = SOURCE.read_bytes()
    folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "mcurl"
    name = f"gather-{hashlib.sha256(source).hexdigest()[:16]}-{platform.machine()}"
    # With threads, which are torch's own where its OpenMP can be found in the process; else without.
    library = _built(folder / f"{name}-openmp.so", "-fopenmp") or _built(folder / f"{name}.so")
    if library is None:
        return None
    gather, cut = library.gather, library.cut
    pointer, number = ctypes.c_void_p, ctypes.c_int64
    gather.argtypes = [pointer, number, number, number, pointer, number, pointer, pointer, number, number, pointer]
    cut.argtypes = [pointer, number, number, number, pointer, number, *[pointer] * 4, *[number] * 4, pointer]
    gather.restype = cut.restype = ctypes.c_int
    return library


def _built(path: Path, *flags: str) -> ctypes.CDLL | None:
    try:
        if not path.exists():
            _compile(path, *flags)
        return ctypes.CDLL(str(path))
    except (OSError, subprocess.SubprocessError):
        return None


def _compile(path: Path, *flags: str) -> None:
    compiler = shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
    if compiler is None:
        raise OSError("no C compiler")
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent) as scratch:
        made, built = Path(scratch) / "gather.o", Path(scratch) / path.name
        for command in (["-O3", "-fPIC", *flags, "-c", str(SOURCE), "-o", str(made)], ["-shared", str(made), "-o", str(built)]):
            subprocess.run([compiler, *command], check=True, capture_output=True, timeout=60)
        os.replace(built, path)  # whole or not at all: two runs may build it at once
