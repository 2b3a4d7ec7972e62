"""Actors and critics on features."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mcurl.native import amx

LOG_STD_MIN, LOG_STD_MAX = -10.0, 2.0


def mlp(inputs: int, hidden: int, outputs: int) -> nn.Sequential:
    """Three linear layers with ReLU between them; orthogonal weights, zero biases."""
    layers = nn.Sequential(
        nn.Linear(inputs, hidden), nn.ReLU(), nn.Linear(hidden, hidden), nn.ReLU(), nn.Linear(hidden, outputs)
    )
    for layer in layers:
        if isinstance(layer, nn.Linear):
            nn.init.orthogonal_(layer.weight)
            nn.init.zeros_(layer.bias)
    return layers


def outputs(x: Tensor, *nets: nn.Sequential) -> Sequence[Tensor]:
    """The outputs of nets of :func:`mlp` for the same inputs ``float32 [N, in]``: ``float32 [N, out]`` each."""
    parameters = [parameter for net in nets for parameter in net.parameters()]
    return amx.mlp.apply(x, parameters).unbind() if amx.mlp.supports(x, parameters) else [net(x) for net in nets]


class TwinQ(nn.Module):
    """Q_ω21 and Q_ω22: features ``[N, d]`` and actions ``[N, A]`` -> two Q-values, ``float32 [N]`` each."""

    def __init__(self, features: int, actions: int, hidden: int = 1024) -> None:
        super().__init__()
        self.first, self.second = mlp(features + actions, hidden, 1), mlp(features + actions, hidden, 1)

    def forward(self, features: Tensor, action: Tensor) -> tuple[Tensor, Tensor]:
        first, second = outputs(torch.cat([features, action], 1), self.first, self.second)
        return first[:, 0], second[:, 0]


class GaussianActor(nn.Module):
    """π_ω1: features ``[N, d]`` -> a diagonal Gaussian, which tanh squashes into [-1, 1]."""

    def __init__(self, features: int, actions: int, hidden: int = 1024) -> None:
        super().__init__()
        self.trunk = mlp(features, hidden, 2 * actions)

    def forward(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and log standard deviation before squashing, ``float32 [N, A]`` each.

        The log standard deviation is rescaled into [-10, 2] by tanh.
        """
        return self.split(outputs(features, self.trunk)[0])

    @staticmethod
    def split(outputs: Tensor) -> tuple[Tensor, Tensor]:
        """Outputs of the trunk ``float32 [N, 2A]`` -> mean and log standard deviation, as in :meth:`forward`."""
        mean, log_std = outputs.chunk(2, 1)
        return mean, LOG_STD_MIN + 0.5 * (LOG_STD_MAX - LOG_STD_MIN) * (torch.tanh(log_std) + 1)


class DeterministicActor(nn.Module):
    """DrQ-v2's policy: features ``[N, d]`` -> actions in (-1, 1), ``float32 [N, A]``."""

    def __init__(self, features: int, actions: int, hidden: int = 1024) -> None:
        super().__init__()
        self.trunk = mlp(features, hidden, actions)

    def forward(self, features: Tensor) -> Tensor:
        return self.split(outputs(features, self.trunk)[0])

    @staticmethod
    def split(outputs: Tensor) -> Tensor:
        """Outputs of the trunk ``float32 [N, A]`` -> actions."""
        return outputs.tanh()


def squashed_sample(mean: Tensor, log_std: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
    """Actions a = tanh(μ + σ ε) ``[N, A]`` and their log-probabilities ``[N]``, in float32.

    Args:
        mean, log_std: ``[N, A]``, from :class:`GaussianActor`.
        noise: ε, standard normal ``[N, A]``.
    """
    u = mean + log_std.exp() * noise
    gaussian = -0.5 * noise.square() - log_std - 0.9189385332046727  # ½ log 2π
    log_slope = 2 * (0.6931471805599453 - u - F.softplus(-2 * u))  # log(1 − tanh² u) without cancellation
    return u.tanh(), (gaussian - log_slope).sum(1)
