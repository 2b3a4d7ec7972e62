"""A simulator that diverges: the episode ends there, nothing of that step is stored, and the run goes on."""

from __future__ import annotations

import re
import threading
from asyncio import CancelledError
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mcurl.cli import main
from mcurl.envs import make_env
from mcurl.envs.dmc import DmcSettings
from mcurl.envs.foreign import Diverged, EnvironmentFailure, call
from mcurl.envs.stack import MAX_DIVERGED
from mcurl.envs.toy import ReachEnv, ToySettings
from mcurl.run.folder import Run
from mcurl.training import Trainer

SMALL = [
    *("env.image_size=28", "sac.crop=24", "sac.batch_size=4", "sac.hidden=8", "sac.filters=2", "sac.feature_dim=8"),
    *("sac.learning_starts=30", "replay.capacity=300", "evaluation.every=0", "evaluation.episodes=4"),
    *("compute.device=cpu", "compute.threads=1", "compute.precision=fp32", "checkpoint.every=80", "mcurl.length=4"),
]
BAD_STEP = 7


@pytest.fixture(params=["some", "first", "all"])
def diverging(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """A simulator that diverges in the 7th step of the episodes with the target on the right, in the first step of
    these, or in the first step of all."""
    advance = ReachEnv._advance
    step = BAD_STEP if request.param == "some" else 1

    def broken(self: ReachEnv, action: Any) -> Any:
        outcome = advance(self, action)
        if self._steps == step and (request.param == "all" or self._positions[2] > 0):
            self._positions[:] = 1e30  # must be seen nowhere
            raise Diverged("toy/reach: step() raised PhysicsError")
        return outcome

    monkeypatch.setattr(ReachEnv, "_advance", broken)
    return str(request.param)


def train(out: Path, method: str = "mcurl", *words: str) -> tuple[int, Run]:
    line = ["train", "toy/reach", "--method", method, "--name", "x", "--out", str(out), "--env-steps", "160"]
    return main([*line, "--set", *SMALL, *words]), Run(out / "toy-reach" / "x-seed1")


def test_the_run_goes_on_without_the_bad_frame_and_resumes_exactly(
    diverging: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    stored, append = [], Trainer._store

    def store(self: Trainer, action: Any, outcome: Any) -> bool:
        before = self.replay.written
        over = append(self, action, outcome)
        stored.append((self.replay.written - before, bool(outcome[4].get("diverged")), over))
        return over

    monkeypatch.setattr(Trainer, "_store", store)
    status, run = train(tmp_path)
    printed = "".join(capsys.readouterr())
    if diverging == "all":
        assert status == 2
        assert f"so ended {MAX_DIVERGED} episodes in a row" in printed
        assert "Traceback" not in printed
        return
    assert status == 0
    bad = [over for rows, diverged, over in stored if diverged and rows == 0]
    assert len(bad) > 3
    assert all(bad)
    assert all(rows == 1 for rows, diverged, _ in stored if not diverged)
    assert len(stored) == 160
    assert f"the episode is truncated before that step ({len(bad)} so far)" in printed
    assert "of 4 episodes ended because the simulator diverged" in printed
    whole = contents(run.folder)
    assert main(["resume", str(run.folder), "--checkpoint", "80"]) == 0
    assert contents(run.folder) == whole
    assert "not exact" not in "".join(capsys.readouterr())


def contents(folder: Path) -> dict[str, bytes]:
    """What a resumed run must repeat."""
    last = folder / "checkpoints" / "000000160"
    paths = [folder / "metrics.jsonl", folder / "evaluations.csv", *last.iterdir(), *(folder / "replay").iterdir()]
    return {path.name: path.read_bytes() for path in paths if path.is_file()}


def test_an_agent_learns_from_states_and_rainbow_from_pixels(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from mcurl.envs.toy import CatchEnv

    for cls in (ReachEnv, CatchEnv):
        monkeypatch.setattr(cls, "_advance", sometimes(cls._advance))
    assert main([*line(tmp_path, "toy/reach", "sac-state"), "sac.batch_size=8", "sac.hidden=16", LEARN]) == 0
    assert main([*line(tmp_path, "toy/catch", "mcurl"), "rainbow.learning_starts=40", "rainbow.batch_size=8"]) == 0
    assert capsys.readouterr().out.count("the episode is truncated before that step") > 3


LEARN = "sac.learning_starts=30"


def line(out: Path, task: str, method: str) -> list[str]:
    words = ["train", task, "--method", method, "--out", str(out), "--env-steps", "120", "--set"]
    return [*words, "evaluation.episodes=1", "compute.device=cpu", "compute.threads=1", "replay.capacity=70"]


def sometimes(advance: Any) -> Any:
    """An ``_advance`` that diverges in every 31st call."""
    calls = iter(range(1, 10**6))

    def broken(self: Any, action: Any) -> Any:
        if next(calls) % 31 == 0:
            raise Diverged("step() raised PhysicsError")
        return advance(self, action)

    return broken


@pytest.mark.parametrize("observation", ["pixels", "state"])
def test_the_observation_before_is_returned_with_the_rewards_up_to_there(
    observation: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    advance = ReachEnv._advance

    def broken(self: ReachEnv, action: Any) -> Any:
        if self._steps == 5:
            raise Diverged("x")
        return advance(self, action)

    env = make_env(ToySettings("reach", observation=observation, action_repeat=2), seed=1)
    env.reset()
    env.step(np.zeros(2, np.float32))
    before, whole, *_ = env.step(np.zeros(2, np.float32))
    saved = env.get_wrapper_attr("state_dict")()
    monkeypatch.setattr(ReachEnv, "_advance", broken)
    for _ in range(2):  # also after its state was restored
        seen, half, terminated, truncated, info = env.step(np.zeros(2, np.float32))
        assert np.array_equal(seen, before)
        assert half == pytest.approx(float(whole) / 2)
        assert (terminated, truncated, info["diverged"]) == (False, True, True)
        env = make_env(ToySettings("reach", observation=observation, action_repeat=2), seed=2)
        env.get_wrapper_attr("load_state_dict")(saved)


def test_many_in_a_row_are_an_error_and_a_good_episode_ends_the_row(monkeypatch: pytest.MonkeyPatch) -> None:
    advance, diverges = ReachEnv._advance, [True]

    def broken(self: ReachEnv, action: Any) -> Any:
        if diverges[0]:
            raise Diverged("x")
        return advance(self, action)

    monkeypatch.setattr(ReachEnv, "_advance", broken)
    env = make_env(ToySettings("reach"), seed=1)
    for diverges[0] in [True] * (MAX_DIVERGED - 1) + [False] + [True] * (MAX_DIVERGED - 1):
        env.reset()
        over = False
        while not over:
            *_, over, _ = env.step(np.zeros(2, np.float32))
    env.reset()
    with pytest.raises(EnvironmentFailure, match="x; so ended 5 episodes in a row"):
        env.step(np.zeros(2, np.float32))


def test_a_reset_that_diverges_is_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    begin, failures = ReachEnv._begin, iter([True, True, False])

    def broken(self: ReachEnv, seed: int | None) -> None:
        begin(self, seed)
        if next(failures):
            raise Diverged("x")

    monkeypatch.setattr(ReachEnv, "_begin", broken)
    first, _ = make_env(ToySettings("reach"), seed=1).reset()
    assert first.any()
    assert next(failures, None) is None


def test_dm_control_s_physics_error() -> None:
    env: Any = make_env(DmcSettings("cartpole-swingup", observation="state"), seed=1)
    before, _ = env.reset()
    env.load_physics_state(np.where(np.arange(len(env.physics_state())) > 0, 1e30, 0.0))
    seen, _, terminated, truncated, info = env.step(np.zeros(1, np.float32))
    assert np.array_equal(seen, before)
    assert (terminated, truncated, info["diverged"]) == (False, True, True)
    assert "dmc/cartpole-swingup: step() raised PhysicsError" in env.notes[0]
    assert np.isfinite(env.reset()[0]).all()
    assert np.isfinite(env.step(np.zeros(1, np.float32))[0]).all()


def test_other_exceptions_are_failures() -> None:
    class PhysicsError(RuntimeError):
        pass

    class WorseError(PhysicsError):
        pass

    def fail(error: Exception) -> None:
        raise error

    for error, kind in ((PhysicsError(), Diverged), (WorseError(), Diverged), (RuntimeError("x"), EnvironmentFailure)):
        with pytest.raises(kind) as caught:
            call("name", "step()", fail, error)
        assert type(caught.value) is kind


class Unspeakable(Exception):  # noqa: N818 - of a user
    def __str__(self) -> str:
        raise ValueError("no text")


class Unforeseen(BaseException):
    pass


@pytest.mark.parametrize(
    ("error", "text"),
    [
        *((error, type(error).__name__) for error in (GeneratorExit(), CancelledError(), Unforeseen(), Unspeakable())),
        (SystemExit(3), "SystemExit: 3"),
        (MemoryError("x\ny"), "MemoryError: x y"),
        (KeyboardInterrupt(), "KeyboardInterrupt"),  # Ctrl-C arrives in the main thread
    ],
)
def test_whatever_an_environment_raises_is_one_line(error: BaseException, text: str) -> None:
    def fail() -> None:
        raise error

    caught: list[BaseException] = []

    def step() -> None:
        try:
            call("gym/x", "step 3", fail, hint=lambda error: "")
        except BaseException as failure:
            caught.append(failure)

    thread = threading.Thread(target=step)
    thread.start()
    thread.join()
    assert type(caught[0]) is EnvironmentFailure
    assert re.fullmatch(rf"gym/x: step 3 raised {text} \(test_divergence.py, line \d+\)", str(caught[0]))


def test_ctrl_c_in_an_environment_of_the_main_thread_is_the_user_s() -> None:
    def interrupted() -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        call("gym/x", "step 3", interrupted)
