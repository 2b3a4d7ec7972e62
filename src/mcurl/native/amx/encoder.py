"""The Atari encoder and the gradients of its parameters with AMX (``encoder.c``).

The plain version is ``DataEfficientEncoder._layers``.
"""

from __future__ import annotations

import ctypes
from functools import cache
from typing import Any

import torch
from torch import Tensor

from mcurl import native
from mcurl.native.binding import check_differentiated_once

CHANNELS = (32, 64)
"""Output channels of the two convolutions; others are not supported."""
MAX_INPUTS = 512
"""Largest number of bytes in a patch."""

Parameters = tuple[Tensor, Tensor, Tensor, Tensor]
"""``float32``: weight ``[32, C, 5, 5]`` and bias ``[32]`` of the first convolution, weight ``[64, 32, 5, 5]`` and bias
``[64]`` of the second."""


def available() -> bool:
    """Whether the operation is enabled and built, and serves on this processor."""
    return _functions() is not None


def supports(patches: Tensor, parameters: Parameters) -> bool:
    """Whether the operation is available and supports the arguments of :func:`apply`."""
    inputs, (one, two) = patches.shape[2], CHANNELS
    sizes = [one * inputs, one, two * one * 25, two]
    return (
        inputs <= MAX_INPUTS
        and inputs % 25 == 0
        and parameters[2].shape == (two, one, 5, 5)
        and [parameter.numel() for parameter in parameters] == sizes
        and patches.device.type == "cpu"
        and patches.dtype == torch.uint8
        and all(parameter.dtype == torch.float32 and parameter.device.type == "cpu" for parameter in parameters)
        and available()
    )


def apply(patches: Tensor, parameters: Parameters) -> Tensor:
    """The features of :func:`forward`, differentiable with respect to the parameters.

    Raises:
        RuntimeError: the arguments are not supported.
    """
    return _AmxEncoder.apply(torch.is_grad_enabled(), patches, *parameters)  # type: ignore[no-untyped-call, no-any-return]


class _AmxEncoder(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, differentiable: bool, patches: Tensor, *parameters: Tensor) -> Tensor:
        features, hidden = forward(patches, parameters, save=differentiable)  # type: ignore[arg-type]
        if hidden is not None:
            ctx.save_for_backward(patches, *parameters, hidden, features)
        return features

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        check_differentiated_once()
        patches, *parameters, hidden, features = ctx.saved_tensors
        return None, None, *backward(patches, tuple(parameters), hidden, features, gradients[0])


def forward(patches: Tensor, parameters: Parameters, *, save: bool) -> tuple[Tensor, Tensor | None]:
    """Both convolutions with ReLU, in PyTorch's threads.

    The first convolution multiplies bytes by 15-bit integer weights, and rounds the sums to bfloat16. The second one
    multiplies in bfloat16.

    Args:
        patches: ``uint8 [N, Y·X·25, C·25]``, see :func:`mcurl.native.frames.cut`.
        parameters: see :data:`Parameters`.
        save: also return the output of the first convolution, which :func:`backward` needs.

    Returns:
        Features ``float32 [N, 64·Y·X]``, flattened from ``[64, Y, X]``, and the first convolution's output
        ``bfloat16 [N·Y·X + 16, 800]``, or None.

    Raises:
        RuntimeError: the arguments are not supported.
    """
    functions = _checked(patches, parameters)
    patches, (weight1, bias1, weight2, bias2) = patches.contiguous(), _ordered(parameters)
    n, cells, inputs = len(patches), patches.shape[1] // 25, patches.shape[2]
    features = torch.empty((n, CHANNELS[1] * cells))
    # 16 additional rows, because the matrix units read whole tiles.
    hidden = torch.empty((n * cells + 16, CHANNELS[0] * 25), dtype=torch.bfloat16) if save else None
    workspace = _workspace(functions.forward_workspace(cells))
    functions.forward(
        patches.data_ptr(),
        n,
        cells,
        inputs,
        *(tensor.data_ptr() for tensor in (weight1, bias1, weight2, bias2)),
        hidden.data_ptr() if hidden is not None else None,
        features.data_ptr(),
        workspace.data_ptr(),
        len(workspace),
    )
    native.record_use("amx.encoder")
    return features, hidden


def backward(patches: Tensor, parameters: Parameters, hidden: Tensor, features: Tensor, gradient: Tensor) -> Parameters:
    """The gradients of the parameters from that of the features, each in the memory layout that :func:`forward` reads.

    Args:
        patches, parameters: arguments of :func:`forward`; hidden, features: its results.
        gradient: ``float32 [N, 64·Y·X]``, rounded to bfloat16.

    Raises:
        RuntimeError: it does not :func:`supports` such patches.
    """
    functions = _checked(patches, parameters)
    patches, weight2, gradient = patches.contiguous(), _ordered(parameters)[2], gradient.contiguous()
    n, cells, inputs = len(patches), patches.shape[1] // 25, patches.shape[2]
    parameter_gradients = tuple(torch.zeros_like(parameter) for parameter in _ordered(parameters))
    sums = torch.empty(functions.backward_sums(n, inputs))
    workspace = _workspace(functions.backward_workspace(cells))
    functions.backward(
        *(tensor.data_ptr() for tensor in (patches, hidden, features, gradient)),
        n,
        cells,
        inputs,
        weight2.data_ptr(),
        *(tensor.data_ptr() for tensor in parameter_gradients),
        sums.data_ptr(),
        workspace.data_ptr(),
        len(workspace),
    )
    return parameter_gradients  # type: ignore[return-value]


def _ordered(parameters: Parameters) -> Parameters:
    """The parameters in the memory layouts that the C functions read."""
    weight1, bias1, weight2, bias2 = parameters
    return weight1.contiguous(), bias1, weight2.contiguous(memory_format=torch.channels_last), bias2


def _workspace(bytes_per_thread: int) -> Tensor:
    return torch.empty((torch.get_num_threads(), bytes_per_thread), dtype=torch.uint8)


def _checked(patches: Tensor, parameters: Parameters) -> ctypes.CDLL:
    functions = _functions()
    if functions is None or not supports(patches, parameters):
        raise RuntimeError(
            f"the compiled encoder does not support {patches.dtype} patches of {patches.shape[2]} inputs here, "
            f"with weights of {tuple(parameters[0].shape)}"
        )
    return functions


def _functions() -> ctypes.CDLL | None:
    functions = native.library("amx.encoder")
    return _typed(functions) if functions and native.gains("amx.encoder") else None


@cache
def _typed(functions: ctypes.CDLL) -> ctypes.CDLL | None:
    if not functions.supported():
        return None
    pointer, number = ctypes.c_void_p, ctypes.c_int64
    functions.forward.argtypes = [pointer, number, number, number, *[pointer] * 7, number]
    functions.backward.argtypes = [pointer, pointer, pointer, pointer, number, number, number, *[pointer] * 7, number]
    functions.forward.restype = functions.backward.restype = ctypes.c_int
    functions.forward_workspace.argtypes = functions.backward_workspace.argtypes = [number]
    functions.backward_sums.argtypes = [number, number]
    for function in (functions.forward_workspace, functions.backward_workspace, functions.backward_sums):
        function.restype = number
    return functions
