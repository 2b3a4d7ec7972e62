"""Noisy linear layers (Fortunato et al., 2018) and the dueling distributional head made of them (Wang et al., 2016; Bellemare et al., 2017).

Noise is an argument: who calls a head says which draw it sees. Nothing here draws while it computes.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def draw_noise(size: int, device: torch.device | str = "cpu", generator: torch.Generator | None = None) -> Tensor:
    """``float32 [size]`` of f(x) = sgn(x)·√|x| with Gaussian x, from torch's own generator unless one is given."""
    x = torch.randn(size, device=device, generator=generator)
    return x.sign() * x.abs().sqrt()


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

    def forward(self, x: Tensor, noise: Tensor | None) -> Tensor:
        """``x`` float32 [N, in] -> float32 [N, out]. ``noise`` float32 [in + out] is ε_in, then ε_out; None is the mean network."""
        y = F.linear(x, self.weight_mu, self.bias_mu)
        if noise is None:
            return y
        noise_in, noise_out = noise[: self.inputs], noise[self.inputs :]
        # (σ_w ⊙ ε_out ε_inᵀ) x = ε_out ⊙ σ_w (ε_in ⊙ x): the matrix of noise is never built.
        return torch.addcmul(y, F.linear(x * noise_in, self.weight_sigma, self.bias_sigma), noise_out)


class DuelingHead(nn.Module):
    """Features -> the logits of every action's return distribution: a value and an advantage stream, each of two noisy layers.

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
        self.noise_sizes = [layer.noise_size for layer in (self.value_hidden, self.value, self.advantage_hidden, self.advantage)]

    def draw_noise(self, generator: torch.Generator | None = None) -> Tensor:
        """Independent noise for the four layers, one after the other in one vector."""
        return draw_noise(sum(self.noise_sizes), self.value.bias_mu.device, generator)

    def forward(self, features: Tensor, noise: Tensor | None) -> Tensor:
        """``features`` float32 [N, d] -> logits float32 [N, A, atoms]; ``noise`` None is the mean network."""
        value_hidden, value, advantage_hidden, advantage = (None,) * 4 if noise is None else torch.split(noise, self.noise_sizes)
        v = self.value(F.relu(self.value_hidden(features, value_hidden)), value)[:, None]  # [N, 1, atoms]
        a = self.advantage(F.relu(self.advantage_hidden(features, advantage_hidden)), advantage).view(-1, self.actions, self.atoms)
        return v + a - a.mean(1, keepdim=True)  # type: ignore[no-any-return]
