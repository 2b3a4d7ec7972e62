"""Timings: warm-up, repetitions, median and quartiles. Also the peak throughput of the machine."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch

from mcurl.runtime.device import has_fast_bf16


@dataclass(frozen=True)
class Timing:
    """The timing of a function."""

    name: str
    """What was timed, for the table."""
    milliseconds: float
    """Median, ms."""
    low: float
    """Lower quartile, ms."""
    high: float
    """Upper quartile, ms."""
    repeats: int
    """Number of repetitions."""
    gflop: float = 0.0
    """Floating-point operations of one repetition, in 1e9; 0: not counted."""
    megabytes: float = 0.0
    """Minimum memory traffic of one repetition, in 1e6 bytes; 0: not counted."""

    @property
    def gflops(self) -> float:
        """Throughput in GFLOP/s."""
        return self.gflop / self.milliseconds * 1e3

    @property
    def gigabytes_per_second(self) -> float:
        """Memory throughput in GB/s."""
        return self.megabytes / self.milliseconds

    def to_json(self) -> dict[str, Any]:
        """All fields and the two throughputs, as JSON values."""
        return asdict(self) | {"gflop_per_second": self.gflops, "gigabytes_per_second": self.gigabytes_per_second}


def measure(
    name: str,
    function: Callable[[], Any],
    *,
    warm_up: int = 5,
    repeats: int = 20,
    gflop: float = 0.0,
    megabytes: float = 0.0,
) -> Timing:
    """Time a function, including its work on the GPU.

    Args:
        name: see :class:`Timing`; likewise ``repeats``, ``gflop`` and ``megabytes``.
        function: called ``warm_up + repeats`` times.
        warm_up: number of calls before the repetitions.
    """
    (timing,) = measure_interleaved({name: function}, warm_up=warm_up, repeats=repeats)
    return replace(timing, gflop=gflop, megabytes=megabytes)


def measure_interleaved(
    functions: Mapping[str, Callable[[], Any]], *, warm_up: int = 5, repeats: int = 20
) -> list[Timing]:
    """Time several functions in turn, one repetition of each at a time, as :func:`measure` does.

    Args:
        functions: name -> function.
    """
    for function in functions.values():
        for _ in range(warm_up):
            function()
    synchronize()
    seconds: dict[str, list[float]] = {name: [] for name in functions}
    for _ in range(repeats):
        for name, function in functions.items():
            start = time.perf_counter()
            function()
            synchronize()
            seconds[name].append(time.perf_counter() - start)
    timings = []
    for name, times in seconds.items():
        low, middle, high = statistics.quantiles(times, n=4) if len(times) > 1 else times * 3
        timings.append(Timing(name, middle * 1e3, low * 1e3, high * 1e3, repeats))
    return timings


def synchronize() -> None:
    """Wait for the GPU, if there is one."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def time_peak_throughput(device: torch.device) -> list[Timing]:
    """Time large matrix products in float32 and, where the device is fast in it, bfloat16, and a large copy, as upper
    bounds of the throughput. Elsewhere one takes 14 s (2048 rows, AVX2)."""
    n = 8192 if device.type == "cuda" else 2048
    timings = []
    for dtype in (torch.float32, torch.bfloat16) if has_fast_bf16(device) else (torch.float32,):
        a, b = (torch.randn(n, n, device=device).to(dtype) for _ in range(2))
        name = f"matrix product {n}, {'fp32' if dtype == torch.float32 else 'bf16'}"
        timings.append(measure(name, lambda a=a, b=b: a @ b, warm_up=3, repeats=9, gflop=2 * n**3 / 1e9))  # type: ignore[misc]
    source = torch.randn(64 * 2**20, device=device)
    target = torch.empty_like(source)
    timings.append(
        measure("copy of 256 MB", lambda: target.copy_(source), warm_up=3, repeats=9, megabytes=2 * source.nbytes / 1e6)
    )
    return timings
