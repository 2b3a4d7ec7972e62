"""Action repeat and frame stacking for the environments of all suites."""

from __future__ import annotations

import math
from abc import abstractmethod
from typing import Any, Literal

import gymnasium
import numpy as np
from numpy.typing import NDArray

from mcurl.envs.foreign import Diverged
from mcurl.errors import UserError, one_line
from mcurl.runtime.limits import process_memory

StackStart = Literal["repeat", "blank"]
MAX_DIVERGED = 5
"""Most episodes in a row that end because the simulator diverged."""
MAX_REPEAT = 1_000_000
"""Most simulator steps of an agent step."""
_REPEATS = ("action_repeat", "frame_skip")


class FrameStack:
    """A stack of the newest frames, ``uint8 [frames * C, H, W]``, oldest first. All results are new arrays.

    Args:
        frame_shape: (C, H, W) of one frame.
        frames: number of frames in the stack.
        start: how the stack is filled at the start of an episode: "repeat" the first frame, or "blank" (zeros).
    """

    def __init__(self, frame_shape: tuple[int, int, int], frames: int, start: StackStart = "repeat") -> None:
        channels, height, width = frame_shape
        self._channels = channels
        self._start = start
        self._stack = np.zeros((frames * channels, height, width), np.uint8)

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the stack, ``(frames * C, H, W)``."""
        return self._stack.shape

    def begin(self, frame: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Start an episode with its first frame, ``uint8 [C, H, W]`` of any strides, and return the stack."""
        channels = self._channels
        self._stack[-channels:] = frame
        older = self._stack[:-channels].reshape(-1, *frame.shape)
        older[:] = self._stack[-channels:] if self._start == "repeat" else 0
        return self._stack.copy()

    def newest(self) -> NDArray[np.uint8]:
        """The stack as it is."""
        return self._stack.copy()

    def push(self, frame: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Add a frame, ``uint8 [C, H, W]`` of any strides, and return the stack."""
        self._stack[: -self._channels] = self._stack[self._channels :]
        self._stack[-self._channels :] = frame
        return self._stack.copy()

    def state_dict(self) -> dict[str, Any]:
        """The frames."""
        return {"stack": self._stack.copy()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore a state of :meth:`state_dict`. Raises UserError if its shape differs."""
        stack = np.asarray(state["stack"])
        if stack.shape != self._stack.shape:
            raise UserError(f"the saved state has a frame stack of shape {stack.shape}, not {self._stack.shape}")
        self._stack[:] = stack


class StackedEnv(gymnasium.Env[NDArray[Any], Any]):
    """Base of the environments with action repeat and frame stacking.

    ``step`` repeats the action up to ``action_repeat`` times, until the episode ends, sums the rewards, and observes
    once. A subclass implements ``_begin``, ``_advance``, ``_look``, ``_save`` and ``_load``. Pixels, with a
    three-dimensional ``frame_shape``, are stacked; states, with a one-dimensional one, are not.

    A step in which the simulator diverges truncates the episode, with ``info["diverged"]``. There is no observation of
    it: the one before is returned again, with the rewards up to there. The transition is not to be learned from. After
    ``MAX_DIVERGED`` such episodes in a row, :class:`mcurl.envs.foreign.Diverged` is raised.
    """

    frame_shape: tuple[int, ...]
    """``(C, H, W)``, or ``(D,)`` for states."""
    frame_stack: int
    """K, number of frames in an observation; 1 for states."""
    action_repeat: int
    """Simulator steps per ``step``."""
    stack_start: StackStart
    """How the stack is filled at the start of an episode."""
    notes: list[str]
    """What a user should know of the environment. Training says it, and empties the list."""

    def __init__(
        self, frame_shape: tuple[int, ...], frame_stack: int, action_repeat: int, frames_per_second: float
    ) -> None:
        """``frames_per_second``: agent steps per second of simulated time, for videos."""
        self.frame_shape = frame_shape
        self.frame_stack = frame_stack if len(frame_shape) == 3 else 1
        self.action_repeat = action_repeat
        self.stack_start: StackStart = "repeat"
        self.render_mode = "rgb_array"
        self.metadata = {"render_modes": ["rgb_array"], "render_fps": frames_per_second}
        self._stack: FrameStack | None = None
        if len(frame_shape) == 3:
            channels, height, width = frame_shape
            self._stack = FrameStack((channels, height, width), self.frame_stack, self.stack_start)
            self.observation_space = gymnasium.spaces.Box(0, 255, self._stack.shape, np.uint8)
        else:
            self.observation_space = gymnasium.spaces.Box(-np.inf, np.inf, frame_shape, np.float32)
        self._over = True
        self._newest_state: NDArray[Any] = np.zeros(0 if self._stack is not None else frame_shape, np.float32)
        self._diverged = self._diverged_in_a_row = 0
        self.notes: list[str] = []

    @abstractmethod
    def _begin(self, seed: int | None) -> None:
        """Start an episode; with ``seed``, seed the random generators first."""

    @abstractmethod
    def _advance(self, action: Any) -> tuple[float, bool, bool]:
        """Take one simulator step; return reward, terminated and truncated. Raises Diverged, see the class."""

    @abstractmethod
    def _look(self) -> NDArray[Any]:
        """The current frame, ``uint8 [C, H, W]`` (may be a view), or state, ``float32 [D]`` (a new array)."""

    @abstractmethod
    def _save(self) -> dict[str, Any]:
        """The full state of the environment, except the frame stack."""

    @abstractmethod
    def _load(self, state: dict[str, Any]) -> None:
        """Restore a state of ``_save``."""

    def _translate(self, action: Any) -> Any:
        """Convert an action to the argument of ``_advance``; called once per ``step``."""
        return action

    def _info(self) -> dict[str, Any]:
        return {}

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[NDArray[Any], dict[str, Any]]:
        """Start an episode.

        Without ``seed``, the random generators continue, at first from the constructor's seed.
        """
        super().reset(seed=seed)
        try:
            self._begin(seed)
        except Diverged as error:
            self._count_divergence(error)
            return self.reset()
        self._over = False
        return self._observe(self._look(), first=True), self._info()

    def step(self, action: Any) -> tuple[NDArray[Any], float, bool, bool, dict[str, Any]]:
        """Take an agent step: observation, sum of rewards, terminated, truncated, info.

        Raises:
            gymnasium.error.ResetNeeded: before the first reset, and after the end of an episode.
            gymnasium.error.InvalidAction: see :func:`check_action`.
        """
        if self._over:
            raise gymnasium.error.ResetNeeded("the episode is over: call reset() before step()")
        check_action(self.action_space, action)
        translated = self._translate(action)
        total, terminated, truncated = 0.0, False, False
        try:
            for _ in range(self.action_repeat):
                reward, terminated, truncated = self._advance(translated)
                total += reward
                if terminated or truncated:
                    break
        except Diverged as error:
            self._over = True
            self._count_divergence(error)
            observation = self._newest_state.copy() if self._stack is None else self._stack.newest()
            return observation, total, False, True, {**self._info(), "diverged": True}
        self._over = terminated or truncated
        if self._over:
            self._diverged_in_a_row = 0
        return self._observe(self._look()), total, terminated, truncated, self._info()

    def render(self) -> NDArray[np.uint8]:  # type: ignore[override]
        """The newest frame in colour, ``uint8 [H, W, 3]``. Subclasses may show more.

        Raises:
            NotImplementedError: observations are states.
        """
        if self._stack is None:
            raise NotImplementedError("an environment of states has no image")
        channels = self.frame_shape[0]
        frame = self._stack.newest()[-channels:]
        return frame.transpose(1, 2, 0) if channels == 3 else np.stack([frame[-1]] * 3, axis=-1)

    def _observe(self, frame: NDArray[Any], *, first: bool = False) -> NDArray[Any]:
        """The observation with this frame as its newest."""
        if self._stack is not None:
            return self._stack.begin(frame) if first else self._stack.push(frame)
        self._newest_state[...] = frame
        return frame

    def _count_divergence(self, error: Diverged) -> None:
        """Note it. Raises Diverged after too many in a row."""
        self._diverged += 1
        self._diverged_in_a_row += 1
        if self._diverged_in_a_row >= MAX_DIVERGED:
            raise Diverged(f"{error}; so ended {self._diverged_in_a_row} episodes in a row") from error
        self.notes.append(f"{error}; the episode is truncated before that step ({self._diverged:,} so far)")

    def state_dict(self) -> dict[str, Any]:
        """The full state, random generators included, as a tree of plain values and NumPy arrays.

        After it is restored, also in another process, the same actions give the same observations and rewards.

        Raises:
            mcurl.envs.CannotSave: the state of the simulator cannot be saved.
        """
        diverged = [self._diverged, self._diverged_in_a_row]
        state: dict[str, Any] = {"over": self._over, "simulator": self._save(), "diverged": diverged}
        if self._stack is not None:
            state["frames"] = self._stack.state_dict()
        else:
            state["state"] = self._newest_state.copy()
        return state

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore a state of :meth:`state_dict`. Raises UserError if it is of another environment."""
        if ("frames" in state) != (self._stack is not None):
            raise UserError(
                "the saved state is of an environment with pixels, not states"
                if "frames" in state
                else "the saved state has no pixels"
            )
        if self._stack is not None:
            self._stack.load_state_dict(state["frames"])
        self._load(state["simulator"])
        self._over = bool(state["over"])
        # States of older versions have neither.
        self._diverged, self._diverged_in_a_row = state.get("diverged", (0, 0))
        if "state" in state:
            self._newest_state[...] = state["state"]


def check_action(space: gymnasium.Space[Any], action: Any) -> None:
    """Raise ``gymnasium.error.InvalidAction`` for an invalid action.

    Numbers for a Box may lie outside of its bounds, to which they are clipped, but must be finite and of its size.
    """
    values = np.asarray(action)
    if isinstance(space, gymnasium.spaces.Discrete):
        valid = values.ndim == 0 and np.issubdtype(values.dtype, np.integer) and 0 <= int(values) < space.n
        expected = f"an integer from 0 to {space.n - 1}"
    else:
        size = math.prod(space.shape or ())
        valid = values.size == size and np.issubdtype(values.dtype, np.number) and bool(np.isfinite(values).all())
        expected = f"{size} finite numbers" if size > 1 else "a finite number"
    if not valid:
        raise gymnasium.error.InvalidAction(f"the action must be {expected}, not {one_line(action)}")


def check_settings(settings: Any, minima: dict[str, int], choices: dict[str, tuple[str, ...]]) -> None:
    """Raise UserError if a setting is below its minimum, not among its choices, or too large."""
    for name, minimum in minima.items():
        value = getattr(settings, name)
        if value < minimum:
            raise UserError(f"{name} must be at least {minimum}, not {value}")
        if name in _REPEATS and value > MAX_REPEAT:
            raise UserError(f"{name} must be at most {MAX_REPEAT:,}, not {value:,}")
    _check_size(settings)
    for name, values in choices.items():
        if getattr(settings, name) not in values:
            raise UserError(f"{name} must be one of {', '.join(values)}, not {getattr(settings, name)!r}")


def _check_size(settings: Any) -> None:
    """Raise UserError if an observation of so many pixels does not fit into memory."""
    if not hasattr(settings, "image_size"):
        return
    size, stack = settings.image_size, settings.frame_stack
    needed, memory = 3 * stack * size**2, process_memory() // 4
    if needed > memory:
        name = "frame_stack" if stack > size else "image_size"
        raise UserError(
            f"{name}={getattr(settings, name):,} makes an observation of {needed / 1e9:,.1f} GB, "
            f"more than a quarter of the memory here, {memory / 1e9:.1f} GB"
        )


class Rescaling:
    """The affine map from the agent's action space ``[-1, 1]^A`` to the bounds of a simulator.

    Args:
        low, high: finite bounds of the simulator's actions, of equal shape.
    """

    def __init__(self, low: NDArray[Any], high: NDArray[Any]) -> None:
        low, high = np.asarray(low, np.float64), np.asarray(high, np.float64)
        self._low, self._high = low, high
        self._middle, self._half = (high + low) / 2, (high - low) / 2
        self.space = gymnasium.spaces.Box(-1.0, 1.0, (low.size,), np.float32)

    def __call__(self, action: Any) -> NDArray[np.float64]:
        """Clip an action ``[A]`` to [-1, 1], and map it to the simulator's shape and bounds, in float64."""
        clipped = np.asarray(action, np.float64).reshape(self._middle.shape).clip(-1.0, 1.0)
        scaled: NDArray[np.float64] = self._middle + self._half * clipped
        return scaled.clip(self._low, self._high)  # what rounding adds is out of bounds
