"""M-CURL in Stable-Baselines3: SAC and DQN with a contrastive loss on their encoder.

They take the arguments of SB3's own classes, and those of :class:`ContrastOptions`. ``save``, ``load``,
``save_replay_buffer``, callbacks and loggers work as in SB3. SB3's files are pickles: load only your own.

In CURL, the critic's loss and the contrastive loss train one encoder, and the actor reads its features without training
it. SB3's ``share_features_extractor=True`` is the opposite (the actor's loss trains the encoder), and with ``False``
the actor has an encoder of its own that the contrastive loss does not see. So SAC has a policy class here.
"""

from __future__ import annotations

import functools
from abc import abstractmethod
from dataclasses import dataclass
from typing import Any, ClassVar

import gymnasium
import numpy as np
import torch
from stable_baselines3 import DQN, SAC
from stable_baselines3.common.policies import BasePolicy, ContinuousCritic
from stable_baselines3.common.preprocessing import is_image_space, preprocess_obs
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
from stable_baselines3.dqn.policies import CnnPolicy as DQNCnnPolicy
from stable_baselines3.dqn.policies import DQNPolicy
from stable_baselines3.sac.policies import Actor, SACPolicy
from torch import Tensor, nn

from mcurl.config.fields import field_hints, field_meta, read_value, setting
from mcurl.errors import UserError, one_line
from mcurl.integrations.augment import random_crop, random_shift
from mcurl.integrations.learner import ContrastiveLearner
from mcurl.integrations.objective import make_objective
from mcurl.integrations.windows import Episodes
from mcurl.networks.encoders import Convolutions, PixelEncoder, centre_crop
from mcurl.objectives.base import Augment, Objective

__all__ = ["ContrastOptions", "CurlEncoder", "CurlSACPolicy", "MCurlDQN", "MCurlSAC"]


@dataclass(frozen=True)
class ContrastOptions:
    """The contrastive loss of an SB3 agent. Pass these as keyword arguments of :class:`MCurlSAC` or :class:`MCurlDQN`.

    The augmentation follows the encoder, for the RL batch and for the contrastive loss: random crops to ``side`` where
    the features extractor has a ``side`` that is smaller than the frames (:class:`CurlEncoder`), else random shifts.
    """

    objective: str | type[Objective] = "mcurl"
    """``"mcurl"``, ``"curl"``, ``"seq-curl"``, ``"sym-curl"``, ``"module:Class"``, or a class."""
    objective_settings: dict[str, Any] | None = None
    """Settings of the objective that differ from their defaults, e.g. ``{"length": 16, "mask_rate": 0.6}``."""
    contrast_lr: float | None = setting(None, above=0)
    """Base learning rate of the contrastive loss; None: SB3's learning rate at the start."""
    encoder_factor: float = setting(2.0, low=0)
    """The encoder's learning rate for the contrastive loss, as a multiple of ``contrast_lr``."""
    key_momentum: float = setting(0.025, low=0, high=1)
    """Momentum of the key encoder, per update (CURL: 0.05 at every second one; on Atari 0.001)."""
    shift_pad: int = setting(4, low=0)
    """Largest shift in pixels; 0 is off."""
    frame_stack: int = setting(1, low=1)
    """Frames in an observation; for masks over single frames."""
    action_repeat: int = setting(1, low=1)
    """Simulator steps per step of the environment (frame skip), for the learning-rate schedules."""

    def __post_init__(self) -> None:
        hints, meta = field_hints(ContrastOptions), field_meta(ContrastOptions)
        for name in ("contrast_lr", "encoder_factor", "key_momentum", "shift_pad", "frame_stack", "action_repeat"):
            value = read_value(name, hints[name], getattr(self, name))
            meta[name].check(name, value)
            object.__setattr__(self, name, value)


class CurlEncoder(BaseFeaturesExtractor):  # type: ignore[misc]
    """CURL's encoder of DMControl, as a features extractor: four 3×3 convolutions, a linear layer and LayerNorm.

    Args:
        observation_space: images ``[C, H, W]``.
        features_dim: d.
        side: side of the random crops that it learns from, at most H and W; larger observations are cropped to their
            centre. None: min(H, W).
        filters, layers: of the convolutions.

    Raises:
        UserError: the side does not fit the observations or the convolutions.
    """

    def __init__(
        self,
        observation_space: gymnasium.spaces.Box,
        features_dim: int = 50,
        side: int | None = None,
        filters: int = 32,
        layers: int = 4,
    ) -> None:
        super().__init__(observation_space, features_dim)
        channels, height, width = observation_space.shape
        self.side = min(height, width) if side is None else side
        if not 1 <= self.side <= min(height, width):
            raise UserError(f"side={side} does not fit into observations of {height}×{width} pixels")
        convolutions = Convolutions(channels, filters, layers)
        if convolutions.output_size(self.side) < 1:
            raise UserError(f"{self.side}×{self.side} pixels are too few for layers={layers} convolutions")
        self.encoder = PixelEncoder(convolutions, self.side, features_dim)

    def forward(self, observations: Tensor) -> Tensor:
        """Features ``float32 [N, d]`` of images in [0, 1]."""
        features: Tensor = self.encoder(centre_crop(observations, self.side) * 255)
        return features


class _DetachedActor(Actor):  # type: ignore[misc]
    """SB3's actor on features that its loss does not train."""

    def extract_features(self, obs: Any, features_extractor: BaseFeaturesExtractor) -> Tensor:
        with torch.no_grad():
            features: Tensor = super().extract_features(obs, features_extractor)
        return features


class _EncodingCritic(ContinuousCritic):  # type: ignore[misc]
    """SB3's critic, whose loss trains the encoder; the actor's loss does not reach it."""

    def forward(self, obs: Any, actions: Tensor) -> tuple[Tensor, ...]:
        with torch.set_grad_enabled(torch.is_grad_enabled() and not actions.requires_grad):
            features = self.extract_features(obs, self.features_extractor)
        return tuple(q_network(torch.cat([features, actions], dim=1)) for q_network in self.q_networks)


class CurlSACPolicy(SACPolicy):  # type: ignore[misc]
    """SAC's policy in CURL's arrangement: one encoder, trained by the critic, read by the actor without a gradient.

    Arguments as for SB3's ``SACPolicy``; the encoder is :class:`CurlEncoder` unless ``features_extractor_class`` says
    otherwise. ``share_features_extractor`` has no meaning here.
    """

    def __init__(
        self,
        *args: Any,
        features_extractor_class: type[BaseFeaturesExtractor] = CurlEncoder,
        share_features_extractor: bool = False,
        **kwargs: Any,
    ) -> None:
        if share_features_extractor:
            raise UserError("share_features_extractor=True: here the actor always reads the critic's encoder; omit it")
        super().__init__(*args, features_extractor_class=features_extractor_class, **kwargs)

    def _build(self, lr_schedule: Any) -> None:
        self.critic = self.make_critic()
        self.critic_target = self.make_critic()
        self.critic_target.load_state_dict(self.critic.state_dict())
        self.critic_target.set_training_mode(False)
        self.actor = self.make_actor(self.critic.features_extractor)
        encoder = set(map(id, self.critic.features_extractor.parameters()))
        actor = [parameter for parameter in self.actor.parameters() if id(parameter) not in encoder]
        rate = lr_schedule(1)
        self.actor.optimizer = self.optimizer_class(actor, lr=rate, **self.optimizer_kwargs)
        self.critic.optimizer = self.optimizer_class(self.critic.parameters(), lr=rate, **self.optimizer_kwargs)

    def make_actor(self, features_extractor: BaseFeaturesExtractor | None = None) -> Actor:
        """As of the base class; the actor's loss has no gradient in the encoder."""
        kwargs = self._update_features_extractor(self.actor_kwargs, features_extractor)
        return _DetachedActor(**kwargs).to(self.device)

    def make_critic(self, features_extractor: BaseFeaturesExtractor | None = None) -> ContinuousCritic:
        """As of the base class; the critic's loss trains the encoder."""
        kwargs = self._update_features_extractor(self.critic_kwargs, features_extractor)
        return _EncodingCritic(**kwargs).to(self.device)


class _Encode(nn.Module):
    """A features extractor with SB3's preprocessing: pixels ``[N, C, h, w]`` -> features ``float32 [N, d]``."""

    def __init__(self, network: Any) -> None:
        super().__init__()
        self.extractor = network.features_extractor
        self.space, self.normalize = network.observation_space, network.normalize_images

    def forward(self, pixels: Tensor) -> Tensor:
        features: Tensor = self.extractor(preprocess_obs(pixels, self.space, normalize_images=self.normalize))
        return features


class _AugmentedSamples:
    """A replay buffer whose batches are augmented, observation and next observation independently."""

    def __init__(self, buffer: Any, augment: Augment) -> None:
        self.buffer, self.augment = buffer, augment

    def sample(self, *args: Any, **kwargs: Any) -> Any:
        batch = self.buffer.sample(*args, **kwargs)
        return batch._replace(
            observations=self.augment(batch.observations), next_observations=self.augment(batch.next_observations)
        )

    def __getattr__(self, name: str) -> Any:
        return getattr(self.buffer, name)


class _Contrastive:
    """The contrastive loss of an off-policy algorithm of SB3: a mixin before its class.

    Raises:
        UserError: the observations are not images, or the policy is not one whose encoder the RL loss trains.
    """

    policy_class_needed: ClassVar[type[BasePolicy]]

    def __init__(
        self, policy: str | type[BasePolicy] = "CnnPolicy", env: Any = None, *args: Any, **kwargs: Any
    ) -> None:
        names = ContrastOptions.__dataclass_fields__
        self.contrast_options = self._options(**{name: kwargs.pop(name) for name in names if name in kwargs})
        self.learned_env_steps = 0
        needed = self.policy_class_needed.__name__
        if isinstance(policy, type) and not issubclass(policy, self.policy_class_needed):
            raise UserError(f"{policy.__name__} of {policy.__module__} is not a subclass of {needed}")
        if not isinstance(policy, type) and policy != "CnnPolicy":
            raise UserError(f'the policy is "CnnPolicy" or a subclass of {needed}, not {policy!r}')
        space = getattr(env, "observation_space", None)
        if isinstance(space, gymnasium.spaces.Dict | gymnasium.spaces.Tuple):
            raise UserError(
                f"the contrastive loss learns from one image: choose it with a wrapper, from {one_line(space)}"
            )
        super().__init__(policy, env, *args, **kwargs)  # type: ignore[call-arg]

    @staticmethod
    def _options(**options: Any) -> ContrastOptions:
        return ContrastOptions(**options)

    @classmethod
    def load(cls, *args: Any, **kwargs: Any) -> Any:
        """As in SB3. The options of the contrastive loss are those that the model was saved with.

        Raises:
            UserError: an option of the contrastive loss is passed.
        """
        if names := [name for name in kwargs if name in ContrastOptions.__dataclass_fields__]:
            raise UserError(f"{names[0]} cannot be changed by load: a model keeps the options that it was saved with")
        return super().load(*args, **kwargs)  # type: ignore[misc]

    @abstractmethod
    def _encoding_network(self: Any) -> Any:
        """The network whose features extractor is trained."""

    def _setup_model(self: Any) -> None:
        _check_observations(self.observation_space, self._vec_normalize_env)
        super()._setup_model()  # type: ignore[misc]
        o, network = self.contrast_options, self._encoding_network()
        if (channels := self.observation_space.shape[0]) % o.frame_stack:
            raise UserError(f"frame_stack={o.frame_stack} does not divide the {channels} channels of the observations")
        objective = make_objective(o.objective, network.features_extractor.features_dim, o.objective_settings)
        self.augment = _augmentation(network.features_extractor, self.observation_space.shape, o.shift_pad)
        self.contrast = ContrastiveLearner(
            objective,
            _Encode(network),
            learning_rate=self.lr_schedule(1) if o.contrast_lr is None else o.contrast_lr,
            encoder_factor=o.encoder_factor,
            momentum=o.key_momentum,
            augment=self.augment,
            frame_stack=o.frame_stack,
            seed=0 if self.seed is None else self.seed,
        ).to(self.device)

    def _setup_learn(self: Any, *args: Any, **kwargs: Any) -> Any:
        before = self._last_obs
        result = super()._setup_learn(*args, **kwargs)  # type: ignore[misc]
        buffer = self.replay_buffer
        if self._last_obs is not before and buffer.size():
            # The environment was reset: its last episode in the buffer is truncated, so no window crosses the cut.
            newest = (buffer.pos - 1) % buffer.buffer_size
            if not buffer.optimize_memory_usage:  # else the buffer has no timeouts, as when SB3 marks the cut itself
                buffer.timeouts[newest] = np.where(buffer.dones[newest], buffer.timeouts[newest], 1)
            buffer.dones[newest] = 1
        return result

    def collect_rollouts(self: Any, *args: Any, **kwargs: Any) -> Any:
        rollout = super().collect_rollouts(*args, **kwargs)  # type: ignore[misc]
        if self.num_timesteps > self.learning_starts:
            self.learned_env_steps += rollout.episode_timesteps * self.contrast_options.action_repeat
        return rollout

    def train(self: Any, gradient_steps: int, batch_size: int = 64) -> None:
        """SB3's updates on augmented batches, then as many of the contrastive loss."""
        buffer = self.replay_buffer
        self.replay_buffer = _AugmentedSamples(buffer, self.augment)
        try:
            super().train(gradient_steps, batch_size)  # type: ignore[misc]
        finally:
            self.replay_buffer = buffer
        episodes = _episodes(buffer)
        spec = self.contrast.objective.contrast_spec
        if spec.source != "rl" and spec.cross_episodes and episodes.size < spec.length:
            return  # no window fits yet
        metrics: dict[str, Tensor] = {}
        for _ in range(gradient_steps):
            metrics = self._contrast_step(buffer, episodes, batch_size)
        for name, value in metrics.items():
            self.logger.record(f"train/{name.replace('/', '_')}", value.item())

    def _contrast_step(self: Any, buffer: Any, episodes: Episodes, batch_size: int) -> dict[str, Tensor]:
        spec, generator = self.contrast.objective.contrast_spec, self.contrast.generator
        if spec.source == "rl":
            rows, padded = episodes.sample(batch_size, 1, generator)[0], None
        else:
            rows, padded = episodes.sample(spec.batch, spec.length, generator, cross_episodes=spec.cross_episodes)
        pixels = buffer.observations[np.divmod(rows.ravel(), buffer.n_envs)]
        observations = torch.as_tensor(pixels, device=self.device)
        metrics: dict[str, Tensor] = self.contrast.update(observations, padded, env_steps=self.learned_env_steps)
        return metrics

    def _excluded_save_params(self: Any) -> list[str]:
        return [*super()._excluded_save_params(), "contrast", "augment"]  # type: ignore[misc]

    def _get_torch_save_params(self: Any) -> tuple[list[str], list[str]]:
        state_dicts, variables = super()._get_torch_save_params()  # type: ignore[misc]
        return [*state_dicts, "contrast"], variables


class MCurlSAC(_Contrastive, SAC):  # type: ignore[misc]
    """SB3's SAC with a contrastive loss on the critic's encoder. Arguments of ``SAC`` and :class:`ContrastOptions`.

    ``policy`` is ``"CnnPolicy"`` or a subclass of :class:`CurlSACPolicy`.

    Attributes:
        contrast: the :class:`ContrastiveLearner`.
    """

    policy_class_needed = CurlSACPolicy
    policy_aliases: ClassVar[dict[str, type[BasePolicy]]] = {"CnnPolicy": CurlSACPolicy}

    def _encoding_network(self) -> Any:
        return self.policy.critic


class MCurlDQN(_Contrastive, DQN):  # type: ignore[misc]
    """SB3's DQN with a contrastive loss on its encoder. Arguments of ``DQN`` and :class:`ContrastOptions`.

    ``policy`` is ``"CnnPolicy"`` or a subclass of SB3's ``DQNPolicy``. Defaults of ``encoder_factor`` and
    ``key_momentum``: 1 and 0.001.

    Attributes:
        contrast: the :class:`ContrastiveLearner`.
    """

    policy_class_needed = DQNPolicy
    policy_aliases: ClassVar[dict[str, type[BasePolicy]]] = {"CnnPolicy": DQNCnnPolicy}

    @staticmethod
    def _options(**options: Any) -> ContrastOptions:
        return ContrastOptions(**{"encoder_factor": 1.0, "key_momentum": 0.001, **options})

    def _encoding_network(self) -> Any:
        return self.policy.q_net


def _check_observations(space: gymnasium.Space[Any], normalize: Any) -> None:
    if normalize is not None and normalize.norm_obs:
        raise UserError("the policy scales images itself: use VecNormalize(env, norm_obs=False)")
    if not is_image_space(space):
        raise UserError(
            f"the contrastive loss learns from images, uint8 [C, H, W] from 0 to 255, not from {one_line(space)}"
        )


def _augmentation(extractor: Any, shape: tuple[int, ...], pad: int) -> Augment:
    side = getattr(extractor, "side", None)
    if isinstance(side, int) and side < max(shape[1:]):
        return functools.partial(random_crop, size=side)
    return functools.partial(random_shift, pad=pad)


def _episodes(buffer: Any) -> Episodes:
    """The episodes of SB3's ring of transitions; the final observation of an episode is not among its rows."""
    if not buffer.full:
        return Episodes.from_dones(buffer.dones[: buffer.pos])
    dones = buffer.dones
    if buffer.optimize_memory_usage:
        # The oldest row has been overwritten by the newest observation: it is an episode of its own.
        dones = dones.copy()
        dones[buffer.pos] = 1
    return Episodes.from_dones(dones, position=buffer.pos)
