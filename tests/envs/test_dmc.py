"""DeepMind Control's tasks as Gymnasium environments."""

from __future__ import annotations

import subprocess
import sys
from types import SimpleNamespace
from typing import Any

import dm_env
import gymnasium
import numpy as np
import pytest

from mcurl.envs import CannotSave, dmc, make_env
from mcurl.envs.dmc import DmcSettings
from mcurl.errors import UserError


def state(task: str = "cartpole-swingup", **more: Any) -> DmcSettings:
    return DmcSettings(task, observation="state", **more)


def small(task: str = "cartpole-swingup", **more: Any) -> DmcSettings:
    return DmcSettings(task, **{"image_size": 24, "shadows": "off"} | more)


@pytest.mark.parametrize("settings", [small(), state(), state("quadruped-walk"), state("lqr-lqr_2_1")])
@pytest.mark.filterwarnings("ignore:.*(not having a spec|infinity)")
def test_gymnasium_s_checker(settings: DmcSettings) -> None:
    from gymnasium.utils.env_checker import check_env

    check_env(make_env(settings, seed=0))


def test_attributes() -> None:
    env = make_env(DmcSettings("walker-walk", action_repeat=2, image_size=32, shadows="off"), seed=0)
    assert (env.frame_shape, env.frame_stack, env.action_repeat, env.stack_start) == ((3, 32, 32), 3, 2, "repeat")
    assert env.observation_space == gymnasium.spaces.Box(0, 255, (9, 32, 32), np.uint8)
    assert env.action_space == gymnasium.spaces.Box(-1, 1, (6,), np.float32)
    assert env.metadata["render_fps"] == pytest.approx(20)
    flat = make_env(state("walker-walk"), seed=0)
    assert (flat.frame_shape, flat.frame_stack, flat.reset()[0].dtype) == ((24,), 1, np.float32)


def test_pictures_are_dm_control_s_own() -> None:
    from dm_control import suite

    env = make_env(DmcSettings("walker-walk", image_size=48), seed=5)
    original = suite.load("walker", "walk", task_kwargs={"random": 5})
    original.reset()
    seen, _ = env.reset()
    first = original.physics.render(48, 48, 0).transpose(2, 0, 1)
    assert np.array_equal(seen, np.concatenate([first] * 3))
    for _ in range(4):
        original.step(np.full(6, 0.25))
    seen = env.step(np.full(6, 0.25, np.float32))[0]
    second = original.physics.render(48, 48, 0).transpose(2, 0, 1)
    assert np.array_equal(seen, np.concatenate([first, first, second]))
    assert np.array_equal(env.render().transpose(2, 0, 1), second)
    assert np.array_equal(env.render(480), original.physics.render(480, 480, 0))
    assert env.render(700).shape == (700, 700, 3)
    assert np.array_equal(env.render().transpose(2, 0, 1), second)
    assert not np.array_equal(first, second)


def test_shadows_are_a_choice() -> None:
    seen = {
        shadows: make_env(DmcSettings("finger-spin", image_size=48, shadows=shadows), seed=5).reset()[0]
        for shadows in ("full", "1024", "512", "off")
    }  # type: ignore[arg-type]
    changed = {shadows: float((np.abs(seen["full"].astype(int) - seen[shadows]) > 8).mean()) for shadows in seen}
    assert changed["1024"] < 0.02
    assert changed["512"] < 0.03
    assert changed["off"] > 0.05


def test_rewards_are_summed_over_the_repeat() -> None:
    once, often = (
        make_env(state("finger-turn_easy", action_repeat=1), 2),
        make_env(state("finger-turn_easy", action_repeat=8), 2),
    )
    once.reset()
    often.reset()
    for _ in range(20):
        action = often.action_space.sample()
        seen, total, *_ = often.step(action)
        steps = [once.step(action) for _ in range(8)]
        assert total == sum(step[1] for step in steps)
        assert np.array_equal(seen, steps[-1][0])
        assert type(total) is float


@pytest.mark.parametrize(("repeat", "steps"), [(8, 125), (300, 4)])
def test_the_time_limit_truncates(repeat: int, steps: int) -> None:
    env = make_env(state(action_repeat=repeat), seed=0)
    env.reset()
    flags = [env.step(env.action_space.sample())[2:4] for _ in range(steps)]
    assert flags == [(False, False)] * (steps - 1) + [(False, True)]
    assert env._env._step_count == 1000
    with pytest.raises(gymnasium.error.ResetNeeded):
        env.step(env.action_space.sample())


def test_tasks_without_a_limit_have_one() -> None:
    env = make_env(state("lqr-lqr_6_2", action_repeat=100), seed=0)
    env.reset()
    assert [env.step(np.ones(2))[3] for _ in range(10)] == [False] * 9 + [True]


@pytest.mark.parametrize(("discount", "terminated"), [(0.0, True), (1.0, False)])
def test_termination_is_told_from_truncation(
    monkeypatch: pytest.MonkeyPatch, discount: float, terminated: bool
) -> None:
    env = make_env(state(action_repeat=4), seed=0)
    env.reset()
    steps = iter([dm_env.StepType.MID, dm_env.StepType.LAST])
    monkeypatch.setattr(env._env, "step", lambda _: dm_env.TimeStep(next(steps), 0.5, discount, {"all": np.zeros(5)}))
    _, reward, *flags, _ = env.step(np.zeros(1))
    assert (reward, flags) == (1.0, [terminated, not terminated])


def test_lqr_terminates_at_rest() -> None:
    env = make_env(state("lqr-lqr_2_1"), seed=0)
    env.reset()
    with env._physics.reset_context():
        pass  # at rest, in the middle
    assert env.step(np.zeros(1))[2:4] == (True, False)


def test_actions_reach_the_task_s_bounds() -> None:
    env = make_env(state("quadruped-walk"), seed=0)
    env.reset()
    spec = env._env.action_spec()
    assert not np.array_equal(-spec.minimum, spec.maximum)
    for action, expected in (
        (-1, spec.minimum),
        (1, spec.maximum),
        (0, (spec.minimum + spec.maximum) / 2),
        (5, spec.maximum),
    ):
        env.step(np.full(12, action, np.float32))
        assert np.allclose(env._physics.data.ctrl, expected)


def test_seeds_repeat_and_differ() -> None:
    def two_episodes(env: Any, seed: int | None = None) -> list[list[float]]:
        return [env.reset(seed=seed)[0].tolist(), env.reset()[0].tolist()]

    envs = [make_env(state("reacher-easy"), seed) for seed in (4, 4, 5)]
    first = two_episodes(envs[0])
    assert first == two_episodes(envs[1])
    assert first != two_episodes(envs[2])
    assert first[0] != first[1]
    assert two_episodes(envs[2], seed=4) == first


@pytest.mark.parametrize(("camera", "right"), [(-2, False), (-1, True), (1, True), (2, False)])
def test_cameras(camera: int, right: bool) -> None:
    settings = state(camera=camera)
    if right:
        assert make_env(settings, 0).render().shape == (100, 100, 3)
    else:
        with pytest.raises(UserError, match=r"camera must be from 0 to 1 for cartpole-swingup"):
            make_env(settings, 0)


def test_a_reloaded_model_is_drawn_anew() -> None:
    env = make_env(small(), seed=0)
    env.reset()
    before = env.render()
    from dm_control.suite import acrobot, cartpole

    env._physics.reload_from_xml_string(*acrobot.get_model_and_assets())
    other = env.render()
    env._physics.reload_from_xml_string(*cartpole.get_model_and_assets())
    env.load_state_dict(make_env(small(), seed=0).state_dict())
    assert not np.array_equal(before, other)
    assert not np.array_equal(other, env.render())


def test_a_state_of_another_task_is_refused() -> None:
    env = make_env(small("reacher-easy"), 0)
    for settings in (small("reacher-hard"), state("reacher-easy"), small("reacher-easy", image_size=20)):
        with pytest.raises(UserError, match="the saved state"):
            env.load_state_dict(make_env(settings, 0).state_dict())


def test_attributes_of_tasks_become_leaves() -> None:
    now = {"a": (1, "b"), "c": np.float64(2.5), "d": np.arange(3), "e": {"f": [True, None]}}
    leaves = {name: dmc._to_leaf(value, name) for name, value in now.items()}
    back = {name: dmc._from_leaf(value, now[name]) for name, value in leaves.items()}
    assert leaves["a"] == [1, "b"]
    assert back["a"] == (1, "b")
    assert isinstance(back["c"], np.float64)
    assert back["d"].tolist() == [0, 1, 2]
    assert back["e"] == now["e"]
    with pytest.raises(CannotSave, match="the task's g is a SimpleNamespace"):
        dmc._to_leaf(SimpleNamespace(), "g")


def test_closing_twice_and_at_exit_is_quiet() -> None:
    code = (
        "from mcurl.envs import make_env; from mcurl.envs.dmc import DmcSettings; "
        "envs = [make_env(DmcSettings(image_size=16), 0) for _ in range(2)]; "
        "[env.reset() for env in envs]; envs[0].close(); envs[0].close()"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stderr == ""


def test_states_need_no_opengl() -> None:
    code = (
        "from mcurl.envs import opengl, make_env; from mcurl.envs.dmc import DmcSettings; "
        "opengl._working_backend = lambda: None; "
        + ("make_env(DmcSettings(observation='state'), 0).reset(); make_env(DmcSettings(), 0)")
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, env=_without_opengl()
    )
    assert done.stderr.splitlines()[-1].startswith("mcurl.errors.UserError: MUJOCO_GL=off disables rendering")


def test_an_opengl_that_does_not_load_is_one_line() -> None:
    code = "from mcurl.envs import make_env; from mcurl.envs.dmc import DmcSettings; make_env(DmcSettings(), 0)"
    broken = _without_opengl() | {"MUJOCO_GL": "egl", "MUJOCO_EGL_DEVICE_ID": "31"}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, env=broken)
    assert done.stderr.splitlines()[-1].startswith(
        "mcurl.errors.UserError: MUJOCO_EGL_DEVICE_ID=31 prevents rendering with OpenGL"
    )


def _without_opengl() -> dict[str, str]:
    import os

    return {name: value for name, value in os.environ.items() if name not in ("MUJOCO_GL", "PYOPENGL_PLATFORM")}
