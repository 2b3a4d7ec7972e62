"""What is written in C, built once where the machine has a compiler; where it has none, nobody is told and PyTorch or
NumPy does it."""

from __future__ import annotations

import ctypes
import hashlib
import os
import platform
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from functools import cache
from pathlib import Path

import torch
from torch import Tensor

RUN = 32
"""Rows that the matrix units multiply together; widths come in multiples of it."""
EPS = 1e-5
"""Of norms, as PyTorch's."""

LAYERS = frozenset({"encoder", "head", "dueling", "transformer"})
ALL = LAYERS | {"frames", "adam"}
unused: frozenset[str] = frozenset()
"""What is not used from here on, though it could be built."""


def library(name: str) -> ctypes.CDLL | None:
    """The functions of ``name.c`` beside this file, built into the user's cache at first use; None where they cannot
    be.

    With threads, which are torch's own where its OpenMP can be found in the process; else without.
    """
    return None if name in unused else _library(name)


@cache
def _library(name: str) -> ctypes.CDLL | None:
    source = next(Path(__file__).parent.rglob(f"{name}.c"))
    folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "mcurl"
    text = b"".join(file.read_bytes() for file in [source, *sorted(source.parent.glob("*.h"))])
    stem = f"{name}-{hashlib.sha256(text).hexdigest()[:16]}-{platform.machine()}"
    return _built(source, folder / f"{stem}-openmp.so", "-fopenmp") or _built(source, folder / f"{stem}.so")


def _built(source: Path, path: Path, *flags: str) -> ctypes.CDLL | None:
    try:
        if not path.exists():
            _compile(source, path, *flags)
        return ctypes.CDLL(str(path))
    except (OSError, subprocess.SubprocessError):
        return None


def _compile(source: Path, path: Path, *flags: str) -> None:
    compiler = shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
    if compiler is None:
        raise OSError("no C compiler")
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent) as scratch:
        made, built = Path(scratch) / "made.o", Path(scratch) / path.name
        for command in (
            ["-O3", "-fno-math-errno", "-fPIC", *flags, "-c", str(source), "-o", str(made)],
            ["-shared", str(made), "-o", str(built)],
        ):
            subprocess.run([compiler, *command], check=True, capture_output=True, timeout=60)
        os.replace(built, path)  # whole or not at all: two runs may build it at once


def layer(name: str, rooms: tuple[str, ...], *, forward: int, backward: int) -> ctypes.CDLL | None:
    """The functions of a compiled layer: each takes a shape and so many pointers, those of its rooms the shape alone.
    None without matrix units."""
    functions = library(name)
    return functions and _layer(functions, rooms, forward, backward)


@cache
def _layer(functions: ctypes.CDLL, rooms: tuple[str, ...], forward: int, backward: int) -> ctypes.CDLL | None:
    if not functions.supported():
        return None
    for numbers in rooms:
        function = getattr(functions, numbers)
        function.argtypes, function.restype = [ctypes.c_void_p], ctypes.c_int64
    functions.forward.argtypes, functions.backward.argtypes = (
        [ctypes.c_void_p] * (1 + forward),
        [ctypes.c_void_p] * (1 + backward),
    )
    functions.forward.restype = functions.backward.restype = None
    return functions


def room(numbers: int, *, whole: bool) -> Tensor:
    """Memory to work in. Zeros unless the rows are whole runs: what a run holds beyond them is multiplied too, and must
    be a number."""
    return (torch.empty if whole else torch.zeros)(numbers)


def addresses(tensors: Sequence[Tensor | None]) -> ctypes.Array[ctypes.c_void_p]:
    """Where contiguous tensors lie, for a struct of pointers."""
    assert all(tensor is None or tensor.is_contiguous() for tensor in tensors)
    return (ctypes.c_void_p * len(tensors))(*(None if tensor is None else tensor.data_ptr() for tensor in tensors))
