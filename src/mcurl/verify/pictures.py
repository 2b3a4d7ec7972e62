"""Pictures and videos of episodes: a contact sheet as PNG, or an MP4 file, which needs PyAV (extra ``video``)."""

from __future__ import annotations

import inspect
import os
import struct
import zlib
from fractions import Fraction
from pathlib import Path
from types import ModuleType
from typing import Any

import gymnasium
import numpy as np
from numpy.typing import NDArray

from mcurl.errors import UserError

WIDTH = 256
"""Width in pixels of a frame of a video; small frames are enlarged by a whole factor."""
COLUMNS, ROWS = 6, 4
"""Frames of a contact sheet."""
_SHEET_WIDTH = 128
_GAP = 4


def pyav() -> ModuleType:
    """PyAV. Raises UserError if it is not installed."""
    try:
        import av
    except ImportError as error:
        raise UserError(f"--video needs PyAV ({error}): pip install 'mcurl[video]', or use --picture") from error
    module: ModuleType = av
    return module


class ContactSheet:
    """A PNG of 24 frames at equal distances in an episode, in rows, with the first and the last step.

    Args:
        path: the file.
        length: agent steps of the episode.
    """

    def __init__(self, path: Path, length: int) -> None:
        self.path = path
        self._steps = {round(step) for step in np.linspace(0, length, min(COLUMNS * ROWS, length + 1))}
        self._frames: list[NDArray[np.uint8]] = []
        self._step = 0

    def step(self, env: gymnasium.Env[Any, Any]) -> None:
        """Add the current frame if it is shown."""
        if self._step in self._steps:
            self._frames.append(render(env, _SHEET_WIDTH))
        self._step += 1

    def close(self) -> None:
        """Write the file."""
        if self._frames:
            _write(self.path, encode_png(tile(self._frames)))


class Video:
    """An MP4 file (H.264) of an episode, one frame for each agent step.

    Args:
        path: the file.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._new = path.with_name(f".{path.name}.new")
        self._container: Any = None
        self._stream: Any = None

    def step(self, env: gymnasium.Env[Any, Any]) -> None:
        """Add the current frame."""
        frame = render(env, WIDTH)
        # H.264 halves the resolution of colours, so heights and widths are even.
        frame = np.pad(frame, ((0, frame.shape[0] % 2), (0, frame.shape[1] % 2), (0, 0)), mode="edge")
        if self._container is None:
            self._open(frame, float(env.metadata.get("render_fps") or 30))
        for packet in self._stream.encode(pyav().VideoFrame.from_ndarray(frame, format="rgb24")):
            self._container.mux(packet)

    def close(self) -> None:
        """Write the end of the file."""
        if self._container is None:
            return
        for packet in self._stream.encode():
            self._container.mux(packet)
        self._container.close()
        os.replace(self._new, self.path)

    def _open(self, frame: NDArray[np.uint8], rate: float) -> None:
        self._container = pyav().open(str(self._new), "w", format="mp4")
        self._stream = self._container.add_stream("libx264", rate=Fraction(rate).limit_denominator(1000))
        self._stream.height, self._stream.width = frame.shape[:2]
        self._stream.pix_fmt = "yuv420p"
        self._stream.options = {"crf": "18"}


def render(env: gymnasium.Env[Any, Any], width: int) -> NDArray[np.uint8]:
    """The current image in colour, ``uint8 [H, W, 3]``, of at least about ``width`` pixels.

    Raises:
        UserError: the environment has no images.
    """
    method: Any = env.unwrapped.render
    image = method(width=width) if "width" in inspect.signature(method).parameters else method()
    if not isinstance(image, np.ndarray) or image.dtype != np.uint8 or image.shape[2:] != (3,):
        raise UserError("the environment has no images: render() does not return uint8 [H, W, 3]")
    factor = max(round(width / image.shape[1]), 1)
    return image.repeat(factor, axis=0).repeat(factor, axis=1)


def tile(frames: list[NDArray[np.uint8]]) -> NDArray[np.uint8]:
    """Frames ``uint8 [H, W, 3]`` in rows of 6 on white, with gaps between them."""
    height, width, _ = frames[0].shape
    columns = min(COLUMNS, len(frames))
    rows = -(-len(frames) // columns)
    sheet = np.full((rows * (height + _GAP) + _GAP, columns * (width + _GAP) + _GAP, 3), 255, np.uint8)
    for number, frame in enumerate(frames):
        row, column = divmod(number, columns)
        y, x = _GAP + row * (height + _GAP), _GAP + column * (width + _GAP)
        sheet[y : y + height, x : x + width] = frame
    return sheet


def encode_png(image: NDArray[np.uint8]) -> bytes:
    """An image ``uint8 [H, W, 3]`` as PNG."""
    height, width, _ = image.shape
    rows = np.concatenate([np.zeros((height, 1), np.uint8), image.reshape(height, -1)], axis=1)  # filter 0: none
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)  # 8 bits, RGB
    chunks = ((b"IHDR", header), (b"IDAT", zlib.compress(rows.tobytes(), 9)), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data)) for kind, data in chunks
    )


def _write(path: Path, data: bytes) -> None:
    """Write a file atomically."""
    new = path.with_name(f".{path.name}.new")
    new.write_bytes(data)
    os.replace(new, path)
