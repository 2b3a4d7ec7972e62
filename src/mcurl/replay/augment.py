"""Augmentation of stacks of frames: windows (crops and shifts) and intensity jitter.

An augmentation samples its random numbers on the host, from a generator that the caller passes. The window is applied
while pixels are copied out of the ring (``Replay.gather_stacks``); ``apply_intensity`` applies the intensity on the
device. All K frames of a stack share one window and one intensity. Augmentations with the same parameters are equal.
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
"""Largest scale of ``Intensity``; the smallest factor is 0 then."""


@dataclass(frozen=True, slots=True)
class Window:
    """The windows of N stacks: a crop of each frame, and its offset in the output.

    Output row y (0 <= y < size) of stack i is (columns likewise, with ``left`` and ``right``)::

        out[i, y] = frame[top[i] + clamp(y - down[i], 0, crop - 1)]

    A plain crop has ``crop == size`` and ``down == right == 0``. Output pixels outside the crop replicate its edge. At
    least one row and one column of the crop are visible.

    Attributes:
        size: height and width of the output, in pixels.
        crop: height and width of the crop, in pixels, at least 1.
        top, left: ``int64 [N]``, offset of the crop in the frame, 0 <= top <= H - crop.
        down, right: ``int64 [N]``, offset of the crop in the output; a negative offset removes its first rows.
    """

    size: int
    crop: int
    top: npt.NDArray[np.int64]
    left: npt.NDArray[np.int64]
    down: npt.NDArray[np.int64]
    right: npt.NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.top)

    def __getitem__(self, index: Any) -> Window:
        """The windows of a selection of stacks; ``index`` is any index of a NumPy array ``[N]``."""
        return Window(self.size, self.crop, self.top[index], self.left[index], self.down[index], self.right[index])


class Augmentation(ABC):
    """Base of augmentations. Subclasses are frozen dataclasses."""

    __slots__ = ()

    @abstractmethod
    def window(self, n: int, frame_hw: tuple[int, int], rng: np.random.Generator) -> Window | None:
        """Sample the windows of ``n`` stacks of H×W frames, independently for each stack.

        Returns:
            The windows; None: whole frames.

        Raises:
            UserError: the frames are too small.
        """

    @abstractmethod
    def output_size(self, frame_hw: tuple[int, int]) -> int:
        """Height and width in pixels of augmented H×W frames. Raises ``UserError`` as ``window`` does."""

    def intensity(self, n: int, rng: np.random.Generator) -> npt.NDArray[np.float32] | None:
        """Sample a factor on the pixels of each of ``n`` stacks, ``float32 [n]``; None: no change."""
        return None


@dataclass(frozen=True, slots=True)
class WholeFrame(Augmentation):
    """No augmentation: whole frames."""

    def window(self, n: int, frame_hw: tuple[int, int], rng: np.random.Generator) -> None:
        """None, without sampling."""

    def output_size(self, frame_hw: tuple[int, int]) -> int:
        """The height of the frames. Raises ``UserError`` if they are not square."""
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
    """The centre crop, as the policy uses it in acting. Nothing is sampled.

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
    """DrQ's random shift (Kostrikov et al., 2021).

    The centre crop is padded by replicating its edges, and randomly cropped to its size again.

    Attributes:
        size: height and width of centre crop and output, in pixels; at least 1, at most those of the frame.
        pad: padding of each edge in pixels, 0 <= pad < size. Shifts of -pad to pad are equally likely.

    Raises:
        UserError: ``pad`` is out of range.
    """

    size: int
    pad: int = 4

    def __post_init__(self) -> None:
        if not 0 <= self.pad < self.size:
            raise UserError(
                f"a shift by {self.pad} pixels does not fit into {self.size} pixels: choose from 0 to {self.size - 1}"
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
    """A random crop, padded by replicating its edges, and randomly cropped again: CURL's augmentation on Atari.

    CURL uses 80, 4 and 84 pixels. All offsets of both crops are equally likely.

    Attributes:
        crop: height and width of the first crop, in pixels; at least 1, at most those of the frame.
        pad: padding of each edge of the first crop in pixels, at least 0.
        size: height and width of the second crop, pad < size <= crop + 2 * pad, so that it overlaps with the first.

    Raises:
        UserError: ``pad`` or ``size`` is out of range.
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
    """SPR's intensity jitter (Schwarzer et al., 2021), in addition to another augmentation.

    The pixels of each stack are multiplied by 1 + scale * clip(ε, -2, 2), with ε from N(0, 1).

    Attributes:
        inner: the other augmentation. If it has an intensity too, the factors are multiplied.
        scale: 0 to 0.5 (SPR: 0.05).

    Raises:
        UserError: ``scale`` is out of range.
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
        """Sample ``float32 [n]`` in [1 - 2 * scale, 1 + 2 * scale], times the factors of ``inner``, if any."""
        inner_factor = self.inner.intensity(n, rng)
        factor = (1 + self.scale * np.clip(rng.standard_normal(n), -2, 2)).astype(np.float32)
        return factor if inner_factor is None else inner_factor * factor


def apply_intensity(pixels: Tensor, factor: npt.NDArray[np.float32] | None) -> Tensor:
    """Multiply the pixels of each stack by its factor, on the pixels' device and without synchronisation.

    Args:
        pixels: ``[N, ...]``, uint8, float32 or bfloat16, in any memory format.
        factor: ``float32 [N]``; None: no change.

    Returns:
        ``[N, ...]`` in the same memory format and dtype (uint8 becomes float32), neither rounded to integers nor
        clipped. ``pixels`` itself if ``factor`` is None.

    Raises:
        ValueError: ``factor`` does not have N values.
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
    """The largest vertical and horizontal offset of a square crop. Raises UserError if the crop does not fit."""
    height, width = frame_hw
    if not 1 <= crop <= min(height, width):
        raise UserError(f"a crop of {crop} pixels does not fit into frames of {height}×{width}")
    return height - crop, width - crop
