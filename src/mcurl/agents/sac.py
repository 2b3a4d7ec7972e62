"""Soft Actor-Critic from pixels, as CURL's, with the contrastive objective joined as in Algorithm 1.

One update: critic, actor and temperature, targets, contrastive loss. Each is a loss and a step of its own: the actor
    sees the critic's new weights, the
contrastive loss sees the convolutions that the critic's step left. The actor shares the critic's convolutions, which
its loss does not train.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mcurl.agents.base import Update, Views
from mcurl.agents.optim import adam, load_optimizer, set_learning_rates, step
from mcurl.errors import UserError
from mcurl.networks.ema import ema_update, momentum_copy
from mcurl.networks.encoders import Convolutions, FeatureHead, Flat, PixelEncoder, centre_crop
from mcurl.networks.heads import GaussianActor, TwinQ, squashed_sample
from mcurl.objectives.base import Objective
from mcurl.replay.augment import RandomCrop
from mcurl.replay.batch import Batch, Contrast, Transitions


@dataclass(frozen=True)
class SacSettings:
    """SAC's networks, losses and clocks (CURL's values unless said otherwise)."""

    learning_rate: float = 1e-3
    """Base learning rate of actor, critic and contrastive loss (released code; the paper's appendix says 1e-4; cheetah
    2e-4)."""
    batch_size: int = 128
    """Transitions in an update (cheetah 512)."""
    discount: float = 0.99
    """γ per agent step."""
    critic_tau: float = 0.01
    """Momentum of the target Q networks."""
    encoder_tau: float = 0.05
    """Momentum of the target encoder, which is the contrastive loss's key encoder."""
    target_every: int = 2
    """Updates between steps of the targets."""
    actor_every: int = 2
    """Updates between steps of actor and temperature."""
    initial_temperature: float = 0.1
    """α at the start."""
    temperature_lr: float = 1e-4
    """Learning rate of log α."""
    temperature_beta: float = 0.5
    """Adam's β1 for log α."""
    learning_starts: int = 1000
    """Agent steps with random actions before the first update."""
    updates_per_step: int = 1
    """Updates in an agent step."""
    crop: int = 84
    """Side of the random crop; acting sees the centre. Not used on states."""
    random_crop: bool = True
    """Random crops in the RL batch; otherwise the centre (the method none-nocrop)."""
    filters: int = 32
    """Filters of each convolution."""
    layers: int = 4
    """Convolutions."""
    features: int = 50
    """d, width of the encoder's features."""
    hidden: int = 1024
    """Width of the hidden layers of actor and critic."""
    joint_optimizer: bool = False
    """One Adam over J_Q + λ·L_ct for encoder, critic and objective (eq. 6 to the letter) instead of one for each
    loss."""


class SAC:
    """Actor, critics, temperature, their targets and optimizers, and when each steps.

    Args:
        settings: see :class:`SacSettings`.
        observation_shape: ``(K*C, H, W)`` of pixels or ``(D,)`` of states.
        actions: size of the action, each in [-1, 1].
        objective: the contrastive loss, built for ``settings.features`` features; None trains on the RL loss alone.
        contrast_weight: λ of eq. 6, with ``joint_optimizer`` only.
        contrast_max_grad_norm: clip the encoder's gradient of the contrastive loss to this norm, without
            ``joint_optimizer`` only; 0 is off.
        device: where the parameters live.
        dtype: arithmetic of the convolutions and of the linear layer on them; everything else is float32.

    Raises:
        UserError: a crop larger than the frames, or a setting that would have no effect.
    """

    learns_before_step = True
    explores_at_random = True
    clip_reward = 0.0
    priority_beta_start = 1.0
    evaluation_epsilon = 0.0

    def __init__(
        self,
        settings: SacSettings,
        observation_shape: tuple[int, ...],
        actions: int,
        objective: Objective | None = None,
        *,
        contrast_weight: float = 1.0,
        contrast_max_grad_norm: float = 0.0,
        device: torch.device,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        self.settings, self.objective, self.device = settings, objective, device
        self.contrast_weight, self.contrast_max_grad_norm = contrast_weight, contrast_max_grad_norm
        self.learning_starts, self.updates_per_step = settings.learning_starts, settings.updates_per_step
        self.updates = 0
        self.pixels = len(observation_shape) == 3
        crop = RandomCrop(settings.crop) if self.pixels else None
        self.views = Views(settings.batch_size, rl=crop, centred=not settings.random_crop, contrast=crop)
        self._check(observation_shape)
        self.encoder, self.actor_features = _encoders(settings, observation_shape, dtype, device)
        self.critic = TwinQ(self.encoder.width, actions, settings.hidden).to(device)
        self.actor = GaussianActor(self.encoder.width, actions, settings.hidden).to(device)
        self.log_alpha = nn.Parameter(torch.tensor(math.log(settings.initial_temperature), device=device))
        self.target_entropy = -float(actions)
        self.target_encoder, self.target_critic = momentum_copy(self.encoder), momentum_copy(self.critic)
        if objective is not None:
            objective.to(device)
        self._build_optimizers()

    def _check(self, observation_shape: tuple[int, ...]) -> None:
        s = self.settings
        if self.pixels and s.crop > min(observation_shape[1:]):
            raise UserError(
                f"sac.crop={s.crop} is larger than the frames ({observation_shape[1]}×{observation_shape[2]})"
            )
        if self.contrast_weight != 1.0 and not s.joint_optimizer:
            raise UserError(
                "a contrastive weight has no effect with an Adam of its own: set sac.joint_optimizer=true, or leave the weight at 1"
            )
        if self.contrast_max_grad_norm and s.joint_optimizer:
            raise UserError(
                "mcurl.contrast_max_grad_norm has no effect with sac.joint_optimizer=true: the gradients are one there; leave it at 0"
            )

    def _build_optimizers(self) -> None:
        s = self.settings
        self.actor_parameters = [*self.actor_features.parameters(), *self.actor.parameters()]
        self.critic_parameters = [*self.encoder.parameters(), *self.critic.parameters()]
        objective = list(self.objective.parameters()) if self.objective is not None else []
        joint = [{"params": objective, "name": "objective"}] if s.joint_optimizer and objective else []
        self.optimizers = {
            "critic": adam(
                [{"params": self.critic_parameters, "name": "critic"}, *joint], s.learning_rate, self.device
            ),
            "actor": adam([{"params": self.actor_parameters, "name": "actor"}], s.learning_rate, self.device),
            "temperature": adam(
                [{"params": [self.log_alpha], "name": "temperature"}],
                s.temperature_lr,
                self.device,
                beta1=s.temperature_beta,
            ),
        }
        if self.objective is not None and not s.joint_optimizer:
            # The encoder stands in the critic's optimizer too: one for each loss, as in the released code.
            groups = [
                {"params": list(self.encoder.parameters()), "name": "encoder"},
                {"params": objective, "name": "objective"},
            ]
            self.optimizers["contrast"] = adam(groups, s.learning_rate, self.device)

    # Acting

    @torch.no_grad()
    def act(self, stacks: np.ndarray, *, explore: bool) -> np.ndarray:
        """Actions ``float32 [N, A]`` for ``uint8 [N, K*C, H, W]`` (or states ``float32 [N, D]``): sampled to explore,
        else the mean."""
        observation = torch.as_tensor(stacks, device=self.device)
        if self.pixels:
            observation = centre_crop(observation, self.settings.crop)
        mean, log_std = self._policy(self.encoder.convolutions(observation))
        if explore:
            mean = mean + log_std.exp() * torch.randn_like(mean)
        action: np.ndarray = mean.tanh().cpu().numpy()
        return action

    def _policy(self, maps: Tensor) -> tuple[Tensor, Tensor]:
        mean, log_std = self.actor(self.actor_features(maps))
        return mean, log_std

    # Learning

    def update(self, batch: Batch, env_steps: int) -> Update:
        """One update of everything that is due.

        Args:
            batch: transitions, and the contrastive views where the objective wants any (None: no sequence could be
                drawn yet).
            env_steps: simulator steps learned from, counted from the first update; drives the schedules.
        """
        self.updates += 1
        s = self.settings
        if self.objective is not None:
            rates = self.objective.learning_rate(env_steps)
            set_learning_rates(self.optimizers["critic" if s.joint_optimizer else "contrast"], s.learning_rate, rates)
        return Update(
            self.step(batch, actor=self.updates % s.actor_every == 0, targets=self.updates % s.target_every == 0)
        )

    def step(self, batch: Batch, *, actor: bool, targets: bool) -> dict[str, Tensor]:
        """Algorithm 1, lines 12 to 19, on the device alone: no synchronisation, no branch on a tensor."""
        metrics = self._update_critic(batch)
        if actor:
            metrics |= self._update_actor(batch.transitions)
        if targets:
            self._update_targets()
        if batch.contrast is not None and not self.settings.joint_optimizer:
            metrics |= self._update_contrast(batch.contrast)
        return metrics

    def _update_critic(self, batch: Batch) -> dict[str, Tensor]:
        """Lines 12 and 13: ω_2i and θ descend J_Q (with ``joint_optimizer``, J_Q + λ L_ct)."""
        loss, metrics = self._critic_loss(batch.transitions)
        if batch.contrast is not None and self.settings.joint_optimizer:
            contrast, more = self._contrast_loss(batch.contrast)
            loss, metrics = loss + self.contrast_weight * contrast, metrics | more
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
        """Lines 18 and 19. The target encoder is the key encoder, and follows the encoder as the step before left
        it."""
        ema_update(self.target_encoder.parameters(), self.encoder.parameters(), self.settings.encoder_tau)
        ema_update(self.target_critic.parameters(), self.critic.parameters(), self.settings.critic_tau)

    def _update_contrast(self, views: Contrast) -> dict[str, Tensor]:
        """Lines 16 and 17: φ and θ descend L_ct."""
        assert self.objective is not None
        loss, metrics = self._contrast_loss(views)
        self._descend(loss, "contrast", clip=self.contrast_max_grad_norm)
        self.objective.after_step()
        return metrics

    def _contrast_loss(self, views: Contrast) -> tuple[Tensor, dict[str, Tensor]]:
        assert self.objective is not None
        loss = self.objective.loss(views.query, views.key, views.plan, self.encoder, self.target_encoder)
        return loss.value, loss.metrics

    def _descend(self, loss: Tensor, name: str, *, clip: float = 0.0) -> None:
        """One step of one optimizer on one loss; gradients of other parameters are neither computed nor kept."""
        optimizer = self.optimizers[name]
        parameters = [p for group in optimizer.param_groups for p in group["params"]]
        for parameter, gradient in zip(
            parameters, torch.autograd.grad(loss, parameters, allow_unused=True), strict=True
        ):
            parameter.grad = gradient
        if clip > 0:
            nn.utils.clip_grad_norm_(optimizer.param_groups[0]["params"], clip)
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
        return state | {"updates": self.updates}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        for name, module in self._modules().items():
            module.load_state_dict(state[name])
        self.log_alpha.data.copy_(state["log_alpha"])
        for name, optimizer in self.optimizers.items():
            load_optimizer(optimizer, state["optimizers"][name])
        self.updates = state["updates"]


def _encoders(
    s: SacSettings, shape: tuple[int, ...], dtype: torch.dtype, device: torch.device
) -> tuple[PixelEncoder | Flat, FeatureHead | Flat]:
    """The critic's encoder, and the actor's own features on the shared convolutions."""
    if len(shape) == 1:
        return Flat(shape[0]), Flat(shape[0])
    convolutions = Convolutions(shape[0], s.filters, s.layers, dtype=dtype)
    if convolutions.output_size(s.crop) < 1:
        raise UserError(f"sac.layers={s.layers} convolutions leave nothing of a crop of {s.crop} × {s.crop}")
    encoder = PixelEncoder(convolutions, s.crop, s.features).to(device)
    return encoder, FeatureHead(s.filters, convolutions.output_size(s.crop), s.features).to(device)
