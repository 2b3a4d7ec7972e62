"""The dueling head of noisy layers and all its gradients on the processor's matrix units (AMX), in C."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence

import torch
from torch import Tensor

from mcurl.native import RUN, addresses, layer, room

OF_LAYER = 4
"""Parameters of a noisy layer: μ and σ of the weight ``[out, in]``, μ and σ of the bias ``[out]``, all ``float32``."""
PART = 2 * RUN
"""Outputs of a layer that are worked on together; hidden layers are of multiples of it."""

Parameters = Sequence[Tensor]
""":data:`OF_LAYER` of the value stream's hidden and last layer, then of the advantage stream's."""


class _Shape(ctypes.Structure):
    _fields_ = [
        (name, ctypes.c_int64) for name in ("rows", "inputs", "hidden", "atoms", "actions", "planes", "threads")
    ]


def available() -> bool:
    """Whether there is a compiler, and a processor with AMX that this process may use."""
    return _functions() is not None


def takes(parameters: Parameters) -> bool:
    """Whether :func:`forward` can take a head of these."""
    hidden, inputs = parameters[0].shape
    plain = all(tensor.dtype == torch.float32 and tensor.device.type == "cpu" for tensor in parameters)
    return plain and hidden % PART == 0 and inputs % RUN == 0 and available()


def forward(features: Tensor, parameters: Parameters, noise: Tensor | None) -> tuple[Tensor, Tensor]:
    """Both streams and what they make together, in torch's own threads.

    A weight is μ + σ ⊙ ε_out ε_inᵀ. Matrices are multiplied as sums of two that are rounded to bfloat16, so that a
    product is as close to exact as some parts in a million.

    Args:
        features: ``float32 [N, in]``.
        parameters: see :data:`Parameters`.
        noise: ``float32``, ε_in and ε_out of each layer, one after the other; None: none.

    Returns:
        Logits ``float32 [N, actions, atoms]``, and what :func:`backward` needs: the hidden layers, ``float32 [2, N,
        hidden]``.

    Raises:
        RuntimeError: it :func:`takes` no such head.
    """
    functions = _checked(parameters)
    features, shape = features.contiguous(), _shape(features, parameters)
    logits = torch.empty((len(features), shape.actions, shape.atoms))
    kept, work = (
        torch.empty((2, len(features), shape.hidden)),
        room(functions.forward_room(ctypes.byref(shape)), whole=shape.rows % RUN == 0),
    )
    functions.forward(
        ctypes.byref(shape),
        features.data_ptr(),
        addresses(parameters),
        _address(noise),
        kept.data_ptr(),
        work.data_ptr(),
        logits.data_ptr(),
    )
    return logits, kept


def backward(
    gradient: Tensor, kept: Tensor, features: Tensor, parameters: Parameters, noise: Tensor | None
) -> tuple[Tensor, list[Tensor | None]]:
    """The gradients of the features and of the parameters (None for every σ where there is no noise) from that of the
    logits; all may be of some rows only."""
    functions = _checked(parameters)
    gradient, kept, features, shape = (
        gradient.contiguous(),
        kept.contiguous(),
        features.contiguous(),
        _shape(features, parameters),
    )
    of_features = torch.empty(features.shape)
    made = [
        torch.empty(parameter.shape) if noise is not None or number % 2 == 0 else None
        for number, parameter in enumerate(parameters)
    ]
    work = room(functions.backward_room(ctypes.byref(shape)), whole=shape.rows % RUN == 0)
    given = (
        gradient.data_ptr(),
        features.data_ptr(),
        addresses(parameters),
        _address(noise),
        kept.data_ptr(),
        work.data_ptr(),
    )
    functions.backward(ctypes.byref(shape), *given, of_features.data_ptr(), addresses(made))
    return of_features, made


def _shape(features: Tensor, parameters: Parameters) -> _Shape:
    hidden, inputs = parameters[0].shape
    atoms, all_atoms = len(parameters[OF_LAYER]), len(parameters[3 * OF_LAYER])
    return _Shape(len(features), inputs, hidden, atoms, all_atoms // atoms, 2, torch.get_num_threads())


def _address(noise: Tensor | None) -> int | None:
    assert noise is None or noise.is_contiguous()
    return None if noise is None else noise.data_ptr()


def _checked(parameters: Parameters) -> ctypes.CDLL:
    functions = _functions()
    if functions is None or not takes(parameters):
        raise RuntimeError(f"the compiled dueling head takes no layers of {tuple(parameters[0].shape)} here")
    return functions


def _functions() -> ctypes.CDLL | None:
    return layer("dueling", ("forward_room", "backward_room"), forward=6, backward=8)
