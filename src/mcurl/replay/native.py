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
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

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
    native = _library()
    if native is None or not out.is_contiguous(memory_format=torch.channels_last):
        raise RuntimeError("the compiled gather needs a compiler, and writes channels-last")
    size, (channels, height, width) = out.shape[-1], frames.shape[1:]
    slots, top, left = (np.ascontiguousarray(array, np.int64) for array in (slots, top, left))
    stack_bytes = out[0].numel() * out.element_size()

    def part(first: int, stop: int) -> int:
        assert native is not None
        return int(native(
            frames.data_ptr(), channels, height, width, slots[first:].ctypes.data, slots.shape[1], top[first:].ctypes.data, left[first:].ctypes.data,
            stop - first, size, out.data_ptr() + first * stack_bytes,
        ))  # fmt: skip

    parts = max(1, min(torch.get_num_threads(), len(slots) // 16))
    bounds = np.linspace(0, len(slots), parts + 1).astype(int).tolist()
    failed = _pool().map(part, bounds[:-1], bounds[1:]) if parts > 1 else [part(0, len(slots))]
    if any(failed):
        raise RuntimeError(f"the compiled gather takes no stacks of shape {tuple(out.shape[1:])}")


@cache
def _pool() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(os.cpu_count(), thread_name_prefix="gather")


@cache
def _library() -> Callable[..., Any] | None:
    """The compiled function; built into the user's cache at first use."""
    source = SOURCE.read_bytes()
    folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "mcurl"
    path = folder / f"gather-{hashlib.sha256(source).hexdigest()[:16]}-{platform.machine()}.so"
    try:
        if not path.exists():
            _compile(path)
        function = ctypes.CDLL(str(path)).gather
    except (OSError, AttributeError, subprocess.SubprocessError):
        return None
    pointer, number = ctypes.c_void_p, ctypes.c_int64
    function.argtypes = [pointer, number, number, number, pointer, number, pointer, pointer, number, number, pointer]
    function.restype = ctypes.c_int
    return function  # type: ignore[no-any-return]


def _compile(path: Path) -> None:
    compiler = shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
    if compiler is None:
        raise OSError("no C compiler")
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent) as scratch:
        built = Path(scratch) / path.name
        subprocess.run([compiler, "-O3", "-shared", "-fPIC", "-o", str(built), str(SOURCE)], check=True, capture_output=True, timeout=60)
        os.replace(built, path)  # whole or not at all: two runs may build it at once
