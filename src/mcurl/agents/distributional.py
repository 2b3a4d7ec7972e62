"""Distributional Q-learning (C51; Bellemare et al., 2017) with double-Q action choice (van Hasselt et al., 2016), as
pure functions in float32."""

from __future__ import annotations

import torch
from torch import Tensor


def make_support(atoms: int, low: float, high: float, device: torch.device | str = "cpu") -> Tensor:
    """z: ``float32 [atoms]``, evenly spaced from ``low`` to ``high``."""
    return torch.linspace(low, high, atoms, device=device)


def expected(logits: Tensor, support: Tensor) -> Tensor:
    """Q-values: logits ``[..., atoms]`` -> ``[...]``."""
    return torch.softmax(logits, -1) @ support


def project(probabilities: Tensor, rewards: Tensor, discounts: Tensor, support: Tensor) -> Tensor:
    """Φ T Z: the distribution of R + γ Z on the atoms of Z. Each atom's mass goes to its two neighbours by their
    nearness; beyond the ends it stays at the end.

    Args:
        probabilities: ``[B, atoms]`` of Z at the next observation.
        rewards: ``[B]``, n-step returns.
        discounts: ``[B]``, γ^k, and 0 where the episode terminated.
        support: ``[atoms]``.
    """
    spacing = (support[-1] - support[0]) / (len(support) - 1)
    moved = (rewards[:, None] + discounts[:, None] * support).clamp(support[0], support[-1])  # [B, from]
    share = (1 - (moved[:, None, :] - support[:, None]).abs() / spacing).clamp(0, 1)  # [B, to, from]
    return (share @ probabilities[:, :, None])[:, :, 0]


def double_q_target(
    online_logits: Tensor, target_logits: Tensor, rewards: Tensor, discounts: Tensor, support: Tensor
) -> Tensor:
    """The distribution ``[B, atoms]`` to learn: the online network chooses the next action, the target network says
    what it is worth.

    Args:
        online_logits, target_logits: ``[B, A, atoms]`` at the next observation.
    """
    action = expected(online_logits, support).argmax(1)  # [B]
    chosen = torch.softmax(of_action(target_logits, action), -1)
    return project(chosen, rewards, discounts, support)


def cross_entropy(logits: Tensor, actions: Tensor, target: Tensor) -> Tensor:
    """−Σ m log p(a) for each sample ``[B]``: logits ``[B, A, atoms]``, actions ``int64 [B]``, target distribution m
    ``[B, atoms]``."""
    return -(target * torch.log_softmax(of_action(logits, actions), -1)).sum(-1)


def of_action(values: Tensor, actions: Tensor) -> Tensor:
    """``[B, A, atoms]`` -> ``[B, atoms]``."""
    return values.gather(1, actions[:, None, None].expand(-1, 1, values.shape[2]))[:, 0]
