"""The linear layer from DMControl's maps to features, and its gradients, with AMX (``features.c``).

The plain version is ``FeatureHead._linear``.
"""

from __future__ import annotations

import ctypes
from typing import Any

import torch
from torch import Tensor

from mcurl import native
from mcurl.native.binding import BLOCK, check_differentiated_once, kept_workspace, layer

MAX_OUTPUTS = 2 * BLOCK


class _Shape(ctypes.Structure):
    _fields_ = [(name, ctypes.c_int64) for name in ("images", "inputs", "outputs", "threads")]


def available() -> bool:
    """Whether the operation is enabled and built, and serves on this processor."""
    return _functions() is not None


def supports(maps: Tensor, weight: Tensor) -> bool:
    """Whether the operation is available and supports the arguments.

    They have to be contiguous and on the CPU: ``bfloat16`` maps, with inputs in multiples of :data:`BLOCK`, and a
    ``float32`` weight with at most :data:`MAX_OUTPUTS` outputs.
    """
    return (
        maps.dtype == torch.bfloat16
        and weight.dtype == torch.float32
        and maps.device.type == weight.device.type == "cpu"
        and maps.numel() > 0
        and maps.shape[1] == weight.shape[1]
        and maps.shape[1] % BLOCK == 0
        and len(weight) <= MAX_OUTPUTS
        and maps.is_contiguous()
        and weight.is_contiguous()
        and available()
    )


def apply(maps: Tensor, weight: Tensor) -> Tensor:
    """The output of :func:`forward`, differentiable.

    Raises:
        RuntimeError: the arguments are not supported.
    """
    return _AmxFeatures.apply(maps, weight)  # type: ignore[no-untyped-call, no-any-return]


class _AmxFeatures(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, maps: Tensor, weight: Tensor) -> Tensor:
        ctx.save_for_backward(maps, weight)
        return forward(maps, weight)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        check_differentiated_once()
        need_maps, need_weight = ctx.needs_input_grad
        return backward(gradients[0], *ctx.saved_tensors, need_maps=need_maps, need_weight=need_weight)


def forward(maps: Tensor, weight: Tensor) -> Tensor:
    """The product of maps and transposed weight, in PyTorch's threads.

    The weight is rounded to bfloat16; sums are ``float32``.

    Args:
        maps: ``bfloat16 [N, in]``.
        weight: ``float32 [out, in]``.

    Returns:
        ``float32 [N, out]``.

    Raises:
        RuntimeError: the arguments are not supported.
    """
    functions = _checked(maps, weight)
    shape = _Shape(*maps.shape, len(weight), torch.get_num_threads())
    features = torch.empty((len(maps), len(weight)))
    scratch = kept_workspace(functions.forward_workspace(ctypes.byref(shape)))
    functions.forward(ctypes.byref(shape), maps.data_ptr(), weight.data_ptr(), scratch.data_ptr(), features.data_ptr())
    native.record_use("amx.features")
    return features


def backward(
    gradient: Tensor, maps: Tensor, weight: Tensor, *, need_maps: bool = True, need_weight: bool = True
) -> tuple[Tensor | None, Tensor | None]:
    """The gradients of maps and weight.

    Args:
        gradient: of the features, ``float32 [N, out]``. It is rounded to bfloat16 for the gradient of the maps, and
            split into a sum of two bfloat16 matrices for that of the weight.
        maps, weight: arguments of :func:`forward`.
        need_maps, need_weight: which gradients are computed.

    Returns:
        ``bfloat16 [N, in]`` and ``float32 [out, in]``; None for one that is not needed.

    Raises:
        RuntimeError: the arguments are not supported.
    """
    functions = _checked(maps, weight)
    gradient = gradient.contiguous()
    shape = _Shape(*maps.shape, len(weight), torch.get_num_threads())
    maps_gradient = torch.empty_like(maps) if need_maps else None
    weight_gradient = torch.empty_like(weight) if need_weight else None
    scratch = kept_workspace(functions.backward_workspace(ctypes.byref(shape)))
    functions.backward(
        ctypes.byref(shape),
        gradient.data_ptr(),
        maps.data_ptr(),
        weight.data_ptr(),
        scratch.data_ptr(),
        None if maps_gradient is None else maps_gradient.data_ptr(),
        None if weight_gradient is None else weight_gradient.data_ptr(),
    )
    return maps_gradient, weight_gradient


def _checked(maps: Tensor, weight: Tensor) -> ctypes.CDLL:
    functions = _functions()
    if functions is None or not supports(maps, weight):
        raise RuntimeError(
            f"the compiled linear layer does not support {maps.dtype} maps of shape {tuple(maps.shape)} here, with a "
            f"weight of {tuple(weight.shape)}"
        )
    return functions


def _functions() -> ctypes.CDLL | None:
    return layer("amx.features", ("forward_workspace", "backward_workspace"), forward=4, backward=6)
