"""What every contrastive objective is: it says what data it wants, plans its random choices on the host, and computes a
loss.

An objective sees neither the replay nor an optimizer nor the kind of agent, so each one works with SAC, with Rainbow
and with an agent of your own.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, NamedTuple

import numpy as np
from torch import Tensor, nn

Encode = Callable[[Tensor], Tensor]
"""Pixels ``uint8 [N, K*C, h, w]`` -> features ``float32 [N, d]``."""


@dataclass(frozen=True)
class ContrastSpec:
    """The observations that an objective wants for one update.

    ``"rl"``: two augmented views of the observations in the RL batch. ``"sequences"``: ``batch`` windows of ``length``
    consecutive observations.
    """

    source: Literal["rl", "sequences"]
    batch: int = 0
    """Number of sequences B."""
    length: int = 0
    """Positions in a sequence T."""
    cross_episodes: bool = False
    """Windows may run across episode ends (the released code's way)."""


class Loss(NamedTuple):
    value: Tensor
    """Scalar, float32."""
    metrics: dict[str, Tensor]
    """Named scalars, detached; they stay tensors until they are logged."""


class Objective(nn.Module, ABC):
    """A contrastive loss that trains the encoder beside the RL loss (eq. 6).

    As a method of its own, ``--method module:Class``, it is made as ``Class(settings, features)``, and
    ``Class.Settings`` is the dataclass of its settings (with a ``weight`` there, λ of eq. 6).
    """

    Settings: ClassVar[type[Any]]
    views: ContrastSpec

    def plan(self, padded: np.ndarray | None, generator: np.random.Generator) -> Any:
        """This update's random choices, drawn on the host; asked for with ``views.source == "sequences"`` only, which
        takes an :class:`objectives.mask.Plan`.

        Args:
            padded: ``bool [B, T]``, positions of the windows outside their episode.
        """
        return None

    @abstractmethod
    def loss(
        self, query_pixels: Tensor, key_pixels: Tensor, plan: Any, encode_query: Encode, encode_key: Encode
    ) -> Loss:
        """The loss of one update. ``encode_key`` is called without gradient."""

    def learning_rate(self, env_steps: int) -> dict[str, float]:
        """Factor on the base learning rate for each parameter group (``"encoder"``: through this loss only;
        ``"objective"``: its own parameters).

        Args:
            env_steps: simulator steps learned from so far, counted from the first update (its own steps included).
        """
        return {"encoder": 1.0, "objective": 1.0}

    def after_step(self) -> None:
        """Called once after the optimizers stepped."""
