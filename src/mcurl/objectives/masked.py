"""M-CURL's objective: reconstruct the features of masked time steps from their neighbours (section 3.2).

Equations 2 to 4 and 7 to 10.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mcurl.config.fields import setting
from mcurl.errors import UserError
from mcurl.networks.ema import ema_update, momentum_copy
from mcurl.networks.transformer import Transformer, sinusoids
from mcurl.objectives.base import ContrastSpec, Encode, Loss, Objective, Sequences, encoded
from mcurl.objectives.contrast import PADDED_KEY, info_nce
from mcurl.objectives.mask import MaskPlan, MaskTensors, plan_frame_mask, plan_mask
from mcurl.objectives.schedules import constant, constant_then_inverse_sqrt, inverse_sqrt_with_warmup, released_warmup

WIDE = 256
"""From this number of features on, the Transformer computes in the run's dtype; below it, bfloat16 is not faster."""


@dataclass(frozen=True)
class MCurlSettings:
    """M-CURL: a Transformer reconstructs masked features; each is matched with its momentum key by InfoNCE."""

    length: int = setting(32, low=1)
    """T, consecutive observations in a sequence."""
    batch: int = setting(16, low=1)
    """B, sequences in an update."""
    mask: Literal["iid", "block", "frames"] = "iid"
    """Type of the mask: independent positions (the paper), runs of consecutive positions, or runs of single frames
    before they are stacked. In the last case no stack contains a masked frame, and a position is selected if all its
    frames are."""
    mask_rate: float = setting(0.5, low=0, high=1)
    """ρ_m, the probability that a position (with mask=frames: a frame) is selected."""
    block_length: int = setting(4, low=1, only_if=("mask", ("block", "frames")))
    """Positions (with mask=frames: frames) in a run."""
    zero_fraction: float = setting(0.8, low=0, high=1)
    """Fraction of the selected positions that are replaced with a zero observation."""
    random_fraction: float = setting(0.1, low=0, high=1)
    """Fraction of the selected positions that are replaced with a random observation of the replay; the rest is
    unchanged."""
    cross_episodes: bool = False
    """Sequences run across episode ends, as in the released code. Otherwise positions outside the episode are
    padding."""
    layers: int = setting(2, low=0, high=1000)
    """L, number of Transformer blocks."""
    ffn_factor: int = setting(2, low=1)
    """Width of the feed-forward layers, as a multiple of the number of features."""
    attention_bias: bool = True
    """Biases in the query, key and value projections (released code; eq. 9 has none)."""
    scale_scores: bool = True
    """Scale attention scores by d^-1/2 (released code; eq. 9 does not)."""
    dropout: float = setting(0.1, low=0, high=1)
    """Dropout probability on the two residual branches of a block."""
    transformer_init: Literal["xavier", "released"] = "xavier"
    """Initial weights of the Transformer: Xavier's uniform distribution with biases 0, or U(±1/√inputs) for weights and
    biases (released code)."""
    projection: bool = False
    """Project the features before the Transformer: Linear d-2d, ReLU, Linear 2d-d, LayerNorm, with a momentum copy for
    the keys. The projection is trained as a part of the encoder (the later release)."""
    negatives: Literal["batch", "sequence"] = "batch"
    """Keys that a query is compared with: all B·T positions, or the T positions of its sequence (literal eq. 4)."""
    temperature: float = setting(1.0, above=0)
    """τ of eq. 4."""
    reduction: Literal["mean", "sum"] = "mean"
    """Reduction over the selected positions: mean (released code) or sum (eq. 4)."""
    schedule: Literal["paper", "released", "constant"] = "paper"
    """Learning rate of the Transformer: eq. 10, the released code's warm-up, or constant."""
    warmup: int = setting(24_000, low=1, unit="env steps")
    """Length of the warm-up of the learning rates (6000 updates at action repeat 4)."""


class MCurl(Objective):
    """M-CURL's auxiliary model φ and its loss.

    Args:
        settings: see :class:`MCurlSettings`.
        feature_dim: d, number of features of the encoder.

    Raises:
        UserError: zero_fraction and random_fraction add up to more than 1.
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
            raise UserError(f"{self.section}.{fractions} add up to more than 1")
        self.settings, self.feature_dim, self.compact = settings, feature_dim, True
        self.contrast_spec = ContrastSpec("sequences", s.batch, s.length, s.cross_episodes)
        self.transformer = Transformer(
            feature_dim,
            s.layers,
            s.ffn_factor * feature_dim,
            bias=s.attention_bias,
            scale=s.scale_scores,
            dropout=s.dropout,
            xavier=s.transformer_init == "xavier",
        )
        self.projection = projection(feature_dim) if s.projection else nn.Identity()
        self.key_projection = momentum_copy(self.projection)
        self.register_buffer("positions", sinusoids(s.length, feature_dim), persistent=False)

    def plan(self, sequences: Sequences, generator: np.random.Generator) -> MaskPlan:
        """Sample the mask of one update, see :mod:`mcurl.objectives.mask`."""
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
            query_pixels: ``[1 + R, ...]``: the zero observation, then the encoded positions of the plan.
            key_pixels: ``[B*T, ...]``: the observations of all positions, unmasked, augmented independently of the
                queries.
            plan: the mask, see :class:`~mcurl.objectives.mask.MaskTensors`.
            encode_query, encode_key: see :meth:`Objective.loss`.
        """
        B, T = plan.source.shape
        features = self.projection(self._encoded(encode_query, query_pixels))  # [1 + R, d]
        # F.embedding equals features[source], with a faster gradient.
        H0 = F.embedding(plan.source, features) + self.positions  # [B, T, d], eq. 8
        Q = self.transformer(H0, plan.padded)  # [B, T, d], eq. 9
        with torch.no_grad():
            k = self.key_projection(self._encoded(encode_key, key_pixels)).view(B, T, -1)
            # The temperature divides the keys instead of the logits: no gradient flows here.
            K = self.keys(k, plan.padded) / self.settings.temperature
        value, accuracy = self._contrast(Q, K, plan)
        fraction = plan.selected.sum() / (~plan.padded).sum().clamp_min(1)
        metrics = {"contrast/loss": value.detach(), "contrast/accuracy": accuracy, "contrast/selected": fraction}
        return Loss(value, metrics)

    def _encoded(self, encode: Encode, pixels: Tensor) -> Tensor:
        return encoded(encode, pixels, self.feature_dim, self.positions.dtype)

    def keys(self, features: Tensor, padded: Tensor) -> Tensor:
        """Keys ``[B, T, d]`` from momentum features ``[B, T, d]``: the features themselves."""
        return features

    def _contrast(self, Q: Tensor, K: Tensor, plan: MaskTensors) -> tuple[Tensor, Tensor]:
        """Loss and accuracy of queries and keys, ``[B, T, d]`` each."""
        B, T, d = Q.shape
        targets = torch.arange(B * T, device=Q.device)
        penalty = plan.padded.to(Q.dtype) * PADDED_KEY
        if self.settings.negatives == "sequence":
            logits = torch.baddbmm(penalty[:, None], Q, K.transpose(1, 2)).view(B * T, T)
            targets = targets % T
        else:
            logits = torch.addmm(penalty.view(B * T), Q.view(B * T, d), K.view(B * T, d).T)
        mean, accuracy, losses = info_nce(logits, targets, plan.selected.view(B * T))
        return (mean if self.settings.reduction == "mean" else losses.sum()), accuracy

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
    """The projection of the later release, ``float32 [N, d]`` -> ``[N, d]``: orthogonal weights, zero biases."""
    first, second = nn.Linear(width, 2 * width), nn.Linear(2 * width, width)
    for layer in (first, second):
        nn.init.orthogonal_(layer.weight)
        nn.init.zeros_(layer.bias)
    return nn.Sequential(first, nn.ReLU(), second, nn.LayerNorm(width))
