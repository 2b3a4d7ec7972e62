"""Returns depend on the policy, the seed and the moment; not on how many episodes are played side by side."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import gymnasium
import numpy as np
import pytest
from helpers import clock

from mcurl.config.resolve import resolve
from mcurl.episodes import evaluate
from mcurl.evaluate import evaluate_policy


class Walk(gymnasium.Env[Any, Any]):
    """Observation: the sum of the actions and of noise. Ends after 3 to 9 steps, drawn at its reset; never, if
    ``endless``."""

    open = 0

    def __init__(self, seed: int, endless: bool = False) -> None:
        self.action_space, self.endless = gymnasium.spaces.Discrete(4), endless
        self.observation_space = gymnasium.spaces.Box(0, 255, (1, 2, 2), np.uint8)
        Walk.open += 1

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        super().reset(seed=seed)
        self.left, self.place = int(self.np_random.integers(3, 10)), 0
        return self.see(), {}

    def see(self) -> Any:
        return np.full((1, 2, 2), self.place % 256, np.uint8)

    def step(self, action: Any) -> Any:
        self.left -= 1
        self.place += int(action) + int(self.np_random.integers(5))
        return self.see(), self.place / 7, self.left == 0 and not self.endless, False, {}

    def close(self) -> None:
        Walk.open -= 1


def act(observations: np.ndarray) -> np.ndarray:
    return observations[:, 0, 0, 0].astype(np.int64) % 4


@pytest.mark.parametrize("epsilon", [0.0, 0.5])
def test_the_returns_do_not_depend_on_how_many_play_side_by_side(epsilon: float) -> None:
    alone, three, more = (evaluate(act, Walk, 7, seed=1, parallel=n, epsilon=epsilon) for n in (1, 3, 99))
    assert alone.dtype == np.float64
    assert alone.shape == (7,)
    assert len(set(alone)) > 3
    np.testing.assert_array_equal(alone, three)
    np.testing.assert_array_equal(alone, more)


def test_it_equals_a_plain_loop() -> None:
    from mcurl.runtime import seeding

    expected = []
    for episode in range(4):
        env, total, over = Walk(0), 0.0, False
        observation, _ = env.reset(seed=seeding.integer(5, "evaluate", 20_000, episode))
        while not over:
            observation, reward, over, _, _ = env.step(act(observation[None])[0])
            total += reward
        expected.append(total)
    np.testing.assert_array_equal(evaluate(act, Walk, 4, 5, env_steps=20_000, parallel=3), expected)


def test_seed_and_moment_choose_the_episodes_and_nothing_is_left_over() -> None:
    first = evaluate(act, Walk, 5, 1, env_steps=100)
    assert (first == evaluate(act, Walk, 5, 1, env_steps=100)).all()
    assert (first != evaluate(act, Walk, 5, 2, env_steps=100)).any()
    assert (first != evaluate(act, Walk, 5, 1, env_steps=200)).any()


def test_epsilon_one_ignores_the_policy() -> None:
    random = evaluate(act, Walk, 5, 1, epsilon=1.0)
    np.testing.assert_array_equal(random, evaluate(lambda seen: np.zeros(len(seen), np.int64), Walk, 5, 1, epsilon=1.0))
    assert (random != evaluate(act, Walk, 5, 1)).any()


@pytest.mark.parametrize("epsilon", [0.0, 1.0])
def test_a_policy_is_evaluated_with_the_epsilon_of_its_agent(epsilon: float) -> None:
    settings = resolve("toy/reach", "rl-only")

    def returns(action: float) -> np.ndarray:
        agent: Any = SimpleNamespace(evaluation_epsilon=epsilon, act=lambda seen, **_: np.full((len(seen), 2), action))
        return evaluate_policy(settings, agent, clock(), 3, seed=1)

    assert np.array_equal(returns(-1.0), returns(1.0)) == (epsilon == 1)


def test_the_policy_always_sees_a_full_batch() -> None:
    seen = set()

    def watched(observations: np.ndarray) -> np.ndarray:
        seen.add((observations.shape, observations.dtype))
        return act(observations)

    evaluate(watched, Walk, 7, 1, parallel=3)
    assert seen == {((3, 1, 2, 2), np.dtype(np.uint8))}


def test_an_endless_episode_is_cut_off() -> None:
    returns = evaluate(act, lambda seed: Walk(seed, endless=True), 3, 1, parallel=2, max_episode_steps=20)
    assert np.isfinite(returns).all()


def test_environments_are_closed_also_where_something_fails() -> None:
    Walk.open = 0

    steps = iter(range(3))

    def stop(finished: int) -> None:
        if next(steps) == 2:
            raise InterruptedError

    with pytest.raises(InterruptedError):
        evaluate(act, Walk, 6, 1, parallel=3, callback=stop)
    assert Walk.open == 0
    evaluate(act, Walk, 3, 1)
    assert Walk.open == 0
