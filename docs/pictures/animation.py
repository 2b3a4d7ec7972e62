"""Draws docs/pictures/agent.gif: a trained agent, and what it sees.

    python docs/pictures/animation.py                     a recorded episode of results/, played again
    python docs/pictures/animation.py watch.mp4 --rate 20 a video of `mcurl watch`

Needs `pip install 'mcurl[atari,video]'`.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from contextlib import closing
from itertools import islice
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from mcurl.build import newest_frame
from mcurl.envs import make_env
from mcurl.pictures import draw_text, frames_per_second, pyav, render
from mcurl.recording import read
from mcurl.verify.replay import env_settings

TARGET = Path(__file__).with_name("agent.gif")
RECORDING = Path(__file__).parents[2] / "results/atari100k/rl-only/RoadRunner-seed2.episodes"
HEIGHT, GAP, LINE, FONT = 252, 12, 22, 15
Frame = NDArray[np.uint8]


def resized(image: Frame, height: int) -> Frame:
    width = round(image.shape[1] * height / image.shape[0])
    return np.asarray(Image.fromarray(image).resize((width, height), Image.Resampling.BOX))


def side_by_side(seen: Frame, shown: Frame, text: str) -> Frame:
    """What the agent sees, what a person sees, and a line of text below."""
    left, right = resized(seen, HEIGHT), resized(shown, HEIGHT)
    width = left.shape[1] + GAP + right.shape[1]
    canvas = np.full((LINE + HEIGHT + LINE, width, 3), 255, np.uint8)
    canvas[LINE : LINE + HEIGHT, : left.shape[1]] = left
    canvas[LINE : LINE + HEIGHT, left.shape[1] + GAP :] = right
    titles = [(2, 2, "what the agent sees"), (left.shape[1] + GAP + 2, 2, "what a person sees")]
    return draw_text(canvas, [*titles, (2, LINE + HEIGHT + 3, text)], FONT)


def recorded(path: Path, episode: int, first: int) -> Iterator[tuple[float, Frame]]:
    """Seconds and picture of each step of a recorded episode, played again. ``first``: the step at which it begins."""
    recording = read(path)
    seed = recording.seeds[episode]
    with closing(make_env(env_settings(recording), seed)) as env:
        observation, _ = env.reset(seed=seed)
        total, rate = 0.0, frames_per_second(env)
        for step, action in enumerate(recording.episode_actions(episode), 1):
            observation, reward, *_ = env.step(action)
            total += float(reward)
            if step < first:
                continue
            seen = newest_frame(observation, env).transpose(1, 2, 0).repeat(3, axis=2)
            yield (step - first) / rate, side_by_side(seen, render(env, 160), f"return {total:.0f}, step {step}")


def filmed(path: Path) -> Iterator[tuple[float, Frame]]:
    """Seconds and picture of each frame of a video."""
    with pyav().open(str(path)) as container:
        for frame in container.decode(video=0):
            yield frame.time, frame.to_ndarray(format="rgb24")


def save(frames: Iterator[tuple[float, Frame]], rate: float, seconds: float) -> None:
    """Write the frames of some seconds, at a rate of frames per second, as a GIF that repeats."""
    pictures: list[Image.Image] = []
    for time, frame in frames:
        if time >= seconds:
            break
        if time * rate >= len(pictures):
            pictures.append(Image.fromarray(frame))
    # One palette for all frames, from some of them side by side; no dithering, which changes from frame to frame.
    sample = np.concatenate([np.asarray(picture) for picture in islice(pictures, 0, None, 10)])
    palette = Image.fromarray(sample).quantize(64)
    gif = [picture.quantize(palette=palette, dither=Image.Dither.NONE) for picture in pictures]
    gif[0].save(TARGET, save_all=True, append_images=gif[1:], duration=round(1000 / rate), loop=0, optimize=False)
    print(TARGET, f"{TARGET.stat().st_size / 1e6:.2f} MB, {len(gif)} frames")


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("path", type=Path, nargs="?", default=RECORDING)
    parser.add_argument("--episode", type=int, default=0)
    parser.add_argument("--first", type=int, default=0, help="first step of the episode")
    parser.add_argument("--rate", type=float, default=10, help="frames per second")
    parser.add_argument("--seconds", type=float, default=12)
    options = parser.parse_args()
    video = options.path.suffix == ".mp4"
    save(
        filmed(options.path) if video else recorded(options.path, options.episode, options.first),
        options.rate,
        options.seconds,
    )
