"""DrQ-v2 (Yarats et al., 2021): DDPG from pixels with random shifts and n-step returns, with a contrastive objective.

One update steps the critic with the encoder, the actor, the targets, and the contrastive loss, in this order. The actor
shares the critic's convolutions, but its loss does not train them. The convolutions have no target network.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import gymnasium
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mcurl.agents.base import Agent, BatchSpec, Clock, Update, UpdateSchedule
from mcurl.agents.optim import adam, descend, load_optimizer, objective_parameters, set_learning_rates
from mcurl.config.fields import setting
from mcurl.errors import UserError, argument, one_line
from mcurl.networks.acting import PixelPolicy
from mcurl.networks.ema import ema_update, momentum_copy
from mcurl.networks.encoders import Convolutions, FeatureHead, PixelEncoder
from mcurl.networks.heads import DeterministicActor, TwinQ
from mcurl.objectives.base import Objective
from mcurl.replay.augment import RandomShift
from mcurl.replay.batch import Batch, Contrast, Transitions

PIXEL_OFFSET = 0.5
"""Pixels are centred: the encoder receives x / 255 - 0.5."""
LARGEST_ACTION = 1 - 1e-6
"""Actions with noise are clipped to ± this value."""


@dataclass(frozen=True)
class DrQv2Settings:
    """DrQ-v2's networks, losses and schedules. The defaults are those of its released code for tasks of medium
    difficulty."""

    learning_rate: float = setting(1e-4, above=0)
    """Base learning rate of encoder, critic and actor (humanoid: 8e-5)."""
    batch_size: int = setting(256, low=1)
    """Transitions in an update (walker: 512)."""
    n_step: int = setting(3, low=1)
    """Number of rewards in the n-step return (walker: 1)."""
    discount: float = setting(0.99, low=0, high=1)
    """γ per agent step."""
    critic_tau: float = setting(0.01, low=0, high=1)
    """Momentum of the target critic."""
    update_every: int = setting(2, low=1, unit="agent steps")
    """Interval between updates."""
    learning_starts: int = setting(2000, low=0, unit="agent steps")
    """Agent steps before the first update."""
    random_steps: int = setting(2000, low=0, unit="agent steps")
    """Agent steps with uniformly random actions at the start of the run."""
    stddev_start: float = setting(1.0, low=0)
    """Standard deviation of the exploration noise at the first step; it falls linearly."""
    stddev_end: float = setting(0.1, low=0)
    """Standard deviation of the exploration noise from ``stddev_steps`` on."""
    stddev_steps: int = setting(500_000, low=1, unit="agent steps")
    """Length of the fall (easy tasks: 100k; humanoid: 2M)."""
    stddev_clip: float = setting(0.3, low=0)
    """The noise of actions in the losses is clipped to ± this value; the noise in acting is not."""
    shift_pad: int = setting(4, low=0, unit="pixels")
    """Largest shift of a frame in each direction, for the RL and the contrastive batch; 0: no augmentation."""
    filters: int = setting(32, low=1)
    """Filters of each convolution."""
    layers: int = setting(4, low=1, high=1000)
    """Number of convolutions."""
    feature_dim: int = setting(50, low=1)
    """d, number of features of the critic's and of the actor's trunk (humanoid: 100)."""
    hidden: int = setting(1024, low=1)
    """Width of the hidden layers of actor and critic."""
    encoder_tau: float = setting(0.05, low=0, high=1, needs_contrast=True)
    """Momentum of the key encoder at every update (CURL: 0.05)."""
    contrast_encoder_lr: float = setting(2.0, low=0, needs_contrast=True)
    """Encoder learning rate for the contrastive loss, as a multiple of the base rate (as with SAC)."""


class DrQv2(Agent):
    """DrQ-v2 for pixels and continuous actions in [-1, 1]. Arguments as for :class:`Agent`.

    Raises:
        UserError: the actions are not continuous, the observations are states, or the frames are too small.
    """

    Settings = DrQv2Settings
    section = "drqv2"
    label = "DrQ-v2"
    update_before_step = True
    graph_method = "step"

    @classmethod
    def feature_dim(cls, settings: DrQv2Settings, observation_shape: tuple[int, ...]) -> int:
        """The setting of this name."""
        return settings.feature_dim

    def __init__(
        self,
        settings: DrQv2Settings,
        observation_shape: tuple[int, ...],
        action_space: gymnasium.Space[Any],
        objective: Objective | None = None,
        *,
        device: torch.device,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        if not isinstance(action_space, gymnasium.spaces.Box):
            other = argument("agent", "rainbow")
            raise UserError(f"DrQ-v2 needs continuous actions, not {one_line(action_space)}: use {other}")
        s, actions = settings, int(np.prod(action_space.shape))
        self.settings, self.objective, self.device = settings, objective, device
        self.schedule = UpdateSchedule(s.learning_starts, random_steps=s.random_steps, update_every=s.update_every)
        self.encoder = _encoder(s, observation_shape, dtype).to(device)
        self.batch_spec = _batch_spec(s, observation_shape, dtype)
        side = self.encoder.convolutions.output_size(min(observation_shape[1:]))
        self.actor_features = FeatureHead(s.filters, side, s.feature_dim, tanh=True).to(device)
        self.critic = TwinQ(s.feature_dim, actions, s.hidden).to(device)
        self.actor = DeterministicActor(s.feature_dim, actions, s.hidden).to(device)
        self._acting_policy: Callable[[Tensor], Tensor] = PixelPolicy(
            min(observation_shape[1:]), self.encoder.convolutions, self.actor_features, self.actor
        )
        self.target_features, self.target_critic = momentum_copy(self.encoder.features), momentum_copy(self.critic)
        # A tensor that is set in place, because a captured CUDA graph reads it.
        self.stddev = torch.tensor(s.stddev_start, device=device)
        self.key_encoder: PixelEncoder | None = None
        if objective is not None:
            objective.to(device)
            self.key_encoder = momentum_copy(self.encoder)
        self._build_optimizers()

    def _build_optimizers(self) -> None:
        s, encoder = self.settings, self.encoder
        groups = {
            "encoder": list(encoder.convolutions.parameters()),
            "critic": [*encoder.features.parameters(), *self.critic.parameters()],
            "actor": [*self.actor_features.parameters(), *self.actor.parameters()],
        }
        self.optimizers = {
            name: adam([{"params": parameters, "name": name}], s.learning_rate, self.device)
            for name, parameters in groups.items()
        }
        if self.objective is not None:
            projection, objective = objective_parameters(self.objective)
            contrast = [
                {"params": [*encoder.parameters(), *projection], "name": "encoder"},
                {"params": objective, "name": "objective"},
            ]
            self.optimizers["contrast"] = adam(contrast, s.learning_rate, self.device)

    # Acting

    @torch.no_grad()
    def act(self, observations: np.ndarray, *, explore: bool, clock: Clock) -> np.ndarray:
        """Actions ``float32 [N, A]`` in [-1, 1] for ``uint8 [N, K*C, H, W]``.

        With ``explore``, they have Gaussian noise of the scheduled standard deviation.
        """
        action = self._acting_policy(torch.as_tensor(observations, device=self.device))
        if explore:
            action = _clipped(action + self.scheduled_stddev(clock) * torch.randn_like(action))
        result: np.ndarray = action.cpu().numpy()
        return result

    def scheduled_stddev(self, clock: Clock) -> float:
        """The standard deviation of the exploration noise, linear in agent steps."""
        s = self.settings
        progress = min(clock.agent_steps / s.stddev_steps, 1.0)
        return (1 - progress) * s.stddev_start + progress * s.stddev_end

    def _policy(self, maps: Tensor) -> Tensor:
        action: Tensor = self.actor(self.actor_features(maps))
        return action

    def _noisy_action(self, maps: Tensor) -> Tensor:
        """Actions ``[N, A]`` of the policy with clipped noise. Clipping to [-1, 1] does not change the gradient."""
        mean, clip = self._policy(maps), self.settings.stddev_clip
        noisy = mean + (self.stddev * torch.randn_like(mean)).clamp(-clip, clip)
        return _clipped(noisy.detach()) + (noisy - noisy.detach())

    # Learning

    def update(self, batch: Batch, clock: Clock) -> Update:
        """Run one update.

        Args:
            batch: n-step transitions, and the contrastive batch (None: no objective, or no sequence can be sampled
                yet).
            clock: drives the noise, and the learning rates of the contrastive loss.
        """
        s = self.settings
        self.stddev.fill_(self.scheduled_stddev(clock))
        if self.objective is not None:
            factors = self.objective.learning_rate(clock.learned_env_steps(update_every=s.update_every))
            factors = factors | {"encoder": s.contrast_encoder_lr * factors["encoder"]}
            set_learning_rates(self.optimizers["contrast"], s.learning_rate, factors)
        return Update(self.step(batch))

    def step(self, batch: Batch) -> dict[str, Tensor]:
        """Losses and optimizer steps on the device, without synchronisation or branches on tensors.

        Returns:
            Name -> detached scalar.
        """
        t, convolutions = batch.transitions, self.encoder.convolutions
        maps = convolutions(t.obs)
        with torch.no_grad():
            next_maps = convolutions(t.next_obs)
        loss, metrics = self._critic_loss(t, maps, next_maps)
        descend(loss, self.optimizers["critic"], self.optimizers["encoder"])
        # As in the released code, the actor reads the maps from before the encoder's step.
        actor_loss = self._actor_loss(maps.detach())
        descend(actor_loss, self.optimizers["actor"])
        self._update_targets()
        if batch.contrast is not None:
            metrics |= self._update_contrast(batch.contrast)
        if self.objective is not None:
            self.objective.after_step()
        return metrics | {"actor/loss": actor_loss.detach(), "actor/stddev": self.stddev.clone()}

    def _critic_loss(self, t: Transitions, maps: Tensor, next_maps: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Squared error of both Q networks against the n-step target of clipped double Q-learning."""
        with torch.no_grad():
            next_action = self._noisy_action(next_maps)
            target_q1, target_q2 = self.target_critic(self.target_features(next_maps), next_action)
            target = t.reward + t.discount * torch.minimum(target_q1, target_q2)
        q1, q2 = self.critic(self.encoder.features(maps), t.action)
        loss = F.mse_loss(q1, target) + F.mse_loss(q2, target)
        return loss, {
            "critic/loss": loss.detach(),
            "critic/q": q1.detach().mean(),
            "critic/target": target.mean(),
            "batch/reward": t.reward.mean(),
        }

    def _actor_loss(self, maps: Tensor) -> Tensor:
        """The negative Q-value of noisy actions; maps have no gradient."""
        with torch.no_grad():
            features = self.encoder.features(maps)
        return -torch.minimum(*self.critic(features, self._noisy_action(maps))).mean()

    def _update_targets(self) -> None:
        """Momentum updates of the target critic with its trunk, and of the key encoder."""
        s = self.settings
        ema_update(self.target_features.parameters(), self.encoder.features.parameters(), s.critic_tau)
        ema_update(self.target_critic.parameters(), self.critic.parameters(), s.critic_tau)
        if self.objective is not None and self.key_encoder is not None:
            ema_update(self.key_encoder.parameters(), self.encoder.parameters(), s.encoder_tau)
            self.objective.ema_step(s.encoder_tau)

    def _update_contrast(self, views: Contrast) -> dict[str, Tensor]:
        """Encoder and critic's trunk, and the objective, descend the contrastive loss."""
        assert self.objective is not None
        assert self.key_encoder is not None
        loss = self.objective.loss(views.query, views.key, views.plan, self.encoder, self.key_encoder)
        descend(loss.value, self.optimizers["contrast"])
        return loss.metrics

    # State

    def _modules(self) -> dict[str, nn.Module]:
        named: dict[str, nn.Module | None] = {
            "encoder": self.encoder, "actor_features": self.actor_features, "actor": self.actor, "critic": self.critic,
            "target_features": self.target_features, "target_critic": self.target_critic,
            "key_encoder": self.key_encoder, "objective": self.objective,
        }  # fmt: skip
        return {name: module for name, module in named.items() if module is not None}

    def policy_state(self) -> dict[str, Any]:
        """The weights that acting needs: convolutions and actor."""
        return {
            "convolutions": self.encoder.convolutions.state_dict(),
            "actor_features": self.actor_features.state_dict(),
            "actor": self.actor.state_dict(),
        }

    def load_policy_state(self, state: dict[str, Any]) -> None:
        self.encoder.convolutions.load_state_dict(state["convolutions"])
        self.actor_features.load_state_dict(state["actor_features"])
        self.actor.load_state_dict(state["actor"])

    def state_dict(self) -> dict[str, Any]:
        """Everything that later updates depend on, except PyTorch's generators."""
        state: dict[str, Any] = {name: module.state_dict() for name, module in self._modules().items()}
        return state | {"optimizers": {name: optimizer.state_dict() for name, optimizer in self.optimizers.items()}}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        for name, module in self._modules().items():
            module.load_state_dict(state[name])
        for name, optimizer in self.optimizers.items():
            load_optimizer(optimizer, state["optimizers"][name])


def _clipped(action: Tensor) -> Tensor:
    return action.clamp(-LARGEST_ACTION, LARGEST_ACTION)


def _encoder(s: DrQv2Settings, shape: tuple[int, ...], dtype: torch.dtype) -> PixelEncoder:
    """The convolutions and the critic's trunk."""
    if len(shape) != 3:
        raise UserError(f"DrQ-v2 learns from pixels only; observations of shape {shape} are states")
    convolutions, side = Convolutions(shape[0], s.filters, s.layers, dtype=dtype, offset=PIXEL_OFFSET), min(shape[1:])
    if convolutions.output_size(side) < 1:
        raise UserError(f"frames of {side} × {side} pixels are too small for drqv2.layers={s.layers} convolutions")
    gain = nn.init.calculate_gain("relu")
    for weight in convolutions.weights:
        # Orthogonal over the whole kernel, and into a matrix first, because the weights are channels-last.
        weight.data.copy_(nn.init.orthogonal_(torch.empty(weight.shape), gain))
    return PixelEncoder(convolutions, side, s.feature_dim, tanh=True)


def _batch_spec(s: DrQv2Settings, shape: tuple[int, ...], dtype: torch.dtype) -> BatchSpec:
    """The data of an update: random shifts by whole pixels."""
    shift = RandomShift(min(shape[1:]), s.shift_pad)
    return BatchSpec(
        s.batch_size,
        n_step=s.n_step,
        discount=s.discount,
        augmentation=shift,
        contrast_augmentation=shift,
        layout="channels_last" if dtype == torch.bfloat16 else "planes",
    )
