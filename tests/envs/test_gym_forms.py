"""Images, actions and arguments of Gymnasium environments in the forms that people use."""

from __future__ import annotations

import re
from collections.abc import Iterator
from fractions import Fraction
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium.spaces import Box, Dict, Discrete, MultiBinary, MultiDiscrete, Tuple

from mcurl.envs import make_env, threaded
from mcurl.envs.gym import GymSettings, action_space, release
from mcurl.errors import UserError

PICTURE = (40 * np.arange(3, dtype=np.uint8) + np.arange(30, dtype=np.uint8)[:, None, None]).repeat(30, axis=1)
"""``uint8 [30, 30, 3]``: a gradient, with another offset in each colour."""


class Shown(gymnasium.Env[Any, Any]):
    """Shows one observation; remembers its actions and arguments."""

    metadata: dict[str, Any] = {"render_modes": ["rgb_array"]}  # noqa: RUF012
    made = 0

    def __init__(
        self,
        space: Any = None,
        shown: Any = None,
        actions: Any = None,
        reward: Any = 1.0,
        config: dict[str, Any] | None = None,
        render_mode: str | None = None,
    ) -> None:
        type(self).made += 1
        self.observation_space = space if space is not None else Box(0, 255, (30, 30, 3), np.uint8)
        self.action_space = actions if actions is not None else Discrete(2)
        self.shown, self.reward, self.config, self.render_mode = shown, reward, config, render_mode
        self.over: Any = False
        self.actions: list[Any] = []
        if config and "continuous" in config:
            self.action_space = Box(-1, 1, (2,))

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        super().reset(seed=seed)
        return self._see(), {}

    def step(self, action: Any) -> Any:
        self.actions.append(action)
        return self._see(), self.reward, self.over, False, {}

    def render(self) -> Any:
        return np.full((20, 40, 3), 77, np.uint8)

    def _see(self) -> Any:
        return PICTURE if self.shown is None else self.shown


@pytest.fixture
def shown(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """Register an environment with arguments as ``Shown-v0``."""

    def register(limit: int | None = 1000, **kwargs: Any) -> None:
        spec = gymnasium.envs.registration.EnvSpec("Shown-v0", Shown, kwargs=kwargs, max_episode_steps=limit)
        monkeypatch.setitem(gymnasium.registry, "Shown-v0", spec)

    monkeypatch.setattr(Shown, "made", 0)
    register()
    yield register
    release()


def make(**settings: Any) -> Any:
    return make_env(GymSettings("Shown-v0", **{"image_size": 30, "frame_stack": 1, **settings}), 0)


UNIT = (PICTURE / 255).astype(np.float32)
CHW = PICTURE.transpose(2, 0, 1)
FORMS = {
    "HWC": (Box(0, 255, (30, 30, 3), np.uint8), PICTURE, {}),
    "CHW": (Box(0, 255, (3, 30, 30), np.uint8), CHW, {}),
    "unit": (Box(0, 1, (30, 30, 3), np.float32), UNIT, {}),
    "unit, float64 for float32": (Box(0, 1, (3, 30, 30), np.float32), UNIT.transpose(2, 0, 1).astype(float), {}),
    "integers": (Box(0, 255, (30, 30, 3), np.int64), PICTURE.astype(np.int64), {}),
    "dict": (
        Dict({"image": Box(0, 255, (30, 30, 3), np.uint8), "place": Box(-1, 1, (2,))}),
        {"image": PICTURE, "place": np.zeros(2, np.float32)},
        {},
    ),
    "one of two": (
        Dict({"a": Dict({"b": Box(0, 255, (30, 30, 3), np.uint8)}), "c": Box(0, 255, (30, 30, 3), np.uint8)}),
        {"a": {"b": PICTURE}, "c": 0 * PICTURE},
        {"key": "a.b"},
    ),
    "a dot in a key": (
        Dict({"cam.rgb": Dict({"0": Box(0, 255, (30, 30, 3), np.uint8)}), "cam": Box(0, 255, (30, 30, 3), np.uint8)}),
        {"cam.rgb": {"0": PICTURE}, "cam": 0 * PICTURE},
        {"key": "cam.rgb.0"},
    ),
    "tuple": (Tuple([Discrete(3), Box(0, 255, (3, 30, 30), np.uint8)]), (1, CHW), {}),
    "newest of stacked colour frames": (
        Box(0, 255, (4, 30, 30, 3), np.uint8),
        np.stack([0 * PICTURE, 0 * PICTURE, 0 * PICTURE, PICTURE]),
        {"channels": "newest"},
    ),
    "newest of stacked colour planes": (
        Box(0, 255, (6, 30, 30), np.uint8),
        np.concatenate([0 * CHW, CHW]),
        {"channels": "newest"},
    ),
    "flipped": (Box(0, 255, (30, 30, 3), np.uint8), np.ascontiguousarray(PICTURE[::-1])[::-1], {}),
}


@pytest.mark.parametrize("form", FORMS)
def test_the_same_picture_in_every_form(shown: Any, form: str) -> None:
    space, observation, settings = FORMS[form]
    shown(space=space, shown=observation)
    env = make(**settings)
    assert np.array_equal(env.reset()[0], CHW)
    assert np.array_equal(env.step(0)[0], CHW)
    assert np.array_equal(env.render(), PICTURE)


def test_two_images_with_one_written_path_are_refused(shown: Any) -> None:
    image = Box(0, 255, (30, 30, 3), np.uint8)
    shown(space=Dict({"a.b": image, "a": Dict({"b": image})}), shown={})
    with pytest.raises(UserError, match=r"two observations a\.b, one with dots in its keys: rename one"):
        make()


def test_planes_of_gray(shown: Any) -> None:
    gray = PICTURE[..., 0]
    shown(space=Box(0, 255, (30, 30), np.uint8), shown=gray)
    assert np.array_equal(make().reset()[0], gray[None])
    stack = np.stack([gray, gray + 1, gray + 2, gray + 3])
    shown(space=Box(0, 255, (4, 30, 30), np.uint8), shown=stack)
    env = make()
    assert np.array_equal(env.reset()[0], stack)
    assert any("if they are stacked frames, env.channels=newest" in note for note in env.notes)
    assert np.array_equal(make(channels="newest").reset()[0], stack[-1:])
    shown(space=Box(0, 255, (6, 30, 30), np.uint8), shown=np.concatenate([stack, stack[:2]]))
    assert make(image_size=15).reset()[0].shape == (6, 15, 15)
    shown(space=Box(0, 1, (10, 10, 4), np.bool_), shown=np.ones((10, 10, 4), np.bool_))
    assert np.unique(make().reset()[0]).tolist() == [255]


def test_which_image(shown: Any) -> None:
    two = Dict({name: Box(0, 255, (30, 30, 3), np.uint8) for name in ("front", "back")} | {"place": Box(-1, 1, (2,))})
    shown(space=two)
    with pytest.raises(UserError, match=r"several images: choose one with env\.key=\w+ or env\.key=\w+"):
        make()
    with pytest.raises(UserError, match=r"no observation env\.key=frnt: did you mean front\?"):
        make(key="frnt")
    with pytest.raises(UserError, match=r"env\.key=place is .*, which is not an image"):
        make(key="place")
    # Features are no image: they are rendered, and that is said.
    shown(space=Box(-np.inf, np.inf, (5, 5), np.float32), shown=np.zeros((5, 5), np.float32))
    env = make(image_size=20)
    assert np.unique(env.reset()[0]).tolist() == [77]
    assert "gym/Shown-v0: learns from rendered images" in env.notes


@pytest.mark.parametrize(
    ("fit", "columns"),
    [("squeeze", [100, 200]), ("crop", [200]), ("pad", [0, 100, 200])],
)
def test_images_that_are_not_square(shown: Any, fit: str, columns: list[int]) -> None:
    wide = np.full((8, 32, 3), 100, np.uint8)
    wide[:, 12:20] = 200
    shown(space=Box(0, 255, (8, 32, 3), np.uint8), shown=wide)
    env = make(fit=fit, image_size=8)
    frame = env.reset()[0]
    assert np.unique(frame).tolist() == columns
    assert frame[0, 4, 4] == 200
    assert any("8 × 32" in note and f"env.fit={fit}" in note for note in env.notes)
    shown()
    assert make(fit=fit).notes == []


@pytest.mark.parametrize(
    ("space", "first", "last"),
    [
        (MultiDiscrete([2, 3]), [0, 0], [1, 2]),
        (MultiDiscrete([2, 3], start=[5, 1]), [5, 1], [6, 3]),
        (MultiDiscrete([[2, 3], [1, 2]]), [[0, 0], [0, 0]], [[1, 2], [0, 1]]),
        (MultiBinary(3), [0, 0, 0], [1, 1, 1]),
    ],
)
def test_combinations_of_actions(shown: Any, space: Any, first: list[int], last: list[int]) -> None:
    shown(actions=space)
    env = make()
    count = env.action_space.n
    env.reset()
    for action in range(count):
        env.step(action)
    inner = env._env.unwrapped.actions
    assert (inner[0].tolist(), inner[-1].tolist()) == (first, last)
    assert all(space.contains(action) for action in inner)
    assert len({action.tobytes() for action in inner}) == count
    assert any(f"flattened to {count} actions" in note for note in env.notes)


def test_too_many_combinations_and_bounds_that_are_none(shown: Any) -> None:
    shown(actions=MultiBinary(12))
    assert make().action_space.n == 4096
    shown(actions=MultiBinary(13))
    with pytest.raises(UserError, match="8,192 combinations; at most 4,096"):
        make()
    for bound in (np.finfo(np.float32).max, np.finfo(np.float64).max, 1e10, np.inf):
        shown(actions=Box(-bound, bound, (2,), np.float64))
        with pytest.raises(UserError, match="actions without bounds"):
            make()


def test_arguments_reach_the_environment_and_decide_on_its_actions(shown: Any) -> None:
    shown(config={"width": 3, "inner": {"a": 1, "b": 2}})
    env = make(kwargs={"config": {"inner": {"b": 5}, "length": 7}})
    assert env._env.unwrapped.config == {"width": 3, "inner": {"a": 1, "b": 5}, "length": 7}
    with pytest.raises(UserError, match=r"no argument env\.kwargs\.confg: did you mean config\?"):
        make(kwargs={"confg": 1})
    with pytest.raises(UserError, match=r"kwargs\.render_mode cannot be set"):
        make(kwargs={"render_mode": "human"})
    assert isinstance(action_space(GymSettings("Shown-v0")), Discrete)
    assert isinstance(action_space(GymSettings("Shown-v0", kwargs={"config": {"continuous": True}})), Box)


def test_it_is_made_once_for_its_actions_and_for_training(shown: Any) -> None:
    settings = GymSettings("Shown-v0", render=True)
    action_space(settings)
    action_space(settings)
    env = threaded.ThreadedEnv(lambda: make_env(settings, 0))
    assert env.reset()[0].shape == (9, 100, 100)
    assert Shown.made == 1
    env.close()
    # Another one for other arguments.
    action_space(settings)
    threaded.ThreadedEnv(lambda: make_env(GymSettings("Shown-v0", kwargs={"reward": 2.0}), 0)).close()
    assert Shown.made == 3


def test_what_cannot_be_learned_from_is_said(shown: Any) -> None:
    symbols = np.full((7, 7, 3), 10, np.uint8)
    shown(space=Dict({"image": Box(0, 255, (7, 7, 3), np.uint8)}), shown={"image": symbols}, limit=None)
    env = make()
    env.reset()
    text = "\n".join(env.notes)
    assert "observations of 7 × 7 with values up to 10 of 255 look like symbols" in text
    assert "env.render=true" in text
    assert "no time limit: evaluations cut off episodes after 27,000 agent steps (env.evaluation_limit)" in text
    assert "no time limit" not in "".join(make(max_episode_steps=5).notes)
    for picture, word in ((PICTURE, "alike"), (0 * PICTURE, "black")):
        shown(shown=picture)
        env = make()
        env.reset()
        for _ in range(150):
            env.step(0)
        assert env.notes == [f"gym/Shown-v0: the first 100 frames are all {word}; there is nothing to learn from"]


def test_a_limit_of_the_user(shown: Any) -> None:
    shown(limit=None)
    env = make(max_episode_steps=3)
    env.reset()
    assert [env.step(0)[2:4] for _ in range(3)] == [(False, False), (False, False), (False, True)]


@pytest.mark.parametrize(
    ("observation", "says"),
    [
        (UNIT, r"observation of float32 \[30, 40, 3\]|float32 \[30, 30, 3\]"),
        (PICTURE[:20], r"uint8 \[20, 30, 3\]"),
        (PICTURE[..., 0], r"uint8 \[30, 30\]"),
        (PICTURE.astype(np.int64), r"int64 \[30, 30, 3\]"),
        (PICTURE.tolist(), "observation of list"),
    ],
)
def test_observations_that_are_not_as_declared(shown: Any, observation: Any, says: str) -> None:
    shown(shown=observation)
    with pytest.raises(UserError, match=f"gym/Shown-v0: reset.*{says}.*, but its space declares uint8.*30, 30, 3"):
        make().reset()


def test_floats_that_are_not_as_declared(shown: Any) -> None:
    space = Box(0, 1, (30, 30, 3), np.float32)
    shown(space=space, shown=np.full((30, 30, 3), np.nan, np.float32))
    with pytest.raises(UserError, match="values that are not finite, but its space declares float32"):
        make().reset()
    shown(space=space, shown=PICTURE.astype(np.float32))
    with pytest.raises(UserError, match=r"values from 0 to 109, but its space declares .* from 0 to 1"):
        make().reset()
    shown(space=Dict({"image": space}), shown={"picture": UNIT})
    with pytest.raises(UserError, match="without 'image', which its space declares"):
        make().reset()


@pytest.mark.parametrize("reward", [float("nan"), float("inf"), "1.0", None, np.zeros(2), 1j, 10**400])
def test_rewards_that_are_no_numbers(shown: Any, reward: Any) -> None:
    shown(reward=reward)
    env = make()
    env.reset()
    with pytest.raises(UserError, match=r"step 1 of an episode returned the reward .*, which is not a finite number"):
        env.step(0)


@pytest.mark.parametrize("reward", [1, True, np.float32(1), np.array([1.0]), np.array(1), np.int64(1), Fraction(1)])
def test_rewards_that_are_numbers(shown: Any, reward: Any) -> None:
    shown(reward=reward)
    env = make()
    env.reset()
    assert env.step(0)[1] == 1.0


class Silent:
    def __repr__(self) -> str:
        raise ValueError("no text")


@pytest.mark.parametrize(
    ("over", "says"),
    [
        ("yes", "'yes'"),
        (None, "None"),
        (0.5, "0.5"),
        (2, "2"),
        ("x" * 200, "str"),
        (np.zeros((5, 5)), "ndarray"),
        (10**5000, "int"),
        (np.array([True, False]), r"array\(\[ True, False\]\)"),
        (Silent(), "Silent"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_ends_that_are_neither_true_nor_false(shown: Any, over: Any, says: str) -> None:
    env = make()
    env.reset()
    env.unwrapped._env.over = over
    with pytest.raises(UserError) as error:
        env.step(0)
    text = f"gym/Shown-v0: step 1 of an episode returned terminated={says}, which is neither true nor false"
    assert re.fullmatch(text, str(error.value))


@pytest.mark.parametrize("name", ["observation_space", "action_space"])
def test_a_space_that_cannot_be_read_is_one_line(shown: Any, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    def broken(self: Shown) -> Any:
        raise RuntimeError("not yet")

    monkeypatch.setattr(Shown, name, property(broken, lambda self, space: None), raising=False)
    with pytest.raises(UserError, match=f"^gym/Shown-v0: its {name} raised RuntimeError: not yet"):
        make()
