"""The loop, on a scripted game: what is stored, when is learned, which clock drives what."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from helpers import patches

from mcurl import evaluate
from mcurl.agents.base import Clock
from mcurl.agents.rainbow import RANDOM_START, Rainbow
from mcurl.agents.sac import SAC
from mcurl.cli import main
from mcurl.config import resolve as config
from mcurl.envs.stack import FrameStack, StackedEnv
from mcurl.envs.toy import ReachEnv
from mcurl.errors import UserError, settings_argument
from mcurl.run.display import Display
from mcurl.run.folder import Run
from mcurl.run.logger import Logger, make_sinks
from mcurl.training import Trainer
from mcurl.training import trainer as training

LENGTH, REWARDS, LIFE = 11, {3: 5.0, 7: -0.25}, 5
"""Steps of an episode, which a time limit ends; its rewards by step; the step at which a life is lost."""
SMALL = [
    *("evaluation.every=0", "evaluation.episodes=1", "evaluation.final_episodes=1", "checkpoint.every=0"),
    *("compute.device=cpu", "compute.threads=1", "compute.precision=fp32"),
]
RAINBOW = [
    *SMALL,
    "rainbow.learning_starts=16",
    "rainbow.target_every=20",
    "rainbow.n_step=2",
    "rainbow.batch_size=4",
    "rainbow.hidden=8",
]
SAC_ = [*SMALL, "sac.learning_starts=16", "sac.batch_size=4", "sac.hidden=8", "sac.filters=4"]
STEPS = 60


class Scripted(StackedEnv):
    """With the stacks of DMControl's suite if ``continuous``, else with Atari's."""

    def __init__(self, *, continuous: bool = False) -> None:
        super().__init__((1, 28, 28), 2, 4, 10)
        if not continuous:
            self.stack_start = "blank"
            self._stack = FrameStack((1, 28, 28), 2, self.stack_start)
        self.action_space = (
            gymnasium.spaces.Box(-1, 1, (1,), np.float32) if continuous else gymnasium.spaces.Discrete(3)
        )
        self.at = 0

    def _begin(self, seed: int | None) -> None:
        self.at = 0

    def step(self, action: Any) -> Any:
        self.at += 1
        return super().step(action)

    def _advance(self, action: Any) -> tuple[float, bool, bool]:
        return REWARDS.get(self.at, 0.0) / self.action_repeat, False, self.at == LENGTH

    def _look(self) -> np.ndarray:
        return np.full((1, 28, 28), 1 + self.at, np.uint8)

    def _info(self) -> dict[str, Any]:
        return {"life_lost": self.at == LIFE}

    def _save(self) -> dict[str, Any]:
        return {"at": self.at}

    def _load(self, state: dict[str, Any]) -> None:
        self.at = state["at"]


class Watched:
    """A trainer, and what it did: for each update its agent step, the rows written by then, and β; the steps at which
    Rainbow's target was copied, and those at which the agent was asked to explore, with its clock and the updates by
    then."""

    def __init__(
        self, folder: Path, task: str, overrides: list[str], monkeypatch: pytest.MonkeyPatch, every: int = 100
    ) -> None:
        continuous = task == "toy/reach"
        for module in (training, evaluate):
            monkeypatch.setattr(module, "build_env", lambda settings, seed: Scripted(continuous=continuous))
        self.updates: list[tuple[int, int, float]] = []
        self.copies: list[int] = []
        self.explored: list[int] = []
        self.clocks: list[tuple[Clock, int]] = []
        agent_class: Any = SAC if continuous else Rainbow
        real_sample, real_copy, real_act = training.sample_batch, Rainbow.copy_target, agent_class.act

        def sample_batch(replay: Any, *arguments: Any, beta: float) -> Any:
            self.updates.append((self.trainer.agent_steps, replay.written, beta))
            return real_sample(replay, *arguments, beta=beta)

        def copy_target(agent: Rainbow) -> None:
            self.copies.append(self.trainer.agent_steps)
            real_copy(agent)

        def act(agent: Any, stacks: np.ndarray, *, explore: bool, clock: Clock) -> np.ndarray:
            if explore:
                self.explored.append(self.trainer.agent_steps)
                self.clocks.append((clock, len(self.updates)))
            done: np.ndarray = real_act(agent, stacks, explore=explore, clock=clock)
            return done

        monkeypatch.setattr(training, "sample_batch", sample_batch)
        monkeypatch.setattr(Rainbow, "copy_target", copy_target)
        monkeypatch.setattr(agent_class, "act", act)
        settings = config.resolve(task, "rl-only", overrides=[f"env_steps={4 * STEPS}", *overrides])
        with (
            Run.create(folder, settings.to_json()) as run,
            Display(settings.env_steps, task) as display,
            Trainer(settings, run, Logger(make_sinks(run, display), every)) as self.trainer,
        ):
            self.trainer.learn(settings.env_steps)
        lines = map(json.loads, (run.folder / "metrics.jsonl").read_text().splitlines())
        self.returns = [line["episode/return"] for line in lines if "episode/return" in line]


def test_rainbow_stores_clipped_rewards_and_lost_lives(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = Watched(tmp_path, "toy/catch", [*RAINBOW, "rainbow.discount=0.9"], monkeypatch)
    trainer = seen.trainer
    records = trainer.replay.records
    rows = np.arange(LENGTH)
    assert records.column("reward", rows) == pytest.approx([{2: 1.0, 6: -0.25}.get(row, 0.0) for row in rows])
    flags = records.column("flags", rows)
    assert [row for row in rows if flags[row]] == [LIFE - 1]
    # A lost life ends the return, the time limit does not: from its last transition there is something to hope for.
    assert trainer.replay.gather_transitions(
        np.array([LIFE - 2, LIFE - 1, LENGTH - 1])
    ).discount.tolist() == pytest.approx([0, 0, 0.9])
    assert seen.returns == [4.75] * (STEPS // LENGTH)  # of unclipped rewards


@pytest.mark.parametrize(("task", "overrides"), [("toy/reach", SAC_), ("toy/catch", RAINBOW)])
def test_the_replays_first_stack_is_the_first_observation(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, task: str, overrides: list[str]
) -> None:
    stack = Watched(tmp_path, task, overrides, monkeypatch).trainer.replay.gather_stacks(np.array([0]))
    observation = torch.from_numpy(Scripted(continuous=task == "toy/reach").reset()[0])[None]
    assert torch.equal(stack, observation if task == "toy/reach" else patches(observation))


def started(folder: Path, seed: int) -> Trainer:
    """A run after its first steps."""
    settings = config.resolve("toy/reach", "rl-only", seed=seed, overrides=[*SAC_, "env_steps=2"])
    with Run.create(folder, settings.to_json()) as run, Trainer(settings, run, Logger([], 100)) as trainer:
        trainer.learn(settings.env_steps)
    return trainer


def test_the_seed_chooses_the_episodes_and_the_random_actions(tmp_path: Path) -> None:
    replays = [started(tmp_path / str(seed), seed).replay for seed in (1, 2)]
    assert not torch.equal(*(replay.gather_stacks(np.array([0])) for replay in replays))
    first, other = (replay.records.column("action", np.array([0])) for replay in replays)
    assert (first != other).all()


@pytest.mark.parametrize("updates_per_step", [1, 2])
def test_rainbow_learns_after_storing_and_its_clocks_are_agent_steps(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, updates_per_step: int
) -> None:
    overrides = [*RAINBOW, f"rainbow.updates_per_step={updates_per_step}"]
    seen = Watched(tmp_path, "toy/catch", overrides, monkeypatch)
    steps = [step for step, _, _ in seen.updates]
    assert steps == [step for step in range(16, STEPS + 1) for _ in range(updates_per_step)]
    # One row for each step and one for the end of each episode before it: the newest transition is there.
    assert all(written == step + 1 + (step - 1) // LENGTH for step, written, _ in seen.updates)
    assert seen.copies == [20, 40, 60]
    betas = {step: beta for step, _, beta in seen.updates}
    assert [betas[step] for step in (16, 38, STEPS)] == pytest.approx([0.4, 0.7, 1.0])
    clocks = [clock for clock, _ in seen.clocks]
    assert [clock.agent_steps for clock in clocks] == list(range(STEPS))
    assert [clock.env_steps for clock in clocks] == list(range(0, 4 * STEPS, 4))
    assert [clock.updates for clock in clocks] == [updates for _, updates in seen.clocks]
    assert {clock.horizon for clock in clocks} == {4 * STEPS}


def test_rainbow_explores_by_its_noise_from_the_first_step_or_starts_at_random(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert Watched(tmp_path / "noise", "toy/catch", RAINBOW, monkeypatch).explored == list(range(STEPS))
    seen = Watched(tmp_path / "random", "toy/catch", [*RAINBOW, "rainbow.random_start=true"], monkeypatch)
    assert seen.explored == list(range(16, STEPS))
    rows = [row for row in range(16 + 1) if row != LENGTH]  # the row that ends the first episode has no action
    assert set(seen.trainer.replay.records.column("action", np.array(rows[:16])).tolist()) == {0, 1, 2}


def test_priorities_are_the_newest_losses(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    updates: list[tuple[np.ndarray, np.ndarray]] = []
    real = Rainbow.update

    def update(agent: Rainbow, batch: Any, clock: Clock) -> Any:
        done = real(agent, batch, clock)
        assert done.priorities is not None
        updates.append((batch.transitions.rows.numpy(), done.priorities.numpy().copy()))
        return done

    monkeypatch.setattr(Rainbow, "update", update)
    replay = Watched(tmp_path, "toy/catch", RAINBOW, monkeypatch).trainer.replay
    newest: dict[int, float] = {}
    for rows, losses in updates:
        newest |= dict(zip(rows.tolist(), losses.tolist(), strict=True))
    assert replay.priorities is not None
    held = np.array(sorted(newest))
    values = replay.priorities.state_dict()["values"][held - replay.records.oldest]
    expected = np.array([newest[row] for row in held.tolist()]) ** 0.5
    assert values / values.max() == pytest.approx(expected / expected.max(), rel=1e-5)


def test_sac_acts_at_random_then_learns_before_storing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = Watched(tmp_path, "toy/reach", SAC_, monkeypatch)
    assert seen.explored == list(range(16, STEPS))
    assert [step for step, _, _ in seen.updates] == list(range(16, STEPS))
    assert all(
        written == step + 1 + step // LENGTH for step, written, _ in seen.updates
    )  # without the transition under way
    records = seen.trainer.replay.records
    assert records.column("reward", np.arange(3)) == pytest.approx([0, 0, 5])  # SAC's are not clipped
    random_actions = records.column("action", np.arange(LENGTH))
    assert (random_actions < -0.3).any()
    assert (random_actions > 0.3).any()
    assert (abs(random_actions) <= 1).all()


@pytest.mark.parametrize(
    ("task", "overrides", "line"),
    [
        (
            "toy/catch",
            RAINBOW,
            "no reward in the replay after 80 env steps; "
            f"start a new run with {settings_argument(RANDOM_START)} for random actions first",
        ),
        ("toy/catch", [*RAINBOW, "rainbow.random_start=true"], "no reward in the replay after 80 env steps"),
        ("toy/reach", SAC_, "no reward in the replay after 80 env steps"),
    ],
)
def test_no_reward_at_all_is_said_once(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    task: str,
    overrides: list[str],
    line: str,
) -> None:
    def said(folder: str) -> list[str]:
        Watched(tmp_path / folder, task, [*overrides, "evaluation.every=80"], monkeypatch)
        return [text for text in "".join(capsys.readouterr()).splitlines() if "no reward" in text]

    assert said("rewarded") == []
    monkeypatch.setattr(f"{__name__}.REWARDS", {})
    assert said("unrewarded") == [line]


@pytest.mark.parametrize(
    ("task", "overrides"),
    [("toy/reach", [*SAC_, "sac.learning_rate=1e9"]), ("toy/catch", [*RAINBOW, "rainbow.learning_rate=1e9"])],
)
def test_what_is_not_finite_stops_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, task: str, overrides: list[str]
) -> None:
    with pytest.raises(
        UserError, match=r"training diverged: .* at \d+ env steps; is a learning rate too high"
    ) as raised:
        Watched(tmp_path, task, overrides, monkeypatch, every=10)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("task", "method", "repeat", "steps", "updates"),
    [
        ("toy/reach", "sac-state", 1, 20, 0),
        ("toy/reach", "sac-state", 1, 21, 1),
        ("toy/reach", "sac-state", 2, 40, 0),
        ("toy/reach", "sac-state", 2, 41, 1),
        ("toy/catch", "rl-only", 1, 19, 0),
        ("toy/catch", "rl-only", 1, 20, 1),
    ],
)
def test_a_budget_below_the_first_update_is_said_before_and_after(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    task: str,
    method: str,
    repeat: int,
    steps: int,
    updates: int,
) -> None:
    agent = "sac" if task == "toy/reach" else "rainbow"
    small = [f"{agent}.learning_starts=20", f"{agent}.batch_size=8", f"env.action_repeat={repeat}"]
    line = ["train", task, "--method", method, "--out", str(tmp_path), "--name", "x", "--env-steps", str(steps)]
    assert main([*line, "--set", *small, "evaluation.episodes=1", "compute.device=cpu"]) == 0
    printed = capsys.readouterr().out
    first = 20 * repeat + (repeat if agent == "sac" else 0)
    before = f"no update will be made: the first one takes {first} env steps ({agent}.learning_starts=20 agent steps)"
    assert (before in printed, "no update was made" in printed) == (not updates, not updates)
    with Run.open(tmp_path / task.replace("/", "-") / "x-seed1") as run:
        assert run.latest_checkpoint().load()["clock"]["updates"] == updates


@pytest.mark.parametrize(("env_steps", "evaluations"), [(40, 3), (50, 4)])
def test_the_score_is_said_wherever_the_budget_ends(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], env_steps: int, evaluations: int
) -> None:
    """At a multiple of the evaluation's interval, too."""
    line = ["train", "toy/reach", "--method", "rl-only", "--name", "x", "--env-steps", str(env_steps)]
    line += ["--out", str(tmp_path)]
    assert main([*line, "--set", *SAC_, "evaluation.final_episodes=0", "evaluation.every=20"]) == 0
    assert len(Run(tmp_path / "toy-reach/x-seed1").evaluations()) == evaluations
    assert capsys.readouterr().out.count("score ") == 1


def test_a_sequence_fits_into_the_rows_with_complete_stacks(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A full ring has stacks from the frames before its oldest row on: fewer than its capacity."""
    line = ["train", "toy/reach", "--method", "mcurl", "--name", "x", "--env-steps", "200", "--out", str(tmp_path)]
    small = [*SAC_, "mcurl.length=8", "mcurl.batch=2", "mcurl.cross_episodes=true", "env.frame_stack=3"]
    assert main([*line, "--set", *small, "replay.capacity=9"]) == 2
    expected = "sequences of 8 observations do not fit into replay.capacity=9: it must be at least 10"
    assert expected in capsys.readouterr().err
    assert main([*line, "--set", *small, "replay.capacity=10"]) == 0
    assert any("contrast/loss" in values for _, values in Run(tmp_path / "toy-reach/x-seed1").metrics())


def test_a_resume_that_would_be_refused_is_not_advised(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run, step = tmp_path / "toy-reach" / "x-seed1", ReachEnv.step

    def deletes(env: ReachEnv, action: Any) -> Any:
        if (run / "checkpoints" / "000000010").exists():
            shutil.rmtree(run / "replay", ignore_errors=True)
        return step(env, action)

    monkeypatch.setattr(ReachEnv, "step", deletes)
    small = ["checkpoint.every=10", "evaluation.every=0", "evaluation.final_episodes=0", "compute.device=cpu"]
    line = ["train", "toy/reach", "--method", "sac-state", "--out", str(tmp_path), "--name", "x", "--env-steps", "30"]
    assert main([*line, "--set", *small]) == 2
    message = capsys.readouterr().err
    assert "was deleted or cut off by another program" in message
    assert "resume with" not in message
