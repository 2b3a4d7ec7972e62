"""InfoNCE (eq. 1) and CURL's objective built on it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mcurl.config.fields import setting
from mcurl.objectives.base import ContrastSpec, Encode, Loss, Objective, encoded

PADDED_KEY = -1e9
"""Offset on the logits of padded keys. Finite, so that the loss of a padded query, which is masked out, is not NaN."""


def info_nce(logits: Tensor, targets: Tensor, selected: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """InfoNCE (eq. 1) over the selected queries, in fixed shapes. It is 0, not NaN, if no query is selected.

    Args:
        logits: ``float32 [Q, K]``, similarity of each query with each key, divided by the temperature.
        targets: ``int64 [Q]``, index of each query's positive key.
        selected: ``bool [Q]``, the queries that contribute to the loss (M_i of eq. 4).

    Returns:
        The mean loss of the selected queries ``float32 []``, the fraction of them whose positive key is the most
        similar one ``float32 []``, and the loss of each query ``float32 [Q]`` (0 if it is not selected).
    """
    losses = F.cross_entropy(logits, targets, reduction="none") * selected
    count = selected.sum().clamp_min(1)
    correct = (logits.detach().argmax(1) == targets) & selected
    return losses.sum() / count, correct.sum() / count, losses


@dataclass(frozen=True)
class CurlSettings:
    """CURL (Srinivas et al., 2020): each view of an observation is matched with the other view, against the batch."""

    scale: float = setting(1.0, low=0)
    """Factor on the logits qᵀWk (CURL: 1 on DMControl, 0.1 on Atari)."""


class Curl(Objective):
    """CURL: queries and keys are two random views of the RL batch. W in the similarity qᵀWk starts from U[0, 1).

    Args:
        settings: see :class:`CurlSettings`.
        feature_dim: d, number of features of the encoder.
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
        """Equation 1. Arguments as for :meth:`Objective.loss`: ``[B, ...]`` each, ``plan`` None."""
        logits = self.similarity(query_pixels, key_pixels, encode_query, encode_key)  # [B, B]
        logits = logits - logits.detach().amax(1, keepdim=True)
        targets = torch.arange(len(logits), device=logits.device)
        value, accuracy, _ = info_nce(logits, targets, torch.ones_like(targets, dtype=torch.bool))
        return Loss(value, {"contrast/loss": value.detach(), "contrast/accuracy": accuracy})

    def similarity(self, query_pixels: Tensor, key_pixels: Tensor, encode_query: Encode, encode_key: Encode) -> Tensor:
        """The logits, scale · qᵀWk: ``float32 [Q, K]``. Keys receive no gradient."""
        q = encoded(encode_query, query_pixels, len(self.W), self.W.dtype)  # [Q, d]
        with torch.no_grad():
            k = encoded(encode_key, key_pixels, len(self.W), self.W.dtype)  # [K, d]
        return self.settings.scale * (q @ self.W @ k.T)
