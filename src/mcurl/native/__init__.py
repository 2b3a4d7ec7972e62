"""Accelerated versions of plain PyTorch and NumPy code: C that is compiled on first use, and oneDNN operations.

Each operation has a name (:data:`ALL`) and a plain version, which is used if the operation is disabled or not
available. :func:`operations_used` lists the operations that ran in this process. :func:`status` tells why others are
not available.
"""

from __future__ import annotations

import ctypes
import hashlib
import os
import platform
import shutil
import subprocess
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from functools import cache
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple

from mcurl import files
from mcurl.native.processor import processor_flags

AMX = frozenset({"amx.convolutions", "amx.encoder", "amx.features", "amx.mlp", "amx.dueling", "amx.transformer"})
"""Layers in C for the matrix units (AMX) of x86 processors."""
VECTORS = frozenset({"amx.encoder"})
"""Those of them that also serve on AVX-512 of processors without matrix units. The others gain nothing there."""
ONEDNN = frozenset({"onednn.conv_relu", "onednn.linear_relu"})
"""Private oneDNN operations of PyTorch."""
ALL = frozenset({"frames", "adam", "dense", "teams", "winograd"}) | AMX | ONEDNN
"""Names of all accelerated operations."""

_disabled: ContextVar[Mapping[str, str]] = ContextVar("disabled", default=MappingProxyType({}))
"""Of each thread its own: a policy that acts in one thread must not change what a run in another one computes."""
_used: set[str] = set()


class Build(NamedTuple):
    """The result of a compilation."""

    library: ctypes.CDLL | None
    message: str
    """``"built"``, or why there is no library."""


def disabled() -> Mapping[str, str]:
    """Name of each operation that is disabled in this thread -> the reason."""
    return _disabled.get()


def enable_all() -> None:
    """Disable no operation in this thread any more."""
    _disabled.set({})


@contextmanager
def disabled_only(names: Mapping[str, str]) -> Iterator[None]:
    """A context manager that begins with these operations disabled in this thread, and no others.

    Args:
        names: as from :func:`disabled`.
    """
    previous = disabled()
    _disabled.set(names)
    try:
        yield
    finally:
        _disabled.set(previous)


def disable(names: Iterable[str], reason: str) -> None:
    """Disable operations in this thread, in addition to those that are disabled already.

    Args:
        names: of :data:`ALL`.
        reason: shown by :func:`status`.

    Raises:
        ValueError: a name is not in :data:`ALL`.
    """
    names = frozenset(names)
    if unknown := sorted(names - ALL):
        raise ValueError(f"unknown native operations: {', '.join(unknown)}")
    _disabled.set({**disabled(), **dict.fromkeys(names, reason)})


@contextmanager
def without_operations(names: Iterable[str], reason: str) -> Iterator[None]:
    """A context manager in which operations are disabled, see :func:`disable`."""
    with disabled_only(disabled()):
        disable(names, reason)
        yield


def record_use(name: str) -> None:
    """Record that an operation ran."""
    _used.add(name)


def operations_used() -> list[str]:
    """Names of the operations that ran in this process, sorted."""
    return sorted(_used)


def status() -> dict[str, str]:
    """The state of each operation. Operations that have not been compiled yet are compiled (some seconds).

    Returns:
        Name -> ``"built"``, with ``", without OpenMP"`` and ``", for AVX-512"`` (or ``AVX2``) where that is so; or
        ``"disabled: ..."``, ``"no C compiler"``, ``"processor without AMX"`` (or ``AVX2``),
        ``"build failed: ..."`` with the compiler's first error, ``"PyTorch without oneDNN"``, ``"no bfloat16 in
        oneDNN here"``.
    """
    off = disabled()
    return {name: f"disabled: {off[name]}" if name in off else _status(name) for name in sorted(ALL)}


def unavailable(names: Iterable[str]) -> dict[str, str]:
    """Those of some operations that cannot run in this process, with the reason. Unknown names are left out."""
    states = {name: disabled().get(name) or _status(name) for name in names if name in ALL}
    return {name: state for name, state in states.items() if not state.startswith("built")}


def _status(name: str) -> str:
    if name in ONEDNN:
        from mcurl.native import onednn  # it imports this module

        if onednn.available(name):
            return "built"
        return "no bfloat16 in oneDNN here" if onednn.available("onednn.conv_relu") else "PyTorch without oneDNN"
    library, message = _build(name)
    if library is None or name not in AMX | {"winograd"}:
        return message
    if not (gains(name) and library.supported()):
        return f"processor without {'AMX' if name in AMX else 'AVX2'}"
    variant = _variant(name)
    return message if variant is None else f"{message}, for {variant.instructions}"


class Variant(NamedTuple):
    """How a source is compiled for processors that lack the instructions it was written for first."""

    flag: str
    suffix: str
    """Of the library's file name."""
    instructions: str


def _variant(name: str) -> Variant | None:
    if name in AMX and not has_matrix_units():
        return Variant("-DVECTOR_TILES", "-vectors", "AVX-512")
    if name == "winograd" and "avx512f" not in processor_flags():
        return Variant("-DLANES_8", "-avx2", "AVX2")
    return None


@cache
def has_matrix_units() -> bool:
    """Whether this processor has AMX. Else the layers for it are compiled for AVX-512."""
    return {"amx_tile", "amx_int8", "amx_bf16"} <= set(processor_flags())


def gains(name: str) -> bool:
    """Whether an operation is faster than PyTorch on this processor, if it runs there."""
    return name not in AMX or has_matrix_units() or name in VECTORS


def library(name: str) -> ctypes.CDLL | None:
    """The compiled library of an operation, built into the user's cache on first use.

    Its functions run in PyTorch's OpenMP threads if the compiler supports OpenMP, else in one thread.

    Args:
        name: path of the source file below this folder, with dots: ``amx.encoder``.

    Returns:
        The library; None if the operation is disabled or cannot be built.
    """
    return None if name in disabled() else _build(name).library


@cache
def _build(name: str) -> Build:
    source = Path(__file__).parent.joinpath(*name.split(".")).with_suffix(".c")
    try:
        folder = files.cache_folder()
    except OSError as error:
        return Build(None, f"build failed: {error}")
    text = b"".join(file.read_bytes() for file in [source, *sorted(Path(__file__).parent.rglob("*.h"))])
    variant = _variant(name)
    flags, suffix = ([variant.flag], variant.suffix) if variant else ([], "")
    stem = f"{name}-{hashlib.sha256(text).hexdigest()[:16]}-{platform.machine()}{suffix}"
    threaded = _load(source, folder / f"{stem}-openmp.so", "-fopenmp", *flags)
    if threaded.library is not None:
        return threaded
    build = _load(source, folder / f"{stem}.so", *flags)
    return build if build.library is None else Build(build.library, "built, without OpenMP")


def _load(source: Path, path: Path, *flags: str) -> Build:
    """Load the library at a path; compile it first if it does not exist."""
    import torch  # noqa: F401  # libraries find OpenMP's functions in the library that PyTorch has loaded

    try:
        if not path.exists() or _is_damaged(path):
            compiler = shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
            if compiler is None:
                return Build(None, "no C compiler")
            _compile(compiler, source, path, *flags)
        return Build(ctypes.CDLL(str(path)), "built")
    except subprocess.CalledProcessError as error:
        return Build(None, f"build failed: {_first_error(error.stderr.decode(errors='replace'))}")
    except (OSError, subprocess.SubprocessError) as error:
        return Build(None, f"build failed: {error}")


def _compile(compiler: str, source: Path, path: Path, *flags: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent) as scratch:
        object_file, shared = Path(scratch) / "object.o", Path(scratch) / path.name
        for command in (
            ["-O3", "-fno-math-errno", "-fPIC", *flags, "-c", str(source), "-o", str(object_file)],
            ["-shared", str(object_file), "-o", str(shared)],
        ):
            subprocess.run([compiler, *command], check=True, capture_output=True, timeout=60)
        files.sync(shared)
        os.replace(shared, path)  # atomic, because two processes may build it at the same time


def _is_damaged(path: Path) -> bool:
    """Whether a library is empty, or begins with zeros, as a power cut leaves files that were not synced."""
    with path.open("rb") as file:
        return not file.read(4).strip(b"\0")


def _first_error(output: str) -> str:
    lines = [line for line in output.splitlines() if line.strip()] or ["no message from the compiler"]
    return next((line for line in lines if "error" in line), lines[0])
