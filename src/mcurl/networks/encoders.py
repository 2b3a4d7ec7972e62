"""The pixel encoder on DMControl: four 3×3 convolutions, a linear layer and LayerNorm (section A.1.1).

Activations are channels-last. The weight of the linear layer has the shape ``[features, filters, h, w]`` in the same
memory format, so that flattening is a view. Checkpoints store it in its logical order.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mcurl.native import amx, convolutions, onednn


class Convolutions(nn.Module):
    """3×3 convolutions with ReLU: pixels ``[N, C, H, W]`` -> feature maps ``[N, filters, h, w]``.

    Pixels are 0 to 255 in uint8 or a float dtype. The feature maps have the dtype of the computation.

    Args:
        channels: C, the channels of all stacked frames.
        filters: filters of each convolution.
        layers: number of convolutions; the first has stride 2, the others 1.
        dtype: dtype of the computation, float32 or bfloat16; parameters are float32.
        channels_last: memory format of activations and weights.
        offset: is subtracted from the pixels after their division by 255 (DrQ-v2: 0.5).
    """

    def __init__(
        self,
        channels: int,
        filters: int = 32,
        layers: int = 4,
        *,
        dtype: torch.dtype = torch.float32,
        channels_last: bool = True,
        offset: float = 0.0,
    ) -> None:
        super().__init__()
        self.dtype, self.offset = dtype, offset
        self.memory_format = torch.channels_last if channels_last else torch.contiguous_format
        self.weights = nn.ParameterList(
            _delta_orthogonal(torch.zeros(filters, channels if layer == 0 else filters, 3, 3)).contiguous(
                memory_format=self.memory_format
            )
            for layer in range(layers)
        )
        self.biases = nn.ParameterList(torch.zeros(filters) for _ in range(layers))

    def forward(self, pixels: Tensor) -> Tensor:
        x = pixels if pixels.dtype == torch.uint8 else pixels.to(self.dtype)
        biases = self.pixel_biases()
        parameters = (*self.weights, *biases)
        if convolutions.supports(x, parameters, self.dtype):
            return convolutions.apply(x, parameters, self.dtype)
        return self._layers(x.to(self.dtype, memory_format=self.memory_format), biases)

    def pixel_biases(self) -> list[Tensor]:
        """The biases ``[filters]`` for pixels of 0 to 255: without padding, the offset is a part of the first bias."""
        first, *others = self.biases
        if self.offset:
            rounded = (self.weights[0] / 255).to(self.dtype).float()  # as the products see it
            first = first - 255 * self.offset * rounded.sum((1, 2, 3))
        return [first, *others]

    def _layers(self, x: Tensor, biases: Sequence[Tensor]) -> Tensor:
        for layer, (weight, bias) in enumerate(zip(self.weights, biases, strict=True)):
            # The first weight absorbs the division by 255, because pixels of 0 to 255 are exact in bfloat16.
            w = (weight / 255 if layer == 0 else weight).to(self.dtype)
            x = self._conv_relu(x, w, bias.to(self.dtype), 2 if layer == 0 else 1)
        return x

    def _conv_relu(self, x: Tensor, weight: Tensor, bias: Tensor, stride: int) -> Tensor:
        if onednn.supports_conv_relu(x):
            return onednn.conv_relu(x, weight, bias, stride)
        return F.relu(F.conv2d(x, weight, bias, stride=stride), inplace=True)

    def output_size(self, size: int) -> int:
        """Side of the feature maps for square observations of this side."""
        return (size - 3) // 2 + 1 - 2 * (len(self.weights) - 1)


class FeatureHead(nn.Module):
    """Linear layer and LayerNorm: feature maps ``[N, filters, side, side]`` -> ``float32 [N, d]``.

    Attributes:
        tanh: whether tanh follows (DrQ-v2).
        channels_last: whether maps and weight are flattened in channels-last order. It can be changed afterwards: the
            features are equal up to rounding, and the other order copies the maps.
    """

    def __init__(
        self, filters: int, side: int, features: int = 50, *, channels_last: bool = True, tanh: bool = False
    ) -> None:
        super().__init__()
        weight = torch.empty(features, filters * side * side)
        nn.init.orthogonal_(weight)
        memory_format = torch.channels_last if channels_last else torch.contiguous_format
        self.weight = nn.Parameter(weight.view(features, filters, side, side).contiguous(memory_format=memory_format))
        self.bias = nn.Parameter(torch.zeros(features))
        self.norm = nn.LayerNorm(features)
        self.channels_last, self.tanh = channels_last, tanh

    def forward(self, maps: Tensor) -> Tensor:
        maps, weight = self.flat(maps), self.flat(self.weight)
        h = amx.features.apply(maps, weight) if amx.features.supports(maps, weight) else self._linear(maps, weight)
        features: Tensor = self.norm(h + self.bias)
        return features.tanh() if self.tanh else features

    def _linear(self, maps: Tensor, weight: Tensor) -> Tensor:
        return F.linear(maps, weight.to(maps.dtype)).float()

    def flat(self, x: Tensor) -> Tensor:
        """Maps, or the weight, as rows: ``[N, filters, side, side]`` -> ``[N, filters·side·side]``."""
        return x.permute(0, 2, 3, 1).flatten(1) if self.channels_last else x.flatten(1)


class PixelEncoder(nn.Module):
    """f_θ: convolutions and a feature head, ``uint8 [N, C, S, S]`` -> ``float32 [N, d]``.

    Args:
        convolutions: shared by actor and critic.
        side: S, side of the observations in pixels.
        features: d.
        tanh: whether tanh follows on LayerNorm.
        chunk: on a CPU, the largest number of observations that are encoded at a time. Without gradients, it bounds the
            memory of the activations (about 0.4 MB per observation in bfloat16).
    """

    def __init__(
        self, convolutions: Convolutions, side: int, features: int = 50, *, tanh: bool = False, chunk: int = 512
    ) -> None:
        super().__init__()
        self.convolutions = convolutions
        self.features = FeatureHead(
            len(convolutions.biases[0]),
            convolutions.output_size(side),
            features,
            channels_last=convolutions.memory_format == torch.channels_last,
            tanh=tanh,
        )
        self.width = features
        self.chunk = chunk

    def forward(self, pixels: Tensor) -> Tensor:
        if pixels.device.type != "cpu" or len(pixels) <= self.chunk:
            return self.features(self.convolutions(pixels))  # type: ignore[no-any-return]
        return torch.cat([self.features(self.convolutions(chunk)) for chunk in pixels.split(self.chunk)])


class StateEncoder(nn.Module):
    """Replaces encoder and feature head if observations are states: ``[N, D]`` -> ``float32 [N, D]``, unchanged."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.width = width
        self.convolutions = nn.Identity()

    @property
    def features(self) -> StateEncoder:
        return self

    def forward(self, state: Tensor) -> Tensor:
        return state.float()


def _delta_orthogonal(weight: Tensor) -> Tensor:
    """Set the kernels' centres of a zero weight to an orthogonal matrix (Xiao et al., 2018), with the gain of ReLU."""
    nn.init.orthogonal_(weight[:, :, 1, 1], nn.init.calculate_gain("relu"))
    return weight


def centre_crop(frames: Tensor, size: int) -> Tensor:
    """The centre crop that the policy receives, a view: ``[..., H, W]`` -> ``[..., size, size]``."""
    top, left = (frames.shape[-2] - size) // 2, (frames.shape[-1] - size) // 2
    return frames[..., top : top + size, left : left + size]
