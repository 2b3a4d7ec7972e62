"""The compiled gather equals the plain one; without a compiler nothing is missed."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from mcurl.replay import Crop, Replay, Shift, native

needs_compiler = pytest.mark.skipif(not native.available(), reason="no C compiler here")


def filled(channels: int, stack: int, start: str, *, interleaved: bool = True) -> Replay:
    replay = Replay(
        capacity=60,
        frame_shape=(channels, 12, 14),
        frame_dtype="uint8",
        frame_stack=stack,
        stack_start=start,
        action_shape=(),
        action_dtype=np.int64,
        interleaved=interleaved,
    )  # type: ignore[arg-type]
    rng = np.random.default_rng(0)
    for length in (7, 1, 30, 11, 25):
        replay.begin(rng.integers(0, 256, (channels, 12, 14), dtype=np.uint8))
        for step in range(length):
            replay.append(0, 0.0, rng.integers(0, 256, (channels, 12, 14), dtype=np.uint8), False, step == length - 1)
    return replay


@needs_compiler
@pytest.mark.parametrize(("channels", "stack"), [(3, 3), (1, 4), (1, 3), (3, 2)])
@pytest.mark.parametrize("start", ["repeat", "blank"])
@pytest.mark.parametrize("threads", [1, 2])
def test_equals_the_indexed_gather(channels: int, stack: int, start: str, threads: int) -> None:
    replay = filled(channels, stack, start)
    rng = np.random.default_rng(1)
    rows = replay.observations(100, rng)
    window = Crop(9).draw(100, (12, 14), rng)
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    found = replay.stacks(rows, window)
    torch.set_num_threads(before)
    assert found.dtype == torch.bfloat16
    assert found.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(found, replay._stacks_indexed(rows, window).bfloat16())


@needs_compiler
def test_writes_into_a_part_of_a_batch() -> None:
    replay, rng = filled(3, 3, "repeat"), np.random.default_rng(1)
    rows, window = replay.observations(5, rng), Crop(9).draw(5, (12, 14), rng)
    out = replay.empty(6, 9)
    out[0] = 0
    replay.stacks(rows, window, out=out[1:])
    assert not out[0].any()
    assert torch.equal(out[1:], replay.stacks(rows, window))


def test_other_windows_take_the_plain_way() -> None:
    replay, plain = (filled(1, 3, "blank", interleaved=i) for i in (True, False))
    rng = np.random.default_rng(1)
    rows, window = replay.observations(20, rng), Shift(10, 1, 12).draw(20, (12, 14), rng)
    assert torch.equal(replay.stacks(rows, window).float(), plain.stacks(rows, window).float())


def test_without_a_compiler_pixels_stay_uint8(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(native, "available", lambda: False)
    replay, rng = filled(3, 3, "repeat"), np.random.default_rng(1)
    rows, window = replay.observations(20, rng), Crop(9).draw(20, (12, 14), rng)
    found = replay.stacks(rows, window)
    assert found.dtype == torch.uint8
    assert torch.equal(found, replay._stacks_indexed(rows, window))
