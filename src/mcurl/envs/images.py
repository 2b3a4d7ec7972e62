"""Images in the observations of Gymnasium environments: where they are, their form, and frames made of them."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cache
from types import ModuleType
from typing import Any, Literal

import gymnasium
import numpy as np
from gymnasium.spaces import Box, Dict, Tuple
from numpy.typing import NDArray

from mcurl.envs.foreign import EnvironmentFailure
from mcurl.errors import UserError, suggest

Fit = Literal["squeeze", "pad", "crop"]
Channels = Literal["all", "newest"]
MAX_CHANNELS = 16
"""More channels than this are no picture."""
_MIN_SIZE = 8
"""Arrays that are no uint8, and smaller than this, are vectors or grids of features, not pictures."""
_SYMBOLS = 10
"""Pictures have larger values than this."""
WATCHED = 100
"""Number of first frames that are compared."""


@dataclass(frozen=True)
class ImageForm:
    """How an image is read from an observation.

    The axes of the image are brought to ``[H, W, C]``, and its values, from the declared bounds, to 0 to 255.
    """

    path: tuple[str | int, ...]
    """Keys of Dict and indices of Tuple spaces that lead to the image; empty: the observation itself."""
    space: Box
    """The declared space of the image."""
    layout: str
    """``"HWC"``, ``"CHW"``, ``"HW"``, ``"KHWC"`` or ``"KCHW"`` (K: stacked frames)."""
    newest: bool
    """Whether only the newest of stacked frames is used."""

    @property
    def key(self) -> str:
        """The path as one text."""
        return _text(self.path)

    @property
    def channels(self) -> int:
        """Number of channels of :meth:`read`."""
        total = self._all_channels
        if not self.newest or total in (1, 3):
            return total
        return self.space.shape[self.layout.index("C")] if "K" in self.layout else (1 if total % 3 else 3)

    @property
    def size(self) -> tuple[int, int]:
        """Height and width."""
        return self.space.shape[self.layout.index("H")], self.space.shape[self.layout.index("W")]

    @property
    def _all_channels(self) -> int:
        return int(np.prod([self.space.shape[i] for i, axis in enumerate(self.layout) if axis in "KC"], dtype=int))

    def notes(self, task: str) -> list[str]:
        """What is said of an uncommon form."""
        if self.layout == "HWC" and not self.key and self._all_channels in (1, 3) and self.space.dtype == np.uint8:
            return []
        key = f" {self.key!r}" if self.key else ""
        lines = [f"{task}: the image{key} is {describe_box(self.space)}, read as {self.layout}"]
        if self._all_channels not in (1, 3):
            use = f"the newest {self.channels}" if self.newest else "all"
            other = "env.channels=all uses all" if self.newest else "if they are stacked frames, env.channels=newest"
            lines.append(f"{task}: of its {self._all_channels} channels, {use} are used; {other}")
        return lines

    def read(self, observation: Any, where: str) -> NDArray[np.uint8]:
        """The image as ``uint8 [H, W, C]``.

        Args:
            observation: of the environment.
            where: what returned it, for error messages, such as ``gym/Id: reset()``.

        Raises:
            EnvironmentFailure: the observation is not what its space declares.
        """
        image: NDArray[Any] = self._find(observation, where)
        self._check(image, where)
        image = np.ascontiguousarray(np.transpose(image, self._axes)).reshape(*self.size, -1)
        low, high = float(self.space.low.flat[0]), float(self.space.high.flat[0])
        if image.dtype != np.uint8 or (low, high) != (0, 255):
            scaled = (image.astype(np.float32) - low) * (255 / (high - low))
            image = np.rint(scaled).clip(0, 255).astype(np.uint8)
        newest: NDArray[np.uint8] = image[..., -self.channels :]
        return newest

    @property
    def _axes(self) -> tuple[int, ...]:
        return tuple(self.layout.index(axis) for axis in "HWKC" if axis in self.layout)

    def _find(self, observation: Any, where: str) -> Any:
        for key in self.path:
            try:
                observation = observation[key]
            except (KeyError, IndexError, TypeError, ValueError):
                raise EnvironmentFailure(
                    f"{where} returned an observation without {self.key!r}, which its space declares"
                ) from None
        return observation

    def _check(self, image: Any, where: str) -> None:
        """Raise EnvironmentFailure if an image is not what the space declares."""
        key = f" under {self.key!r}" if self.key else ""
        declared = f"but its space declares {describe_box(self.space)}"
        if not isinstance(image, np.ndarray) or image.shape != self.space.shape or not _same_kind(image, self.space):
            found = f"{image.dtype} {list(image.shape)}" if isinstance(image, np.ndarray) else type(image).__name__
            raise EnvironmentFailure(f"{where} returned an observation of {found}{key}, {declared}")
        if image.dtype == np.uint8 and self.space.high.flat[0] >= 255:
            return
        low, high = float(image.min()), float(image.max())
        if not np.isfinite([low, high]).all():
            raise EnvironmentFailure(
                f"{where} returned an observation with values that are not finite{key}, {declared}"
            )
        if low < self.space.low.flat[0] - 1e-3 or high > self.space.high.flat[0] + 1e-3:
            raise EnvironmentFailure(
                f"{where} returned an observation with values from {low:g} to {high:g}{key}, {declared}"
            )


def _same_kind(image: NDArray[Any], space: Box) -> bool:
    """Whether the dtype is the declared one. float64 for float32 is common, and harmless."""
    return image.dtype == space.dtype or (image.dtype.kind == "f" and space.dtype.kind == "f")


def describe_box(space: Box) -> str:
    """The dtype, shape and bounds of a Box.

    >>> describe_box(Box(0, 255, (8, 8, 3), np.uint8))
    'uint8 [8, 8, 3] from 0 to 255'
    """
    bounds = f" from {space.low.min():g} to {space.high.max():g}" if space.low.size else ""
    return f"{space.dtype} {list(space.shape)}{bounds}"


def find_image(space: gymnasium.Space[Any], key: str, channels: Channels, task: str) -> ImageForm | None:
    """Find the image in the observations.

    Args:
        space: of the observations.
        key: keys that lead to the image, separated by dots; empty: the only image.
        channels: ``"newest"``: of stacked frames only the newest is used.
        task: for error messages.

    Returns:
        Its form, or None if no part of the observations is an image.

    Raises:
        UserError: the key is unknown or leads to no image, or there are several images and no key.
    """
    parts: dict[str, tuple[tuple[str | int, ...], Any]] = {}
    for path, part in _parts(space):
        if parts.setdefault(_text(path), (path, part))[0] != path:
            raise UserError(f"{task} has two observations {_text(path)}, one with dots in its keys: rename one")
    if key:
        if key not in parts:
            names = [name for name in parts if name]
            choices = suggest(key, names) if names else "the observation has no keys"
            raise UserError(f"{task} has no observation env.key={key}: {choices}")
        path, part = parts[key]
        layout = _layout(part)
        if layout is None:
            raise UserError(f"{task}: env.key={key} is {part}, which is not an image")
        return ImageForm(path, part, layout, channels == "newest")
    images = {name: layout for name, (_, part) in parts.items() if (layout := _layout(part)) is not None}
    if len(images) > 1:
        raise UserError(f"{task} has several images: choose one with env.key={' or env.key='.join(images)}")
    for name, layout in images.items():
        return ImageForm(*parts[name], layout, channels == "newest")
    return None


def _text(path: tuple[str | int, ...]) -> str:
    """A path as in ``env.key``: its keys and indices, separated by dots. A key may have dots of its own."""
    return ".".join(map(str, path))


def _parts(space: gymnasium.Space[Any], path: tuple[str | int, ...] = ()) -> list[tuple[tuple[str | int, ...], Any]]:
    """Path and space of each part of nested Dict and Tuple spaces."""
    if not isinstance(space, Dict | Tuple):
        return [(path, space)]
    items = space.spaces.items() if isinstance(space, Dict) else enumerate(space.spaces)
    return [part for key, inner in items for part in _parts(inner, (*path, key))]


def _layout(space: gymnasium.Space[Any]) -> str | None:
    """The axes of an image; None if the space is not one of images."""
    if not isinstance(space, Box) or len(space.shape) not in (2, 3, 4) or space.low.size == 0:
        return None
    low, high = float(space.low.flat[0]), float(space.high.flat[0])
    if not np.isfinite([low, high]).all() or (space.low != low).any() or (space.high != high).any() or high <= low:
        return None
    if high - low > 256:
        return None
    layout = _axes_of(space.shape)
    if layout is None:
        return None
    small = min(space.shape[layout.index("H")], space.shape[layout.index("W")]) < _MIN_SIZE
    return None if small and (space.dtype != np.uint8 or "C" not in layout) else layout


def _axes_of(shape: tuple[int, ...]) -> str | None:
    """``"HWC"``, ``"CHW"``, ... ; None if no axis can be that of channels."""
    if len(shape) == 2:
        return "HW"
    if len(shape) == 4:
        inner = _axes_of(shape[1:])
        return f"K{inner}" if inner is not None and shape[0] <= MAX_CHANNELS else None
    first, last = shape[0], shape[-1]
    if last in (1, 3) or (last <= first and last <= MAX_CHANNELS):
        return "HWC"
    return "CHW" if first <= MAX_CHANNELS else None


class Framing:
    """Makes frames ``uint8 [C, size, size]`` from images.

    Args:
        size: height and width of a frame.
        fit: how an image that is not square becomes square: ``"squeeze"`` changes its proportions, ``"pad"`` adds black
            bars, ``"crop"`` cuts off both ends of the longer side.
        grayscale: whether colours become gray.
    """

    def __init__(self, size: int, fit: Fit, grayscale: bool) -> None:
        self.size, self.fit, self.grayscale = size, fit, grayscale

    def note(self, height: int, width: int) -> str | None:
        """What is said of an image that is not square."""
        if height == width:
            return None
        words = {"squeeze": "squeezed", "pad": "padded", "crop": "cropped"}[self.fit]
        others = " or ".join(fit for fit in ("squeeze", "pad", "crop") if fit != self.fit)
        return f"images of {height} × {width} are {words} to a square (env.fit={self.fit}; or {others})"

    def __call__(self, image: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """A frame of an image ``uint8 [H, W, C]``."""
        if self.grayscale and image.shape[2] == 3:
            image = _cv2().cvtColor(np.ascontiguousarray(image), _cv2().COLOR_RGB2GRAY)[..., None]
        image = self._square(image)
        if image.shape[0] != self.size or image.shape[1] != self.size:
            image = _resize(image, self.size)
        return image.transpose(2, 0, 1)

    def _square(self, image: NDArray[np.uint8]) -> NDArray[np.uint8]:
        height, width = image.shape[:2]
        if self.fit == "squeeze" or height == width:
            return image
        if self.fit == "crop":
            side = min(height, width)
            top, left = (height - side) // 2, (width - side) // 2
            return image[top : top + side, left : left + side]
        side = max(height, width)
        top, left = (side - height) // 2, (side - width) // 2
        square = np.zeros((side, side, image.shape[2]), np.uint8)
        square[top : top + height, left : left + width] = image
        return square


def _resize(image: NDArray[np.uint8], size: int) -> NDArray[np.uint8]:
    """Resize by averaging over areas. OpenCV takes at most four channels at a time."""
    parts = []
    for first in range(0, image.shape[2], 4):
        part = np.ascontiguousarray(image[..., first : first + 4])
        resized = _cv2().resize(part, (size, size), interpolation=_cv2().INTER_AREA)
        parts.append(resized.reshape(size, size, -1))  # OpenCV drops the axis of a single channel
    return np.concatenate(parts, axis=2) if len(parts) > 1 else parts[0]


@cache
def _cv2() -> ModuleType:
    try:
        import cv2
    except ImportError as error:
        raise UserError(f"Gymnasium environments need OpenCV ({error}): pip install 'mcurl[gym]'") from error
    module: ModuleType = cv2
    return module


class FrameWatch:
    """Looks at the first frames of a run: frames that cannot be learned from are said once.

    Args:
        task: for the messages.
        rendered: whether the frames are rendered images.
    """

    def __init__(self, task: str, rendered: bool) -> None:
        self.task, self.rendered = task, rendered
        self._count, self._highest = 0, 0
        self._first: bytes | None = None
        self._alike = True

    def look(self, image: NDArray[np.uint8]) -> list[str]:
        """Look at an image, and return what is to be said."""
        if self._count >= WATCHED:
            return []
        self._count += 1
        self._highest = max(self._highest, int(image.max()))
        digest = hashlib.blake2b(image.tobytes()).digest()
        self._alike = self._alike and digest == (self._first or digest)
        self._first = self._first or digest
        if self._count == 1 and 0 < self._highest <= _SYMBOLS and not self.rendered:
            height, width = image.shape[:2]
            return [
                f"{self.task}: observations of {height} × {width} with values up to {self._highest} of 255 look like "
                "symbols, not like a picture; env.render=true learns from rendered images"
            ]
        if self._count < WATCHED or not self._alike:
            return []
        what = "black" if self._highest == 0 else "alike"
        return [f"{self.task}: the first {WATCHED} frames are all {what}; there is nothing to learn from"]
