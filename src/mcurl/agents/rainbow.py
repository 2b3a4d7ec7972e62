"""Data-efficient Rainbow (van Hasselt et al., 2019) on 100k agent steps of Atari, with a contrastive objective joined
as L_rl + λ·L_ct (eq. 6).

Distributional, double, dueling, n-step and prioritised Q-learning that explores by noise in its weights.
One update is one weighted sum of losses and one step of one Adam.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import gymnasium
import numpy as np
import torch
from torch import Tensor, nn

from mcurl.agents.base import Agent, BatchSpec, Clock, Update, UpdateSchedule
from mcurl.agents.distributional import cross_entropy, double_q_target, expected, make_support, of_action
from mcurl.agents.optim import adam, clip_and_step, load_optimizer, objective_parameters, set_learning_rates
from mcurl.config.fields import setting
from mcurl.errors import UserError
from mcurl.networks.atari import HEAD_WIDTH, ContrastHead, DataEfficientEncoder, encoder_width
from mcurl.networks.ema import ema_update, momentum_copy
from mcurl.networks.noisy import DuelingHead, HeadWeights
from mcurl.objectives.base import Objective
from mcurl.replay.augment import LARGEST_SCALE, Augmentation, Intensity, PaddedCrop, RandomShift, WholeFrame
from mcurl.replay.batch import Batch, Contrast, Transitions

VIEW_PAD = 4
"""A view of 84 × 84 is 80 × 80 of them, padded by 4 on every side, cropped to 84 × 84 again."""
FeatureSource = Literal["head", "conv"]
RANDOM_START = "rainbow.random_start=true rainbow.learning_starts=5000"
"""Met a reward in RoadRunner with twelve seeds of twelve, where the noise alone often does not."""
AugmentationName = Literal["padded-crop", "shift", "none"]


@dataclass(frozen=True)
class RainbowSettings:
    """Rainbow's networks, losses and clocks (CURL's Atari release, whose values are data-efficient Rainbow's)."""

    learning_rate: float = setting(1e-4, above=0)
    """Adam's learning rate."""
    adam_eps: float = setting(1.5e-4, above=0)
    """Adam's ε (CURL's Atari release; the paper's appendix gives DMControl's)."""
    max_grad_norm: float = setting(10.0, above=0)
    """Clip the gradient of all parameters together to this norm."""
    batch_size: int = setting(32, low=1)
    """Transitions in an update."""
    n_step: int = setting(20, low=1)
    """Rewards summed before the target network's estimate takes over."""
    discount: float = setting(0.99, low=0, high=1)
    """γ per agent step."""
    clip_reward: float = setting(1.0, low=0)
    """Rewards are clipped to ± this before they are stored, so before n of them are summed; 0 is off. Evaluation counts
    real rewards."""
    priority_alpha: float = setting(0.5, low=0, high=1)
    """Transitions are sampled in proportion to their priority to this power."""
    priority_beta_start: float = setting(0.4, low=0, high=1)
    """Exponent of the importance weights when learning begins; rises linearly to 1 at the end of the run."""
    learning_starts: int = setting(1600, low=0, unit="agent steps")
    """Before the first update."""
    random_start: bool = False
    """Uniform actions until learning begins, as SAC's: a way to a first reward where the noise alone, which hardly
    changes a fresh network's choice, finds none."""
    updates_per_step: int = setting(1, low=1)
    """Updates in an agent step."""
    target_every: int = setting(2000, low=1, unit="agent steps")
    """Interval between copies of the network into the target network."""
    atoms: int = setting(51, low=2)
    """Atoms of the return distribution."""
    v_min: float = -10.0
    """Return at the first atom."""
    v_max: float = 10.0
    """Return at the last atom."""
    hidden: int = setting(256, low=1)
    """Width of the hidden layer in the value and in the advantage stream."""
    sigma: float = setting(0.1, low=0)
    """σ₀ of the noisy layers."""
    evaluation_epsilon: float = setting(0.001, low=0, high=1)
    """Probability of a random action in evaluation, where the noise is off."""
    augmentation: AugmentationName = "none"
    """Of the RL batch: none (CURL's release), a shift by up to 4 pixels (DrQ), or the view that the contrast uses."""
    intensity: float = setting(0.0, low=0, high=LARGEST_SCALE)
    """Scale of a random factor on the pixels of each observation of the RL batch (SPR: 0.05); 0 is off."""
    contrast_augmentation: Literal["padded-crop", "shift"] = setting("padded-crop", needs_contrast=True)
    """Of the views for the contrastive loss: crop to 80, replicate the edges by 4, crop to 84 (CURL's release), or
    DrQ's shift."""
    feature_source: FeatureSource = setting("head", needs_contrast=True)
    """The features that an objective compares: those of a 576-256-128 head on the convolutions, or the 576 that the
    policy reads."""
    contrast_weight: float = setting(1.0, low=0, needs_contrast=True)
    """λ of eq. 6 (CURL: its paper 0.05, its code 0.01, for Boxing, Freeway, Pong and PrivateEye)."""
    key_momentum: float = setting(0.001, low=0, high=1, needs_contrast=True)
    """Step of the key encoder and its head towards the encoder at every update."""
    importance_weighted_contrast: bool = setting(False, needs_contrast=True)
    """Multiply the contrastive loss by the importance weights (CURL's Atari release)."""
    contrast_in_priorities: bool = setting(False, needs_contrast=True)
    """Add the contrastive loss to the priorities (CURL's Atari release)."""


class QNetwork(nn.Module):
    """Encoder and dueling head: patches as the encoder cuts them -> logits ``float32 [N, A, atoms]``. Online and target
    network read the same patches."""

    def __init__(
        self, settings: RainbowSettings, observation_shape: tuple[int, int, int], actions: int, dtype: torch.dtype
    ) -> None:
        super().__init__()
        self.encoder = DataEfficientEncoder(observation_shape, dtype=dtype)
        self.head = DuelingHead(self.encoder.width, actions, settings.atoms, settings.hidden, settings.sigma)

    def forward(self, patches: Tensor, weights: HeadWeights) -> Tensor:
        return self.head(self.encoder.encode(patches), weights)  # type: ignore[no-any-return]


class ContrastFeatures(nn.Module):
    """The policy's encoder and a head for the contrastive loss: ``uint8 [N, K*C, H, W]`` -> ``float32 [N, d]``."""

    def __init__(self, encoder: DataEfficientEncoder, head: nn.Module) -> None:
        super().__init__()
        self.encoder, self.head = encoder, head

    def forward(self, pixels: Tensor) -> Tensor:
        return self.head(self.encoder(pixels))  # type: ignore[no-any-return]


class Rainbow(Agent):
    """Online and target network, the features of the contrastive loss with their momentum copies, the optimizer, and
    when each steps.

    Args: see :class:`Agent`; observations are pixels, actions Discrete.

    Raises:
        UserError: continuous actions, or states.
    """

    Settings = RainbowSettings
    section = "rainbow"
    label = "Rainbow"
    unused_settings: ClassVar[Mapping[str, str]] = {
        "compute.overlap": "Rainbow's update waits for the step that comes before it"
    }

    @classmethod
    def feature_dim(cls, settings: RainbowSettings, observation_shape: tuple[int, ...]) -> int:
        """128 on a head, 576 (at 84 × 84) on the convolutions."""
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
            raise UserError(f"Rainbow learns discrete actions, not {action_space}: use --agent sac")
        s, shape = settings, _pixels(observation_shape)
        self.settings, self.objective, self.device = settings, objective, device
        random_steps = s.learning_starts if s.random_start else 0
        self.schedule = UpdateSchedule(s.learning_starts, s.updates_per_step, random_steps)
        self.batch_spec = _batch_spec(s, min(shape[1:]))
        self.evaluation_epsilon = s.evaluation_epsilon
        if not s.random_start:
            self.no_reward_hint = f"a new run begins with uniform actions under --set {RANDOM_START}"
        self.support = make_support(s.atoms, s.v_min, s.v_max, device)
        self.online = QNetwork(s, shape, int(action_space.n), dtype).to(device)
        self.target = momentum_copy(self.online)
        # The target network's noise is its own; acting and the update share the online network's.
        self.noise = self.online.head.draw_noise()
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
        as_encoder, own = objective_parameters(self.objective)
        parameters = {
            "encoder": list(self.online.encoder.parameters()),
            "heads": list(self.online.head.parameters()),
            "contrast_head": list(self.query.head.parameters()) if self.query is not None else [],
            "projection": as_encoder,
            "objective": own,
        }
        groups: list[dict[str, Any]] = [{"params": members, "name": name} for name, members in parameters.items()]
        self.optimizer = adam(groups, self.settings.learning_rate, self.device, eps=self.settings.adam_eps)

    # Acting

    @torch.no_grad()
    def act(self, observations: np.ndarray, *, explore: bool, clock: Clock | None = None) -> np.ndarray:
        """Greedy actions ``int64 [N]`` for ``uint8 [N, K*C, H, W]``.

        To explore: under a new sample of the noise, which the next update shares. Otherwise without noise.
        """
        if explore:
            self.reset_noise()
        patches = self.online.encoder.patches(torch.as_tensor(observations, device=self.device))
        weights = self.online.head.weights(self.noise if explore else None)
        q = expected(self.online(patches, weights), self.support)  # [N, A]
        action: np.ndarray = q.argmax(1).cpu().numpy()
        return action

    def reset_noise(self) -> None:
        """A new sample for the online network, into the same memory, which a captured graph reads."""
        self.noise.copy_(self.online.head.draw_noise())
        self._noise_spent = False

    # Learning

    def update(self, batch: Batch, clock: Clock) -> Update:
        """One update of everything that is due.

        Args:
            batch: transitions with their importance weights, and the contrastive views where the objective wants any
                (None: no sequence could be sampled yet).
            clock: drives the schedule of the Transformer (eq. 10) and the copies of the target network.
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
        """Linear from ``priority_beta_start`` to 1 over the horizon."""
        s = self.settings
        horizon = clock.horizon / clock.action_repeat - s.learning_starts
        progress = min(max((clock.agent_steps - s.learning_starts) / max(horizon, 1), 0.0), 1.0)
        return s.priority_beta_start + (1 - s.priority_beta_start) * progress

    def copy_target(self) -> None:
        ema_update(self.target.parameters(), self.online.parameters(), 1.0)

    def step(self, batch: Batch) -> Update:
        """Losses and one step, on the device alone: no synchronisation, no branch on a tensor."""
        loss, priority, metrics = self._losses(batch, self.noise, self.target.head.draw_noise())
        loss.backward()  # type: ignore[no-untyped-call]
        norm = clip_and_step(self.optimizer, self.settings.max_grad_norm)
        self._update_key_encoder()
        return Update(metrics | {"gradient/norm": norm}, priority)

    def _losses(self, batch: Batch, noise: Tensor, target_noise: Tensor) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        """L_rl + λ·L_ct, the priorities ``[B]`` and the metrics."""
        t = batch.transitions
        each, metrics = self._rl_loss(t, noise, target_noise)  # [B]
        loss, priority = (t.weights * each).mean(), each.detach()
        if batch.contrast is not None:
            contrast, more = self._contrast_loss(batch.contrast)
            weight = t.weights.mean() if self.settings.importance_weighted_contrast else 1.0
            loss, metrics = loss + self.settings.contrast_weight * weight * contrast, metrics | more
            if self.settings.contrast_in_priorities:
                priority = priority + self.settings.contrast_weight * contrast.detach()
        return loss, priority, metrics

    def _rl_loss(self, t: Transitions, noise: Tensor, target_noise: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Cross-entropy of the projected n-step target and the online distribution of the action taken, ``[B]``."""
        online, target_network, weights = self.online, self.target, self.online.head.weights(noise)
        following = online.encoder.patches(t.next_obs)
        with torch.no_grad():
            ahead, target_weights = online.encoder.encode(following), target_network.head.weights(target_noise)
            target_logits = target_network(following, target_weights)
        # The online network sees both observations under one draw, so its head does in one pass.
        logits, next_logits = online.head.both(online.encoder(t.obs), ahead, weights)
        target = double_q_target(next_logits, target_logits, t.reward, t.discount, self.support)
        each = cross_entropy(logits, t.action, target)
        q = expected(of_action(logits.detach(), t.action), self.support)
        return each, {
            "rl/loss": each.detach().mean(),
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
        """The key encoder, its head and the objective's own copies follow what the step left."""
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
        """What acting needs: the online network."""
        return {"online": self.online.state_dict()}

    def state_dict(self) -> dict[str, Any]:
        """Everything that a later update depends on but PyTorch's generator, from which noise is sampled."""
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
    if len(observation_shape) != 3:
        raise UserError(f"Rainbow learns from pixels only; observations of shape {observation_shape} are states")
    channels, height, width = observation_shape
    return channels, height, width


def _batch_spec(s: RainbowSettings, side: int) -> BatchSpec:
    """What an update reads of frames of this side."""

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
