"""Stacks and windows: the fast copy, the indexed copy and a pixel-by-pixel one agree."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from replay_twin import FRAME, Setup, Twin, fill, histories, play, setups

from mcurl.replay import (
    Augmentation,
    CentreCrop,
    Intensity,
    PaddedCrop,
    RandomCrop,
    RandomShift,
    Replay,
    Window,
    apply_intensity,
)
from mcurl.replay.gather import BLANK, FrameGather

WINDOWS = [
    RandomCrop(5),
    RandomCrop(3),
    RandomCrop(1),
    PaddedCrop(crop=3, pad=2, size=5),
    PaddedCrop(crop=4, pad=0, size=3),
    PaddedCrop(crop=2, pad=2, size=3),
    PaddedCrop(crop=5, pad=1, size=5),
    RandomShift(size=4, pad=3),
    RandomShift(size=5, pad=1),
    CentreCrop(3),
]


def pixels(stack: np.ndarray, window: Window) -> np.ndarray:
    """Window `[0]`, by its definition."""
    out = np.empty((len(stack), window.size, window.size), np.uint8)
    for y in range(window.size):
        for x in range(window.size):
            source_y = window.top[0] + min(max(y - window.down[0], 0), window.crop - 1)
            source_x = window.left[0] + min(max(x - window.right[0], 0), window.crop - 1)
            out[:, y, x] = stack[:, source_y, source_x]
    return out


def slots(replay: Replay, rows: np.ndarray) -> np.ndarray:
    frame_rows = replay.frame_rows(rows)
    return np.where(frame_rows == BLANK, BLANK, frame_rows % replay.records.capacity)


@settings(max_examples=100, deadline=None)
@given(setups(), histories(), st.sampled_from(WINDOWS), st.integers(0, 100))
def test_windows_of_stacks(setup: Setup, events: list[str], augmentation: Augmentation, seed: int) -> None:
    rng, replay, twin = np.random.default_rng(seed), setup.replay(), setup.twin()
    for event in events:
        play(event, rng, replay, twin)
    rows = np.array(sorted(twin.observations()), np.int64)
    window = augmentation.window(len(rows), FRAME[1:], rng)
    stacks, indexed = (
        replay.gather_stacks(rows, window),
        FrameGather(replay.frames, replay.frame_stack, "planes").gather_indexed(slots(replay, rows), window),
    )
    assert stacks.dtype == torch.uint8
    assert stacks.is_contiguous()
    assert torch.equal(stacks, indexed)
    out = torch.empty_like(stacks)
    assert replay.gather_stacks(rows, window, out) is out
    assert torch.equal(out, stacks)
    whole = replay.gather_stacks(rows)
    for i, row in enumerate(rows.tolist()):
        expected = twin.stack(row)
        assert expected is not None
        assert np.array_equal(whole[i], expected)
        assert np.array_equal(stacks[i], pixels(expected, window[[i]]))


@settings(max_examples=100, deadline=None)
@given(setups(), histories(), st.sampled_from(WINDOWS), st.integers(0, 100))
def test_stacks_of_any_frames(setup: Setup, events: list[str], augmentation: Augmentation, seed: int) -> None:
    """Each stack of one of the replay, of any rows in any order, or of some side by side; then any frames blank."""
    rng, replay, twin = np.random.default_rng(seed), setup.replay(), setup.twin()
    for event in events:
        play(event, rng, replay, twin)
    assume(len(replay))
    frame_rows = random_frame_rows(twin, 20, rng)
    window = augmentation.window(20, FRAME[1:], rng)
    out = torch.full((20, FRAME[0] * setup.frame_stack, window.size, window.size), 7, dtype=torch.uint8)
    whole, stacks = replay.gather_frames(frame_rows), replay.gather_frames(frame_rows, window)
    assert replay.gather_frames(frame_rows, window, out) is out
    assert torch.equal(out, stacks)
    on_device = np.where(frame_rows == BLANK, BLANK, frame_rows % setup.capacity)
    assert torch.equal(
        FrameGather(replay.frames, replay.frame_stack, "planes").gather_indexed(on_device, window), stacks
    )
    for i, ids in enumerate(frame_rows.tolist()):
        expected = twin.frames(ids)
        assert np.array_equal(whole[i], expected)
        assert np.array_equal(stacks[i], pixels(expected, window[[i]]))


def random_frame_rows(twin: Twin, n: int, rng: np.random.Generator) -> np.ndarray:
    """Rows in the ring and blank frames: ``int64 [n, K]``."""
    rows = np.array(twin.held)
    run = rows[rng.integers(len(rows), size=n)][:, None] + np.arange(twin.frame_stack)
    frame_rows = np.where(rng.random((n, 1)) < 0.5, np.minimum(run, rows[-1]), rng.choice(rows, run.shape))
    frame_rows[rng.random(run.shape) < 0.3] = BLANK
    return frame_rows


@settings(max_examples=60, deadline=None)
@given(setups(), histories(), st.integers(0, 100))
def test_frame_rows_are_the_twins(setup: Setup, events: list[str], seed: int) -> None:
    rng, replay, twin = np.random.default_rng(seed), setup.replay(), setup.twin()
    for event in events:
        play(event, rng, replay, twin)
    rows = np.array(sorted(twin.observations()), np.int64)
    frame_rows = replay.frame_rows(rows)
    assert frame_rows.dtype == np.int64
    assert frame_rows.tolist() == [twin.frame_rows(row) for row in rows.tolist()]
    assert torch.equal(replay.gather_frames(frame_rows), replay.gather_stacks(rows))


def test_frames_that_are_not_in_the_replay() -> None:
    replay = Setup(12, 3, "blank", 1).replay()
    fill(20, 50, replay)
    assert len(replay.gather_frames(np.array([[8, 19, -1]]))) == 1
    for row in (7, 20, -2):  # overwritten, not written, nonsense
        with pytest.raises(ValueError, match="not in the replay"):
            replay.gather_frames(np.array([[-1, row, 12]]))
    for row in (9, 20, -1):  # the first lacks a frame of its stack; -1 is no row
        with pytest.raises(ValueError, match="no whole stack"):
            replay.frame_rows(np.array([row]))
    with pytest.raises(ValueError, match=r"shape \[N, 3\]"):
        replay.gather_frames(np.array([[12, 13]]))
    with pytest.raises(ValueError, match="2 windows"):
        replay.gather_frames(np.array([[12, 13, 14]]), RandomCrop(3).window(2, FRAME[1:], np.random.default_rng(0)))


def test_nothing_but_blank_frames_of_an_empty_replay() -> None:
    replay, window = Setup(12, 3, "repeat", 1).replay(), CentreCrop(3).window(4, FRAME[1:], np.random.default_rng(0))
    blank = np.full((4, 3), BLANK)
    for stacks in (replay.gather_frames(blank), replay.gather_frames(blank, window)):
        assert not stacks.any()


def test_as_many_windows_as_stacks() -> None:
    replay = Setup(10, 1, "repeat", 1).replay()
    replay.begin(np.zeros(FRAME, np.uint8))
    with pytest.raises(ValueError, match="2 windows"):
        replay.gather_stacks(np.array([0]), RandomCrop(3).window(2, FRAME[1:], np.random.default_rng(0)))


def test_states() -> None:
    replay = Replay(
        capacity=20,
        frame_shape=(3,),
        frame_dtype="float32",
        frame_stack=1,
        stack_start="repeat",
        action_shape=(2,),
        action_dtype="float32",
    )
    states = np.random.default_rng(0).normal(size=(31, 3)).astype(np.float32)
    replay.begin(states[0])
    for state in states[1:]:
        replay.append(np.array([1.0, 2.0]), 1.0, state, False, False)
    rows = np.arange(11, 30)
    batch = replay.gather_transitions(rows)
    assert np.array_equal(batch.obs, states[11:30])
    assert np.array_equal(batch.next_obs, states[12:31])
    assert batch.obs.dtype == batch.action.dtype == torch.float32
    assert batch.action.tolist() == [[1, 2]] * 19
    blank = replay.gather_frames(np.array([[29], [BLANK]]))
    assert np.array_equal(blank, np.stack([states[29], np.zeros(3, np.float32)]))
    with pytest.raises(ValueError, match="of images"):
        replay.gather_stacks(rows, RandomCrop(1).window(19, (3, 3), np.random.default_rng(0)))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_on_a_gpu_without_waiting_for_it() -> None:
    setup = Setup(40, 3, "blank", 3)
    rng, on_cpu, on_gpu = np.random.default_rng(0), setup.replay(), setup.replay(device="cuda")
    torch.cuda.set_sync_debug_mode("error")
    try:
        for i in range(100):
            play("truncated" if i % 17 == 16 else "go", rng, on_cpu, on_gpu)
        rows, window = on_cpu.sample_uniform(64, rng), PaddedCrop(crop=3, pad=2, size=5).window(64, FRAME[1:], rng)
        batch = on_gpu.gather_transitions(rows, window=window, next_window=window)
        frame_rows = on_cpu.frame_rows(rows)
        frame_rows[::3, 1] = BLANK
        frames = on_gpu.gather_frames(frame_rows, window)
        jittered = apply_intensity(frames, Intensity(CentreCrop(5), 0.05).intensity(64, rng))
    finally:
        torch.cuda.set_sync_debug_mode("default")
    expected = on_cpu.gather_transitions(rows, window=window, next_window=window)
    for name in ("obs", "action", "reward", "next_obs", "discount", "rows", "weights"):
        assert torch.equal(getattr(batch, name).cpu(), getattr(expected, name))
    assert torch.equal(frames.cpu(), on_cpu.gather_frames(frame_rows, window))
    assert jittered.is_cuda
