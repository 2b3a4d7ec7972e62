"""A game that an agent learns in some hundred updates: say where the bright bar of an image is."""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np

SIDE = 12


class Bar(gymnasium.Env[np.ndarray, Any]):
    """Images ``uint8 [1, 12, 12]`` with a bar in one column, which moves by one column per step.

    Continuous: the action is the column, from -1 to 1; the reward is minus the distance. Discrete: left half or right
    half; the reward is 1 or 0.
    """

    def __init__(self, discrete: bool = False, length: int = 6) -> None:
        self.observation_space = gymnasium.spaces.Box(0, 255, (1, SIDE, SIDE), np.uint8)
        self.discrete, self.length = discrete, length
        box = gymnasium.spaces.Box(-1, 1, (1,), np.float32)
        self.action_space = gymnasium.spaces.Discrete(2) if discrete else box

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[np.ndarray, dict[str, Any]]:
        super().reset(seed=seed)
        self.column, self.steps = int(self.np_random.integers(SIDE)), 0
        return self._image(), {}

    def step(self, action: Any) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        target = 2 * self.column / (SIDE - 1) - 1
        reward = float(int(action) == (target > 0)) if self.discrete else -abs(float(action[0]) - target)
        self.column, self.steps = (self.column + 1) % SIDE, self.steps + 1
        return self._image(), reward, False, self.steps >= self.length, {}

    def _image(self) -> np.ndarray:
        image = np.zeros((1, SIDE, SIDE), np.uint8)
        image[:, :, self.column] = 255
        return image
