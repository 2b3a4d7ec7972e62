"""A saved environment, restored in another process into an environment of another seed, goes on exactly as the first
one does."""

from __future__ import annotations

import hashlib
import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mcurl.envs import make_env
from mcurl.envs.dmc import DmcSettings, tasks
from mcurl.envs.toy import ToySettings

Log = list[tuple[str, float, bool, bool]]


def digest(observation: np.ndarray) -> str:
    return hashlib.sha1(observation.tobytes()).hexdigest()


def play(env: Any, steps: int, *, fresh: bool) -> Log:
    """What an environment shows and says while it is played with actions that are always the same; ``fresh``: begin
    with a reset."""
    env.action_space.seed(7)
    log: Log = []
    over = fresh
    for _ in range(steps):
        if over:
            log.append((digest(env.reset()[0]), 0.0, False, False))
        seen, reward, terminated, truncated, _ = env.step(env.action_space.sample())
        over = terminated or truncated
        log.append((digest(seen), reward, terminated, truncated))
    return log


def save_and_go_on(settings: Any, before: int, after: int) -> tuple[dict[str, Any], Log]:
    """The state after some steps (-1: before the first reset, 0: after it), and what comes then."""
    env = make_env(settings, seed=3)
    if before == 0:
        env.reset()
    elif before > 0:
        play(env, before, fresh=True)
    state = pickle.dumps(env.state_dict())
    log = play(env, after, fresh=env._over)
    env.close()
    return pickle.loads(state), log


def restore_and_go_on(settings: Any, state: dict[str, Any], after: int, *, used: bool) -> Log:
    env = make_env(settings, seed=99)
    if used:
        play(env, 5, fresh=True)
    env.load_state_dict(state)
    log = play(env, after, fresh=env._over)
    env.close()
    return log


def elsewhere(folder: Path, cases: list[tuple[Any, ...]]) -> list[Log]:
    """``restore_and_go_on`` for each case, in a process of its own."""
    (folder / "cases").write_bytes(pickle.dumps(cases))
    subprocess.run([sys.executable, __file__, str(folder)], check=True)
    logs: list[Log] = pickle.loads((folder / "logs").read_bytes())
    return logs


def check(folder: Path, plans: list[tuple[Any, int, int, bool]]) -> None:
    """Each plan: settings, steps before the state is saved, steps after, whether it is restored into an environment
    that was used."""
    saved = [save_and_go_on(settings, before, after) for settings, before, after, _ in plans]
    logs = elsewhere(
        folder, [(plan[0], state, plan[2], plan[3]) for plan, (state, _) in zip(plans, saved, strict=True)]
    )
    different = [plan for plan, (_, expected), log in zip(plans, saved, logs, strict=True) if log != expected]
    assert not different


def is_leaf(value: Any) -> bool:
    return value is None or type(value) in (bool, int, float, str, np.ndarray)


def has_only_leaves(state: Any) -> bool:
    if isinstance(state, dict):
        return all(isinstance(key, str) and has_only_leaves(value) for key, value in state.items())
    return all(map(has_only_leaves, state)) if isinstance(state, list) else is_leaf(state)


def small(task: str, **more: Any) -> DmcSettings:
    return DmcSettings(task, image_size=24, shadows="512", **more)


def states(task: str) -> DmcSettings:
    return DmcSettings(task, observation="state", action_repeat=8)


def test_restored_exactly(tmp_path: Path) -> None:
    plans = [
        (states(task), 70, 120, False)
        for task in ("cartpole-swingup", "reacher-easy", "walker-walk", "finger-turn_hard")
    ]
    plans += [
        (small(task, action_repeat=8), 120, 20, True)
        for task in ("cartpole-swingup", "finger-turn_hard", "reacher-easy")
    ]
    plans += [(small("reacher-easy"), before, 5, True) for before in (-1, 0)]
    plans += [(small("cartpole-swingup", action_repeat=100), 10, 5, False)]  # at an episode's end
    plans += [(states("lqr-lqr_2_1"), 20, 20, False), (states("point_mass-hard"), 10, 20, True)]
    plans += [
        (ToySettings(task, observation), before, 60, True)
        for task in ("reach", "catch")
        for observation in ("pixels", "state")
        for before in (-1, 0, 30)
    ]
    check(tmp_path, plans)


@pytest.mark.slow
@pytest.mark.parametrize("group", range(6))
def test_all_tasks_restored_exactly(tmp_path: Path, group: int) -> None:
    plans = [(states(task), 70, 160, False) for task in tasks()]
    plans += [(states(task), before, 20, True) for task in tasks() for before in (-1, 0, 125)]
    plans += [(small(task, action_repeat=50), before, 25, True) for task in tasks() for before in (0, 15)]
    check(tmp_path, plans[group::6])


@pytest.mark.parametrize(
    "settings", [small("reacher-easy"), states("manipulator-bring_ball"), ToySettings("reach"), ToySettings("catch")]
)
def test_state_has_only_leaves(settings: Any) -> None:
    env = make_env(settings, seed=0)
    assert has_only_leaves(env.state_dict())
    env.reset()
    env.step(env.action_space.sample())
    assert has_only_leaves(env.state_dict())


if __name__ == "__main__":
    folder = Path(sys.argv[1])
    cases = pickle.loads((folder / "cases").read_bytes())
    (folder / "logs").write_bytes(
        pickle.dumps([restore_and_go_on(settings, state, after, used=used) for settings, state, after, used in cases])
    )
