"""The replay on disk: exact at any time, whatever was appended since."""

from __future__ import annotations

import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from replay_twin import Setup, fill, histories, play, setups

from mcurl.errors import UserError
from mcurl.replay import Replay, files, prune


@pytest.fixture(autouse=True)
def short_segments(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "SEGMENT_ROWS", 7)
    monkeypatch.setattr(files.os, "fsync", lambda _: None)  # no test could see it, and it is most of the time


def assert_same(a: Replay, b: Replay) -> None:
    """Everything that can be drawn is equal, and both draw the same."""
    assert (a.written, a.records.open, a.sampleable) == (b.written, b.records.open, b.sampleable)
    held = np.arange(a.records.oldest, a.written)
    slots = held % a.records.capacity
    assert torch.equal(a.frames[slots], b.frames[slots])
    assert a.records.table[slots].tobytes() == b.records.table[slots].tobytes()
    rngs = np.random.default_rng(3), np.random.default_rng(3)
    drawn = [replay.sample_sequences(6, 5, rng) for replay, rng in zip((a, b), rngs, strict=True)]
    assert (drawn[0] is None) == (drawn[1] is None)
    if drawn[0] is not None and drawn[1] is not None:
        assert all(np.array_equal(x, y) for x, y in zip(*drawn, strict=True))
    if a.sampleable:
        x, y = (replay.sample_prioritised(6, rng, 0.4) for replay, rng in zip((a, b), rngs, strict=True))
        assert all(np.array_equal(one, other) for one, other in zip(x, y, strict=True))
        assert torch.equal(a.gather_transitions(x[0]).obs, b.gather_transitions(y[0]).obs)


@settings(max_examples=60, deadline=None)
@given(setups(), st.lists(histories(), min_size=1, max_size=4), st.integers(0, 1000))
def test_round_trips_and_goes_on(
    tmp_path_factory: pytest.TempPathFactory, setup: Setup, parts: list[list[str]], seed: int
) -> None:
    """After each part: saved, written beyond by a process that was killed, restored into a fresh replay, which goes
    on."""
    folder = tmp_path_factory.mktemp("replay")
    rng = np.random.default_rng(seed)

    def fresh() -> Replay:
        return setup.replay(priority_alpha=0.5)

    saved, straight = fresh(), fresh()  # `straight` is never saved
    for events in parts:
        for event in events:
            play(event, rng, saved, straight)
            if saved.sampleable:
                rows, _ = saved.sample_prioritised(2, rng, 0.4)
                error = rng.random(2)
                saved.update_priorities(rows, error)
                straight.update_priorities(rows, error)
        state = saved.save_files(folder)
        for event in ["go"] * int(rng.integers(0, 30)):
            play(event, rng, saved)
        if rng.random() < 0.5:
            saved.save_files(folder)
        for path in list(folder.iterdir()):
            if rng.random() < 0.5:
                with path.open("ab") as file:
                    file.write(b"killed")
        restored = fresh()
        restored.load_files(folder, state)
        assert_same(restored, straight)
        saved = restored


def test_old_states_stay_readable_until_pruned(tmp_path: Path) -> None:
    setup = Setup(20, 3, "repeat", 3)
    replay = setup.replay(priority_alpha=0.5)
    states: list[dict[str, Any]] = []
    copies: list[Replay] = []
    for i in range(6):
        fill(13, 9, replay, seed=i)
        states.append(replay.save_files(tmp_path))
        copies.append(setup.replay(priority_alpha=0.5))
        copies[-1].load_files(tmp_path, states[-1])
        assert_same(copies[-1], replay)
    for state, copy in zip(states, copies, strict=True):
        again = setup.replay(priority_alpha=0.5)
        again.load_files(tmp_path, state)
        assert_same(again, copy)
    prune(tmp_path, states[3]["oldest"])
    assert not (tmp_path / "frames-00000.bin").exists()
    for state in states[3:]:
        setup.replay(priority_alpha=0.5).load_files(tmp_path, state)
    with pytest.raises(UserError, match="is missing"):
        setup.replay(priority_alpha=0.5).load_files(tmp_path, states[0])


def test_files_only_grow(tmp_path: Path) -> None:
    replay = Setup(20, 3, "repeat", 3).replay()
    fill(10, 9, replay)
    replay.save_files(tmp_path)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    fill(40, 9, replay)
    replay.save_files(tmp_path)
    for name, content in before.items():
        assert (tmp_path / name).read_bytes()[: len(content)] == content


def test_more_rows_than_the_ring_between_two_writes(tmp_path: Path) -> None:
    setup = Setup(20, 3, "repeat", 3)
    replay, restored = setup.replay(priority_alpha=0.5), setup.replay(priority_alpha=0.5)
    fill(5, 9, replay)
    replay.save_files(tmp_path)
    fill(100, 9, replay)
    restored.load_files(tmp_path, replay.save_files(tmp_path))
    assert_same(restored, replay)


def test_an_episode_closed_after_it_was_saved(tmp_path: Path) -> None:
    """What an environment that cannot be restored needs."""
    setup = Setup(20, 1, "repeat", 3)
    replay, restored = setup.replay(), setup.replay()
    fill(6, 100, replay)
    restored.load_files(tmp_path, replay.save_files(tmp_path))
    assert restored.sampleable == 3
    restored.close_as_truncated()
    assert restored.sampleable == 5
    assert restored.gather_transitions(np.array([4])).discount.tolist() == pytest.approx([0.9])
    with pytest.raises(RuntimeError, match="open episode"):
        restored.append(np.zeros(2), 0.0, np.zeros((2, 5, 6), np.uint8), False, False)
    state = restored.save_files(tmp_path)
    replay.load_files(tmp_path, state)
    assert (replay.sampleable, replay.records.open) == (5, False)


def test_states_that_do_not_fit(tmp_path: Path) -> None:
    setup = Setup(20, 1, "repeat", 3)
    replay = setup.replay()
    fill(12, 5, replay)
    state = replay.save_files(tmp_path)
    with pytest.raises(UserError, match="laid out"):
        Setup(21, 1, "repeat", 3).replay().load_files(tmp_path, state)
    with pytest.raises(UserError, match="prioritised"):
        setup.replay(priority_alpha=0.5).load_files(tmp_path, state)
    (tmp_path / "rows-00001.bin").write_bytes(b"")
    with pytest.raises(UserError, match="shorter"):
        setup.replay().load_files(tmp_path, state)


@pytest.mark.parametrize(("more", "problem"), [(1, "shorter|missing"), (8, "continued from an earlier")])
def test_a_folder_that_was_continued_from_an_earlier_state(tmp_path: Path, more: int, problem: str) -> None:
    setup = Setup(20, 1, "repeat", 3)
    replay, other = setup.replay(), setup.replay()
    fill(5, 50, replay)
    early = replay.save_files(tmp_path)
    fill(5, 50, replay, seed=1)
    late = replay.save_files(tmp_path)
    other.load_files(tmp_path, early)
    fill(more, 50, other, seed=2)
    other.save_files(tmp_path)
    with pytest.raises(UserError, match=problem):
        setup.replay().load_files(tmp_path, late)
    setup.replay().load_files(tmp_path, early)


def test_any_changed_byte_is_noticed(tmp_path: Path) -> None:
    """In every row that a checkpoint needs, of frames and of the rest; in blocks that the ring overwrites in part."""
    setup, rng = Setup(20, 1, "repeat", 3), np.random.default_rng(0)
    replay = setup.replay()
    for part in (5, 8, 20, 6):
        fill(part, 9, replay, seed=part)
        state = replay.save_files(tmp_path)
    setup.replay().load_files(tmp_path, state)
    for path in sorted(tmp_path.iterdir()):
        whole = path.read_bytes()
        width = replay.frames[0].nbytes if path.name.startswith("frames") else replay.records.table.itemsize
        first = max(0, state["oldest"] - 7 * int(path.stem[-5:])) * width
        for place in rng.integers(first, len(whole), 25) if first < len(whole) else []:
            damaged = bytearray(whole)
            damaged[place] ^= 1 << int(rng.integers(8))
            path.write_bytes(damaged)
            with pytest.raises(UserError, match=f"{path.name} does not match its checksum in rows"):
                setup.replay().load_files(tmp_path, state)
        path.write_bytes(whole)
    setup.replay().load_files(tmp_path, state)


def test_a_state_that_does_not_say_which_rows_it_needs(tmp_path: Path) -> None:
    setup = Setup(20, 1, "repeat", 3)
    replay = setup.replay()
    for part in (5, 8):
        fill(part, 9, replay, seed=part)
        state = replay.save_files(tmp_path)
    blocks = state["blocks"]
    for damaged in (blocks[1:], blocks[:-1], blocks[::-1], blocks[:0], np.concatenate([blocks, blocks])):
        with pytest.raises(UserError, match="does not say which rows"):
            setup.replay().load_files(tmp_path, state | {"blocks": damaged})


def test_the_first_format_is_read_and_newer_ones_are_refused(tmp_path: Path) -> None:
    setup = Setup(20, 1, "repeat", 3)
    replay, restored, again = (setup.replay(priority_alpha=0.5) for _ in range(3))
    fill(30, 9, replay)
    state = replay.save_files(tmp_path)
    # Format 1: the checksum of the last 16 rows, without a version.
    slots = np.arange(state["written"] - 1 - 16, state["written"] - 1) % 20
    rows, frames = replay.records.table[slots].tobytes(), replay.frames[slots].numpy().tobytes()
    old = {key: value for key, value in state.items() if key not in ("version", "blocks")}
    old["fingerprint"] = zlib.crc32(frames, zlib.crc32(rows))
    restored.load_files(tmp_path, old)
    assert_same(restored, replay)
    # What it saves next has checksums of all rows.
    fill(3, 9, restored, seed=1)
    again.load_files(tmp_path, restored.save_files(tmp_path))
    assert_same(again, restored)
    with pytest.raises(UserError, match="continued from an earlier checkpoint"):
        setup.replay(priority_alpha=0.5).load_files(tmp_path, old | {"fingerprint": 0})
    with pytest.raises(UserError, match=r"by a newer version of mcurl \(format 3, this one reads up to 2\)"):
        setup.replay(priority_alpha=0.5).load_files(tmp_path, state | {"version": 3})


@pytest.mark.parametrize("emptied", [False, True])
def test_files_that_another_program_removes_meanwhile_are_missed(tmp_path: Path, emptied: bool) -> None:
    replay = Setup(20, 3, "repeat", 3).replay()
    fill(10, 9, replay)
    replay.save_files(tmp_path)
    path = tmp_path / "frames-00000.bin"
    if emptied:
        path.write_bytes(b"")
    else:
        path.unlink()
    fill(5, 9, replay)
    with pytest.raises(UserError, match=r"frames-00000\.bin was deleted or cut off by another program"):
        replay.save_files(tmp_path)
