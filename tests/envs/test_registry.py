"""Names of tasks, and finding the suite that plays them."""

from __future__ import annotations

import dataclasses
import subprocess
import sys

import pytest

from mcurl import envs
from mcurl.envs import dmc, gym, images, toy
from mcurl.errors import UserError


@pytest.mark.parametrize(
    ("name", "parsed"),
    [
        ("dmc/cartpole-swingup", ("dmc", "cartpole-swingup")),
        ("dmc/cartpole_swingup", ("dmc", "cartpole-swingup")),
        ("DMC/Ball-In-Cup-Catch", ("dmc", "ball_in_cup-catch")),
        ("dmc/humanoid_cmu_run", ("dmc", "humanoid_CMU-run")),
        ("toy/Reach", ("toy", "reach")),
        ("gym/cartpole", ("gym", "CartPole-v1")),
        ("gym/cart_pole-v0", ("gym", "CartPole-v0")),
    ],
)
def test_names_are_forgiving(name: str, parsed: tuple[str, str]) -> None:
    assert envs.parse_task(name) == parsed


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("cartpole-swingup", "did you mean dmc/cartpole-swingup?"),
        ("reach", "did you mean toy/reach?"),
        ("nonsense", "the suites are dmc, atari, toy, gym"),
        ("dcm/cartpole-swingup", "did you mean dmc?"),
        ("dmc/cartpole-swingpu", "did you mean cartpole-swingup?"),
        ("toy/catches", "did you mean catch?"),
        ("gym/CartPool-v1", "did you mean CartPole-v1?"),
        ("gym/no_such_module_here:Env-v0", "cannot import no_such_module_here"),
    ],
)
def test_unknown_names_say_what_was_meant(name: str, says: str) -> None:
    with pytest.raises(UserError) as raised:
        envs.parse_task(name)
    assert says in str(raised.value)
    assert "\n" not in str(raised.value)


def test_no_two_dmc_tasks_read_alike() -> None:
    assert len({dmc._plain(task) for task in dmc.tasks()}) == len(dmc.tasks())


def test_every_task_of_the_suite_is_offered() -> None:
    suite = dmc._import_dm_control(rendering=False)
    assert sorted(dmc.tasks()) == sorted(f"{domain}-{task}" for domain, task in suite.ALL_TASKS)


@pytest.mark.parametrize("suite", ["dmc", "toy", "gym"])
def test_settings_are_frozen_and_begin_with_the_task(suite: str) -> None:
    settings = envs.settings_class(suite)()
    assert dataclasses.fields(settings)[0].name == "task"
    with pytest.raises(dataclasses.FrozenInstanceError):
        settings.task = "another"


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: dmc.DmcSettings(action_repeat=0), "action_repeat must be at least 1, not 0"),
        (lambda: dmc.DmcSettings(shadows="256"), "shadows must be one of full, 1024, 512, off, not '256'"),
        (lambda: toy.ToySettings(observation="states"), "observation must be one of pixels, state"),
        (lambda: toy.ToySettings(image_size=7), "image_size must be at least 14"),
        (lambda: gym.GymSettings(frame_stack=0), "frame_stack must be at least 1"),
    ],
)
def test_settings_are_checked(make: object, says: str) -> None:
    with pytest.raises(UserError, match=says):
        make()  # type: ignore[operator]


def test_what_are_no_settings_is_refused() -> None:
    with pytest.raises(TypeError):
        envs.make_env({"task": "reach"}, 0)


def test_a_missing_library_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "dm_control", None)
    with pytest.raises(UserError, match=r"pip install 'mcurl\[dmc\]'"):
        envs.make_env(dmc.DmcSettings(observation="state"), 0)
    monkeypatch.setitem(sys.modules, "cv2", None)
    images._cv2.cache_clear()
    with pytest.raises(UserError, match=r"pip install 'mcurl\[gym\]'"):
        images._cv2()


def test_names_and_settings_need_no_library() -> None:
    code = "import sys; from mcurl import envs; envs.parse_task('dmc/walker-walk'); envs.settings_class('dmc')(); " + (
        "assert not {'dm_control', 'mujoco', 'cv2', 'ale_py', 'torch'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_suite_lists_what_it_resolves() -> None:
    for module in (dmc, toy, gym):
        assert all(module.resolve(task) == task for task in module.tasks())
