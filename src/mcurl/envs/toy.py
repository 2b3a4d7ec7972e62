"""Two small games, rendered with NumPy, that an agent learns in minutes.

`reach`: the agent moves a red dot to a green target. The reward grows from 0 to 1 as their distance shrinks; an episode
is truncated after 25 steps. `catch`: a ball falls for 12 steps, and the agent moves a paddle left or right, or not at
all. The episode ends with a reward of 1 if the paddle is below the ball, else -1.

Start positions are random in each episode, so an agent must use the pixels. One frame shows the full state.

| mean score of 2000 episodes | random actions | moving to the middle | optimal |
|---|---|---|---|
| reach | 3.7 | 5.0 | 23.5 |
| catch | -0.72 | -0.71 | 1 |
"""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass, replace
from typing import Any, Literal, get_args

import gymnasium
import numpy as np
from numpy.typing import NDArray

from mcurl.envs.stack import StackedEnv, check_settings
from mcurl.errors import UserError, suggest

Observation = Literal["pixels", "state"]


@dataclass(frozen=True)
class ToySettings:
    """The toy game and its observations."""

    task: str = "reach"
    """The game: reach (continuous actions) or catch (three actions)."""
    observation: Observation = "pixels"
    """Observations: pixels, or the state (positions)."""
    image_size: int = 28
    """Height and width of a frame in pixels."""
    frame_stack: int = 3
    """Frames in an observation."""
    action_repeat: int = 1
    """Steps of the game per agent step; rewards are summed."""

    def __post_init__(self) -> None:
        check_settings(
            self, {"image_size": 14, "frame_stack": 1, "action_repeat": 1}, {"observation": get_args(Observation)}
        )


def tasks() -> list[str]:
    """The names of the games."""
    return list(_GAMES)


def resolve(name: str) -> str:
    """The canonical name of a game; the case of ``name`` is ignored. Raises UserError for an unknown game."""
    if name.strip().lower() not in _GAMES:
        raise UserError(f"there is no toy game {name!r}: {suggest(name, _GAMES)}")
    return name.strip().lower()


def make(settings: ToySettings, seed: int) -> ToyEnv:
    """Make the game. Raises UserError for an unknown one."""
    return _GAMES[resolve(settings.task)](settings, seed)


def make_without_pixels(settings: ToySettings, seed: int) -> ToyEnv:
    """Make the game with states as its observations."""
    return make(replace(settings, observation="state"), seed)


class ToyEnv(StackedEnv):
    """Base of the games. The state of a game is an array of positions and a count of steps."""

    channels: int
    """Channels of a frame."""
    state_dim: int
    """Number of positions."""

    def __init__(self, settings: ToySettings, seed: int) -> None:
        self.settings = settings
        size = settings.image_size
        shape = (self.channels, size, size) if settings.observation == "pixels" else (self.state_dim,)
        super().__init__(shape, settings.frame_stack, settings.action_repeat, 10)
        self._positions: NDArray[Any] = np.zeros(self.state_dim)
        self._steps = 0
        gymnasium.Env.reset(self, seed=seed)

    @abstractmethod
    def _render_frame(self) -> NDArray[np.uint8]:
        """The frame, ``uint8 [C, H, W]``."""

    @abstractmethod
    def _state(self) -> NDArray[np.float32]:
        """The state, ``float32 [D]`` in [-1, 1]."""

    def _look(self) -> NDArray[Any]:
        return self._render_frame() if self._stack is not None else self._state()

    def render(self) -> NDArray[np.uint8]:  # type: ignore[override]
        """The frame in colour, ``uint8 [image_size, image_size, 3]``."""
        frame = self._render_frame()
        return np.broadcast_to(frame, (3, *frame.shape[1:])).transpose(1, 2, 0).copy()

    def _save(self) -> dict[str, Any]:
        return {"moving": self._positions.copy(), "steps": self._steps, "generator": self.np_random.bit_generator.state}

    def _load(self, state: dict[str, Any]) -> None:
        self._positions = np.array(state["moving"])
        self._steps = state["steps"]
        self.np_random.bit_generator.state = state["generator"]


class ReachEnv(ToyEnv):
    """``toy/reach``.

    Actions: ``float32 [2]`` in [-1, 1], right and down. States: ``float32 [4]``, dot and target in [-1, 1].
    """

    channels = 3
    state_dim = 4
    _LIMIT = 25
    _SPEED = 0.3
    _NEAR = 0.1  # squared distance with a reward of 1/2

    def __init__(self, settings: ToySettings, seed: int) -> None:
        super().__init__(settings, seed)
        self.action_space = gymnasium.spaces.Box(-1.0, 1.0, (2,), np.float32)

    def _begin(self, seed: int | None) -> None:
        self._positions = self.np_random.uniform(-1, 1, 4)
        self._steps = 0

    def _advance(self, action: Any) -> tuple[float, bool, bool]:
        dot, target = self._positions[:2], self._positions[2:]
        dot += self._SPEED * np.clip(np.asarray(action, np.float64), -1, 1)
        dot.clip(-1, 1, out=dot)
        self._steps += 1
        distance = float(np.sum((dot - target) ** 2))
        return self._NEAR / (self._NEAR + distance), False, self._steps == self._LIMIT

    def _render_frame(self) -> NDArray[np.uint8]:
        size = self.settings.image_size
        # Margin at the edges, so that random crops contain both dots.
        side = edge = size // 9 + (size < 27)
        corners = np.rint(edge + (self._positions + 1) / 2 * (size - side - 2 * edge)).astype(int)
        frame = np.zeros((3, size, size), np.uint8)
        for channel, (x, y) in enumerate(corners.reshape(2, 2)):
            frame[channel, y : y + side, x : x + side] = 255
        return frame

    def _state(self) -> NDArray[np.float32]:
        return self._positions.astype(np.float32)


class CatchEnv(ToyEnv):
    """``toy/catch``.

    Actions: 0 left, 1 stay, 2 right. States: ``float32 [3]``, column and row of the ball, and column of the paddle,
    in [-1, 1].
    """

    channels = 1
    state_dim = 3
    _COLUMNS = 7
    _FALL = 12

    def __init__(self, settings: ToySettings, seed: int) -> None:
        super().__init__(settings, seed)
        self.action_space = gymnasium.spaces.Discrete(3)

    def _begin(self, seed: int | None) -> None:
        ball, paddle = self.np_random.integers(self._COLUMNS, size=2)
        self._positions = np.array([ball, 0, paddle])
        self._steps = 0

    def _advance(self, action: Any) -> tuple[float, bool, bool]:
        ball, _, paddle = self._positions
        paddle = min(max(paddle + int(action) - 1, 0), self._COLUMNS - 1)
        self._steps += 1
        self._positions = np.array([ball, self._steps, paddle])
        fallen = self._steps == self._FALL
        return (1.0 if ball == paddle else -1.0) if fallen else 0.0, fallen, False

    def _info(self) -> dict[str, Any]:
        return {"life_lost": False}

    def _render_frame(self) -> NDArray[np.uint8]:
        size = self.settings.image_size
        ball, fallen, paddle = self._positions
        side = size // self._COLUMNS
        top = round(fallen / self._FALL * (size - 2 * side))
        frame = np.zeros((1, size, size), np.uint8)
        frame[0, top : top + side, ball * side : (ball + 1) * side] = 255
        frame[0, size - side // 2 :, paddle * side : (paddle + 1) * side] = 255
        return frame

    def _state(self) -> NDArray[np.float32]:
        return (2 * self._positions / (self._COLUMNS - 1, self._FALL, self._COLUMNS - 1) - 1).astype(np.float32)


_GAMES: dict[str, type[ReachEnv | CatchEnv]] = {"reach": ReachEnv, "catch": CatchEnv}
