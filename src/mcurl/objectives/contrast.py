"""InfoNCE (eq. 1) and CURL's objective built on it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mcurl.objectives.base import ContrastSpec, Encode, Loss, Objective


def info_nce(logits: Tensor, targets: Tensor, selected: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """InfoNCE (eq. 1) over the selected queries, with a fixed shape: nothing selected gives 0, not NaN.

    Args:
        logits: ``float32 [Q, K]``, similarity of each query with each key, divided by the temperature.
        targets: ``int64 [Q]``, the key that matches each query.
        selected: ``bool [Q]``, the queries that count (M_i of eq. 4).

    Returns:
        The mean over selected queries, the fraction of them whose own key is the most similar, and the loss of each
        query ``float32 [Q]`` (unselected: 0).
    """
    each = F.cross_entropy(logits, targets, reduction="none") * selected
    count = selected.sum().clamp_min(1)
    hits = (logits.detach().argmax(1) == targets) & selected
    return each.sum() / count, hits.sum() / count, each


@dataclass(frozen=True)
class CurlSettings:
    """CURL (Srinivas et al., 2020): one view of a frame must find the other among the batch."""

    scale: float = 1.0
    """Factor on the logits qᵀWk (CURL: 1 on DMControl, 0.1 on Atari)."""
    encoder_rate: float = 2.0
    """SAC: learning rate of the encoder through this loss, as a multiple of the base rate (CURL's code has the encoder
    in two Adams). Not with sac.joint_optimizer."""
    weight: float = 1.0
    """λ of eq. 6. SAC gives the contrastive loss an Adam of its own, where a weight has no effect: refused there unless
    sac.joint_optimizer."""


class Curl(Objective):
    """CURL: anchors and keys are two random views of the RL batch; similarity qᵀWk with W from U[0, 1)."""

    def __init__(self, settings: CurlSettings, features: int) -> None:
        super().__init__()
        self.settings = settings
        self.views = ContrastSpec("rl")
        self.W = nn.Parameter(torch.rand(features, features))

    def loss(
        self, query_pixels: Tensor, key_pixels: Tensor, plan: Any, encode_query: Encode, encode_key: Encode
    ) -> Loss:
        q = encode_query(query_pixels)  # [B, d]
        with torch.no_grad():
            k = encode_key(key_pixels)  # [B, d]
        logits = self.settings.scale * (q @ self.W @ k.T)  # [B, B]
        logits = logits - logits.detach().amax(1, keepdim=True)
        own = torch.arange(len(q), device=q.device)
        value, accuracy, _ = info_nce(logits, own, torch.ones_like(own, dtype=torch.bool))
        return Loss(value, {"contrast/loss": value.detach(), "contrast/accuracy": accuracy})

    def learning_rate(self, env_steps: int) -> dict[str, float]:
        return {"encoder": self.settings.encoder_rate, "objective": 1.0}
