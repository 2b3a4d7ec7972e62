"""Recordings of episodes: exact, small, the same bytes again; damaged and hostile files are refused in one line."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import lzma
import resource
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest

from mcurl.episodes import evaluate
from mcurl.errors import UserError
from mcurl.published.scores import is_score
from mcurl.recording import DamagedError, Recorder, Recording, episode_seed, find_recordings, read

FIELDS: dict[str, Any] = {
    "task": "toy/reach",
    "method": "mcurl",
    "env": {"task": "reach", "frame_stack": 3},
    "seed": 1,
    "env_steps": 100,
    "parallel": 2,
    "max_episode_steps": 1000,
    "policy": "ab" * 32,
    "build": {"numpy": "2.0"},
}


def recording(**changes: Any) -> Recording:
    rng = np.random.default_rng(0)
    values = {
        "seeds": (5, 6, 7),
        "lengths": (30, 10, 60),
        "returns": (1.5, float("nan"), -0.1),
        "actions": rng.normal(size=(100, 2)).astype(np.float32),
        "states": rng.normal(size=(3, 4)),
    }
    return Recording(**(FIELDS | values | changes))


def write(path: Path, rest: bytes) -> Path:
    """A file whose checksum is right."""
    path.write_bytes(f"mcurl-episodes 1 {hashlib.sha256(rest).hexdigest()}\n".encode() + rest)
    return path


def forged(path: Path, blocks: bytes | None = None, **changes: Any) -> Path:
    """A recording with other entries in its header, whose checksum is right."""
    header, _, old = recording().to_bytes().split(b"\n", 1)[1].partition(b"\n")
    return write(path, json.dumps(json.loads(header) | changes).encode() + b"\n" + (old if blocks is None else blocks))


def refused(path: Path) -> str:
    with pytest.raises(UserError) as error:
        read(path)
    assert "\n" not in str(error.value)
    assert str(path) in str(error.value)
    return str(error.value)


@pytest.mark.parametrize("dtype", ["int64", "uint8", "float32", "float64", "bool"])
def test_a_recording_comes_back_exactly(tmp_path: Path, dtype: str) -> None:
    saved = recording(actions=(np.random.default_rng(1).normal(size=(100, 3)) * 10).astype(dtype))
    (tmp_path / "a.episodes").write_bytes(saved.to_bytes())
    loaded = read(tmp_path / "a.episodes")
    for field in dataclasses.fields(Recording):
        ours, theirs = getattr(saved, field.name), getattr(loaded, field.name)
        if isinstance(ours, np.ndarray):
            assert ours.dtype == theirs.dtype
        np.testing.assert_array_equal(ours, theirs)
    assert loaded.to_bytes() == saved.to_bytes()
    assert [len(loaded.episode_actions(episode)) for episode in range(3)] == [30, 10, 60]
    assert [len(loaded.episode_states(episode)) for episode in range(3)] == [1, 0, 2]  # type: ignore[arg-type]


def test_repeated_actions_take_little_space() -> None:
    actions = np.repeat(np.random.default_rng(0).integers(0, 18, 1000), 100)
    assert len(recording(lengths=(99_000, 500, 500), actions=actions, states=None).to_bytes()) < 5_000


def test_a_change_of_any_byte_is_found(tmp_path: Path) -> None:
    data = recording().to_bytes()
    for position in range(0, len(data), 7):
        path = tmp_path / "changed.episodes"
        path.write_bytes(data[:position] + bytes([data[position] ^ 1]) + data[position + 1 :])
        refused(path)
    path.write_bytes(data[:-1])
    with pytest.raises(DamagedError, match="checksum"):
        read(path)


@pytest.mark.parametrize(
    "changes",
    [
        {"seeds": [1]},
        {"seeds": [1, 2, -3]},
        {"seeds": [1, 2, 2.5]},
        {"seeds": [1, 2, True]},
        {"lengths": [30, 10, 61]},
        {"lengths": [30, 10, 0]},
        {"lengths": [10**30, 10, 10]},
        {"returns": [1.0, 2.0, "3"]},
        {"parallel": 0},
        {"env": []},
        {"task": 3},
        {"build": {"numpy": 2}},
        {"arrays": []},
        {"arrays": [{"name": "actions", "dtype": "object", "shape": [100, 2], "bytes": 10}]},
        {"arrays": [{"name": "other", "dtype": "float32", "shape": [100, 2], "bytes": 10}]},
        {"arrays": [{"name": "actions", "dtype": "float32", "shape": [100, 2], "bytes": 10**9}]},
    ],
)
def test_a_header_that_makes_no_sense_is_refused(tmp_path: Path, changes: dict[str, Any]) -> None:
    assert "damaged" in refused(forged(tmp_path / "a.episodes", **changes))


def test_other_files_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.episodes"
    assert "does not exist" in refused(path) or "No such file" in refused(path)
    for data in (b"", b"PK\x03\x04", b"\x80\x04\x95", b"mcurl-episodes\n", b"mcurl-episodes 1\n{}", b"x" * 1000):
        path.write_bytes(data)
        assert "is not a recording" in refused(path)
    path.write_bytes(recording().to_bytes().replace(b"mcurl-episodes 1", b"mcurl-episodes 2"))
    assert "version 2" in refused(path)
    assert "damaged" in refused(write(path, b"[" * 100_000))
    assert "damaged" in refused(write(path, b"[1]\nx"))


def test_a_compressed_bomb_is_refused_before_it_takes_memory(tmp_path: Path) -> None:
    zeros = lzma.compress(bytes(300 * 2**20), lzma.FORMAT_XZ, lzma.CHECK_NONE, preset=0)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for shape, dtype in (([100, 2], "float32"), ([100, 2**40], "uint8"), ([100] * 8, "float64")):
        arrays = [{"name": "actions", "dtype": dtype, "shape": shape, "bytes": len(zeros)}]
        assert "damaged" in refused(forged(tmp_path / "a.episodes", zeros, arrays=arrays))
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100 * 1024  # in KiB
    (tmp_path / "a.episodes").write_bytes(bytes(65 * 2**20))
    assert "bytes" in refused(tmp_path / "a.episodes")


def test_episodes_that_do_not_fit_are_not_written() -> None:
    with pytest.raises(UserError, match="cannot be recorded"):
        recording(actions=np.array([None] * 100)).to_bytes()
    with pytest.raises(UserError, match="too large"):
        recording(actions=np.broadcast_to(np.float64(1), (100, 2**20))).to_bytes()


class Count(gymnasium.Env[Any, Any]):
    """Ends after as many steps as its seed says."""

    def __init__(self, seed: int) -> None:
        self.action_space, self.observation_space = gymnasium.spaces.Discrete(4), gymnasium.spaces.Discrete(9)

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        super().reset(seed=seed)
        self.left = int(self.np_random.integers(1, 1500))
        return np.int64(0), {}

    def step(self, action: Any) -> Any:
        self.left -= 1
        return np.int64(self.left % 7), float(action), self.left == 0, False, {}


@pytest.mark.parametrize("epsilon", [0.0, 0.3])
def test_recording_changes_nothing_and_holds_what_was_executed(epsilon: float) -> None:
    def act(seen: np.ndarray) -> np.ndarray:
        return seen % 4

    recorder = Recorder()
    options: dict[str, Any] = {"env_steps": 7, "parallel": 3, "epsilon": epsilon}
    returns = evaluate(act, Count, 5, 1, recorder=recorder, **options)
    np.testing.assert_array_equal(returns, evaluate(act, Count, 5, 1, **options))
    recorded = recorder.recording(returns.tolist(), **(FIELDS | {"env_steps": 7, "parallel": 3}))
    assert recorded.states is None
    assert recorded.seeds == tuple(episode_seed(1, 7, episode) for episode in range(5))
    assert max(recorded.lengths) > 1000
    for episode, value in enumerate(recorded.returns):
        assert recorded.episode_actions(episode).sum() == value
        assert len(recorded.episode_actions(episode)) == recorded.lengths[episode]


def test_the_recordings_of_a_run_are_found(tmp_path: Path) -> None:
    assert find_recordings(tmp_path) == {}
    (tmp_path / "episodes").mkdir()
    for name in ("000099992.episodes", "000100000.episodes", ".000200000.episodes.new", "notes.episodes"):
        (tmp_path / "episodes" / name).touch()
    found = find_recordings(tmp_path)
    assert list(found) == [99_992, 100_000]
    assert found[100_000] == tmp_path / "episodes" / "000100000.episodes"


@pytest.mark.parametrize(
    ("task", "env_steps", "repeat", "budget", "expected"),
    [
        ("toy/reach", 300, 1, 300, True),
        ("toy/reach", 299, 1, 300, False),
        ("dmc/walker-walk", 100_000, 2, 500_000, True),
        ("dmc/walker-walk", 100_002, 3, 500_000, True),
        ("dmc/walker-walk", 100_003, 3, 500_000, False),
        ("dmc/walker-walk", 120_000, 2, 500_000, False),
        ("atari/Pong", 100_000, 4, 400_000, False),
        ("atari/Pong", 400_000, 4, 10_000_000, True),
    ],
)
def test_evaluations_that_give_a_score(task: str, env_steps: int, repeat: int, budget: int, expected: bool) -> None:
    assert is_score(task, env_steps, repeat, budget) is expected
