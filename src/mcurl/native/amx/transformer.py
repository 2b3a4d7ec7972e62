"""The Transformer's blocks and all their gradients on the processor's matrix units (AMX), in C."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from mcurl.native import EPS, RUN, addresses, layer, room

OF_BLOCK = 10
"""Parameters of a block: weight and bias of queries, keys and values together (here the bias may be None), of both
norms, and of both layers of the feed-forward net."""
Parameters = Sequence[Tensor | None]


class Dropout(NamedTuple):
    """``words``: random ``int16 [L, 2, B, T, d]``. What a branch's number is multiplied by is 0 where its word is below
    ``drop_below``, else ``kept``."""

    words: Tensor
    drop_below: int
    kept: float


class _Shape(ctypes.Structure):
    _fields_ = [
        (name, ctypes.c_int64)
        for name in ("sequences", "length", "width", "hidden", "blocks", "planes", "threads", "drop_below")
    ] + [(name, ctypes.c_float) for name in ("scale", "eps", "kept")]


def available() -> bool:
    """Whether there is a compiler, and a processor with AMX that this process may use."""
    return _functions() is not None


def takes(h: Tensor, parameters: Parameters) -> bool:
    """Whether :func:`forward` can take these: widths in multiples of :data:`RUN`."""
    given = [h, *(parameter for parameter in parameters if parameter is not None)]
    plain = all(tensor.dtype == torch.float32 and tensor.device.type == "cpu" for tensor in given)
    return plain and h.numel() > 0 and h.shape[2] % RUN == 0 and _hidden(parameters) % RUN == 0 and available()


def forward(
    h: Tensor, padded: Tensor, dropout: Dropout | None, parameters: Parameters, scale: float, *, rounded: bool
) -> tuple[Tensor, Tensor]:
    """Every block of equation 9, one after the other, in torch's own threads.

    Args:
        h: ``float32 [B, T, d]``.
        padded: ``bool [B, T]``, the positions that nothing attends to.
        dropout: of the two branches of each block.
        parameters: :data:`OF_BLOCK` of each block, ``float32``.
        scale: of the attention's scores.
        rounded: multiply matrices rounded to bfloat16. Otherwise each is a sum of two such, and a product as close to
            exact as some parts in a million.

    Returns:
        What comes out, ``float32 [B, T, d]``, and what :func:`backward` needs.

    Raises:
        RuntimeError: it :func:`takes` no such features.
    """
    functions = _checked(h, parameters)
    h, padded, out, shape = (
        h.contiguous(),
        padded.contiguous(),
        torch.empty(h.shape),
        _shape(h, dropout, parameters, scale, rounded),
    )
    kept, work = (
        room(numbers(ctypes.byref(shape)), whole=_whole(shape))
        for numbers in (functions.kept_room, functions.forward_room)
    )
    given = (
        h.data_ptr(),
        padded.data_ptr(),
        _words(dropout),
        addresses(parameters),
        kept.data_ptr(),
        work.data_ptr(),
        out.data_ptr(),
    )
    functions.forward(ctypes.byref(shape), *given)
    return out, kept


def backward(
    gradient: Tensor, kept: Tensor, dropout: Dropout | None, parameters: Parameters, scale: float, *, rounded: bool
) -> tuple[Tensor, list[Tensor | None]]:
    """The gradients of ``h`` and of the parameters from that of what :func:`forward` gave, which was given the same."""
    functions = _checked(gradient, parameters)
    gradient, of_h, shape = (
        gradient.contiguous(),
        torch.empty(gradient.shape),
        _shape(gradient, dropout, parameters, scale, rounded),
    )
    made = [None if parameter is None else torch.empty(parameter.shape) for parameter in parameters]
    work = room(functions.backward_room(ctypes.byref(shape)), whole=_whole(shape))
    given = (
        gradient.data_ptr(),
        _words(dropout),
        addresses(parameters),
        kept.data_ptr(),
        work.data_ptr(),
        of_h.data_ptr(),
        addresses(made),
    )
    functions.backward(ctypes.byref(shape), *given)
    return of_h, made


def _shape(h: Tensor, dropout: Dropout | None, parameters: Parameters, scale: float, rounded: bool) -> _Shape:
    counts = (_hidden(parameters), len(parameters) // OF_BLOCK, 1 if rounded else 2, torch.get_num_threads())
    return _Shape(*h.shape, *counts, dropout.drop_below if dropout else 0, scale, EPS, dropout.kept if dropout else 1.0)


def _hidden(parameters: Parameters) -> int:
    first_layer = parameters[6]
    assert first_layer is not None
    return len(first_layer)


def _whole(shape: _Shape) -> bool:
    """Whether the sequences that are worked on together fill runs."""
    together = max(RUN // shape.length, 1)
    return bool(together * shape.length % RUN == 0 and shape.sequences % together == 0)


def _words(dropout: Dropout | None) -> int | None:
    return None if dropout is None else dropout.words.data_ptr()


def _checked(h: Tensor, parameters: Parameters) -> ctypes.CDLL:
    functions = _functions()
    if functions is None or not takes(h, parameters):
        raise RuntimeError(f"the compiled Transformer takes no {h.dtype} features of shape {tuple(h.shape)} here")
    return functions


def _functions() -> ctypes.CDLL | None:
    return layer("transformer", ("kept_room", "forward_room", "backward_room"), forward=7, backward=7)
