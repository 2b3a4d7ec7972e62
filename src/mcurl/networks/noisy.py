"""Noisy linear layers (Fortunato et al., 2018) and the dueling distributional head built of them.

Dueling: Wang et al., 2016; distributional: Bellemare et al., 2017. Noise is an argument: the caller samples it,
computes the noisy weights, and passes them to the head. Forward passes sample no noise.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mcurl.native import amx


def sample_noise(size: int, device: torch.device | str = "cpu", generator: torch.Generator | None = None) -> Tensor:
    """Sample noise f(x) = sgn(x)·√|x| with standard normal x: ``float32 [size]``.

    Args:
        size: number of values.
        device: device of the result.
        generator: None: PyTorch's default generator.
    """
    x = torch.randn(size, device=device, generator=generator)
    return x.sign() * x.abs().sqrt()


Weights = tuple[Tensor, Tensor]
"""Weight ``float32 [out, in]`` and bias ``[out]`` of a layer."""


class NoisyLinear(nn.Module):
    """A linear layer with noisy weights: y = (μ_w + σ_w ⊙ ε_out ε_inᵀ) x + μ_b + σ_b ⊙ ε_out.

    Args:
        inputs, outputs: number of inputs and outputs.
        sigma: σ₀. σ_w starts at σ₀/√inputs, σ_b at σ₀/√outputs (as in CURL's Atari release).
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
        """Weight and bias with noise ``float32 [in + out]``: ε_in, then ε_out; None: the means, without noise."""
        if noise is None:
            return self.weight_mu, self.bias_mu
        noise_in, noise_out = noise[: self.inputs], noise[self.inputs :]
        weight: Tensor = _Noisy.apply(self.weight_mu, self.weight_sigma, noise_in, noise_out)  # type: ignore[no-untyped-call]
        return weight, torch.addcmul(self.bias_mu, self.bias_sigma, noise_out)


class _Noisy(torch.autograd.Function):
    """μ_w + σ_w ⊙ ε_out ε_inᵀ, without a copy of the gradient of μ_w, which equals that of the result."""

    @staticmethod
    def forward(ctx: Any, mu: Tensor, sigma: Tensor, noise_in: Tensor, noise_out: Tensor) -> Tensor:
        ctx.save_for_backward(noise_in, noise_out)
        return torch.addcmul(mu, sigma * noise_in, noise_out[:, None])

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor, None, None]:
        noise_in, noise_out = ctx.saved_tensors
        return gradients[0], (gradients[0] * noise_in).mul_(noise_out[:, None]), None, None


class HeadWeights(NamedTuple):
    """The weights of a head for one noise sample."""

    noise: Tensor | None
    """The noise of all layers, concatenated; None: no noise."""
    parameters: Sequence[Tensor]
    """μ_w, σ_w, μ_b and σ_b of each layer."""
    layers: list[Weights] | None
    """Noisy weights of each layer; None: the accelerated head computes them from noise and parameters."""


class DuelingHead(nn.Module):
    """A dueling head: a value and an advantage stream, each of two noisy layers.

    Features ``float32 [N, d]`` -> logits ``float32 [N, A, atoms]`` of the return distribution of each action.

    Args:
        features: d, number of inputs (576).
        actions: A, number of actions.
        atoms: number of atoms of the return distribution.
        hidden: width of the hidden layer of each stream.
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

    def sample_noise(self, generator: torch.Generator | None = None) -> Tensor:
        """Sample independent noise for the four layers, concatenated in one vector ``float32 [sum(noise_sizes)]``."""
        return sample_noise(sum(self.noise_sizes), self.value.bias_mu.device, generator)

    def weights(self, noise: Tensor | None) -> HeadWeights:
        """The weights for a noise sample of :meth:`sample_noise`; None: the means, without noise."""
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
        """Features ``float32 [N, d]`` -> logits ``float32 [N, A, atoms]``."""
        return self.both(features, features[:0], weights)[0]

    def both(self, features: Tensor, next_features: Tensor, weights: HeadWeights) -> tuple[Tensor, Tensor]:
        """Logits of two batches with the same weights, in one pass.

        Args:
            features: ``float32 [N, d]``.
            next_features: ``float32 [M, d]``; no gradient flows through them.
            weights: from :meth:`weights`.

        Returns:
            Logits ``float32 [N, A, atoms]`` and ``[M, A, atoms]``.
        """
        if weights.layers is None:
            return amx.dueling.apply(features, next_features, weights.noise, weights.parameters)
        with torch.no_grad():
            next_logits = self._layers(next_features, weights.layers)
        return self._layers(features, weights.layers), next_logits

    def _layers(self, features: Tensor, layers: list[Weights]) -> Tensor:
        value_hidden, value, advantage_hidden, advantage = layers
        v = F.linear(F.relu(F.linear(features, *value_hidden)), *value)[:, None]  # [N, 1, atoms]
        a = F.linear(F.relu(F.linear(features, *advantage_hidden)), *advantage).view(-1, self.actions, self.atoms)
        return v + a - a.mean(1, keepdim=True)
