"""The data-efficient Atari encoder (van Hasselt et al., 2019) and the contrastive head on it (CURL's for Atari).

The encoder's two convolutions have stride = kernel = 5, so each is one matrix product over patches that do not overlap, and only the top left
75 × 75 of 84 × 84 pixels are ever seen. Parameters are those of the two convolutions, in the plain order.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

KERNEL = 5
CHANNELS = (32, 64)
HEAD_HIDDEN, HEAD_WIDTH = 256, 128
# A row of a patch is 5 bytes; copied as one 8-byte word it brings 3 pixels of its neighbour along, which meet zero weights.
WORD = 8


def patch_grid(height: int, width: int) -> tuple[int, int]:
    """Rows and columns of the second convolution's output (3 × 3 for 84 × 84)."""
    return height // KERNEL // KERNEL, width // KERNEL // KERNEL


def encoder_width(shape: tuple[int, int, int]) -> int:
    """Features of an observation of C, H, W."""
    rows, columns = patch_grid(*shape[1:])
    return CHANNELS[1] * rows * columns


class DataEfficientEncoder(nn.Module):
    """Convolutions 32@5×5 and 64@5×5 with strides of 5 and ReLUs: ``uint8 [N, C, H, W]`` -> ``float32 [N, 64·⌊H/25⌋·⌊W/25⌋]`` (576 for 84 × 84).

    ``forward`` is ``encode(patches(pixels))``; call them apart where two networks see the same pixels.

    Args:
        shape: C, H, W of the stacked observation.
        dtype: of the matrix products, ``torch.float32`` or ``torch.bfloat16`` (pixels are exact in both); the features are float32 either way.
    """

    def __init__(self, shape: tuple[int, int, int], *, dtype: torch.dtype = torch.float32) -> None:
        super().__init__()
        channels, height, width = shape
        self.grid = patch_grid(height, width)
        if min(self.grid) < 1:
            raise ValueError(f"observations of {height} × {width} are smaller than the {KERNEL**2} × {KERNEL**2} pixels that the encoder sees at once")
        self.dtype = dtype
        self.width = encoder_width(shape)
        self.conv1 = nn.Conv2d(channels, CHANNELS[0], KERNEL, stride=KERNEL)
        self.conv2 = nn.Conv2d(CHANNELS[0], CHANNELS[1], KERNEL, stride=KERNEL)

    def forward(self, pixels: Tensor) -> Tensor:
        return self.encode(self.patches(pixels))

    def patches(self, pixels: Tensor) -> Tensor:
        """``uint8 [N, C, H, W]`` -> patches ``dtype [N, Y·X·5·5, C·5·run]`` with values 0 to 255, row after row as the second convolution reads them.

        ``run`` is 5, or 8 where the rows of a patch are copied as words.
        """
        by_word = pixels.device.type == "cpu" and pixels.is_contiguous() and pixels.shape[3] >= self.grid[1] * KERNEL**2 + WORD - KERNEL
        view = _patches_by_word if by_word else _patches_by_pixel
        n, channels = pixels.shape[:2]
        return view(pixels, self.grid, self.dtype).view(n, -1, channels * KERNEL * (WORD if by_word else KERNEL))

    def encode(self, patches: Tensor) -> Tensor:
        """Patches -> features ``float32 [N, 64·Y·X]``, flattened from [64, Y, X] as a convolution's output would be."""
        n, _, size = patches.shape
        # The weights take the 1/255 of the pixels, and zeros for the pixels that words bring along.
        run = size // (self.conv1.in_channels * KERNEL)
        weight1 = F.pad(self.conv1.weight / 255, (0, run - KERNEL)).view(CHANNELS[0], size)
        weight2 = self.conv2.weight.permute(0, 2, 3, 1).reshape(CHANNELS[1], -1)
        h = self._linear(patches, weight1, self.conv1.bias).relu_()  # [N, Y·X·25, 32]
        h = self._linear(h.view(n, -1, weight2.shape[1]), weight2, self.conv2.bias).relu_()  # [N, Y·X, 64]
        return h.transpose(1, 2).flatten(1).float()

    def _linear(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        return F.linear(x, weight.to(self.dtype), None if bias is None else bias.to(self.dtype))


def _patches_by_pixel(pixels: Tensor, grid: tuple[int, int], dtype: torch.dtype) -> Tensor:
    """[N, Y, X, y, x, C, 5, 5]: patch (y, x) of the first convolution inside patch (Y, X) of the second."""
    Y, X = grid
    n, c = pixels.shape[:2]
    seen = pixels[:, :, : Y * KERNEL**2, : X * KERNEL**2].reshape(n, c, Y, KERNEL, KERNEL, X, KERNEL, KERNEL)
    return seen.permute(0, 2, 5, 3, 6, 1, 4, 7).to(dtype, memory_format=torch.contiguous_format)


def _patches_by_word(pixels: Tensor, grid: tuple[int, int], dtype: torch.dtype) -> Tensor:
    """[N, Y, X, y, x, C, 5, 8]: the same, five times as fast, each row of a patch followed by the three pixels right of it."""
    Y, X = grid
    array = pixels.numpy()
    n, c, y, x = array.strides
    shape = (len(array), Y, X, KERNEL, KERNEL, array.shape[1], KERNEL)
    words = np.ndarray(shape, np.int64, array.data, strides=(n, KERNEL**2 * y, KERNEL**2 * x, KERNEL * y, KERNEL * x, c, y))
    return torch.from_numpy(np.ascontiguousarray(words).view(np.uint8)).to(dtype)


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
