"""Gymnasium environments as tasks ``gym/<EnvId>``, such as ``gym/CartPole-v1``, or ``gym/<module>:<EnvId>``.

The frames are the environment's observations if they are images, else its rendered images. The time limit is that of
the registration. ``<module>`` is imported first, and registers the environment.
"""

from __future__ import annotations

import copy
import re
from dataclasses import dataclass, replace
from functools import cache
from types import ModuleType
from typing import Any

import gymnasium
import numpy as np
from gymnasium.envs.registration import EnvSpec
from numpy.typing import NDArray

from mcurl.envs import CannotSave
from mcurl.envs.stack import Rescaling, StackedEnv, check_settings
from mcurl.errors import UserError, suggest


@dataclass(frozen=True)
class GymSettings:
    """The Gymnasium environment and its observations."""

    task: str = "CartPole-v1"
    """The environment's id in Gymnasium's registry; module:id imports the module first."""
    image_size: int = 100
    """Height and width of a frame in pixels; images are resized by averaging over areas."""
    grayscale: bool = False
    """Convert frames to grayscale."""
    frame_stack: int = 3
    """Frames in an observation."""
    action_repeat: int = 1
    """Environment steps per agent step; rewards are summed."""
    render: bool = False
    """Use rendered images as frames, even if the environment's observations are images."""

    def __post_init__(self) -> None:
        check_settings(self, {"image_size": 1, "frame_stack": 1, "action_repeat": 1}, {})


def tasks() -> list[str]:
    """The ids in Gymnasium's registry, sorted, without those of :mod:`mcurl.gymnasium`."""
    return sorted(task for task in gymnasium.registry if not task.startswith("mcurl/"))


def resolve(name: str) -> str:
    """The registered id; case, dashes and underscores of ``name`` are ignored. The default version is the newest.

    Raises:
        UserError: the id is unknown, or its module cannot be imported.

    >>> resolve("cartpole")
    'CartPole-v1'
    """
    module, colon, env_id = name.rpartition(":")
    if colon:
        _register(module)
    matches = [task for task in tasks() if _plain(task) == _plain(env_id)]
    matches = matches or [task for task in tasks() if _plain(task.rpartition("-v")[0]) == _plain(env_id)]
    if not matches:
        hint = "" if colon else "; your own environment is named gym/MODULE:ID"
        raise UserError(f"there is no Gymnasium environment {name!r}: {suggest(env_id, tasks())}{hint}")
    return module + colon + max(matches, key=lambda task: gymnasium.registry[task].version or 0)


def _plain(name: str) -> str:
    return re.sub(r"[^a-z0-9/]", "", name.lower())


def _register(module: str) -> None:
    """Import a module for the environments that it registers."""
    try:
        __import__(module)
    except ImportError as error:
        raise UserError(f"cannot import {module}: {error}; is its folder in PYTHONPATH?") from error


def action_space(name: str) -> gymnasium.Space[Any]:
    """The action space of a task, as an agent uses it. The environment is made and closed.

    Raises:
        UserError: the environment cannot be made, or no agent supports its actions.
    """
    task = resolve(name)
    spec = copy.deepcopy(gymnasium.spec(task.rpartition(":")[2]))
    env = _bare(spec)
    try:
        return _actions(env.action_space, task)[1]
    finally:
        env.close()


def make(settings: GymSettings, seed: int) -> GymEnv:
    """Make the environment. Raises UserError if it is unknown, has no images, or has unsupported actions."""
    return GymEnv(settings, seed)


def make_without_pixels(settings: GymSettings, seed: int) -> GymEnv:
    """Make the environment with the smallest frames. They are rendered, because rendering may change its state."""
    return GymEnv(replace(settings, image_size=1, frame_stack=1), seed)


@cache
def _cv2() -> ModuleType:
    try:
        import cv2
    except ImportError as error:
        raise UserError(f"Gymnasium environments need OpenCV ({error}): pip install 'mcurl[gym]'") from error
    module: ModuleType = cv2
    return module


class GymEnv(StackedEnv):
    """A Gymnasium environment with stacked image observations.

    Observations: ``uint8 [C * frame_stack, image_size, image_size]``. Actions: Discrete, counted from 0, or
    ``float32 [A]`` in [-1, 1] for a bounded Box. Its state can be saved if the environment defines ``state_dict()`` and
    ``load_state_dict(state)``.
    """

    def __init__(self, settings: GymSettings, seed: int) -> None:
        self.settings = settings
        self.task = resolve(settings.task)
        self._seed: int | None = seed
        spec = copy.deepcopy(gymnasium.spec(self.task.rpartition(":")[2]))
        # Counted here, because a saved state cannot contain the counter of Gymnasium's wrapper.
        self._limit = spec.max_episode_steps
        self.spec = spec
        self._env, self._renders = _make(spec, settings.render)
        self._image: Any = None
        self._steps = 0

        colours = 3 if self._renders else self._env.observation_space.shape[-1]
        channels = 1 if settings.grayscale else colours
        size, repeat = settings.image_size, settings.action_repeat
        frames_per_second = self._env.metadata.get("render_fps") or 30
        super().__init__((channels, size, size), settings.frame_stack, repeat, frames_per_second / repeat)
        self._to_inner, self.action_space = _actions(self._env.action_space, self.task)

    def render(self) -> NDArray[np.uint8]:  # type: ignore[override]
        """The environment's image in its original size, ``uint8 [H, W, 3]``.

        Raises:
            gymnasium.error.ResetNeeded: before the first reset.
        """
        image = _rendered(self._env, self.task) if self._renders else self._image
        if image is None:
            raise gymnasium.error.ResetNeeded("there is no image before reset()")
        return np.broadcast_to(image, (*image.shape[:2], 3)).copy()

    def close(self) -> None:
        """Close the wrapped environment."""
        self._env.close()

    def _begin(self, seed: int | None) -> None:
        observation, _ = self._env.reset(seed=self._seed if seed is None else seed)
        self._image = None if self._renders else observation
        self._seed = None
        self._steps = 0

    def _translate(self, action: Any) -> Any:
        return self._to_inner(action)

    def _advance(self, action: Any) -> tuple[float, bool, bool]:
        observation, reward, terminated, truncated, _ = self._env.step(action)
        self._image = None if self._renders else observation
        self._steps += 1
        return float(reward), bool(terminated), bool(truncated) or self._steps == self._limit

    def _look(self) -> NDArray[np.uint8]:
        cv2, size = _cv2(), self.settings.image_size
        image = _rendered(self._env, self.task) if self._renders else self._image
        if self.settings.grayscale and image.shape[2] == 3:
            image = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
        resized: NDArray[np.uint8] = cv2.resize(image, (size, size), interpolation=cv2.INTER_AREA)
        # OpenCV drops the axis of a single channel.
        return resized.reshape(size, size, -1).transpose(2, 0, 1)

    def _save(self) -> dict[str, Any]:
        return {
            "task": self.task,
            "inner": self._method("state_dict")(),
            "image": self._image,
            "seed": self._seed,
            "steps": self._steps,
        }

    def _load(self, state: dict[str, Any]) -> None:
        if state["task"] != self.task:
            raise UserError(f"the saved state is of {state['task']}, not of {self.task}")
        self._method("load_state_dict")(state["inner"])
        self._image = state["image"]
        self._seed = state["seed"]
        self._steps = state["steps"]

    def _method(self, name: str) -> Any:
        """A method of the wrapped environment. Raises CannotSave if it is not defined."""
        method = getattr(self._env, name, None)
        if method is None:
            raise CannotSave(f"{self.task} has no {name}(): its state cannot be saved")
        return method


def _make(spec: EnvSpec, render: bool) -> tuple[Any, bool]:
    """The environment without wrappers, and whether its frames are rendered images instead of observations.

    Raises:
        UserError: the environment cannot be made, or has no images.
    """
    env = _bare(spec)
    if not render and _is_image(env.observation_space):
        return env, False
    modes = env.metadata.get("render_modes") or []
    env.close()
    if "rgb_array" not in modes:
        raise UserError(
            f"{spec.id} has no images: its observations are not uint8 [H, W, 1 or 3], and it cannot render rgb_array"
        )
    if not render and not _is_vector(env.observation_space):
        raise UserError(
            f"{spec.id} has observations of {env.observation_space}, but images are uint8 [H, W, 1 or 3]: "
            "wrap it, or set env.render=true to learn from rendered images"
        )
    return _bare(spec, render_mode="rgb_array"), True


def _bare(spec: EnvSpec, **options: Any) -> gymnasium.Env[Any, Any]:
    """Make an environment without Gymnasium's wrappers. Raises UserError if it cannot be made."""
    spec.max_episode_steps = None
    spec.order_enforce = False
    spec.disable_env_checker = True
    try:
        return gymnasium.make(spec, **options)
    except (gymnasium.error.Error, ImportError, TypeError) as error:
        raise UserError(f"{spec.id} cannot be made: {error}") from error


def _is_image(space: gymnasium.Space[Any]) -> bool:
    return (
        isinstance(space, gymnasium.spaces.Box)
        and space.dtype == np.uint8
        and len(space.shape) == 3
        and space.shape[2] in (1, 3)
    )


def _is_vector(space: gymnasium.Space[Any]) -> bool:
    """Whether observations are discrete values or vectors, which cannot be images."""
    return isinstance(space, gymnasium.spaces.Discrete | gymnasium.spaces.MultiDiscrete) or (
        isinstance(space, gymnasium.spaces.Box) and len(space.shape) < 2
    )


def _rendered(env: gymnasium.Env[Any, Any], task: str) -> NDArray[np.uint8]:
    try:
        image: Any = env.render()
    except (gymnasium.error.DependencyNotInstalled, ImportError, NotImplementedError) as error:
        raise UserError(f"{task} cannot render: {error or 'render() is not implemented'}") from error
    if not isinstance(image, np.ndarray) or image.dtype != np.uint8 or image.shape[2:] != (3,):
        raise UserError(f"{task} has no images: render() does not return uint8 [H, W, 3]")
    return image


def _actions(space: gymnasium.Space[Any], task: str) -> tuple[Any, gymnasium.Space[Any]]:
    """A function from the agent's actions to the environment's, and the agent's action space.

    Raises:
        UserError: no agent supports these actions.
    """
    if isinstance(space, gymnasium.spaces.Discrete):
        start = int(space.start)
        return (lambda action: int(action) + start), gymnasium.spaces.Discrete(int(space.n))
    if not isinstance(space, gymnasium.spaces.Box) or not np.issubdtype(space.dtype, np.floating):
        raise UserError(f"{task} has actions of {space}: only Discrete and bounded Box of floats are supported")
    if not space.is_bounded():
        raise UserError(f"{task} has actions without bounds ({space}): they cannot be rescaled to [-1, 1]")
    rescaling, dtype = Rescaling(space.low, space.high), space.dtype
    return (lambda action: rescaling(action).astype(dtype)), rescaling.space
