"""The interface of an agent: everything that the training loop calls.

An agent does not access the environment, the replay or the logger. It receives batches, and returns metrics and
priorities.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, NamedTuple

import gymnasium
import numpy as np
import torch
from torch import Tensor

from mcurl.errors import UserError, argument
from mcurl.objectives.base import Objective
from mcurl.registry import Pluggable
from mcurl.replay.augment import Augmentation, WholeFrame
from mcurl.replay.batch import Batch, Layout


@dataclass(frozen=True)
class Clock:
    """The counters of a run, which drive all schedules."""

    agent_steps: int
    """Agent steps so far."""
    updates: int
    """Updates so far."""
    action_repeat: int
    """Simulator steps per agent step."""
    horizon: int
    """Simulator steps of the run's original budget."""

    @property
    def env_steps(self) -> int:
        """Simulator steps so far, action repeat included."""
        return self.agent_steps * self.action_repeat

    def is_due(self, every: int) -> bool:
        """Whether the last agent step reached or passed a multiple of ``every`` simulator steps; 0: never.

        At the start, before any agent step, every interval is due.
        """
        now = self.env_steps
        return every > 0 and now // every > (now - self.action_repeat) // every

    def learned_env_steps(self, updates_per_step: int = 1, update_every: int = 1) -> int:
        """Simulator steps since the first update, including those of the coming update.

        Args:
            updates_per_step, update_every: as in :class:`UpdateSchedule`.
        """
        return (self.updates // updates_per_step + 1) * update_every * self.action_repeat


@dataclass(frozen=True)
class UpdateSchedule:
    """When an agent explores at random, and when it updates."""

    learning_starts: int = 0
    """Agent steps before the first update."""
    updates_per_step: int = 1
    """Updates per agent step."""
    random_steps: int = 0
    """Agent steps with uniformly random actions at the start of the run."""
    update_every: int = 1
    """Agent steps from one update to the next; the updates fall on its multiples."""


@dataclass(frozen=True)
class BatchSpec:
    """The data that one update of an agent reads. ``objective.contrast_spec`` describes the data of its objective."""

    size: int
    """B, transitions in the RL batch."""
    n_step: int = 1
    """Number of rewards summed in an n-step return."""
    discount: float = 0.99
    """γ per agent step."""
    priority_alpha: float | None = None
    """α, exponent of the priorities in prioritised sampling; None: uniform sampling."""
    reward_clip: float = 0.0
    """Rewards are clipped to ± this value before they are stored; 0: no clipping."""
    augmentation: Augmentation = field(default_factory=WholeFrame)
    """Augmentation of the RL batch, sampled independently for observation and next observation."""
    contrast_augmentation: Augmentation = field(default_factory=WholeFrame)
    """Augmentation of each view for the contrastive loss."""
    layout: Layout = "planes"
    """Memory layout of pixels that the encoder reads fastest."""


class Update(NamedTuple):
    """The result of one update."""

    metrics: dict[str, Tensor]
    """Name -> detached scalar, losses included; they stay on the device until they are logged."""
    priorities: Tensor | None = None
    """``float32 [B]``, new priorities of the batch's rows; None with uniform sampling."""


class Agent(Pluggable, ABC):
    """Base class of agents: SAC, Rainbow, DrQ-v2, and user-defined ones."""

    update_before_step: ClassVar[bool] = False
    """Order of a training step. False: act, step, store, update. True: act, update, step, store; then the update does
    not use the new transition, and the environment can step in parallel."""
    graph_method: ClassVar[str] = ""
    """Name of a method ``(batch, **booleans)`` that the training loop may capture as a CUDA graph; empty: none. It must
    run on the device without synchronisation."""
    unused_settings: ClassVar[Mapping[str, str]] = {}
    """Settings of other sections that this agent does not use -> the reason. Setting them is an error."""

    batch_spec: BatchSpec
    """The data of an update."""
    schedule: UpdateSchedule
    """When the agent updates."""
    objective: Objective | None = None
    """The contrastive objective, if any."""
    evaluation_epsilon: float = 0.0
    """Probability of a random action in evaluation."""
    no_reward_hint: str = ""
    """Advice for the user if the replay holds no reward."""

    @classmethod
    def feature_dim(cls, settings: Any, observation_shape: tuple[int, ...]) -> int:
        """d, the number of features that the objective receives. Called before the agent is constructed.

        Raises:
            UserError: the agent does not support contrastive objectives.
        """
        other = argument("method", "rl-only")
        raise UserError(f"the agent {cls.__name__} does not support contrastive objectives: use {other}")

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
        """Build networks, optimizers and momentum copies.

        Args:
            settings: an instance of the class ``Settings``.
            observation_shape: ``(K*C, H, W)`` of stacked pixels or ``(D,)`` of states.
            action_space: Box in [-1, 1], or Discrete.
            objective: the contrastive objective on :meth:`feature_dim` features; None: only the RL loss.
            device: device of the parameters.
            dtype: dtype of expensive matrix products, float32 or bfloat16.

        Raises:
            UserError: the agent does not support these observations or actions.
        """

    @abstractmethod
    def act(self, observations: np.ndarray, *, explore: bool, clock: Clock) -> np.ndarray:
        """Select actions.

        Args:
            observations: ``uint8 [N, K*C, H, W]``, or states ``float32 [N, D]``.
            explore: True: sample exploratory actions; False: the deterministic policy of evaluations.
            clock: counters of the run.

        Returns:
            ``float32 [N, A]`` in [-1, 1], or ``int64 [N]`` for discrete actions.
        """

    @abstractmethod
    def update(self, batch: Batch, clock: Clock) -> Update:
        """Run one update: a step of each network that is due.

        Args:
            batch: the data of :attr:`batch_spec`.
            clock: drives schedules and intervals. ``clock.updates`` counts the updates before this one.
        """

    def visible(self, frame: np.ndarray) -> np.ndarray:
        """The part of a frame ``[C, H, W]`` that the policy receives, for videos: ``[C, h, w]``. Default: all of it."""
        return frame

    def priority_beta(self, clock: Clock) -> float:
        """β, the exponent of the importance weights in prioritised sampling, 0 to 1."""
        return 1.0

    def policy_state(self) -> dict[str, Any]:
        """The weights that acting needs, without the contrastive objective."""
        return self.state_dict()

    def load_policy_state(self, state: dict[str, Any]) -> None:
        """Restore a state from :meth:`policy_state`, to act. The agent cannot be trained further then."""
        self.load_state_dict(state)

    @abstractmethod
    def state_dict(self) -> dict[str, Any]:
        """Everything that later updates depend on, except PyTorch's random generators.

        A tensor or array of it that is finite at the start must stay so; else training ends as diverged.
        """

    @abstractmethod
    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore a state from :meth:`state_dict`."""


def nonfinite(state: Any, place: str = "") -> Iterator[str]:
    """Names of the tensors and arrays in a state that have an element that is infinite or NaN.

    Args:
        state: nested dicts, lists and tuples.
        place: name of the state itself.
    """
    if isinstance(state, Mapping):
        for key, value in state.items():
            yield from nonfinite(value, f"{place}.{key}" if place else str(key))
    elif isinstance(state, list | tuple):
        for index, value in enumerate(state):
            yield from nonfinite(value, f"{place}.{index}")
    elif isinstance(state, Tensor):
        if state.is_floating_point() and not bool(state.isfinite().all()):
            yield place
    elif isinstance(state, np.ndarray) and state.dtype.kind in "fc" and not np.isfinite(state).all():
        yield place
