"""Numbers that are not finite never reach a checkpoint, a simulator or a score, and the last good checkpoint stays."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from mcurl.agents.base import nonfinite
from mcurl.agents.rainbow import Rainbow
from mcurl.agents.sac import SAC
from mcurl.cli import main
from mcurl.envs.toy import ReachEnv
from mcurl.run.checkpoint import load_tree
from mcurl.run.folder import Run

COMMON = [
    *("env.image_size=28", "replay.capacity=500", "evaluation.episodes=1", "evaluation.every=0", "checkpoint.every=20"),
    *("compute.device=cpu", "compute.threads=1"),
]
AGENTS: dict[str, tuple[str, type[Any], list[str]]] = {
    "sac": ("toy/reach", SAC, ["sac.crop=24", "sac.batch_size=8", "sac.hidden=16", "sac.filters=2"]),
    "rainbow": ("toy/catch", Rainbow, ["rainbow.batch_size=8", "rainbow.hidden=16"]),
}


def train(agent: str, out: Path, capsys: pytest.CaptureFixture[str], steps: int = 70) -> tuple[int, str, Run]:
    """Train with the first update after 30 steps. Returns exit status, the last line of errors, and the run."""
    task, _, values = AGENTS[agent]
    line = ["train", task, "--method", "rl-only", "--name", "x", "--out", str(out), "--env-steps", str(steps), "--set"]
    status = main([*line, *COMMON, *values, f"{agent}.learning_starts=30"])
    error = capsys.readouterr().err.strip().splitlines()
    return status, error[-1] if error else "", Run(out / task.replace("/", "-") / "x-seed1")


def poison(monkeypatch: pytest.MonkeyPatch, cls: type[Any], update: int, value: float) -> None:
    """After this update, the optimizer's state or a weight of the agent has a number that is not finite."""
    original = cls.update

    def broken(self: Any, batch: Any, clock: Any) -> Any:
        result = original(self, batch, clock)
        if clock.updates + 1 == update:
            network = self.critic if cls is SAC else self.online
            with torch.no_grad():
                next(iter(network.parameters())).view(-1)[0] = value
        return result

    monkeypatch.setattr(cls, "update", broken)


@pytest.mark.parametrize("agent", AGENTS)
@pytest.mark.parametrize("update", [1, 12, 39])
@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_broken_agent_is_never_saved_and_the_last_good_checkpoint_is_named(
    agent: str,
    update: int,
    value: float,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    poison(monkeypatch, AGENTS[agent][1], update, value)
    status, error, run = train(agent, tmp_path, capsys)
    assert status == 2
    assert "training diverged: " in error
    checkpoints = run.checkpoints()
    assert checkpoints
    assert f"the last good checkpoint is {checkpoints[-1].folder}" in error
    assert [list(nonfinite(checkpoint.load()["agent"])) for checkpoint in checkpoints] == [[]] * len(checkpoints)
    assert not any(checkpoint.final for checkpoint in checkpoints)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("step", [45, 69])
def test_a_reward_that_is_not_finite_is_refused_where_it_enters(
    value: float, step: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    break_rewards(monkeypatch, ReachEnv, 25 + step, value)  # 25 steps of the evaluation at the start
    status, error, run = train("sac", tmp_path, capsys)
    assert status == 2
    where = f"step {(step - 1) % 25 + 1} of an episode, at {step - 1} env steps,"
    assert error.startswith(f"mcurl: toy/reach: {where} returned the reward {value}, which is not finite")
    assert run.latest_checkpoint().env_steps == step - 1  # all that was learned up to there
    rewards = run.latest_checkpoint().load()["clock"]["episode_return"]
    assert math.isfinite(rewards)


def test_a_reward_of_an_evaluation_is_checked_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    break_rewards(monkeypatch, ReachEnv, 25 + 70 + 3, math.nan)
    status, error, run = train("sac", tmp_path, capsys)
    assert status == 2
    assert "returned the reward nan, not a finite number: step 3 of episode 0 of an evaluation" in error
    assert set(run.evaluations()) == {0}


def test_states_that_are_not_finite_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    look, calls = ReachEnv._state, iter(range(10**6))
    monkeypatch.setattr(ReachEnv, "_state", lambda self: look(self) * (math.nan if next(calls) == 60 else 1))
    line = ["train", "toy/reach", "--method", "sac-state", "--out", str(tmp_path), "--env-steps", "70", "--set"]
    status = main([*line, *COMMON[1:], "sac.batch_size=8", "sac.hidden=16", "sac.learning_starts=30"])
    assert status == 2
    assert "returned an observation with numbers that are not finite" in capsys.readouterr().err


def test_no_action_that_is_not_finite_reaches_the_simulator(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    act, seen = SAC.act, []

    def broken(self: Any, observations: np.ndarray, **options: Any) -> np.ndarray:
        action = act(self, observations, **options)
        return action * math.nan if options["explore"] and options["clock"].agent_steps == 50 else action

    advance = ReachEnv._advance

    def watch(self: ReachEnv, action: Any) -> Any:
        seen.append(np.isfinite(action).all())
        return advance(self, action)

    monkeypatch.setattr(SAC, "act", broken)
    monkeypatch.setattr(ReachEnv, "_advance", watch)
    status, error, run = train("sac", tmp_path, capsys)
    assert (status, all(seen)) == (2, True)
    assert "training diverged: an action is not a number at 50 env steps" in error
    assert run.latest_checkpoint().env_steps == 40


def test_a_buffer_that_is_infinite_from_the_start_may_stay_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    state = SAC.state_dict
    monkeypatch.setattr(SAC, "state_dict", lambda self: state(self) | {"mask": torch.tensor([0.0, -math.inf])})
    status, _, run = train("sac", tmp_path, capsys, steps=50)
    assert status == 0
    assert load_tree(run.latest_checkpoint().folder)["agent"]["mask"].tolist() == [0.0, -math.inf]


def test_names_of_what_is_not_finite() -> None:
    state = {
        "a": torch.tensor([1.0, math.nan]),
        "b": [np.array([1.0]), (np.array([math.inf]), torch.tensor([1, 2]))],
        "c": {"d": torch.tensor(-math.inf, dtype=torch.bfloat16), 1: "nan"},
        "e": np.array([1, 2]),
    }
    assert list(nonfinite(state)) == ["a", "b.1.0", "c.d"]


def break_rewards(monkeypatch: pytest.MonkeyPatch, cls: type[Any], step: int, value: float) -> None:
    """The ``step``-th step of all environments of a class gives a reward that is not finite."""
    advance: Callable[..., Any] = cls._advance
    calls = iter(range(1, 10**6))

    def broken(self: Any, action: Any) -> Any:
        reward, terminated, truncated = advance(self, action)
        return value if next(calls) == step else reward, terminated, truncated

    monkeypatch.setattr(cls, "_advance", broken)
