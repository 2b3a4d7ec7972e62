"""The pixel encoder of SAC on DMControl: four 3×3 convolutions, then a linear layer and LayerNorm (section A.1.1).

Layout: activations are channels-last. The linear layer's weight is kept as ``[features, filters, h, w]`` in the same
memory format, so that flattening both is a view; its logical order, which checkpoints store, stays the plain one.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mcurl.native import onednn


class Convolutions(nn.Module):
    """Pixels ``[N, C, H, W]``, 0 to 255 in uint8 (or already widened), -> feature maps ``[N, filters, h, w]`` in the
    compute dtype.

    Args:
        channels: C, all stacked frames together.
        layers: the first has stride 2, the others 1; all 3×3 with ReLU.
        dtype: float32 or bfloat16 for the arithmetic; parameters stay float32.
        channels_last: memory format of activations and weights.
    """

    def __init__(
        self,
        channels: int,
        filters: int = 32,
        layers: int = 4,
        *,
        dtype: torch.dtype = torch.float32,
        channels_last: bool = True,
    ) -> None:
        super().__init__()
        self.dtype = dtype
        self.memory_format = torch.channels_last if channels_last else torch.contiguous_format
        self.weights = nn.ParameterList(
            _delta_orthogonal(torch.zeros(filters, channels if layer == 0 else filters, 3, 3)).contiguous(
                memory_format=self.memory_format
            )
            for layer in range(layers)
        )
        self.biases = nn.ParameterList(torch.zeros(filters) for _ in range(layers))

    def forward(self, pixels: Tensor) -> Tensor:
        x = pixels.to(self.dtype, memory_format=self.memory_format)
        for layer, (weight, bias) in enumerate(zip(self.weights, self.biases, strict=True)):
            # The division by 255 is folded into the first layer: 0..255 is exact in bfloat16, 1/255 is not.
            w = (weight / 255 if layer == 0 else weight).to(self.dtype)
            x = self._conv_relu(x, w, bias.to(self.dtype), 2 if layer == 0 else 1)
        return x

    def _conv_relu(self, x: Tensor, weight: Tensor, bias: Tensor, stride: int) -> Tensor:
        if onednn.supports_conv_relu(x):
            return onednn.conv_relu(x, weight, bias, stride)
        return F.relu(F.conv2d(x, weight, bias, stride=stride), inplace=True)

    def output_size(self, size: int) -> int:
        """Side of the feature map for square pixels of this side."""
        return (size - 3) // 2 + 1 - 2 * (len(self.weights) - 1)


class FeatureHead(nn.Module):
    """Feature maps -> ``float32 [N, d]``: a linear layer, then LayerNorm. No tanh after it."""

    def __init__(self, filters: int, side: int, features: int = 50, *, channels_last: bool = True) -> None:
        super().__init__()
        weight = torch.empty(features, filters * side * side)
        nn.init.orthogonal_(weight)
        form = torch.channels_last if channels_last else torch.contiguous_format
        self.weight = nn.Parameter(weight.view(features, filters, side, side).contiguous(memory_format=form))
        self.bias = nn.Parameter(torch.zeros(features))
        self.norm = nn.LayerNorm(features)
        self._last = channels_last

    def forward(self, maps: Tensor) -> Tensor:
        h = F.linear(self._flat(maps), self._flat(self.weight).to(maps.dtype))
        return self.norm(h.float() + self.bias)  # type: ignore[no-any-return]

    def _flat(self, x: Tensor) -> Tensor:
        return x.permute(0, 2, 3, 1).flatten(1) if self._last else x.flatten(1)


class PixelEncoder(nn.Module):
    """f_θ: ``uint8 [N, C, S, S]`` -> ``float32 [N, d]``: convolutions, which actor and critic share, and the features
    of one of them.

    Args:
        chunk: on a CPU, encode at most this many observations at a time, to bound the memory of the activations (about
            0.4 MB each in bfloat16).
    """

    def __init__(self, convolutions: Convolutions, side: int, features: int = 50, *, chunk: int = 512) -> None:
        super().__init__()
        self.convolutions = convolutions
        self.features = FeatureHead(
            len(convolutions.biases[0]),
            convolutions.output_size(side),
            features,
            channels_last=convolutions.memory_format == torch.channels_last,
        )
        self.width = features
        self.chunk = chunk

    def forward(self, pixels: Tensor) -> Tensor:
        if pixels.device.type != "cpu" or len(pixels) <= self.chunk:
            return self.features(self.convolutions(pixels))  # type: ignore[no-any-return]
        return torch.cat([self.features(self.convolutions(chunk)) for chunk in pixels.split(self.chunk)])


class Flat(nn.Module):
    """What stands in for an encoder, and for the features of one, where the observation is the simulator's state
    ``float32 [N, D]``."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.width = width
        self.convolutions = nn.Identity()

    @property
    def features(self) -> Flat:
        return self

    def forward(self, state: Tensor) -> Tensor:
        return state.float()


def _delta_orthogonal(weight: Tensor) -> Tensor:
    """Zero but for the kernel's centre, which is an orthogonal matrix (Xiao et al., 2018), with ReLU's gain."""
    nn.init.orthogonal_(weight[:, :, 1, 1], nn.init.calculate_gain("relu"))
    return weight


def centre_crop(frames: Tensor, size: int) -> Tensor:
    """``[..., H, W]`` -> ``[..., size, size]``, a view: how the agent sees when it acts."""
    top, left = (frames.shape[-2] - size) // 2, (frames.shape[-1] - size) // 2
    return frames[..., top : top + size, left : left + size]
