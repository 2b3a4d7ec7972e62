"""M-CURL's objective: rebuild the features of masked time steps from their neighbours (section 3.2, eq. 2 to 4, 7 to
10)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mcurl.errors import UserError
from mcurl.networks.transformer import Transformer, sinusoids
from mcurl.objectives.base import ContrastSpec, Encode, Loss, Objective
from mcurl.objectives.contrast import info_nce
from mcurl.objectives.mask import Mask, Plan, draw_mask
from mcurl.objectives.schedules import constant, constant_then_inverse_sqrt, inverse_sqrt_with_warmup, released_warmup


@dataclass(frozen=True)
class MCurlSettings:
    """M-CURL: a Transformer rebuilds masked features; each must find its own momentum key among the others."""

    length: int = 32
    """T, consecutive observations in a sequence."""
    batch: int = 16
    """B, sequences in an update."""
    mask_rate: float = 0.5
    """ρ_m, the probability that a position is selected."""
    zero_fraction: float = 0.8
    """Of the selected, the fraction shown as a zero observation."""
    random_fraction: float = 0.1
    """Of the selected, the fraction shown as a random observation of the replay; the rest is shown unchanged."""
    cross_episodes: bool = False
    """Sequences run across episode ends, as in the released code. Otherwise positions outside the episode are
    padding."""
    layers: int = 2
    """L, Transformer blocks."""
    ffn_factor: int = 2
    """Width of a block's feed-forward layer, in feature widths."""
    attention_bias: bool = True
    """Biases on the query, key and value matrices (released code; eq. 9 has none)."""
    scale_scores: bool = True
    """Attention scores times d^-1/2 (released code; eq. 9 does not scale)."""
    dropout: float = 0.1
    """Dropout on the two residual branches of a block."""
    projection: bool = False
    """Pass both sides through a d-2d-d projection with LayerNorm before the positions (the later release)."""
    negatives: Literal["batch", "sequence"] = "batch"
    """The keys a query is told from: all B·T positions, or the T of its own sequence (eq. 4 to the letter)."""
    temperature: float = 1.0
    """τ of eq. 4."""
    reduction: Literal["mean", "sum"] = "mean"
    """Over the selected positions: mean (released code) or sum (eq. 4)."""
    schedule: Literal["paper", "released", "constant"] = "paper"
    """The Transformer's learning rate: eq. 10, the released code's warm-up, or constant."""
    warmup: int = 24_000
    """Warm-up of the schedules in env steps (6000 updates at action repeat 4)."""
    encoder_rate: float = 2.0
    """SAC: learning rate of the encoder through this loss, as a multiple of the base rate: constant for the warm-up,
    then inverse square root. Not with sac.joint_optimizer."""
    contrast_max_grad_norm: float = 0.0
    """SAC: clip the encoder's gradient of the contrastive loss to this norm; 0 is off (the later release has 0.5). Not
    with sac.joint_optimizer."""
    features: Literal["head", "conv"] = "head"
    """Rainbow: which features are masked and rebuilt: a 576-256-128 head on the convolutions, or the 576 that the
    policy reads. SAC has one encoder."""
    weight: float = 1.0
    """λ of eq. 6. SAC gives the contrastive loss an Adam of its own, where a weight has no effect: refused there unless
    sac.joint_optimizer."""


class MCurl(Objective):
    """M-CURL's auxiliary model φ and its loss.

    Args:
        settings: every reading of the paper that is open.
        features: d, width of the encoder's features.
        compact: plan variable shapes that encode only what is seen (CPU) instead of fixed ones (GPU).
        dtype: of the Transformer's matrix products.

    Raises:
        UserError: more is zeroed and replaced than selected.
    """

    positions: Tensor

    def __init__(
        self, settings: MCurlSettings, features: int, *, compact: bool = True, dtype: torch.dtype = torch.float32
    ) -> None:
        super().__init__()
        if settings.zero_fraction + settings.random_fraction > 1:
            raise UserError(
                f"mcurl.zero_fraction={settings.zero_fraction} and mcurl.random_fraction={settings.random_fraction} are more than 1 together"
            )
        self.settings, self.compact = settings, compact
        self.views = ContrastSpec("sequences", settings.batch, settings.length, settings.cross_episodes)
        width, s = settings.ffn_factor * features, settings
        self.transformer = Transformer(
            features, s.layers, width, bias=s.attention_bias, scale=s.scale_scores, dropout=s.dropout, dtype=dtype
        )
        self.project = _projection(features) if settings.projection else nn.Identity()
        self.register_buffer("positions", sinusoids(settings.length, features), persistent=False)

    def plan(self, padded: np.ndarray | None, generator: np.random.Generator) -> Plan:
        assert padded is not None, "M-CURL plans over sequences"
        s = self.settings
        return draw_mask(padded, s.mask_rate, s.zero_fraction, s.random_fraction, generator, compact=self.compact)

    def loss(
        self, query_pixels: Tensor, key_pixels: Tensor, plan: Mask, encode_query: Encode, encode_key: Encode
    ) -> Loss:
        """Equation 4.

        Args:
            query_pixels: ``uint8 [1 + R, K*C, h, w]``: the zero observation, then the observations that the plan says
                are encoded.
            key_pixels: ``uint8 [B*T, K*C, h, w]``: every position's own observation, unmasked, with a crop of its own.
            plan: what stands where, what is selected, what is padding.
        """
        B, T = plan.source.shape
        shown = self.project(encode_query(query_pixels))  # [1 + R, d]
        H0 = (
            F.embedding(plan.source, shown) + self.positions
        )  # [B, T, d], eq. 8; shown[source], whose gradient takes longer
        Q = self.transformer(H0, plan.padded)  # [B, T, d], eq. 9
        with torch.no_grad():
            # The temperature divides here, where no gradient has to be divided by it again.
            K = self.project(encode_key(key_pixels)).view(B, T, -1) / self.settings.temperature
        value, accuracy = self._contrast(Q, K, plan)
        share = plan.selected.sum() / (~plan.padded).sum().clamp_min(1)
        return Loss(value, {"contrast/loss": value.detach(), "contrast/accuracy": accuracy, "contrast/selected": share})

    def _contrast(self, Q: Tensor, K: Tensor, plan: Mask) -> tuple[Tensor, Tensor]:
        B, T, d = Q.shape
        own = torch.arange(B * T, device=Q.device)
        # No query is like a padded key. Large but finite, since a padded query's own key is one: it is never selected,
        # and its loss must be a number.
        penalty = plan.padded.to(Q.dtype) * -1e9
        if self.settings.negatives == "sequence":
            logits = torch.baddbmm(penalty[:, None], Q, K.transpose(1, 2)).view(B * T, T)
            own = own % T
        else:
            logits = torch.addmm(penalty.view(B * T), Q.view(B * T, d), K.view(B * T, d).T)
        mean, accuracy, each = info_nce(logits, own, plan.selected.view(B * T))
        return (mean if self.settings.reduction == "mean" else each.sum()), accuracy

    def learning_rate(self, env_steps: int) -> dict[str, float]:
        """Equation 10 for the Transformer; the released code's schedule for the encoder."""
        s = self.settings
        shape = {"paper": inverse_sqrt_with_warmup, "released": released_warmup, "constant": constant}[s.schedule]
        return {
            "encoder": s.encoder_rate * constant_then_inverse_sqrt(env_steps, s.warmup),
            "objective": shape(env_steps, s.warmup),
        }


def _projection(features: int) -> nn.Module:
    return nn.Sequential(
        nn.Linear(features, 2 * features), nn.LayerNorm(2 * features), nn.ReLU(), nn.Linear(2 * features, features)
    )
