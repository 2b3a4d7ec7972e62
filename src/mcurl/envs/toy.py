"""Two small games, drawn in NumPy, that an agent learns in minutes, and only by looking: where things are is drawn anew
in each episode.

`reach`: a red dot is steered to a green one. Its reward grows from 0 to 1 as they come together; after 25 steps the
time limit ends it. `catch`: a ball falls for 12 steps; the paddle below goes left, stays or goes right. The game ends
with +1 if the paddle is under the ball, otherwise with -1.

| mean score of 2000 episodes | random actions | blind: to the middle | best: straight to it |
|---|---|---|---|
| reach | 3.7 | 5.0 | 23.5 |
| catch | -0.72 | -0.71 | 1 |

One frame tells all there is to know.
"""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from typing import Any, Literal, get_args

import gymnasium
import numpy as np
from numpy.typing import NDArray

from mcurl.envs.stack import StackedEnv, check_settings
from mcurl.errors import UserError, suggest

Observation = Literal["pixels", "state"]


@dataclass(frozen=True)
class ToySettings:
    """Which toy game, and how it is seen."""

    task: str = "reach"
    """the game: reach (continuous actions) or catch (three actions)"""
    observation: Observation = "pixels"
    """what the agent sees: pictures, or the positions"""
    image_size: int = 28
    """height and width of a frame in pixels"""
    frame_stack: int = 3
    """how many of the last frames an observation holds"""
    action_repeat: int = 1
    """steps of the game per agent step; rewards are summed over them"""

    def __post_init__(self) -> None:
        check_settings(
            self, {"image_size": 14, "frame_stack": 1, "action_repeat": 1}, {"observation": get_args(Observation)}
        )


def tasks() -> list[str]:
    """The names of the games."""
    return list(_GAMES)


def resolve(name: str) -> str:
    """A game's own name for any spelling of it. Raises UserError for an unknown game."""
    if name.strip().lower() not in _GAMES:
        raise UserError(f"there is no toy game {name!r}: {suggest(name, _GAMES)}")
    return name.strip().lower()


def make(settings: ToySettings, seed: int) -> ToyEnv:
    """The game that the settings name. Raises UserError for an unknown one."""
    return _GAMES[resolve(settings.task)](settings, seed)


class ToyEnv(StackedEnv):
    """What the games share: a few numbers that move, a count of steps, random numbers."""

    channels: int
    """Of a frame."""
    numbers: int
    """In a state."""

    def __init__(self, settings: ToySettings, seed: int) -> None:
        self.settings = settings
        size = settings.image_size
        shape = (self.channels, size, size) if settings.observation == "pixels" else (self.numbers,)
        super().__init__(shape, settings.frame_stack, settings.action_repeat, 10)
        self._moving: NDArray[Any] = np.zeros(self.numbers)
        self._steps = 0
        gymnasium.Env.reset(self, seed=seed)

    @abstractmethod
    def _draw(self) -> NDArray[np.uint8]:
        """The frame, uint8 [C, H, W]."""

    @abstractmethod
    def _state(self) -> NDArray[np.float32]:
        """The state [D], within [-1, 1]."""

    def _look(self) -> NDArray[Any]:
        return self._draw() if self._stack is not None else self._state()

    def render(self) -> NDArray[np.uint8]:  # type: ignore[override]
        """The frame in colour, uint8 ``[image_size, image_size, 3]``."""
        frame = self._draw()
        return np.broadcast_to(frame, (3, *frame.shape[1:])).transpose(1, 2, 0).copy()

    def _save(self) -> dict[str, Any]:
        return {"moving": self._moving.copy(), "steps": self._steps, "generator": self.np_random.bit_generator.state}

    def _load(self, state: dict[str, Any]) -> None:
        self._moving = np.array(state["moving"])
        self._steps = state["steps"]
        self.np_random.bit_generator.state = state["generator"]


class ReachEnv(ToyEnv):
    """``toy/reach``. Actions: float32 ``[2]`` in ``[-1, 1]``, right and down. States: float32 ``[4]``, the dot and the
    target in ``[-1, 1]``."""

    channels = 3
    numbers = 4
    _LIMIT = 25
    _SPEED = 0.3
    # Squared distance at which the reward is 1/2.
    _NEAR = 0.1

    def __init__(self, settings: ToySettings, seed: int) -> None:
        super().__init__(settings, seed)
        self.action_space = gymnasium.spaces.Box(-1.0, 1.0, (2,), np.float32)

    def _begin(self, seed: int | None) -> None:
        self._moving = self.np_random.uniform(-1, 1, 4)
        self._steps = 0

    def _advance(self, action: Any) -> tuple[float, bool, bool]:
        dot, target = self._moving[:2], self._moving[2:]
        dot += self._SPEED * np.clip(np.asarray(action, np.float64), -1, 1)
        dot.clip(-1, 1, out=dot)
        self._steps += 1
        distance = float(np.sum((dot - target) ** 2))
        return self._NEAR / (self._NEAR + distance), False, self._steps == self._LIMIT

    def _draw(self) -> NDArray[np.uint8]:
        size = self.settings.image_size
        # The dots stay off the edges, so that a random crop keeps them.
        side = edge = size // 9 + (size < 27)
        corners = np.rint(edge + (self._moving + 1) / 2 * (size - side - 2 * edge)).astype(int)
        frame = np.zeros((3, size, size), np.uint8)
        for channel, (x, y) in enumerate(corners.reshape(2, 2)):
            frame[channel, y : y + side, x : x + side] = 255
        return frame

    def _state(self) -> NDArray[np.float32]:
        return self._moving.astype(np.float32)


class CatchEnv(ToyEnv):
    """``toy/catch``. Actions: 0 left, 1 stay, 2 right. States: float32 ``[3]``, the ball across and down and the paddle
    across, in ``[-1, 1]``."""

    channels = 1
    numbers = 3
    _COLUMNS = 7
    _FALL = 12

    def __init__(self, settings: ToySettings, seed: int) -> None:
        super().__init__(settings, seed)
        self.action_space = gymnasium.spaces.Discrete(3)

    def _begin(self, seed: int | None) -> None:
        ball, paddle = self.np_random.integers(self._COLUMNS, size=2)
        self._moving = np.array([ball, 0, paddle])
        self._steps = 0

    def _advance(self, action: Any) -> tuple[float, bool, bool]:
        ball, _, paddle = self._moving
        paddle = min(max(paddle + int(action) - 1, 0), self._COLUMNS - 1)
        self._steps += 1
        self._moving = np.array([ball, self._steps, paddle])
        fallen = self._steps == self._FALL
        return (1.0 if ball == paddle else -1.0) if fallen else 0.0, fallen, False

    def _info(self) -> dict[str, Any]:
        return {"life_lost": False}

    def _draw(self) -> NDArray[np.uint8]:
        size = self.settings.image_size
        ball, fallen, paddle = self._moving
        side = size // self._COLUMNS
        top = round(fallen / self._FALL * (size - 2 * side))
        frame = np.zeros((1, size, size), np.uint8)
        frame[0, top : top + side, ball * side : (ball + 1) * side] = 255
        frame[0, size - side // 2 :, paddle * side : (paddle + 1) * side] = 255
        return frame

    def _state(self) -> NDArray[np.float32]:
        return (2 * self._moving / (self._COLUMNS - 1, self._FALL, self._COLUMNS - 1) - 1).astype(np.float32)


_GAMES: dict[str, type[ReachEnv | CatchEnv]] = {"reach": ReachEnv, "catch": CatchEnv}
