"""Episodes of a policy in parallel environments, each with its own seed."""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

import gymnasium
import numpy as np
import numpy.typing as npt

from mcurl.build import check_episodes
from mcurl.envs.foreign import EnvironmentFailure
from mcurl.errors import UserError
from mcurl.recording import MAX_EPISODE_STEPS, Recorder, episode_seed
from mcurl.runtime import seeding

Act = Callable[[npt.NDArray[Any]], npt.NDArray[Any]]
"""A policy without memory: observations ``[N, ...]`` -> actions ``[N, ...]``."""
MakeEnv = Callable[[int], "gymnasium.Env[Any, Any]"]
"""Seed -> a new environment."""
Camera = Callable[[int, "gymnasium.Env[Any, Any]"], None]
"""Called with the number of an episode and its environment, after its reset and after each step."""


def evaluate(
    act: Act,
    make_env: MakeEnv,
    episodes: int,
    seed: int,
    *,
    env_steps: int = 0,
    parallel: int = 10,
    epsilon: float = 0.0,
    max_episode_steps: int = MAX_EPISODE_STEPS,
    callback: Callable[[int], None] | None = None,
    recorder: Recorder | None = None,
    message: Callable[[str], None] | None = None,
    camera: Camera | None = None,
) -> npt.NDArray[np.float64]:
    """Play episodes with a policy.

    Each episode has its own seed, so it does not depend on ``parallel``. Exception: an environment whose reset does
    not sample everything anew, such as ``dmc/lqr-*``, which draw their springs once for each environment.

    The policy always receives a full batch: a finished environment keeps its last observation in the batch. So all
    batches have the same shape, and the action of one environment does not depend on the others.

    Args:
        act: the policy.
        make_env: makes the environments; they are closed at the end, also after an exception.
        episodes: number of episodes, at least 1.
        seed: seed of the run. An episode's seed is derived from it, ``env_steps`` and the episode's number.
        env_steps: simulator steps trained so far, so that each evaluation of a run plays different episodes.
        parallel: number of environments, at least 1.
        epsilon: probability of a random action instead of the policy's, in [0, 1].
        max_episode_steps: agent steps after which an episode is truncated, for environments without a time limit. Its
            return counts.
        callback: called after every step with the number of finished episodes; it may raise an exception to stop.
        recorder: collects the actions.
        message: receives a line if episodes were truncated after ``max_episode_steps``, or the simulator diverged.
        camera: sees each step of each episode.

    Returns:
        Sums of rewards, ``float64 [episodes]``, in the order of the episodes.
    """
    check_episodes(episodes, "episodes")
    slots = [
        Slot(make_env, first, seed, env_steps, epsilon, max_episode_steps, recorder, camera)
        for first in range(min(episodes, parallel))
    ]
    returns = np.full(episodes, np.nan)
    finished = 0
    with ExitStack() as stack:
        stack.enter_context(seeding.SeparateGlobals(seed, "evaluate", env_steps))
        for slot in slots:
            stack.callback(slot.close, message)
        for slot in slots:
            slot.begin(slot.episode, episodes)
        observations = np.stack([slot.observation for slot in slots])
        while finished < episodes:
            actions = act(observations)
            if not np.isfinite(actions).all():
                raise UserError("the policy has diverged: an action is not a number")
            for row, slot in enumerate(slots):
                if slot.episode >= episodes:
                    continue
                if slot.step(actions[row]):
                    returns[slot.episode] = slot.total
                    finished += 1
                    slot.begin(slot.episode + len(slots), episodes)
                observations[row] = slot.observation
            if callback is not None:
                callback(finished)
    if message is not None and (cut := sum(slot.cut for slot in slots)):
        message(f"{cut} of {episodes} episodes had not ended, and were cut off after {max_episode_steps:,} agent steps")
    if message is not None and (diverged := sum(slot.diverged for slot in slots)):
        message(f"{diverged} of {episodes} episodes ended because the simulator diverged; returns up to there count")
    return returns


class Slot:
    """One of N parallel environments. Number i plays the episodes i, i + N, i + 2 N, ..."""

    def __init__(
        self,
        make_env: MakeEnv,
        first: int,
        seed: int,
        env_steps: int,
        epsilon: float,
        max_episode_steps: int,
        recorder: Recorder | None,
        camera: Camera | None,
    ) -> None:
        self.seed, self.env_steps, self.epsilon, self.max_episode_steps = seed, env_steps, epsilon, max_episode_steps
        self.make_env, self.episode, self.recorder, self.camera = make_env, first, recorder, camera
        self.first = first
        self.env: gymnasium.Env[Any, Any] | None = None
        self.observation: Any = None
        self.total, self.steps = 0.0, 0
        self.cut = self.diverged = 0

    def begin(self, episode: int, episodes: int) -> None:
        """Reset for an episode, unless its number is beyond the last of ``episodes``."""
        self.episode, self.total, self.steps = episode, 0.0, 0
        if episode >= episodes:
            return
        number = episode_seed(self.seed, self.env_steps, episode)
        if self.env is None:
            self.env = self.make_env(episode_seed(self.seed, self.env_steps, self.first))
        self.random = seeding.generator(self.seed, "evaluate-random", self.env_steps, episode)
        self.observation, _ = self.env.reset(seed=number)
        if self.recorder is not None:
            self.recorder.begin(episode, number)
        if self.camera is not None:
            self.camera(self.episode, self.env)

    def step(self, action: Any) -> bool:
        """Take one step; return whether the episode ended."""
        assert self.env is not None
        if self.random.random() < self.epsilon:
            self.env.action_space.seed(int(self.random.integers(2**31)))
            action = self.env.action_space.sample()
        self.observation, reward, terminated, truncated, info = self.env.step(action)
        if not math.isfinite(reward):
            where = f"step {self.steps + 1:,} of episode {self.episode} of an evaluation"
            raise EnvironmentFailure(
                f"the environment returned the reward {float(reward)}, not a finite number: {where}"
            )
        self.total += float(reward)
        self.steps += 1
        ended = bool(terminated or truncated)
        over = ended or self.steps >= self.max_episode_steps
        self.cut += over and not ended
        self.diverged += bool(info.get("diverged"))
        if self.recorder is not None:
            self.recorder.step(self.episode, action, self.env, over)
        if self.camera is not None:
            self.camera(self.episode, self.env)
        return over

    def close(self, message: Callable[[str], None] | None = None) -> None:
        """Close the environment. The episodes count even if that fails; ``message`` receives the failure."""
        if self.env is None:
            return
        try:
            self.env.close()
        except EnvironmentFailure as error:
            if message is not None and self.first == 0:
                message(str(error))
