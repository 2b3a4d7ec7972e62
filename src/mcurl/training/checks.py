"""What must stay finite in training: rewards, observations, actions, and the agent's weights."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from mcurl.agents.base import Agent, Clock, nonfinite
from mcurl.envs.foreign import EnvironmentFailure
from mcurl.errors import UserError
from mcurl.run.folder import Run

_LARGEST_REWARD = float(np.finfo(np.float32).max)
"""The replay stores rewards in single precision."""


class Checks:
    """Finds what is not finite, and says when that was seen and which checkpoint is still good.

    Args:
        task: ``suite/name``, for messages.
        agent: before its first update. Values of its state that are not finite at the start are ignored.
        run: has the checkpoints.
    """

    def __init__(self, task: str, agent: Agent, run: Run) -> None:
        self._task, self._agent, self._run = task, agent, run
        self._infinite_from_start = set(nonfinite(agent.state_dict()))

    def check_action(self, action: Any, clock: Clock) -> None:
        """Raise UserError if an action is not finite."""
        if not np.isfinite(action).all():
            raise self.diverged("an action is not a number", clock)

    def check_agent(self, clock: Clock) -> None:
        """Raise UserError if the agent's weights or its optimizers' are broken, so that they are never saved."""
        for name in nonfinite(self._agent.state_dict()):
            if name not in self._infinite_from_start:
                raise self.diverged(f"{name} is not finite", clock)

    def check_outcome(self, observation: np.ndarray, reward: Any, learned: float, clock: Clock, step: int) -> None:
        """Raise EnvironmentFailure if what a step returned is not finite.

        Args:
            observation: of any dtype.
            reward: as returned.
            learned: the clipped reward.
            clock: before the step.
            step: number of the step in its episode, from 1.
        """
        what = ""
        if not math.isfinite(reward):
            what = f"the reward {float(reward)}, which is"
        elif not abs(learned) <= _LARGEST_REWARD:
            what = f"the reward {float(reward):g}, which is, in single precision,"
        elif observation.dtype.kind == "f" and not np.isfinite(observation).all():
            what = "an observation with numbers that are"
        if what:
            where = f"step {step:,} of an episode, at {clock.env_steps:,} env steps,"
            raise EnvironmentFailure(f"{self._task}: {where} returned {what} not finite")

    def diverged(self, reason: str, clock: Clock) -> UserError:
        """The error of a run whose agent has diverged."""
        good = self._run.checkpoints()
        kept = f"the last good checkpoint is {good[-1].folder}" if good else "there is no checkpoint"
        return UserError(
            f"training diverged: {reason} at {clock.env_steps:,} env steps; "
            f"is a learning rate too high, or are rewards too large? {kept}"
        )
