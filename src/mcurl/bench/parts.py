"""Timings of the other parts of a run: replay, rendering, environment steps, checkpoints."""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np

from mcurl.bench.timing import Timing, measure
from mcurl.bench.update import TASKS, Learner
from mcurl.build import build_env
from mcurl.config import resolve as config
from mcurl.replay import PaddedCrop, RandomCrop
from mcurl.run.checkpoint import load_tree, save_tree
from mcurl.runtime.device import Compute

RENDERED_TASKS = ("cartpole-swingup", "cheetah-run", "finger-spin", "walker-walk", "reacher-easy")
"""DMControl tasks whose rendering is timed."""


def time_replay(compute: Compute, repeats: int) -> list[Timing]:
    """Time gathering and augmenting stacks: 512 of DMControl, 256 of Atari."""
    timings = []
    for suite, n, augmentation in (("dmc", 512, RandomCrop(84)), ("atari", 256, PaddedCrop(80, 4, 84))):
        replay = Learner(suite, "rl-only", compute).replay
        rng = np.random.default_rng(0)
        rows = replay.sample_observations(n, rng)
        window = augmentation.window(n, (replay.frame_shape[1], replay.frame_shape[2]), rng)
        out = replay.empty_stacks(n, window.size)

        def gather(replay=replay, rows=rows, window=window, out=out) -> None:  # type: ignore[no-untyped-def]
            replay.gather_stacks(rows, window, out=out)

        timings.append(
            measure(f"{n} {suite} stacks, gather and crop", gather, repeats=repeats, megabytes=out.nbytes / 1e6)
        )
    return timings


def time_act(suite: str, compute: Compute, repeats: int) -> list[Timing]:
    """Time acting on one observation, as in training, and on ten, as in evaluation. The objective plays no part."""
    learner, timings = Learner(suite, "rl-only", compute), []
    shape = learner.replay.frame_stack * learner.replay.frame_shape[0], *learner.replay.frame_shape[1:]
    for n, explore in ((1, True), (10, False)):
        observations = np.random.default_rng(0).integers(0, 256, (n, *shape), dtype=np.uint8)

        def act(observations=observations, explore=explore) -> None:  # type: ignore[no-untyped-def]
            learner.agent.act(observations, explore=explore, clock=learner.clock)

        timings.append(measure(f"{suite}, act on {n}", act, warm_up=20, repeats=5 * repeats))
    return timings


def time_render(repeats: int) -> list[Timing]:
    """Time one agent step of DMControl tasks with each size of the shadow map. Most of the time is rendering."""
    timings = []
    for task in RENDERED_TASKS:
        for shadows in ("full", "1024", "512", "off"):
            env = build_env(config.resolve(f"dmc/{task}", "rl-only", overrides=[f"env.shadows={shadows}"]), 0)
            env.reset(seed=0)
            action = np.zeros(env.action_space.shape or (), np.float32)

            def step(env=env, action=action) -> None:  # type: ignore[no-untyped-def]
                env.step(action)

            timings.append(measure(f"{task}, shadows {shadows}", step, repeats=repeats))
            env.close()
    return timings


def time_env(repeats: int) -> list[Timing]:
    """Time one agent step of a task of each suite, with random actions."""
    timings = []
    for task in TASKS.values():
        env = build_env(config.resolve(task, "rl-only"), 0)
        env.reset(seed=0)

        def step(env=env) -> None:  # type: ignore[no-untyped-def]
            _, _, terminated, truncated, _ = env.step(env.action_space.sample())
            if terminated or truncated:
                env.reset()

        timings.append(measure(f"{task}, one agent step", step, repeats=10 * repeats))
        env.close()
    return timings


def time_checkpoint(compute: Compute, repeats: int) -> list[Timing]:
    """Time saving and loading an M-CURL agent, and adding 500 frames to the replay and its files."""
    learner = Learner("dmc", "mcurl", compute)
    agent, replay = learner.agent, learner.replay
    timings = []
    with tempfile.TemporaryDirectory() as directory:
        folder = Path(directory)
        state = agent.state_dict()
        (folder / "agent").mkdir()
        timings.append(
            measure("save an M-CURL agent", lambda: save_tree(folder / "agent", state), warm_up=1, repeats=repeats)
        )
        size = sum(path.stat().st_size for path in (folder / "agent").iterdir())
        timings.append(
            measure(
                "load an M-CURL agent",
                lambda: load_tree(folder / "agent"),
                warm_up=1,
                repeats=repeats,
                megabytes=size / 1e6,
            )
        )
        frame = np.zeros(replay.frame_shape, np.uint8)

        def add_episode() -> None:
            replay.begin(frame)
            for step in range(500):
                replay.append(np.zeros(1, np.float32), 0.0, frame, False, step == 499)
            replay.save_files(folder / "replay")

        timings.append(
            measure(
                "add 500 frames to the replay and its files",
                add_episode,
                warm_up=1,
                repeats=repeats,
                megabytes=500 * frame.nbytes / 1e6,
            )
        )
    return timings
