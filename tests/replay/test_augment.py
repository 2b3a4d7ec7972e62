"""Augmentations: the offsets that they sample, the pixels that they give, and what they refuse."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from mcurl.errors import UserError
from mcurl.replay import (
    Augmentation,
    CentreCrop,
    Intensity,
    PaddedCrop,
    RandomCrop,
    RandomShift,
    Replay,
    WholeFrame,
    apply_intensity,
)


def stored(rows: int, frame_shape: tuple[int, int, int]) -> Replay:
    """One episode of random frames."""
    replay = Replay(
        capacity=20,
        frame_shape=frame_shape,
        frame_dtype="uint8",
        frame_stack=4,
        stack_start="blank",
        action_shape=(),
        action_dtype="int64",
    )
    rng = np.random.default_rng(0)
    replay.begin(rng.integers(256, size=frame_shape, dtype=np.uint8))
    for _ in range(rows - 1):
        replay.append(1, 0.0, rng.integers(256, size=frame_shape, dtype=np.uint8), False, False)
    return replay


@pytest.mark.parametrize("size", [84, 100])
def test_random_crop_samples_every_offset(size: int) -> None:
    window = RandomCrop(size).window(2000, (100, 110), np.random.default_rng(0))
    assert set(window.top) == set(range(100 - size + 1))
    assert set(window.left) == set(range(110 - size + 1))
    if size < 100:
        assert abs(np.corrcoef(window.top, window.left)[0, 1]) < 0.1
    assert len(window[:5]) == 5


def test_centre_crop_samples_nothing() -> None:
    rng = np.random.default_rng(0)
    window = CentreCrop(84).window(2, (100, 110), rng)
    assert (window.top.tolist(), window.left.tolist()) == ([8, 8], [13, 13])
    assert (window.down.tolist(), window.right.tolist()) == ([0, 0], [0, 0])
    assert rng.random() == np.random.default_rng(0).random()


def test_padded_crop_samples_every_offset() -> None:
    window = PaddedCrop(80, 4, 84).window(2000, (84, 84), np.random.default_rng(0))
    assert (window.size, window.crop) == (84, 80)
    for offsets in (window.top, window.left, window.down, window.right):
        assert set(offsets) == set(range(5))


def test_the_order_of_random_numbers_stays() -> None:
    """Runs of earlier versions are repeated exactly."""
    rng = np.random.default_rng(3)
    window = RandomCrop(84).window(9, (100, 110), np.random.default_rng(3))
    assert np.array_equal(window.top, rng.integers(16, size=9, endpoint=True))
    assert np.array_equal(window.left, rng.integers(26, size=9, endpoint=True))
    rng = np.random.default_rng(4)
    window = PaddedCrop(80, 4, 84).window(9, (84, 90), np.random.default_rng(4))
    assert np.array_equal(window.top, rng.integers(4, size=9, endpoint=True))
    assert np.array_equal(window.left, rng.integers(10, size=9, endpoint=True))
    assert np.array_equal(window.down, 4 - rng.integers(4, size=9, endpoint=True))
    assert np.array_equal(window.right, 4 - rng.integers(4, size=9, endpoint=True))


def test_padded_crop_is_crop_pad_crop() -> None:
    """Against torch's own replication padding."""
    replay, rows = stored(13, (1, 84, 84)), np.arange(12)
    window = PaddedCrop(80, 4, 84).window(12, (84, 84), np.random.default_rng(0))
    views, plain = replay.gather_stacks(rows, window), replay.gather_stacks(rows)
    for i in range(12):
        first = plain[i, :, window.top[i] : window.top[i] + 80, window.left[i] : window.left[i] + 80]
        padded = F.pad(first.float()[None], (4, 4, 4, 4), mode="replicate")[0]
        y, x = 4 - window.down[i], 4 - window.right[i]
        assert torch.equal(views[i].float(), padded[:, y : y + 84, x : x + 84])


@pytest.mark.parametrize(("hw", "size", "pad"), [((84, 84), 84, 4), ((30, 40), 27, 6), ((9, 9), 5, 4), ((9, 9), 9, 0)])
def test_random_shift_is_drqs(hw: tuple[int, int], size: int, pad: int) -> None:
    """Kostrikov et al.: replication padding, then a random crop of the old size."""
    replay, rows = stored(20, (2, *hw)), np.arange(20)
    rng = np.random.default_rng(5)
    views = replay.gather_stacks(rows, RandomShift(size, pad).window(20, hw, np.random.default_rng(5)))
    top, left = ((side - size) // 2 for side in hw)
    centre = replay.gather_stacks(rows)[:, :, top : top + size, left : left + size]
    padded = F.pad(centre.float(), (pad, pad, pad, pad), mode="replicate")
    y, x = (rng.integers(2 * pad, size=20, endpoint=True) for _ in range(2))
    for i in range(20):
        assert torch.equal(views[i].float(), padded[i, :, y[i] : y[i] + size, x[i] : x[i] + size])


def test_random_shift_samples_every_offset() -> None:
    window = RandomShift(84).window(2000, (84, 84), np.random.default_rng(0))
    assert set(window.down) == set(window.right) == set(range(-4, 5))
    assert abs(np.corrcoef(window.down, window.right)[0, 1]) < 0.1


def test_intensity_is_sprs() -> None:
    rng = np.random.default_rng(0)
    jitter = Intensity(RandomCrop(84), 0.05)
    factor = jitter.intensity(100_000, rng)
    assert factor.dtype == np.float32
    noise = np.clip(np.random.default_rng(0).standard_normal(100_000), -2, 2)
    np.testing.assert_allclose(factor, 1 + 0.05 * noise, rtol=1e-6)
    assert (factor.min(), factor.max()) == pytest.approx((0.9, 1.1))
    a, b = (augmentation.window(5, (100, 100), np.random.default_rng(1)) for augmentation in (jitter, jitter.inner))
    assert a is not None
    assert b is not None
    assert np.array_equal(a.top, b.top)
    assert Intensity(WholeFrame(), 0.05).window(5, (84, 84), rng) is None
    assert (Intensity(WholeFrame(), 0).intensity(5, rng) == 1).all()


def test_factors_of_two_multiply() -> None:
    inner = Intensity(WholeFrame(), 0.1)
    rng = np.random.default_rng(2)
    expected = inner.intensity(6, rng) * Intensity(WholeFrame(), 0.2).intensity(6, rng)
    assert np.array_equal(Intensity(inner, 0.2).intensity(6, np.random.default_rng(2)), expected)


EVERY: list[tuple[Augmentation, int]] = [
    (WholeFrame(), 90),
    (RandomCrop(84), 84),
    (CentreCrop(84), 84),
    (RandomShift(84, 4), 84),
    (PaddedCrop(80, 4, 86), 86),
    (Intensity(RandomCrop(70), 0.05), 70),
]


@pytest.mark.parametrize(
    ("augmentation", "size"), EVERY, ids=[type(augmentation).__name__ for augmentation, _ in EVERY]
)
def test_output_size(augmentation: Augmentation, size: int) -> None:
    rng = np.random.default_rng(0)
    assert augmentation.output_size((90, 90)) == size
    window = augmentation.window(3, (90, 90), rng)
    assert window is None or (len(window), window.size) == (3, size)
    if not isinstance(augmentation, WholeFrame):
        with pytest.raises(UserError, match="does not fit"):
            augmentation.output_size((90, 60))
        with pytest.raises(UserError, match="does not fit"):
            augmentation.window(1, (60, 90), rng)
    if not isinstance(augmentation, Intensity):
        assert augmentation.intensity(3, rng) is None


def test_augmentations_are_values() -> None:
    assert Intensity(RandomCrop(84), 0.05) == Intensity(RandomCrop(84), 0.05)
    assert RandomCrop(84) != CentreCrop(84)
    assert RandomShift(84) == RandomShift(84, 4) != RandomShift(84, 3)
    assert len({WholeFrame(), WholeFrame(), PaddedCrop(80, 4, 84), PaddedCrop(80, 4, 84)}) == 2


def test_what_does_not_fit() -> None:
    with pytest.raises(UserError, match="choose from 2 to 82"):
        PaddedCrop(crop=80, pad=1, size=84)
    for pad in (-1, 84):
        with pytest.raises(UserError, match="choose from 0 to 83"):
            RandomShift(84, pad)
    for scale in (-0.1, 0.6, float("nan")):
        with pytest.raises(UserError, match=r"0 to 0\.5"):
            Intensity(WholeFrame(), scale)
    with pytest.raises(UserError, match="not square"):
        WholeFrame().output_size((84, 80))


def test_intensity_of_pixels_in_every_layout() -> None:
    planes = torch.randint(0, 256, (5, 6, 7, 7), dtype=torch.uint8)
    factor = np.linspace(0.9, 1.1, 5, dtype=np.float32)
    by_hand = torch.stack([planes[i].float() * factor[i].item() for i in range(5)])
    product = apply_intensity(planes, factor)
    assert product.dtype == torch.float32
    assert product.is_contiguous()
    torch.testing.assert_close(product, by_hand)
    torch.testing.assert_close(apply_intensity(planes.float(), factor), by_hand)
    last = apply_intensity(planes.to(torch.bfloat16, memory_format=torch.channels_last), factor)
    assert last.dtype == torch.bfloat16
    assert last.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(last, by_hand.bfloat16())  # rounded once
    of_bytes = apply_intensity(planes.contiguous(memory_format=torch.channels_last), factor)
    assert of_bytes.is_contiguous(memory_format=torch.channels_last)
    patches = apply_intensity(planes.view(5, 14, 21), factor)
    assert patches.dtype == torch.float32
    torch.testing.assert_close(patches, by_hand.view(5, 14, 21))


def test_no_intensity() -> None:
    pixels = torch.zeros(2, 3, 4, 4, dtype=torch.uint8)
    assert apply_intensity(pixels, None) is pixels
    with pytest.raises(ValueError, match="2 stacks"):
        apply_intensity(pixels, np.ones(3, np.float32))
