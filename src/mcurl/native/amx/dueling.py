"""The noisy dueling head and its gradients with AMX (``dueling.c``). The plain version is ``DuelingHead._layers``."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from mcurl import native
from mcurl.native.binding import BLOCK, addresses, check_differentiated_once, layer, workspace

PER_LAYER = 4
"""Parameters per noisy layer: μ and σ of the weight ``[out, in]``, μ and σ of the bias ``[out]``, all ``float32``."""
CHUNK = 2 * BLOCK
"""Outputs of a layer that are computed together; the width of the hidden layers is a multiple of it."""

Parameters = Sequence[Tensor]
""":data:`PER_LAYER` for each layer: value hidden, value, advantage hidden, advantage."""


class _Shape(ctypes.Structure):
    _fields_ = [
        (name, ctypes.c_int64) for name in ("rows", "inputs", "hidden", "atoms", "actions", "planes", "threads")
    ]


def available() -> bool:
    """Whether the operation is enabled and built, and serves on this processor."""
    return _functions() is not None


def supports(parameters: Parameters) -> bool:
    """Whether the operation is available and supports the parameters.

    They have to be ``float32`` on the CPU, with a hidden width in multiples of :data:`CHUNK`, and features in multiples
    of :data:`BLOCK`.
    """
    hidden, inputs = parameters[0].shape
    plain = all(tensor.dtype == torch.float32 and tensor.device.type == "cpu" for tensor in parameters)
    return plain and hidden % CHUNK == 0 and inputs % BLOCK == 0 and available()


def apply(
    features: Tensor, next_features: Tensor, noise: Tensor | None, parameters: Parameters
) -> tuple[Tensor, Tensor]:
    """Logits of two batches with the same noise, in one pass; the first is differentiable.

    Args:
        features: ``float32 [N, in]``.
        next_features: ``float32 [M, in]``; no gradient flows through them.
        noise, parameters: as for :func:`forward`.

    Returns:
        Logits ``float32 [N, actions, atoms]`` and ``[M, actions, atoms]``.

    Raises:
        RuntimeError: the head is not supported.
    """
    rows = torch.cat([features, next_features.detach()])
    logits, next_logits = _AmxDueling.apply(rows, len(features), noise, *parameters)  # type: ignore[no-untyped-call]
    return logits, next_logits


class _AmxDueling(torch.autograd.Function):
    """The first ``n`` rows are differentiable."""

    @staticmethod
    def forward(ctx: Any, features: Tensor, n: int, noise: Tensor | None, *parameters: Tensor) -> tuple[Tensor, Tensor]:
        logits, hidden = forward(features, parameters, noise)
        ctx.n, ctx.rows = n, len(features)
        ctx.save_for_backward(hidden, features, noise, *parameters)
        first_logits, next_logits = logits[:n], logits[n:]
        ctx.mark_non_differentiable(next_logits)
        return first_logits, next_logits

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        check_differentiated_once()
        hidden, features, noise, *parameters = ctx.saved_tensors
        n = ctx.n
        feature_gradient, parameter_gradients = backward(gradients[0], hidden[:, :n], features[:n], parameters, noise)
        return F.pad(feature_gradient, (0, 0, 0, ctx.rows - n)), None, None, *parameter_gradients


def forward(features: Tensor, parameters: Parameters, noise: Tensor | None) -> tuple[Tensor, Tensor]:
    """The logits of a batch, in PyTorch's threads.

    A weight is μ + σ ⊙ ε_out ε_inᵀ. Each matrix is split into a sum of two bfloat16 matrices, so that the relative
    error of a product is a few 1e-6.

    Args:
        features: ``float32 [N, in]``.
        parameters: see :data:`Parameters`.
        noise: ``float32``, ε_in and ε_out of each layer, concatenated; None: no noise.

    Returns:
        Logits ``float32 [N, actions, atoms]``, and the hidden layers of both streams for :func:`backward`,
        ``float32 [2, N, hidden]``.

    Raises:
        RuntimeError: the head is not supported.
    """
    functions = _checked(parameters)
    features, shape = features.contiguous(), _shape(features, parameters)
    logits = torch.empty((len(features), shape.actions, shape.atoms))
    hidden = torch.empty((2, len(features), shape.hidden))
    scratch = workspace(functions.forward_workspace(ctypes.byref(shape)), full=shape.rows % BLOCK == 0)
    functions.forward(
        ctypes.byref(shape),
        features.data_ptr(),
        addresses(parameters),
        _address(noise),
        hidden.data_ptr(),
        scratch.data_ptr(),
        logits.data_ptr(),
    )
    native.record_use("amx.dueling")
    return logits, hidden


def backward(
    gradient: Tensor, hidden: Tensor, features: Tensor, parameters: Parameters, noise: Tensor | None
) -> tuple[Tensor, list[Tensor | None]]:
    """The gradients of features and parameters.

    Args:
        gradient: of the logits, ``float32 [n, actions, atoms]``.
        hidden, features: rows of the arrays of :func:`forward`: ``float32 [2, n, hidden]`` and ``[n, in]``.
        parameters, noise: arguments of :func:`forward`.

    Returns:
        ``float32 [n, in]``, and one gradient per parameter; without noise, None for each σ.

    Raises:
        RuntimeError: the head is not supported.
    """
    functions = _checked(parameters)
    gradient, hidden, features = gradient.contiguous(), hidden.contiguous(), features.contiguous()
    shape = _shape(features, parameters)
    feature_gradient = torch.empty(features.shape)
    parameter_gradients = [
        torch.empty(parameter.shape) if noise is not None or number % 2 == 0 else None
        for number, parameter in enumerate(parameters)
    ]
    scratch = workspace(functions.backward_workspace(ctypes.byref(shape)), full=shape.rows % BLOCK == 0)
    functions.backward(
        ctypes.byref(shape),
        gradient.data_ptr(),
        features.data_ptr(),
        addresses(parameters),
        _address(noise),
        hidden.data_ptr(),
        scratch.data_ptr(),
        feature_gradient.data_ptr(),
        addresses(parameter_gradients),
    )
    return feature_gradient, parameter_gradients


def _shape(features: Tensor, parameters: Parameters) -> _Shape:
    hidden, inputs = parameters[0].shape
    atoms, advantages = len(parameters[PER_LAYER]), len(parameters[3 * PER_LAYER])
    return _Shape(len(features), inputs, hidden, atoms, advantages // atoms, 2, torch.get_num_threads())


def _address(noise: Tensor | None) -> int | None:
    assert noise is None or noise.is_contiguous()
    return None if noise is None else noise.data_ptr()


def _checked(parameters: Parameters) -> ctypes.CDLL:
    functions = _functions()
    if functions is None or not supports(parameters):
        raise RuntimeError(f"the compiled dueling head does not support layers of {tuple(parameters[0].shape)} here")
    return functions


def _functions() -> ctypes.CDLL | None:
    return layer("amx.dueling", ("forward_workspace", "backward_workspace"), forward=6, backward=8)
