"""Recorded episodes come out again, in every suite; whatever was changed in a recording is found."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers_verify import record

from mcurl.errors import UserError
from mcurl.recording import STATE_INTERVAL, Recording
from mcurl.verify import replay
from mcurl.verify.replay import Mismatch, play
from mcurl.verify.scores import RecordedScore, load


def verify(recording: Recording, *modules: str) -> float:
    """Check seeds and play all environments; the largest deviation."""
    return max(play(recording, environment, modules).deviation for environment in range(recording.environments))


@pytest.fixture(scope="module")
def catch() -> Recording:
    return record("toy/catch", 5, seed=9)


@pytest.fixture(scope="module")
def pendulum() -> Recording:
    pytest.importorskip("dm_control")
    return record("dmc/pendulum-swingup", 2, observation="state", action_repeat=4)


@pytest.mark.parametrize("observation", ["pixels", "state"])
@pytest.mark.parametrize("task", ["toy/reach", "toy/catch"])
def test_toy_games_come_out(task: str, observation: str) -> None:
    recording = record(task, 5, observation=observation)
    assert verify(recording) == 0
    outcome = play(recording, 1)
    assert outcome.returns == {1: recording.returns[1], 3: recording.returns[3]}


@pytest.mark.parametrize(
    "task",
    ["cartpole-swingup", "walker-walk", "reacher-hard", "fish-swim", "lqr-lqr_2_1"],
)
def test_control_tasks_come_out(task: str) -> None:
    pytest.importorskip("dm_control")
    recording = record(f"dmc/{task}", 3, observation="state", action_repeat=10)
    assert recording.states is not None
    assert len(recording.states) == sum((length - 1) // STATE_INTERVAL for length in recording.lengths)
    assert verify(recording) == 0


def test_a_control_task_from_pixels_comes_out_without_rendering(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("dm_control")
    from mcurl.envs.dmc import DmcEnv

    recording = record("dmc/cartpole-swingup", 1, action_repeat=20)
    assert recording.env["observation"] == "pixels"
    monkeypatch.delattr(DmcEnv, "_image")
    assert verify(recording) == 0


@pytest.mark.parametrize(
    ("games", "options"),
    [
        (10, {}),
        (10, {"sticky": 0.25, "resize": "max-then-area", "full_action_set": True}),
        pytest.param(100, {}, marks=pytest.mark.slow),
    ],
)
def test_atari_games_come_out(games: int, options: dict[str, Any]) -> None:
    pytest.importorskip("ale_py")
    recording = record("atari/Breakout", games, parallel=10, max_frames=160, **options)
    assert len(set(recording.returns)) > 1
    assert verify(recording) == 0


def test_an_atari_game_with_another_action_does_not_come_out() -> None:
    pytest.importorskip("ale_py")
    recording = record("atari/Boxing", 2, max_frames=1500)
    actions = recording.actions.copy()
    actions[10:] = (actions[10:] + 5) % 18
    with pytest.raises(Mismatch, match="the return is"):
        verify(replace(recording, actions=actions))


@pytest.mark.parametrize("task", ["CartPole-v1", "Pendulum-v1"])
def test_gymnasium_environments_come_out(task: str) -> None:
    pytest.importorskip("pygame")
    pytest.importorskip("cv2")
    assert verify(record(f"gym/{task}", 1 if task == "Pendulum-v1" else 3, image_size=32)) == 0


def test_code_of_a_module_runs_only_if_the_user_names_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("cv2")
    (tmp_path / "hostile.py").write_text(
        "import gymnasium\nfrom pathlib import Path\nPath('ran').touch()\n"
        "gymnasium.register('Hostile-v0', entry_point='gymnasium.envs.classic_control:CartPoleEnv')\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    recording = record("gym/CartPole-v1", 1, image_size=16)
    other = replace(recording, task="gym/hostile:Hostile-v0", env={**recording.env, "task": "hostile:Hostile-v0"})
    with pytest.raises(UserError, match="--import hostile"):
        verify(other)
    assert not Path("ran").exists()


# What was changed


def load_from(path: Path, recording: Recording) -> Recording:
    (path / "a.episodes").write_bytes(recording.to_bytes())
    return load(RecordedScore("a", path / "a.episodes"))


def change(values: Any, index: int, value: Any) -> Any:
    return (*values[:index], value, *values[index + 1 :])


CHANGES: dict[str, Callable[[Recording], dict[str, Any]]] = {
    "return": lambda r: {"returns": change(r.returns, 3, r.returns[3] + 2)},
    "length": lambda r: {"lengths": change(change(r.lengths, 0, r.lengths[0] + 1), 1, r.lengths[1] - 1)},
    "action": lambda r: {"actions": np.ones_like(r.actions)},
    "seed of an episode": lambda r: {"seeds": change(r.seeds, 2, r.seeds[2] + 1)},
    "seed of the run": lambda r: {"seed": 2},
    "env steps": lambda r: {"env_steps": 1},
    "games cut short": lambda r: {
        "max_episode_steps": 3,
        "lengths": (3,) * r.episodes,
        "returns": (0.0,) * r.episodes,
        "actions": np.concatenate([r.episode_actions(episode)[:3] for episode in range(r.episodes)]),
    },
    "invalid action": lambda r: {"actions": r.actions + 1},
    "shape of actions": lambda r: {"actions": r.actions[:, None]},
}


@pytest.mark.parametrize("what", CHANGES)
def test_a_change_with_a_right_checksum_is_found(tmp_path: Path, catch: Recording, what: str) -> None:
    assert verify(load_from(tmp_path, catch)) == 0
    with pytest.raises(Mismatch) as error:
        verify(load_from(tmp_path, replace(catch, **CHANGES[what](catch))))
    assert "\n" not in str(error.value)


def test_other_seeds_with_their_own_returns_are_found(tmp_path: Path) -> None:
    """Somebody plays with seeds of their own choice: the episodes come out, but the seeds do not follow."""
    other = replace(record("toy/catch", 3, seed=8), seed=1)
    assert verify(other) == 0
    with pytest.raises(Mismatch, match="follows from the run's seed"):
        load_from(tmp_path, other)


def test_an_action_that_is_not_finite_is_found(pendulum: Recording) -> None:
    """The environment would refuse it, in words of Gymnasium's."""
    actions = pendulum.actions.copy()
    actions[3] = np.nan
    with pytest.raises(Mismatch, match="a recorded action is not finite"):
        verify(replace(pendulum, actions=actions))


def test_a_state_that_differs_by_rounding_is_found_on_the_same_build(pendulum: Recording) -> None:
    assert pendulum.states is not None
    assert verify(pendulum) == 0
    states = pendulum.states.copy()
    states[3, 1] = np.nextafter(states[3, 1], 9)
    with pytest.raises(Mismatch, match="state"):
        verify(replace(pendulum, states=states))


def test_another_build_may_differ_by_the_tolerance(pendulum: Recording) -> None:
    assert pendulum.states is not None
    noise = 1e-7 * np.random.default_rng(0).normal(size=pendulum.states.shape)
    other = replace(pendulum, states=pendulum.states + noise, build={**pendulum.build, "mujoco": "3.0.0"})
    assert 1e-9 < verify(other) < 1e-5
    with pytest.raises(Mismatch, match=r"recorded with mujoco 3\.0\.0, here"):
        verify(replace(other, states=pendulum.states + 1e6 * noise))
    with pytest.raises(Mismatch, match="the return is"):
        verify(replace(other, returns=(pendulum.returns[0] + 1, *pendulum.returns[1:])))
    assert verify(replace(pendulum, build=other.build)) == 0


def test_playing_goes_on_from_the_recorded_states(pendulum: Recording, monkeypatch: pytest.MonkeyPatch) -> None:
    """The restored state is exact: with the whole state, nothing that follows changes."""
    from mcurl.envs.dmc import DmcEnv

    loaded = []
    load_state = DmcEnv.load_physics_state
    monkeypatch.setattr(DmcEnv, "load_physics_state", lambda env, state: (loaded.append(0), load_state(env, state)))
    monkeypatch.setattr(np, "array_equal", lambda a, b: False)
    monkeypatch.setattr(replay, "differences", lambda recording: ["another build"])
    assert pendulum.states is not None
    assert verify(pendulum) == 0
    assert len(loaded) == len(pendulum.states)


@pytest.mark.parametrize(
    ("env", "message"),
    [
        ({"max_noops": 10**15}, "at most"),
        ({"frame_skip": 10**9}, "at most"),
        ({"image_size": 10**6}, "at most"),
        ({"frame_skip": "many"}, "whole number"),
        ({"frame_skip": -1}, "at least"),
        ({"colour": 1}, "unknown setting env.colour"),
        ({"task": "Pong"}, "but its settings of Pong"),
    ],
)
def test_settings_that_would_take_for_ever_or_mean_nothing_are_refused(env: dict[str, Any], message: str) -> None:
    pytest.importorskip("ale_py")
    recording = record("toy/catch", 1)
    settings = {"task": "Breakout", **env}
    with pytest.raises(UserError, match=message):
        verify(replace(recording, task="atari/Breakout", env=settings))
    with pytest.raises(UserError, match="unknown suite"):
        verify(replace(recording, task="chess/Blitz"))
