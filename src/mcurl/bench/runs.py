"""Whole runs as a user starts them: one alone, and one for each core side by side."""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from mcurl.bench.timing import Timing
from mcurl.bench.update import TASKS
from mcurl.runtime.threads import available_cores

STRETCH = {"dmc": 80, "atari": 300}
"""Agent steps between two checkpoints. The first stretch, with what is done once, does not count."""
ACTION_REPEAT = {"dmc": 8, "atari": 4}
SOON = {"dmc": "sac.learning_starts=60", "atari": "rainbow.learning_starts=200"}


def time_runs(suite: str, method: str, threads: int, repeats: int) -> tuple[Timing, Timing]:
    """Time per agent step of training, everything but evaluation included: of one run, and of as many as there are
    cores, each step of each counted.

    The second is below the first where runs side by side finish sooner than one after the other.
    """
    cores = available_cores()
    alone = _stretches(suite, method, threads, 1, repeats)
    together = _stretches(suite, method, threads if cores == 1 else 0, cores, repeats)
    return _timing(f"{suite} {method}, a run", suite, alone, 1), _timing(
        f"{suite} {method}, {cores} runs at once, per run", suite, together, cores
    )


def _timing(name: str, suite: str, seconds: list[float], runs: int) -> Timing:
    """``seconds`` of whole stretches, in which so many runs went on; the timing is of one agent step."""
    steps = [value / runs / STRETCH[suite] for value in seconds]
    low, middle, high = statistics.quantiles(steps, n=4) if len(steps) > 1 else steps * 3
    hours = middle / ACTION_REPEAT[suite] * 100_000 / 3600
    return Timing(f"{name}: {hours:.2f} h per 100k env steps", middle * 1e3, low * 1e3, high * 1e3, len(seconds))


def _stretches(suite: str, method: str, threads: int, runs: int, repeats: int) -> list[float]:
    """Seconds between two checkpoints, of every run."""
    with tempfile.TemporaryDirectory() as scratch:
        seeds = ",".join(map(str, range(1, runs + 1)))
        command = [
            sys.executable,
            "-m",
            "mcurl",
            "train",
            TASKS[suite],
            "--method",
            method,
            "--seed",
            seeds,
            "--out",
            scratch,
        ]
        command += ["--threads", str(threads)] if threads else []
        command += [
            "--set",
            SOON[suite],
            f"checkpoint.every={STRETCH[suite] * ACTION_REPEAT[suite]}",
            "evaluation.every=0",
            "evaluation.episodes=1",
        ]
        with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
            try:
                return _wait(process, Path(scratch), runs, max(repeats // 10, 1))
            finally:
                process.terminate()


def _wait(process: subprocess.Popen[bytes], out: Path, runs: int, stretches: int) -> list[float]:
    while process.poll() is None:
        time.sleep(0.5)
        logs = [path.read_text().splitlines()[1 : 1 + stretches] for path in out.glob("*/*/speed.jsonl")]
        if sum(len(log) == stretches for log in logs) == runs:
            return [json.loads(line)["seconds"] for log in logs for line in log]
    raise RuntimeError(f"a run ended early, with status {process.returncode}")
