"""Text that a terminal's encoding does not have, and bytes that are no text: replaced, and nothing stops."""

from __future__ import annotations

import io
import os
import subprocess
import sys
from pathlib import Path

import pytest

from mcurl.cli import main
from mcurl.run.status import IgnoreBrokenPipe

PRINTS = """
import os, gymnasium, numpy as np
class Prints(gymnasium.Env):
    def __init__(self):
        self.observation_space = gymnasium.spaces.Box(0, 255, (28, 28, 3), np.uint8)
        self.action_space = gymnasium.spaces.Box(-1, 1, (1,))
    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        os.write(1, b"simulator \\xff\\xfe ready\\n")
        return np.full((28, 28, 3), self.np_random.integers(200), np.uint8), {}
    def step(self, action):
        return np.full((28, 28, 3), self.np_random.integers(200), np.uint8), 1.0, False, False, {}
gymnasium.register("Prints-v0", Prints, max_episode_steps=10)
"""
SMALL = ["env.image_size=28", "sac.crop=24", "sac.batch_size=4", "sac.hidden=8", "sac.filters=2", "compute.threads=1"]
SMALL += ["sac.learning_starts=20", "replay.capacity=100", "evaluation.episodes=1"]


def ascii_file() -> io.TextIOWrapper:
    return io.TextIOWrapper(io.BytesIO(), encoding="ascii", write_through=True)


def written(file: io.TextIOWrapper) -> str:
    assert isinstance(file.buffer, io.BytesIO)
    return file.buffer.getvalue().decode("ascii")


@pytest.mark.parametrize(
    "words",
    [
        ["train", "toy/reach", "--method", "rl-only", "--env-steps", "30", "--set", *SMALL],
        ["settings", "dmc/cartpole-swingup"],
        ["suite", "show", "table1"],
    ],
)
def test_a_command_on_an_output_of_ascii(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: list[str]) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "stdout", file := ascii_file())
    assert main(words) == 0
    assert words[0] != "train" or "score" in written(file)
    assert "?" in written(file)


def test_a_display_from_python_replaces_too() -> None:
    IgnoreBrokenPipe(file := ascii_file()).write("4.0 ± 0.0\n")
    assert written(file) == "4.0 ? 0.0\n"


def test_bytes_that_are_no_text_do_not_stop_the_other_seeds(tmp_path: Path) -> None:
    (tmp_path / "printing_envs.py").write_text(PRINTS)
    words = ["train", "gym/printing_envs:Prints-v0", "--seed", "1,2", "--method", "rl-only", "--env-steps", "25"]
    process = subprocess.run(
        [sys.executable, "-m", "mcurl", *words, "--set", *SMALL],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), *sys.path]), "PYTHONIOENCODING": "ascii"},
        capture_output=True,
        check=False,
    )
    output = process.stdout.decode("ascii")
    assert process.returncode == 0, (output, process.stderr)
    for seed in (1, 2):
        assert f"seed {seed} | simulator " in output
        assert f"seed {seed} | finished" in output
