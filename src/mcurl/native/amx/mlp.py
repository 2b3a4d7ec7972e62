"""SAC's heads, linear layers with ReLU between them, and their gradients with AMX (``mlp.c``).

The plain version is the ``nn.Sequential`` of :func:`mcurl.networks.heads.mlp`.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from mcurl import native
from mcurl.native.binding import BLOCK, addresses, check_differentiated_once, kept_workspace, layer

PER_NET = 6
"""Parameters per net: weight ``[out, in]`` and bias ``[out]`` of three layers, all ``float32``."""

Parameters = Sequence[Tensor]
""":data:`PER_NET` for each net; all nets have the same widths."""


class _Shape(ctypes.Structure):
    _fields_ = [(name, ctypes.c_int64) for name in ("nets", "rows", "inputs", "hidden", "outputs", "threads")]


def available() -> bool:
    """Whether the operation is enabled and built, and serves on this processor."""
    return _functions() is not None


def supports(x: Tensor, parameters: Parameters) -> bool:
    """Whether the operation is available and supports the arguments.

    They have to be ``float32`` on the CPU, with hidden layers of one width, a multiple of :data:`BLOCK`.
    """
    tensors = [x, *parameters]
    plain = all(tensor.dtype == torch.float32 and tensor.device.type == "cpu" for tensor in tensors)
    return plain and x.numel() > 0 and _fit(x, parameters) and available()


def _fit(x: Tensor, parameters: Parameters) -> bool:
    inputs, hidden, outputs = x.shape[1], len(parameters[0]), len(parameters[4])
    shapes = [(hidden, inputs), (hidden,), (hidden, hidden), (hidden,), (outputs, hidden), (outputs,)]
    nets = len(parameters) // PER_NET
    return hidden % BLOCK == 0 and all(
        parameter.shape == shape and parameter.is_contiguous()
        for parameter, shape in zip(parameters, shapes * nets, strict=True)
    )


def apply(x: Tensor, parameters: Parameters) -> Tensor:
    """The output of :func:`forward`, differentiable.

    Raises:
        RuntimeError: the arguments are not supported.
    """
    differentiable = torch.is_grad_enabled() and any(tensor.requires_grad for tensor in (x, *parameters))
    return _AmxMlp.apply(differentiable, x, *parameters)  # type: ignore[no-untyped-call, no-any-return]


class _AmxMlp(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, differentiable: bool, x: Tensor, *parameters: Tensor) -> Tensor:
        out, hidden = forward(x, parameters, save=differentiable)
        if differentiable:
            ctx.save_for_backward(x, hidden, *parameters)
        return out

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        check_differentiated_once()
        x, hidden, *parameters = ctx.saved_tensors
        _, need_x, *need = ctx.needs_input_grad
        x_gradient, computed = backward(gradients[0], x, hidden, parameters, need_x=need_x, need_parameters=any(need))
        return None, x_gradient, *computed


def forward(x: Tensor, parameters: Parameters, *, save: bool) -> tuple[Tensor, Tensor | None]:
    """The outputs of all nets for the same inputs, in PyTorch's threads.

    Each matrix is split into a sum of two bfloat16 matrices, so that the relative error of a product is a few 1e-6.

    Args:
        x: ``float32 [N, in]``.
        parameters: see :data:`Parameters`.
        save: whether the hidden layers are kept for :func:`backward`.

    Returns:
        ``float32 [nets, N, out]``, and the buffer for :func:`backward`; None without ``save``.

    Raises:
        RuntimeError: the arguments are not supported.
    """
    functions = _checked(x, parameters)
    x, shape = x.contiguous(), _shape(x, parameters)
    out = torch.empty((shape.nets, shape.rows, shape.outputs))
    hidden = torch.empty(functions.saved_size(ctypes.byref(shape))) if save else None
    scratch = kept_workspace(functions.forward_workspace(ctypes.byref(shape)))
    functions.forward(
        ctypes.byref(shape),
        x.data_ptr(),
        addresses(parameters),
        None if hidden is None else hidden.data_ptr(),
        scratch.data_ptr(),
        out.data_ptr(),
    )
    native.record_use("amx.mlp")
    return out, hidden


def backward(
    gradient: Tensor,
    x: Tensor,
    hidden: Tensor,
    parameters: Parameters,
    *,
    need_x: bool = True,
    need_parameters: bool = True,
) -> tuple[Tensor | None, list[Tensor | None]]:
    """The gradients of inputs and parameters.

    Args:
        gradient: of the outputs, ``float32 [nets, N, out]``.
        x, parameters: arguments of :func:`forward`; hidden: its buffer.
        need_x, need_parameters: which gradients are computed; the others are None.

    Returns:
        ``float32 [N, in]``, and one gradient per parameter.

    Raises:
        RuntimeError: the arguments are not supported.
    """
    functions = _checked(x, parameters)
    gradient, x, shape = gradient.contiguous(), x.contiguous(), _shape(x, parameters)
    x_gradient = torch.empty(x.shape) if need_x else None
    gradients = [torch.empty(parameter.shape) if need_parameters else None for parameter in parameters]
    scratch = kept_workspace(functions.backward_workspace(ctypes.byref(shape)))
    functions.backward(
        ctypes.byref(shape),
        gradient.data_ptr(),
        x.data_ptr(),
        addresses(parameters),
        hidden.data_ptr(),
        scratch.data_ptr(),
        None if x_gradient is None else x_gradient.data_ptr(),
        addresses(gradients) if need_parameters else None,
    )
    return x_gradient, gradients


def _shape(x: Tensor, parameters: Parameters) -> _Shape:
    nets, outputs = len(parameters) // PER_NET, len(parameters[4])
    return _Shape(nets, *x.shape, len(parameters[0]), outputs, torch.get_num_threads())


def _checked(x: Tensor, parameters: Parameters) -> ctypes.CDLL:
    functions = _functions()
    if functions is None or not supports(x, parameters):
        raise RuntimeError(
            f"the compiled head does not support {x.dtype} inputs of shape {tuple(x.shape)} here, with layers of "
            f"{[tuple(weight.shape) for weight in parameters[:PER_NET:2]]}"
        )
    return functions


def _functions() -> ctypes.CDLL | None:
    return layer("amx.mlp", ("saved_size", "forward_workspace", "backward_workspace"), forward=5, backward=7)
