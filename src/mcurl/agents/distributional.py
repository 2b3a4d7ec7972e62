"""Distributional Q-learning as pure functions in float32.

C51 (Bellemare et al., 2017) with double Q-learning (van Hasselt et al., 2016).
"""

from __future__ import annotations

import torch
from torch import Tensor


def make_support(atoms: int, low: float, high: float, device: torch.device | str = "cpu") -> Tensor:
    """The atoms z, ``float32 [atoms]``, evenly spaced from ``low`` to ``high``."""
    return torch.linspace(low, high, atoms, device=device)


def expected(logits: Tensor, support: Tensor) -> Tensor:
    """Expected returns (Q-values) of logits ``[..., atoms]``: ``[...]``."""
    return torch.softmax(logits, -1) @ support


def project(probabilities: Tensor, rewards: Tensor, discounts: Tensor, support: Tensor) -> Tensor:
    """Project the distribution of R + γ Z onto the atoms of Z (Φ T Z of C51).

    The mass of each shifted atom is split linearly between its two neighbours on the support. Atoms beyond the support
    are clipped to its ends.

    Args:
        probabilities: ``[B, atoms]``, distribution of Z at the next observation.
        rewards: ``[B]``, n-step sums of discounted rewards.
        discounts: ``[B]``, γ^k, or 0 if the episode terminated.
        support: ``[atoms]``.

    Returns:
        Probabilities ``[B, atoms]``.
    """
    spacing = (support[-1] - support[0]) / (len(support) - 1)
    shifted = (rewards[:, None] + discounts[:, None] * support).clamp(support[0], support[-1])  # [B, from]
    weights = (1 - (shifted[:, None, :] - support[:, None]).abs() / spacing).clamp(0, 1)  # [B, to, from]
    return (weights @ probabilities[:, :, None])[:, :, 0]


def double_q_target(
    online_logits: Tensor, target_logits: Tensor, rewards: Tensor, discounts: Tensor, support: Tensor
) -> Tensor:
    """The target distribution: the online network selects the next action, the target network evaluates it.

    Args:
        online_logits, target_logits: ``[B, A, atoms]`` at the next observation.
        rewards, discounts, support: as for :func:`project`.

    Returns:
        Probabilities ``[B, atoms]``.
    """
    action = expected(online_logits, support).argmax(1)  # [B]
    probabilities = torch.softmax(of_action(target_logits, action), -1)
    return project(probabilities, rewards, discounts, support)


def cross_entropy(logits: Tensor, actions: Tensor, target: Tensor) -> Tensor:
    """Cross-entropy −Σ m log p(a) of each sample, ``[B]``.

    Args:
        logits: ``[B, A, atoms]``.
        actions: ``int64 [B]``.
        target: m, probabilities ``[B, atoms]``.
    """
    return -(target * torch.log_softmax(of_action(logits, actions), -1)).sum(-1)


def of_action(values: Tensor, actions: Tensor) -> Tensor:
    """Select the values of one action per sample: ``[B, A, atoms]``, ``int64 [B]`` -> ``[B, atoms]``."""
    return values.gather(1, actions[:, None, None].expand(-1, 1, values.shape[2]))[:, 0]
