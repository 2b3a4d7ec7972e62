"""What a timing is: warm-up, repeats, median and spread; and what the machine can do at best."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch


@dataclass(frozen=True)
class Timing:
    """One measured thing."""

    name: str
    milliseconds: float
    """Median."""
    low: float
    """Lower quartile, ms."""
    high: float
    """Upper quartile, ms."""
    repeats: int
    gflop: float = 0.0
    """Floating-point operations of one repeat, in 1e9, where they were counted."""
    megabytes: float = 0.0
    """Bytes moved at least, in 1e6, where they were counted."""

    @property
    def gflops(self) -> float:
        """GFLOP/s."""
        return self.gflop / self.milliseconds * 1e3

    @property
    def gigabytes_per_second(self) -> float:
        return self.megabytes / self.milliseconds

    def to_json(self) -> dict[str, Any]:
        return asdict(self) | {"gflop_per_second": self.gflops, "gigabytes_per_second": self.gigabytes_per_second}


def measure(
    name: str,
    work: Callable[[], Any],
    *,
    warm_up: int = 5,
    repeats: int = 20,
    gflop: float = 0.0,
    megabytes: float = 0.0,
) -> Timing:
    """Time ``work``; on a GPU until the device has finished it."""
    (timing,) = measure_in_turn({name: work}, warm_up=warm_up, repeats=repeats)
    return replace(timing, gflop=gflop, megabytes=megabytes)


def measure_in_turn(works: Mapping[str, Callable[[], Any]], *, warm_up: int = 5, repeats: int = 20) -> list[Timing]:
    """Time several pieces of work, one repeat of each after the other; on a GPU until the device has finished it."""
    for work in works.values():
        for _ in range(warm_up):
            work()
    synchronize()
    seconds: dict[str, list[float]] = {name: [] for name in works}
    for _ in range(repeats):
        for name, work in works.items():
            start = time.perf_counter()
            work()
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


def ceilings(device: torch.device) -> list[Timing]:
    """A large matrix product in both precisions, and a large copy: what the machine can do, measured in the same
    run."""
    n = 8192 if device.type == "cuda" else 2048
    timings = []
    for dtype in (torch.float32, torch.bfloat16):
        a, b = (torch.randn(n, n, device=device).to(dtype) for _ in range(2))
        name = f"matrix product {n}, {'fp32' if dtype == torch.float32 else 'bf16'}"
        timings.append(measure(name, lambda a=a, b=b: a @ b, warm_up=3, repeats=9, gflop=2 * n**3 / 1e9))  # type: ignore[misc]
    source = torch.randn(64 * 2**20, device=device)
    target = torch.empty_like(source)
    timings.append(
        measure("copy of 256 MB", lambda: target.copy_(source), warm_up=3, repeats=9, megabytes=2 * source.nbytes / 1e6)
    )
    return timings
