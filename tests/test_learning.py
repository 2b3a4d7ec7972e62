"""Agents learn: toy tasks to a stated score, in under two minutes each, with what the command line gives."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from mcurl.config import resolve as config
from mcurl.evaluate import evaluate_run
from mcurl.run.folder import Run
from mcurl.run.logger import make_sinks
from mcurl.training import train


def learn(out: Path, task: str, method: str, *overrides: str, seed: int = 1, agent: str | None = None) -> Run:
    settings = config.resolve(task, method, agent=agent, seed=seed, overrides=overrides)
    with Run.create(out, settings.to_json()) as run:
        train(settings, run, make_sinks(run, None))
    return run


def curve(run: Run) -> dict[int, float]:
    """Mean evaluation return by env steps."""
    rows = np.loadtxt(run.folder / "evaluations.csv", delimiter=",", skiprows=1)
    return {int(step): float(rows[rows[:, 0] == step, 2].mean()) for step in np.unique(rows[:, 0])}


def metric(run: Run, name: str) -> list[float]:
    lines = [json.loads(line) for line in (run.folder / "metrics.jsonl").read_text().splitlines()]
    return [line[name] for line in lines if name in line]


REACH, CATCH = 15.0, 0.5
"""Scores to reach (see envs/toy.py for what random, blind and best policies get)."""


@pytest.mark.parametrize(
    "method", ["mcurl", pytest.param("curl", marks=pytest.mark.slow), pytest.param("rl-only", marks=pytest.mark.slow)]
)
def test_sac_learns_to_reach(tmp_path: Path, method: str) -> None:
    run = learn(tmp_path, "toy/reach", method)
    scores = curve(run)
    assert scores[max(scores)] > REACH > scores[0]
    if method != "rl-only":
        accuracy = metric(run, "contrast/accuracy")
        assert np.mean(accuracy[-5:]) > 2 * accuracy[0]


@pytest.mark.slow
@pytest.mark.parametrize("method", ["rl-only", "curl", "mcurl"])
def test_drqv2_learns_to_reach(tmp_path: Path, method: str) -> None:
    run = learn(tmp_path, "toy/reach", method, agent="drqv2")
    scores = curve(run)
    assert scores[max(scores)] > REACH > scores[0]


@pytest.mark.slow
def test_bf16_learns_as_fp32_does(tmp_path: Path) -> None:
    scores = {p: curve(learn(tmp_path / p, "toy/reach", "mcurl", f"compute.precision={p}")) for p in ("fp32", "bf16")}
    assert all(curve[max(curve)] > REACH for curve in scores.values()), scores


@pytest.mark.parametrize(
    "method", ["mcurl", pytest.param("curl", marks=pytest.mark.slow), pytest.param("rl-only", marks=pytest.mark.slow)]
)
def test_rainbow_learns_to_catch(tmp_path: Path, method: str) -> None:
    run = learn(tmp_path, "toy/catch", method)
    scores = curve(run)
    assert scores[max(scores)] > CATCH > scores[0]
    if method != "rl-only":
        accuracy = metric(run, "contrast/accuracy")
        assert np.mean(accuracy[-5:]) > 2 * accuracy[0]


def test_the_same_seed_gives_the_same_run(tmp_path: Path) -> None:
    small = ("env_steps=500", "checkpoint.every=0", "compute.device=cpu", "compute.threads=1", "evaluation.episodes=2")
    runs = [
        learn(tmp_path / name, "toy/reach", "mcurl", *small, seed=seed) for name, seed in (("a", 1), ("b", 1), ("c", 2))
    ]
    logs = [(run.folder / "metrics.jsonl").read_bytes() for run in runs]
    assert logs[0] == logs[1] != logs[2]


@pytest.mark.parametrize("task", ["toy/reach", "dmc/cartpole-swingup"])
def test_an_update_beside_the_environment_changes_nothing(tmp_path: Path, task: str) -> None:
    small = (
        "env_steps=400",
        "checkpoint.every=0",
        "compute.device=cpu",
        "compute.threads=1",
        "evaluation.episodes=1",
        "evaluation.every=0",
        "sac.learning_starts=20",
        "sac.batch_size=8",
        "sac.hidden=32",
        "sac.filters=4",
    )
    runs = [
        learn(tmp_path / overlap, task, "mcurl", *small, f"compute.overlap={overlap}") for overlap in ("true", "false")
    ]
    checkpoints = [load_file(max((run.folder / "checkpoints").iterdir()) / "state.safetensors") for run in runs]
    assert checkpoints[0].keys() == checkpoints[1].keys()
    assert all(torch.equal(checkpoints[0][name], checkpoints[1][name]) for name in checkpoints[0])


def test_a_trained_run_can_be_evaluated_again(tmp_path: Path) -> None:
    run = learn(tmp_path, "toy/reach", "rl-only", "env_steps=300", "evaluation.episodes=2")
    before = {path: path.read_bytes() for path in run.folder.rglob("*") if path.is_file()}
    returns = evaluate_run(run, 3).returns
    assert len(returns) == 3
    assert returns == evaluate_run(run, 3).returns
    assert list(evaluate_run(run, None).returns) == run.evaluations()[300]
    assert before == {path: path.read_bytes() for path in run.folder.rglob("*") if path.is_file()}
