"""Packages that older training loops import and that do not install today, as far as `peers.py` needs them."""

from __future__ import annotations

import sys
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any, ClassVar
from unittest.mock import MagicMock

import numpy as np
from gymnasium import spaces


def install() -> None:
    """Let gym, dmc2gym, atari_py, skimage and others be imported."""
    _module("gym", Env=Env, Wrapper=Wrapper, spaces=spaces)
    _module("gym.core", Env=Env, Wrapper=Wrapper)
    _module("gym.spaces", **{name: getattr(spaces, name) for name in spaces.__all__})
    _module("dmc2gym", make=make_dm_control)
    _module("atari_py", ALEInterface=_arcade(), list_games=_games, get_game_path=_rom)
    _module("skimage")
    _module("skimage.util")
    _module("skimage.util.shape", view_as_windows=np.lib.stride_tricks.sliding_window_view)
    _module("termcolor", colored=lambda text, *_, **__: text)
    for name in ("torchvision", "torchvision.transforms", "torchvision.utils"):
        _module(name, __getattr__=lambda _: MagicMock())
    for name in ("plotly", "plotly.graph_objs", "plotly.graph_objs.scatter"):
        _module(name, __getattr__=lambda _: MagicMock())


def _module(name: str, **contents: Any) -> None:
    module = sys.modules[name] = ModuleType(name)
    module.__spec__, module.__path__ = ModuleSpec(name, None), []
    module.__dict__.update(contents)
    parent, _, last = name.rpartition(".")
    if parent:
        setattr(sys.modules[parent], last, module)


class Env:
    """Gym's class before 0.26: `step` returns four values, `reset` an observation."""

    metadata: ClassVar[dict[str, Any]] = {}

    def seed(self, seed: int | None = None) -> None:
        """Nothing: the simulators are seeded when they are made."""


class Wrapper(Env):
    """Passes on what it does not define."""

    def __init__(self, env: Any) -> None:
        self.env = env
        self.action_space, self.observation_space = env.action_space, env.observation_space

    def __getattr__(self, name: str) -> Any:
        if name == "env":
            raise AttributeError(name)
        return getattr(self.env, name)


class DMControl(Env):
    """A DMControl task from pixels ``uint8 [3, height, width]``, with actions in [-1, 1] and an action repeat."""

    def __init__(self, domain: str, task: str, seed: int, height: int, width: int, repeat: int) -> None:
        from dm_control import suite

        self.env = suite.load(domain, task, {"random": seed})
        self.repeat, self.size = repeat, (height, width)
        self._max_episode_steps, self.steps = -(-1000 // repeat), 0
        action = self.env.action_spec()
        self.low, self.high = (np.broadcast_to(x, action.shape) for x in (action.minimum, action.maximum))
        self.action_space = spaces.Box(-1, 1, action.shape, np.float32)
        self.observation_space = spaces.Box(0, 255, (3, height, width), np.uint8)

    def reset(self) -> np.ndarray:
        """Begin an episode."""
        self.env.reset()
        self.steps = 0
        return self.picture()

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, dict[str, Any]]:
        """Repeat an action."""
        scaled = self.low + (action.astype(np.float64) + 1) / 2 * (self.high - self.low)
        reward = 0.0
        for _ in range(self.repeat):
            time_step = self.env.step(scaled)
            reward += time_step.reward or 0.0
            if time_step.last():
                break
        self.steps += 1
        done = time_step.last() or self.steps >= self._max_episode_steps
        return self.picture(), reward, done, {"discount": time_step.discount}

    def picture(self) -> np.ndarray:
        """What the camera sees."""
        height, width = self.size
        picture: np.ndarray = self.env.physics.render(height=height, width=width, camera_id=0)
        return picture.transpose(2, 0, 1).copy()


def make_dm_control(
    domain_name: str, task_name: str, seed: int, height: int = 84, width: int = 84, frame_skip: int = 1, **_: Any
) -> DMControl:
    """dmc2gym's `make`, from pixels."""
    return DMControl(domain_name, task_name, seed, height, width, frame_skip)


def _arcade() -> type:
    import ale_py

    ale_py.ALEInterface.setLoggerMode(ale_py.LoggerMode.Error)

    class Arcade(ale_py.ALEInterface):  # type: ignore[misc]
        """With atari_py's types."""

        def getMinimalActionSet(self) -> np.ndarray:  # noqa: N802
            return np.array([int(action.value) for action in super().getMinimalActionSet()], dtype=np.intc)

        def act(self, action: Any) -> int:
            return int(super().act(int(action)))

    return Arcade


def _games() -> list[str]:
    from ale_py import roms

    return sorted(roms.get_all_rom_ids())


def _rom(game: str) -> str:
    from ale_py import roms

    return str(roms.get_rom_path(game))
