"""The dueling head of noisy layers and all its gradients on the processor's matrix units (AMX): ``dueling.c``.

The plain twin is ``DuelingHead._layers``.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from mcurl import native
from mcurl.native.amx.binding import BLOCK, addresses, layer, workspace

PER_LAYER = 4
"""Parameters of a noisy layer: μ and σ of the weight ``[out, in]``, μ and σ of the bias ``[out]``, all ``float32``."""
CHUNK = 2 * BLOCK
"""Outputs of a layer that are computed together; the widths of hidden layers are multiples of it."""

Parameters = Sequence[Tensor]
""":data:`PER_LAYER` of the value stream's hidden and last layer, then of the advantage stream's."""


class _Shape(ctypes.Structure):
    _fields_ = [
        (name, ctypes.c_int64) for name in ("rows", "inputs", "hidden", "atoms", "actions", "planes", "threads")
    ]


def available() -> bool:
    """Whether the operation is enabled and built, and this process may use AMX."""
    return _functions() is not None


def supports(parameters: Parameters) -> bool:
    """Whether :func:`apply` and :func:`forward` take a head of these: ``float32`` on the CPU, hidden layers in
    multiples of :data:`CHUNK`, features in multiples of :data:`BLOCK`."""
    hidden, inputs = parameters[0].shape
    plain = all(tensor.dtype == torch.float32 and tensor.device.type == "cpu" for tensor in parameters)
    return plain and hidden % CHUNK == 0 and inputs % BLOCK == 0 and available()


def apply(features: Tensor, others: Tensor, noise: Tensor | None, parameters: Parameters) -> tuple[Tensor, Tensor]:
    """The logits of ``features`` [N, in], differentiable, and of ``others`` [M, in] without a gradient, under one draw
    of noise and in one pass: ``float32 [N, actions, atoms]`` and ``[M, actions, atoms]``.

    Raises:
        RuntimeError: it does not :func:`supports` such a head.
    """
    rows = torch.cat([features, others.detach()])
    logits, other_logits = _AmxDueling.apply(rows, len(features), noise, *parameters)  # type: ignore[no-untyped-call]
    return logits, other_logits


class _AmxDueling(torch.autograd.Function):
    """The gradient is that of the first ``learned`` rows."""

    @staticmethod
    def forward(
        ctx: Any, features: Tensor, learned: int, noise: Tensor | None, *parameters: Tensor
    ) -> tuple[Tensor, Tensor]:
        logits, hidden = forward(features, parameters, noise)
        ctx.learned, ctx.rows = learned, len(features)
        ctx.save_for_backward(hidden, features, noise, *parameters)
        learned_logits, other_logits = logits[:learned], logits[learned:]
        ctx.mark_non_differentiable(other_logits)
        return learned_logits, other_logits

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        hidden, features, noise, *parameters = ctx.saved_tensors
        learned = slice(ctx.learned)
        feature_gradient, parameter_gradients = backward(
            gradients[0], hidden[:, learned], features[learned], parameters, noise
        )
        return F.pad(feature_gradient, (0, 0, 0, ctx.rows - ctx.learned)), None, None, *parameter_gradients


def forward(features: Tensor, parameters: Parameters, noise: Tensor | None) -> tuple[Tensor, Tensor]:
    """Both streams and the logits that they add up to, in torch's own threads.

    A weight is μ + σ ⊙ ε_out ε_inᵀ. Each matrix is multiplied as the sum of two that are rounded to bfloat16, so that
    a product is exact up to some parts in a million.

    Args:
        features: ``float32 [N, in]``.
        parameters: see :data:`Parameters`.
        noise: ``float32``, ε_in and ε_out of each layer, one after the other; None: no noise.

    Returns:
        Logits ``float32 [N, actions, atoms]``, and the hidden layers, ``float32 [2, N, hidden]``, for
        :func:`backward`.

    Raises:
        RuntimeError: it does not :func:`supports` such a head.
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
    native.record("amx.dueling")
    return logits, hidden


def backward(
    gradient: Tensor, hidden: Tensor, features: Tensor, parameters: Parameters, noise: Tensor | None
) -> tuple[Tensor, list[Tensor | None]]:
    """The gradients of the features and of the parameters from that of the logits.

    Args:
        gradient: ``float32 [n, actions, atoms]``.
        hidden, features: of n of the rows of :func:`forward`: ``float32 [2, n, hidden]``, ``[n, in]``.
        parameters, noise: arguments of :func:`forward`.

    Returns:
        ``float32 [n, in]``, and one gradient for each parameter: None for every σ where there is no noise.

    Raises:
        RuntimeError: it does not :func:`supports` such a head.
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
