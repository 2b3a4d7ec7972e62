"""Soft Actor-Critic from pixels, as in CURL, with a contrastive objective (Algorithm 1).

One update steps the critic, the actor and the temperature, the targets, and the contrastive loss, in this order. Each
has its own loss and optimizer, and uses the weights of the steps before it. The actor shares the critic's
convolutions, but its loss does not train them.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

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
from mcurl.networks.encoders import Convolutions, FeatureHead, PixelEncoder, StateEncoder, centre_crop
from mcurl.networks.heads import GaussianActor, TwinQ, squashed_sample
from mcurl.objectives.base import Objective
from mcurl.replay.augment import LARGEST_SCALE, Augmentation, CentreCrop, Intensity, RandomCrop, RandomShift
from mcurl.replay.batch import Batch, Contrast, Transitions

AugmentationName = Literal["crop", "shift", "none"]


@dataclass(frozen=True)
class SacSettings:
    """SAC's networks, losses and schedules. The defaults are CURL's unless stated otherwise."""

    learning_rate: float = setting(1e-3, above=0)
    """Base learning rate of actor, critic and contrastive loss (released code: 1e-3, cheetah 2e-4; the paper's
    appendix: 1e-4)."""
    batch_size: int = setting(128, low=1)
    """Transitions in an update (cheetah: 512)."""
    discount: float = setting(0.99, low=0, high=1)
    """γ per agent step."""
    critic_tau: float = setting(0.01, low=0, high=1)
    """Momentum of the target Q networks."""
    encoder_tau: float = setting(0.05, low=0, high=1)
    """Momentum of the target encoder, which is also the key encoder of the contrastive loss."""
    target_every: int = setting(2, low=1, unit="updates")
    """Interval between updates of the target networks."""
    actor_every: int = setting(2, low=1, unit="updates")
    """Interval between updates of actor and temperature."""
    initial_temperature: float = setting(0.1, above=0)
    """Initial value of the temperature α."""
    temperature_lr: float = setting(1e-4, above=0)
    """Learning rate of log α."""
    temperature_beta: float = setting(0.5, low=0, below=1)
    """Adam's β1 for log α."""
    learning_starts: int = setting(1000, low=0, unit="agent steps")
    """Agent steps before the first update, with uniformly random actions."""
    updates_per_step: int = setting(1, low=1)
    """Updates per agent step."""
    crop: int = setting(84, low=1, unit="pixels")
    """Side of the crop that the encoder receives; acting uses the centre crop. No effect on states."""
    augmentation: AugmentationName = "crop"
    """Augmentation of the RL batch: a random crop (CURL, RAD), a random shift of the centre crop by up to ``shift_pad``
    pixels (DrQ), or none (the centre crop)."""
    contrast_augmentation: Literal["crop", "shift"] = setting("crop", needs_contrast=True)
    """Augmentation for the contrastive loss: a random crop or a random shift."""
    shift_pad: int = setting(4, low=0, unit="pixels")
    """Largest shift in each direction (DrQ: 4, with env.image_size=84)."""
    intensity: float = setting(0.0, low=0, high=LARGEST_SCALE)
    """Scale of the random intensity jitter of the RL batch (SPR: 0.05); 0 is off."""
    filters: int = setting(32, low=1)
    """Filters of each convolution."""
    layers: int = setting(4, low=1, high=1000)
    """Number of convolutions."""
    feature_dim: int = setting(50, low=1)
    """d, number of features of the encoder."""
    hidden: int = setting(1024, low=1)
    """Width of the hidden layers of actor and critic."""
    contrast_encoder_lr: float = setting(2.0, low=0, needs_contrast=True, only_if=("joint_optimizer", (False,)))
    """Encoder learning rate for the contrastive loss, as a multiple of the base rate (CURL's code optimises the encoder
    with two Adams; with M-CURL the rate decays after the warm-up)."""
    contrast_max_grad_norm: float = setting(0.0, low=0, needs_contrast=True, only_if=("joint_optimizer", (False,)))
    """Gradient norm of the contrastive loss, over encoder and objective, above which the gradient is clipped; 0 is off
    (the later release: 0.5)."""
    contrast_weight: float = setting(1.0, low=0, needs_contrast=True, only_if=("joint_optimizer", (True,)))
    """λ of eq. 6. A separate Adam would cancel this factor."""
    joint_optimizer: bool = setting(False, needs_contrast=True)
    """Optimise J_Q + λ·L_ct with one Adam for encoder, critic and objective (literal eq. 6), instead of one Adam for
    each loss."""


class SAC(Agent):
    """Soft Actor-Critic for continuous actions in [-1, 1]. Arguments as for :class:`Agent`.

    Raises:
        UserError: the actions are not continuous, or the crop does not fit the frames or the convolutions.
    """

    Settings = SacSettings
    section = "sac"
    label = "SAC"
    update_before_step = True
    graph_method = "step"

    @classmethod
    def feature_dim(cls, settings: SacSettings, observation_shape: tuple[int, ...]) -> int:
        """The setting of this name."""
        return settings.feature_dim

    def __init__(
        self,
        settings: SacSettings,
        observation_shape: tuple[int, ...],
        action_space: gymnasium.Space[Any],
        objective: Objective | None = None,
        *,
        device: torch.device,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        if not isinstance(action_space, gymnasium.spaces.Box):
            other = argument("agent", "rainbow")
            raise UserError(f"SAC needs continuous actions, not {one_line(action_space)}: use {other}")
        s, actions = settings, int(np.prod(action_space.shape))
        self.settings, self.objective, self.device = settings, objective, device
        self.schedule = UpdateSchedule(s.learning_starts, s.updates_per_step, random_steps=s.learning_starts)
        self.batch_spec = _batch_spec(s, observation_shape, dtype)
        self.encoder, self.actor_features = _encoders(s, observation_shape, dtype, device)
        self.critic = TwinQ(self.encoder.width, actions, s.hidden).to(device)
        self.actor = GaussianActor(self.encoder.width, actions, s.hidden).to(device)
        self._acting_policy: Callable[[Tensor], tuple[Tensor, Tensor]] = self._policy
        if isinstance(self.encoder, PixelEncoder) and isinstance(self.actor_features, FeatureHead):
            networks = self.encoder.convolutions, self.actor_features, self.actor
            self._acting_policy = PixelPolicy(s.crop, *networks)
        self.log_alpha = nn.Parameter(torch.tensor(math.log(s.initial_temperature), device=device))
        self.target_entropy = -float(actions)
        self.target_encoder, self.target_critic = momentum_copy(self.encoder), momentum_copy(self.critic)
        if objective is not None:
            objective.to(device)
        self._build_optimizers()

    def _build_optimizers(self) -> None:
        s, device = self.settings, self.device
        self.actor_parameters = [*self.actor_features.parameters(), *self.actor.parameters()]
        self.critic_parameters = [*self.encoder.parameters(), *self.critic.parameters()]
        projection, objective = objective_parameters(self.objective)
        joint = [{"params": projection, "name": "projection"}, {"params": objective, "name": "objective"}]
        critic = [{"params": self.critic_parameters, "name": "critic"}, *(joint if s.joint_optimizer else [])]
        actor = [{"params": self.actor_parameters, "name": "actor"}]
        temperature = [{"params": [self.log_alpha], "name": "temperature"}]
        self.optimizers = {
            "critic": adam(critic, s.learning_rate, device),
            "actor": adam(actor, s.learning_rate, device),
            "temperature": adam(temperature, s.temperature_lr, device, beta1=s.temperature_beta),
        }
        if self.objective is not None and not s.joint_optimizer:
            # The encoder is in the critic's optimizer too: one optimizer for each loss, as in the released code.
            encoder = [*self.encoder.parameters(), *projection]
            groups = [{"params": encoder, "name": "encoder"}, {"params": objective, "name": "objective"}]
            self.optimizers["contrast"] = adam(groups, s.learning_rate, device)

    # Acting

    @torch.no_grad()
    def act(self, observations: np.ndarray, *, explore: bool, clock: Clock | None = None) -> np.ndarray:
        """Actions ``float32 [N, A]`` in [-1, 1] for ``uint8 [N, K*C, H, W]`` or states ``float32 [N, D]``.

        They are sampled with ``explore``; otherwise they are the mean of the policy.
        """
        inputs = torch.as_tensor(observations, device=self.device)
        mean, log_std = self._acting_policy(inputs)
        if explore:
            mean = mean + log_std.exp() * torch.randn_like(mean)
        action: np.ndarray = mean.tanh().cpu().numpy()
        return action

    def visible(self, frame: np.ndarray) -> np.ndarray:
        """The centre crop of a frame, ``[C, H, W]``."""
        crop: np.ndarray = centre_crop(torch.as_tensor(frame), self.settings.crop).numpy()
        return crop

    def _policy(self, maps: Tensor) -> tuple[Tensor, Tensor]:
        mean, log_std = self.actor(self.actor_features(maps))
        return mean, log_std

    # Learning

    def update(self, batch: Batch, clock: Clock) -> Update:
        """Run one update.

        Args:
            batch: transitions, and the contrastive batch (None: no objective, or no sequence can be sampled yet).
            clock: drives the learning rates, and the intervals of the actor and of the targets.
        """
        s, updates = self.settings, clock.updates + 1
        if self.objective is not None:
            self._set_contrast_rates(self.objective.learning_rate(clock.learned_env_steps(s.updates_per_step)))
        return Update(self.step(batch, actor=updates % s.actor_every == 0, targets=updates % s.target_every == 0))

    def _set_contrast_rates(self, factors: dict[str, float]) -> None:
        s = self.settings
        factors = factors | {"encoder": s.contrast_encoder_lr * factors["encoder"]}
        set_learning_rates(self.optimizers["critic" if s.joint_optimizer else "contrast"], s.learning_rate, factors)

    def step(self, batch: Batch, *, actor: bool, targets: bool) -> dict[str, Tensor]:
        """Algorithm 1, lines 12 to 19, on the device, without synchronisation or branches on tensors.

        Args:
            batch: as for :meth:`update`.
            actor: whether actor and temperature are updated.
            targets: whether the target networks are updated.

        Returns:
            Name -> detached scalar.
        """
        metrics = self._update_critic(batch)
        if actor:
            metrics |= self._update_actor(batch.transitions)
        if targets:
            self._update_targets()
        if batch.contrast is not None and not self.settings.joint_optimizer:
            metrics |= self._update_contrast(batch.contrast)
        if self.objective is not None:
            self.objective.after_step()
        return metrics

    def _update_critic(self, batch: Batch) -> dict[str, Tensor]:
        """Lines 12 and 13: ω_2i and θ descend J_Q (with ``joint_optimizer``, J_Q + λ L_ct)."""
        loss, metrics = self._critic_loss(batch.transitions)
        if batch.contrast is not None and self.settings.joint_optimizer:
            contrast, contrast_metrics = self._contrast_loss(batch.contrast)
            loss, metrics = loss + self.settings.contrast_weight * contrast, metrics | contrast_metrics
        self._optimize(loss, "critic")
        return metrics

    def _critic_loss(self, t: Transitions) -> tuple[Tensor, dict[str, Tensor]]:
        with torch.no_grad():
            mean, log_std = self._policy(self.encoder.convolutions(t.next_obs))
            action, log_pi = squashed_sample(mean, log_std, torch.randn_like(mean))
            target_q1, target_q2 = self.target_critic(self.target_encoder(t.next_obs), action)
            value = torch.minimum(target_q1, target_q2) - self.log_alpha.exp() * log_pi
            target = t.reward + t.discount * value
        q1, q2 = self.critic(self.encoder(t.obs), t.action)
        loss = F.mse_loss(q1, target) + F.mse_loss(q2, target)
        return loss, {
            "critic/loss": loss.detach(),
            "critic/q": q1.detach().mean(),
            "critic/target": target.mean(),
            "batch/reward": t.reward.mean(),
        }

    def _update_actor(self, t: Transitions) -> dict[str, Tensor]:
        """Line 14: ω_1 descends J_π; then the temperature adapts to the target entropy."""
        with torch.no_grad():
            maps = self.encoder.convolutions(t.obs)  # again, because the critic's step changed the convolutions
            features = self.encoder.features(maps)
        mean, log_std = self._policy(maps)
        action, log_pi = squashed_sample(mean, log_std, torch.randn_like(mean))
        q = torch.minimum(*self.critic(features, action))
        alpha = self.log_alpha.exp()
        actor_loss = (alpha.detach() * log_pi - q).mean()
        temperature_loss = alpha * (-log_pi - self.target_entropy).detach().mean()
        self._optimize(actor_loss, "actor")
        self._optimize(temperature_loss, "temperature")
        entropy = -log_pi.detach().mean()
        return {"actor/loss": actor_loss.detach(), "actor/entropy": entropy, "actor/temperature": alpha.detach()}

    def _update_targets(self) -> None:
        """Lines 18 and 19: momentum updates of the target networks. The target encoder is also the key encoder."""
        ema_update(self.target_encoder.parameters(), self.encoder.parameters(), self.settings.encoder_tau)
        ema_update(self.target_critic.parameters(), self.critic.parameters(), self.settings.critic_tau)
        if self.objective is not None:
            self.objective.ema_step(self.settings.encoder_tau)

    def _update_contrast(self, views: Contrast) -> dict[str, Tensor]:
        """Lines 16 and 17: φ and θ descend L_ct."""
        loss, metrics = self._contrast_loss(views)
        self._optimize(loss, "contrast", max_norm=self.settings.contrast_max_grad_norm)
        return metrics

    def _contrast_loss(self, views: Contrast) -> tuple[Tensor, dict[str, Tensor]]:
        assert self.objective is not None
        loss = self.objective.loss(views.query, views.key, views.plan, self.encoder, self.target_encoder)
        return loss.value, loss.metrics

    def _optimize(self, loss: Tensor, name: str, *, max_norm: float = 0.0) -> None:
        descend(loss, self.optimizers[name], max_norm=max_norm)

    # State

    def _modules(self) -> dict[str, nn.Module]:
        named: dict[str, nn.Module | None] = {
            "encoder": self.encoder, "actor_features": self.actor_features, "actor": self.actor, "critic": self.critic,
            "target_encoder": self.target_encoder, "target_critic": self.target_critic, "objective": self.objective,
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
        state["log_alpha"] = self.log_alpha.detach()
        state["optimizers"] = {name: optimizer.state_dict() for name, optimizer in self.optimizers.items()}
        return state

    def load_state_dict(self, state: dict[str, Any]) -> None:
        for name, module in self._modules().items():
            module.load_state_dict(state[name])
        self.log_alpha.data.copy_(state["log_alpha"])
        for name, optimizer in self.optimizers.items():
            load_optimizer(optimizer, state["optimizers"][name])


def _encoders(
    s: SacSettings, shape: tuple[int, ...], dtype: torch.dtype, device: torch.device
) -> tuple[PixelEncoder | StateEncoder, FeatureHead | StateEncoder]:
    """The critic's encoder, and the actor's feature head on the shared convolutions."""
    if len(shape) == 1:
        return StateEncoder(shape[0]), StateEncoder(shape[0])
    convolutions = Convolutions(shape[0], s.filters, s.layers, dtype=dtype)
    if convolutions.output_size(s.crop) < 1:
        raise UserError(f"a crop of {s.crop} × {s.crop} pixels is too small for sac.layers={s.layers} convolutions")
    encoder = PixelEncoder(convolutions, s.crop, s.feature_dim).to(device)
    return encoder, FeatureHead(s.filters, convolutions.output_size(s.crop), s.feature_dim).to(device)


def _batch_spec(s: SacSettings, shape: tuple[int, ...], dtype: torch.dtype) -> BatchSpec:
    """The data of an update: crops of pixels, or unchanged states."""
    if len(shape) == 1:
        return BatchSpec(s.batch_size, discount=s.discount)
    if s.crop > min(shape[1:]):
        raise UserError(f"sac.crop={s.crop} is larger than the frames ({shape[1]}×{shape[2]})")

    def augmentation(name: AugmentationName) -> Augmentation:
        match name:
            case "crop":
                return RandomCrop(s.crop)
            case "shift":
                return RandomShift(s.crop, s.shift_pad)
            case "none":
                return CentreCrop(s.crop)

    rl = augmentation(s.augmentation)
    return BatchSpec(
        s.batch_size,
        discount=s.discount,
        augmentation=Intensity(rl, s.intensity) if s.intensity else rl,
        contrast_augmentation=augmentation(s.contrast_augmentation),
        layout="channels_last" if dtype == torch.bfloat16 else "planes",
    )
