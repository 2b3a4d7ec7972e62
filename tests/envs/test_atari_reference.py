"""Frame for frame against two independent ways to the same preprocessing, both on ale-py's own Gymnasium
environment."""

from __future__ import annotations

from collections import deque
from typing import Any

import gymnasium
import numpy as np
import pytest

from mcurl.envs import atari

ale_py = pytest.importorskip("ale_py")
cv2 = pytest.importorskip("cv2")
gymnasium.register_envs(ale_py)

GAMES = ["Breakout", "MsPacman", "Pong", "Qbert", "RoadRunner"]
MOST_FRAMES = 1500


def raw_game(game: str, ours: atari.AtariEnv) -> gymnasium.Env[Any, Any]:
    """The game with single gray frames and no sticky actions, its ROM loaded under the seed that our environment drew
    for ALE."""
    options = {
        "frameskip": 1,
        "repeat_action_probability": 0.0,
        "obs_type": "grayscale",
        "max_num_frames_per_episode": MOST_FRAMES,
    }
    env = gymnasium.make(f"ALE/{game}-v5", disable_env_checker=True, **options)
    env.unwrapped.ale.setInt("random_seed", ours._ale.getInt("random_seed"))
    env.unwrapped.load_game()
    return env


@pytest.mark.parametrize("game", GAMES)
def test_max_then_area_is_gymnasiums_atari_preprocessing(game: str) -> None:
    """Stacks, rewards, flags and lives agree; a game's last frame doesn't, since Gymnasium stops before it takes the
    last screens."""
    ours = atari.make(atari.AtariSettings(task=game, resize="max-then-area", max_noops=0, max_frames=MOST_FRAMES), 3)
    theirs = gymnasium.wrappers.AtariPreprocessing(raw_game(game, ours), noop_max=0, frame_skip=4)
    stacked = gymnasium.wrappers.FrameStackObservation(theirs, 4, padding_type="zero")
    assert ours.action_space == stacked.action_space
    games = 0
    assert np.array_equal(ours.reset()[0], stacked.reset()[0])
    for action in np.random.default_rng(4).integers(ours.action_space.n, size=500):
        observation, reward, *ends, info = ours.step(action)
        expected, expected_reward, *expected_ends, expected_info = stacked.step(action)
        assert (reward, ends, info["lives"]) == (expected_reward, expected_ends, expected_info["lives"])
        compared = slice(0, 3 if any(ends) else 4)
        assert np.array_equal(observation[compared], expected[compared])
        if any(ends):
            games += 1
            assert np.array_equal(ours.reset()[0], stacked.reset()[0])
    assert games


class Plain:
    """The preprocessing of CURL's Atari release, as the page of settings has it, in the most obvious way."""

    def __init__(self, env: gymnasium.Env[Any, Any]) -> None:
        self.env = env

    def reset(self, noops: int) -> np.ndarray:
        self.screen, _ = self.env.reset()
        for _ in range(noops):
            self.screen, *_ = self.env.step(0)
        self.frames = deque([np.zeros((84, 84), np.uint8)] * 3 + [self.resized(self.screen)], maxlen=4)
        return np.stack(self.frames)

    def step(self, action: int) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        total, screens = 0.0, {}
        for t in range(4):
            screens[t], reward, terminated, truncated, info = self.env.step(action)
            total += reward
            if terminated or truncated:
                break
        last_two = [self.resized(screen) for at, screen in screens.items() if at in (2, 3)]
        self.frames.append(np.max(last_two or [self.resized(screens[t])], axis=0))
        return np.stack(self.frames), total, terminated, truncated, info

    @staticmethod
    def resized(screen: np.ndarray) -> np.ndarray:
        return cv2.resize(screen, (84, 84), interpolation=cv2.INTER_LINEAR)


def reset(ours: atari.AtariEnv, theirs: Plain) -> int:
    """Begins a game with both, checks that it looks the same -> lives."""
    observation, info = ours.reset()
    assert np.array_equal(observation, theirs.reset(noops=ours._ale.getEpisodeFrameNumber()))
    return int(info["lives"])


@pytest.mark.parametrize("game", GAMES)
def test_bilinear_then_max_is_the_plain_way(game: str) -> None:
    """Everything agrees, over no-ops, lost lives, and games' ends with their last frames."""
    ours = atari.make(atari.AtariSettings(task=game, max_frames=MOST_FRAMES), 5)
    theirs = Plain(raw_game(game, ours))
    games, lost = 0, 0
    lives = reset(ours, theirs)
    for action in np.random.default_rng(6).integers(ours.action_space.n, size=500):
        observation, reward, *ends, info = ours.step(action)
        expected, expected_reward, *expected_ends, expected_info = theirs.step(action)
        assert (reward, ends, info["lives"]) == (expected_reward, expected_ends, expected_info["lives"])
        assert np.array_equal(observation, expected)
        assert info["life_lost"] == (0 < info["lives"] < lives and not ends[0])
        lost, lives = lost + info["life_lost"], info["lives"]
        if any(ends):
            games += 1
            lives = reset(ours, theirs)
    assert games
    assert bool(lost) == (game != "Pong")
