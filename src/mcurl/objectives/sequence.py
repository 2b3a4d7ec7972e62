"""The paper's two variants between CURL and M-CURL: seq-CURL (appendix D) and sym-CURL (section 5)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from mcurl.config.fields import setting
from mcurl.networks.ema import ema_update, momentum_copy
from mcurl.objectives.base import ContrastSpec, Encode, Loss, PlanTensors
from mcurl.objectives.contrast import PADDED_KEY, Curl, CurlSettings, info_nce
from mcurl.objectives.masked import MCurl, MCurlSettings


@dataclass(frozen=True)
class SeqCurlSettings(CurlSettings):
    """seq-CURL (appendix D): CURL's loss on sequences of observations instead of the RL batch."""

    length: int = setting(32, low=1)
    """T, consecutive observations in a sequence."""
    batch: int = setting(8, low=1)
    """B, sequences in an update."""
    cross_episodes: bool = False
    """Sequences run across episode ends, as in the appendix. Otherwise positions outside the episode are padding:
    neither queries nor keys."""


class SeqCurl(Curl):
    """CURL's loss on B sequences of T consecutive observations; the negatives are all B·T keys of the update."""

    Settings = SeqCurlSettings
    section = "seq_curl"
    label = "seq-CURL"

    def __init__(self, settings: SeqCurlSettings, feature_dim: int) -> None:
        super().__init__(settings, feature_dim)
        s = settings
        self.contrast_spec = ContrastSpec("sequences", s.batch, s.length, s.cross_episodes, head_init="uniform")

    def loss(
        self, query_pixels: Tensor, key_pixels: Tensor, plan: PlanTensors, encode_query: Encode, encode_key: Encode
    ) -> Loss:
        """Equation 1 over the positions that are not padding.

        Args:
            query_pixels, key_pixels: ``[B*T, ...]``, two views of each observation.
            plan: the padding.
            encode_query, encode_key: see :meth:`Objective.loss`.
        """
        padded = plan.padded.flatten()  # [B*T]
        logits = self.similarity(query_pixels, key_pixels, encode_query, encode_key) + padded * PADDED_KEY
        logits = logits - logits.detach().amax(1, keepdim=True)
        value, accuracy, _ = info_nce(logits, torch.arange(len(logits), device=logits.device), ~padded)
        return Loss(value, {"contrast/loss": value.detach(), "contrast/accuracy": accuracy})


class SymCurl(MCurl):
    """sym-CURL: M-CURL with keys from a momentum copy of the Transformer, without dropout."""

    label = "sym-CURL"

    def __init__(self, settings: MCurlSettings, feature_dim: int) -> None:
        super().__init__(settings, feature_dim)
        self.key_transformer = momentum_copy(self.transformer).eval()

    def keys(self, features: Tensor, padded: Tensor) -> Tensor:
        """Keys ``[B, T, d]``: momentum features plus positions, after the momentum Transformer."""
        keys: Tensor = self.key_transformer(features + self.positions, padded)
        return keys

    def ema_step(self, momentum: float) -> None:
        super().ema_step(momentum)
        ema_update(self.key_transformer.parameters(), self.transformer.parameters(), momentum)

    def train(self, mode: bool = True) -> SymCurl:
        """As :meth:`torch.nn.Module.train`; the momentum Transformer stays in evaluation mode."""
        super().train(mode)
        self.key_transformer.eval()
        return self

    def set_compute(self, *, fixed_shapes: bool, dtype: torch.dtype) -> None:
        super().set_compute(fixed_shapes=fixed_shapes, dtype=dtype)
        self.key_transformer.dtype = self.transformer.dtype
