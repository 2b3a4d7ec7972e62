"""Pictures and videos: a contact sheet of an episode as PNG, MP4 files, and text in their frames.

MP4 files need PyAV, and text needs Pillow (extra ``video``).
"""

from __future__ import annotations

import contextlib
import functools
import inspect
import math
import os
import struct
import zlib
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from types import ModuleType
from typing import Any, Self

import gymnasium
import numpy as np
from numpy.typing import NDArray

from mcurl import files
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
        raise UserError(f"videos need PyAV ({error}): pip install 'mcurl[video]'") from error
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
            files.write_file(self.path, encode_png(tile(self._frames)))


class Mp4:
    """An MP4 file (H.264). It has its name when it is complete. As a context manager, it leaves no file after an error.

    Args:
        path: the file.
        rate: frames per second.
    """

    def __init__(self, path: Path, rate: float) -> None:
        self.path, self.rate = path, rate
        self._new = path.with_name(f".{path.name}.{os.getpid()}.new")
        self._container: Any = None
        self._stream: Any = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *error: object) -> None:
        if kind is None:
            self.close()
        else:
            self.discard()

    def add(self, frame: NDArray[np.uint8]) -> None:
        """Add a frame, ``uint8 [H, W, 3]``. All frames have the shape of the first one."""
        # H.264 halves the resolution of colours, so heights and widths are even.
        frame = np.pad(frame, ((0, frame.shape[0] % 2), (0, frame.shape[1] % 2), (0, 0)), mode="edge")
        if self._container is None:
            self._container = pyav().open(str(self._new), "w", format="mp4")
            self._stream = self._container.add_stream("libx264", rate=Fraction(self.rate).limit_denominator(1000))
            self._stream.height, self._stream.width = frame.shape[:2]
            self._stream.pix_fmt = "yuv420p"
            self._stream.options = {"crf": "18"}
        self._mux(self._stream.encode(pyav().VideoFrame.from_ndarray(frame, format="rgb24")))

    def _mux(self, packets: Sequence[Any]) -> None:
        with files.naming(self.path, self._new):
            for packet in packets:
                self._container.mux(packet)

    def close(self) -> None:
        """Write the end of the file. Without frames there is no file.

        Raises:
            UserError: there is something at its path by now; the video has another name.
        """
        if self._container is None:
            return
        try:
            self._mux(self._stream.encode())
            with files.naming(self.path, self._new):
                self._container.close()
            files.claim(self._new, self.path)
        except FileExistsError as error:
            other = self.path.with_stem(f"{self.path.stem}-{os.getpid()}")
            files.claim(self._new, other)
            raise UserError(f"another program has made {self.path} meanwhile: this video is {other}") from error
        finally:
            self._new.unlink(missing_ok=True)

    def discard(self) -> None:
        """Leave no file."""
        if self._container is not None:
            with contextlib.suppress(OSError):  # the disk is full, for example
                self._container.close()
        self._new.unlink(missing_ok=True)


class Video(Mp4):
    """An MP4 file of an episode, one frame for each agent step, at the speed of its environment.

    Args:
        path: the file.
    """

    def __init__(self, path: Path) -> None:
        super().__init__(path, 30)

    def step(self, env: gymnasium.Env[Any, Any]) -> None:
        """Add the current frame. The first one decides on the speed."""
        self.rate = frames_per_second(env)
        self.add(render(env, WIDTH))


def frames_per_second(env: gymnasium.Env[Any, Any]) -> float:
    """Agent steps per second of simulated time; 30 if the environment does not say."""
    return float(env.metadata.get("render_fps") or 30)


def check_video(path: Path, option: str) -> None:
    """Check that a new video can be written.

    Args:
        path: the file.
        option: the option that names it.

    Raises:
        UserError: it exists already, is not named ``.mp4``, its folder does not exist, or PyAV is not installed.
    """
    if path.suffix != ".mp4":
        raise UserError(f"{option} writes MP4 files: end the name in .mp4, not {path.name!r}")
    if path.exists():
        raise UserError(f"{path} exists already: use another name for {option}")
    if not path.parent.is_dir():
        raise UserError(f"{path.parent} is not a folder: create it, or use another name for {option}")
    pyav()


def render(env: gymnasium.Env[Any, Any], width: int) -> NDArray[np.uint8]:
    """The current image in colour, ``uint8 [H, W, 3]``, of at least about ``width`` pixels.

    Raises:
        UserError: the environment has no images.
    """
    method: Any = env.unwrapped.render
    try:
        image = method(width=width) if "width" in inspect.signature(method).parameters else method()
    except NotImplementedError:
        image = None
    if not isinstance(image, np.ndarray) or image.dtype != np.uint8 or image.shape[2:] != (3,):
        raise UserError("the environment has no images: render() does not return uint8 [H, W, 3]")
    return enlarge(image, width)


def enlarge(image: NDArray[np.uint8], width: int) -> NDArray[np.uint8]:
    """An image ``uint8 [H, W, C]`` enlarged by the whole factor that brings its width nearest to ``width``."""
    factor = max(round(width / image.shape[1]), 1)
    return image.repeat(factor, axis=0).repeat(factor, axis=1)


def draw_text(image: NDArray[np.uint8], texts: Sequence[tuple[int, int, str]], height: int) -> NDArray[np.uint8]:
    """Write black text into a copy of an image, ``uint8 [H, W, 3]``.

    Args:
        image: the image.
        texts: (x, y) of the upper left corner in pixels, and the text.
        height: height of the font in pixels.

    Raises:
        UserError: Pillow is not installed.
    """
    font = _font(height)
    from PIL import Image, ImageDraw

    picture = Image.fromarray(image)
    draw = ImageDraw.Draw(picture)
    for x, y, text in texts:
        draw.text((x, y), text, fill=(0, 0, 0), font=font)
    return np.asarray(picture)


def text_width(text: str, height: int) -> int:
    """Width of a text in pixels, in a font of ``height`` pixels."""
    length: float = _font(height).getlength(text)
    return math.ceil(length)


@functools.cache
def _font(height: int) -> Any:
    try:
        from PIL import ImageFont
    except ImportError as error:
        raise UserError(f"text in videos needs Pillow ({error}): pip install 'mcurl[video]'") from error
    return ImageFont.load_default(height)


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
