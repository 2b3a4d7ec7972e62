"""The contrastive head on Atari's encoder and all its gradients on the processor's matrix units (AMX), in C."""

from __future__ import annotations

import ctypes

import torch
from torch import Tensor

from mcurl.native import EPS, RUN, addresses, layer, room

Parameters = tuple[Tensor, Tensor, Tensor, Tensor]
"""``float32``: weight ``[hidden, in]`` and bias ``[hidden]`` of the first layer, weight ``[out, hidden]`` and bias
``[out]`` of the second."""


class _Shape(ctypes.Structure):
    _fields_ = [(name, ctypes.c_int64) for name in ("rows", "inputs", "hidden", "outputs", "planes", "threads")] + [
        ("eps", ctypes.c_float)
    ]


def available() -> bool:
    """Whether there is a compiler, and a processor with AMX that this process may use."""
    return _functions() is not None


def takes(features: Tensor, parameters: Parameters) -> bool:
    """Whether :func:`forward` can take these: widths in multiples of :data:`RUN`."""
    widths = (*parameters[0].shape, len(parameters[2]))
    plain = all(tensor.dtype == torch.float32 and tensor.device.type == "cpu" for tensor in (features, *parameters))
    return plain and len(features) > 0 and not any(width % RUN for width in widths) and available()


def forward(features: Tensor, parameters: Parameters, *, keep: bool) -> tuple[Tensor, Tensor | None]:
    """Linear, LayerNorm, ReLU, Linear, LayerNorm, the norms without parameters, in torch's own threads.

    The matrices are multiplied as sums of two that are rounded to bfloat16, so that a product is as close to exact as
    some parts in a million.

    Args:
        features: ``float32 [N, in]``.
        parameters: see :data:`Parameters`.
        keep: give what :func:`backward` needs, too.

    Returns:
        ``float32 [N, out]``, and what :func:`backward` needs, or None.

    Raises:
        RuntimeError: it :func:`takes` no such features.
    """
    functions = _checked(features, parameters)
    features, shape = features.contiguous(), _shape(len(features), parameters)
    out = torch.empty((len(features), len(parameters[2])))
    kept = room(functions.kept_room(ctypes.byref(shape)), whole=shape.rows % RUN == 0) if keep else None
    work = room(functions.forward_room(ctypes.byref(shape)), whole=shape.rows % RUN == 0)
    functions.forward(
        ctypes.byref(shape),
        features.data_ptr(),
        addresses(parameters),
        None if kept is None else kept.data_ptr(),
        work.data_ptr(),
        out.data_ptr(),
    )
    return out, kept


def backward(gradient: Tensor, kept: Tensor, parameters: Parameters) -> tuple[Tensor, list[Tensor]]:
    """The gradients of the features and of the parameters from that of what :func:`forward` gave, ``float32 [N,
    out]``."""
    functions = _checked(gradient, parameters)
    gradient, shape = gradient.contiguous(), _shape(len(gradient), parameters)
    of_features, made = (
        torch.empty((len(gradient), parameters[0].shape[1])),
        [torch.empty(parameter.shape) for parameter in parameters],
    )
    work = room(functions.backward_room(ctypes.byref(shape)), whole=shape.rows % RUN == 0)
    functions.backward(
        ctypes.byref(shape),
        gradient.data_ptr(),
        addresses(parameters),
        kept.data_ptr(),
        work.data_ptr(),
        of_features.data_ptr(),
        addresses(made),
    )
    return of_features, made


def _shape(rows: int, parameters: Parameters) -> _Shape:
    hidden, inputs = parameters[0].shape
    return _Shape(rows, inputs, hidden, len(parameters[2]), 2, torch.get_num_threads(), EPS)


def _checked(features: Tensor, parameters: Parameters) -> ctypes.CDLL:
    functions = _functions()
    if functions is None or not takes(features, parameters):
        raise RuntimeError(
            f"the compiled head takes no {features.dtype} features of shape {tuple(features.shape)} here"
        )
    return functions


def _functions() -> ctypes.CDLL | None:
    return layer("head", ("kept_room", "forward_room", "backward_room"), forward=5, backward=6)
