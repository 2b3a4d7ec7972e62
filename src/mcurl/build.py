"""Build the parts of a run from its settings: environment, objective, agent, replay."""

from __future__ import annotations

import math
from typing import Any

import gymnasium
import numpy as np
import torch

from mcurl.agents.base import Agent, BatchSpec
from mcurl.config.settings import TrainSettings, describe
from mcurl.envs import make_env
from mcurl.errors import UserError, argument
from mcurl.objectives.base import ContrastSpec, Objective
from mcurl.replay.buffer import Replay
from mcurl.run.names import action_repeat
from mcurl.runtime.device import Compute
from mcurl.runtime.memory import check_memory, limited_allocations

ENVIRONMENT_BYTES = 100_000
"""What an environment takes at least, beside its observation."""
PROCESS_BYTES = 250_000_000
"""What the process of a run takes at least: Python and PyTorch."""
EPISODE_BYTES = 1000
"""What the results of an episode take at least: its seed, length, return and actions."""


def build_env(settings: TrainSettings, seed: int) -> gymnasium.Env[Any, Any]:
    """Build the run's environment.

    Raises:
        UserError: the method has a contrastive loss, but the observations are not pixels.
    """
    env = make_env(settings.env, seed)
    if settings.objective_settings is not None and len(frame_shape(env)) == 1:
        raise UserError(
            f"{settings.method} learns from pixels, but {settings.task} gives states here: "
            f"use {argument('method', 'sac-state')}, or env.observation=pixels"
        )
    return env


def build_agent(settings: TrainSettings, env: gymnasium.Env[Any, Any], compute: Compute) -> Agent:
    """Build the agent with its objective.

    Raises:
        UserError: agent or objective does not fit the environment, or they do not fit each other, or the networks or
            the batches do not fit into memory.
    """
    return build_agent_for(settings, observation_shape(env), env.action_space, compute)


def build_agent_for(
    settings: TrainSettings, shape: tuple[int, ...], actions: gymnasium.Space[Any], compute: Compute
) -> Agent:
    """As :func:`build_agent`, without an environment.

    Args:
        settings: of the run.
        shape: ``(K*C, H, W)`` of stacked pixels or ``(D,)`` of states.
        actions: Box in [-1, 1], or Discrete.
        compute: device and precision.
    """
    parts = settings.parts
    objective: Objective | None = None
    if parts.objective is not None:
        feature_dim = parts.agent.feature_dim(settings.agent_settings, shape)
        with limited_allocations(compute.device, "the objective with gradients and optimizers", _smaller(settings)):
            objective = parts.objective(settings.objective_settings, feature_dim)
        objective.set_compute(fixed_shapes=compute.device.type != "cpu", dtype=compute.dtype)
        _check_length(settings, objective.contrast_spec)
    with limited_allocations(compute.device, "the networks with gradients and optimizers", _smaller(settings)):
        agent = parts.agent(
            settings.agent_settings, shape, actions, objective, device=compute.device, dtype=compute.dtype
        )
    _check_batches(settings, agent, shape, compute)
    return agent


def _smaller(settings: TrainSettings) -> str:
    """Advice that names the setting of agent and objective that is the largest multiple of its default."""
    parts = settings.parts
    sections = {cls.section for cls in (parts.agent, parts.objective) if cls is not None}
    factors = {}
    for setting in describe(settings):
        if setting.key.partition(".")[0] in sections and type(setting.value) is int and setting.default:
            factors[f"{setting.key}={setting.value:,}"] = setting.value / setting.default
    name = max(factors, key=lambda key: factors[key], default="")
    return f"is {name} too large?" if name else "choose smaller networks"


def _check_batches(settings: TrainSettings, agent: Agent, shape: tuple[int, ...], compute: Compute) -> None:
    """Raise UserError if the observations of one batch do not fit into memory."""
    size = math.prod(shape) * (1 if len(shape) == 3 else 4)
    section, spec, schedule = settings.parts.agent.section, agent.batch_spec, settings.evaluation
    batches = {f"a batch of {spec.size:,} transitions ({section}.batch_size)": 2 * spec.size * size}
    if agent.objective is not None and settings.parts.objective is not None:
        contrast = agent.objective.contrast_spec
        name = f"a batch of {contrast.batch:,} sequences of {contrast.length:,} ({settings.parts.objective.section})"
        batches[name] = 2 * contrast.batch * contrast.length * size
    parallel = min(schedule.parallel, max(schedule.episodes, schedule.final_episodes))
    batches[f"the evaluation of {parallel:,} episodes at a time (evaluation.parallel)"] = parallel * (
        size + ENVIRONMENT_BYTES
    )
    for name, needed in batches.items():
        check_memory(needed, name, compute.device, "choose a smaller number")
    for key in ("episodes", "final_episodes"):
        check_episodes(getattr(schedule, key), f"evaluation.{key}")


def check_episodes(episodes: int, name: str) -> None:
    """Raise UserError if the results of so many episodes do not fit into memory."""
    size = episodes * EPISODE_BYTES
    check_memory(size, f"{name}={episodes:,}", torch.device("cpu"), "choose a smaller number")


def memory_needed(settings: TrainSettings) -> int:
    """Bytes of the machine's memory that a run takes at least, as far as its settings say it.

    The replay counts with the rows that are written within the budget, unless it is on a GPU.
    """
    env = settings.env
    on_gpu = settings.compute.device != "cpu" and torch.cuda.is_available()
    if on_gpu or getattr(env, "observation", "pixels") == "state":
        return PROCESS_BYTES
    rows = min(settings.replay.capacity, settings.env_steps // action_repeat(settings.to_json()["env"]))
    channels = 3 if settings.task.startswith("dmc/") else 1  # of the other suites it is not known yet
    side = getattr(env, "image_size", 0)  # nor is this, in a suite of the user's own
    return PROCESS_BYTES + int(rows * channels * side**2)


def build_replay(settings: TrainSettings, env: gymnasium.Env[Any, Any], spec: BatchSpec, compute: Compute) -> Replay:
    """Build the replay for the batches of ``spec``, with its frames on the training device.

    Raises:
        UserError: the replay does not fit into memory.
    """
    shape, actions = frame_shape(env), env.action_space
    discrete = isinstance(actions, gymnasium.spaces.Discrete)
    pixels = len(shape) == 3
    return Replay(
        capacity=settings.replay.capacity,
        frame_shape=shape,
        frame_dtype="uint8" if pixels else "float32",
        frame_stack=env.get_wrapper_attr("frame_stack") if pixels else 1,
        stack_start=env.get_wrapper_attr("stack_start"),
        action_shape=() if discrete else (int(np.prod(actions.shape or ())),),
        action_dtype=np.int64 if discrete else np.float32,
        n_step=spec.n_step,
        discount=spec.discount,
        device=compute.device,
        priority_alpha=spec.priority_alpha,
        layout=spec.layout,
    )


def observation_shape(env: gymnasium.Env[Any, Any]) -> tuple[int, ...]:
    """Shape of an observation: ``(K*C, H, W)`` of stacked pixels, or ``(D,)`` of a state."""
    shape = env.observation_space.shape
    assert shape is not None
    return tuple(shape)


def frame_shape(env: gymnasium.Env[Any, Any]) -> tuple[int, ...]:
    """Shape of one frame, ``(C, H, W)``, or of a state, ``(D,)``."""
    return tuple(env.get_wrapper_attr("frame_shape"))


def newest_frame(observation: np.ndarray, env: gymnasium.Env[Any, Any]) -> np.ndarray:
    """The newest frame of an observation: the last C channels of the stack, or the state itself."""
    shape = frame_shape(env)
    return observation[-shape[0] :] if len(shape) == 3 else observation


def _check_length(settings: TrainSettings, spec: ContrastSpec) -> None:
    """Raise UserError if the replay, full, may hold no sequence: its first frames have no complete stacks."""
    capacity, least = settings.replay.capacity, spec.length + max(getattr(settings.env, "frame_stack", 1) - 1, 1)
    if spec.source == "sequences" and capacity < least:
        name = f"sequences of {spec.length} observations"
        raise UserError(f"{name} do not fit into replay.capacity={capacity}: it must be at least {least}")
