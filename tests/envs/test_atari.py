"""Atari games: what the agent is promised, and states that go on exactly in another process."""

from __future__ import annotations

import hashlib
import multiprocessing
import sys
import warnings
from dataclasses import replace
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env

from mcurl.envs import atari
from mcurl.errors import UserError

pytest.importorskip("ale_py")
pytest.importorskip("cv2")

FROM_THE_START = atari.AtariSettings(task="Breakout", max_noops=0)


def play(env: atari.AtariEnv, actions: Any) -> list[tuple[Any, ...]]:
    """Plays the actions, through ends of games -> all that was seen, one entry per step or reset, frames as hashes."""
    seen: list[tuple[Any, ...]] = []
    for action in actions:
        observation, *rest = env.step(action)
        seen.append((digest(observation), *rest))
        if rest[1] or rest[2]:
            observation, info = env.reset()
            seen.append((digest(observation), info))
    return seen


def digest(observation: np.ndarray) -> str:
    return hashlib.sha256(observation.tobytes()).hexdigest()


def random_actions(env: atari.AtariEnv, steps: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(env.action_space.n, size=steps)


# Names


@pytest.mark.parametrize(
    "name", ["RoadRunner", "road_runner", "road-runner", "roadrunner", "Road Runner", "ROAD_RUNNER"]
)
def test_a_game_is_found_in_any_spelling(name: str) -> None:
    assert atari.resolve(name) == "RoadRunner"


def test_names_of_the_benchmark_are_games() -> None:
    assert len(atari.ATARI_26) == 26 == len(set(atari.ATARI_26))
    assert [atari.resolve(name) for name in atari.ATARI_26] == list(atari.ATARI_26)


def test_tasks_are_the_games_that_ale_plays_alone() -> None:
    import ale_py

    playable = [
        rom
        for rom in ale_py.roms.get_all_rom_ids()
        if ale_py.ALEInterface.isSupportedROM(ale_py.roms.get_rom_path(rom))
    ]
    assert {task.lower() for task in atari.tasks()} == {rom.replace("_", "") for rom in playable}
    assert len(atari.tasks()) == len(playable) > 100


def test_an_unknown_game_is_one_line_with_a_suggestion() -> None:
    with pytest.raises(UserError, match=r"^there is no Atari game 'RoadRuner': did you mean RoadRunner\?$"):
        atari.make(atari.AtariSettings(task="RoadRuner"), 0)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("frame_skip", 0),
        ("frame_stack", 0),
        ("image_size", 0),
        ("max_noops", -1),
        ("max_frames", -1),
        ("sticky", 1.0),
        ("resize", "area"),
        ("life_loss", "x"),
    ],
)
def test_wrong_settings_are_refused_in_one_line(name: str, value: Any) -> None:
    with pytest.raises(UserError, match=name) as caught:
        atari.AtariSettings(**{name: value})
    assert "\n" not in str(caught.value)


def test_a_missing_library_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cv2", None)
    atari._libraries.cache_clear()
    with pytest.raises(UserError, match=r"pip install 'mcurl\[atari\]'"):
        atari.make(FROM_THE_START, 0)


# The contract


def test_gymnasiums_checker_accepts_it() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        # It has no registered id on purpose, and pixels are a stack, not one picture.
        warnings.filterwarnings("ignore", message=".*(spec|image).*")
        check_env(atari.make(atari.AtariSettings(task="Pong"), 0))


def test_spaces_and_attributes() -> None:
    env = atari.make(atari.AtariSettings(task="pong"), 0)
    assert (env.frame_shape, env.frame_stack, env.action_repeat, env.stack_start) == ((1, 84, 84), 4, 4, "blank")
    assert env.observation_space.shape == (4, 84, 84)
    assert env.action_space.n == 6
    assert atari.make(atari.AtariSettings(task="pong", full_action_set=True), 0).action_space.n == 18
    assert env.reset()[0] in env.observation_space
    assert env.render().shape == (210, 160, 3)


def test_the_stack_begins_blank_and_moves_by_one_frame() -> None:
    env = atari.make(FROM_THE_START, 0)
    before, _ = env.reset()
    assert not before[:3].any()
    assert before[3].any()
    kept = before.copy()
    for action in random_actions(env, 6):
        after = env.step(action)[0]
        assert np.array_equal(after[:-1], before[1:])
        before = after
    play(env, random_actions(env, 400))
    again, _ = env.reset()
    assert np.array_equal(again, kept)  # neither changed after it was handed out, nor different in a later game


@pytest.mark.parametrize("size", [84, 37])
@pytest.mark.parametrize("resize", ["bilinear-then-max", "max-then-area"])
def test_a_frame_of_any_size_is_drawn(size: int, resize: atari.Resize) -> None:
    env = atari.make(replace(FROM_THE_START, image_size=size, resize=resize, frame_stack=2), 0)
    frames = [env.reset()[0][-1], *(env.step(1)[0][-1] for _ in range(3))]
    assert all(frame.shape == (size, size) and frame.any() for frame in frames)
    assert len({digest(frame) for frame in frames}) > 1


def test_rewards_are_the_games_own_points_summed_over_the_frames() -> None:
    env = atari.make(atari.AtariSettings(task="MsPacman"), 0)
    env.reset()
    single = atari.make(atari.AtariSettings(task="MsPacman", frame_skip=1), 0)
    single.reset()
    total = 0.0
    for action in random_actions(env, 200):
        _, reward, *ends, _ = env.step(action)
        total += reward
        if any(ends):
            break
        assert reward == sum(single.step(action)[1] for _ in range(4))
    assert total >= 100


def test_the_same_seed_plays_the_same_games() -> None:
    settings = atari.AtariSettings(task="RoadRunner", sticky=0.25)
    made, reset, other = atari.make(settings, 7), atari.make(settings, 1), atari.make(settings, 8)
    starts = [digest(made.reset()[0]), digest(reset.reset(seed=7)[0]), digest(other.reset()[0])]
    seen = [play(env, random_actions(made, 250)) for env in (made, reset, other)]
    assert starts[0] == starts[1]
    assert seen[0] == seen[1] != seen[2]
    assert len(seen[0]) > 250  # a second game began


def test_no_ops_are_drawn_from_0_to_the_most_of_them() -> None:
    env = atari.make(atari.AtariSettings(task="Freeway", max_noops=3), 0)
    drawn = []
    for _ in range(40):
        env.reset()
        drawn.append(env._ale.getEpisodeFrameNumber())
    assert set(drawn) == {0, 1, 2, 3}


def test_a_game_is_truncated_at_its_most_frames_with_a_frame_of_its_own() -> None:
    env, single = (
        atari.make(replace(FROM_THE_START, max_frames=10), 0),
        atari.make(replace(FROM_THE_START, frame_skip=1), 0),
    )
    single.reset()
    frames = [single.step(1)[0][-1] for _ in range(10)]
    for _ in range(2):
        env.reset()
        steps = [env.step(1) for _ in range(3)]
        assert [step[2:4] for step in steps] == [(False, False), (False, False), (False, True)]
        with pytest.raises(gymnasium.error.ResetNeeded):
            env.step(0)
        seen = [step[0][-1] for step in steps]
        assert np.array_equal(seen[0], np.maximum(*frames[2:4]))
        assert np.array_equal(seen[1], np.maximum(*frames[6:8]))
        assert np.array_equal(seen[2], frames[9])  # the two frames that were cut off don't count as black


def test_a_step_needs_a_reset_first() -> None:
    with pytest.raises(gymnasium.error.ResetNeeded):
        atari.make(FROM_THE_START, 0).step(0)


def test_a_lost_life_is_reported_and_the_game_goes_on() -> None:
    env, ignoring = atari.make(FROM_THE_START, 0), atari.make(replace(FROM_THE_START, life_loss="ignored"), 0)
    before, _ = env.reset()
    ignoring.reset()
    lives, lost, terminated = 5, 0, False
    for action in random_actions(env, 1000):
        after, _, terminated, truncated, info = env.step(action)
        assert np.array_equal(after[:-1], before[1:])  # the stack is kept
        assert info["life_lost"] == (info["lives"] < lives and not terminated)
        assert not truncated
        assert ignoring.step(action)[4]["life_lost"] is False
        before, lives, lost = after, info["lives"], lost + info["life_lost"]
        if terminated:
            break
    assert (terminated, lost, lives) == (True, 4, 0)


class Recorder:
    """Stands before ALE and notes which actions it gets."""

    def __init__(self, ale: Any) -> None:
        self.ale, self.acted = ale, []

    def __getattr__(self, name: str) -> Any:
        return getattr(self.ale, name)

    def act(self, action: int) -> int:
        self.acted.append(action)
        return int(self.ale.act(action))


@pytest.mark.parametrize("sticky", [0.0, 0.25])
def test_each_frame_repeats_the_action_before_it_with_the_probability_set(sticky: float) -> None:
    env = atari.make(atari.AtariSettings(task="Freeway", sticky=sticky, max_noops=0, full_action_set=True), 0)
    env.reset()
    env._ale = recorder = Recorder(env._ale)
    wanted = np.repeat(np.arange(600) % 2, 4)
    for action in wanted[::4]:
        env.step(action)  # of the full set, action n is ALE's own n
    acted = np.array(recorder.acted)
    before = np.concatenate([[0], acted[:-1]])
    assert ((acted == wanted) | (acted == before)).all()
    assert (acted == before)[wanted != before].mean() == pytest.approx(sticky, abs=0.05)


# States


def leaves(state: Any) -> list[Any]:
    if isinstance(state, dict):
        assert all(isinstance(key, str) for key in state)
        return [leaf for value in state.values() for leaf in leaves(value)]
    return [leaf for value in state for leaf in leaves(value)] if isinstance(state, list) else [state]


def play_from(settings: atari.AtariSettings, state: dict[str, Any], actions: Any) -> list[tuple[Any, ...]]:
    env = atari.make(settings, seed=999)
    env.load_state_dict(state)
    return play(env, actions)


def play_from_in_a_fresh_process(
    settings: atari.AtariSettings, state: dict[str, Any], actions: Any
) -> list[tuple[Any, ...]]:
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(play_from, (settings, state, actions))


def lost_and_over(seen: list[tuple[Any, ...]]) -> tuple[int, int]:
    """How many lives were lost, and how many new games begun."""
    steps = [entry for entry in seen if len(entry) == 5]
    return sum(entry[4]["life_lost"] for entry in steps), len(seen) - len(steps)


@pytest.mark.parametrize(("game", "sticky"), [("Qbert", 0.0), ("Breakout", 0.25), ("RoadRunner", 0.0)])
def test_a_saved_game_goes_on_exactly_in_a_fresh_process(game: str, sticky: float) -> None:
    settings = atari.AtariSettings(task=game, sticky=sticky)
    env = atari.make(settings, 1)
    env.reset()
    play(env, random_actions(env, 123))
    state, actions = env.state_dict(), random_actions(env, 500, seed=2)
    seen = play(env, actions)
    assert min(lost_and_over(seen)) > 0
    assert play_from_in_a_fresh_process(settings, state, actions) == seen


def plays_lives(game: str) -> bool:
    return game not in {"Boxing", "Freeway", "Pong", "PrivateEye"}


@pytest.mark.slow
@pytest.mark.parametrize("game", atari.ATARI_26)
def test_every_game_of_the_benchmark_goes_on_exactly_in_a_fresh_process(game: str) -> None:
    settings = atari.AtariSettings(task=game, max_frames=5000)  # so that games that never end do end
    env = atari.make(settings, 1)
    env.reset()
    for saved_after in (0, 61, 250):
        play(env, random_actions(env, saved_after))
        state, actions = env.state_dict(), random_actions(env, 1500, seed=saved_after)
        seen = play(env, actions)
        lost, over = lost_and_over(seen)
        assert over
        assert bool(lost) == plays_lives(game)
        assert play_from_in_a_fresh_process(settings, state, actions) == seen


@pytest.mark.slow
@pytest.mark.parametrize("game", [game for game in atari.tasks() if game not in atari.ATARI_26])
def test_every_other_game_goes_on_exactly(game: str) -> None:
    settings = atari.AtariSettings(task=game, max_frames=400)
    env = atari.make(settings, 1)
    env.reset()
    play(env, random_actions(env, 51))
    state, actions = env.state_dict(), random_actions(env, 300, seed=2)
    assert play_from(settings, state, actions) == play(env, actions)


def test_before_the_first_reset_and_between_games_a_state_is_saved_too() -> None:
    settings = atari.AtariSettings(task="RoadRunner", max_frames=60)
    env = atari.make(settings, 1)
    for ended in (False, True):
        while ended and not any(env.step(0)[2:4]):
            pass
        other = atari.make(settings, 2)
        other.load_state_dict(env.state_dict())
        with pytest.raises(gymnasium.error.ResetNeeded):
            other.step(0)
        starts = [made.reset()[0] for made in (env, other)]
        assert np.array_equal(*starts)
        assert play(other, random_actions(other, 50)) == play(env, random_actions(env, 50))


def test_saving_changes_nothing_and_gives_plain_leaves() -> None:
    watched, other = (atari.make(FROM_THE_START, 0) for _ in range(2))
    watched.reset()
    other.reset()
    state = watched.state_dict()
    assert all(isinstance(leaf, np.ndarray | int | float | str | bool | None) for leaf in leaves(state))
    before = [digest(leaf) for leaf in leaves(state) if isinstance(leaf, np.ndarray)]
    actions = random_actions(watched, 50)
    assert play(watched, actions) == play(other, actions)
    assert [
        digest(leaf) for leaf in leaves(state) if isinstance(leaf, np.ndarray)
    ] == before  # the state shares no memory with the game


def test_a_state_that_does_not_fit_is_refused() -> None:
    env = atari.make(FROM_THE_START, 0)
    state = env.state_dict()
    with pytest.raises(UserError, match="is of Breakout, not of Pong"):
        atari.make(atari.AtariSettings(task="Pong"), 0).load_state_dict(state)
    with pytest.raises(UserError, match="stack"):
        atari.make(replace(FROM_THE_START, frame_stack=3), 0).load_state_dict(state)
    for damaged in (np.zeros(0, np.uint8), state["emulator"][:100], np.zeros_like(state["emulator"])):
        with pytest.raises(UserError, match="damaged"):
            env.load_state_dict({**state, "emulator": damaged})
