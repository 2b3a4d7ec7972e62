"""The data-efficient Atari encoder (van Hasselt et al., 2019) and the contrastive head on it (CURL's for Atari).

The encoder's two convolutions have stride = kernel = 5, so each is one matrix product over patches that do not overlap, and only the top left
75 × 75 of 84 × 84 pixels are ever seen. Parameters are those of the two convolutions, in the plain order.
"""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mcurl.errors import UserError

KERNEL = 5
CHANNELS = (32, 64)
HEAD_HIDDEN, HEAD_WIDTH = 256, 128
# A row of a patch has 5 bytes; copied as a word of 8 it brings 3 pixels of its neighbour along.
WORD = 8
# Observations cut into patches at a time: so many bytes stay in the processor's cache until they are converted.
CUT = 32


def encoder_width(shape: tuple[int, int, int]) -> int:
    """Features of an observation of C, H, W: 576 for 84 × 84."""
    return CHANNELS[1] * (shape[1] // KERNEL**2) * (shape[2] // KERNEL**2)


class DataEfficientEncoder(nn.Module):
    """Convolutions 32@5×5 and 64@5×5 with strides of 5 and ReLUs: ``uint8 [N, C, H, W]`` -> ``float32 [N, 64·Y·X]``, where Y·X is ⌊H/25⌋·⌊W/25⌋.

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
            raise UserError(f"observations of {height} × {width} are smaller than the {KERNEL**2} × {KERNEL**2} pixels that a feature sees")
        self.dtype = dtype
        self.width = encoder_width(shape)
        self.conv1 = nn.Conv2d(channels, CHANNELS[0], KERNEL, stride=KERNEL)
        self.conv2 = nn.Conv2d(CHANNELS[0], CHANNELS[1], KERNEL, stride=KERNEL)

    def forward(self, pixels: Tensor) -> Tensor:
        return self.encode(self.patches(pixels))

    def patches(self, pixels: Tensor) -> Tensor:
        """What the first convolution multiplies: ``dtype [N, Y·X·5·5, C·5·run]`` with values 0 to 255; pixels that were gathered as such pass as they are.

        Patch (y, x) of the first convolution stands in patch (Y, X) of the second. ``run`` counts the pixels of a row: 5, or 8 where rows are copied as words.
        """
        if pixels.dtype != torch.uint8:
            return pixels
        by_word = pixels.device.type == "cpu" and pixels.is_contiguous() and pixels.shape[3] >= self.columns * KERNEL**2 + WORD - KERNEL
        patches = self._by_word(pixels) if by_word else self._by_pixel(pixels)
        return patches.view(len(pixels), self.rows * self.columns * KERNEL**2, -1)

    def _by_pixel(self, pixels: Tensor) -> Tensor:
        """``[N, Y, X, 5, 5, C, 5, 5]``."""
        (n, channels), Y, X = pixels.shape[:2], self.rows, self.columns
        seen = pixels[:, :, : Y * KERNEL**2, : X * KERNEL**2].reshape(n, channels, Y, KERNEL, KERNEL, X, KERNEL, KERNEL)
        return seen.permute(0, 2, 5, 3, 6, 1, 4, 7).to(self.dtype, memory_format=torch.contiguous_format)

    def _by_word(self, pixels: Tensor) -> Tensor:
        """``[N, Y, X, 5, 5, C, 5·8]``: the same five times as fast; the pixels that a word brings along from the right meet zero weights."""
        frames = pixels.numpy()
        n, c, y, x = frames.strides
        shape = (len(frames), self.rows, self.columns, KERNEL, KERNEL, frames.shape[1], KERNEL)
        words = np.ndarray(shape, np.int64, frames.data, strides=(n, KERNEL**2 * y, KERNEL**2 * x, KERNEL * y, KERNEL * x, c, y))
        patches = torch.empty((*shape[:-1], KERNEL * WORD), dtype=self.dtype)
        for i in range(0, len(words), CUT):
            patches[i : i + CUT] = torch.from_numpy(np.ascontiguousarray(words[i : i + CUT]).view(np.uint8))
        return patches

    def encode(self, patches: Tensor) -> Tensor:
        """Patches -> features ``float32 [N, 64·Y·X]``, flattened from [64, Y, X] as a convolution's output would be."""
        (weight1, bias1), (weight2, bias2) = _parameters(self.conv1), _parameters(self.conv2)
        # The first weights take the 1/255 of the pixels, and zeros for what words bring along.
        run = patches.shape[2] // (KERNEL * weight1.shape[1])
        weight1 = F.pad(weight1 / 255, (0, run - KERNEL)).view(CHANNELS[0], -1)
        weight2 = weight2.permute(0, 2, 3, 1).reshape(CHANNELS[1], -1)
        h = self._product(patches.flatten(0, 1), weight1, bias1)  # [N·Y·X·25, 32]
        h = self._product(h.view(-1, weight2.shape[1]), weight2, bias2)  # [N·Y·X, 64]
        return h.view(len(patches), -1, CHANNELS[1]).transpose(1, 2).flatten(1).float()

    def _product(self, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        return linear_relu(x, weight.to(self.dtype), bias.to(self.dtype))


def _parameters(layer: nn.Conv2d) -> tuple[Tensor, Tensor]:
    assert layer.bias is not None
    return layer.weight, layer.bias


class _LinearReLU(torch.autograd.Function):
    """oneDNN's matrix product with bias and ReLU applied before the result is written, with a gradient, which needs the output alone."""

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
    """Features -> contrastive features: Linear 256, LayerNorm, ReLU, Linear 128, LayerNorm; the norms have no parameters.

    In float32: what early features, and all that CURL's matrices make of them, have in common is many times what tells them apart, and its rounding to
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
        h = F.relu(_norm(self.hidden(features)))
        return _norm(self.out(h))


def _norm(x: Tensor) -> Tensor:
    return F.layer_norm(x, x.shape[-1:])
