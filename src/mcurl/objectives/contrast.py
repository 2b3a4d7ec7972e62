"""InfoNCE (eq. 1) and CURL's objective built on it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mcurl.config.fields import setting
from mcurl.objectives.base import ContrastSpec, Encode, Loss, Objective

PADDED_KEY = -1e9
"""Logit of a padded key: no query is like it. Finite, since a padded query's own key is one: it never counts, and its
loss must be a number."""


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

    scale: float = setting(1.0, low=0)
    """Factor on the logits qᵀWk (CURL: 1 on DMControl, 0.1 on Atari)."""


class Curl(Objective):
    """CURL: anchors and keys are two random views of the RL batch; similarity qᵀWk with W from U[0, 1).

    Args:
        settings: see :class:`CurlSettings`.
        feature_dim: d, width of the encoder's features.
    """

    Settings = CurlSettings
    section = "curl"
    label = "CURL"

    def __init__(self, settings: CurlSettings, feature_dim: int) -> None:
        super().__init__()
        self.settings = settings
        self.contrast_spec = ContrastSpec("rl", head_init="uniform")
        self.W = nn.Parameter(torch.rand(feature_dim, feature_dim))

    def loss(
        self, query_pixels: Tensor, key_pixels: Tensor, plan: Any, encode_query: Encode, encode_key: Encode
    ) -> Loss:
        logits = self.similarity(query_pixels, key_pixels, encode_query, encode_key)  # [B, B]
        logits = logits - logits.detach().amax(1, keepdim=True)
        own = torch.arange(len(logits), device=logits.device)
        value, accuracy, _ = info_nce(logits, own, torch.ones_like(own, dtype=torch.bool))
        return Loss(value, {"contrast/loss": value.detach(), "contrast/accuracy": accuracy})

    def similarity(self, query_pixels: Tensor, key_pixels: Tensor, encode_query: Encode, encode_key: Encode) -> Tensor:
        """qᵀWk times the scale, ``float32 [Q, K]``."""
        q = encode_query(query_pixels)  # [Q, d]
        with torch.no_grad():
            k = encode_key(key_pixels)  # [K, d]
        return self.settings.scale * (q @ self.W @ k.T)
