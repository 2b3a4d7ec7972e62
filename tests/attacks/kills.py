"""Kills runs at random times and continues them: the same bytes as those of runs that never stopped.

    python tests/attacks/kills.py 100
    python tests/attacks/kills.py 30 --tasks toy/reach --methods mcurl --ways process suite

Each run is trained in three ways: in one process, by `mcurl suite run`, and by `mcurl suite run --on ray` on a cluster
of this machine. SIGKILL hits a training process, at times while it writes a checkpoint; the command of the suite, with
and without its training processes; a worker of Ray. `mcurl resume`, the same command, or the suite itself goes on.

The seed decides who is killed, and when. What a process is doing at that time depends on the machine.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.util
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from attack_runs import ENV_STEPS, SETTINGS, command, different, fork, result

from mcurl import cli
from mcurl.errors import UserError
from mcurl.run.folder import Run
from mcurl.suites.suite import Suite, SuiteRun

CONTRAST = {key: value for key, value in SETTINGS.items() if key.startswith("mcurl.")}
SAC = {key: value for key, value in SETTINGS.items() if key not in CONTRAST}
RAINBOW = {
    **{key: value for key, value in SAC.items() if not key.startswith(("sac.", "env."))},
    "rainbow.batch_size": 8,
    "rainbow.learning_starts": 50,
    "rainbow.hidden": 16,
    "rainbow.target_every": 40,
}
SLOW = {"evaluation.episodes": 1, "evaluation.parallel": 1}
GAME = {"evaluation.final_episodes": 2, "env.max_frames": 400, "checkpoint.every": 200, "evaluation.every": 300}
CONTROL = {"env.shadows": "off", "checkpoint.every": 400, "evaluation.every": 800}
TASKS: dict[str, tuple[int, dict[str, object], str]] = {
    "toy/reach": (ENV_STEPS, SAC, "mcurl"),
    "toy/catch": (ENV_STEPS, RAINBOW, "mcurl"),
    "dmc/cartpole-swingup": (1600, {**SAC, **SLOW, **CONTROL}, "dm_control"),
    "atari/Pong": (800, {**RAINBOW, **SLOW, **GAME}, "ale_py"),
}
"""Task -> budget, settings, and the package that it needs."""
METHODS = ("mcurl", "curl", "rl-only")
WAYS = ("process", "suite", "ray")
KILLED = 128 + signal.SIGKILL
MOST = 4
"""Most kills of a run in one process before it is left to finish; of a suite, on average per run."""
COMMAND_TIMEOUT = 900.0
PACKAGES = {"process": "mcurl", "suite": "mcurl", "ray": "ray"}


@dataclass
class Row:
    """A line of the table: a task, a method and a way."""

    runs: int = 0
    kills: int = 0
    resumes: int = 0
    diverged: int = 0


@dataclass
class Bench:
    """What is attacked, with which random numbers, and what came of it."""

    scratch: Path
    rng: random.Random
    expected: dict[SuiteRun, dict[str, bytes]] = field(default_factory=dict)
    seconds: dict[SuiteRun, float] = field(default_factory=dict)
    rows: dict[tuple[str, str, str], Row] = field(default_factory=dict)
    commands: Counter[str] = field(default_factory=Counter)
    """Way -> kills of the suite's command or of a worker of Ray."""

    def train_whole(self, run: SuiteRun) -> None:
        """Train a run that never stops: what the others are compared with."""
        out, start = self.scratch / "whole", time.monotonic()
        end = command(*run.arguments(out))
        assert end.status == 0, end.output
        self.seconds[run] = time.monotonic() - start
        self.expected[run] = result(run.folder(out))

    def row(self, run: SuiteRun, way: str) -> Row:
        return self.rows.setdefault((run.task, run.arm.method, way), Row())

    def kills(self, way: str) -> int:
        """Kills so far."""
        return sum(row.kills for key, row in self.rows.items() if key[2] == way) + self.commands[way]

    def compare(self, run: SuiteRun, way: str, out: Path, failure: str) -> None:
        """Compare a finished run with the one that never stopped. ``failure``: how it failed; empty: it did not."""
        row, folder = self.row(run, way), run.folder(out)
        row.runs += 1
        try:
            row.resumes += len(json.loads((folder / "run.json").read_bytes())["resumed"])
            names = different(self.expected[run], folder)
            trouble = failure or (f"other bytes in {', '.join(names)}" if names else "")
        except (OSError, ValueError, KeyError) as error:
            trouble = failure or f"{type(error).__name__}: {error}"
        if trouble:
            row.diverged += 1
            kept = Path(tempfile.mkdtemp(prefix="mcurl-kills-"))
            if folder.exists():
                shutil.copytree(folder, kept / folder.name)
            print(f"DIVERGED {way}: {run.name}; its folder is in {kept}\n{trouble}", flush=True)

    def moment(self, folders: Sequence[Path], seconds: float) -> Callable[[], bool]:
        """When to kill: after a random time, or while a checkpoint is written to one of the folders."""
        start, delay, writing = time.monotonic(), self.rng.uniform(0, seconds), self.rng.random() < 0.4
        after = self.rng.uniform(0, 0.02)

        def come() -> bool:
            nonlocal start, delay, writing
            if writing and any(_writes(folder) for folder in folders):
                start, delay, writing = time.monotonic(), after, False
            return not writing and time.monotonic() - start >= delay

        return come


def _writes(folder: Path) -> bool:
    """Whether a checkpoint is being written."""
    try:
        return any(name.endswith(".new") for name in os.listdir(folder / "checkpoints"))
    except OSError:
        return False


def attack_process(bench: Bench, suite: Path, runs: list[SuiteRun], out: Path, kills: int) -> None:
    """Kill `mcurl train` and `mcurl resume` in processes of their own."""
    last = bench.kills("process") + kills
    for run in runs:
        folder = run.folder(out)
        if not (planned := min(bench.rng.randint(1, MOST), last - bench.kills("process"))):
            break
        for _ in range(planned):
            end = fork(_next(bench, run, out), kill=bench.moment([folder], bench.seconds[run]))
            if end.status != KILLED:
                break
            bench.row(run, "process").kills += 1
        if end.status == KILLED and not _finished(folder):
            end = fork(_next(bench, run, out))
        bench.compare(run, "process", out, "" if end.status in (0, KILLED) else end.output)


def _next(bench: Bench, run: SuiteRun, out: Path) -> Callable[[], int]:
    """The command that goes on: `mcurl train` before the first checkpoint, and `mcurl resume` where there is a run."""
    folder = run.folder(out)
    begun = folder.exists()
    resumes = begun and (bool(Run.open(folder).checkpoints()) or bench.rng.random() < 0.5)
    arguments = run.resume_arguments(out) if resumes else run.arguments(out)
    return lambda: cli.main(arguments)


def _finished(folder: Path) -> bool:
    checkpoints = Run.open(folder).checkpoints() if folder.exists() else []
    return bool(checkpoints) and checkpoints[-1].final


def attack_suite(bench: Bench, suite: Path, runs: list[SuiteRun], out: Path, kills: int, way: str = "suite") -> None:
    """Kill what `mcurl suite run` consists of; the same command goes on where it was killed itself."""
    words = [sys.executable, "-m", "mcurl", "suite", "run", str(suite), "--out", str(out), "--retries", "1000"]
    words += ["--jobs", "2", *(("--on", "ray", "--address", "local", "--gpus", "0") if way == "ray" else ())]
    words += ["--methods", ",".join(run.arm.name for run in runs)]
    last, output = bench.kills(way) + kills, out.with_suffix(".txt")
    status = -signal.SIGKILL
    while status == -signal.SIGKILL:
        with output.open("w") as stream:
            process = subprocess.Popen(words, stdout=stream, stderr=stream, stdin=subprocess.DEVNULL)
        try:
            while process.poll() is None and bench.kills(way) < last:
                _kill_one(bench, process, runs, out, way)
            status = process.wait(COMMAND_TIMEOUT)
        finally:
            process.kill()
    for run in runs:
        bench.compare(run, way, out, "" if status == 0 else f"exit status {status}: {output.read_text()}")


def attack_ray(bench: Bench, suite: Path, runs: list[SuiteRun], out: Path, kills: int) -> None:
    """The same on a Ray cluster of this machine."""
    attack_suite(bench, suite, runs, out, kills, "ray")


def _kill_one(bench: Bench, process: subprocess.Popen[bytes], runs: list[SuiteRun], out: Path, way: str) -> None:
    """Wait until a run trains, then for a random moment, and kill a training process, a worker or the command."""
    whom = bench.rng.choices(("run", "command", "all", "worker"), (12, 2, 2, 4 if way == "ray" else 0))[0]
    if not _wait(process, lambda: any(_training(runs, out)), 0.05):
        return
    come = bench.moment([run.folder(out) for run in runs], max(bench.seconds[run] for run in runs))
    if not _wait(process, come, 0.002) or not (training := list(_training(runs, out))):
        return
    run, pid = bench.rng.choice(training)
    if whom in ("command", "all"):
        process.kill()
        process.wait()
        bench.commands[way] += 1
    if whom == "worker":
        with contextlib.suppress(OSError):
            os.kill(_parent(pid), signal.SIGKILL)
            bench.commands[way] += 1
    for each, number in training if whom == "all" else [(run, pid)] if whom == "run" else []:
        with contextlib.suppress(ProcessLookupError):
            os.kill(number, signal.SIGKILL)
            bench.row(each, way).kills += 1


def _wait(process: subprocess.Popen[bytes], condition: Callable[[], bool], interval: float) -> bool:
    """Wait for a condition; return False if the process ended before."""
    while not condition():
        if process.poll() is not None:
            return False
        time.sleep(interval)
    return True


def _training(runs: Sequence[SuiteRun], out: Path) -> Iterator[tuple[SuiteRun, int]]:
    """The runs that are trained now, and their processes."""
    for run in runs:
        with contextlib.suppress(UserError, OSError, ValueError, IndexError):
            if Run.open(run.folder(out)).locked:
                yield run, int((run.folder(out) / "lock").read_text().split()[1])


def _parent(process: int) -> int:
    """The parent of a training process: a worker of Ray, unless that has ended."""
    done = subprocess.run(["ps", "-o", "ppid=,args=", "-p", str(process)], capture_output=True, text=True, check=False)
    number, _, args = done.stdout.strip().partition(" ")
    parent = int(number or 0)
    if parent <= 1 or "mcurl" not in args:
        raise ProcessLookupError(process)
    return parent


ATTACKS = {"process": attack_process, "suite": attack_suite, "ray": attack_ray}


def write_suite(folder: Path, task: str, methods: Sequence[str]) -> Path:
    """A suite of one task with tiny settings, and an arm for each method."""
    env_steps, settings, _ = TASKS[task]
    lines = [f'tasks = ["{task}"]', "seeds = [3]", f"env_steps = {env_steps}", "[settings]"]
    lines += [f"{key} = {json.dumps(value)}" for key, value in settings.items()]
    for method in methods:
        lines += [f"[arm.tiny-{method}]", f'method = "{method}"']
        lines += [f"settings.{key} = {value}" for key, value in CONTRAST.items() if method == "mcurl"]
    path = folder / f"{task.replace('/', '-')}.toml"
    path.write_text("\n".join(lines) + "\n")
    return path


def attack(bench: Bench, ways: Sequence[str], tasks: Sequence[str], methods: Sequence[str], count: int) -> None:
    """Kill ``count`` times, an equal part in each way, over all tasks and methods."""
    suites = {task: write_suite(bench.scratch, task, methods) for task in tasks}
    runs = {task: Suite.load(path).runs() for task, path in suites.items()}
    for run in [run for task in tasks for run in runs[task]]:
        bench.train_whole(run)
    for place, way in enumerate(ways):
        goal = count * (place + 1) // len(ways) - count * place // len(ways)
        number = 0
        while (left := goal - bench.kills(way)) > 0:
            task, out = tasks[number % len(tasks)], bench.scratch / f"{way}{number}"
            kills = min(left, MOST * len(methods), max(-(-goal // len(tasks)), 1))
            ATTACKS[way](bench, suites[task], bench.rng.sample(runs[task], len(methods)), out, kills)
            shutil.rmtree(out)
            number += 1
            print(f"{way}: {bench.kills(way)} of {goal} kills", file=sys.stderr, flush=True)


def report(bench: Bench) -> int:
    """Print the table. Returns the number of divergences."""
    line = "{:22} {:8} {:8} {:>5} {:>6} {:>8} {:>9}".format
    print(line("task", "method", "way", "runs", "kills", "resumes", "diverged"))
    for (task, method, way), row in bench.rows.items():
        print(line(task, method, way, row.runs, row.kills, row.resumes, row.diverged))
    for way, number in bench.commands.items():
        print(line("(command or worker)", "", way, "", number, "", ""))
    total = Row()
    for row in bench.rows.values():
        total.runs, total.kills = total.runs + row.runs, total.kills + row.kills
        total.resumes, total.diverged = total.resumes + row.resumes, total.diverged + row.diverged
    total.kills += sum(bench.commands.values())
    print(line("all", "", "", total.runs, total.kills, total.resumes, total.diverged))
    print(f"{total.kills} kills, {total.diverged} of {total.runs} runs with another result than without kills")
    return total.diverged


def _there(package: str, what: str) -> bool:
    there = importlib.util.find_spec(package) is not None
    if not there:
        print(f"{what} is left out: {package} is not installed")
    return there


def main() -> int:
    """Run the attacks, print what came of them, and return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("count", type=int, nargs="?", default=100)
    parser.add_argument("seed", type=int, nargs="?", default=0)
    parser.add_argument("--tasks", nargs="+", choices=TASKS, default=list(TASKS))
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=METHODS)
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=WAYS)
    options = parser.parse_args()
    tasks = [task for task in options.tasks if _there(TASKS[task][2], task)]
    ways = [way for way in options.ways if _there(PACKAGES[way], way)]
    with tempfile.TemporaryDirectory() as scratch:
        bench = Bench(Path(scratch), random.Random(options.seed))
        attack(bench, ways, tasks, options.methods, options.count)
        return 1 if report(bench) else 0


if __name__ == "__main__":
    sys.exit(main())
