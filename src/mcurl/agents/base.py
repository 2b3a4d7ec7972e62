"""What every agent is: a batch goes in, metrics and priorities come out. It never sees the environment, the replay or
the logger."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import numpy as np
from torch import Tensor

from mcurl.objectives.base import Objective
from mcurl.replay.augment import Augmentation, RandomCrop
from mcurl.replay.batch import Batch


class Update(NamedTuple):
    """What one update gives back."""

    metrics: dict[str, Tensor]
    """Named scalars, detached; they stay on the device until they are logged."""
    priorities: Tensor | None = None
    """``float32 [B]``, new priorities of the batch's rows; None where the replay is uniform."""


@dataclass(frozen=True)
class Views:
    """The data that one update of an agent reads; what its objective wants stands in ``objective.views``."""

    batch: int
    """Transitions of the RL loss."""
    prioritised: bool = False
    """Drawn by priority, otherwise uniformly."""
    rl: RandomCrop | None = None
    """Crop of observation and next observation, sampled for each; None: whole frames."""
    centred: bool = False
    """The RL loss sees the centre of the crop instead of a random one."""
    contrast: Augmentation | None = None
    """How a view for the contrastive loss is augmented."""

    @property
    def rl_is_a_view(self) -> bool:
        """Whether the RL loss's own observation serves as the anchor of a contrast over the RL batch (CURL on SAC)."""
        return self.rl is not None and self.rl == self.contrast and not self.centred


class Agent(Protocol):
    """SAC, Rainbow, or your own."""

    views: Views
    objective: Objective | None
    learning_starts: int
    """Agent steps before the first update."""
    updates: int
    """Updates so far."""
    updates_per_step: int
    """Updates in an agent step."""
    learns_before_step: bool
    """SAC: act, update, step, store; the update does not see the new transition. Rainbow: act, step, store, update."""
    explores_at_random: bool
    """Uniform actions until ``learning_starts``."""
    clip_reward: float
    """Rewards are clipped to ± this before they are stored; 0: not."""
    priority_beta_start: float
    """First exponent of the importance weights of prioritised batches."""

    evaluation_epsilon: float
    """Probability of a random action in evaluation."""

    def act(self, stacks: np.ndarray, *, explore: bool) -> np.ndarray:
        """Actions for ``[N, *observation]``; ``explore=False`` is the policy that is evaluated, which draws nothing."""

    def update(self, batch: Batch, env_steps: int) -> Update:
        """One update. ``env_steps``: simulator steps learned from, counted from the first update."""

    def policy_state(self) -> dict[str, Any]:
        """The weights that acting needs; nothing of the contrastive objective."""

    def state_dict(self) -> dict[str, Any]: ...

    def load_state_dict(self, state: dict[str, Any]) -> None: ...
