"""DMControl's convolutions and the gradients of their parameters, compiled: ``amx/convolutions.c`` for matrix units, or
``winograd.c`` for AVX-512 and AVX2.

The plain twin is ``Convolutions._layers``.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from mcurl import native
from mcurl.native.binding import BLOCK, addresses, check_differentiated_once, kept_workspace, layer

FILTERS = 32
"""Of each layer; nothing else is compiled."""
MAX_LAYERS = 16
MAX_CHANNELS = 42
"""Of the pixels: three of them fit into four blocks of 32 inputs."""

DTYPES = {"amx.convolutions": (torch.bfloat16,), "winograd": (torch.bfloat16, torch.float32)}
"""Name of each operation -> dtypes of its maps. The first that is available serves."""

Parameters = Sequence[Tensor]
"""``float32``: a weight ``[32, C, 3, 3]`` of each layer, channels-last, then a bias ``[32]`` of each."""


class _Shape(ctypes.Structure):
    _fields_ = [
        (name, ctypes.c_int64)
        for name in ("images", "channels", "height", "width", "pixel_bytes", "map_bytes", "layers", "lowest", "threads")
    ]


def operation(dtype: torch.dtype) -> str | None:
    """The operation that serves for maps of a dtype; None if none does."""
    return next((name for name, dtypes in DTYPES.items() if dtype in dtypes and available(name)), None)


def available(name: str) -> bool:
    """Whether an operation of :data:`DTYPES` is enabled and built, and serves on this processor."""
    return _library(name) is not None


def supports(pixels: Tensor, parameters: Parameters, dtype: torch.dtype) -> bool:
    """Whether :func:`apply` and :func:`forward` take these: pixels of uint8, or the maps' dtype, on the CPU without a
    gradient, weights channels-last, 32 filters in each layer, and pixels left after the last. Some sizes that are not
    square are left to PyTorch, see :func:`_ends_in_the_last_block`."""
    layers = len(parameters) // 2
    return (
        pixels.dtype in (torch.uint8, dtype)
        and pixels.device.type == "cpu"
        and not pixels.requires_grad
        and len(pixels) > 0
        and 1 <= layers <= MAX_LAYERS
        and pixels.shape[1] <= MAX_CHANNELS
        and min(pixels.shape[2:]) >= 3
        and min(_side(size, layers) for size in pixels.shape[2:]) >= 1
        and not _ends_in_the_last_block(*pixels.shape[2:])
        and all(
            weight.shape == (FILTERS, FILTERS if i else pixels.shape[1], 3, 3)
            and weight.is_contiguous(memory_format=torch.channels_last)
            for i, weight in enumerate(parameters[:layers])
        )
        and all(bias.shape == (FILTERS,) and bias.is_contiguous() for bias in parameters[layers:])
        and all(p.dtype == torch.float32 and p.device.type == "cpu" for p in parameters)
        and operation(dtype) is not None
    )


def apply(pixels: Tensor, parameters: Parameters, dtype: torch.dtype) -> Tensor:
    """The maps of :func:`forward`, differentiable in the parameters.

    Raises:
        RuntimeError: it does not :func:`supports` such pixels.
    """
    if not torch.is_grad_enabled() or not any(parameter.requires_grad for parameter in parameters):
        return forward(pixels, parameters, dtype, save=False)[0]
    return _CompiledConvolutions.apply(pixels, dtype, *parameters)  # type: ignore[no-untyped-call, no-any-return]


class _CompiledConvolutions(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, pixels: Tensor, dtype: torch.dtype, *parameters: Tensor) -> Tensor:
        pixels = pixels.contiguous(memory_format=torch.channels_last)
        maps, hidden = forward(pixels, parameters, dtype, save=True)
        ctx.save_for_backward(pixels, hidden, maps, *parameters)
        # Backward may come when others are disabled, or in another thread, and must fit what was saved.
        name = operation(dtype)
        assert name is not None
        ctx.functions = _functions(name)
        return maps

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        check_differentiated_once()
        pixels, hidden, maps, *parameters = ctx.saved_tensors
        needed = ctx.needs_input_grad[2:]
        lowest = min(i % (len(needed) // 2) for i, need in enumerate(needed) if need)
        computed = _backward(ctx.functions, gradients[0], pixels, hidden, maps, parameters, lowest)
        return None, None, *(g if need else None for g, need in zip(computed, needed, strict=True))


def forward(pixels: Tensor, parameters: Parameters, dtype: torch.dtype, *, save: bool) -> tuple[Tensor, Tensor | None]:
    """All layers with ReLU, in torch's own threads.

    On matrix units, products are of bfloat16, with sums in float32. Without them, products are in float32. Maps are
    rounded to their dtype.

    Args:
        pixels: ``[N, C, H, W]``, uint8 or the maps' dtype, 0 to 255, copied unless channels-last.
        parameters: see :data:`Parameters`.
        dtype: of the maps, float32 or bfloat16.
        save: also return the maps between layers, if :func:`backward` needs them (0.3 MB for an image of 84 × 84 in
            bfloat16, twice that in float32). On matrix units it computes them again.

    Returns:
        ``[N, 32, h, w]``, channels-last, and the maps between layers as one tensor, or None.

    Raises:
        RuntimeError: it does not :func:`supports` such pixels.
    """
    return _bind(pixels, parameters, dtype, save=save)(pixels)


def bind(pixels: Tensor, parameters: Parameters, dtype: torch.dtype) -> Callable[[Tensor], Tensor]:
    """:func:`forward` without saving, as a function of pixels of one shape.

    The parameters may change between calls, but must stay at their addresses.

    Args:
        pixels: an example.
        parameters, dtype: as in :func:`forward`.

    Raises:
        RuntimeError: it does not :func:`supports` such pixels.
    """
    encode = _bind(pixels, parameters, dtype, save=False)
    return lambda pixels: encode(pixels)[0]


def _bind(
    pixels: Tensor, parameters: Parameters, dtype: torch.dtype, *, save: bool
) -> Callable[[Tensor], tuple[Tensor, Tensor | None]]:
    name = _checked(pixels, parameters, dtype)
    functions, shape = _functions(name), _shape(pixels, parameters, dtype)
    weights, biases = _addresses(parameters[: shape.layers]), addresses(parameters[shape.layers :])
    height, width = (_side(size, shape.layers) for size in (shape.height, shape.width))
    size, shape_address = functions.forward_workspace(ctypes.byref(shape)), ctypes.byref(shape)
    hidden_size = functions.hidden_size(shape_address) if save else 0

    def encode(pixels: Tensor) -> tuple[Tensor, Tensor | None]:
        assert pixels.shape == (shape.images, shape.channels, shape.height, shape.width)
        assert pixels.element_size() == shape.pixel_bytes
        pixels = pixels.contiguous(memory_format=torch.channels_last)
        maps = torch.empty((shape.images, height, width, FILTERS), dtype=dtype)
        hidden = torch.empty(hidden_size, dtype=torch.float32) if hidden_size else None
        scratch = kept_workspace(size)
        functions.forward(
            shape_address,
            pixels.data_ptr(),
            weights,
            biases,
            scratch.data_ptr(),
            None if hidden is None else hidden.data_ptr(),
            maps.data_ptr(),
        )
        native.record_use(name)
        return maps.permute(0, 3, 1, 2), hidden

    return encode


def backward(
    gradient: Tensor,
    pixels: Tensor,
    hidden: Tensor | None,
    maps: Tensor,
    parameters: Parameters,
    *,
    lowest: int = 0,
) -> list[Tensor | None]:
    """The gradients of the parameters from that of the maps.

    Args:
        gradient: ``[N, 32, h, w]``, of the maps' dtype.
        pixels, parameters: arguments of :func:`forward`; hidden, maps: its results with ``save=True``.
        lowest: the first layer whose gradients are computed; None of those before it.

    Raises:
        RuntimeError: it does not :func:`supports` such pixels, or the gradient is not like the maps, or there are no
            maps between layers and it needs them.
    """
    functions = _functions(_checked(pixels, parameters, maps.dtype))
    return _backward(functions, gradient, pixels, hidden, maps, parameters, lowest)


def _backward(
    functions: ctypes.CDLL,
    gradient: Tensor,
    pixels: Tensor,
    hidden: Tensor | None,
    maps: Tensor,
    parameters: Parameters,
    lowest: int,
) -> list[Tensor | None]:
    if gradient.dtype != maps.dtype or gradient.shape != maps.shape:
        expected = f"{maps.dtype} {tuple(maps.shape)}"
        raise RuntimeError(f"the gradient is {gradient.dtype} {tuple(gradient.shape)}, not {expected} as the maps")
    pixels, gradient = (x.contiguous(memory_format=torch.channels_last) for x in (pixels, gradient))
    shape = _shape(pixels, parameters, maps.dtype, lowest)
    layers, hidden_size = shape.layers, functions.hidden_size(ctypes.byref(shape))
    size = 0 if hidden is None or hidden.dtype != torch.float32 or not hidden.is_contiguous() else hidden.numel()
    if size != hidden_size:
        raise RuntimeError("the maps between layers are not those of the forward pass with save=True")
    gradients = [torch.empty_like(p) if i % layers >= lowest else None for i, p in enumerate(parameters)]
    scratch = kept_workspace(functions.backward_workspace(ctypes.byref(shape)))
    functions.backward(
        ctypes.byref(shape),
        pixels.data_ptr(),
        None if hidden is None else hidden.data_ptr(),
        maps.data_ptr(),
        gradient.data_ptr(),
        _addresses(parameters[:layers]),
        addresses(parameters[layers:]),
        scratch.data_ptr(),
        _addresses(gradients[:layers]),
        addresses(gradients[layers:]),
    )
    return gradients


def _ends_in_the_last_block(height: int, width: int) -> bool:
    """Whether the first layer's gradient, read one pixel later for its third row of taps, ends behind its blocks."""
    rows, columns = _side(height, 1), _side(width, 1)
    return columns % 2 == 1 and rows * columns % BLOCK == 0


def _side(pixels: int, layers: int) -> int:
    return (pixels - 3) // 2 + 1 - 2 * (layers - 1)


def _shape(pixels: Tensor, parameters: Parameters, dtype: torch.dtype, lowest: int = 0) -> _Shape:
    layers, threads = len(parameters) // 2, torch.get_num_threads()
    return _Shape(*pixels.shape, pixels.element_size(), dtype.itemsize, layers, lowest, threads)


def _addresses(weights: Sequence[Tensor | None]) -> ctypes.Array[ctypes.c_void_p]:
    """Of channels-last weights."""
    return addresses([weight if weight is None else weight.permute(0, 2, 3, 1) for weight in weights])


def _checked(pixels: Tensor, parameters: Parameters, dtype: torch.dtype) -> str:
    """The operation that serves for these."""
    name = operation(dtype)
    if name is None or not supports(pixels, parameters, dtype):
        raise RuntimeError(
            f"the compiled convolutions do not support {pixels.dtype} pixels of shape {tuple(pixels.shape)} here, for "
            f"maps of {dtype}, with weights of {[tuple(weight.shape) for weight in parameters[: len(parameters) // 2]]}"
        )
    return name


def _functions(name: str) -> ctypes.CDLL:
    functions = _library(name)
    assert functions is not None
    return functions


def _library(name: str) -> ctypes.CDLL | None:
    return layer(name, ("forward_workspace", "backward_workspace", "hidden_size"), forward=6, backward=9)
