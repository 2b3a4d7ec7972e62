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
        """The stack at an episode's first frame, uint8 ``[C, H, W]`` (any strides): that frame repeated, or blanks
        before it."""
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
        """Raises UserError where the saved stack has another shape."""
        stack = np.asarray(state["stack"])
        if stack.shape != self._stack.shape:
            raise UserError(f"the saved state has a frame stack of shape {stack.shape}, not {self._stack.shape}")
        self._stack[:] = stack


class StackedEnv(gymnasium.Env[NDArray[Any], Any]):
    """A Gymnasium environment built on one that shows single frames.

    ``step`` repeats the action ``action_repeat`` times, sums the rewards, stops where the episode ends, and looks once,
    at the last of them. A suite gives ``_begin``, ``_advance``, ``_look``, ``_save``, ``_load``. A three-dimensional
    ``frame_shape`` means pixels, which are stacked; a one-dimensional one means a state, which is not.
    """

    frame_shape: tuple[int, ...]
    """``(C, H, W)``, or ``(D,)`` for states."""
    frame_stack: int
    """K: how many frames an observation holds; 1 for states."""
    action_repeat: int
    """Simulator steps per ``step``."""
    stack_start: StackStart
    """What stands before an episode's first frame."""

    def __init__(
        self, frame_shape: tuple[int, ...], frame_stack: int, action_repeat: int, frames_per_second: float
    ) -> None:
        """``frames_per_second``: agent steps per second of the simulated world, for videos."""
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

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[NDArray[Any], dict[str, Any]]:
        """Start an episode. Without a seed the random numbers go on where they were; at first they come from the seed
        the environment was made with."""
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
        """All that decides what comes next, random numbers included, as leaves: restored in another process, the same
        actions see the same.

        Raises mcurl.envs.CannotSave where the simulator cannot be saved.
        """
        state: dict[str, Any] = {"over": self._over, "simulator": self._save()}
        if self._stack is not None:
            state["frames"] = self._stack.state_dict()
        return state

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from where ``state_dict`` was called. Raises UserError where the state is another environment's."""
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


def check_settings(settings: Any, least: dict[str, int], choices: dict[str, tuple[str, ...]]) -> None:
    """Raises UserError where a number is below its least value, or a name is none of its choices."""
    for name, lowest in least.items():
        if getattr(settings, name) < lowest:
            raise UserError(f"{name} must be at least {lowest}, not {getattr(settings, name)}")
    for name, allowed in choices.items():
        if getattr(settings, name) not in allowed:
            raise UserError(f"{name} must be one of {', '.join(allowed)}, not {getattr(settings, name)!r}")


class Rescaling:
    """The box ``[-1, 1]^A`` in which agents act, and the affine map from it to a simulator's own bounds."""

    def __init__(self, low: NDArray[Any], high: NDArray[Any]) -> None:
        """From a simulator's finite bounds, of one shape."""
        low, high = np.asarray(low, np.float64), np.asarray(high, np.float64)
        self._middle, self._half = (high + low) / 2, (high - low) / 2
        self.space = gymnasium.spaces.Box(-1.0, 1.0, (low.size,), np.float32)

    def __call__(self, action: Any) -> NDArray[np.float64]:
        """From ``[A]`` in ``[-1, 1]`` (what lies outside is clipped) to the simulator's shape and bounds, float64."""
        inside = np.asarray(action, np.float64).reshape(self._middle.shape).clip(-1.0, 1.0)
        scaled: NDArray[np.float64] = self._middle + self._half * inside
        return scaled
