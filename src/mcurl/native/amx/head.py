"""The contrastive head for Atari and its gradients with AMX (``head.c``).

The plain version is ``ContrastHead._layers``.
"""

from __future__ import annotations

import ctypes
from typing import Any

import torch
from torch import Tensor

from mcurl import native
from mcurl.native.amx.binding import BLOCK, EPS, addresses, layer, workspace

Parameters = tuple[Tensor, Tensor, Tensor, Tensor]
"""``float32``: weight ``[hidden, in]`` and bias ``[hidden]`` of the first layer, then weight ``[out, hidden]`` and bias
``[out]`` of the second."""


class _Shape(ctypes.Structure):
    _fields_ = [(name, ctypes.c_int64) for name in ("rows", "inputs", "hidden", "outputs", "planes", "threads")] + [
        ("eps", ctypes.c_float)
    ]


def available() -> bool:
    """Whether the operation is enabled and built, and this process may use AMX."""
    return _functions() is not None


def supports(features: Tensor, parameters: Parameters) -> bool:
    """Whether the operation is available and supports the arguments.

    They have to be ``float32`` on the CPU, with widths in multiples of :data:`BLOCK`.
    """
    widths = (*parameters[0].shape, len(parameters[2]))
    plain = all(tensor.dtype == torch.float32 and tensor.device.type == "cpu" for tensor in (features, *parameters))
    return plain and len(features) > 0 and not any(width % BLOCK for width in widths) and available()


def apply(features: Tensor, parameters: Parameters) -> Tensor:
    """The output of :func:`forward`, differentiable.

    Raises:
        RuntimeError: the arguments are not supported.
    """
    return _AmxHead.apply(torch.is_grad_enabled(), features, *parameters)  # type: ignore[no-untyped-call, no-any-return]


class _AmxHead(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, differentiable: bool, features: Tensor, *parameters: Tensor) -> Tensor:
        out, saved = forward(features, parameters, save=differentiable)  # type: ignore[arg-type]
        if saved is not None:
            ctx.save_for_backward(saved, *parameters)
        return out

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        saved, *parameters = ctx.saved_tensors
        feature_gradient, parameter_gradients = backward(gradients[0], saved, tuple(parameters))
        return None, feature_gradient, *parameter_gradients


def forward(features: Tensor, parameters: Parameters, *, save: bool) -> tuple[Tensor, Tensor | None]:
    """Linear, LayerNorm, ReLU, Linear, LayerNorm, in PyTorch's threads; the norms have no parameters.

    Each matrix is split into a sum of two bfloat16 matrices, so that the relative error of a product is a few 1e-6.

    Args:
        features: ``float32 [N, in]``.
        parameters: see :data:`Parameters`.
        save: also return the buffer that :func:`backward` needs.

    Returns:
        ``float32 [N, out]``, and the buffer for :func:`backward`, or None.

    Raises:
        RuntimeError: the arguments are not supported.
    """
    functions = _checked(features, parameters)
    features, shape = features.contiguous(), _shape(len(features), parameters)
    full = shape.rows % BLOCK == 0
    out = torch.empty((len(features), len(parameters[2])))
    saved = workspace(functions.saved_size(ctypes.byref(shape)), full=full) if save else None
    scratch = workspace(functions.forward_workspace(ctypes.byref(shape)), full=full)
    functions.forward(
        ctypes.byref(shape),
        features.data_ptr(),
        addresses(parameters),
        None if saved is None else saved.data_ptr(),
        scratch.data_ptr(),
        out.data_ptr(),
    )
    native.record_use("amx.head")
    return out, saved


def backward(gradient: Tensor, saved: Tensor, parameters: Parameters) -> tuple[Tensor, list[Tensor]]:
    """The gradients of features and parameters.

    Args:
        gradient: of the output, ``float32 [N, out]``.
        saved: buffer from :func:`forward`.
        parameters: argument of :func:`forward`.

    Returns:
        ``float32 [N, in]``, and one gradient per parameter.

    Raises:
        RuntimeError: the arguments are not supported.
    """
    functions = _checked(gradient, parameters)
    gradient, shape = gradient.contiguous(), _shape(len(gradient), parameters)
    feature_gradient = torch.empty((len(gradient), parameters[0].shape[1]))
    parameter_gradients = [torch.empty(parameter.shape) for parameter in parameters]
    scratch = workspace(functions.backward_workspace(ctypes.byref(shape)), full=shape.rows % BLOCK == 0)
    functions.backward(
        ctypes.byref(shape),
        gradient.data_ptr(),
        addresses(parameters),
        saved.data_ptr(),
        scratch.data_ptr(),
        feature_gradient.data_ptr(),
        addresses(parameter_gradients),
    )
    return feature_gradient, parameter_gradients


def _shape(rows: int, parameters: Parameters) -> _Shape:
    hidden, inputs = parameters[0].shape
    return _Shape(rows, inputs, hidden, len(parameters[2]), 2, torch.get_num_threads(), EPS)


def _checked(features: Tensor, parameters: Parameters) -> ctypes.CDLL:
    functions = _functions()
    if functions is None or not supports(features, parameters):
        raise RuntimeError(
            f"the compiled head does not support {features.dtype} features of shape {tuple(features.shape)} here"
        )
    return functions


def _functions() -> ctypes.CDLL | None:
    return layer("amx.head", ("saved_size", "forward_workspace", "backward_workspace"), forward=5, backward=6)
