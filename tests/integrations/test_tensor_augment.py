"""Crops and shifts of tensors."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from mcurl.errors import UserError
from mcurl.integrations import random_crop, random_shift

H, W = 6, 5
PIXELS = torch.arange(H * W, dtype=torch.uint8).view(1, 1, H, W).expand(2000, 2, H, W)


def test_crops_show_every_window_equally_often() -> None:
    crops = random_crop(PIXELS, 4)
    assert crops.shape == (2000, 2, 4, 4)
    assert crops.dtype == torch.uint8
    corners, counts = crops[:, 0, 0, 0].unique(return_counts=True)
    assert corners.tolist() == [0, 1, 5, 6, 10, 11]
    assert (counts - 2000 / 6).abs().max() < 70
    for crop in crops[:50]:
        top, left = divmod(int(crop[0, 0, 0]), W)
        assert torch.equal(crop, PIXELS[0, :, top : top + 4, left : left + 4])


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32])
def test_shifts_repeat_the_edges(dtype: torch.dtype) -> None:
    pixels = PIXELS[:300].to(dtype)
    padded = F.pad(pixels[:1].float(), (2, 2, 2, 2), mode="replicate")[0]
    allowed = {tuple(padded[0, t : t + H, s : s + W].flatten().tolist()) for t in range(5) for s in range(5)}
    shifted = random_shift(pixels, 2)
    assert shifted.dtype == dtype
    assert {tuple(image[1].flatten().tolist()) for image in shifted} == allowed
    assert torch.equal(shifted[:, 0], shifted[:, 1])


def test_a_generator_decides() -> None:
    first, second = (random_crop(PIXELS, 3, generator=torch.Generator().manual_seed(1)) for _ in range(2))
    assert torch.equal(first, second)


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(UserError, match="a crop of 6 pixels does not fit into observations of 6×5"):
        random_crop(PIXELS, 6)
    with pytest.raises(UserError, match="pad=-1"):
        random_shift(PIXELS, -1)


@pytest.mark.parametrize(
    ("pixels", "size"),
    [
        (torch.zeros(2, 3, 8, 8), 6.5),
        (torch.zeros(2, 3, 8, 8), "6"),
        (torch.zeros(3, 8, 8), 6),
        (np.zeros((2, 3, 8, 8)), 6),
    ],
)
def test_what_is_not_pixels_or_not_a_number_of_them_is_refused(pixels: Any, size: Any) -> None:
    for augment in (random_crop, random_shift):
        with pytest.raises(UserError, match="pixels"):
            augment(pixels, size)
