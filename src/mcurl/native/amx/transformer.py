"""The Transformer's blocks and their gradients with AMX (``transformer.c``).

The plain version is ``Transformer._blocks``.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from mcurl import native
from mcurl.native.binding import BLOCK, EPS, addresses, check_differentiated_once, layer, workspace

PER_BLOCK = 10
"""Parameters per block: weight and bias of the query-key-value projection (this bias may be None), of both norms, and
of both feed-forward layers."""
Parameters = Sequence[Tensor | None]
""":data:`PER_BLOCK` for each block, ``float32``."""
Dropout = tuple[Tensor, int, float]
"""The fields of :class:`mcurl.networks.transformer.Dropout`: words, threshold and scale."""


class _Shape(ctypes.Structure):
    _fields_ = [
        (name, ctypes.c_int64)
        for name in ("sequences", "length", "width", "hidden", "blocks", "planes", "threads", "drop_below")
    ] + [(name, ctypes.c_float) for name in ("scale", "eps", "dropout_scale")]


def available() -> bool:
    """Whether the operation is enabled and built, and serves on this processor."""
    return _functions() is not None


def supports(h: Tensor, parameters: Parameters) -> bool:
    """Whether the operation is available and supports the arguments.

    They have to be ``float32`` on the CPU, with widths in multiples of :data:`BLOCK`.
    """
    tensors = [h, *(parameter for parameter in parameters if parameter is not None)]
    plain = all(tensor.dtype == torch.float32 and tensor.device.type == "cpu" for tensor in tensors)
    return (
        plain
        and h.numel() > 0
        and len(parameters) > 0  # without layers there is nothing to compute
        and h.shape[2] % BLOCK == 0
        and _hidden(parameters) % BLOCK == 0
        and available()
    )


def apply(
    h: Tensor, padded: Tensor, dropout: Dropout | None, parameters: Parameters, scale: float, *, rounded: bool
) -> Tensor:
    """The output of :func:`forward`, differentiable.

    Raises:
        RuntimeError: the arguments are not supported.
    """
    return _AmxTransformer.apply(h, padded, dropout, scale, rounded, *parameters)  # type: ignore[no-untyped-call, no-any-return]


class _AmxTransformer(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        h: Tensor,
        padded: Tensor,
        dropout: Dropout | None,
        scale: float,
        rounded: bool,
        *parameters: Tensor | None,
    ) -> Tensor:
        out, saved = forward(h, padded, dropout, parameters, scale, rounded=rounded)
        ctx.dropout, ctx.scale, ctx.rounded = dropout, scale, rounded
        ctx.save_for_backward(saved, *parameters)
        return out

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        check_differentiated_once()
        saved, *parameters = ctx.saved_tensors
        h_gradient, parameter_gradients = backward(
            gradients[0], saved, ctx.dropout, parameters, ctx.scale, rounded=ctx.rounded
        )
        return h_gradient, None, None, None, None, *parameter_gradients


def forward(
    h: Tensor, padded: Tensor, dropout: Dropout | None, parameters: Parameters, scale: float, *, rounded: bool
) -> tuple[Tensor, Tensor]:
    """All blocks of equation 9, in PyTorch's threads.

    Args:
        h: ``float32 [B, T, d]``.
        padded: ``bool [B, T]``, positions that are not attended to.
        dropout: random numbers for the two branches of each block; None: no dropout.
        parameters: :data:`PER_BLOCK` for each block, ``float32``.
        scale: factor on the attention scores.
        rounded: multiply in bfloat16. Otherwise each matrix is split into a sum of two bfloat16 matrices, so that the
            relative error of a product is a few 1e-6.

    Returns:
        The last block's output ``float32 [B, T, d]``, and the buffer for :func:`backward`.

    Raises:
        RuntimeError: the arguments are not supported.
    """
    functions = _checked(h, parameters)
    h, padded, out = h.contiguous(), padded.contiguous(), torch.empty(h.shape)
    shape = _shape(h, dropout, parameters, scale, rounded)
    saved = workspace(functions.saved_size(ctypes.byref(shape)), full=_full(shape))
    scratch = workspace(functions.forward_workspace(ctypes.byref(shape)), full=_full(shape))
    functions.forward(
        ctypes.byref(shape),
        h.data_ptr(),
        padded.data_ptr(),
        _words(dropout),
        addresses(parameters),
        saved.data_ptr(),
        scratch.data_ptr(),
        out.data_ptr(),
    )
    native.record_use("amx.transformer")
    return out, saved


def backward(
    gradient: Tensor, saved: Tensor, dropout: Dropout | None, parameters: Parameters, scale: float, *, rounded: bool
) -> tuple[Tensor, list[Tensor | None]]:
    """The gradients of ``h`` and of the parameters.

    Args:
        gradient: of the output, ``float32 [B, T, d]``.
        saved: buffer from :func:`forward`.
        dropout, parameters, scale, rounded: arguments of :func:`forward`.

    Returns:
        ``float32 [B, T, d]``, and one gradient per parameter; None for a parameter that is None.

    Raises:
        RuntimeError: the arguments are not supported.
    """
    functions = _checked(gradient, parameters)
    gradient, h_gradient = gradient.contiguous(), torch.empty(gradient.shape)
    shape = _shape(gradient, dropout, parameters, scale, rounded)
    parameter_gradients = [None if parameter is None else torch.empty(parameter.shape) for parameter in parameters]
    scratch = workspace(functions.backward_workspace(ctypes.byref(shape)), full=_full(shape))
    functions.backward(
        ctypes.byref(shape),
        gradient.data_ptr(),
        _words(dropout),
        addresses(parameters),
        saved.data_ptr(),
        scratch.data_ptr(),
        h_gradient.data_ptr(),
        addresses(parameter_gradients),
    )
    return h_gradient, parameter_gradients


def _shape(h: Tensor, dropout: Dropout | None, parameters: Parameters, scale: float, rounded: bool) -> _Shape:
    counts = (_hidden(parameters), len(parameters) // PER_BLOCK, 1 if rounded else 2, torch.get_num_threads())
    _, drop_below, dropout_scale = dropout or (None, 0, 1.0)
    return _Shape(*h.shape, *counts, drop_below, scale, EPS, dropout_scale)


def _hidden(parameters: Parameters) -> int:
    first_layer = parameters[6]
    assert first_layer is not None
    return len(first_layer)


def _full(shape: _Shape) -> bool:
    """Whether the sequences that are computed together fill whole blocks of rows."""
    group = max(BLOCK // shape.length, 1)
    return bool(group * shape.length % BLOCK == 0 and shape.sequences % group == 0)


def _words(dropout: Dropout | None) -> int | None:
    return None if dropout is None else dropout[0].data_ptr()


def _checked(h: Tensor, parameters: Parameters) -> ctypes.CDLL:
    functions = _functions()
    if functions is None or not supports(h, parameters):
        raise RuntimeError(
            f"the compiled Transformer does not support {h.dtype} features of shape {tuple(h.shape)} here"
        )
    return functions


def _functions() -> ctypes.CDLL | None:
    return layer("amx.transformer", ("saved_size", "forward_workspace", "backward_workspace"), forward=7, backward=7)
