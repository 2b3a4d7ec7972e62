"""What every suite's environment has in common: repeated actions, and a stack of the newest frames."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any, Literal

import gymnasium
import numpy as np
from numpy.typing import NDArray

from mcurl.errors import UserError

StackStart = Literal["repeat", "blank"]


class FrameStack:
    """The newest ``frames`` frames, uint8 ``[frames * C, H, W]``, oldest first.

    Each call returns an array of its own, so that what an environment handed out never changes afterwards.
    """

    def __init__(self, frame_shape: tuple[int, int, int], frames: int, start: StackStart = "repeat") -> None:
        channels, height, width = frame_shape
        self._channels = channels
        self._start = start
        self._stack = np.zeros((frames * channels, height, width), np.uint8)

    @property
    def shape(self) -> tuple[int, ...]:
        """Of a whole stack: ``(frames * C, H, W)``."""
        return self._stack.shape

    def begin(self, frame: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """The stack at an episode's first frame, uint8 ``[C, H, W]`` (any strides): that frame repeated, or blanks before it."""
        channels = self._channels
        self._stack[-channels:] = frame
        older = self._stack[:-channels].reshape(-1, *frame.shape)
        older[:] = self._stack[-channels:] if self._start == "repeat" else 0
        return self._stack.copy()

    def push(self, frame: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """The stack after one more frame, uint8 ``[C, H, W]`` (any strides)."""
        self._stack[: -self._channels] = self._stack[self._channels :]
        self._stack[-self._channels :] = frame
        return self._stack.copy()

    def state_dict(self) -> dict[str, Any]:
        return {"stack": self._stack.copy()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Raises ValueError where the saved stack has another shape."""
        stack = np.asarray(state["stack"])
        if stack.shape != self._stack.shape:
            raise ValueError(f"the saved frame stack has shape {stack.shape}, this environment's has {self._stack.shape}")
        self._stack[:] = stack


class StackedEnv(gymnasium.Env[NDArray[Any], Any]):
    """A Gymnasium environment built on one that shows single frames.

    ``step`` repeats the action ``action_repeat`` times, sums the rewards, stops where the episode ends, and looks once, at the last of them.
    A suite gives ``_begin``, ``_advance``, ``_look``, ``_save``, ``_load``. A three-dimensional ``frame_shape`` means pixels, which are stacked;
    a one-dimensional one means a state, which is not.
    """

    metadata: dict[str, Any] = {"render_modes": ["rgb_array"], "render_fps": 30}  # noqa: RUF012 (Gymnasium declares it so)

    frame_shape: tuple[int, ...]
    """``(C, H, W)``, or ``(D,)`` for states."""
    frame_stack: int
    """K: how many frames an observation holds; 1 for states."""
    action_repeat: int
    """Simulator steps per ``step``."""
    stack_start: StackStart
    """What stands before an episode's first frame: the first frame, repeated, or blanks."""

    def __init__(self, frame_shape: tuple[int, ...], frame_stack: int, action_repeat: int, stack_start: StackStart = "repeat") -> None:
        self.frame_shape = frame_shape
        self.action_repeat = at_least_one("action_repeat", action_repeat)
        self.frame_stack = at_least_one("frame_stack", frame_stack) if len(frame_shape) == 3 else 1
        self.stack_start = stack_start
        self.render_mode = "rgb_array"
        self._stack: FrameStack | None = None
        if len(frame_shape) == 3:
            channels, height, width = frame_shape
            self._stack = FrameStack((channels, height, width), self.frame_stack, stack_start)
            self.observation_space = gymnasium.spaces.Box(0, 255, self._stack.shape, np.uint8)
        else:
            self.observation_space = gymnasium.spaces.Box(-np.inf, np.inf, frame_shape, np.float32)
        self._over = True

    @abstractmethod
    def _begin(self, seed: int | None) -> None:
        """Start an episode, from the given seed if there is one."""

    @abstractmethod
    def _advance(self, action: Any) -> tuple[float, bool, bool]:
        """One simulator step: reward, terminated, truncated."""

    @abstractmethod
    def _look(self) -> NDArray[Any]:
        """What is seen now: a frame uint8 ``[C, H, W]`` (a view will do), or a state float32 ``[D]`` (a new array)."""

    @abstractmethod
    def _save(self) -> dict[str, Any]:
        """Everything that changes, below the frame stack."""

    @abstractmethod
    def _load(self, state: dict[str, Any]) -> None:
        """Put back what ``_save`` gave."""

    def _translate(self, action: Any) -> Any:
        """From the action space to what ``_advance`` takes; once per ``step``."""
        return action

    def _info(self) -> dict[str, Any]:
        return {}

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[NDArray[Any], dict[str, Any]]:
        """Start an episode. Without a seed the random numbers go on where they were; at first they come from the seed the environment was made with."""
        super().reset(seed=seed)
        self._begin(seed)
        self._over = False
        seen = self._look()
        return (seen if self._stack is None else self._stack.begin(seen)), self._info()

    def step(self, action: Any) -> tuple[NDArray[Any], float, bool, bool, dict[str, Any]]:
        """Raises gymnasium.error.ResetNeeded before the first reset and after the end of an episode."""
        if self._over:
            raise gymnasium.error.ResetNeeded("the episode is over: call reset() before step()")
        translated = self._translate(action)
        total, terminated, truncated = 0.0, False, False
        for _ in range(self.action_repeat):
            reward, terminated, truncated = self._advance(translated)
            total += reward
            if terminated or truncated:
                break
        self._over = terminated or truncated
        seen = self._look()
        return (seen if self._stack is None else self._stack.push(seen)), total, terminated, truncated, self._info()

    def state_dict(self) -> dict[str, Any]:
        """All that decides what comes next, random numbers included, as leaves: restored in another process, the same actions see the same.

        Raises mcurl.envs.CannotSave where the simulator cannot be saved.
        """
        state: dict[str, Any] = {"over": self._over, "simulator": self._save()}
        if self._stack is not None:
            state["frames"] = self._stack.state_dict()
        return state

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from where ``state_dict`` was called. Raises ValueError where the state is that of another environment."""
        if self._stack is not None:
            self._stack.load_state_dict(state["frames"])
        self._load(state["simulator"])
        self._over = bool(state["over"])


def at_least_one(name: str, value: int) -> int:
    """The value; raises UserError below 1."""
    if value < 1:
        raise UserError(f"{name} must be at least 1, got {value}")
    return value


class Rescaled(gymnasium.spaces.Box):
    """The box ``[-1, 1]^A`` in which agents act (float32), and the affine map from it to a simulator's own bounds."""

    def __init__(self, low: NDArray[Any], high: NDArray[Any]) -> None:
        super().__init__(-1.0, 1.0, (np.size(low),), np.float32)
        self._middle = (np.ravel(high).astype(np.float64) + np.ravel(low)) / 2
        self._half = (np.ravel(high).astype(np.float64) - np.ravel(low)) / 2

    def to_simulator(self, action: Any) -> NDArray[np.float64]:
        """``[A]``, float64, within the simulator's bounds; what lies outside ``[-1, 1]`` is clipped."""
        inside = np.clip(np.asarray(action, np.float64).reshape(self.shape), -1.0, 1.0)
        scaled: NDArray[np.float64] = self._middle + self._half * inside
        return scaled
