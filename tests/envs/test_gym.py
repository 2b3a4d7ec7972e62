"""Any Gymnasium environment, seen as pixels."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import gymnasium
import numpy as np
import pytest

from mcurl.envs import CannotSave, gym, make_env, parse_task
from mcurl.envs.gym import GymSettings
from mcurl.errors import UserError


class Tiny(gymnasium.Env[Any, Any]):
    """A gray level that the actions and chance move, shown as a picture of 8 x 12."""

    metadata: dict[str, Any] = {"render_modes": ["rgb_array"], "render_fps": 20}  # noqa: RUF012

    def __init__(
        self, channels: int = 3, actions: Any = None, images: bool = True, render_mode: str | None = None
    ) -> None:
        self.action_space = (
            actions
            if actions is not None
            else gymnasium.spaces.Box(np.array([-2.0, 0.0]), np.array([2.0, 10.0]), dtype=np.float64)
        )
        self.observation_space = (
            gymnasium.spaces.Box(0, 255, (8, 12, channels), np.uint8)
            if images
            else gymnasium.spaces.Box(0, 255, (1,), np.float32)
        )
        self.render_mode = render_mode
        self.images, self.channels, self.level, self.actions = images, channels, 0, []

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        super().reset(seed=seed)
        self.level = int(self.np_random.integers(100))
        return self._see(), {}

    def step(self, action: Any) -> Any:
        self.actions.append(action)
        self.level += int(self.np_random.integers(5))
        return self._see(), 0.5, self.level > 150, False, {}

    def render(self) -> Any:
        return np.full((8, 12, 3), self.level, np.uint8)

    def _see(self) -> Any:
        return np.full((8, 12, self.channels), self.level, np.uint8) if self.images else np.float32([self.level])


class Savable(Tiny):
    def state_dict(self) -> dict[str, Any]:
        return {"level": self.level, "generator": self.np_random.bit_generator.state}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.level = state["level"]
        self.np_random.bit_generator.state = state["generator"]


@pytest.fixture(autouse=True)
def tiny() -> Iterator[None]:
    kinds = {
        "Tiny-v0": (Tiny, {}),
        "TinyRendered-v0": (Tiny, {"images": False}),
        "TinyGray-v0": (Tiny, {"channels": 1}),
        "TinyDiscrete-v0": (Tiny, {"actions": gymnasium.spaces.Discrete(3, start=5)}),
        "TinyUnbounded-v0": (Tiny, {"actions": gymnasium.spaces.Box(-np.inf, np.inf, (2,))}),
        "TinyMany-v0": (Tiny, {"actions": gymnasium.spaces.MultiBinary(20)}),
        "TinyIntegers-v0": (Tiny, {"actions": gymnasium.spaces.Box(0, 3, (2,), np.int64)}),
        "TinySavable-v0": (Savable, {}),
    }
    for name, (entry, kwargs) in kinds.items():
        gymnasium.register(name, entry, kwargs=kwargs, max_episode_steps=10)
    yield
    for name in kinds:
        del gymnasium.registry[name]


@pytest.mark.parametrize("task", ["Tiny-v0", "TinyRendered-v0", "TinyGray-v0", "TinyDiscrete-v0", "TinySavable-v0"])
@pytest.mark.parametrize("grayscale", [False, True])
@pytest.mark.filterwarnings("ignore:.*(not having a spec|infinity)")
def test_gymnasium_s_checker_and_shapes(task: str, grayscale: bool) -> None:
    from gymnasium.utils.env_checker import check_env

    env = make_env(GymSettings(task, image_size=6, grayscale=grayscale, frame_stack=2), seed=0)
    check_env(env)
    channels = 1 if grayscale or task == "TinyGray-v0" else 3
    assert (env.frame_shape, env.frame_stack, env.stack_start) == ((channels, 6, 6), 2, "repeat")
    assert env.reset()[0].shape == (2 * channels, 6, 6)
    assert env.render().shape == (8, 12, 3)


@pytest.mark.parametrize("task", ["Tiny-v0", "TinyRendered-v0", "TinyGray-v0"])
def test_frames_repeats_and_the_time_limit(task: str) -> None:
    env = make_env(GymSettings(task, image_size=6, frame_stack=2, action_repeat=4), seed=3)
    env.reset()
    first = env._env.unwrapped.level
    seen, reward, *flags, _ = env.step(np.zeros(2))
    second = env._env.unwrapped.level
    channels = env.frame_shape[0]
    assert np.unique(seen[:channels]).tolist() == [first]
    assert np.unique(seen[channels:]).tolist() == [second]
    assert (reward, flags) == (2.0, [False, False])
    env.step(np.zeros(2))
    _, reward, *flags, _ = env.step(np.zeros(2))
    assert (reward, flags) == (1.0, [False, True])


def test_actions() -> None:
    env = make_env(GymSettings("Tiny-v0"), 0)
    assert env.action_space == gymnasium.spaces.Box(-1, 1, (2,), np.float32)
    env.reset()
    env.step(np.float32([0.5, 0]))
    assert env._env.unwrapped.actions[0].tolist() == [1, 5]
    discrete = make_env(GymSettings("TinyDiscrete-v0"), 0)
    assert discrete.action_space == gymnasium.spaces.Discrete(3)
    discrete.reset()
    discrete.step(2)
    assert discrete._env.unwrapped.actions == [7]


def test_seeds() -> None:
    first, same, other = (make_env(GymSettings("Tiny-v0"), seed) for seed in (1, 1, 2))
    begun = [[env.reset()[0][0, 0, 0] for _ in range(3)] for env in (first, same, other)]
    assert begun[0] == begun[1] != begun[2]
    assert [other.reset(seed=1)[0][0, 0, 0], other.reset()[0][0, 0, 0]] == begun[0][:2]


@pytest.mark.parametrize("before", [-1, 0, 3])
def test_saved_where_the_environment_says_how(before: int) -> None:
    env, other = make_env(GymSettings("TinySavable-v0"), 1), make_env(GymSettings("TinySavable-v0"), 2)
    other.reset()
    if before >= 0:
        env.reset()
    for _ in range(before):
        env.step(np.zeros(2))
    other.load_state_dict(env.state_dict())
    if before < 0:
        assert np.array_equal(env.reset()[0], other.reset()[0])
    else:
        assert np.array_equal(env.render(), other.render())
    while True:
        (seen, _, *flags, _), (again, _, *flags_again, _) = env.step(np.zeros(2)), other.step(np.zeros(2))
        assert np.array_equal(seen, again)
        assert flags == flags_again
        if any(flags):
            break
    assert np.array_equal(env.reset()[0], other.reset()[0])
    with pytest.raises(CannotSave, match="Tiny-v0 has no state_dict"):
        make_env(GymSettings("Tiny-v0"), 1).state_dict()


@pytest.mark.parametrize(
    ("task", "says"),
    [
        ("TinyUnbounded-v0", "actions without bounds"),
        ("TinyMany-v0", "has actions of MultiBinary"),
        ("TinyIntegers-v0", "only Discrete, MultiDiscrete, MultiBinary and bounded Box"),
        ("Blind-v0", "Blind-v0 has no images"),
        ("Broken-v0", "gym/Broken-v0: its import raised ModuleNotFoundError"),
    ],
)
def test_what_cannot_be_played_is_one_line(task: str, says: str, monkeypatch: pytest.MonkeyPatch) -> None:
    blind = type("Blind", (Tiny,), {"metadata": {"render_modes": []}})
    monkeypatch.setitem(
        gymnasium.registry, "Blind-v0", gymnasium.envs.registration.EnvSpec("Blind-v0", blind, kwargs={"images": False})
    )
    monkeypatch.setitem(
        gymnasium.registry, "Broken-v0", gymnasium.envs.registration.EnvSpec("Broken-v0", "no_such_module_here:Env")
    )
    with pytest.raises(UserError, match=says) as raised:
        make_env(GymSettings(task), 0)
    assert "\n" not in str(raised.value)


OWN = """
import gymnasium, numpy as np

class Own(gymnasium.Env):
    metadata = {"render_modes": ["rgb_array"]}
    action_space = gymnasium.spaces.Discrete(2)
    def __init__(self, shape=(9, 9, 3), level=None, render_mode=None):
        self.observation_space = gymnasium.spaces.Box(0, 255, shape, np.uint8)
    def reset(self, *, seed=None, options=None):
        return self.observation_space.sample(), {}
    def step(self, action):
        return self.observation_space.sample(), 1.0, False, False, {}
    def render(self):
        return np.full((9, 9, 3), 7, np.uint8)

gymnasium.register("Own-v0", Own, max_episode_steps=10)
gymnasium.register("OwnPlanes-v0", Own, kwargs={"shape": (3, 9, 9)})
gymnasium.register("OwnWrong-v0", Own, kwargs={"size": 3})
"""


def test_an_environment_of_ones_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "own_envs.py").write_text(OWN)
    monkeypatch.syspath_prepend(tmp_path)
    assert parse_task("gym/own_envs:own") == ("gym", "own_envs:Own-v0")
    env = make_env(GymSettings("own_envs:Own-v0", image_size=6), 0)
    assert env.reset()[0].shape == (9, 6, 6)
    assert [env.step(0)[3] for _ in range(10)] == 9 * [False] + [True]
    assert make_env(GymSettings("own_envs:OwnPlanes-v0", image_size=6), 0).reset()[0].shape == (9, 6, 6)
    assert np.unique(make_env(GymSettings("own_envs:OwnPlanes-v0", render=True), 0).reset()[0]).tolist() == [7]
    with pytest.raises(UserError, match=r"OwnWrong-v0: its constructor raised TypeError.*size"):
        make_env(GymSettings("own_envs:OwnWrong-v0"), 0)
    with pytest.raises(UserError, match="your own environment is named gym/MODULE:ID"):
        parse_task("gym/Another-v0")


def test_classic_control() -> None:
    pytest.importorskip("pygame")
    env = make_env(GymSettings("CartPole-v1", image_size=50), 0)
    assert env.reset()[0].std() > 0
    assert env.step(1)[0].shape == (9, 50, 50)
    with pytest.raises(CannotSave):
        env.state_dict()


@pytest.mark.parametrize(
    ("metadata", "rate"),
    [
        ({"render_fps": "30"}, 30),
        ({"render_fps": None}, 30),
        ({"render_fps": -1}, 30),
        ({"render_fps": float("nan")}, 30),
        ({"render_modes": 3, "render_fps": 12.5}, 12.5),
    ],
)
def test_metadata_of_any_kind_is_read_or_ignored(metadata: Any, rate: float, monkeypatch: pytest.MonkeyPatch) -> None:
    class Declares(gymnasium.Env[Any, Any]):
        def __init__(self) -> None:
            self.observation_space = gymnasium.spaces.Box(0, 255, (30, 30, 3), np.uint8)
            self.action_space = gymnasium.spaces.Discrete(2)

        def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
            return np.zeros((30, 30, 3), np.uint8), {}

    monkeypatch.setattr(Declares, "metadata", metadata)
    gymnasium.register("Declares-v0", Declares)
    try:
        env = make_env(GymSettings("Declares-v0"), 1)
        assert env.metadata["render_fps"] == rate
        assert env.reset()[0].dtype == np.uint8
        env.close()
    finally:
        del gymnasium.registry["Declares-v0"]


def test_metadata_that_is_no_dict_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Tiny, "metadata", None)
    gymnasium.register("Declares-v0", Tiny)
    try:
        with pytest.raises(UserError, match="gym/Declares-v0: its constructor raised InvalidMetadata"):
            make_env(GymSettings("Declares-v0"), 1)
    finally:
        del gymnasium.registry["Declares-v0"]


def test_a_missing_argument_of_the_constructor_names_its_setting() -> None:
    class NeedsLevel(gymnasium.Env[Any, Any]):
        def __init__(self, *, level: int) -> None:
            self.level = level

    gymnasium.register("NeedsLevel-v0", NeedsLevel)  # type: ignore[arg-type]
    try:
        with pytest.raises(UserError, match=r"settings=\{'env\.kwargs\.level': 'VALUE'\} sets it"):
            make_env(GymSettings("NeedsLevel-v0"), 1)
    finally:
        del gymnasium.registry["NeedsLevel-v0"]


def test_arguments_that_gymnasium_s_make_has_too_are_the_constructor_s() -> None:
    seen: list[Any] = []

    def build(id: str = "none", max_episode_steps: int = 3) -> Tiny:
        seen.append((id, max_episode_steps))
        return Savable()

    gymnasium.register("TinyArguments-v0", build, kwargs={"id": "registered"})
    try:
        env = make_env(GymSettings("TinyArguments-v0", image_size=6, kwargs={"max_episode_steps": 5}), seed=0)
        env.reset()
        assert seen == [("registered", 5)]
        assert isinstance(env._env, Savable)  # without a wrapper that hides state_dict()
        for _ in range(6):
            assert not env.step(np.zeros(2))[3]
    finally:
        del gymnasium.registry["TinyArguments-v0"]


def test_grayscale_that_would_do_nothing_is_refused() -> None:
    settings = GymSettings("Tiny-v0", image_size=6, grayscale=True, kwargs={"channels": 5})
    with pytest.raises(UserError, match=r"env.grayscale=true converts images of 3 channels; .* have 5: leave it out"):
        make_env(settings, seed=0)


def test_an_exact_id_is_itself() -> None:
    for name in ("My-Env-v0", "MyEnv-v0", "myenv-v0"):
        gymnasium.register(name, "gymnasium.envs.classic_control.cartpole:CartPoleEnv")
    try:
        for name in ("My-Env-v0", "MyEnv-v0", "myenv-v0"):
            assert gym.resolve(name) == name
    finally:
        for name in ("My-Env-v0", "MyEnv-v0", "myenv-v0"):
            del gymnasium.registry[name]


class DeclaresModes(gymnasium.Env[Any, Any]):
    """Its constructor takes no ``render_mode``, although it declares one."""

    metadata: ClassVar = {"render_modes": ["rgb_array"]}
    observation_space = gymnasium.spaces.Box(0, 255, (20, 20, 3), np.uint8)
    action_space = gymnasium.spaces.Discrete(2)

    def reset(self, **kwargs: Any) -> tuple[np.ndarray, dict[str, Any]]:
        super().reset(seed=kwargs.get("seed"))
        return np.zeros((20, 20, 3), np.uint8), {}


def test_a_render_mode_is_passed_to_constructors_that_take_it() -> None:
    gymnasium.register("DeclaresModes-v0", DeclaresModes, max_episode_steps=5)
    try:
        env = make_env(GymSettings(task="DeclaresModes-v0", image_size=20), 1)
        assert env.reset()[0].shape == (9, 20, 20)
    finally:
        del gymnasium.registry["DeclaresModes-v0"]
