"""Peak of resident memory of a run with a full replay, measured in a separate process."""

from __future__ import annotations

import json
import resource
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

from mcurl.agents.base import Clock
from mcurl.batches import sample_batch
from mcurl.bench.timing import Timing, measure
from mcurl.bench.update import TASKS
from mcurl.build import build_agent, build_env, build_replay
from mcurl.config import resolve as config
from mcurl.episodes import evaluate
from mcurl.replay.buffer import Replay
from mcurl.run.checkpoint import save_tree
from mcurl.runtime.device import ComputeSettings, prepare
from mcurl.runtime.seeding import Generators

EPISODE_STEPS, EVALUATION_STEPS = 1000, 100
"""Agent steps of an episode in the replay, and of an evaluation episode."""


def time_memory(suite: str, method: str, threads: int) -> tuple[Timing, float]:
    """Time an update with a full replay, and measure memory including evaluation and checkpoint.

    Returns:
        The timing, and the peak of resident memory in GB.
    """
    code = f"from mcurl.bench.memory import run; run({suite!r}, {method!r}, {threads})"
    process = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    values = json.loads(process.stdout.splitlines()[-1])
    peak = float(values.pop("peak_gigabytes"))
    return Timing(**{name: values[name] for name in Timing.__dataclass_fields__}), peak


def run(suite: str, method: str, threads: int) -> None:
    """Update, evaluate and save with the data of a complete run; print the results of :func:`time_memory` as JSON."""
    settings = config.resolve(TASKS[suite], method)
    compute = prepare(ComputeSettings(threads=threads))
    env = build_env(settings, 0)
    agent = build_agent(settings, env, compute)
    replay = build_replay(settings, env, agent.batch_spec, compute)
    clock = Clock(agent.schedule.learning_starts, 0, action_repeat=4, horizon=settings.env_steps)
    fill(replay, settings.replay.capacity)
    generators = Generators(0)

    def update() -> None:
        agent.update(sample_batch(replay, agent.batch_spec, agent.objective, generators, beta=0.5), clock)

    timing = measure(f"{suite} {method}, replay full", update, warm_up=4, repeats=8)
    evaluate(
        lambda stacks: agent.act(stacks, explore=False, clock=clock),
        lambda seed: build_env(settings, seed),
        settings.evaluation.episodes,
        0,
        parallel=settings.evaluation.parallel,
        max_episode_steps=EVALUATION_STEPS,
    )
    with tempfile.TemporaryDirectory() as directory:
        save_tree(Path(directory), agent.state_dict())
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9
    print(json.dumps(timing.to_json() | {"peak_gigabytes": peak}))


def fill(replay: Replay, rows: int) -> None:
    """Add episodes of random frames until ``rows`` rows of the ring are written."""
    rng = np.random.default_rng(0)
    frames = rng.integers(0, 256, (64, *replay.frame_shape), dtype=np.uint8)
    action = np.zeros(replay.records.table.dtype["action"].shape, replay.records.table.dtype["action"].base)
    while replay.written < rows:
        replay.begin(frames[0])
        for step in range(EPISODE_STEPS):
            replay.append(action, 0.0, frames[step % 64], False, step == EPISODE_STEPS - 1)
