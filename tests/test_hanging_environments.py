"""An environment that hangs, or does not let go: two Ctrl-C end the process, with real processes and signals."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

ENVS = """
import signal, time, gymnasium, numpy as np

def hang():
    open("hanging", "w").close()
    time.sleep(3600)

class Hangs(gymnasium.Env):
    made, where = 0, "training"
    def __init__(self):
        if self.where == "main":
            signal.signal(signal.SIGUSR1, lambda *arguments: None)
        Hangs.made += 1
        self.number, self.count = Hangs.made, 0
        self.observation_space = gymnasium.spaces.Box(0, 255, (28, 28, 3), np.uint8)
        self.action_space = gymnasium.spaces.Box(-1, 1, (1,))
    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.count = 0
        return np.zeros((28, 28, 3), np.uint8), {}
    def step(self, action):
        self.count += 1
        evaluates = self.number > 1
        if self.count == 5 and evaluates == (self.where in ("evaluation", "deaf")):
            while self.where == "deaf":
                try:
                    hang()
                except BaseException:
                    pass
            hang()
        return np.zeros((28, 28, 3), np.uint8), 0.0, self.count == 10, False, {}
    def close(self):
        if self.where == "main" and self.number == 1:
            time.sleep(3600)

for where in ("training", "evaluation", "main", "deaf"):
    cls = type(where, (Hangs,), {"where": where})
    gymnasium.register(where + "-v0", cls, max_episode_steps=100)
"""
SMALL = [
    *("env.image_size=28", "sac.crop=24", "sac.batch_size=4", "sac.hidden=8", "sac.filters=2", "sac.feature_dim=8"),
    *("sac.learning_starts=30", "replay.capacity=300", "evaluation.episodes=1", "compute.threads=1"),
]


@pytest.mark.parametrize("where", ["training", "evaluation", "main", "deaf"])
def test_two_signals_end_a_run_that_hangs(tmp_path: Path, where: str) -> None:
    (tmp_path / "hanging_envs.py").write_text(ENVS)
    arguments = ["train", f"gym/hanging_envs:{where}-v0", "--method", "rl-only", "--env-steps", "50", "--set", *SMALL]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), *sys.path])}
    output = tmp_path / "output"
    with output.open("w") as file:
        process = subprocess.Popen(
            [sys.executable, "-m", "mcurl", *arguments], cwd=tmp_path, env=environment, stdout=file, stderr=file
        )
    try:
        wait(process, output, (tmp_path / "hanging").exists)
        time.sleep(0.2)  # until the main thread waits for the step
        process.send_signal(signal.SIGINT)
        # On a busy machine, two signals in a row arrive as one.
        wait(process, output, lambda: "Press Ctrl-C again to quit without saving" in output.read_text())
        process.send_signal(signal.SIGINT)
        process.wait(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 130, output.read_text()
    assert "Traceback" not in output.read_text()


def wait(process: subprocess.Popen[bytes], output: Path, condition: Callable[[], bool]) -> None:
    """Wait until a condition holds. Fails if the process ends before, or after two minutes."""
    end = time.monotonic() + 120
    while not condition():
        assert process.poll() is None, output.read_text()
        assert time.monotonic() < end, output.read_text()
        time.sleep(0.05)
