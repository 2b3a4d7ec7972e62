"""What a setting would take of this machine's memory, before it is taken."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from mcurl.errors import UserError
from mcurl.runtime.limits import process_memory, total_memory


def device_memory(device: torch.device) -> int:
    """Bytes of memory of a device: of the GPU, or of the machine."""
    if device.type == "cuda":
        return int(torch.cuda.get_device_properties(device).total_memory)
    return process_memory()


def check_memory(size: int, name: str, device: torch.device, advice: str) -> None:
    """Raise UserError if something takes more than the memory of a device.

    Args:
        size: bytes that it takes at least.
        name: what takes them, such as ``"a replay of 100,000 rows"``.
        device: where.
        advice: what to do instead, such as ``"choose a smaller capacity"``.
    """
    if size > (memory := device_memory(device)):
        raise _too_large(size, name, memory, advice)


def _too_large(size: int, name: str, memory: int, advice: str) -> UserError:
    gigabytes = f"{size / 1e9:,.1f}" if size < 1e300 else "infinitely many"
    return UserError(f"{name} would take {gigabytes} GB, more than the {memory / 1e9:.1f} GB of memory here: {advice}")


def check_memory_of_runs(sizes: Iterable[int], at_once: int, option: str) -> None:
    """Raise UserError if several runs at once take more than the memory that all processes here may have.

    Args:
        sizes: bytes that each run takes at least.
        at_once: so many run at once, at least 1.
        option: the option of the command that sets ``at_once``.
    """
    largest = sorted(sizes, reverse=True)[:at_once]
    memory = total_memory()
    if sum(largest) <= memory:
        return
    fitting = next(count for count in range(len(largest), -1, -1) if sum(largest[:count]) <= memory)
    advice = f"use {option} {fitting}" if fitting else "choose a smaller replay.capacity"
    raise _too_large(sum(largest), f"{len(largest):,} runs at once" if len(largest) > 1 else "a run", memory, advice)


COPIES = 4
"""A weight that is trained has a gradient and two moments of Adam beside it."""


@contextmanager
def limited_allocations(device: torch.device, name: str, advice: str) -> Iterator[None]:
    """A context manager that refuses weights before they are allocated, if they could not be trained in memory.

    For networks while they are made: their sizes are known only then.

    Args:
        device: where the tensors are in the end.
        name, advice: see :func:`check_memory`.

    Raises:
        UserError: they do not fit, or cannot be allocated.
    """
    try:
        with _Counter(device, name, advice):
            yield
    except (RuntimeError, TypeError, ValueError, OverflowError, MemoryError) as error:
        line = str(error).partition("\n")[0]
        if not isinstance(error, MemoryError | OverflowError) and not _TOO_LARGE.search(line):
            raise
        raise UserError(f"{name} cannot be allocated ({line[:200] or type(error).__name__}): {advice}") from error


_TOO_LARGE = re.compile(r"overflow|allocate|out of memory|too large|too big|exceeds", re.IGNORECASE)


class _Counter(TorchDispatchMode):
    """Adds up the sizes of new tensors."""

    def __init__(self, device: torch.device, name: str, advice: str) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.device, self.name, self.advice = device, name, advice
        self.total = 0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        options = dict(kwargs or {})
        if func in _FACTORIES and args and isinstance(args[0], list | tuple):
            dtype = options.get("dtype") or torch.get_default_dtype()
            self.total += math.prod(args[0]) * dtype.itemsize
            check_memory(COPIES * self.total, self.name, self.device, self.advice)
        return func(*args, **options)


_FACTORIES = (
    torch.ops.aten.empty.memory_format,
    torch.ops.aten.zeros.default,
    torch.ops.aten.ones.default,
    torch.ops.aten.full.default,
    torch.ops.aten.rand.default,
    torch.ops.aten.randn.default,
)
