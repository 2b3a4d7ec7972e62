"""Augmentations of tensors: crops and shifts, sampled independently for each observation, on the tensor's device."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from mcurl.errors import UserError


def random_crop(pixels: Tensor, size: int, *, generator: torch.Generator | None = None) -> Tensor:
    """A random crop of each observation, as in CURL and RAD; every offset is equally likely.

    Args:
        pixels: ``[N, C, H, W]``, any dtype. All channels of an observation share one crop.
        size: height and width of the crop in pixels, 1 to min(H, W).
        generator: on the device of ``pixels``; None: PyTorch's global generator.

    Returns:
        ``[N, C, size, size]``.

    Raises:
        UserError: the crop does not fit.
    """
    n, _, height, width = _shape(pixels)
    if isinstance(size, np.integer):
        size = int(size)
    if not isinstance(size, int) or not 1 <= size <= min(height, width):
        raise UserError(f"a crop of {size!r} pixels does not fit into observations of {height}×{width}")
    top, left = (
        torch.randint(side - size + 1, (n,), generator=generator, device=pixels.device) for side in (height, width)
    )
    return _crop(pixels, top, left, size, size)


def random_shift(pixels: Tensor, pad: int = 4, *, generator: torch.Generator | None = None) -> Tensor:
    """A random shift of each observation by up to ``pad`` pixels; its edges are repeated (Kostrikov et al., DrQ, 2021).

    Args:
        pixels: ``[N, C, H, W]``, any dtype. All channels of an observation share one shift.
        pad: largest shift in each direction in pixels, at least 0; all shifts are equally likely.
        generator: on the device of ``pixels``; None: PyTorch's global generator.

    Returns:
        ``[N, C, H, W]``.

    Raises:
        UserError: ``pad`` is negative.
    """
    if isinstance(pad, np.integer):
        pad = int(pad)
    if not isinstance(pad, int) or pad < 0:
        raise UserError(f"pad={pad!r}: expected a number of pixels, at least 0")
    n, _, height, width = _shape(pixels)
    # F.pad repeats no edges of uint8.
    rows = torch.arange(-pad, height + pad, device=pixels.device).clamp(0, height - 1)
    columns = torch.arange(-pad, width + pad, device=pixels.device).clamp(0, width - 1)
    padded = pixels.index_select(2, rows).index_select(3, columns)
    top, left = (torch.randint(2 * pad + 1, (n,), generator=generator, device=pixels.device) for _ in range(2))
    return _crop(padded, top, left, height, width)


def _shape(pixels: Tensor) -> torch.Size:
    """The shape of pixels. Raises UserError if they are not a tensor of four dimensions."""
    if not isinstance(pixels, Tensor) or pixels.ndim != 4:
        found = list(pixels.shape) if hasattr(pixels, "shape") else ""
        raise UserError(f"pixels are a tensor [N, C, H, W], not a {type(pixels).__name__} {found}".rstrip())
    return pixels.shape


def _crop(pixels: Tensor, top: Tensor, left: Tensor, height: int, width: int) -> Tensor:
    """Windows of ``height`` × ``width`` pixels at the offsets ``int64 [N]``: ``[N, C, H, W]`` -> ``[N, C, h, w]``."""
    n, channels = pixels.shape[:2]
    if pixels.device.type != "cpu":
        windows = pixels.unfold(2, height, 1).unfold(3, width, 1)  # a view
        return windows[torch.arange(n, device=pixels.device), :, top, left]
    out = pixels.new_empty(n, channels, height, width)
    for target, source, t, l in zip(out, pixels, top.tolist(), left.tolist(), strict=True):  # noqa: E741
        target.copy_(source[:, t : t + height, l : l + width])
    return out
