"""The data-efficient Atari encoder (van Hasselt et al., 2019) and the contrastive head on it (CURL's for Atari).

The encoder's two convolutions have stride = kernel = 5, so each is one matrix product over patches that do not overlap,
and only the top left 75 × 75 of 84 × 84 pixels are ever seen. Parameters are those of the two convolutions, in the
plain order.
"""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mcurl.errors import UserError
from mcurl.native import frames as native_frames
from mcurl.native.amx import encoder as on_tiles
from mcurl.native.amx import head as native_head

KERNEL = 5
CHANNELS = on_tiles.CHANNELS
HEAD_HIDDEN, HEAD_WIDTH = 256, 128


def encoder_width(shape: tuple[int, int, int]) -> int:
    """Features of an observation of C, H, W: 576 for 84 × 84."""
    return CHANNELS[1] * (shape[1] // KERNEL**2) * (shape[2] // KERNEL**2)


class DataEfficientEncoder(nn.Module):
    """Convolutions 32@5×5 and 64@5×5 with strides of 5 and ReLUs: ``uint8 [N, C, H, W]`` -> ``float32 [N, 64·Y·X]``,
    where Y·X is ⌊H/25⌋·⌊W/25⌋.

    ``encode(patches(pixels))`` is the same for observations that two networks see.

    Args:
        shape: C, H, W of the stacked observation.
        dtype: of the matrix products (pixels are exact in bfloat16 too); the features are float32 either way.
    """

    def __init__(self, shape: tuple[int, int, int], *, dtype: torch.dtype = torch.float32) -> None:
        super().__init__()
        channels, height, width = shape
        self.rows, self.columns = height // KERNEL**2, width // KERNEL**2  # Y, X
        if not self.rows * self.columns:
            raise UserError(
                f"observations of {height} × {width} are smaller than the {KERNEL**2} × {KERNEL**2} pixels that a feature sees"
            )
        self.dtype = dtype
        self.width = encoder_width(shape)
        self.conv1 = nn.Conv2d(channels, CHANNELS[0], KERNEL, stride=KERNEL)
        # In the order in which its product reads it.
        self.conv2 = nn.Conv2d(CHANNELS[0], CHANNELS[1], KERNEL, stride=KERNEL).to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def forward(self, pixels: Tensor) -> Tensor:
        return self.encode(self.patches(pixels))

    def patches(self, pixels: Tensor) -> Tensor:
        """What the first convolution multiplies: ``uint8 [N, Y·X·5·5, C·5·5]``; pixels that were gathered as such pass
        as they are.

        Patch (y, x) of the first convolution stands in patch (Y, X) of the second.
        """
        if pixels.dim() == 3:
            return pixels
        (n, channels, height, width), Y, X = pixels.shape, self.rows, self.columns
        if (
            pixels.device.type == "cpu"
            and pixels.dtype == torch.uint8
            and height == width
            and native_frames.available()
        ):
            patches = torch.empty((n, Y, X, KERNEL, KERNEL, channels, KERNEL, KERNEL), dtype=torch.uint8)
            nothing = np.zeros(n, np.int64)
            native_frames.cut(
                pixels.contiguous(), np.arange(n)[:, None], nothing, nothing, nothing, nothing, height, patches
            )
        else:
            seen = pixels[:, :, : Y * KERNEL**2, : X * KERNEL**2].reshape(
                n, channels, Y, KERNEL, KERNEL, X, KERNEL, KERNEL
            )
            patches = seen.permute(0, 2, 5, 3, 6, 1, 4, 7)
        return patches.reshape(n, Y * X * KERNEL**2, channels * KERNEL**2)

    def encode(self, patches: Tensor) -> Tensor:
        """Patches -> features ``float32 [N, 64·Y·X]``, flattened from [64, Y, X] as a convolution's output would be."""
        parameters = *_parameters(self.conv1), *_parameters(self.conv2)
        if self.dtype == torch.bfloat16 and on_tiles.takes(patches, parameters):
            features: Tensor = _OnTiles.apply(torch.is_grad_enabled(), patches, *parameters)  # type: ignore[no-untyped-call]
            return features
        return self._layers(patches, *parameters)

    def _layers(self, patches: Tensor, weight1: Tensor, bias1: Tensor, weight2: Tensor, bias2: Tensor) -> Tensor:
        # Pixels are exact in bfloat16, a 255th is not: the weights take it.
        h = self._product(patches.flatten(0, 1).to(self.dtype), weight1.flatten(1) / 255, bias1)  # [N·Y·X·25, 32]
        weight2 = weight2.permute(0, 2, 3, 1).reshape(CHANNELS[1], -1)
        h = self._product(h.view(-1, weight2.shape[1]), weight2, bias2)  # [N·Y·X, 64]
        return h.view(len(patches), -1, CHANNELS[1]).transpose(1, 2).flatten(1).float()

    def _product(self, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        return linear_relu(x, weight.to(self.dtype), bias.to(self.dtype))


def _parameters(layer: nn.Conv2d) -> tuple[Tensor, Tensor]:
    assert layer.bias is not None
    return layer.weight, layer.bias


class _OnTiles(torch.autograd.Function):
    """Both layers on the processor's matrix units, with their gradient."""

    @staticmethod
    def forward(ctx: Any, differentiable: bool, patches: Tensor, *parameters: Tensor) -> Tensor:
        features, between = on_tiles.forward(patches, parameters, keep=differentiable)  # type: ignore[arg-type]
        if between is not None:
            ctx.save_for_backward(patches, *parameters, between, features)
        return features

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        patches, *parameters, between, features = ctx.saved_tensors
        return None, None, *on_tiles.backward(patches, tuple(parameters), between, features, gradients[0])


class _LinearReLU(torch.autograd.Function):
    """oneDNN's matrix product with bias and ReLU applied before the result is written, with a gradient, which needs the
    output alone."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        y: Tensor = torch.ops.mkldnn._linear_pointwise(x, weight, bias, "relu", [], "")
        ctx.save_for_backward(x, weight, y)
        return y

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, Tensor, Tensor]:
        x, weight, y = ctx.saved_tensors
        through = torch.ops.aten.threshold_backward(gradients[0], y, 0)
        return through @ weight if ctx.needs_input_grad[0] else None, through.t() @ x, through.sum(0)


def linear_relu(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """ReLU(x Wᵀ + b) for x of two dimensions."""
    if x.device.type == "cpu" and x.dtype == torch.bfloat16 and torch.backends.mkldnn.is_available():  # type: ignore[no-untyped-call]
        y: Tensor = _LinearReLU.apply(x, weight, bias)  # type: ignore[no-untyped-call]
        return y
    return F.linear(x, weight, bias).relu_()


class ContrastHead(nn.Module):
    """Features -> contrastive features: Linear 256, LayerNorm, ReLU, Linear 128, LayerNorm; the norms have no
    parameters.

    In float32: what early features, and all that CURL's matrices make of them, have in common is many times what tells
        them apart, and its rounding to
    bfloat16 a tenth of that.

    Args:
        features: width of the encoder's features (576).
        init: ``"uniform"``: matrices from U[0, 1) and zero biases (CURL's); ``"standard"``: PyTorch's.
    """

    def __init__(self, features: int, init: Literal["uniform", "standard"] = "standard") -> None:
        super().__init__()
        self.hidden = nn.Linear(features, HEAD_HIDDEN)
        self.out = nn.Linear(HEAD_HIDDEN, HEAD_WIDTH)
        if init == "uniform":
            for layer in (self.hidden, self.out):
                nn.init.uniform_(layer.weight)
                nn.init.zeros_(layer.bias)

    def forward(self, features: Tensor) -> Tensor:
        """``float32 [N, d]`` -> ``float32 [N, 128]``."""
        parameters = self.hidden.weight, self.hidden.bias, self.out.weight, self.out.bias
        if native_head.takes(features, parameters):
            out: Tensor = _CompiledContrastHead.apply(torch.is_grad_enabled(), features, *parameters)  # type: ignore[no-untyped-call]
            return out
        return self._layers(features)

    def _layers(self, features: Tensor) -> Tensor:
        h = F.relu(_norm(self.hidden(features)))
        return _norm(self.out(h))


class _CompiledContrastHead(torch.autograd.Function):
    """All layers and all gradients as one operation each."""

    @staticmethod
    def forward(ctx: Any, differentiable: bool, features: Tensor, *parameters: Tensor) -> Tensor:
        out, kept = native_head.forward(features, parameters, keep=differentiable)  # type: ignore[arg-type]
        if kept is not None:
            ctx.save_for_backward(kept, *parameters)
        return out

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        kept, *parameters = ctx.saved_tensors
        of_features, of_parameters = native_head.backward(gradients[0], kept, tuple(parameters))
        return None, of_features, *of_parameters


def _norm(x: Tensor) -> Tensor:
    return F.layer_norm(x, x.shape[-1:])
