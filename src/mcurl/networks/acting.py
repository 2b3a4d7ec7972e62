"""Policies of pixels on a few observations, as in acting and evaluation."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, Generic, Protocol, TypeVar

import torch
from torch import Tensor, nn

from mcurl.native import convolutions, dense, frames
from mcurl.networks.encoders import Convolutions, FeatureHead, centre_crop

T = TypeVar("T", covariant=True)


class Actor(Protocol[T]):
    """An actor of ``networks.heads``."""

    trunk: nn.Sequential
    """Of :func:`mcurl.networks.heads.mlp`."""

    def split(self, outputs: Tensor, /) -> T:
        """Outputs of the trunk ``float32 [N, out]`` -> what the actor returns."""

    def parameters(self) -> Iterator[nn.Parameter]:
        """As of a module."""


class PixelPolicy(Generic[T]):
    """The policy of pixels: centre crop, convolutions, feature head and actor, without gradients.

    With one observation, preparing compiled operations takes as long as running them. So their arguments are kept until
    an address or a shape changes. Values of parameters are not kept. The compiled linear layers multiply in float32: to
    round their weights would take longer than the products.

    Args:
        crop: side of the crop in pixels.
        convolutions, head, actor: the networks of the policy.
    """

    def __init__(self, crop: int, convolutions: Convolutions, head: FeatureHead, actor: Actor[T]) -> None:
        self.crop, self.convolutions, self.head, self.actor = crop, convolutions, head, actor
        self._parameters = [*convolutions.parameters(), *head.parameters(), *actor.parameters()]
        self._key: Any = None
        self._compiled: Callable[[Tensor], Tensor] | None = None

    @torch.no_grad()
    def __call__(self, observations: Tensor) -> T:
        """What the actor returns for ``uint8 [N, K*C, H, W]``; see ``GaussianActor`` and ``DeterministicActor``."""
        key = (
            [parameter.data_ptr() for parameter in self._parameters],
            observations.shape,
            observations.dtype,
            self.head.channels_last,
            torch.get_num_threads(),
            convolutions.operation(self.convolutions.dtype),
            dense.available() and frames.available(),
        )
        if key != self._key:
            self._key, self._compiled = key, self._bind(observations)
        return self.actor.split((self._compiled or self._layers)(observations))

    def _layers(self, observations: Tensor) -> Tensor:
        maps = self.convolutions(centre_crop(observations, self.crop))
        return self.actor.trunk(self.head(maps))  # type: ignore[no-any-return]

    def _bind(self, observations: Tensor) -> Callable[[Tensor], Tensor] | None:
        """The compiled version of ``_layers`` for such observations, if there is one."""
        n, layers = len(observations), self._linear_layers()
        if layers[0].weight.data_ptr() != self.head.weight.data_ptr():  # a copy, which would become outdated
            return None
        if not dense.supports(n, layers) or not frames.supports_centre_crop(observations, self.crop):
            return None
        crop, linear = frames.bind_centre_crop(observations, self.crop), self._bind_linear(n, layers)
        biases = self.convolutions.pixel_biases()
        parameters = (*self.convolutions.weights, *biases)
        example = crop(observations)
        if not convolutions.supports(example, parameters, self.convolutions.dtype):
            return None
        encode = convolutions.bind(example, parameters, self.convolutions.dtype)

        def compiled(observations: Tensor) -> Tensor:
            if self.convolutions.offset:
                biases[0].copy_(self.convolutions.pixel_biases()[0])
            return linear(self.head.flat(encode(crop(observations))))

        return compiled

    def _bind_linear(self, rows: int, layers: list[dense.Layer]) -> Callable[[Tensor], Tensor]:
        if not self.head.tanh:
            return dense.bind(rows, layers)
        head, trunk = dense.bind(rows, layers[:1]), dense.bind(rows, layers[1:])
        return lambda maps: trunk(head(maps).tanh_())

    def _linear_layers(self) -> list[dense.Layer]:
        head, (first, second, last) = self.head, [layer for layer in self.actor.trunk if isinstance(layer, nn.Linear)]
        return [
            dense.Layer(head.flat(head.weight), head.bias, norm=(head.norm.weight, head.norm.bias)),
            dense.Layer(first.weight, first.bias, relu=True),
            dense.Layer(second.weight, second.bias, relu=True),
            dense.Layer(last.weight, last.bias),
        ]
