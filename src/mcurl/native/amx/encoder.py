"""Atari's encoder on the processor's matrix units (AMX), and the gradients of its parameters, in C."""

from __future__ import annotations

import ctypes
from functools import cache

import torch
from torch import Tensor

from mcurl.native import library

CHANNELS = (32, 64)
"""Of the two convolutions; nothing else is compiled."""
MOST_INPUTS = 512
"""Bytes in a patch."""

Parameters = tuple[Tensor, Tensor, Tensor, Tensor]
"""``float32``: weight ``[32, C, 5, 5]`` and bias ``[32]`` of the first convolution, weight ``[64, 32, 5, 5]`` and bias
``[64]`` of the second."""


def available() -> bool:
    """Whether there is a compiler, and a processor with AMX that this process may use."""
    return _functions() is not None


def takes(patches: Tensor, parameters: Parameters) -> bool:
    """Whether :func:`forward` can encode these."""
    weight1, _, weight2, _ = parameters
    shapes = (len(weight1), len(weight2)) == CHANNELS and weight1[0].numel() == patches.shape[2] <= MOST_INPUTS
    return (
        shapes
        and patches.device.type == "cpu"
        and patches.dtype == torch.uint8
        and weight1.dtype == weight2.dtype == torch.float32
        and available()
    )


def forward(patches: Tensor, parameters: Parameters, *, keep: bool) -> tuple[Tensor, Tensor | None]:
    """Both convolutions with ReLU, in torch's own threads.

    The first multiplies bytes by weights of 15 bits and rounds its sums, and nothing before, to bfloat16; the second
    multiplies in bfloat16.

    Args:
        patches: ``uint8 [N, Y·X·25, C·25]``, see :func:`mcurl.native.frames.cut`.
        parameters: see :data:`Parameters`.
        keep: give what :func:`backward` needs, too.

    Returns:
        Features ``float32 [N, 64·Y·X]``, flattened from [64, Y, X], and what lies between the layers, or None.

    Raises:
        RuntimeError: it :func:`takes` no such patches.
    """
    functions = _checked(patches, parameters)
    patches, (weight1, bias1, weight2, bias2) = patches.contiguous(), _in_order(parameters)
    n, cells, inputs = len(patches), patches.shape[1] // 25, patches.shape[2]
    features = torch.empty((n, CHANNELS[1] * cells))
    # 16 rows more than there are: matrix units read whole tiles.
    between = torch.empty((n * cells + 16, CHANNELS[0] * 25), dtype=torch.bfloat16) if keep else None
    room = _room(functions.forward_room(cells))
    pointers = (tensor.data_ptr() for tensor in (weight1, bias1, weight2, bias2))
    functions.forward(
        patches.data_ptr(),
        n,
        cells,
        inputs,
        *pointers,
        between.data_ptr() if between is not None else None,
        features.data_ptr(),
        room.data_ptr(),
        len(room),
    )
    return features, between


def backward(
    patches: Tensor, parameters: Parameters, between: Tensor, features: Tensor, gradient: Tensor
) -> Parameters:
    """The gradients of the parameters from that of the features.

    Args:
        patches, parameters: what :func:`forward` was given; between, features: what it gave.
        gradient: ``float32 [N, 64·Y·X]``, rounded to bfloat16.
    """
    functions = _checked(patches, parameters)
    patches, weight2, gradient = patches.contiguous(), _in_order(parameters)[2], gradient.contiguous()
    n, cells, inputs = len(patches), patches.shape[1] // 25, patches.shape[2]
    made = tuple(torch.zeros_like(parameter) for parameter in _in_order(parameters))
    room = _room(functions.backward_room(cells, inputs))
    given = (tensor.data_ptr() for tensor in (patches, between, features, gradient))
    functions.backward(
        *given,
        n,
        cells,
        inputs,
        weight2.data_ptr(),
        *(tensor.data_ptr() for tensor in made),
        room.data_ptr(),
        len(room),
    )
    return made  # type: ignore[return-value]


def _in_order(parameters: Parameters) -> Parameters:
    """In the order in which they are multiplied: the second layer reads the channels of a pixel one after the other."""
    weight1, bias1, weight2, bias2 = parameters
    return weight1.contiguous(), bias1, weight2.contiguous(memory_format=torch.channels_last), bias2


def _room(of_thread: int) -> Tensor:
    """Memory to work in, some for each thread."""
    return torch.empty((torch.get_num_threads(), of_thread), dtype=torch.uint8)


def _checked(patches: Tensor, parameters: Parameters) -> ctypes.CDLL:
    functions = _functions()
    if functions is None or not takes(patches, parameters):
        raise RuntimeError(
            f"the compiled encoder takes no {patches.dtype} patches of {patches.shape[2]} inputs here, for weights of {tuple(parameters[0].shape)}"
        )
    return functions


def _functions() -> ctypes.CDLL | None:
    functions = library("encoder")
    return functions and _typed(functions)


@cache
def _typed(functions: ctypes.CDLL) -> ctypes.CDLL | None:
    if not functions.supported():
        return None
    pointer, number = ctypes.c_void_p, ctypes.c_int64
    functions.forward.argtypes = [pointer, number, number, number, *[pointer] * 7, number]
    functions.backward.argtypes = [pointer, pointer, pointer, pointer, number, number, number, *[pointer] * 6, number]
    functions.forward.restype = functions.backward.restype = ctypes.c_int
    functions.forward_room.argtypes, functions.backward_room.argtypes = [number], [number, number]
    functions.forward_room.restype = functions.backward_room.restype = number
    return functions
