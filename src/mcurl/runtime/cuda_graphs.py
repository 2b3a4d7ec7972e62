"""An agent's updates as CUDA graphs.

The kernels of one update are captured once and replayed, so that the host launches one graph instead of about a
thousand kernels.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

from mcurl.replay.batch import Batch

WARM_UP = 3
"""Eager runs of a variant before its capture. In these runs libraries choose their kernels, and optimizers create their
state. The runs are regular updates."""


def use_cuda_graphs(agent: Any) -> None:
    """Let an :class:`~mcurl.agents.base.Agent` replay its ``graph_method``, if it has one, as CUDA graphs."""
    if name := agent.graph_method:
        setattr(agent, name, CudaGraphStep(getattr(agent, name)))


class CudaGraphStep:
    """A step function that is replayed as a CUDA graph, one graph for each combination of keywords and batch shapes.

    Args:
        step: ``step(batch, **booleans)``. It must run on the device without synchronisation or branches on the value of
            a tensor. It may read the batch, and tensors whose addresses do not change. The next call overwrites the
            tensors that it returns.
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
    """The graph of one combination of keywords and shapes."""

    def __init__(self, step: Callable[..., Any], keywords: dict[str, bool], side: torch.cuda.Stream) -> None:
        self._step, self._keywords, self._side, self._runs = step, keywords, side, 0
        self._graph: torch.cuda.CUDAGraph | None = None

    def __call__(self, batch: Batch, tensors: list[Tensor]) -> Any:
        if self._graph is None:
            if self._runs < WARM_UP:
                self._runs += 1
                return self._run_eagerly(batch)
            self._capture(batch, tensors)
        assert self._graph is not None
        torch._foreach_copy_(self._inputs, tensors)
        self._graph.replay()
        return self._outputs

    def _run_eagerly(self, batch: Batch) -> Any:
        """Run on the stream of the later capture, because memory and workspaces belong to a stream."""
        self._side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(self._side):
            result = self._step(batch, **self._keywords)
        torch.cuda.current_stream().wait_stream(self._side)
        return result

    def _capture(self, batch: Batch, tensors: list[Tensor]) -> None:
        static = _replace_tensors(batch, iter([t.clone() for t in tensors]))
        self._inputs = list(_tensors(static))
        torch.cuda.synchronize()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, stream=self._side):
            self._outputs = self._step(static, **self._keywords)
        self._graph = graph


def _tensors(value: Any) -> Iterator[Tensor]:
    """The GPU tensors in nested dataclasses, tuples, lists and dicts, in order. Tensors on the host are skipped."""
    if isinstance(value, Tensor):
        if _on_gpu(value):
            yield value
        return
    for part in _children(value).values():
        yield from _tensors(part)


def _replace_tensors(value: Any, tensors: Iterator[Tensor]) -> Any:
    """A copy of the structure with other tensors in place of those of :func:`_tensors`."""
    if isinstance(value, Tensor):
        return next(tensors) if _on_gpu(value) else value
    parts = {name: _replace_tensors(part, tensors) for name, part in _children(value).items()}
    if isinstance(value, dict):
        return parts
    if isinstance(value, tuple | list):
        return type(value)(*parts.values()) if hasattr(value, "_fields") else type(value)(parts.values())
    return dataclasses.replace(value, **parts) if parts else value


def _children(value: Any) -> dict[Any, Any]:
    """The items of a container by name or position; empty for other values."""
    if isinstance(value, dict):
        return value
    if isinstance(value, tuple | list):
        return dict(enumerate(value))
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
    return {}


def _on_gpu(tensor: Tensor) -> bool:
    return tensor.is_cuda
