"""Each extra alone: installs it, at its oldest and at its newest versions, and uses what it is for.

    python tests/extras.py [EXTRA ...]

An environment for each, in a temporary folder, with PyTorch from the environment of this program and nothing else of
it. The oldest versions are those of constraints-lowest.txt. pip takes what it needs from the network.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import venv
from collections.abc import Sequence
from importlib.metadata import distribution
from pathlib import Path

from packaging.requirements import Requirement

ROOT = Path(__file__).parents[1]
SMALL = (
    *("--env-steps", "400", "--threads", "1", "--set", "evaluation.episodes=1", "evaluation.final_episodes=1"),
    *("evaluation.every=400", "checkpoint.every=400", "mcurl.length=2", "mcurl.batch=2", "mcurl.layers=1"),
    "replay.capacity=1k",
)
SAC = (*SMALL, "sac.learning_starts=200", "sac.batch_size=4", "sac.hidden=16", "sac.filters=4")
RAINBOW = (*SMALL, "rainbow.learning_starts=200", "rainbow.batch_size=4", "rainbow.hidden=16", "evaluation.parallel=1")
TOY = ("train", "toy/reach", "--name", "x", *SAC, "env.image_size=24", "sac.crop=20", "sac.layers=2")
RUN = "runs/toy-reach/x-seed1"
SUITE = """
title = "One run"
tasks = ["toy/reach"]
seeds = [1]
env_steps = 40

[settings]
evaluation.episodes = 1

[arm.rl-only]
method = "rl-only"
"""
SB3 = """
import mcurl
from mcurl.sb3 import MCurlSAC

settings = {"batch": 4, "length": 4, "layers": 1}
agent = MCurlSAC("CnnPolicy", mcurl.make_env("toy/reach"), objective_settings=settings, learning_starts=60)
agent.learn(64)
"""
TORCHRL = """
import torch
from tensordict import TensorDict
from torchrl.data import LazyTensorStorage, SliceSampler, TensorDictReplayBuffer
from mcurl.torchrl import MCurlLoss

sampler = SliceSampler(slice_len=4, end_key=("next", "done"), strict_length=False, pad_output=True)
buffer = TensorDictReplayBuffer(storage=LazyTensorStorage(12), sampler=sampler, batch_size=16)
done = torch.zeros(12, 1, dtype=torch.bool)
done[[5, 11]] = True
buffer.extend(TensorDict({"pixels": torch.randint(0, 256, (12, 1, 6, 6)).float(), "next": {"done": done}}, [12]))
encoder = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(36, 8))
MCurlLoss(encoder, 8, settings={"length": 4, "batch": 4})(buffer.sample())["loss_mcurl"].backward()
"""
USES: dict[str, list[tuple[str, ...]]] = {
    "": [TOY, ("evaluate", RUN, "--episodes", "1"), ("table", "dmc"), ("settings", "toy/reach"), ("suite", "list")],
    "dmc": [("train", "dmc/cartpole-swingup", *SAC), ("verify", "runs")],
    "atari": [("train", "atari/Krull", *RAINBOW), ("verify", "runs")],
    "gym": [("train", "gym/CartPole-v1", *RAINBOW), ("train", "gym/InvertedPendulum-v5", *SAC)],
    "report": [TOY, ("report", "runs", "--out", "report"), ("report", "runs", "--plot", "plots")],
    "parquet": [TOY, ("report", "runs", "--table", "scores.parquet")],
    "tensorboard": [(*TOY[:2], "--log", "tensorboard", *TOY[2:])],
    "ray": [("suite", "run", "suite.toml", "--on", "ray", "--address", "local")],
    "video": [TOY, ("watch", RUN, "--out", "agent.mp4"), ("evaluate", RUN, "--episodes", "1", "--video", "again.mp4")],
    "sb3": [("-c", SB3)],
    "torchrl": [("-c", TORCHRL)],
    "hub": [TOY, ("export", RUN, "--to", "policy", "--no-video"), ("-c", "import huggingface_hub")],
}
"""Extra -> commands of mcurl, or Python code after ``-c``, that work with it and nothing else. Empty: no extra."""
UNLISTED = {"sb3": ["stable-baselines3==2.9.0"], "torchrl": ["torchrl==0.14.0", "tensordict==0.14.2"]}
"""Oldest versions that are not in constraints-lowest.txt, since they need a later PyTorch than the oldest."""


def _run(words: Sequence[str | Path], folder: Path) -> str:
    """Run a program. Returns what is wrong; empty if nothing is."""
    done = subprocess.run(words, cwd=folder, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=1200)
    return "" if done.returncode == 0 else f"exit status {done.returncode}: {(done.stdout + done.stderr)[-3000:]}"


def _lend_torch(site_packages: Path) -> None:
    """Make PyTorch and what it requires, and nothing else, importable in an environment, and known to its pip."""
    names, found = ["torch"], set()
    while names:
        name = names.pop()
        if name in found:
            continue
        found.add(name)
        package = distribution(name)
        for file in {file.parts[0] for file in package.files or ()} - {"..", "__pycache__"}:
            (site_packages / file).symlink_to(package.locate_file(file))
        needed = [requirement for requirement in package.requires or () if "extra ==" not in requirement]
        names += [each.name for each in map(Requirement, needed) if each.marker is None or each.marker.evaluate()]


def attempt(extra: str, oldest: bool, folder: Path) -> str:
    """Install an extra in a new environment and use it. Returns what is wrong; empty if nothing is."""
    venv.create(folder / "venv", with_pip=True)
    python = folder / "venv/bin/python"
    [site_packages] = folder.glob("venv/lib/python*/site-packages")
    # It comes with the environments of older Pythons, and is among what PyTorch requires.
    subprocess.run(
        [python, "-m", "pip", "uninstall", "--quiet", "--yes", "setuptools"], check=True, capture_output=True
    )
    _lend_torch(site_packages)
    constraints = folder / "constraints.txt"
    lines = (ROOT / "constraints-lowest.txt").read_text().splitlines() if oldest else []
    lines = [line for line in lines if not line.startswith("torch==")] + UNLISTED.get(extra, []) * oldest
    constraints.write_text("\n".join(lines))
    (folder / "suite.toml").write_text(SUITE)
    install = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--constraint", constraints]
    if problem := _run([*install, f"{ROOT}[{extra}]" if extra else ROOT], folder):
        return problem
    for words in USES[extra]:
        command = [python, *words] if words[0] == "-c" else [python, "-m", "mcurl", *words]
        if problem := _run(command, folder):
            return f"{' '.join(words)[:200]}: {problem}"
    return ""


def main() -> int:
    """Try what the command line names. Returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("extras", nargs="*", metavar="EXTRA", help=f"{', '.join(filter(None, USES))}; default all")
    arguments = parser.parse_args()
    if unknown := set(arguments.extras) - USES.keys():
        parser.error(f"unknown extra {min(unknown)}")
    bad = 0
    for extra in arguments.extras or USES:
        for oldest in (True, False):
            with tempfile.TemporaryDirectory() as folder:
                problem = attempt(extra, oldest, Path(folder))
            bad += bool(problem)
            print(f"{extra or '(none)'}, {'oldest' if oldest else 'newest'}: {problem or 'works'}", flush=True)
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
