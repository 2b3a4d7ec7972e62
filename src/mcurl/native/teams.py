"""Teams of OpenMP threads that only sleep: ``teams.c``."""

from __future__ import annotations

import ctypes

import torch  # noqa: F401 OpenMP comes with it

from mcurl import native


def available() -> bool:
    """Whether the operation is enabled and built."""
    return native.library("teams") is not None


def open_team(threads: int) -> int:
    """Start a team of OpenMP threads, which sleep until the calling thread ends.

    Returns:
        The number of threads in the team, the calling one included: 1 without OpenMP.

    Raises:
        RuntimeError: the operation is not available.
    """
    functions = native.library("teams")
    if functions is None:
        raise RuntimeError("a team of threads needs a C compiler")
    functions.open_team.argtypes, functions.open_team.restype = [ctypes.c_int64], ctypes.c_int64
    native.record_use("teams")
    return int(functions.open_team(threads))
