"""Time two checkouts of mcurl in turn, so that changes in the machine's speed affect both.

    python tests/bench/in_turn.py --suite dmc --method mcurl --threads 2 BASE/src HEAD/src

Each checkout runs in a process of its own, with this interpreter. The ratio is the median of the ratios of pairs, with
its quartiles. The fastest repetition of each is the least disturbed on a shared machine.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

ACTIONS = 50
"""In a repetition of --part act."""


def main() -> None:
    """Command line of this script."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sources", nargs="*", metavar="SRC", help="src folders of the two checkouts")
    parser.add_argument("--suite", default="dmc", choices=["dmc", "atari"])
    parser.add_argument("--method", default="mcurl")
    parser.add_argument("--part", default="update", choices=["update", "act"])
    add_options(parser)
    parser.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        serve(_actions(options) if options.part == "act" else _two_updates(options))
        return
    if len(options.sources) != 2:
        parser.error("expected two folders, BASE/src and HEAD/src")
    command = [sys.executable, __file__, "--worker", "--suite", options.suite, "--method", options.method]
    command += ["--part", options.part, "--threads", str(options.threads)]
    spinning = {"GOMP_SPINCOUNT": "30000"}  # as the mcurl command sets it
    variables = [spinning | {"PYTHONPATH": source} for source in options.sources]
    seconds = run_in_turn([command, command], variables, options.repeats)
    report(f"{options.suite} {options.method} {options.part}", options, seconds)


def add_options(parser: argparse.ArgumentParser) -> None:
    """Options that scripts of this folder share."""
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=30, help="pairs of repetitions")
    parser.add_argument("--json", help="also append the timings to this file, a line each")


def run_in_turn(
    commands: Sequence[Sequence[str]], variables: Sequence[Mapping[str, str]], repeats: int, warm_up: int = 0
) -> list[list[float]]:
    """Seconds of the repetitions of each command, see :func:`serve`. Repetitions of warm-up do not count.

    Raises:
        RuntimeError: a command ended early.
    """
    workers = [
        subprocess.Popen(command, env=os.environ | own, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        for command, own in zip(commands, variables, strict=True)
    ]
    seconds: list[list[float]] = [[] for _ in workers]
    for worker in workers:
        _answer(worker)
    for repetition in range(warm_up + repeats):
        for worker, taken in zip(workers, seconds, strict=True):
            time.sleep(0.02)  # until the other's threads do not spin any more
            assert worker.stdin is not None
            worker.stdin.write("\n")
            worker.stdin.flush()
            value = float(_answer(worker))
            if repetition >= warm_up:
                taken.append(value)
    for worker in workers:
        worker.communicate()
    return seconds


def _answer(worker: subprocess.Popen[str]) -> str:
    assert worker.stdout is not None
    if line := worker.stdout.readline():
        return line
    raise RuntimeError(f"{worker.args!r} ended early")


def serve(repeat: Callable[[], object]) -> None:
    """Run a repetition for each line of standard input, and print its result: seconds."""
    for _ in range(5):
        repeat()
    print("ready", flush=True)
    for _ in sys.stdin:
        print(repeat(), flush=True)


def report(work: str, options: Any, seconds: Sequence[Sequence[float]]) -> None:
    """Print one line of JSON, and append it to the file of --json."""
    base, head = seconds
    low, middle, high = statistics.quantiles(b / a for a, b in zip(base, head, strict=True))
    line = {
        "work": work,
        "threads": options.threads,
        "pairs": options.repeats,
        "base_ms": round(1e3 * statistics.median(base), 3),
        "head_ms": round(1e3 * statistics.median(head), 3),
        "base_fastest_ms": round(1e3 * min(base), 3),
        "head_fastest_ms": round(1e3 * min(head), 3),
        "head_to_base": round(middle, 3),
        "quartiles": [round(low, 3), round(high, 3)],
    }
    print(json.dumps(line))
    if options.json:
        with open(options.json, "a") as file:
            file.write(json.dumps(line) + "\n")


def _timed(function: Callable[[], object], count: int) -> Callable[[], float]:
    """A function that returns the seconds of one of ``count`` parts of a function."""

    def timed() -> float:
        started = time.perf_counter()
        function()
        return (time.perf_counter() - started) / count

    return timed


def _two_updates(options: argparse.Namespace) -> Callable[[], float]:
    """Two updates, data included, because SAC's actor learns in every second one."""
    from mcurl.bench import update

    compute = _compute(options.threads)
    if hasattr(update, "Learner"):
        return _timed(update._two_updates(options.suite, options.method, compute, None), 2)
    # Older commits.
    from mcurl.seeding import Generators

    from mcurl.batches import draw

    agent, replay, _ = update.build(options.suite, options.method, compute)
    generators = Generators(0)

    def two() -> None:
        for _ in range(2):
            batch = draw(replay, agent.views, agent.objective, generators, importance=0.5)
            agent.update(batch, 4 * (agent.updates + 1))

    return _timed(two, 2)


def _actions(options: argparse.Namespace) -> Callable[[], float]:
    """Actions for one observation each, as in training."""
    import numpy as np

    from mcurl.bench import update

    compute = _compute(options.threads)
    if hasattr(update, "Learner"):
        agent = update.Learner(options.suite, options.method, compute).agent
    else:
        agent = update.build(options.suite, options.method, compute)[0]
    shape = (1, 4, 84, 84) if options.suite == "atari" else (1, 9, 100, 100)
    observation = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)

    def act() -> None:
        for _ in range(ACTIONS):
            agent.act(observation, explore=True)

    return _timed(act, ACTIONS)


def _compute(threads: int) -> Any:
    from mcurl.bench.command import ComputeSettings, prepare  # defined elsewhere in older commits

    return prepare(ComputeSettings(threads=threads))


if __name__ == "__main__":
    main()
