"""Stacks and windows: the fast copy, the indexed copy and a pixel-by-pixel one agree."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from replay_twin import FRAME, Setup, histories, play, setups

from mcurl.errors import UserError
from mcurl.replay import Crop, Replay, Shift, Window

WINDOWS = [
    Crop(5),
    Crop(3),
    Crop(1),
    Shift(crop=3, pad=2, size=5),
    Shift(crop=4, pad=0, size=3),
    Shift(crop=2, pad=2, size=3),
    Shift(crop=5, pad=1, size=5),
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


@settings(max_examples=100, deadline=None)
@given(setups(), histories(), st.sampled_from(WINDOWS), st.integers(0, 100))
def test_windows_of_stacks(setup: Setup, events: list[str], cut: Crop | Shift, seed: int) -> None:
    rng, replay, twin = np.random.default_rng(seed), setup.replay(), setup.twin()
    for event in events:
        play(event, rng, replay, twin)
    rows = np.array(sorted(twin.observations()), np.int64)
    window = cut.draw(len(rows), FRAME[1:], rng)
    stacks, indexed = replay.stacks(rows, window), replay._stacks_indexed(rows, window)
    assert stacks.dtype == torch.uint8
    assert stacks.is_contiguous()
    assert torch.equal(stacks, indexed)
    out = torch.empty_like(stacks)
    assert replay.stacks(rows, window, out) is out
    assert torch.equal(out, stacks)
    whole = replay.stacks(rows)
    for i, row in enumerate(rows.tolist()):
        expected = twin.stack(row)
        assert expected is not None
        assert np.array_equal(whole[i], expected)
        assert np.array_equal(stacks[i], pixels(expected, window[[i]]))


@pytest.mark.parametrize("size", [84, 100])
def test_crop_draws_every_offset(size: int) -> None:
    window = Crop(size).draw(2000, (100, 110), np.random.default_rng(0))
    assert set(window.top) == set(range(100 - size + 1))
    assert set(window.left) == set(range(110 - size + 1))
    if size < 100:
        assert abs(np.corrcoef(window.top, window.left)[0, 1]) < 0.1
    assert len(window[:5]) == 5
    assert Crop(84).centre(2, (100, 100)).top.tolist() == [8, 8]


def test_shift_draws_every_offset() -> None:
    window = Shift().draw(2000, (84, 84), np.random.default_rng(0))
    assert (window.size, window.crop) == (84, 80)
    for drawn in (window.top, window.left, window.down, window.right):
        assert set(drawn) == set(range(5))


def test_shift_is_crop_pad_crop() -> None:
    """Against torch's own replication padding."""
    replay = Replay(
        capacity=20,
        frame_shape=(1, 84, 84),
        frame_dtype="uint8",
        frame_stack=4,
        stack_start="blank",
        action_shape=(),
        action_dtype="int64",
        n_step=1,
    )
    rng = np.random.default_rng(0)
    replay.begin(rng.integers(256, size=(1, 84, 84), dtype=np.uint8))
    for _ in range(12):
        replay.append(1, 0.0, rng.integers(256, size=(1, 84, 84), dtype=np.uint8), False, False)
    rows = np.arange(12)
    window = Shift().draw(12, (84, 84), rng)
    got, plain = replay.stacks(rows, window), replay.stacks(rows)
    for i in range(12):
        first = plain[i, :, window.top[i] : window.top[i] + 80, window.left[i] : window.left[i] + 80]
        padded = torch.nn.functional.pad(first.float()[None], (4, 4, 4, 4), mode="replicate")[0]
        y, x = 4 - window.down[i], 4 - window.right[i]
        assert torch.equal(got[i].float(), padded[:, y : y + 84, x : x + 84])


def test_windows_that_do_not_fit() -> None:
    rng = np.random.default_rng(0)
    with pytest.raises(UserError, match="does not fit"):
        Crop(84).draw(1, (84, 80), rng)
    with pytest.raises(UserError, match="does not fit"):
        Crop(84).centre(1, (80, 84))
    with pytest.raises(UserError, match="does not fit"):
        Shift(crop=80, pad=1, size=84)
    replay = Setup(10, 1, "repeat", 1).replay()
    replay.begin(np.zeros(FRAME, np.uint8))
    with pytest.raises(ValueError, match="2 windows"):
        replay.stacks(np.array([0]), Crop(3).draw(2, FRAME[1:], rng))


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
    batch = replay.transitions(rows)
    assert np.array_equal(batch.obs, states[11:30])
    assert np.array_equal(batch.next_obs, states[12:31])
    assert batch.obs.dtype == batch.action.dtype == torch.float32
    assert batch.action.tolist() == [[1, 2]] * 19
    with pytest.raises(ValueError, match="of images"):
        replay.stacks(rows, Crop(1).draw(19, (3, 3), np.random.default_rng(0)))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_on_a_gpu_without_waiting_for_it() -> None:
    setup = Setup(40, 3, "blank", 3)
    rng, on_cpu, on_gpu = np.random.default_rng(0), setup.replay(), setup.replay(device="cuda")
    torch.cuda.set_sync_debug_mode("error")
    try:
        for i in range(100):
            play("truncated" if i % 17 == 16 else "go", rng, on_cpu, on_gpu)
        rows, window = on_cpu.uniform(64, rng), Shift(crop=3, pad=2, size=5).draw(64, FRAME[1:], rng)
        batch = on_gpu.transitions(rows, window=window, next_window=window)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    expected = on_cpu.transitions(rows, window=window, next_window=window)
    for name in ("obs", "action", "reward", "next_obs", "discount", "rows", "weights"):
        assert torch.equal(getattr(batch, name).cpu(), getattr(expected, name))
