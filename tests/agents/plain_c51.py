"""Rainbow's loss written as plainly as possible, in float64: convolutions, matrices of noise, loops over samples,
actions and atoms."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor

Parameters = Mapping[str, Tensor]


def plain_projection(probabilities: list[float], reward: float, discount: float, support: list[float]) -> list[float]:
    """Algorithm 1 of Bellemare et al. (2017), one atom at a time. A Tz that falls on an atom gives it everything."""
    low, high, atoms = support[0], support[-1], len(support)
    spacing = (high - low) / (atoms - 1)
    out = [0.0] * atoms
    for p, z in zip(probabilities, support, strict=True):
        at = (min(max(reward + discount * z, low), high) - low) / spacing
        below, above = math.floor(at), math.ceil(at)
        if below == above:
            out[below] += p
        else:
            out[below] += p * (above - at)
            out[above] += p * (at - below)
    return out


def features(p: Parameters, pixels: Tensor) -> Tensor:
    """``uint8 [C, H, W]`` -> ``float64 [d]``."""
    x = pixels.double()[None] / 255
    x = F.relu(F.conv2d(x, p["encoder.conv1.weight"].double(), p["encoder.conv1.bias"].double(), stride=5))
    x = F.relu(F.conv2d(x, p["encoder.conv2.weight"].double(), p["encoder.conv2.bias"].double(), stride=5))
    return x.flatten()


def noisy(p: Parameters, name: str, x: Tensor, noise: Tensor) -> Tensor:
    mu, sigma = p[f"head.{name}.weight_mu"].double(), p[f"head.{name}.weight_sigma"].double()
    noise_in, noise_out = noise[: mu.shape[1]].double(), noise[mu.shape[1] :].double()
    bias = p[f"head.{name}.bias_mu"].double() + p[f"head.{name}.bias_sigma"].double() * noise_out
    return (mu + sigma * torch.outer(noise_out, noise_in)) @ x + bias


def distributions(p: Parameters, pixels: Tensor, noise: Tensor, actions: int, atoms: int) -> list[list[float]]:
    """The return distribution of every action."""
    x, at, parts = features(p, pixels), 0, []
    for name in ("value_hidden", "value", "advantage_hidden", "advantage"):
        size = sum(p[f"head.{name}.weight_mu"].shape)
        parts.append(noise[at : at + size])
        at += size
    value = noisy(p, "value", F.relu(noisy(p, "value_hidden", x, parts[0])), parts[1])
    advantage = noisy(p, "advantage", F.relu(noisy(p, "advantage_hidden", x, parts[2])), parts[3])
    rows = [[float(advantage[action * atoms + atom]) for atom in range(atoms)] for action in range(actions)]
    out = []
    for action in range(actions):
        logits = [
            float(value[atom]) + rows[action][atom] - sum(row[atom] for row in rows) / actions for atom in range(atoms)
        ]
        scale = sum(math.exp(logit) for logit in logits)
        out.append([math.exp(logit) / scale for logit in logits])
    return out


def mean(distribution: list[float], support: list[float]) -> float:
    return sum(p * z for p, z in zip(distribution, support, strict=True))


def rl_loss(
    online: Parameters,
    target: Parameters,
    noise: Tensor,
    target_noise: Tensor,
    sample: tuple[Tensor, int, float, Tensor, float],
    actions: int,
    support: list[float],
) -> float:
    """The cross-entropy of one transition (observation, action, n-step return, next observation, discount)."""
    obs, action, reward, next_obs, discount = sample
    choices = [mean(d, support) for d in distributions(online, next_obs, noise, actions, len(support))]
    chosen = choices.index(max(choices))
    goal = plain_projection(
        distributions(target, next_obs, target_noise, actions, len(support))[chosen], reward, discount, support
    )
    taken = distributions(online, obs, noise, actions, len(support))[action]
    return -sum(m * math.log(p) for m, p in zip(goal, taken, strict=True))
