"""Noisy linear layers (Fortunato et al., 2018) and the dueling distributional head made of them (Wang et al., 2016;
Bellemare et al., 2017).

Noise is an argument: weights are made from a draw, and the caller of a head says which weights it uses. No forward pass
draws noise.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mcurl.native import amx


def draw_noise(size: int, device: torch.device | str = "cpu", generator: torch.Generator | None = None) -> Tensor:
    """``float32 [size]`` of f(x) = sgn(x)·√|x| with Gaussian x, from torch's own generator unless one is given."""
    x = torch.randn(size, device=device, generator=generator)
    return x.sign() * x.abs().sqrt()


Weights = tuple[Tensor, Tensor]


class NoisyLinear(nn.Module):
    """y = (μ_w + σ_w ⊙ ε_out ε_inᵀ) x + μ_b + σ_b ⊙ ε_out, with a learned σ for every weight.

    Args:
        inputs, outputs: widths.
        sigma: σ₀. The σ of weights start at σ₀/√in, those of biases at σ₀/√out (as in CURL's Atari release).
    """

    def __init__(self, inputs: int, outputs: int, sigma: float = 0.1) -> None:
        super().__init__()
        bound = 1 / math.sqrt(inputs)
        self.inputs, self.outputs = inputs, outputs
        self.noise_size = inputs + outputs
        self.weight_mu = nn.Parameter(torch.empty(outputs, inputs).uniform_(-bound, bound))
        self.weight_sigma = nn.Parameter(torch.full((outputs, inputs), sigma / math.sqrt(inputs)))
        self.bias_mu = nn.Parameter(torch.empty(outputs).uniform_(-bound, bound))
        self.bias_sigma = nn.Parameter(torch.full((outputs,), sigma / math.sqrt(outputs)))

    def weights(self, noise: Tensor | None) -> Weights:
        """The layer's weight ``float32 [out, in]`` and bias ``[out]`` under a draw ``float32 [in + out]``, ε_in, then
        ε_out; None: the mean's."""
        if noise is None:
            return self.weight_mu, self.bias_mu
        noise_in, noise_out = noise[: self.inputs], noise[self.inputs :]
        weight: Tensor = _Noisy.apply(self.weight_mu, self.weight_sigma, noise_in, noise_out)  # type: ignore[no-untyped-call]
        return weight, torch.addcmul(self.bias_mu, self.bias_sigma, noise_out)


class _Noisy(torch.autograd.Function):
    """μ_w + σ_w ⊙ ε_out ε_inᵀ. The gradient of μ_w is the weight's own."""

    @staticmethod
    def forward(ctx: Any, mu: Tensor, sigma: Tensor, noise_in: Tensor, noise_out: Tensor) -> Tensor:
        ctx.save_for_backward(noise_in, noise_out)
        return torch.addcmul(mu, sigma * noise_in, noise_out[:, None])

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor, None, None]:
        noise_in, noise_out = ctx.saved_tensors
        return gradients[0], (gradients[0] * noise_in).mul_(noise_out[:, None]), None, None


class HeadWeights(NamedTuple):
    """What a head multiplies under one draw."""

    noise: Tensor | None
    parameters: Sequence[Tensor]
    """μ and σ of the weight and of the bias of each layer."""
    layers: list[Weights] | None
    """None: the accelerated head makes them from noise and parameters while it multiplies."""


class DuelingHead(nn.Module):
    """Features -> the logits of every action's return distribution: a value and an advantage stream, each of two noisy
    layers.

    Args:
        features: width of the input (576).
        actions: A.
        atoms: of the distribution.
        hidden: width of each stream's hidden layer.
        sigma: σ₀ of the noisy layers.
    """

    def __init__(self, features: int, actions: int, atoms: int = 51, hidden: int = 256, sigma: float = 0.1) -> None:
        super().__init__()
        self.actions, self.atoms = actions, atoms
        self.value_hidden = NoisyLinear(features, hidden, sigma)
        self.value = NoisyLinear(hidden, atoms, sigma)
        self.advantage_hidden = NoisyLinear(features, hidden, sigma)
        self.advantage = NoisyLinear(hidden, actions * atoms, sigma)
        self.noise_sizes = [
            layer.noise_size for layer in (self.value_hidden, self.value, self.advantage_hidden, self.advantage)
        ]

    def draw_noise(self, generator: torch.Generator | None = None) -> Tensor:
        """Independent noise for the four layers, one after the other in one vector."""
        return draw_noise(sum(self.noise_sizes), self.value.bias_mu.device, generator)

    def weights(self, noise: Tensor | None) -> HeadWeights:
        """What :meth:`forward` multiplies under a draw; None: the mean network's. Made once for all that is seen under
        it."""
        layers = (self.value_hidden, self.value, self.advantage_hidden, self.advantage)
        parameters = [
            parameter
            for layer in layers
            for parameter in (layer.weight_mu, layer.weight_sigma, layer.bias_mu, layer.bias_sigma)
        ]
        if amx.dueling.supports(parameters):
            return HeadWeights(noise, parameters, None)
        parts = (None,) * 4 if noise is None else torch.split(noise, self.noise_sizes)
        return HeadWeights(noise, parameters, [layer.weights(part) for layer, part in zip(layers, parts, strict=True)])

    def forward(self, features: Tensor, weights: HeadWeights) -> Tensor:
        """``features`` float32 [N, d] -> logits float32 [N, A, atoms]."""
        return self.both(features, features[:0], weights)[0]

    def both(self, features: Tensor, others: Tensor, weights: HeadWeights) -> tuple[Tensor, Tensor]:
        """The logits of ``features`` [N, d], and those of ``others`` [M, d], through which no gradient flows, under the
        same draw."""
        if weights.layers is None:
            return amx.dueling.apply(features, others, weights.noise, weights.parameters)
        with torch.no_grad():
            other_logits = self._layers(others, weights.layers)
        return self._layers(features, weights.layers), other_logits

    def _layers(self, features: Tensor, layers: list[Weights]) -> Tensor:
        value_hidden, value, advantage_hidden, advantage = layers
        v = F.linear(F.relu(F.linear(features, *value_hidden)), *value)[:, None]  # [N, 1, atoms]
        a = F.linear(F.relu(F.linear(features, *advantage_hidden)), *advantage).view(-1, self.actions, self.atoms)
        return v + a - a.mean(1, keepdim=True)
