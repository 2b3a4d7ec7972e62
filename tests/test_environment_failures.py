"""What environments of other people do to a run: one line, exit status 2, and the run saved up to there."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import pytest

import mcurl
from mcurl import cli

ENVS = """
import os, random, signal, gymnasium, numpy as np

class Square(gymnasium.Env):
    length, bad = 10, None
    def __init__(self, discrete=False):
        self.observation_space = gymnasium.spaces.Box(0, 255, (28, 28, 3), np.uint8)
        self.action_space = gymnasium.spaces.Discrete(2) if discrete else gymnasium.spaces.Box(-1, 1, (1,))
    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.count, self.level = 0, int(self.np_random.integers(200))
        with open("levels", "a") as file:
            file.write(f"{seed is not None} {self.level}\\n")
        return self.see(), {}
    def see(self):
        return np.full((28, 28, 3), self.level + self.count % 20, np.uint8)
    def step(self, action):
        self.count += 1
        return self.see(), self.level / 100, self.count == self.length, False, {}

class Crash(Square):
    total = 0
    def step(self, action):
        Crash.total += 1
        if Crash.total == 75:
            raise RuntimeError("simulator lost\\nits connection")
        return super().step(action)

class Exits(Square):
    def reset(self, **kwargs):
        raise SystemExit(3)

class Signals(Square):
    def __init__(self):
        super().__init__()
        signal.signal(signal.SIGUSR1, lambda *arguments: None)

class Global(Square):
    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.level = int(np.random.randint(100)) + random.randrange(100)
        return self.see(), {}

class SignalsLater(Square):
    def reset(self, **kwargs):
        signal.signal(signal.SIGUSR1, lambda *arguments: None)
        return super().reset(**kwargs)

class SignalsInSteps(Square):
    def step(self, action):
        signal.signal(signal.SIGUSR1, lambda *arguments: None)
        return super().step(action)

class OldStep(Square):
    def step(self, action):
        seen, reward, over, cut, info = super().step(action)
        return seen, reward, over or cut, info

class OldReset(Square):
    def reset(self):
        return super().reset()[0]

class OldResult(Square):
    def reset(self, **kwargs):
        return super().reset(**kwargs)[0]

class TooLarge(Square):
    def step(self, action):
        seen, reward, *rest = super().step(action)
        return seen, 1e39 if self.count == 7 else reward, *rest

class CloseFails(Square):
    def close(self):
        raise RuntimeError("cannot let go")

class CloseFailsToo(CloseFails, Crash):
    pass

class Fails(Square):
    total = 0
    def step(self, action):
        Fails.total += 1
        if os.path.exists("fail") and Fails.total >= int(open("fail").read()):
            raise RuntimeError("lost")
        return super().step(action)
    def state_dict(self):
        return {"count": self.count, "level": self.level, "rng": self.np_random.bit_generator.state}
    def load_state_dict(self, state):
        self.count, self.level = state["count"], state["level"]
        self.np_random.bit_generator.state = state["rng"]

class SavesObjects(Square):
    def state_dict(self):
        return {"rng": object()}
    def load_state_dict(self, state):
        pass

class SavesBadly(SavesObjects):
    def state_dict(self):
        return {}
    def load_state_dict(self, state):
        raise SystemExit("no")

class SavesOnly(Square):
    def state_dict(self):
        return {"count": self.count}

class SavesNothing(SavesObjects):
    def state_dict(self):
        raise RuntimeError("not now")

for cls in [Square, CloseFailsToo, SavesNothing, SavesBadly, *Square.__subclasses__()]:
    gymnasium.register(cls.__name__ + "-v0", cls, max_episode_steps=100)
class Endless(Square):
    length = -1
gymnasium.register("Endless-v0", Endless)
"""
SMALL = [
    *("env.image_size=28", "sac.crop=24", "sac.batch_size=4", "sac.hidden=8", "sac.filters=2"),
    *("sac.learning_starts=30", "sac.feature_dim=8", "replay.capacity=300", "evaluation.every=0"),
    *("evaluation.episodes=1", "checkpoint.every=0"),
]


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Any:
    """Run a command in a folder with ``failing_envs.py``; return its exit status and what it printed."""
    monkeypatch.delitem(__import__("sys").modules, "failing_envs", raising=False)
    (tmp_path / "failing_envs.py").write_text(ENVS)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv(cli.DEBUG, "")

    def call(*words: str) -> tuple[int, str]:
        status = cli.main(words)
        return status, "".join(capfd.readouterr())

    def command(name: str, *words: str, steps: int = 100, out: str = "runs", seed: int = 1) -> tuple[int, str]:
        task = ["train", f"gym/failing_envs:{name}-v0", "--method", "rl-only", "--env-steps", str(steps)]
        return call(*task, "--out", out, "--name", "x", "--seed", str(seed), "--set", *SMALL, *words)

    command.call = call  # type: ignore[attr-defined]
    return command


def test_an_exception_is_one_line_and_the_run_goes_on_from_there(run: Any) -> None:
    status, printed = run("Crash")
    last = printed.strip().splitlines()[-1]
    assert status == 2
    assert last.startswith("mcurl: gym/failing_envs:Crash-v0: step ")
    assert "raised RuntimeError: simulator lost its connection (failing_envs.py, line 26)" in last
    assert "Traceback" not in printed
    folder = "runs/gym-failing_envs-Crash-v0/x-seed1"
    # Ten of the 75 steps were the evaluation's; the 75th is not kept.
    assert "the latest checkpoint is at 64 env steps; resume with: mcurl resume" in printed
    status, printed = run.call("resume", folder)
    assert status == 0
    assert "resume is not exact" in printed


def test_a_failure_right_after_a_checkpoint_does_not_replace_it(run: Any) -> None:
    Path("fail").write_text("35")  # ten steps of the first evaluation, and the 25th of training
    assert run("Fails", "checkpoint.every=24", steps=60)[0] == 2
    Path("fail").unlink()
    folder = Path("runs/gym-failing_envs-Fails-v0/x-seed1")
    status, printed = run.call("resume", str(folder))
    assert status == 0
    assert "resumed at 24 env steps" in printed
    assert "not exact" not in printed
    assert run("Fails", "checkpoint.every=24", steps=60, out="undisturbed")[0] == 0
    policy = "checkpoints/000000060/policy/state.safetensors"
    assert (folder / policy).read_bytes() == Path("undisturbed", *folder.parts[1:], policy).read_bytes()


def test_a_failure_right_after_an_extension_leaves_the_final_checkpoint(run: Any) -> None:
    assert run("Fails", steps=40)[0] == 0
    folder = Path("runs/gym-failing_envs-Fails-v0/x-seed1")
    before = {path: path.read_bytes() for path in sorted((folder / "checkpoints").rglob("*")) if path.is_file()}
    assert any(path.parent.name == "policy" for path in before)
    Path("fail").write_text("0")
    assert run.call("resume", str(folder), "--env-steps", "80")[0] == 2
    assert {path: path.read_bytes() for path in sorted((folder / "checkpoints").rglob("*")) if path.is_file()} == before
    Path("fail").unlink()
    assert run.call("resume", str(folder))[0] == 0
    assert (folder / "checkpoints/000000080/policy").is_dir()


def test_a_reward_that_single_precision_does_not_hold_is_not_stored(run: Any) -> None:
    status, printed = run("TooLarge")
    assert status == 2
    what = "returned the reward 1e+39, which is, in single precision, not finite"
    assert printed.strip().splitlines()[-1].endswith(f"step 7 of an episode, at 6 env steps, {what}")


def test_a_failing_close_ends_nothing_and_hides_nothing(run: Any) -> None:
    before = set(threading.enumerate())
    status, printed = run("CloseFails", steps=20)
    assert status == 0
    assert "CloseFails-v0: close() raised RuntimeError: cannot let go" in printed
    assert "finished; evaluate more episodes with" in printed
    folder = "runs/gym-failing_envs-CloseFails-v0/x-seed1"
    assert run.call("evaluate", folder, "--episodes", "1")[0] == 0
    mcurl.load(folder)
    status, printed = run("CloseFailsToo")
    assert status == 2
    assert "raised RuntimeError: simulator lost its connection" in printed.strip().splitlines()[-1]
    assert set(threading.enumerate()) == before


@pytest.mark.parametrize(
    ("name", "saved", "resumed"),
    [
        (
            "SavesObjects",
            "returned what cannot be saved: a object at /simulator/inner/rng cannot be saved",
            "not saved",
        ),
        ("SavesNothing", "raised RuntimeError: not now", "the environment's state was not saved"),
        ("SavesBadly", "", "load_state_dict() raised SystemExit: no"),
        ("SavesOnly", "", "has no load_state_dict()"),
    ],
)
def test_a_state_that_is_not_saved_as_promised_loses_no_run(run: Any, name: str, saved: str, resumed: str) -> None:
    status, printed = run(name, "checkpoint.every=10", steps=25)
    assert status == 0
    assert (
        printed.count(f"{name}-v0: state_dict() {saved}") == printed.count("a resume will not be exact") == bool(saved)
    )
    status, printed = run.call("resume", f"runs/gym-failing_envs-{name}-v0/x-seed1", "--env-steps", "35")
    assert status == 0
    line = next(line for line in printed.splitlines() if "resume is not exact" in line)
    assert resumed in line
    assert "the unfinished episode is truncated" in line


def test_before_the_first_step_nothing_is_left_and_debug_shows_the_traceback(run: Any) -> None:
    status, printed = run("Exits")
    assert (status, Path("runs/gym-failing_envs-Exits-v0/x-seed1").exists()) == (2, False)
    assert "reset() raised SystemExit: 3 (failing_envs.py, line" in printed
    assert "Traceback" not in printed
    status, printed = run("Exits", "--debug")
    assert status == 2
    assert "Traceback" in printed
    assert "raise SystemExit(3)" in printed


@pytest.mark.parametrize("name", ["Signals", "SignalsLater"])
def test_an_environment_of_the_main_thread(run: Any, name: str) -> None:
    status, printed = run(name, steps=50)
    assert status == 0
    assert printed.count("works only in the main thread") == 1


def test_steps_of_the_main_thread_need_a_setting_which_is_named(run: Any) -> None:
    status, printed = run("SignalsInSteps", steps=50)
    assert status == 2
    assert "; compute.overlap=false runs it in the main thread" in printed
    status, printed = run("SignalsInSteps", "compute.overlap=false", steps=50, out="main")
    assert status == 0
    assert "works only in the main thread" not in printed
    words = ["train", "gym/failing_envs:SignalsInSteps-v0", "--method", "rl-only", "--env-steps", "20", "--name", "y"]
    discrete = ["env.kwargs.discrete=true", "env.image_size=28", "evaluation.episodes=1"]
    assert run.call(*words, "--set", *discrete, "compute.overlap=false")[0] == 0  # Rainbow


@pytest.mark.parametrize(
    ("name", "what"),
    [
        ("OldStep", "step() returned 4 values, not 5"),
        ("OldReset", "reset() raised TypeError: OldReset.reset() got an unexpected keyword argument"),
        ("OldResult", "reset() returned ndarray, not 2"),
    ],
)
def test_the_interface_of_old_gym_is_one_line(run: Any, name: str, what: str) -> None:
    status, printed = run(name)
    last = printed.strip().splitlines()[-1]
    assert status == 2
    assert last.startswith(f"mcurl: gym/failing_envs:{name}-v0: {what}")
    assert "Gymnasium's are reset(*, seed=None, options=None) -> (observation, info)" in last
    assert "pip install shimmy" in last
    assert "Traceback" not in printed


def test_global_generators_are_seeded_and_evaluation_leaves_them(run: Any) -> None:
    for out, words in (("a", []), ("b", []), ("c", ["evaluation.episodes=2"])):
        assert run("Global", *words, steps=60, out=out)[0] == 0
    logs = [
        [line for line in next(Path(out).rglob("metrics.jsonl")).read_text().splitlines() if "return" in line]
        for out in "abc"
    ]
    assert len(logs[0]) > 4
    assert logs[0] == logs[1] == logs[2]


def test_every_resume_plays_episodes_of_its_own(run: Any) -> None:
    assert run("Square", steps=25)[0] == 0
    folder, begun = "runs/gym-failing_envs-Square-v0/x-seed1", []
    for steps in (45, 65):
        Path("levels").unlink()
        status, printed = run.call("resume", folder, "--env-steps", str(steps))
        assert status == 0
        assert "the next ones have a seed of their own" in printed
        begun.append(Path("levels").read_text().splitlines()[:2])
    assert begun[0] != begun[1]


def test_an_evaluation_of_an_endless_episode_is_cut_off_and_that_is_said(run: Any) -> None:
    status, printed = run("Endless", "env.evaluation_limit=15", steps=40)
    assert status == 0
    assert "has no time limit: evaluations cut off episodes after 15 agent steps" in printed
    assert "1 of 1 episodes had not ended, and were cut off after 15 agent steps" in printed


def test_arguments_from_the_command_line_decide_on_the_agent(run: Any) -> None:
    task = "gym/failing_envs:Square-v0"
    _, printed = run.call("settings", task, "--set", "env.kwargs.discrete=true")
    assert 'kwargs = {"discrete" = true}' in printed
    assert "[rainbow]" in printed
    Path("preset.toml").write_text(printed)
    _, again = run.call("settings", task, "--preset", "preset.toml")
    assert again == printed
    _, printed = run.call("settings", task)
    assert "[sac]" in printed
    status, printed = run.call("settings", task, "--set", "env.kwargs.discret=true")
    assert (status, printed) == (2, f"mcurl: {task} has no argument env.kwargs.discret: did you mean discrete?\n")
