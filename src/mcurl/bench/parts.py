"""The other parts of a run: gathering, drawing, stepping, saving."""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np

from mcurl.bench.timing import Timing, measure
from mcurl.bench.update import TASKS, build
from mcurl.build import build_env
from mcurl.config import resolve as config
from mcurl.replay import Crop, Shift
from mcurl.run.checkpoint import load_tree, save_tree
from mcurl.runtime.device import Compute

RENDERED = ("cartpole-swingup", "cheetah-run", "finger-spin", "walker-walk", "reacher-easy")


def time_replay(compute: Compute, repeats: int) -> list[Timing]:
    """Gather and augment 512 stacks (DMControl) and 256 (Atari)."""
    timings = []
    for suite, n, augmentation in (("dmc", 512, Crop(84)), ("atari", 256, Shift())):
        _, replay, _ = build(suite, "none", compute)
        rng = np.random.default_rng(0)
        rows = replay.observations(n, rng)
        window = augmentation.draw(n, (replay.frame_shape[1], replay.frame_shape[2]), rng)
        out = replay.empty(n, window.size)

        def gather(replay=replay, rows=rows, window=window, out=out) -> None:  # type: ignore[no-untyped-def]
            replay.stacks(rows, window, out=out)

        timings.append(
            measure(f"{n} {suite} stacks, gathered and cropped", gather, repeats=repeats, megabytes=out.nbytes / 1e6)
        )
    return timings


def time_render(repeats: int) -> list[Timing]:
    """One agent step of DMControl tasks with each shadow map; nearly all of it is the picture."""
    timings = []
    for task in RENDERED:
        for shadows in ("full", "1024", "512", "off"):
            env = build_env(config.resolve(f"dmc/{task}", "none", overrides=[f"env.shadows={shadows}"]), 0)
            env.reset(seed=0)
            action = np.zeros(env.action_space.shape or (), np.float32)

            def step(env=env, action=action) -> None:  # type: ignore[no-untyped-def]
                env.step(action)

            timings.append(measure(f"{task}, shadows {shadows}", step, repeats=repeats))
            env.close()
    return timings


def time_env(repeats: int) -> list[Timing]:
    """One agent step of each suite's example."""
    timings = []
    for task in TASKS.values():
        env = build_env(config.resolve(task, "none"), 0)
        env.reset(seed=0)

        def step(env=env) -> None:  # type: ignore[no-untyped-def]
            _, _, terminated, truncated, _ = env.step(env.action_space.sample())
            if terminated or truncated:
                env.reset()

        timings.append(measure(f"{task}, one agent step", step, repeats=10 * repeats))
        env.close()
    return timings


def time_checkpoint(compute: Compute, repeats: int) -> list[Timing]:
    """Save and load an agent's state; append 500 rows to the replay's files."""
    agent, replay, _ = build("dmc", "mcurl", compute)
    timings = []
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        state = agent.state_dict()
        (folder / "agent").mkdir()
        timings.append(
            measure("save an M-CURL agent", lambda: save_tree(folder / "agent", state), warm_up=1, repeats=repeats)
        )
        size = sum(path.stat().st_size for path in (folder / "agent").iterdir())
        timings.append(
            measure("load it", lambda: load_tree(folder / "agent"), warm_up=1, repeats=repeats, megabytes=size / 1e6)
        )
        frame = np.zeros(replay.frame_shape, np.uint8)

        def grow() -> None:
            replay.begin(frame)
            for step in range(500):
                replay.append(np.zeros(1, np.float32), 0.0, frame, False, step == 499)
            replay.write(folder / "replay")

        timings.append(
            measure(
                "store 500 frames and append them to the files",
                grow,
                warm_up=1,
                repeats=repeats,
                megabytes=500 * frame.nbytes / 1e6,
            )
        )
    return timings
