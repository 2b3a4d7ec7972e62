"""Settings -> the parts of a run: environment, objective, agent, replay."""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
import torch

from mcurl.agents.rainbow import Rainbow, contrast_width
from mcurl.agents.sac import SAC
from mcurl.config.resolve import TrainSettings
from mcurl.envs import make_env
from mcurl.errors import UserError
from mcurl.objectives.base import Objective
from mcurl.objectives.contrast import Curl
from mcurl.objectives.masked import MCurl, MCurlSettings
from mcurl.objectives.registry import objective_class
from mcurl.replay.buffer import Replay
from mcurl.runtime.device import Compute

WIDE = 256
"""Features from this width on pass the Transformer in the run's precision."""


def build_env(settings: TrainSettings, seed: int) -> gymnasium.Env[Any, Any]:
    """The run's environment. Raises UserError where the method needs pixels and there are none."""
    env = make_env(settings.env, seed)
    if (settings.mcurl or settings.curl or settings.own) is not None and len(_frame_shape(env)) == 1:
        raise UserError(
            f"{settings.method} learns from pixels, but {settings.task} gives states here: use --method none, or observation=pixels"
        )
    return env


def build_objective(settings: TrainSettings, features: int, compute: Compute) -> Objective | None:
    """The contrastive loss of the method, for features of this width; None for the methods without one."""
    chosen = settings.mcurl or settings.curl or settings.own
    if chosen is None:
        return None
    cls: Any = (
        objective_class(settings.method) if settings.own is not None else MCurl if settings.mcurl is not None else Curl
    )
    if not issubclass(cls, MCurl):
        made: Objective = cls(chosen, features)
        return made
    # Fixed shapes where an update is captured once and replayed; otherwise only what is seen is encoded.
    compact = compute.device.type == "cpu"
    # On the 576 features of Atari's convolutions the Transformer is most of an update; at 128 and 50 bfloat16 would
    # gain nothing.
    dtype = compute.dtype if features >= WIDE else torch.float32
    masked: MCurl = cls(chosen, features, compact=compact, dtype=dtype)
    return masked


def build_agent(settings: TrainSettings, env: gymnasium.Env[Any, Any], compute: Compute) -> SAC | Rainbow:
    """SAC for continuous actions, Rainbow for discrete ones."""
    shape = observation_shape(env)
    contrast = settings.mcurl or settings.curl or settings.own
    masked = contrast if isinstance(contrast, MCurlSettings) else None
    weight = getattr(contrast, "weight", 1.0)
    if isinstance(env.action_space, gymnasium.spaces.Box):
        assert settings.sac is not None
        return SAC(
            settings.sac,
            shape,
            int(np.prod(env.action_space.shape)),
            build_objective(settings, settings.sac.features, compute),
            contrast_weight=weight,
            contrast_max_grad_norm=masked.contrast_max_grad_norm if masked is not None else 0.0,
            device=compute.device,
            dtype=compute.dtype,
        )
    assert isinstance(env.action_space, gymnasium.spaces.Discrete)
    if settings.rainbow is None or len(shape) != 3:
        raise UserError(f"{settings.task} has discrete actions: Rainbow learns them from pixels only")
    chosen = masked.features if masked is not None else "head"
    return Rainbow(
        settings.rainbow,
        shape,
        int(env.action_space.n),
        build_objective(settings, contrast_width(shape, chosen), compute),
        features=chosen,
        head_init="uniform" if settings.curl is not None else "standard",
        contrast_weight=weight,
        device=compute.device,
        dtype=compute.dtype,
    )


def build_replay(settings: TrainSettings, env: gymnasium.Env[Any, Any], compute: Compute) -> Replay:
    """A ring of frames on the device that learns. Raises UserError where it would not fit into memory."""
    shape = _frame_shape(env)
    continuous = isinstance(env.action_space, gymnasium.spaces.Box)
    rainbow = None if continuous else settings.rainbow
    if settings.mcurl is not None and settings.mcurl.length >= settings.replay.capacity:
        raise UserError(
            f"mcurl.length={settings.mcurl.length} does not fit into replay.capacity={settings.replay.capacity}"
        )
    return Replay(
        capacity=settings.replay.capacity,
        frame_shape=shape,
        frame_dtype="uint8" if len(shape) == 3 else "float32",
        frame_stack=env.get_wrapper_attr("frame_stack") if len(shape) == 3 else 1,
        stack_start=env.get_wrapper_attr("stack_start"),
        action_shape=(int(np.prod(env.action_space.shape or ())),) if continuous else (),
        action_dtype=np.float32 if continuous else np.int64,
        n_step=rainbow.n_step if rainbow else 1,
        discount=rainbow.discount if rainbow else settings.sac.discount,  # type: ignore[union-attr]
        device=compute.device,
        priority_alpha=rainbow.priority_alpha if rainbow else None,
        layout="patches" if not continuous else "channels_last" if compute.dtype == torch.bfloat16 else "planes",
    )


def observation_shape(env: gymnasium.Env[Any, Any]) -> tuple[int, ...]:
    """(K*C, H, W) of stacked pixels, or (D,) of a state."""
    shape = env.observation_space.shape
    assert shape is not None
    return tuple(shape)


def newest_frame(observation: np.ndarray, env: gymnasium.Env[Any, Any]) -> np.ndarray:
    """The frame that this step added to the stack: its last C channels."""
    shape = _frame_shape(env)
    return observation[-shape[0] :] if len(shape) == 3 else observation


def _frame_shape(env: gymnasium.Env[Any, Any]) -> tuple[int, ...]:
    return tuple(env.get_wrapper_attr("frame_shape"))


def torch_state(device: torch.device) -> dict[str, Any]:
    """State of torch's own generators: dropout, noise, sampled actions."""
    return {"cpu": torch.get_rng_state(), "cuda": torch.cuda.get_rng_state(device) if device.type == "cuda" else None}


def restore_torch_state(state: dict[str, Any], device: torch.device) -> None:
    torch.set_rng_state(state["cpu"])
    if device.type == "cuda" and state["cuda"] is not None:
        torch.cuda.set_rng_state(state["cuda"], device)
