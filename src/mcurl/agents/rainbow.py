"""Data-efficient Rainbow (van Hasselt et al., 2019) for Atari 100k, with a contrastive objective (eq. 6).

Distributional, double, dueling, n-step and prioritised Q-learning, with exploration by noisy weights. One update is
one step of one Adam on the weighted sum of both losses, L_rl + λ·L_ct.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal

import gymnasium
import numpy as np
import torch
from torch import Tensor, nn

from mcurl.agents.base import Agent, BatchSpec, Clock, Update, UpdateSchedule
from mcurl.agents.distributional import cross_entropy, double_q_target, expected, make_support, of_action
from mcurl.agents.optim import adam, clip_and_step, load_optimizer, objective_parameters, set_learning_rates
from mcurl.config.fields import setting
from mcurl.errors import UserError, argument, one_line, settings_argument
from mcurl.networks.atari import HEAD_WIDTH, ContrastHead, DataEfficientEncoder, encoder_width
from mcurl.networks.ema import ema_update, momentum_copy
from mcurl.networks.noisy import DuelingHead, HeadWeights
from mcurl.objectives.base import Objective
from mcurl.replay.augment import LARGEST_SCALE, Augmentation, Intensity, PaddedCrop, RandomShift, WholeFrame
from mcurl.replay.batch import Batch, Contrast, Transitions

VIEW_PAD = 4
"""A view of an 84 × 84 frame is a random crop of 80 × 80, padded by 4 on every side, and cropped to 84 × 84."""
FeatureSource = Literal["head", "conv"]
RANDOM_START = {"rainbow.random_start": True, "rainbow.learning_starts": 5000}
"""Settings that found a reward in RoadRunner with 12 of 12 seeds, unlike exploration by noise alone."""
AugmentationName = Literal["padded-crop", "shift", "none"]


@dataclass(frozen=True)
class RainbowSettings:
    """Rainbow's networks, losses and schedules. The defaults are CURL's unless stated otherwise."""

    learning_rate: float = setting(1e-4, above=0)
    """Adam's learning rate."""
    adam_eps: float = setting(1.5e-4, above=0)
    """Adam's ε (CURL's Atari release; the paper does not say)."""
    max_grad_norm: float = setting(10.0, above=0)
    """Global gradient norm above which the gradient is clipped."""
    batch_size: int = setting(32, low=1)
    """Transitions in an update."""
    n_step: int = setting(20, low=1)
    """Number of rewards in the n-step return."""
    discount: float = setting(0.99, low=0, high=1)
    """γ per agent step."""
    clip_reward: float = setting(1.0, low=0)
    """Rewards are clipped to ± this value before they are stored; 0 is off. Evaluation reports unclipped rewards."""
    priority_alpha: float = setting(0.5, low=0, high=1)
    """α, exponent of the priorities in prioritised sampling."""
    priority_beta_start: float = setting(0.4, low=0, high=1)
    """β, exponent of the importance weights, at the first update; it rises linearly to 1 at the end of the run."""
    learning_starts: int = setting(1600, low=0, unit="agent steps")
    """Agent steps before the first update."""
    random_start: bool = False
    """Uniformly random actions before the first update, as with SAC. It helps in games with sparse rewards, where the
    noise hardly changes the actions of an untrained network."""
    updates_per_step: int = setting(1, low=1)
    """Updates per agent step."""
    target_every: int = setting(2000, low=1, unit="agent steps")
    """Interval between updates of the target network."""
    atoms: int = setting(51, low=2)
    """Number of atoms of the return distribution."""
    v_min: float = -10.0
    """Return of the first atom."""
    v_max: float = 10.0
    """Return of the last atom."""
    hidden: int = setting(256, low=1)
    """Width of the hidden layers of the value and advantage streams."""
    sigma: float = setting(0.1, low=0)
    """σ₀, initial noise scale of the noisy layers."""
    evaluation_epsilon: float = setting(0.001, low=0, high=1)
    """Probability of a random action in evaluation, where the noise is off."""
    augmentation: AugmentationName = "none"
    """Augmentation of the RL batch: none (CURL's release), a random shift by up to 4 pixels (DrQ), or the padded crop
    of the contrastive loss."""
    intensity: float = setting(0.0, low=0, high=LARGEST_SCALE)
    """Scale of the random intensity jitter of the RL batch (SPR: 0.05); 0 is off."""
    contrast_augmentation: Literal["padded-crop", "shift"] = setting("padded-crop", needs_contrast=True)
    """Augmentation for the contrastive loss: crop to 80, replicate the edges by 4 pixels, crop to 84 (CURL's release),
    or DrQ's random shift."""
    feature_source: FeatureSource = setting("head", needs_contrast=True)
    """Features for the contrastive loss: the 128 of a 576-256-128 head on the convolutions, or the 576 of the
    convolutions."""
    contrast_weight: float = setting(1.0, low=0, needs_contrast=True)
    """λ of eq. 6 (CURL for Boxing, Freeway, Pong and PrivateEye: 0.05 in its paper, 0.01 in its code)."""
    key_momentum: float = setting(0.001, low=0, high=1, needs_contrast=True)
    """Momentum of the key encoder and its head at every update."""
    importance_weighted_contrast: bool = setting(False, needs_contrast=True)
    """Multiply the contrastive loss by the mean importance weight (CURL's Atari release)."""
    contrast_in_priorities: bool = setting(False, needs_contrast=True)
    """Add the contrastive loss to the priorities (CURL's Atari release)."""

    def __post_init__(self) -> None:
        if not (math.isfinite(self.v_min) and math.isfinite(self.v_max) and self.v_min < self.v_max):
            raise UserError(f"v_min must be a number below v_max, not {self.v_min:g} and {self.v_max:g}")


class QNetwork(nn.Module):
    """Encoder and dueling head."""

    def __init__(
        self, settings: RainbowSettings, observation_shape: tuple[int, int, int], actions: int, dtype: torch.dtype
    ) -> None:
        super().__init__()
        self.encoder = DataEfficientEncoder(observation_shape, dtype=dtype)
        self.head = DuelingHead(self.encoder.width, actions, settings.atoms, settings.hidden, settings.sigma)

    def forward(self, patches: Tensor, weights: HeadWeights) -> Tensor:
        """Patches of :meth:`DataEfficientEncoder.patches` -> logits ``float32 [N, A, atoms]``."""
        return self.head(self.encoder.encode(patches), weights)  # type: ignore[no-any-return]


class ContrastFeatures(nn.Module):
    """The shared encoder and the contrastive head: ``uint8 [N, K*C, H, W]`` -> ``float32 [N, d]``."""

    def __init__(self, encoder: DataEfficientEncoder, head: nn.Module) -> None:
        super().__init__()
        self.encoder, self.head = encoder, head

    def forward(self, pixels: Tensor) -> Tensor:
        return self.head(self.encoder(pixels))  # type: ignore[no-any-return]


class Rainbow(Agent):
    """Data-efficient Rainbow for pixels and discrete actions. Arguments as for :class:`Agent`.

    Raises:
        UserError: the actions are not discrete, or the observations are states.
    """

    Settings = RainbowSettings
    section = "rainbow"
    label = "Rainbow"
    graph_method = "step"

    @classmethod
    def feature_dim(cls, settings: RainbowSettings, observation_shape: tuple[int, ...]) -> int:
        """128 with the head, 576 (for 84 × 84 pixels) with the convolutions alone."""
        return HEAD_WIDTH if settings.feature_source == "head" else encoder_width(_pixels(observation_shape))

    def __init__(
        self,
        settings: RainbowSettings,
        observation_shape: tuple[int, ...],
        action_space: gymnasium.Space[Any],
        objective: Objective | None = None,
        *,
        device: torch.device,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        if not isinstance(action_space, gymnasium.spaces.Discrete):
            other = argument("agent", "sac")
            raise UserError(f"Rainbow needs discrete actions, not {one_line(action_space)}: use {other}")
        s, shape = settings, _pixels(observation_shape)
        self.settings, self.objective, self.device = settings, objective, device
        random_steps = s.learning_starts if s.random_start else 0
        self.schedule = UpdateSchedule(s.learning_starts, s.updates_per_step, random_steps)
        self.batch_spec = _batch_spec(s, min(shape[1:]))
        self.evaluation_epsilon = s.evaluation_epsilon
        if not s.random_start:
            self.no_reward_hint = f"start a new run with {settings_argument(RANDOM_START)} for random actions first"
        self.support = make_support(s.atoms, s.v_min, s.v_max, device)
        self.online = QNetwork(s, shape, int(action_space.n), dtype).to(device)
        self.target = momentum_copy(self.online)
        # Shared by acting and the next update; the target network samples its own noise.
        self.noise = self.online.head.sample_noise()
        self._noise_spent = False
        self._build_contrast()
        self._build_optimizer()

    def _build_contrast(self) -> None:
        self.query: ContrastFeatures | None = None
        self.key: ContrastFeatures | None = None
        if self.objective is None:
            return
        self.objective.to(self.device)
        head: nn.Module = nn.Identity()
        if self.settings.feature_source == "head":
            head = ContrastHead(self.online.encoder.width, self.objective.contrast_spec.head_init)
        self.query = ContrastFeatures(self.online.encoder, head.to(self.device))
        self.key = momentum_copy(self.query)

    def _build_optimizer(self) -> None:
        projection, objective = objective_parameters(self.objective)
        parameters = {
            "encoder": list(self.online.encoder.parameters()),
            "heads": list(self.online.head.parameters()),
            "contrast_head": list(self.query.head.parameters()) if self.query is not None else [],
            "projection": projection,
            "objective": objective,
        }
        groups: list[dict[str, Any]] = [{"params": group, "name": name} for name, group in parameters.items()]
        self.optimizer = adam(groups, self.settings.learning_rate, self.device, eps=self.settings.adam_eps)

    # Acting

    @torch.no_grad()
    def act(self, observations: np.ndarray, *, explore: bool, clock: Clock | None = None) -> np.ndarray:
        """Greedy actions ``int64 [N]`` for ``uint8 [N, K*C, H, W]``.

        With ``explore``, the weights have new noise, which the next update uses too. Otherwise they have no noise.
        """
        if explore:
            self.reset_noise()
        patches = self.online.encoder.patches(torch.as_tensor(observations, device=self.device))
        weights = self.online.head.weights(self.noise if explore else None)
        q = expected(self.online(patches, weights), self.support)  # [N, A]
        action: np.ndarray = q.argmax(1).cpu().numpy()
        return action

    def reset_noise(self) -> None:
        """Resample the online network's noise, in place, because a captured CUDA graph reads this tensor."""
        self.noise.copy_(self.online.head.sample_noise())
        self._noise_spent = False

    # Learning

    def update(self, batch: Batch, clock: Clock) -> Update:
        """Run one update, and copy the target network if it is due.

        Args:
            batch: transitions with importance weights, and the contrastive batch (None: no objective, or no sequence
                can be sampled yet).
            clock: drives the objective's learning rate (eq. 10) and the updates of the target network.
        """
        s = self.settings
        if self._noise_spent:
            self.reset_noise()
        if self.objective is not None:
            factors = self.objective.learning_rate(clock.learned_env_steps(s.updates_per_step))
            set_learning_rates(self.optimizer, s.learning_rate, {"objective": factors["objective"]})
        update = self.step(batch)
        self._noise_spent = True
        if (clock.updates + 1) % s.updates_per_step == 0 and clock.agent_steps % s.target_every == 0:
            self.copy_target()
        return update

    def priority_beta(self, clock: Clock) -> float:
        """β, linear from ``priority_beta_start`` at ``learning_starts`` to 1 at the horizon."""
        s = self.settings
        horizon = clock.horizon / clock.action_repeat - s.learning_starts
        progress = min(max((clock.agent_steps - s.learning_starts) / max(horizon, 1), 0.0), 1.0)
        return s.priority_beta_start + (1 - s.priority_beta_start) * progress

    def copy_target(self) -> None:
        """Copy the online network into the target network."""
        ema_update(self.target.parameters(), self.online.parameters(), 1.0)

    def step(self, batch: Batch) -> Update:
        """Losses and one optimizer step on the device, without synchronisation or branches on tensors."""
        loss, priority, metrics = self._losses(batch, self.noise, self.target.head.sample_noise())
        loss.backward()  # type: ignore[no-untyped-call]
        norm = clip_and_step(self.optimizer, self.settings.max_grad_norm)
        self._update_key_encoder()
        return Update(metrics | {"gradient/norm": norm}, priority)

    def _losses(self, batch: Batch, noise: Tensor, target_noise: Tensor) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        """L_rl + λ·L_ct ``[]``, the priorities ``[B]`` and the metrics."""
        t = batch.transitions
        losses, metrics = self._rl_loss(t, noise, target_noise)  # [B]
        loss, priority = (t.weights * losses).mean(), losses.detach()
        if batch.contrast is not None:
            contrast, contrast_metrics = self._contrast_loss(batch.contrast)
            weight = t.weights.mean() if self.settings.importance_weighted_contrast else 1.0
            loss, metrics = loss + self.settings.contrast_weight * weight * contrast, metrics | contrast_metrics
            if self.settings.contrast_in_priorities:
                priority = priority + self.settings.contrast_weight * contrast.detach()
        return loss, priority, metrics

    def _rl_loss(self, t: Transitions, noise: Tensor, target_noise: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Cross-entropy between the projected n-step target and the predicted return distribution, ``[B]``."""
        online, target_network, weights = self.online, self.target, self.online.head.weights(noise)
        next_patches = online.encoder.patches(t.next_obs)
        with torch.no_grad():
            next_features = online.encoder.encode(next_patches)
            target_logits = target_network(next_patches, target_network.head.weights(target_noise))
        # Both observations share the noise, so the online head needs one pass for both.
        logits, next_logits = online.head.both(online.encoder(t.obs), next_features, weights)
        target = double_q_target(next_logits, target_logits, t.reward, t.discount, self.support)
        losses = cross_entropy(logits, t.action, target)
        q = expected(of_action(logits.detach(), t.action), self.support)
        return losses, {
            "rl/loss": losses.detach().mean(),
            "rl/q": q.mean(),
            "rl/target": (target @ self.support).mean(),
            "batch/reward": t.reward.mean(),
        }

    def _contrast_loss(self, views: Contrast) -> tuple[Tensor, dict[str, Tensor]]:
        assert self.objective is not None
        assert self.query is not None
        assert self.key is not None
        loss = self.objective.loss(views.query, views.key, views.plan, self.query, self.key)
        return loss.value, loss.metrics

    def _update_key_encoder(self) -> None:
        """Update the momentum copies of the encoder, its head and the objective, after the optimizer step."""
        if self.objective is not None and self.query is not None and self.key is not None:
            ema_update(self.key.parameters(), self.query.parameters(), self.settings.key_momentum)
            self.objective.ema_step(self.settings.key_momentum)
            self.objective.after_step()

    # State

    def _modules(self) -> dict[str, nn.Module]:
        modules: dict[str, nn.Module] = {"online": self.online, "target": self.target}
        if self.objective is not None and self.query is not None and self.key is not None:
            modules |= {"contrast_head": self.query.head, "key": self.key, "objective": self.objective}
        return modules

    def policy_state(self) -> dict[str, Any]:
        """The weights that acting needs: the online network."""
        return {"online": self.online.state_dict()}

    def load_policy_state(self, state: dict[str, Any]) -> None:
        self.online.load_state_dict(state["online"])

    def state_dict(self) -> dict[str, Any]:
        """Everything that later updates depend on, except PyTorch's generator, which samples the noise."""
        state: dict[str, Any] = {name: module.state_dict() for name, module in self._modules().items()}
        return state | {
            "optimizer": self.optimizer.state_dict(),
            "noise": self.noise.clone(),
            "noise_spent": self._noise_spent,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        for name, module in self._modules().items():
            module.load_state_dict(state[name])
        load_optimizer(self.optimizer, state["optimizer"])
        self._noise_spent = state["noise_spent"]
        self.noise.copy_(state["noise"])


def _pixels(observation_shape: tuple[int, ...]) -> tuple[int, int, int]:
    """``(K*C, H, W)``; raises UserError for states."""
    if len(observation_shape) != 3:
        raise UserError(f"Rainbow learns from pixels only; observations of shape {observation_shape} are states")
    channels, height, width = observation_shape
    return channels, height, width


def _batch_spec(s: RainbowSettings, side: int) -> BatchSpec:
    """The data of an update, for square frames of this side in pixels."""

    def augmentation(name: AugmentationName) -> Augmentation:
        match name:
            case "padded-crop":
                return PaddedCrop(side - VIEW_PAD, VIEW_PAD, side)
            case "shift":
                return RandomShift(side, VIEW_PAD)
            case "none":
                return WholeFrame()

    rl = augmentation(s.augmentation)
    return BatchSpec(
        s.batch_size,
        n_step=s.n_step,
        discount=s.discount,
        priority_alpha=s.priority_alpha,
        reward_clip=s.clip_reward,
        augmentation=Intensity(rl, s.intensity) if s.intensity else rl,
        contrast_augmentation=augmentation(s.contrast_augmentation),
        layout="patches",
    )
