"""The toy games: learnable, and only by looking."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import gymnasium
import numpy as np
import pytest

from mcurl.envs import make_env
from mcurl.envs.toy import ToySettings

Policy = Callable[[np.ndarray], Any]


def score(task: str, policy: Policy, episodes: int = 100) -> float:
    env = make_env(ToySettings(task, "state"), seed=0)
    total = 0.0
    for _ in range(episodes):
        seen, _ = env.reset()
        over = False
        while not over:
            seen, reward, terminated, truncated, _ = env.step(policy(seen))
            total += float(reward)
            over = terminated or truncated
    return total / episodes


def to_the_target(state: np.ndarray) -> np.ndarray:
    return np.clip((state[2:] - state[:2]) / 0.3, -1, 1)


def to_the_ball(state: np.ndarray) -> int:
    return 1 + int(np.sign(round(float(state[0] - state[2]), 3)))


def test_looking_pays() -> None:
    generator = np.random.default_rng(0)
    assert score("reach", to_the_target) > 22
    assert score("reach", lambda _: generator.uniform(-1, 1, 2)) < 7
    assert score("reach", lambda state: np.clip(-state[:2] / 0.3, -1, 1)) < 8
    assert score("catch", to_the_ball) == 1
    assert score("catch", lambda _: generator.integers(3)) < -0.4
    assert score("catch", lambda _: 1) < -0.4


@pytest.mark.parametrize("task", ["reach", "catch"])
@pytest.mark.parametrize("observation", ["pixels", "state"])
@pytest.mark.filterwarnings("ignore:.*(not having a spec|infinity)")
def test_gymnasium_s_checker(task: str, observation: Any) -> None:
    from gymnasium.utils.env_checker import check_env

    check_env(make_env(ToySettings(task, observation), seed=0))


def test_ends() -> None:
    reach = make_env(ToySettings("reach", action_repeat=2), seed=0)
    reach.reset()
    flags = [reach.step(np.zeros(2))[2:4] for _ in range(13)]
    assert flags == [(False, False)] * 12 + [(False, True)]
    catch = make_env(ToySettings("catch"), seed=0)
    assert catch.reset()[1] == {"life_lost": False}
    steps = [catch.step(1) for _ in range(12)]
    assert [step[2:4] for step in steps] == [(False, False)] * 11 + [(True, False)]
    assert [step[1] for step in steps[:-1]] == [0.0] * 11
    assert steps[-1][1] in (-1.0, 1.0)
    assert steps[-1][4] == {"life_lost": False}


def test_attributes() -> None:
    reach = make_env(ToySettings("reach"), seed=0)
    assert (reach.frame_shape, reach.frame_stack, reach.action_repeat, reach.stack_start) == (
        (3, 28, 28),
        3,
        1,
        "repeat",
    )
    assert reach.observation_space == gymnasium.spaces.Box(0, 255, (9, 28, 28), np.uint8)
    assert reach.action_space == gymnasium.spaces.Box(-1, 1, (2,), np.float32)
    catch = make_env(ToySettings("catch", "state"), seed=0)
    assert (catch.frame_shape, catch.frame_stack) == ((3,), 1)
    assert catch.action_space == gymnasium.spaces.Discrete(3)


@pytest.mark.parametrize("task", ["reach", "catch"])
@pytest.mark.parametrize("size", [14, 28, 84])
def test_the_frame_tells_the_state(task: str, size: int) -> None:
    env = make_env(ToySettings(task, image_size=size, frame_stack=1), seed=1)
    env.action_space.seed(1)
    for _ in range(20):
        seen, _ = env.reset()
        seen = env.step(env.action_space.sample())[0]
        state = env._state()
        if task == "reach":
            across = [np.argwhere(channel).mean(0)[1] for channel in seen[:2]]
            assert np.sign(across[1] - across[0]) * (state[2] - state[0]) >= 0
            dot = np.ptp(np.argwhere(seen[0])[:, 1]) + 1  # pixels across; it stays as far from the edges as it is wide
            assert abs((across[1] - across[0]) - (state[2] - state[0]) * (size - 3 * dot) / 2) <= 1
            assert not seen[2].any()
        else:
            paddle, ball = (np.argwhere(rows.any(0)).mean() for rows in (seen[0, -2:], seen[0, :-2]))
            assert np.sign(round(float(state[0] - state[2]), 3)) == np.sign(ball - paddle)
        assert env.render().shape == (size, size, 3)


def test_seeds_repeat_and_differ() -> None:
    def episodes(env: Any, seed: int | None = None) -> list[bytes]:
        return [env.reset(seed=seed)[0].tobytes(), env.reset()[0].tobytes()]

    for task in ("reach", "catch"):
        make = [make_env(ToySettings(task, "state"), seed) for seed in (4, 4, 5)]
        first = episodes(make[0])
        assert first == episodes(make[1])
        assert first != episodes(make[2])
        assert first[0] != first[1]
        assert episodes(make[2], seed=4) == first
