"""Soft Actor-Critic from pixels, as CURL's, with the contrastive objective joined as in Algorithm 1.

One update: critic, actor and temperature, targets, contrastive loss. Each is a loss and a step of its own. The actor
sees the critic's new weights, the contrastive loss the convolutions that the critic's step left. The actor shares the
critic's convolutions, which its loss does not train.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal

import gymnasium
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mcurl.agents.base import Agent, BatchSpec, Clock, Update, UpdateSchedule
from mcurl.agents.optim import adam, load_optimizer, objective_parameters, set_learning_rates, step
from mcurl.config.fields import setting
from mcurl.errors import UserError
from mcurl.networks.ema import ema_update, momentum_copy
from mcurl.networks.encoders import Convolutions, FeatureHead, Flat, PixelEncoder, centre_crop
from mcurl.networks.heads import GaussianActor, TwinQ, squashed_sample
from mcurl.objectives.base import Objective
from mcurl.replay.augment import LARGEST_SCALE, Augmentation, CentreCrop, Intensity, RandomCrop, RandomShift
from mcurl.replay.batch import Batch, Contrast, Transitions

AugmentationName = Literal["crop", "shift", "none"]


@dataclass(frozen=True)
class SacSettings:
    """SAC's networks, losses and clocks (CURL's values unless said otherwise)."""

    learning_rate: float = setting(1e-3, above=0)
    """Base learning rate of actor, critic and contrastive loss (released code; the paper's appendix says 1e-4; cheetah
    2e-4)."""
    batch_size: int = setting(128, low=1)
    """Transitions in an update (cheetah 512)."""
    discount: float = setting(0.99, low=0, high=1)
    """γ per agent step."""
    critic_tau: float = setting(0.01, low=0, high=1)
    """Momentum of the target Q networks."""
    encoder_tau: float = setting(0.05, low=0, high=1)
    """Momentum of the target encoder, which is the contrastive loss's key encoder."""
    target_every: int = setting(2, low=1, unit="updates")
    """Interval between steps of the targets."""
    actor_every: int = setting(2, low=1, unit="updates")
    """Interval between steps of actor and temperature."""
    initial_temperature: float = setting(0.1, above=0)
    """α at the start."""
    temperature_lr: float = setting(1e-4, above=0)
    """Learning rate of log α."""
    temperature_beta: float = setting(0.5, low=0, high=1)
    """Adam's β1 for log α."""
    learning_starts: int = setting(1000, low=0, unit="agent steps")
    """Random actions before the first update."""
    updates_per_step: int = setting(1, low=1)
    """Updates in an agent step."""
    crop: int = setting(84, low=1, unit="pixels")
    """Side of what the encoder sees; acting sees the centre. Not used on states."""
    augmentation: AugmentationName = "crop"
    """Of the RL batch: a random crop (CURL, RAD), the centre shifted by up to ``shift_pad`` pixels (DrQ), or the
    centre."""
    contrast_augmentation: Literal["crop", "shift"] = setting("crop", needs_contrast=True)
    """Of the views for the contrastive loss."""
    shift_pad: int = setting(4, low=0, unit="pixels")
    """By how much a shift moves at most (DrQ: 4, on frames of 84, env.image_size=84)."""
    intensity: float = setting(0.0, low=0, high=LARGEST_SCALE)
    """Scale of a random factor on the pixels of each observation of the RL batch (SPR: 0.05); 0 is off."""
    filters: int = setting(32, low=1)
    """Filters of each convolution."""
    layers: int = setting(4, low=1)
    """Convolutions."""
    feature_dim: int = setting(50, low=1)
    """d, width of the encoder's features."""
    hidden: int = setting(1024, low=1)
    """Width of the hidden layers of actor and critic."""
    contrast_encoder_lr: float = setting(2.0, low=0, needs_contrast=True, only_if=("joint_optimizer", (False,)))
    """Learning rate of the encoder through the contrastive loss, as a multiple of the base rate (CURL's code has the
    encoder in two Adams; M-CURL lets it fall after the warm-up)."""
    contrast_max_grad_norm: float = setting(0.0, low=0, needs_contrast=True, only_if=("joint_optimizer", (False,)))
    """Clip the gradient of the contrastive loss, encoder and objective together, to this norm; 0 is off (the later
    release has 0.5)."""
    contrast_weight: float = setting(1.0, low=0, needs_contrast=True, only_if=("joint_optimizer", (True,)))
    """λ of eq. 6. An Adam of its own would cancel it."""
    joint_optimizer: bool = setting(False, needs_contrast=True)
    """One Adam over J_Q + λ·L_ct for encoder, critic and objective (eq. 6 to the letter) instead of one for each
    loss."""


class SAC(Agent):
    """Actor, critics, temperature, their targets and optimizers, and when each steps.

    Args: see :class:`Agent`; actions are a Box in [-1, 1].

    Raises:
        UserError: discrete actions, or a crop larger than the frames.
    """

    Settings = SacSettings
    section = "sac"
    label = "SAC"
    update_before_step = True

    @classmethod
    def feature_dim(cls, settings: SacSettings, observation_shape: tuple[int, ...]) -> int:
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
            raise UserError(f"SAC learns continuous actions, not {action_space}: use --agent rainbow")
        s, actions = settings, int(np.prod(action_space.shape))
        self.settings, self.objective, self.device = settings, objective, device
        self.schedule = UpdateSchedule(s.learning_starts, s.updates_per_step, random_steps=s.learning_starts)
        self.pixels = len(observation_shape) == 3
        self.batch_spec = _batch_spec(s, observation_shape, dtype)
        self.encoder, self.actor_features = _encoders(s, observation_shape, dtype, device)
        self.critic = TwinQ(self.encoder.width, actions, s.hidden).to(device)
        self.actor = GaussianActor(self.encoder.width, actions, s.hidden).to(device)
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
        as_encoder, own = objective_parameters(self.objective)
        joint = [{"params": as_encoder, "name": "projection"}, {"params": own, "name": "objective"}]
        critic = [{"params": self.critic_parameters, "name": "critic"}, *(joint if s.joint_optimizer else [])]
        actor = [{"params": self.actor_parameters, "name": "actor"}]
        temperature = [{"params": [self.log_alpha], "name": "temperature"}]
        self.optimizers = {
            "critic": adam(critic, s.learning_rate, device),
            "actor": adam(actor, s.learning_rate, device),
            "temperature": adam(temperature, s.temperature_lr, device, beta1=s.temperature_beta),
        }
        if self.objective is not None and not s.joint_optimizer:
            # The encoder stands in the critic's optimizer too: one for each loss, as in the released code.
            encoder = [*self.encoder.parameters(), *as_encoder]
            groups = [{"params": encoder, "name": "encoder"}, {"params": own, "name": "objective"}]
            self.optimizers["contrast"] = adam(groups, s.learning_rate, device)

    # Acting

    @torch.no_grad()
    def act(self, observations: np.ndarray, *, explore: bool, clock: Clock | None = None) -> np.ndarray:
        """Actions ``float32 [N, A]`` for ``uint8 [N, K*C, H, W]`` (or states ``float32 [N, D]``): sampled to explore,
        else the mean.
        """
        pixels = torch.as_tensor(observations, device=self.device)
        if self.pixels:
            pixels = centre_crop(pixels, self.settings.crop)
        mean, log_std = self._policy(self.encoder.convolutions(pixels))
        if explore:
            mean = mean + log_std.exp() * torch.randn_like(mean)
        action: np.ndarray = mean.tanh().cpu().numpy()
        return action

    def _policy(self, maps: Tensor) -> tuple[Tensor, Tensor]:
        mean, log_std = self.actor(self.actor_features(maps))
        return mean, log_std

    # Learning

    def update(self, batch: Batch, clock: Clock) -> Update:
        """One update of everything that is due.

        Args:
            batch: transitions, and the contrastive views where the objective wants any (None: no sequence could be
                sampled yet).
            clock: drives the schedules.
        """
        s, number = self.settings, clock.updates + 1
        if self.objective is not None:
            self._set_contrast_rates(self.objective.learning_rate(clock.learned_env_steps(s.updates_per_step)))
        return Update(self.step(batch, actor=number % s.actor_every == 0, targets=number % s.target_every == 0))

    def _set_contrast_rates(self, factors: dict[str, float]) -> None:
        s = self.settings
        factors = factors | {"encoder": s.contrast_encoder_lr * factors["encoder"]}
        set_learning_rates(self.optimizers["critic" if s.joint_optimizer else "contrast"], s.learning_rate, factors)

    def step(self, batch: Batch, *, actor: bool, targets: bool) -> dict[str, Tensor]:
        """Algorithm 1, lines 12 to 19, on the device alone: no synchronisation, no branch on a tensor."""
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
            contrast, more = self._contrast_loss(batch.contrast)
            loss, metrics = loss + self.settings.contrast_weight * contrast, metrics | more
        self._descend(loss, "critic")
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
        """Line 14: ω_1 descends J_π, then the temperature follows its target entropy."""
        with torch.no_grad():
            maps = self.encoder.convolutions(t.obs)  # encoded anew: the critic's step has changed the convolutions
            features = self.encoder.features(maps)
        mean, log_std = self._policy(maps)
        action, log_pi = squashed_sample(mean, log_std, torch.randn_like(mean))
        q = torch.minimum(*self.critic(features, action))
        alpha = self.log_alpha.exp()
        actor_loss = (alpha.detach() * log_pi - q).mean()
        temperature_loss = alpha * (-log_pi - self.target_entropy).detach().mean()
        self._descend(actor_loss, "actor")
        self._descend(temperature_loss, "temperature")
        entropy = -log_pi.detach().mean()
        return {"actor/loss": actor_loss.detach(), "actor/entropy": entropy, "actor/temperature": alpha.detach()}

    def _update_targets(self) -> None:
        """Lines 18 and 19. The target encoder is the key encoder; it follows what the critic's step left."""
        ema_update(self.target_encoder.parameters(), self.encoder.parameters(), self.settings.encoder_tau)
        ema_update(self.target_critic.parameters(), self.critic.parameters(), self.settings.critic_tau)
        if self.objective is not None:
            self.objective.ema_step(self.settings.encoder_tau)

    def _update_contrast(self, views: Contrast) -> dict[str, Tensor]:
        """Lines 16 and 17: φ and θ descend L_ct."""
        loss, metrics = self._contrast_loss(views)
        self._descend(loss, "contrast", max_norm=self.settings.contrast_max_grad_norm)
        return metrics

    def _contrast_loss(self, views: Contrast) -> tuple[Tensor, dict[str, Tensor]]:
        assert self.objective is not None
        loss = self.objective.loss(views.query, views.key, views.plan, self.encoder, self.target_encoder)
        return loss.value, loss.metrics

    def _descend(self, loss: Tensor, name: str, *, max_norm: float = 0.0) -> None:
        """One step of one optimizer on one loss; gradients of other parameters are neither computed nor kept."""
        optimizer = self.optimizers[name]
        parameters = [p for group in optimizer.param_groups for p in group["params"]]
        gradients = torch.autograd.grad(loss, parameters, allow_unused=True)
        for parameter, gradient in zip(parameters, gradients, strict=True):
            parameter.grad = gradient
        if max_norm > 0:
            nn.utils.clip_grad_norm_(parameters, max_norm)
        step(optimizer)
        for parameter in parameters:
            parameter.grad = None

    # State

    def _modules(self) -> dict[str, nn.Module]:
        named: dict[str, nn.Module | None] = {
            "encoder": self.encoder, "actor_features": self.actor_features, "actor": self.actor, "critic": self.critic,
            "target_encoder": self.target_encoder, "target_critic": self.target_critic, "objective": self.objective,
        }  # fmt: skip
        return {name: module for name, module in named.items() if module is not None}

    def policy_state(self) -> dict[str, Any]:
        """What acting needs: convolutions and actor."""
        return {
            "convolutions": self.encoder.convolutions.state_dict(),
            "actor_features": self.actor_features.state_dict(),
            "actor": self.actor.state_dict(),
        }

    def state_dict(self) -> dict[str, Any]:
        """Everything that a later update depends on, in plain memory order once saved."""
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
) -> tuple[PixelEncoder | Flat, FeatureHead | Flat]:
    """The critic's encoder, and the actor's own features on the shared convolutions."""
    if len(shape) == 1:
        return Flat(shape[0]), Flat(shape[0])
    convolutions = Convolutions(shape[0], s.filters, s.layers, dtype=dtype)
    if convolutions.output_size(s.crop) < 1:
        raise UserError(f"sac.layers={s.layers} convolutions leave nothing of a crop of {s.crop} × {s.crop}")
    encoder = PixelEncoder(convolutions, s.crop, s.feature_dim).to(device)
    return encoder, FeatureHead(s.filters, convolutions.output_size(s.crop), s.feature_dim).to(device)


def _batch_spec(s: SacSettings, shape: tuple[int, ...], dtype: torch.dtype) -> BatchSpec:
    """What an update reads: crops of pixels, states as they are."""
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
