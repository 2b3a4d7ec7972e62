"""The data-efficient Atari encoder (van Hasselt et al., 2019) and CURL's contrastive head for Atari.

Both convolutions have stride = kernel size = 5. So each one is a matrix product over patches that do not overlap, and
of 84 × 84 pixels only the top left 75 × 75 are used. The parameters have the layout of ``nn.Conv2d``.
"""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mcurl.errors import UserError
from mcurl.native import amx, frames, onednn

KERNEL = 5
CHANNELS = (32, 64)
HEAD_HIDDEN, HEAD_WIDTH = 256, 128


def encoder_width(shape: tuple[int, int, int]) -> int:
    """Number of features of an observation of ``shape`` (C, H, W): 576 for 84 × 84 pixels."""
    return CHANNELS[1] * (shape[1] // KERNEL**2) * (shape[2] // KERNEL**2)


class DataEfficientEncoder(nn.Module):
    """Two convolutions with ReLU, 32 and 64 filters of 5 × 5 with stride 5.

    ``uint8 [N, C, H, W]`` -> ``float32 [N, 64·Y·X]`` with Y = ⌊H/25⌋ and X = ⌊W/25⌋. The result is
    ``encode(patches(pixels))``; two networks can share the patches.

    Args:
        shape: (C, H, W) of the stacked observation.
        dtype: dtype of the matrix products (pixels are exact in bfloat16); the features are always float32.

    Raises:
        UserError: the observations are smaller than 25 × 25 pixels.
    """

    def __init__(self, shape: tuple[int, int, int], *, dtype: torch.dtype = torch.float32) -> None:
        super().__init__()
        channels, height, width = shape
        self.rows, self.columns = height // KERNEL**2, width // KERNEL**2  # Y, X
        if not self.rows * self.columns:
            raise UserError(
                f"observations of {height} × {width} pixels are smaller than the encoder's minimum of "
                f"{KERNEL**2} × {KERNEL**2}"
            )
        self.dtype = dtype
        self.width = encoder_width(shape)
        self.conv1 = nn.Conv2d(channels, CHANNELS[0], KERNEL, stride=KERNEL)
        # The matrix product reads the weight in this order.
        conv2 = nn.Conv2d(CHANNELS[0], CHANNELS[1], KERNEL, stride=KERNEL)
        self.conv2 = conv2.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def forward(self, pixels: Tensor) -> Tensor:
        return self.encode(self.patches(pixels))

    def patches(self, pixels: Tensor) -> Tensor:
        """Cut pixels ``uint8 [N, C, H, W]`` into the patches of the first convolution, ``uint8 [N, Y·X·5·5, C·5·5]``.

        The patches are grouped by the patches of the second convolution. Patches that the replay has cut are returned
        unchanged.
        """
        if pixels.dim() == 3:
            return pixels
        (n, channels, _, _), Y, X = pixels.shape, self.rows, self.columns
        shape = (n, Y * X * KERNEL**2, channels * KERNEL**2)
        if frames.supports_patches(pixels):
            return frames.patches(pixels, Y, X).view(shape)
        used = pixels[:, :, : Y * KERNEL**2, : X * KERNEL**2]
        blocks = used.reshape(n, channels, Y, KERNEL, KERNEL, X, KERNEL, KERNEL)
        return blocks.permute(0, 2, 5, 3, 6, 1, 4, 7).reshape(shape)

    def encode(self, patches: Tensor) -> Tensor:
        """Patches -> features ``float32 [N, 64·Y·X]``, flattened from ``[64, Y, X]``."""
        parameters = *_parameters(self.conv1), *_parameters(self.conv2)
        if self.dtype == torch.bfloat16 and amx.encoder.supports(patches, parameters):
            return amx.encoder.apply(patches, parameters)
        return self._layers(patches, *parameters)

    def _layers(self, patches: Tensor, weight1: Tensor, bias1: Tensor, weight2: Tensor, bias2: Tensor) -> Tensor:
        # The weights absorb the division by 255, because pixels of 0 to 255 are exact in bfloat16.
        h = self._product(patches.flatten(0, 1).to(self.dtype), weight1.flatten(1) / 255, bias1)  # [N·Y·X·25, 32]
        weight2 = weight2.permute(0, 2, 3, 1).reshape(CHANNELS[1], -1)
        h = self._product(h.view(-1, weight2.shape[1]), weight2, bias2)  # [N·Y·X, 64]
        return h.view(len(patches), -1, CHANNELS[1]).transpose(1, 2).flatten(1).float()

    def _product(self, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        weight, bias = weight.to(self.dtype), bias.to(self.dtype)
        if onednn.supports_linear_relu(x):
            return onednn.linear_relu(x, weight, bias)
        return F.linear(x, weight, bias).relu_()


def _parameters(layer: nn.Conv2d) -> tuple[Tensor, Tensor]:
    assert layer.bias is not None
    return layer.weight, layer.bias


class ContrastHead(nn.Module):
    """The contrastive head: Linear 256, LayerNorm, ReLU, Linear 128, LayerNorm; the norms have no parameters.

    It computes in float32. At the start of training, the features of all observations are nearly equal. Rounding them
    to bfloat16 would lose a tenth of their differences.

    Args:
        features: number of features of the encoder (576).
        init: ``"uniform"``: weights from U[0, 1) and zero biases, as in CURL; ``"standard"``: PyTorch's default.
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
