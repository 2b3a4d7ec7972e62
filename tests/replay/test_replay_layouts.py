"""The compiled gather equals the plain one; without a compiler nothing is missed."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from helpers import patches

from mcurl.native import frames as native
from mcurl.replay import PaddedCrop, RandomCrop, RandomShift, Replay, Window
from mcurl.replay.gather import BLANK, FrameGather

needs_compiler = pytest.mark.skipif(not native.available(), reason="no C compiler here")


def filled(
    channels: int, stack: int, start: str, *, layout: str = "channels_last", size: tuple[int, int] = (12, 14)
) -> Replay:
    replay = Replay(
        capacity=60,
        frame_shape=(channels, *size),
        frame_dtype="uint8",
        frame_stack=stack,
        stack_start=start,
        action_shape=(),
        action_dtype=np.int64,
        layout=layout,
    )  # type: ignore[arg-type]
    rng = np.random.default_rng(0)
    for length in (7, 1, 30, 11, 25):
        replay.begin(rng.integers(0, 256, (channels, *size), dtype=np.uint8))
        for step in range(length):
            replay.append(0, 0.0, rng.integers(0, 256, (channels, *size), dtype=np.uint8), False, step == length - 1)
    return replay


def slots(replay: Replay, frame_rows: np.ndarray) -> np.ndarray:
    return np.where(frame_rows == BLANK, BLANK, frame_rows % replay.records.capacity)


def indexed(replay: Replay, rows: np.ndarray, window: Window) -> torch.Tensor:
    return FrameGather(replay.frames, replay.frame_stack, "planes").gather_indexed(
        slots(replay, replay.frame_rows(rows)), window
    )


def some_blank(replay: Replay, n: int, rng: np.random.Generator) -> np.ndarray:
    """Any frames in the ring, a third of them blank: ``int64 [n, K]``."""
    frame_rows = rng.integers(replay.records.oldest, replay.written, (n, replay.frame_stack))
    frame_rows[rng.random(frame_rows.shape) < 1 / 3] = BLANK
    return frame_rows


@needs_compiler
@pytest.mark.parametrize(("channels", "stack"), [(3, 3), (1, 4), (1, 3), (3, 2)])
@pytest.mark.parametrize("start", ["repeat", "blank"])
@pytest.mark.parametrize("threads", [1, 2])
def test_equals_the_indexed_gather(channels: int, stack: int, start: str, threads: int) -> None:
    replay = filled(channels, stack, start)
    rng = np.random.default_rng(1)
    rows = replay.sample_observations(100, rng)
    window = RandomCrop(9).window(100, (12, 14), rng)
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    found = replay.gather_stacks(rows, window)
    torch.set_num_threads(before)
    assert found.dtype == torch.uint8
    assert found.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(found, indexed(replay, rows, window))


@needs_compiler
@pytest.mark.parametrize("start", ["repeat", "blank"])
@pytest.mark.parametrize("augmentation", [RandomCrop(9), RandomShift(9, 2)])
@pytest.mark.parametrize(("channels", "stack"), [(3, 3), (1, 1)])
def test_any_frames_channels_last(
    channels: int, stack: int, augmentation: RandomCrop | RandomShift, start: str
) -> None:
    compiled, plain = (filled(channels, stack, start, layout=layout) for layout in ("channels_last", "planes"))
    rng = np.random.default_rng(1)
    frame_rows, window = some_blank(plain, 50, rng), augmentation.window(50, (12, 14), rng)
    stacks = compiled.gather_frames(frame_rows, window)
    assert stacks.dtype == torch.uint8
    assert torch.equal(stacks, plain.gather_frames(frame_rows, window))


@needs_compiler
def test_writes_into_a_part_of_a_batch() -> None:
    replay, rng = filled(3, 3, "repeat"), np.random.default_rng(1)
    rows, window = replay.sample_observations(5, rng), RandomCrop(9).window(5, (12, 14), rng)
    out = replay.empty_stacks(6, 9)
    out[0] = 0
    replay.gather_stacks(rows, window, out=out[1:])
    assert not out[0].any()
    assert torch.equal(out[1:], replay.gather_stacks(rows, window))


def test_other_windows_take_the_plain_way() -> None:
    replay, plain = (filled(1, 3, "blank", layout=layout) for layout in ("channels_last", "planes"))
    rng = np.random.default_rng(1)
    rows, window = replay.sample_observations(20, rng), PaddedCrop(10, 1, 12).window(20, (12, 14), rng)
    assert torch.equal(replay.gather_stacks(rows, window), plain.gather_stacks(rows, window))


def test_without_a_compiler_stacks_are_planes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(native, "available", lambda: False)
    replay, rng = filled(3, 3, "repeat"), np.random.default_rng(1)
    rows, window = replay.sample_observations(20, rng), RandomCrop(9).window(20, (12, 14), rng)
    found = replay.gather_stacks(rows, window)
    assert found.dtype == torch.uint8
    assert torch.equal(found, indexed(replay, rows, window))


@needs_compiler
@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize(("channels", "stack", "start", "size"), [(1, 4, "blank", 54), (3, 2, "repeat", 28)])
@pytest.mark.parametrize("window", ["whole", "crop", "shift", "cut off on both sides", "repeated on both sides"])
def test_cuts_the_patches_of_any_window(
    window: str, channels: int, stack: int, start: str, size: int, threads: int
) -> None:
    cut, plain = (filled(channels, stack, start, layout=layout, size=(size, size)) for layout in ("patches", "planes"))
    rng = np.random.default_rng(1)
    rows = cut.sample_observations(70, rng)
    choice = {
        "whole": None,
        "crop": RandomCrop(26),
        "shift": PaddedCrop(size - 4, 4, size),
        "cut off on both sides": PaddedCrop(size, 2, size),
        "repeated on both sides": PaddedCrop(size - 12, 8, size),
    }[window]
    drawn = choice.window(70, (size, size), rng) if choice else None
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    found = cut.gather_stacks(rows, drawn)
    torch.set_num_threads(before)
    assert found.dtype == torch.uint8
    assert torch.equal(found, patches(plain.gather_stacks(rows, drawn)))


@needs_compiler
@pytest.mark.parametrize("augmentation", [None, RandomCrop(26), PaddedCrop(24, 4, 28), RandomShift(28, 4)])
@pytest.mark.parametrize(("channels", "stack", "start"), [(1, 4, "blank"), (3, 2, "repeat")])
def test_cuts_the_patches_of_any_frames(
    channels: int, stack: int, start: str, augmentation: RandomCrop | PaddedCrop | RandomShift | None
) -> None:
    cut, plain = (filled(channels, stack, start, layout=layout, size=(28, 28)) for layout in ("patches", "planes"))
    rng = np.random.default_rng(1)
    frame_rows = some_blank(plain, 50, rng)
    window = augmentation.window(50, (28, 28), rng) if augmentation else None
    assert torch.equal(cut.gather_frames(frame_rows, window), patches(plain.gather_frames(frame_rows, window)))


@pytest.mark.parametrize("layout", ["planes", "channels_last", "patches"])
def test_no_stacks_at_all(layout: str) -> None:
    replay, rng = filled(1, 4, "blank", layout=layout, size=(28, 28)), np.random.default_rng(1)
    none = np.empty(0, np.int64)
    assert (
        len(replay.gather_stacks(none)) == len(replay.gather_stacks(none, RandomCrop(26).window(0, (28, 28), rng))) == 0
    )


@needs_compiler
def test_cuts_into_a_part_of_a_batch() -> None:
    replay, rng = filled(1, 4, "blank", layout="patches", size=(28, 28)), np.random.default_rng(1)
    rows, window = replay.sample_observations(5, rng), PaddedCrop(24, 4, 28).window(5, (28, 28), rng)
    out = replay.empty_stacks(6, 28)
    out[0] = 0
    replay.gather_stacks(rows, window, out=out[1:])
    assert not out[0].any()
    assert torch.equal(out[1:], replay.gather_stacks(rows, window))


@needs_compiler
def test_stacks_that_the_compiled_functions_do_not_take_are_planes() -> None:
    layouts = [
        FrameGather(torch.zeros(2, *shape, dtype=torch.uint8), 3, "channels_last").layout
        for shape in [(21, 30, 30), (22, 30, 30), (1, 4096, 8), (1, 4097, 8)]
    ]
    assert layouts == ["channels_last", "planes", "channels_last", "planes"]
    many, plain = (filled(22, 3, "blank", layout=layout) for layout in ("channels_last", "planes"))
    rng = np.random.default_rng(1)
    rows, window = many.sample_observations(5, rng), RandomCrop(9).window(5, (12, 14), rng)
    assert torch.equal(many.gather_stacks(rows, window), plain.gather_stacks(rows, window))
