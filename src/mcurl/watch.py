"""A video of trained agents: what each one sees, beside what a person sees, with the return so far."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from mcurl.build import newest_frame
from mcurl.config.settings import TrainSettings
from mcurl.evaluate import Moment, play_episode
from mcurl.loading import load_agent
from mcurl.pictures import Mp4, check_video, draw_text, enlarge, frames_per_second, render, text_width
from mcurl.run.folder import Checkpoint, Run

SEEN_WIDTH, WIDTH = 252, 384
"""About the widths in pixels of what the agent sees, and of what a person sees."""
IN_A_ROW = 3
"""Largest number of agents side by side in one row."""
HOLD = 1.0
"""Seconds for which the last image stays."""
_FONT = 18
_LINE = 24
_GAP = 12
Image = NDArray[np.uint8]
"""``uint8 [H, W, 3]``."""


class Watched(NamedTuple):
    """What an agent did in the video."""

    name: str
    total: float
    """Sum of rewards."""
    steps: int
    """Agent steps."""
    over: bool
    """Whether the episode ended."""


def watch(
    runs: Sequence[tuple[Run, Checkpoint]],
    target: Path,
    *,
    episode: int = 0,
    seed: int | None = None,
    seconds: float = math.inf,
    progress: Callable[[int], None] = lambda frames: None,
) -> list[Watched]:
    """Write a video of one episode of each run, side by side. The run folders are not changed.

    Agents whose environments have other rates keep their own pace. The video ends when all episodes have ended.

    Args:
        runs: the runs, each with one of its checkpoints.
        target: a new MP4 file.
        episode: number of the episode in `mcurl evaluate`, from 0.
        seed: seed of the episodes; None: each run's own.
        seconds: longest length of the video.
        progress: called after each frame with the number of frames.

    Returns:
        What each agent did.

    Raises:
        UserError: a run cannot be played or has no images, ``target`` exists already, or PyAV is not installed.
    """
    check_video(target, "--out")
    with ExitStack() as stack:
        panels = [stack.enter_context(closing(_Panel(run, checkpoint, episode, seed))) for run, checkpoint in runs]
        rate = max(panel.rate for panel in panels)
        with Mp4(target, rate) as file:
            for number, frame in enumerate(_frames(panels, rate, seconds), 1):
                file.add(frame)
                progress(number)
        return [panel.watched for panel in panels]


def _frames(panels: Sequence[_Panel], rate: float, seconds: float) -> Iterator[Image]:
    number = 0
    image = _arrange([panel.image for panel in panels])
    yield image
    while any(not panel.moment.over for panel in panels) and number + 1 < (seconds - HOLD) * rate:
        number += 1
        for panel in panels:
            panel.advance(number / rate)
        image = _arrange([panel.image for panel in panels])
        yield image
    last = number + round(HOLD * rate)
    while number < last and number + 1 < seconds * rate:
        number += 1
        yield image


class _Panel:
    """One run in the video."""

    def __init__(self, run: Run, checkpoint: Checkpoint, episode: int, seed: int | None) -> None:
        settings = TrainSettings.from_json(run.settings)
        self.loaded = load_agent(run, settings, checkpoint)
        seed = settings.seed if seed is None else seed
        self.name = f"{run.name}, seed {settings.seed}"
        self.titles = (self.name, f"{settings.task}, {checkpoint.env_steps:,} env steps")
        self.size: tuple[int, int] | None = None
        self.moments = play_episode(settings, self.loaded, episode, seed)
        with ExitStack() as failure:
            failure.callback(self.close)
            self.moment: Moment = next(self.moments)
            self.rate = frames_per_second(self.moment.env)
            self.image = self._draw()
            failure.pop_all()

    @property
    def watched(self) -> Watched:
        return Watched(self.name, self.moment.total, self.moment.steps, self.moment.over)

    def advance(self, seconds: float) -> None:
        """Take the steps that are due at a moment of the video."""
        # The tolerance is for the rounding of a quotient that should be a whole number.
        while not self.moment.over and self.moment.steps + 1 <= seconds * self.rate + 1e-6:
            self.moment = next(self.moments)
            self.image = self._draw()

    def close(self) -> None:
        self.moments.close()

    def _draw(self) -> Image:
        moment = self.moment
        pictures = [render(moment.env, WIDTH)]
        if moment.observation.ndim == 3:
            frame = self.loaded.agent.visible(newest_frame(moment.observation, moment.env))
            pictures.insert(0, enlarge(_colour(frame), SEEN_WIDTH))
        state = f"return {moment.total:.1f}, step {moment.steps:,}{', ended' if moment.over else ''}"
        return self._layout(pictures, state)

    def _layout(self, pictures: Sequence[Image], state: str) -> Image:
        """The titles, the pictures in a row, and the state of the episode."""
        top = 2 * _LINE
        if self.size is None:
            height = top + max(picture.shape[0] for picture in pictures) + _LINE
            width = sum(picture.shape[1] + _GAP for picture in pictures) - _GAP
            self.size = height, max(width, *(text_width(title, _FONT) for title in self.titles))
        canvas = np.full((*self.size, 3), 255, np.uint8)
        x = 0
        for picture in pictures:
            # An environment may change the size of its images.
            part = picture[: self.size[0] - top - _LINE, : self.size[1] - x]
            canvas[top : top + part.shape[0], x : x + part.shape[1]] = part
            x += picture.shape[1] + _GAP
        lines = [(0, 0, self.titles[0]), (0, _LINE, self.titles[1]), (0, self.size[0] - _LINE + 2, state)]
        return draw_text(canvas, lines, _FONT)


def _colour(frame: NDArray[np.uint8]) -> Image:
    """A frame ``uint8 [C, H, W]`` as an image; other numbers of channels than 3 become gray."""
    pixels = frame.transpose(1, 2, 0)
    if pixels.shape[2] != 3:
        pixels = pixels.mean(axis=2, keepdims=True).astype(np.uint8).repeat(3, axis=2)
    return np.ascontiguousarray(pixels)


def _arrange(images: Sequence[Image]) -> Image:
    """Images in rows on white, with gaps between and around them. Up to three are in one row."""
    count = len(images)
    columns = count if count <= IN_A_ROW else math.ceil(math.sqrt(count))
    height, width = (max(image.shape[axis] for image in images) + 2 * _GAP for axis in (0, 1))
    canvas = np.full((math.ceil(count / columns) * height, columns * width, 3), 255, np.uint8)
    for number, image in enumerate(images):
        row, column = divmod(number, columns)
        y, x = row * height + _GAP, column * width + _GAP
        canvas[y : y + image.shape[0], x : x + image.shape[1]] = image
    return canvas
