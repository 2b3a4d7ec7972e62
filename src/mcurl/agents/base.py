"""The contract of an agent: all that the training loop calls, on one page.

An agent never sees the environment, the replay or the logger. A batch goes in, metrics and priorities come out.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, NamedTuple

import gymnasium
import numpy as np
import torch
from torch import Tensor

from mcurl.errors import UserError
from mcurl.objectives.base import Objective
from mcurl.registry import Pluggable
from mcurl.replay.augment import Augmentation, WholeFrame
from mcurl.replay.batch import Batch, Layout


@dataclass(frozen=True)
class Clock:
    """Where a run is. Schedules are functions of it."""

    agent_steps: int
    """Steps of the agent so far."""
    updates: int
    """Updates so far."""
    action_repeat: int
    """Simulator steps in an agent step."""
    horizon: int
    """Simulator steps of the budget that the run began with."""

    @property
    def env_steps(self) -> int:
        """Simulator steps so far, action repeat included."""
        return self.agent_steps * self.action_repeat

    def learned_env_steps(self, updates_per_step: int = 1) -> int:
        """Simulator steps learned from, the coming update's included: counted from the first update."""
        return (self.updates // updates_per_step + 1) * self.action_repeat


@dataclass(frozen=True)
class UpdateSchedule:
    """When an agent acts at random, and when it updates."""

    learning_starts: int = 0
    """Agent steps before the first update."""
    updates_per_step: int = 1
    """Updates in an agent step."""
    random_steps: int = 0
    """Agent steps of uniform actions at the beginning."""


@dataclass(frozen=True)
class BatchSpec:
    """The data that one update of an agent reads. What its objective wants stands in ``objective.contrast_spec``."""

    size: int
    """B, transitions of the RL loss."""
    n_step: int = 1
    """Rewards summed in a transition."""
    discount: float = 0.99
    """γ per agent step."""
    priority_alpha: float | None = None
    """Transitions are sampled in proportion to priority to this power; None: uniformly."""
    reward_clip: float = 0.0
    """Rewards are clipped to ± this before they are stored; 0: not."""
    augmentation: Augmentation = field(default_factory=WholeFrame)
    """Of observation and next observation, sampled for each."""
    contrast_augmentation: Augmentation = field(default_factory=WholeFrame)
    """Of every view for the contrastive loss."""
    layout: Layout = "planes"
    """The order of pixels in memory that the encoder reads fastest."""


class Update(NamedTuple):
    """What one update gives back."""

    metrics: dict[str, Tensor]
    """Named scalars, losses among them, detached; they stay on the device until they are logged."""
    priorities: Tensor | None = None
    """``float32 [B]``, new priorities of the batch's rows; None where the replay is uniform."""


class Agent(Pluggable, ABC):
    """SAC, Rainbow, or the user's own. Made as ``Class(settings, observation_shape, action_space, objective, ...)``.

    An agent with a method ``step(batch, **booleans)`` that stays on the device has it captured as a CUDA graph.
    """

    update_before_step: ClassVar[bool] = False
    """True: act, update, step, store (the update does not see the new transition). False: act, step, store, update."""
    unused_settings: ClassVar[Mapping[str, str]] = {}
    """Settings of other sections that mean nothing to this agent -> why. A run refuses them."""

    batch_spec: BatchSpec
    schedule: UpdateSchedule
    objective: Objective | None = None
    evaluation_epsilon: float = 0.0
    """Probability of a random action in evaluation."""
    no_reward_hint: str = ""
    """What a user can do where the replay holds no reward yet."""

    @classmethod
    def feature_dim(cls, settings: Any, observation_shape: tuple[int, ...]) -> int:
        """d, the width of the features that an objective compares, before the agent is made.

        Raises:
            UserError: the agent learns without a contrastive objective.
        """
        raise UserError(f"the agent {cls.__name__} takes no contrastive objective: use --method rl-only")

    @abstractmethod
    def __init__(
        self,
        settings: Any,
        observation_shape: tuple[int, ...],
        action_space: gymnasium.Space[Any],
        objective: Objective | None = None,
        *,
        device: torch.device,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        """Networks, optimizers, momentum copies.

        Args:
            settings: of the class ``Settings``.
            observation_shape: ``(K*C, H, W)`` of stacked pixels or ``(D,)`` of states.
            action_space: Box in [-1, 1], or Discrete.
            objective: the contrastive loss for :meth:`feature_dim` features; None: the RL loss alone.
            device: where parameters live.
            dtype: arithmetic of the products that take time.

        Raises:
            UserError: the agent does not learn such observations or actions.
        """

    @abstractmethod
    def act(self, observations: np.ndarray, *, explore: bool, clock: Clock) -> np.ndarray:
        """Actions ``[N, ...]`` for ``[N, *observation_shape]``. ``explore=False`` is the policy that is evaluated; it
        samples nothing.
        """

    @abstractmethod
    def update(self, batch: Batch, clock: Clock) -> Update:
        """One update of everything that is due. ``clock.updates`` counts the updates before this one."""

    def priority_beta(self, clock: Clock) -> float:
        """β, the exponent of the importance weights, with a prioritised replay."""
        return 1.0

    def policy_state(self) -> dict[str, Any]:
        """The weights that acting needs; nothing of the contrastive objective."""
        return self.state_dict()

    @abstractmethod
    def state_dict(self) -> dict[str, Any]:
        """Everything that a later update depends on, beside PyTorch's own generators. It writes nothing."""

    @abstractmethod
    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Put back what :meth:`state_dict` gave."""
