"""Recordings of short evaluations of a random policy."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np

from mcurl.envs import make_env, settings_class
from mcurl.episodes import evaluate
from mcurl.evaluate import episode_limit
from mcurl.recording import Recorder, Recording, build


def record(
    task: str, episodes: int = 3, *, parallel: int = 2, seed: int = 1, env_steps: int = 0, **settings: Any
) -> Recording:
    """Play episodes of random actions and record them."""
    suite, _, name = task.partition("/")
    env = settings_class(suite)(task=name, **settings)
    recorder = Recorder()
    returns = evaluate(
        lambda observations: np.zeros(len(observations)),
        lambda env_seed: make_env(env, env_seed),
        episodes,
        seed,
        env_steps=env_steps,
        parallel=parallel,
        epsilon=1.0,
        max_episode_steps=episode_limit(env),
        recorder=recorder,
    )
    return recorder.recording(
        returns.tolist(),
        task=task,
        method="random",
        env=dataclasses.asdict(env),
        seed=seed,
        env_steps=env_steps,
        parallel=parallel,
        max_episode_steps=episode_limit(env),
        policy="0" * 64,
        build=build(),
    )
