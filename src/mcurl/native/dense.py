"""Linear layers on a few rows in C, for acting. The plain version is the module that the layers come from."""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Sequence
from functools import cache
from typing import NamedTuple

import torch
from torch import Tensor

from mcurl import native

MAX_ROWS = 16
"""Largest number of rows. With more of them, a library's product is faster."""
EPS = 1e-5
"""ε of LayerNorm, PyTorch's default."""


class Layer(NamedTuple):
    """A linear layer, all ``float32`` and contiguous."""

    weight: Tensor
    """``[out, in]``."""
    bias: Tensor
    """``[out]``."""
    relu: bool = False
    """Whether ReLU follows."""
    norm: tuple[Tensor, Tensor] | None = None
    """Scale and shift of a LayerNorm that follows, ``[out]`` each."""


class _Layer(ctypes.Structure):
    _fields_ = [
        *((name, ctypes.c_void_p) for name in ("weight", "bias", "scale", "shift")),
        *((name, ctypes.c_int64) for name in ("inputs", "outputs", "relu")),
    ]


def available() -> bool:
    """Whether the operation is enabled and built."""
    return _functions() is not None


def supports(rows: int, layers: Sequence[Layer]) -> bool:
    """Whether :func:`bind` is available and supports these: few rows, and contiguous ``float32`` weights on the CPU."""
    return (
        0 < rows <= MAX_ROWS
        and all(tensor.device.type == "cpu" for layer in layers for tensor in (layer.weight, layer.bias))
        and all(layer.weight.dtype == torch.float32 and layer.weight.is_contiguous() for layer in layers)
        and available()
    )


def bind(rows: int, layers: Sequence[Layer]) -> Callable[[Tensor], Tensor]:
    """Linear layers one after the other, in PyTorch's threads, as a function of their input.

    The parameters may change between calls, but must stay at their addresses. A row's result depends neither on the
    other rows nor on the number of threads.

    Args:
        rows: N.
        layers: at least one.

    Returns:
        A function of ``float32`` or ``bfloat16 [N, in]``: ``float32 [N, out]``, without a gradient.

    Raises:
        RuntimeError: the arguments are not supported, see :func:`supports`.
    """
    functions = _functions()
    if functions is None or not supports(rows, layers):
        raise RuntimeError(f"the compiled linear layers do not support {rows} rows here")
    structures = (_Layer * len(layers))(*map(_as_c, layers))
    outputs, size = len(layers[-1].bias), rows * max(len(layer.bias) for layer in layers)
    inputs = layers[0].weight.shape[1]

    def apply(x: Tensor) -> Tensor:
        assert x.shape == (rows, inputs)
        x = x.float().contiguous()
        hidden, out = torch.empty(2 * size), torch.empty((rows, outputs))
        functions.forward(structures, len(layers), x.data_ptr(), rows, EPS, hidden.data_ptr(), size, out.data_ptr())
        native.record_use("dense")
        return out

    return apply


def _as_c(layer: Layer) -> _Layer:
    scale, shift = (tensor.data_ptr() for tensor in layer.norm) if layer.norm else (None, None)
    outputs, inputs = layer.weight.shape
    return _Layer(layer.weight.data_ptr(), layer.bias.data_ptr(), scale, shift, inputs, outputs, layer.relu)


def _functions() -> ctypes.CDLL | None:
    functions = native.library("dense")
    return functions and _typed(functions)


@cache
def _typed(functions: ctypes.CDLL) -> ctypes.CDLL:
    pointer, number = ctypes.c_void_p, ctypes.c_int64
    functions.forward.argtypes = [
        pointer, number, pointer, number, ctypes.c_float, pointer, number, pointer,
    ]  # fmt: skip
    functions.forward.restype = None
    return functions
