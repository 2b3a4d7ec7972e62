"""M-CURL's objective: rebuild the features of masked time steps from their neighbours (section 3.2, eq. 2 to 4, 7 to
10)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mcurl.config.fields import setting
from mcurl.errors import UserError
from mcurl.networks.ema import ema_update, momentum_copy
from mcurl.networks.transformer import Transformer, sinusoids
from mcurl.objectives.base import ContrastSpec, Encode, Loss, Objective, Sequences
from mcurl.objectives.contrast import PADDED_KEY, info_nce
from mcurl.objectives.mask import MaskPlan, MaskTensors, plan_frame_mask, plan_mask
from mcurl.objectives.schedules import constant, constant_then_inverse_sqrt, inverse_sqrt_with_warmup, released_warmup

WIDE = 256
"""Features from this width on pass the Transformer in the run's arithmetic: on the 576 of Atari's convolutions it is
most of an update; at 128 and 50 bfloat16 would gain nothing."""


@dataclass(frozen=True)
class MCurlSettings:
    """M-CURL: a Transformer rebuilds masked features; each must find its own momentum key among the others."""

    length: int = setting(32, low=1)
    """T, consecutive observations in a sequence."""
    batch: int = setting(16, low=1)
    """B, sequences in an update."""
    mask: Literal["iid", "block", "frames"] = "iid"
    """What is masked: positions independently of each other (the paper), runs of consecutive positions, or single
    frames before they are stacked, so that a stack's neighbours show nothing of a hidden frame (a position is then
    selected when all its frames are)."""
    mask_rate: float = setting(0.5, low=0, high=1)
    """ρ_m, the probability that a position (with mask=frames: a frame) is selected."""
    block_length: int = setting(4, low=1, only_if=("mask", ("block", "frames")))
    """Positions (with mask=frames: frames) in a run."""
    zero_fraction: float = setting(0.8, low=0, high=1)
    """Of the selected, the fraction shown as a zero observation."""
    random_fraction: float = setting(0.1, low=0, high=1)
    """Of the selected, the fraction shown as a random observation of the replay; the rest is shown unchanged."""
    cross_episodes: bool = False
    """Sequences run across episode ends, as in the released code. Otherwise positions outside the episode are
    padding."""
    layers: int = setting(2, low=0)
    """L, Transformer blocks."""
    ffn_factor: int = setting(2, low=1)
    """Width of a block's feed-forward layer, in feature widths."""
    attention_bias: bool = True
    """Biases on the query, key and value matrices (released code; eq. 9 has none)."""
    scale_scores: bool = True
    """Attention scores times d^-1/2 (released code; eq. 9 does not scale)."""
    dropout: float = setting(0.1, low=0, high=1)
    """Dropout on the two residual branches of a block."""
    projection: bool = False
    """Both sides pass a projection before the positions, part of the encoder: Linear d-2d, ReLU, Linear 2d-d,
    LayerNorm, with a momentum copy for the keys (the later release)."""
    negatives: Literal["batch", "sequence"] = "batch"
    """The keys a query is told from: all B·T positions, or the T of its own sequence (eq. 4 to the letter)."""
    temperature: float = setting(1.0, above=0)
    """τ of eq. 4."""
    reduction: Literal["mean", "sum"] = "mean"
    """Over the selected positions: mean (released code) or sum (eq. 4)."""
    schedule: Literal["paper", "released", "constant"] = "paper"
    """The Transformer's learning rate: eq. 10, the released code's warm-up, or constant."""
    warmup: int = setting(24_000, low=1, unit="env steps")
    """Warm-up of the schedules (6000 updates at action repeat 4)."""


class MCurl(Objective):
    """M-CURL's auxiliary model φ and its loss.

    Args:
        settings: every reading of the paper that is open.
        feature_dim: d, width of the encoder's features.

    Raises:
        UserError: more is zeroed and replaced than selected.
    """

    Settings = MCurlSettings
    section = "mcurl"
    label = "M-CURL"
    positions: Tensor

    def __init__(self, settings: MCurlSettings, feature_dim: int) -> None:
        super().__init__()
        s = settings
        if s.zero_fraction + s.random_fraction > 1:
            fractions = f"zero_fraction={s.zero_fraction} and {self.section}.random_fraction={s.random_fraction}"
            raise UserError(f"{self.section}.{fractions} are more than 1 together")
        self.settings, self.feature_dim, self.compact = settings, feature_dim, True
        self.contrast_spec = ContrastSpec("sequences", s.batch, s.length, s.cross_episodes)
        self.transformer = Transformer(
            feature_dim,
            s.layers,
            s.ffn_factor * feature_dim,
            bias=s.attention_bias,
            scale=s.scale_scores,
            dropout=s.dropout,
        )
        self.projection = projection(feature_dim) if s.projection else nn.Identity()
        self.key_projection = momentum_copy(self.projection)
        self.register_buffer("positions", sinusoids(s.length, feature_dim), persistent=False)

    def plan(self, sequences: Sequences, generator: np.random.Generator) -> MaskPlan:
        s = self.settings
        fractions = (s.mask_rate, s.zero_fraction, s.random_fraction)
        run_length = 1 if s.mask == "iid" else s.block_length
        if s.mask == "frames":
            return plan_frame_mask(sequences, *fractions, generator, run_length=run_length, compact=self.compact)
        return plan_mask(sequences.padded, *fractions, generator, run_length=run_length, compact=self.compact)

    def loss(
        self, query_pixels: Tensor, key_pixels: Tensor, plan: MaskTensors, encode_query: Encode, encode_key: Encode
    ) -> Loss:
        """Equation 4.

        Args:
            query_pixels: ``uint8 [1 + R, K*C, h, w]``: the zero observation, then those that the plan says are encoded.
            key_pixels: ``uint8 [B*T, K*C, h, w]``: every position's own observation, unmasked, with its own crop.
            plan: what stands where, what is selected, what is padding.
        """
        B, T = plan.source.shape
        shown = self.projection(encode_query(query_pixels))  # [1 + R, d]
        # embedding(source, shown) is shown[source], whose gradient takes longer.
        H0 = F.embedding(plan.source, shown) + self.positions  # [B, T, d], eq. 8
        Q = self.transformer(H0, plan.padded)  # [B, T, d], eq. 9
        with torch.no_grad():
            k = self.key_projection(encode_key(key_pixels)).view(B, T, -1)
            # The temperature divides here, where no gradient has to be divided by it again.
            K = self.keys(k, plan.padded) / self.settings.temperature
        value, accuracy = self._contrast(Q, K, plan)
        share = plan.selected.sum() / (~plan.padded).sum().clamp_min(1)
        metrics = {"contrast/loss": value.detach(), "contrast/accuracy": accuracy, "contrast/selected": share}
        return Loss(value, metrics)

    def keys(self, features: Tensor, padded: Tensor) -> Tensor:
        """What queries are compared with: momentum features ``[B, T, d]``, without a Transformer on them."""
        return features

    def _contrast(self, Q: Tensor, K: Tensor, plan: MaskTensors) -> tuple[Tensor, Tensor]:
        B, T, d = Q.shape
        own = torch.arange(B * T, device=Q.device)
        penalty = plan.padded.to(Q.dtype) * PADDED_KEY
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
        schedules = {"paper": inverse_sqrt_with_warmup, "released": released_warmup, "constant": constant}
        return {
            "encoder": constant_then_inverse_sqrt(env_steps, s.warmup),
            "objective": schedules[s.schedule](env_steps, s.warmup),
        }

    def encoder_parameters(self) -> list[nn.Parameter]:
        return list(self.projection.parameters())

    def ema_step(self, momentum: float) -> None:
        ema_update(self.key_projection.parameters(), self.projection.parameters(), momentum)

    def set_compute(self, *, fixed_shapes: bool, dtype: torch.dtype) -> None:
        self.compact = not fixed_shapes
        self.transformer.dtype = dtype if self.feature_dim >= WIDE else torch.float32


def projection(width: int) -> nn.Module:
    """The later release's projection, ``float32 [N, d]`` -> ``[N, d]``."""
    layers: tuple[Any, ...] = (nn.Linear(width, 2 * width), nn.ReLU(), nn.Linear(2 * width, width))
    return nn.Sequential(*layers, nn.LayerNorm(width))
