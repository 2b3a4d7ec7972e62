"""Timings of complete runs, started by the command line: a single run, and one run per core in parallel."""

from __future__ import annotations

import json
import statistics
import subprocess
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from mcurl.bench.timing import Timing
from mcurl.bench.update import TASKS
from mcurl.runtime.program import module_command
from mcurl.runtime.threads import available_cores

INTERVAL = {"dmc": 80, "atari": 300}
"""Suite -> agent steps between two checkpoints. The first interval does not count, because it includes warm-up."""
ACTION_REPEAT = {"dmc": 8, "atari": 4}
"""Suite -> action repeat of its task."""
LEARNING_STARTS = {"dmc": "sac.learning_starts=60", "atari": "rainbow.learning_starts=200"}
"""Suite -> setting with which updates start in the first interval."""


def time_runs(suite: str, method: str, threads: int, repeats: int) -> tuple[Timing, Timing]:
    """Time training per agent step, without evaluation.

    Returns:
        The timing of a single run, and that of parallel runs, one per core, divided by the number of runs. The second
        is lower than the first if parallel runs finish sooner than runs one after the other.
    """
    cores = available_cores()
    single = _measure(suite, method, threads, 1, repeats)
    parallel = _measure(suite, method, threads if cores == 1 else 0, cores, repeats)
    return (
        _timing(f"{suite} {method}, single run", suite, single, 1),
        _timing(f"{suite} {method}, {cores} parallel runs, per run", suite, parallel, cores),
    )


def _timing(name: str, suite: str, seconds: list[float], runs: int) -> Timing:
    """The timing of one agent step, from the seconds of intervals with ``runs`` parallel runs."""
    steps = [value / runs / INTERVAL[suite] for value in seconds]
    low, middle, high = statistics.quantiles(steps, n=4) if len(steps) > 1 else steps * 3
    hours = middle / ACTION_REPEAT[suite] * 100_000 / 3600
    return Timing(f"{name}: {hours:.2f} h per 100k env steps", middle * 1e3, low * 1e3, high * 1e3, len(seconds))


def _measure(suite: str, method: str, threads: int, runs: int, repeats: int) -> list[float]:
    arguments = [TASKS[suite], "--method", method, *(["--threads", str(threads)] if threads else [])]
    checkpoints = f"checkpoint.every={INTERVAL[suite] * ACTION_REPEAT[suite]}"
    arguments += ["--set", LEARNING_STARTS[suite], checkpoints]
    return time_intervals(arguments, runs, max(repeats // 10, 1))


def time_intervals(arguments: Sequence[str], runs: int, intervals: int) -> list[float]:
    """Train several seeds in parallel for a short time, without evaluation.

    Args:
        arguments: of ``mcurl train``. The first interval between two checkpoints should contain the warm-up.
        runs: number of seeds.
        intervals: number of intervals to time, after the first.

    Returns:
        Seconds between two checkpoints, for all runs and intervals.

    Raises:
        RuntimeError: a run ended early.
    """
    with tempfile.TemporaryDirectory() as directory:
        command = [*module_command(), "train", *arguments]
        command += ["--seed", ",".join(map(str, range(1, runs + 1))), "--max-parallel", str(runs), "--out", directory]
        command += ["--set", "evaluation.every=0", "evaluation.episodes=1"]
        with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
            try:
                return _wait_for_intervals(process, Path(directory), runs, intervals)
            finally:
                process.terminate()


def _wait_for_intervals(process: subprocess.Popen[bytes], out: Path, runs: int, intervals: int) -> list[float]:
    """Wait until each run has logged so many intervals, and return their seconds."""
    while process.poll() is None:
        time.sleep(0.5)
        logs = [path.read_text().splitlines()[1 : 1 + intervals] for path in out.glob("*/*/speed.jsonl")]
        if sum(len(log) == intervals for log in logs) == runs:
            return [json.loads(line)["seconds"] for log in logs for line in log]
    raise RuntimeError(f"a run ended early with exit status {process.returncode}")
