"""Frame stacks, repeated actions, rescaled actions."""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
import pytest
from numpy.typing import NDArray

import mcurl
from mcurl.envs.stack import FrameStack, Rescaling, StackedEnv
from mcurl.errors import UserError


def frame(value: int) -> NDArray[np.uint8]:
    return np.full((2, 3, 3), value, np.uint8)


@pytest.mark.parametrize(("start", "first"), [("repeat", [1, 1, 1]), ("blank", [0, 0, 1])])
def test_order_and_start(start: Any, first: list[int]) -> None:
    stack = FrameStack((2, 3, 3), 3, start)
    assert stack.begin(frame(1))[::2, 0, 0].tolist() == first
    stack.push(frame(2))
    pushed = stack.push(frame(3))
    assert pushed[::2, 0, 0].tolist() == [first[2], 2, 3]
    assert pushed.dtype == np.uint8
    assert pushed.shape == stack.shape == (6, 3, 3)
    assert stack.begin(frame(4))[::2, 0, 0].tolist() == [4 * (value or start == "repeat") for value in first]


def test_a_single_frame_is_a_stack() -> None:
    stack = FrameStack((2, 3, 3), 1, "blank")
    assert np.array_equal(stack.begin(frame(1)), frame(1))
    assert np.array_equal(stack.push(frame(2)), frame(2))


def test_what_was_handed_out_stays() -> None:
    stack = FrameStack((2, 3, 3), 2)
    seen = stack.begin(frame(1))
    seen[:] = 9
    assert stack.push(frame(2))[::2, 0, 0].tolist() == [1, 2]


def test_saved_and_refused() -> None:
    stack, other = FrameStack((2, 3, 3), 2), FrameStack((2, 3, 3), 2)
    stack.begin(frame(1))
    saved = stack.state_dict()
    stack.push(frame(5))
    other.load_state_dict(saved)
    assert other.push(frame(2))[::2, 0, 0].tolist() == [1, 2]
    with pytest.raises(UserError, match="frame stack of shape"):
        FrameStack((2, 3, 3), 3).load_state_dict(saved)


def test_rescaling() -> None:
    rescaling = Rescaling(np.array([-1.0, 0.0, -2.0]), np.array([1.0, 10.0, 1.0]))
    assert rescaling.space == gymnasium.spaces.Box(-1, 1, (3,), np.float32)
    assert rescaling(np.float32([-1, -1, -1])).tolist() == [-1, 0, -2]
    assert rescaling(np.float32([1, 1, 1])).tolist() == [1, 10, 1]
    assert rescaling(np.float32([0.5, 0, 0])).tolist() == [0.5, 5, -0.5]
    assert rescaling(np.float32([1.5, -7, 0])).tolist() == [1, 0, -0.5]
    for low, high in ((0.4, 2.9), (-1.7, 0.3)):  # in float64 the middle less a half is not the bound
        ends = Rescaling(np.array([low]), np.array([high]))
        assert low <= ends([-1.0])[0] <= ends([1.0])[0] <= high
    assert Rescaling(np.zeros((2, 2)), np.ones((2, 2)))(np.zeros(4)).tolist() == [[0.5, 0.5], [0.5, 0.5]]


class Counting(StackedEnv):
    """Frame and reward number n at step n; ends after ``length`` steps."""

    def __init__(self, repeat: int, length: int, *, terminates: bool) -> None:
        super().__init__((1, 2, 2), 3, repeat, 30)
        self.action_space = gymnasium.spaces.Discrete(2)
        self._length, self._terminates, self._count = length, terminates, 0

    def _begin(self, seed: int | None) -> None:
        self._count = 0

    def _advance(self, action: Any) -> tuple[float, bool, bool]:
        self._count += 1
        over = self._count == self._length
        return float(self._count), over and self._terminates, over and not self._terminates

    def _look(self) -> NDArray[np.uint8]:
        return np.full((1, 2, 2), self._count, np.uint8)

    def _save(self) -> dict[str, Any]:
        return {"count": self._count}

    def _load(self, state: dict[str, Any]) -> None:
        self._count = state["count"]


@pytest.mark.parametrize("terminates", [True, False])
def test_repeats_sum_rewards_and_stop_at_the_end(terminates: bool) -> None:
    env = Counting(repeat=4, length=6, terminates=terminates)
    assert env.reset()[0][:, 0, 0].tolist() == [0, 0, 0]
    seen, reward, *flags, _ = env.step(0)
    assert (seen[:, 0, 0].tolist(), reward, flags) == ([0, 0, 4], 1 + 2 + 3 + 4, [False, False])
    seen, reward, *flags, _ = env.step(0)
    assert (seen[:, 0, 0].tolist(), reward, flags) == ([0, 4, 6], 5 + 6, [terminates, not terminates])


def test_steps_need_a_reset() -> None:
    env = Counting(repeat=1, length=1, terminates=True)
    with pytest.raises(gymnasium.error.ResetNeeded):
        env.step(0)
    env.reset()
    env.step(0)
    with pytest.raises(gymnasium.error.ResetNeeded):
        env.step(0)
    again = Counting(repeat=1, length=1, terminates=True)
    again.load_state_dict(env.state_dict())
    with pytest.raises(gymnasium.error.ResetNeeded):
        again.step(0)


@pytest.mark.parametrize(
    ("task", "action", "says"),
    [
        ("toy/catch", 3, "the action must be an integer from 0 to 2, not 3"),
        ("toy/catch", -1, "the action must be an integer from 0 to 2, not -1"),
        ("toy/catch", 1.5, "the action must be an integer from 0 to 2, not 1.5"),
        ("toy/catch", None, "the action must be an integer from 0 to 2, not None"),
        ("toy/reach", [0.5], "the action must be 2 finite numbers, not [0.5]"),
        ("toy/reach", [0.5, float("nan")], "the action must be 2 finite numbers, not [0.5, nan]"),
        ("toy/reach", ["up", "left"], "the action must be 2 finite numbers, not ['up', 'left']"),
        ("dmc/cartpole-swingup", np.float32([np.inf]), "the action must be a finite number, not [inf]"),
        ("atari/Pong", -1, "the action must be an integer from 0 to 5, not -1"),
        ("atari/Pong", 99, "the action must be an integer from 0 to 5, not 99"),
        ("gym/CartPole-v1", -1, "the action must be an integer from 0 to 1, not -1"),
    ],
)
def test_invalid_actions_are_refused(task: str, action: Any, says: str) -> None:
    """Each is refused before anything moves, also the -1 that Python takes for the last action."""
    env, other = mcurl.make_env(task), mcurl.make_env(task)
    env.reset(seed=3)
    other.reset(seed=3)
    with pytest.raises(gymnasium.error.InvalidAction) as raised:
        env.step(action)
    assert str(raised.value) == says
    env.action_space.seed(0)
    good = env.action_space.sample()
    np.testing.assert_array_equal(env.step(good)[0], other.step(good)[0])
    env.close()
    other.close()
