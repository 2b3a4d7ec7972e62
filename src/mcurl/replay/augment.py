"""Augmentation of stacks: which pixels a gather takes (crops, shifts), and a factor on them (intensity jitter).

An augmentation makes its random choices on the host, from a generator that is passed in. A gather applies the window
while it copies pixels out of the ring (``Replay.gather_stacks``); ``apply_intensity`` applies the factor on the device.
All K frames of a stack share one window and one factor. Augmentations are values: two with the same parameters are
equal.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from mcurl.errors import UserError

LARGEST_SCALE = 0.5
"""Of ``Intensity``: with more, the smallest factor would be negative."""


@dataclass(frozen=True, slots=True)
class Window:
    """Which pixels of N stacks a gather takes. With y counted over the ``size`` output rows (columns: ``left``,
    ``right``)::

        out[i, y] = frame[top[i] + clamp(y - down[i], 0, crop - 1)]

    A plain crop has ``crop == size`` and ``down == right == 0``. Elsewhere the ``down`` rows above the crop, and the
    rows missing below it, repeat its edge. At least one row and one column of the crop show.

    Attributes:
        size: height and width of the output.
        crop: height and width of the part of the frame that is read, 1 <= crop.
        top, left: ``int64 [N]``, where that part begins, 0 <= top <= H - crop.
        down, right: ``int64 [N]``, where in the output it begins; a negative value cuts its first rows off.
    """

    size: int
    crop: int
    top: npt.NDArray[np.int64]
    left: npt.NDArray[np.int64]
    down: npt.NDArray[np.int64]
    right: npt.NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.top)

    @property
    def is_plain(self) -> bool:
        """Whether every window is a crop and nothing else."""
        return self.crop == self.size and not self.down.any() and not self.right.any()

    def __getitem__(self, index: Any) -> Window:
        """The windows of some of the stacks; ``index`` is whatever selects from a NumPy array of ``[N]``."""
        return Window(self.size, self.crop, self.top[index], self.left[index], self.down[index], self.right[index])


class Augmentation(ABC):
    """A random change of observations. Subclasses are frozen dataclasses."""

    __slots__ = ()

    @abstractmethod
    def window(self, n: int, frame_hw: tuple[int, int], rng: np.random.Generator) -> Window | None:
        """Sample the pixels that a gather takes from ``n`` stacks of H×W frames, independently for each stack.

        Returns:
            The windows, or None for whole frames.

        Raises:
            UserError: the frames are too small.
        """

    @abstractmethod
    def output_size(self, frame_hw: tuple[int, int]) -> int:
        """Side in pixels of the square that H×W frames become. Raises ``UserError`` as ``window`` does."""

    def intensity(self, n: int, rng: np.random.Generator) -> npt.NDArray[np.float32] | None:
        """Sample the factor on the pixels of each of ``n`` stacks: ``float32 [n]``, or None for no change."""
        return None


@dataclass(frozen=True, slots=True)
class WholeFrame(Augmentation):
    """No change: whole frames."""

    def window(self, n: int, frame_hw: tuple[int, int], rng: np.random.Generator) -> None:
        """None. Nothing is sampled."""

    def output_size(self, frame_hw: tuple[int, int]) -> int:
        """H. Raises ``UserError`` where the frames are not square."""
        height, width = frame_hw
        if height != width:
            raise UserError(f"frames of {height}×{width} are not square: choose a crop")
        return height


@dataclass(frozen=True, slots=True)
class RandomCrop(Augmentation):
    """A random crop (Laskin et al., 2020, RAD and CURL). Every offset is equally likely, the last included.

    Attributes:
        size: height and width of the crop, in pixels; at least 1, at most those of the frame.
    """

    size: int

    def window(self, n: int, frame_hw: tuple[int, int], rng: np.random.Generator) -> Window:
        height, width = _last_offsets(self.size, frame_hw)
        top = rng.integers(height, size=n, endpoint=True)
        return _plain_window(self.size, top, rng.integers(width, size=n, endpoint=True))

    def output_size(self, frame_hw: tuple[int, int]) -> int:
        _last_offsets(self.size, frame_hw)
        return self.size


@dataclass(frozen=True, slots=True)
class CentreCrop(Augmentation):
    """The crop in the middle, which the policy sees. Nothing is sampled.

    Attributes:
        size: height and width of the crop, in pixels; at least 1, at most those of the frame.
    """

    size: int

    def window(self, n: int, frame_hw: tuple[int, int], rng: np.random.Generator) -> Window:
        height, width = _last_offsets(self.size, frame_hw)
        return _plain_window(self.size, np.full(n, height // 2), np.full(n, width // 2))

    def output_size(self, frame_hw: tuple[int, int]) -> int:
        _last_offsets(self.size, frame_hw)
        return self.size


@dataclass(frozen=True, slots=True)
class RandomShift(Augmentation):
    """DrQ's random shift (Kostrikov et al., 2021): the centre of the frame, its edges replicated outwards, and a random
    crop of that with the size of the centre. On frames of exactly ``size`` the centre is the frame.

    Attributes:
        size: height and width of the centre and of the output, in pixels; at least 1, at most those of the frame.
        pad: by how many pixels each edge is replicated, 0 <= pad < size. Shifts of -pad to pad are equally likely.
    """

    size: int
    pad: int = 4

    def __post_init__(self) -> None:
        if not 0 <= self.pad < self.size:
            raise UserError(
                f"a shift by {self.pad} pixels does not fit a size of {self.size}: choose from 0 to {self.size - 1}"
            )

    def window(self, n: int, frame_hw: tuple[int, int], rng: np.random.Generator) -> Window:
        height, width = _last_offsets(self.size, frame_hw)
        down = self.pad - rng.integers(2 * self.pad, size=n, endpoint=True)
        right = self.pad - rng.integers(2 * self.pad, size=n, endpoint=True)
        return Window(self.size, self.size, np.full(n, height // 2), np.full(n, width // 2), down, right)

    def output_size(self, frame_hw: tuple[int, int]) -> int:
        _last_offsets(self.size, frame_hw)
        return self.size


@dataclass(frozen=True, slots=True)
class PaddedCrop(Augmentation):
    """A random crop, its edges replicated outwards, and a random crop of that: the views of data-efficient CURL on
    Atari (80, 4 and 84 there). All offsets of both crops are equally likely.

    Attributes:
        crop: height and width of the first crop, in pixels; at least 1, at most those of the frame.
        pad: by how many pixels each edge of the first crop is replicated, 0 <= pad.
        size: height and width of the second crop, pad < size <= crop + 2 * pad, so that some of the first shows.
    """

    crop: int
    pad: int
    size: int

    def __post_init__(self) -> None:
        largest = self.crop + 2 * self.pad
        if not 0 <= self.pad < self.size <= largest:
            raise UserError(
                f"a crop of {self.size} does not fit into {self.crop} pixels padded by {self.pad}: "
                f"choose from {self.pad + 1} to {largest}"
            )

    def window(self, n: int, frame_hw: tuple[int, int], rng: np.random.Generator) -> Window:
        height, width = _last_offsets(self.crop, frame_hw)
        top = rng.integers(height, size=n, endpoint=True)
        left = rng.integers(width, size=n, endpoint=True)
        slack = self.crop + 2 * self.pad - self.size
        down = self.pad - rng.integers(slack, size=n, endpoint=True)
        right = self.pad - rng.integers(slack, size=n, endpoint=True)
        return Window(self.size, self.crop, top, left, down, right)

    def output_size(self, frame_hw: tuple[int, int]) -> int:
        _last_offsets(self.crop, frame_hw)
        return self.size


@dataclass(frozen=True, slots=True)
class Intensity(Augmentation):
    """SPR's intensity jitter (Schwarzer et al., 2021), after another augmentation: each stack's pixels times
    1 + scale * clip(ε, -2, 2), with ε from N(0, 1).

    Attributes:
        inner: gives the windows. Where it has factors of its own, both multiply.
        scale: 0 to 0.5 (SPR: 0.05).
    """

    inner: Augmentation
    scale: float

    def __post_init__(self) -> None:
        if not 0 <= self.scale <= LARGEST_SCALE:
            raise UserError(f"an intensity scale of {self.scale} is out of range: choose from 0 to {LARGEST_SCALE}")

    def window(self, n: int, frame_hw: tuple[int, int], rng: np.random.Generator) -> Window | None:
        return self.inner.window(n, frame_hw, rng)

    def output_size(self, frame_hw: tuple[int, int]) -> int:
        return self.inner.output_size(frame_hw)

    def intensity(self, n: int, rng: np.random.Generator) -> npt.NDArray[np.float32]:
        """Sample ``float32 [n]`` in [1 - 2 * scale, 1 + 2 * scale], times the factors of ``inner``, which are sampled
        first."""
        factor = self.inner.intensity(n, rng)
        own = (1 + self.scale * np.clip(rng.standard_normal(n), -2, 2)).astype(np.float32)
        return own if factor is None else factor * own


def apply_intensity(pixels: Tensor, factor: npt.NDArray[np.float32] | None) -> Tensor:
    """Multiply the pixels of each stack by its factor, on the pixels' device and without waiting for it.

    Args:
        pixels: ``[N, ...]``, uint8, float32 or bfloat16, in any memory format.
        factor: ``float32 [N]``, or None.

    Returns:
        ``[N, ...]`` in the same memory format: float32 for uint8, else of the same dtype; not rounded to integers nor
        clipped. The same tensor where ``factor`` is None.

    Raises:
        ValueError: there are not N factors.
    """
    if factor is None:
        return pixels
    if factor.shape != pixels.shape[:1]:
        raise ValueError(f"factors of shape {factor.shape} for {len(pixels)} stacks")
    on_device = torch.from_numpy(factor).to(pixels.device, non_blocking=True)
    product = pixels * on_device.view(-1, *[1] * (pixels.dim() - 1))  # in float32
    return product.to(pixels.dtype) if pixels.is_floating_point() else product


def _plain_window(size: int, top: npt.NDArray[np.int64], left: npt.NDArray[np.int64]) -> Window:
    zeros = np.zeros_like(top)
    return Window(size, size, top, left, zeros, zeros)


def _last_offsets(crop: int, frame_hw: tuple[int, int]) -> tuple[int, int]:
    """The last offset of a crop in each direction."""
    height, width = frame_hw
    if not 1 <= crop <= min(height, width):
        raise UserError(f"a crop of {crop} pixels does not fit into frames of {height}×{width}")
    return height - crop, width - crop
