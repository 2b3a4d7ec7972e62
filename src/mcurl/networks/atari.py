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
# Observations cut into patches at a time: so many bytes stay in the processor's cache until they are converted.
CUT = 32


def encoder_width(shape: tuple[int, int, int]) -> int:
    """Features of an observation of C, H, W: 576 for 84 × 84."""
    return CHANNELS[1] * (shape[1] // KERNEL**2) * (shape[2] // KERNEL**2)


class DataEfficientEncoder(nn.Module):
    """Convolutions 32@5×5 and 64@5×5 with strides of 5 and ReLUs: ``uint8 [N, C, H, W]`` -> ``float32 [N, 64·Y·X]``, where Y·X is ⌊H/25⌋·⌊W/25⌋.

    ``encode(patches(pixels))`` is the same for a few observations that two networks see.

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
        # Three neighbouring patches in one product: most of its weights are zeros, which costs less on matrix units than cutting single patches.
        self.group = 3 if dtype == torch.bfloat16 and self.columns * KERNEL % 3 == 0 else 1
        self.conv1 = nn.Conv2d(channels, CHANNELS[0], KERNEL, stride=KERNEL)
        self.conv2 = nn.Conv2d(CHANNELS[0], CHANNELS[1], KERNEL, stride=KERNEL)

    def forward(self, pixels: Tensor) -> Tensor:
        return self.encode(self.patches(pixels))

    def patches(self, pixels: Tensor) -> Tensor:
        """Groups of neighbouring patches, in reading order: ``dtype [N·5Y·5X/group, C·5·run]`` with values 0 to 255.

        ``run`` counts the pixels taken from each row: 5·group, or more where they are copied as words.
        """
        run = self._run(pixels)
        groups = self._by_pixel(pixels) if run == KERNEL * self.group else self._by_word(pixels, run)
        return groups.view(-1, pixels.shape[1] * KERNEL * run)

    def _run(self, pixels: Tensor) -> int:
        word = 16 if self.group == 3 else 8
        size = self.columns * KERNEL**2 + word - KERNEL * self.group
        by_word = pixels.device.type == "cpu" and pixels.is_contiguous() and pixels.shape[3] >= size
        return word if by_word else KERNEL * self.group

    def _by_pixel(self, pixels: Tensor) -> Tensor:
        """``[N, 5Y, 5X/group, C, 5, 5·group]``."""
        n, channels = pixels.shape[:2]
        seen = pixels[:, :, : self.rows * KERNEL**2, : self.columns * KERNEL**2]
        split = seen.reshape(n, channels, self.rows * KERNEL, KERNEL, self.columns * KERNEL // self.group, KERNEL * self.group)
        return split.permute(0, 2, 4, 1, 3, 5).to(self.dtype, memory_format=torch.contiguous_format)

    def _by_word(self, pixels: Tensor, word: int) -> Tensor:
        """``[N, 5Y, 5X/group, C, 5·word]``: the same several times as fast; the pixels that a word brings along from the right meet zero weights."""
        frames = pixels.numpy()
        n, c, y, x = frames.strides
        shape = (len(frames), self.rows * KERNEL, self.columns * KERNEL // self.group, frames.shape[1], KERNEL)
        words = np.ndarray(shape, f"V{word}", frames.data, strides=(n, KERNEL * y, KERNEL * self.group * x, c, y))
        patches = torch.empty((*shape[:-1], KERNEL * word), dtype=self.dtype)
        for i in range(0, len(words), CUT):
            patches[i : i + CUT] = torch.from_numpy(np.ascontiguousarray(words[i : i + CUT]).view(np.uint8))
        return patches

    def encode(self, patches: Tensor) -> Tensor:
        """Patches -> features ``float32 [N, 64·Y·X]``, flattened from [64, Y, X] as a convolution's output would be."""
        Y, X, (filters, features) = self.rows, self.columns, CHANNELS
        h = linear_relu(patches, *self._grouped_filters(patches.shape[1]))  # [N·5Y·5X/group, group·32]
        h = h.view(-1, Y, KERNEL, X, KERNEL * filters).transpose(2, 3).reshape(-1, KERNEL**2 * filters)  # [N·Y·X, 5·5·32]
        weight, bias = _parameters(self.conv2)
        h = linear_relu(h, weight.permute(0, 2, 3, 1).reshape(features, -1).to(self.dtype), bias.to(self.dtype))  # [N·Y·X, 64]
        return h.view(-1, Y * X, features).transpose(1, 2).flatten(1).float()

    def _grouped_filters(self, size: int) -> tuple[Tensor, Tensor]:
        """The first convolution for groups of patches: ``[group·32, size]`` and ``[group·32]``.

        Its filters are shifted to each patch of a group, and take the pixels' 1/255.
        """
        weight, bias = _parameters(self.conv1)
        run = size // (weight.shape[1] * KERNEL)
        group = run // KERNEL
        shifted = [F.pad(weight / 255, (KERNEL * i, run - KERNEL * (i + 1))) for i in range(group)]
        return torch.stack(shifted).view(-1, size).to(self.dtype), bias.repeat(group).to(self.dtype)


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

    Args:
        features: width of the encoder's features (576).
        init: ``"uniform"``: matrices from U[0, 1) and zero biases (CURL's); ``"standard"``: PyTorch's.
        dtype: of the matrix products; norms and output are float32.
    """

    def __init__(self, features: int, init: Literal["uniform", "standard"] = "standard", *, dtype: torch.dtype = torch.float32) -> None:
        super().__init__()
        self.dtype = dtype
        self.hidden = nn.Linear(features, HEAD_HIDDEN)
        self.out = nn.Linear(HEAD_HIDDEN, HEAD_WIDTH)
        if init == "uniform":
            for layer in (self.hidden, self.out):
                nn.init.uniform_(layer.weight)
                nn.init.zeros_(layer.bias)

    def forward(self, features: Tensor) -> Tensor:
        """``float32 [N, d]`` -> ``float32 [N, 128]``."""
        return self._norm(self.out, F.relu(self._norm(self.hidden, features)))

    def _norm(self, layer: nn.Linear, x: Tensor) -> Tensor:
        y = F.linear(x.to(self.dtype), layer.weight.to(self.dtype), layer.bias.to(self.dtype))
        return F.layer_norm(y.float(), y.shape[-1:])
