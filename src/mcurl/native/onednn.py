"""Convolution or matrix product with bias and ReLU as one oneDNN operation, differentiable.

These are private inference operations of PyTorch (``torch.ops.mkldnn``). The gradient of ReLU needs only its output, so
its input is not stored. The plain versions are ``F.relu(F.conv2d(...))`` and ``F.relu(F.linear(...))``, in
``networks.encoders.Convolutions`` and ``networks.atari.DataEfficientEncoder``.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import torch
from torch import Tensor

from mcurl import native


@cache
def available(name: str) -> bool:
    """Whether the installed PyTorch has an operation of :data:`mcurl.native.ONEDNN`, and it serves on this CPU."""
    if name == "onednn.linear_relu" and not multiplies_bf16():
        return False
    function = {"onednn.conv_relu": "_convolution_pointwise", "onednn.linear_relu": "_linear_pointwise"}[name]
    return torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, function)  # type: ignore[no-untyped-call]


def multiplies_bf16() -> bool:
    """Whether oneDNN's products take bfloat16 on this CPU, fast or slow: not on x86 with AVX2 alone. False for builds
    of PyTorch without oneDNN."""
    try:
        return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
    except (AttributeError, RuntimeError):
        return False


def supports_conv_relu(x: Tensor) -> bool:
    """Whether :func:`conv_relu` is enabled and supports the input: on the CPU, ``float32`` or what oneDNN multiplies of
    ``bfloat16``."""
    return _supports("onednn.conv_relu", x) and x.dtype != torch.float64


def conv_relu(x: Tensor, weight: Tensor, bias: Tensor, stride: int) -> Tensor:
    """ReLU of a convolution without padding.

    Args:
        x: ``float32`` or ``bfloat16 [N, C, H, W]``, of any memory format.
        weight, bias: ``[F, C, h, w]`` and ``[F]``, of the same dtype.

    Returns:
        ``[N, F, (H - h) // stride + 1, (W - w) // stride + 1]`` of the same dtype.
    """
    native.record_use("onednn.conv_relu")
    # The operation alone has no gradient, not even of what comes before a frozen layer.
    if torch.is_grad_enabled() and any(tensor.requires_grad for tensor in (x, weight, bias)):
        return _ConvReLU.apply(x, weight, bias, stride)  # type: ignore[no-untyped-call, no-any-return]
    return _conv_relu(x, weight, bias, stride)


def supports_linear_relu(x: Tensor) -> bool:
    """Whether :func:`linear_relu` is enabled and supports the input: ``bfloat16``, multiplied by oneDNN, on the CPU."""
    return _supports("onednn.linear_relu", x) and x.dtype == torch.bfloat16


def linear_relu(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """ReLU(x Wᵀ + b).

    Args:
        x, weight, bias: ``bfloat16 [N, in]``, ``[out, in]`` and ``[out]``.

    Returns:
        ``bfloat16 [N, out]``.
    """
    native.record_use("onednn.linear_relu")
    return _LinearReLU.apply(x, weight, bias)  # type: ignore[no-untyped-call, no-any-return]


def _supports(name: str, x: Tensor) -> bool:
    dtype_serves = x.dtype != torch.bfloat16 or multiplies_bf16()
    return x.device.type == "cpu" and dtype_serves and name not in native.disabled() and available(name)


def _conv_relu(x: Tensor, weight: Tensor, bias: Tensor, stride: int) -> Tensor:
    y: Tensor = torch.ops.mkldnn._convolution_pointwise(
        x, weight, bias, [0, 0], [stride, stride], [1, 1], 1, "relu", [], ""
    )
    return y


class _ConvReLU(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, stride: int) -> Tensor:
        y = _conv_relu(x, weight, bias, stride)
        ctx.save_for_backward(x, weight, y)
        ctx.stride = stride
        return y

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, y = ctx.saved_tensors
        sum_gradient = torch.ops.aten.threshold_backward(gradients[0], y, 0)
        s, mask = ctx.stride, [ctx.needs_input_grad[0], ctx.needs_input_grad[1], ctx.needs_input_grad[2]]
        dx, dw, db = torch.ops.aten.convolution_backward(
            sum_gradient, x, weight, [len(weight)], [s, s], [0, 0], [1, 1], False, [0, 0], 1, mask
        )
        return dx, dw, db, None


class _LinearReLU(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        y: Tensor = torch.ops.mkldnn._linear_pointwise(x, weight, bias, "relu", [], "")
        ctx.save_for_backward(x, weight, y)
        return y

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, y = ctx.saved_tensors
        sum_gradient = torch.ops.aten.threshold_backward(gradients[0], y, 0)
        return (
            sum_gradient @ weight if ctx.needs_input_grad[0] else None,
            sum_gradient.t() @ x if ctx.needs_input_grad[1] else None,
            sum_gradient.sum(0) if ctx.needs_input_grad[2] else None,
        )
