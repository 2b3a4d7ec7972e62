"""Gymnasium environments as tasks ``gym/<EnvId>``, such as ``gym/CartPole-v1``, or ``gym/<module>:<EnvId>``.

The frames are the environment's observations, or the image in them, else its rendered images. The time limit is that of
the registration. ``<module>`` is imported first, and registers the environment.
"""

from __future__ import annotations

import atexit
import contextlib
import copy
import math
import numbers
import re
import sys
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, get_args

import gymnasium
import numpy as np
from numpy.typing import NDArray

from mcurl.envs import CannotSave, threaded
from mcurl.envs.actions import convert_actions
from mcurl.envs.construct import construct, frames_per_second, opengl_hint, read_space, render_modes
from mcurl.envs.foreign import INTERFACE, SHIMMY, EnvironmentFailure, Hint, call, message, show
from mcurl.envs.images import Channels, Fit, FrameWatch, Framing, find_image
from mcurl.envs.opengl import choose_backends
from mcurl.envs.stack import StackedEnv, check_settings
from mcurl.errors import UserError, one_line, suggest


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
    fit: Fit = "squeeze"
    """How an image that is not square becomes square: squeeze it, pad it with black bars, or crop its longer side."""
    key: str = ""
    """The image in observations of several parts, such as image or camera.front; empty: the only image."""
    channels: Channels = "all"
    """Channels of images that have neither 1 nor 3: all, or the newest if they are stacked frames."""
    max_episode_steps: int = 0
    """Environment steps after which an episode is truncated; 0: the limit of the registration, if it has one."""
    evaluation_limit: int = 27_000
    """Agent steps after which an evaluation cuts off an episode that has not ended; its return so far counts."""
    kwargs: Mapping[str, Any] = field(default_factory=dict)
    """Arguments of the environment, as env.kwargs.NAME=VALUE; nested: env.kwargs.config.duration=20."""

    def __post_init__(self) -> None:
        minima = {"image_size": 1, "frame_stack": 1, "action_repeat": 1, "max_episode_steps": 0, "evaluation_limit": 1}
        check_settings(self, minima, {"fit": get_args(Fit), "channels": get_args(Channels)})
        if "render_mode" in self.kwargs:
            raise UserError("kwargs.render_mode cannot be set: it is rgb_array where the environment can render")


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
    if colon and not module:
        raise UserError(f"{name!r} has a colon without a module in front: write gym/{env_id}, or gym/MODULE:{env_id}")
    if colon:
        _register(module)
    if env_id in tasks():
        return module + colon + env_id
    matches = [task for task in tasks() if _plain(task) == _plain(env_id)]
    matches = matches or [task for task in tasks() if _plain(task.rpartition("-v")[0]) == _plain(env_id)]
    if not matches:
        raise UserError(f"there is no Gymnasium environment {name!r}: {_advice(module, env_id)}")
    return module + colon + max(matches, key=lambda task: gymnasium.registry[task].version or 0)


def _advice(module: str, env_id: str) -> str:
    """What to try instead of an unknown id. An environment of the old gym package needs a converter."""
    old = getattr(sys.modules.get("gym"), "envs", None)
    if env_id in getattr(old, "registry", ()):
        name = f"{module}:{env_id}" if module else env_id
        how = f"train gym/shimmy:GymV26Environment-v0 --set env.kwargs.env_id={name}"
        return f"it is one of the old gym package; pip install shimmy, then {how}"
    hint = "" if module else "; your own environment is named gym/MODULE:ID"
    return f"{suggest(env_id, tasks())}{hint}"


def _plain(name: str) -> str:
    return re.sub(r"[^a-z0-9/]", "", name.lower())


def _register(module: str) -> None:
    """Import a module for the environments that it registers."""
    choose_backends()
    try:
        call(module, "its import", __import__, module)
    except EnvironmentFailure as error:
        if isinstance(error.__cause__, ImportError):
            raise UserError(f"cannot import {module}: {error.__cause__}; is its folder in PYTHONPATH?") from error
        raise


def action_space(settings: GymSettings) -> gymnasium.Space[Any]:
    """The action space of a task, as an agent uses it.

    The environment is made for it, in the thread of the next ThreadedEnv, which goes on with it.

    Raises:
        UserError: the environment cannot be made, or no agent supports its actions.
    """
    task = resolve(settings.task)
    return threaded.call_ahead(lambda: _ahead(settings, task))


def _ahead(settings: GymSettings, task: str) -> gymnasium.Space[Any]:
    """Make an environment, and keep it for the next :func:`_make` in this thread with the same arguments."""
    env = _make(task, settings.kwargs)
    _close_spare()
    _spare.append(_Spare(task, settings.kwargs, env))
    return convert_actions(read_space(env, "action_space", f"gym/{task}"), f"gym/{task}")[1]


@dataclass(frozen=True)
class _Spare:
    """An environment that was made to look at its action space."""

    task: str
    kwargs: Mapping[str, Any]
    env: gymnasium.Env[Any, Any]
    thread: int = field(default_factory=threading.get_ident)


_spare: list[_Spare] = []
"""At most one."""


def _make(task: str, kwargs: Mapping[str, Any]) -> gymnasium.Env[Any, Any]:
    """Make an environment, or take the one that was made to look at its action space."""
    for spare in _spare:
        if (spare.task, spare.kwargs, spare.thread) == (task, kwargs, threading.get_ident()):
            _spare.clear()
            return spare.env
    return construct(task, kwargs)


def _close_spare() -> None:
    while _spare:
        spare = _spare.pop()
        with contextlib.suppress(UserError):  # nothing was done with it
            call(f"gym/{spare.task}", "close()", spare.env.close)


def release() -> None:
    """Close the environment that :func:`action_space` made, if it was not used."""
    threaded.release(_close_spare)


atexit.register(release)


def make(settings: GymSettings, seed: int) -> GymEnv:
    """Make the environment. Raises UserError if it is unknown, has no images, or has unsupported actions."""
    return GymEnv(settings, seed)


def make_without_pixels(settings: GymSettings, seed: int) -> GymEnv:
    """Make the environment with the smallest frames. They are rendered, because rendering may change its state."""
    return GymEnv(replace(settings, image_size=1, frame_stack=1), seed)


class GymEnv(StackedEnv):
    """A Gymnasium environment with stacked image observations.

    Observations: ``uint8 [C * frame_stack, image_size, image_size]``. Actions: Discrete, counted from 0, or
    ``float32 [A]`` in [-1, 1] for a bounded Box. Its state can be saved if the environment defines ``state_dict()`` and
    ``load_state_dict(state)``. What the environment raises, and what it returns against its spaces' declarations, is an
    :class:`mcurl.envs.foreign.EnvironmentFailure`.
    """

    def __init__(self, settings: GymSettings, seed: int) -> None:
        self.settings = settings
        self.task = resolve(settings.task)
        self.name = f"gym/{self.task}"
        self._seed: int | None = seed
        self.spec = copy.deepcopy(gymnasium.spec(self.task.rpartition(":")[2]))
        # Counted here, because a saved state cannot contain the counter of Gymnasium's wrapper.
        self._limit = settings.max_episode_steps or self.spec.max_episode_steps
        self._env = _make(self.task, settings.kwargs)
        try:
            self._form = None
            if not settings.render:
                space = read_space(self._env, "observation_space", self.name)
                self._form = find_image(space, settings.key, settings.channels, self.name)
            self._framing = Framing(settings.image_size, settings.fit, settings.grayscale)
            if self._form is None:
                self._check_renders()
            elif settings.grayscale and self._form.channels not in (1, 3):
                raise UserError(
                    f"env.grayscale=true converts images of 3 channels; those of {self.name} have "
                    f"{self._form.channels}: leave it out, or use env.channels=newest if they are stacked frames"
                )
            self._to_inner, actions = convert_actions(read_space(self._env, "action_space", self.name), self.name)
        except UserError:
            with contextlib.suppress(UserError):  # the first one says more
                self.close()
            raise
        self._image: NDArray[np.uint8] | None = None
        self._steps = 0
        self._watch = FrameWatch(self.name, rendered=self._form is None)

        channels = 3 if self._form is None else self._form.channels
        channels = 1 if settings.grayscale and channels == 3 else channels
        size, repeat = settings.image_size, settings.action_repeat
        rate = frames_per_second(self._env) / repeat
        super().__init__((channels, size, size), settings.frame_stack, repeat, rate)
        self.action_space = actions
        self.notes += self._describe()

    def render(self) -> NDArray[np.uint8]:  # type: ignore[override]
        """The environment's image in its original size, ``uint8 [H, W, 3]``.

        Raises:
            gymnasium.error.ResetNeeded: before the first reset.
        """
        if self._image is None:
            raise gymnasium.error.ResetNeeded("there is no image before reset()")
        image = self._rendered() if self._form is None else self._image
        image = image[..., -1:] if image.shape[2] not in (1, 3) else image
        return np.broadcast_to(image, (*image.shape[:2], 3)).copy()

    def close(self) -> None:
        """Close the wrapped environment."""
        self._call("close()", self._env.close)

    def _begin(self, seed: int | None) -> None:
        number = self._seed if seed is None else seed
        self._seed = None
        result = self._call("reset()", self._env.reset, seed=number, hint=_interface_hint)
        if not isinstance(result, tuple) or len(result) != 2:
            found = f"{len(result)} values" if isinstance(result, tuple) else type(result).__name__
            raise EnvironmentFailure(f"{self.name}: reset() returned {found}, not 2; {INTERFACE}; {SHIMMY}")
        self._steps = 0
        self._see(result[0], "reset()")

    def _translate(self, action: Any) -> Any:
        return self._to_inner(action)

    def _advance(self, action: Any) -> tuple[float, bool, bool]:
        self._steps += 1
        where = f"step {self._steps:,} of an episode"
        result = self._call(where, self._env.step, action)
        if not isinstance(result, tuple) or len(result) != 5:
            found = f"{len(result)} values" if isinstance(result, tuple) else type(result).__name__
            raise EnvironmentFailure(f"{self.name}: step() returned {found}, not 5; {INTERFACE}; {SHIMMY}")
        observation, reward, terminated, truncated, _ = result
        number = self._reward(reward, where)
        flags = [
            self._flag(value, name, where) for value, name in ((terminated, "terminated"), (truncated, "truncated"))
        ]
        self._see(observation, where)
        return number, flags[0], flags[1] or self._steps == self._limit

    def _look(self) -> NDArray[np.uint8]:
        if self._form is None:
            image = self._rendered()
            if self._image is None and (note := self._framing.note(*image.shape[:2])):
                self.notes.append(f"{self.name}: {note}")
            self._image = image
        assert self._image is not None
        self.notes += self._watch.look(self._image)
        return self._framing(self._image)

    def _see(self, observation: Any, where: str) -> None:
        """Read the image of an observation."""
        if self._form is not None:
            self._image = self._form.read(observation, f"{self.name}: {where}")

    def _reward(self, reward: Any, where: str) -> float:
        """A reward as a number. Raises EnvironmentFailure if it is none, or not finite."""
        scalar = reward.item() if isinstance(reward, np.ndarray | np.generic) and reward.size == 1 else reward
        number = math.nan
        if isinstance(scalar, numbers.Real):
            with contextlib.suppress(OverflowError):  # of an integer that is larger than any float
                number = float(scalar)
        if not math.isfinite(number):
            found = show(reward) if isinstance(reward, numbers.Real | str) else type(reward).__name__
            raise EnvironmentFailure(f"{self.name}: {where} returned the reward {found}, which is not a finite number")
        return number

    def _flag(self, value: Any, name: str, where: str) -> bool:
        """A flag as a bool. Raises EnvironmentFailure if it is none."""
        scalar = value.item() if isinstance(value, np.ndarray | np.generic) and value.size == 1 else value
        if not isinstance(scalar, bool | int) or scalar not in (0, 1):
            raise EnvironmentFailure(
                f"{self.name}: {where} returned {name}={show(value)}, which is neither true nor false"
            )
        return bool(scalar)

    def _rendered(self) -> NDArray[np.uint8]:
        """The rendered image, ``uint8 [H, W, 3]``. Raises EnvironmentFailure if there is none."""
        image: Any = self._call("render()", self._env.render, hint=opengl_hint)
        if isinstance(image, np.ndarray) and image.dtype == np.uint8 and image.ndim == 3 and image.shape[2] in (3, 4):
            return image[..., :3]
        found = f"{image.dtype} {list(image.shape)}" if isinstance(image, np.ndarray) else type(image).__name__
        raise EnvironmentFailure(f"{self.name} has no images: render() returned {found}, not uint8 [H, W, 3]")

    def _check_renders(self) -> None:
        """Raise UserError if rendered images cannot be the frames."""
        if "rgb_array" not in (render_modes(self._env) or ()):
            space = one_line(self._env.observation_space)
            raise UserError(
                f"{self.name} has no images: it cannot render rgb_array, and its observations are {space}, "
                "not an image such as uint8 [H, W, 3]"
            )

    def _describe(self) -> list[str]:
        """What a user should know at the start of a run."""
        if self._form is not None:
            lines = self._form.notes(self.name)
            if note := self._framing.note(*self._form.size):
                lines.append(f"{self.name}: {note}")
        else:
            lines = [f"{self.name}: learns from rendered images"]
        inner = self._env.action_space
        if isinstance(self.action_space, gymnasium.spaces.Discrete) and not isinstance(
            inner, gymnasium.spaces.Discrete
        ):
            lines.append(f"{self.name}: {one_line(inner)} is flattened to {self.action_space.n} actions")
        if not self._limit:
            lines.append(
                f"{self.name} has no time limit: evaluations cut off episodes after {self.settings.evaluation_limit:,} "
                "agent steps (env.evaluation_limit); env.max_episode_steps sets a limit for training, too"
            )
        return lines

    def _call(self, where: str, function: Any, *arguments: Any, hint: Hint | None = None, **options: Any) -> Any:
        return call(self.name, where, function, *arguments, hint=hint, **options)

    def _save(self) -> dict[str, Any]:
        return {
            "task": self.task,
            "inner": self._call("state_dict()", self._method("state_dict")),
            "image": self._image,
            "seed": self._seed,
            "steps": self._steps,
        }

    def _load(self, state: dict[str, Any]) -> None:
        if state["task"] != self.task:
            raise UserError(f"the saved state is of {state['task']}, not of {self.task}")
        self._call("load_state_dict()", self._method("load_state_dict"), state["inner"])
        self._image = state["image"]
        self._seed = state["seed"]
        self._steps = state["steps"]

    def _method(self, name: str) -> Any:
        """A method of the wrapped environment. Raises CannotSave if it is not defined."""
        method = getattr(self._env, name, None)
        if method is None:
            raise CannotSave(f"{self.name} has no {name}(): its state cannot be saved")
        return method


def _interface_hint(error: BaseException) -> str:
    """The arguments of Gymnasium's reset, if the error is about them."""
    return f"{INTERFACE}; {SHIMMY}" if isinstance(error, TypeError) and "argument" in message(error) else ""
