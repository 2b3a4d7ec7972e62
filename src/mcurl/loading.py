"""The agent of a run, as one of its checkpoints has it."""

from __future__ import annotations

from contextlib import suppress
from typing import Any, NamedTuple

import gymnasium

from mcurl.agents.base import Agent, Clock
from mcurl.build import build_agent, build_env, observation_shape
from mcurl.config.settings import TrainSettings
from mcurl.envs.foreign import EnvironmentFailure
from mcurl.errors import UserError
from mcurl.run.checkpoint import WRONG_VALUES, first_line
from mcurl.run.folder import Checkpoint, Run, SettingsChangedError
from mcurl.runtime.device import prepare


class LoadedAgent(NamedTuple):
    """An agent with the weights of a checkpoint."""

    agent: Agent
    clock: Clock
    """The counters of the run at the checkpoint."""
    observation_shape: tuple[int, ...]
    """``(K*C, H, W)`` of stacked pixels or ``(D,)`` of states."""
    action_space: gymnasium.Space[Any]
    """Box in [-1, 1], or Discrete."""
    note: str = ""
    """A message for the user about the checkpoint; empty: none."""


def load_agent(run: Run, settings: TrainSettings, checkpoint: Checkpoint | None = None) -> LoadedAgent:
    """The agent of a checkpoint, and the counters of the run there. The run folder is not changed.

    Where the state of a final checkpoint is damaged, its policy is loaded, which acts the same.

    Args:
        run: a run folder.
        settings: of the run; ``compute`` may differ.
        checkpoint: of this run; None: the latest.

    Raises:
        UserError: the run has no checkpoint, the checkpoint cannot be read, the settings were changed, or they do not
            fit the machine.
    """
    checkpoint = checkpoint or run.latest_checkpoint()
    _check_settings(run, checkpoint)
    compute = prepare(settings.compute)
    env = build_env(settings, 0)
    try:
        agent = build_agent(settings, env, compute)
        action_repeat = int(env.get_wrapper_attr("action_repeat"))
        shape, actions = observation_shape(env), env.action_space
    finally:
        with suppress(EnvironmentFailure):
            env.close()
    try:
        state = checkpoint.load()
    except UserError as error:
        if not checkpoint.final:
            raise
        _load_policy(agent, checkpoint, error)
        clock = Clock(checkpoint.env_steps // action_repeat, 0, action_repeat, settings.env_steps)
        return LoadedAgent(agent, clock, shape, actions, f"the policy alone is used, because {error}")
    try:
        agent.load_state_dict(state["agent"])
        counters = int(state["clock"]["agent_steps"]), int(state["clock"]["updates"])
    except WRONG_VALUES as error:
        path = run.folder / "settings.json"
        raise UserError(f"{checkpoint.folder} does not fit {path}: {first_line(error)}") from error
    clock = Clock(*counters, action_repeat, settings.env_steps)
    return LoadedAgent(agent, clock, shape, actions)


def _check_settings(run: Run, checkpoint: Checkpoint) -> None:
    """Raise UserError if the run's settings are not those that the policy was trained with."""
    try:
        run.check_settings(checkpoint)
    except SettingsChangedError:
        raise
    except UserError:  # a part of the checkpoint is damaged; its policy may be whole
        run.check_settings(None)


def _load_policy(agent: Agent, checkpoint: Checkpoint, problem: UserError) -> None:
    """Load the policy of a final checkpoint whose state is damaged. Raises ``problem`` if the policy is, too."""
    try:
        agent.load_policy_state(checkpoint.load_policy())
    except (UserError, *WRONG_VALUES) as error:  # an agent of the user's may not know load_policy_state
        raise problem from error
