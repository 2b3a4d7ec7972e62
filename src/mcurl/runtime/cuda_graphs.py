"""An agent's step as CUDA graphs: the kernels of one update recorded once and replayed, so that the host launches one
thing instead of a thousand."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

from mcurl.replay.batch import Batch

WARM_UP = 3
"""Eager runs of a variant before it is recorded: libraries choose their kernels, optimizers make their state. They are
real updates."""


class CudaGraphStep:
    """A step function over batches of fixed shapes, replayed as one CUDA graph for each variant of its keywords and
    shapes.

    The function must stay on the device (no synchronisation, no branch on a tensor's value) and read nothing but its
    batch and memory that stays where it is. What it returns is overwritten by the next call.
    """

    def __init__(self, step: Callable[..., Any]) -> None:
        self._step = step
        self._side = torch.cuda.Stream()
        self._variants: dict[Any, _Variant] = {}

    def __call__(self, batch: Batch, **keywords: bool) -> Any:
        tensors = list(_tensors(batch))
        key = (*sorted(keywords.items()), *(t.shape for t in tensors))
        if key not in self._variants:
            self._variants[key] = _Variant(self._step, keywords, self._side)
        return self._variants[key](batch, tensors)


class _Variant:
    def __init__(self, step: Callable[..., Any], keywords: dict[str, bool], side: torch.cuda.Stream) -> None:
        self._step, self._keywords, self._side, self._runs = step, keywords, side, 0
        self._graph: torch.cuda.CUDAGraph | None = None

    def __call__(self, batch: Batch, tensors: list[Tensor]) -> Any:
        if self._graph is None:
            if self._runs < WARM_UP:
                self._runs += 1
                return self._aside(batch)
            self._record(batch, tensors)
        assert self._graph is not None
        torch._foreach_copy_(self._inputs, tensors)
        self._graph.replay()
        return self._outputs

    def _aside(self, batch: Batch) -> Any:
        """Run on the stream that recording will use: memory and workspaces are kept for each stream."""
        self._side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(self._side):
            result = self._step(batch, **self._keywords)
        torch.cuda.current_stream().wait_stream(self._side)
        return result

    def _record(self, batch: Batch, tensors: list[Tensor]) -> None:
        static = _rebuilt(batch, iter([t.clone() for t in tensors]))
        self._inputs = list(_tensors(static))
        torch.cuda.synchronize()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, stream=self._side):
            self._outputs = self._step(static, **self._keywords)
        self._graph = graph


def _tensors(value: Any) -> Iterator[Tensor]:
    """Every tensor on a GPU within nested dataclasses, tuples, lists and dicts, in order; the rows of a batch stay on
    the host and are left out."""
    if isinstance(value, Tensor):
        if _on_gpu(value):
            yield value
        return
    for part in _parts(value).values():
        yield from _tensors(part)


def _rebuilt(value: Any, tensors: Iterator[Tensor]) -> Any:
    """The same structure with other tensors in the places of :func:`_tensors`."""
    if isinstance(value, Tensor):
        return next(tensors) if _on_gpu(value) else value
    parts = {name: _rebuilt(part, tensors) for name, part in _parts(value).items()}
    if isinstance(value, dict):
        return parts
    if isinstance(value, tuple | list):
        return type(value)(*parts.values()) if hasattr(value, "_fields") else type(value)(parts.values())
    return dataclasses.replace(value, **parts) if parts else value


def _parts(value: Any) -> dict[Any, Any]:
    """What a container holds, by name or place; nothing for anything else."""
    if isinstance(value, dict):
        return value
    if isinstance(value, tuple | list):
        return dict(enumerate(value))
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
    return {}


def _on_gpu(tensor: Tensor) -> bool:
    return tensor.is_cuda
