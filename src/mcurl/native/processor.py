"""What this processor can do."""

from __future__ import annotations

from functools import cache
from pathlib import Path

FLAGS = ("amx_tile", "amx_bf16", "amx_int8", "avx512f", "avx512_bf16", "avx2")
"""Instruction sets of CPUs that matter here, as /proc/cpuinfo names them."""


@cache
def processor_flags() -> list[str]:
    """Those instruction sets of :data:`FLAGS` that this CPU has; empty if /proc/cpuinfo cannot be read."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return []
    flags = next((line.partition(":")[2].split() for line in lines if line.startswith("flags")), [])
    return [flag for flag in FLAGS if flag in flags]
