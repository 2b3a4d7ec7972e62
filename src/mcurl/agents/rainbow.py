"""Data-efficient Rainbow (van Hasselt et al., 2019) on 100k agent steps of Atari, with a contrastive objective joined
as L_rl + λ·L_ct (eq. 6).

Distributional, double, dueling, n-step and prioritised Q-learning that explores by noise in its weights.
One update is one weighted sum of losses and one step of one Adam.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from mcurl.agents.base import Update, Views
from mcurl.agents.distributional import cross_entropy, double_q_target, expected, make_support, of_action
from mcurl.agents.optim import adam, clip_and_step, load_optimizer, set_learning_rates
from mcurl.networks.atari import HEAD_WIDTH, ContrastHead, DataEfficientEncoder, encoder_width
from mcurl.networks.ema import ema_update, momentum_copy
from mcurl.networks.noisy import DuelingHead, HeadWeights
from mcurl.objectives.base import Objective
from mcurl.replay.augment import PaddedCrop
from mcurl.replay.batch import Batch, Contrast, Transitions


@dataclass(frozen=True)
class RainbowSettings:
    """Rainbow's networks, losses and clocks (CURL's Atari release, whose values are data-efficient Rainbow's)."""

    learning_rate: float = 1e-4
    """Adam's learning rate."""
    adam_eps: float = 1.5e-4
    """Adam's ε (CURL's Atari release; the paper's appendix gives DMControl's)."""
    max_grad_norm: float = 10.0
    """Clip the gradient of all parameters together to this norm."""
    batch_size: int = 32
    """Transitions in an update."""
    n_step: int = 20
    """Rewards summed before the target network's estimate takes over."""
    discount: float = 0.99
    """γ per agent step."""
    clip_reward: float = 1.0
    """Rewards are clipped to ± this before they are stored, so before n of them are summed; 0 is off. Evaluation counts
    real rewards."""
    priority_alpha: float = 0.5
    """Transitions are drawn in proportion to their priority to this power."""
    priority_beta_start: float = 0.4
    """Exponent of the importance weights when learning begins; rises linearly to 1 at the end of the run."""
    learning_starts: int = 1600
    """Agent steps before the first update."""
    random_start: bool = False
    """Uniform actions until learning begins, as SAC's: a way to a first reward where the noise alone, which hardly
    changes a fresh network's choice, finds none."""
    updates_per_step: int = 1
    """Updates in an agent step."""
    target_every: int = 2000
    """Agent steps between copies of the network into the target network."""
    atoms: int = 51
    """Atoms of the return distribution."""
    v_min: float = -10.0
    """Return at the first atom."""
    v_max: float = 10.0
    """Return at the last atom."""
    hidden: int = 256
    """Width of the hidden layer in the value and in the advantage stream."""
    sigma: float = 0.1
    """σ₀ of the noisy layers."""
    evaluation_epsilon: float = 0.001
    """Probability of a random action in evaluation, where the noise is off."""
    key_momentum: float = 0.001
    """Step of the key encoder and its head towards the encoder at every update."""
    importance_weighted_contrast: bool = False
    """Multiply the contrastive loss by the importance weights (CURL's Atari release)."""
    contrast_in_priorities: bool = False
    """Add the contrastive loss to the priorities (CURL's Atari release)."""


# A view of 84 × 84 is 80 × 80 of them, padded by 4 on every side, cropped to 84 × 84 again.
VIEW_PAD = 4

FeatureChoice = Literal["head", "conv"]


def contrast_width(observation_shape: tuple[int, int, int], features: FeatureChoice) -> int:
    """d, the width of the features that an objective on Rainbow compares: 128 on a head of its own, 576 (at 84 × 84) on
    the convolutions."""
    return HEAD_WIDTH if features == "head" else encoder_width(observation_shape)


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
    """The policy's encoder and a head of the contrastive loss's own: pixels ``uint8 [N, K*C, H, W]`` -> ``float32 [N,
    d]``."""

    def __init__(self, encoder: DataEfficientEncoder, head: nn.Module) -> None:
        super().__init__()
        self.encoder, self.head = encoder, head

    def forward(self, pixels: Tensor) -> Tensor:
        return self.head(self.encoder(pixels))  # type: ignore[no-any-return]


class Rainbow:
    """Online and target network, the features of the contrastive loss with their momentum copies, the optimizer, and
    when each steps.

    Args:
        settings: see :class:`RainbowSettings`.
        observation_shape: ``(K*C, H, W)``.
        actions: number of actions.
        objective: the contrastive loss, built for :func:`contrast_width` features; None trains on the RL loss alone.
        features: which features the objective compares: a 576-256-128 head on the convolutions, or the convolutions'
            own, which the policy reads.
        head_init: the head's first weights: ``"standard"`` (M-CURL here) or ``"uniform"`` from U[0, 1) (CURL).
        contrast_weight: λ of eq. 6.
        device: where the parameters live.
        dtype: arithmetic of the convolutions; everything else is float32.
    """

    learns_before_step = False

    def __init__(
        self,
        settings: RainbowSettings,
        observation_shape: tuple[int, int, int],
        actions: int,
        objective: Objective | None = None,
        *,
        features: FeatureChoice = "head",
        head_init: Literal["standard", "uniform"] = "standard",
        contrast_weight: float = 1.0,
        device: torch.device,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        self.settings, self.objective, self.contrast_weight, self.device = settings, objective, contrast_weight, device
        side = min(observation_shape[1:])
        self.views = Views(settings.batch_size, prioritised=True, contrast=PaddedCrop(side - VIEW_PAD, VIEW_PAD, side))
        self.learning_starts, self.updates_per_step = settings.learning_starts, settings.updates_per_step
        self.explores_at_random = settings.random_start
        self.clip_reward, self.priority_beta_start = settings.clip_reward, settings.priority_beta_start
        self.evaluation_epsilon = settings.evaluation_epsilon
        self.updates = 0
        self.support = make_support(settings.atoms, settings.v_min, settings.v_max, device)
        self.online = QNetwork(settings, observation_shape, actions, dtype).to(device)
        self.target = momentum_copy(self.online)
        # The target network's noise is its own; the online network's is shared by acting and the update.
        self.noise = self.online.head.draw_noise()
        self._noise_spent = False
        self._build_contrast(features, head_init)
        self._build_optimizer()

    def _build_contrast(self, features: FeatureChoice, head_init: Literal["standard", "uniform"]) -> None:
        self.query: ContrastFeatures | None = None
        self.key: ContrastFeatures | None = None
        if self.objective is None:
            return
        self.objective.to(self.device)
        head = ContrastHead(self.online.encoder.width, head_init) if features == "head" else nn.Identity()
        self.query = ContrastFeatures(self.online.encoder, head.to(self.device))
        self.key = momentum_copy(self.query)

    def _build_optimizer(self) -> None:
        modules = {"encoder": self.online.encoder, "heads": self.online.head}
        if self.objective is not None and self.query is not None:
            modules |= {"contrast_head": self.query.head, "objective": self.objective}
        groups = [{"params": list(module.parameters()), "name": name} for name, module in modules.items()]
        self.optimizer = adam(groups, self.settings.learning_rate, self.device, eps=self.settings.adam_eps)

    # Acting

    @torch.no_grad()
    def act(self, stacks: np.ndarray, *, explore: bool) -> np.ndarray:
        """Greedy actions ``int64 [N]`` for ``uint8 [N, K*C, H, W]``.

        To explore: under a new draw of the noise, which the next update shares. Otherwise without noise.
        """
        if explore:
            self.reset_noise()
        patches = self.online.encoder.patches(torch.as_tensor(stacks, device=self.device))
        q = expected(
            self.online(patches, self.online.head.weights(self.noise if explore else None)), self.support
        )  # [N, A]
        action: np.ndarray = q.argmax(1).cpu().numpy()
        return action

    def reset_noise(self) -> None:
        """A new draw for the online network, into the same memory, which a captured graph reads."""
        self.noise.copy_(self.online.head.draw_noise())
        self._noise_spent = False

    # Learning

    def update(self, batch: Batch, env_steps: int) -> Update:
        """One update of everything that is due.

        Args:
            batch: transitions with their importance weights, and the contrastive views where the objective wants any
                (None: no sequence could be drawn yet).
            env_steps: simulator steps learned from, counted from the first update; drives the schedule of the
                Transformer (eq. 10).
        """
        if self._noise_spent:
            self.reset_noise()
        if self.objective is not None:
            set_learning_rates(
                self.optimizer,
                self.settings.learning_rate,
                {"objective": self.objective.learning_rate(env_steps)["objective"]},
            )
        update = self.step(batch)
        self._noise_spent = True
        self.updates += 1
        if self._target_due():
            self.copy_target()
        return update

    def _target_due(self) -> bool:
        """Agent steps count from the start of the run, and the first update is that of step ``learning_starts``."""
        s = self.settings
        steps, rest = divmod(self.updates, s.updates_per_step)
        return rest == 0 and (s.learning_starts + steps - 1) % s.target_every == 0

    def copy_target(self) -> None:
        ema_update(self.target.parameters(), self.online.parameters(), 1.0)

    def step(self, batch: Batch) -> Update:
        """Losses and one step, on the device alone: no synchronisation, no branch on a tensor."""
        loss, priority, metrics = self._losses(batch, self.noise, self.target.head.draw_noise())
        loss.backward()  # type: ignore[no-untyped-call]
        norm = clip_and_step(self.optimizer, self.settings.max_grad_norm)
        self._follow()
        return Update(metrics | {"gradient/norm": norm}, priority)

    def _losses(self, batch: Batch, noise: Tensor, target_noise: Tensor) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        """L_rl + λ·L_ct, the priorities ``[B]`` and the metrics."""
        t = batch.transitions
        each, metrics = self._rl_loss(t, noise, target_noise)  # [B]
        loss, priority = (t.weights * each).mean(), each.detach()
        if batch.contrast is not None:
            contrast, more = self._contrast_loss(batch.contrast)
            weight = t.weights.mean() if self.settings.importance_weighted_contrast else 1.0
            loss, metrics = loss + self.contrast_weight * weight * contrast, metrics | more
            if self.settings.contrast_in_priorities:
                priority = priority + self.contrast_weight * contrast.detach()
        return loss, priority, metrics

    def _rl_loss(self, t: Transitions, noise: Tensor, target_noise: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """The cross-entropy between the projected n-step target and the online distribution of the action taken, for
        each transition ``[B]``."""
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

    def _follow(self) -> None:
        """The key encoder and its head follow what the step left, and so does whatever the objective has that
        follows."""
        if self.objective is not None and self.query is not None and self.key is not None:
            ema_update(self.key.parameters(), self.query.parameters(), self.settings.key_momentum)
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
        """Everything that a later update depends on but torch's generator, from which noise is drawn."""
        state: dict[str, Any] = {name: module.state_dict() for name, module in self._modules().items()}
        return state | {
            "optimizer": self.optimizer.state_dict(),
            "updates": self.updates,
            "noise": self.noise.clone(),
            "noise_spent": self._noise_spent,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        for name, module in self._modules().items():
            module.load_state_dict(state[name])
        load_optimizer(self.optimizer, state["optimizer"])
        self.updates, self._noise_spent = state["updates"], state["noise_spent"]
        self.noise.copy_(state["noise"])
