"""Trains for a long time: memory, open files, threads, disk and speed must stay as they are after the warm-up.

    python tests/attacks/endurance.py 60                     # minutes of toy/reach
    python tests/attacks/endurance.py 60 --env-steps 3k      # at most so many env steps
    python tests/attacks/endurance.py 120 --task dmc/cartpole-swingup --env-steps 100k --set replay.capacity=1k

It is measured at every checkpoint, which follows an evaluation. A small replay is full during the warm-up; from then on
nothing has a reason to grow but the logs. The speed is judged by CPU time: other programs may use the machine. Linux
only.
"""

from __future__ import annotations

import argparse
import itertools
import os
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import mcurl

MEGABYTE = 2**20
LINE = "{:>8} {:>10} {:>9} {:>6} {:>8} {:>9} {:>8} {:>10}".format
WARM_UP = 4
"""Measurements of the warm-up at least: a quarter of all, if that is more."""
MEMORY_MB = 16.0
"""How much the resident memory may grow after the warm-up."""
SPEED = 0.75
"""Least env steps per second of CPU time in the last third, as a fraction of the third after the warm-up."""
SMALL = {
    "replay.capacity": 200,
    "evaluation.episodes": 2,
    "env.image_size": 20,
    "env.action_repeat": 8,
    "sac.crop": 16,
    "sac.batch_size": 8,
    "sac.learning_starts": 50,
    "sac.hidden": 16,
    "sac.layers": 2,
    "sac.filters": 4,
    "sac.feature_dim": 8,
    "mcurl.length": 4,
    "mcurl.batch": 4,
    "mcurl.layers": 1,
    "compute.threads": 1,
    "compute.device": "cpu",
}
"""Settings of toy/reach with which little of the time goes into updates, which leave nothing behind."""


@dataclass(frozen=True)
class Sample:
    """What the process has at one time."""

    seconds: float
    cpu: float
    """Seconds of CPU time."""
    env_steps: int
    memory: int
    """Resident bytes."""
    files: int
    """Open files."""
    threads: int
    disk: int
    """Bytes of the run's checkpoints and replay."""

    @classmethod
    def take(cls, seconds: float, progress: mcurl.Progress) -> Sample:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
        kept = [path for name in ("checkpoints", "replay") for path in (progress.folder / name).rglob("*")]
        return cls(
            seconds=seconds,
            cpu=time.process_time(),
            env_steps=progress.env_steps,
            memory=pages * os.sysconf("SC_PAGE_SIZE"),
            files=len(os.listdir("/proc/self/fd")),
            threads=len(os.listdir("/proc/self/task")),
            disk=sum(path.stat().st_size for path in kept),
        )


class Meter(mcurl.Callback):
    """Measures at checkpoints, and stops the run when the time is over."""

    def __init__(self, seconds: float, interval: float) -> None:
        self.start, self.seconds, self.interval = time.monotonic(), seconds, interval
        self.samples: list[Sample] = []
        self._printed = -interval
        print(LINE("minutes", "env steps", "memory", "files", "threads", "disk", "steps/s", "per CPU s"))

    def on_checkpoint(self, progress: mcurl.Progress) -> None:
        now = time.monotonic() - self.start
        self.samples.append(Sample.take(now, progress))
        if now - self._printed >= self.interval:
            self._printed = now
            self._print()
        if now >= self.seconds:
            progress.stop("the time is over")

    def _print(self) -> None:
        sample, last = self.samples[-1], self.samples[-2:]
        memory, disk = (f"{number / MEGABYTE:.1f} MB" for number in (sample.memory, sample.disk))
        wall, cpu = (f"{speeds(last, clock)[0]:.0f}" if len(last) > 1 else "" for clock in ("seconds", "cpu"))
        start = f"{sample.seconds / 60:.1f}", f"{sample.env_steps:,}"
        print(LINE(*start, memory, sample.files, sample.threads, disk, wall, cpu), flush=True)


def speeds(samples: Sequence[Sample], clock: str = "cpu") -> list[float]:
    """Env steps per second of a clock between samples, evaluations and checkpoints included."""
    return [
        (after.env_steps - before.env_steps) / (getattr(after, clock) - getattr(before, clock))
        for before, after in itertools.pairwise(samples)
    ]


def judge(samples: Sequence[Sample], check_speed: bool = True) -> list[str]:
    """What is not flat after the warm-up, in words; empty: everything is."""
    warm = samples[max(WARM_UP, len(samples) // 4) :]
    third = len(warm) // 3
    if third < 2:
        return [f"only {len(samples)} measurements: too few to judge"]
    first, last = warm[:third], warm[-third:]
    trouble = []
    for name in ("files", "threads"):
        values = sorted({getattr(sample, name) for sample in warm})
        if len(values) > 1:
            trouble.append(f"{name}: between {values[0]} and {values[-1]}")
    for name in ("memory", "disk"):
        before, after = (median(getattr(sample, name) for sample in part) / MEGABYTE for part in (first, last))
        if after - before > MEMORY_MB:
            trouble.append(f"{name}: {before:.1f} MB in the first third after the warm-up, {after:.1f} MB in the last")
    slow, fast = median(speeds(last)), median(speeds(first))
    if check_speed and slow < SPEED * fast:
        where = "in the first third after the warm-up"
        trouble.append(f"speed: {fast:.0f} env steps per second of CPU time {where}, {slow:.0f} in the last")
    return trouble


def main() -> int:
    """Train, print what was measured, and return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("minutes", type=float)
    parser.add_argument("--task", default="toy/reach")
    parser.add_argument("--env-steps", default="100M", help="budget, if it is reached before the time is over")
    parser.add_argument("--every", type=int, default=200, help="env steps between evaluations, and checkpoints")
    parser.add_argument("--set", nargs="+", default=[], metavar="KEY=VALUE", help="settings, as for mcurl train")
    parser.add_argument("--any-speed", action="store_true", help="do not judge the speed")
    options = parser.parse_args()
    settings = {"evaluation.every": options.every, "checkpoint.every": options.every}
    settings |= SMALL if options.task == "toy/reach" else {}
    settings |= dict(word.split("=", 1) for word in options.set)
    meter = Meter(60 * options.minutes, min(60.0, 6 * options.minutes))
    with tempfile.TemporaryDirectory() as out:
        mcurl.train(
            options.task,
            env_steps=options.env_steps,
            settings=settings,
            out=out,
            callbacks=[meter],
            progress=False,
        )
    samples = meter.samples
    trouble = judge(samples, not options.any_speed)
    print(f"{len(samples)} measurements, {samples[-1].env_steps:,} env steps: {'; '.join(trouble) or 'flat'}")
    return 1 if trouble else 0


if __name__ == "__main__":
    sys.exit(main())
