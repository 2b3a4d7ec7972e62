"""Small runs that are attacked: how they are trained, in processes of their own, and how they ended.

A fork of a process that has imported PyTorch, and has computed nothing, starts at once.
"""

from __future__ import annotations

import contextlib
import os
import re
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import mcurl
from mcurl import cli, training  # noqa: F401 - loads PyTorch before the forks
from mcurl.runtime.device import load_compiler

load_compiler()  # before the forks, too: seconds for each of them

ENV_STEPS, KILLED_AT = 220, 180
"""Budget, and the evaluation in which the run is killed: behind the checkpoints at 80 and 160."""
SETTINGS = {
    "checkpoint.every": 80,
    "evaluation.every": 60,
    "evaluation.episodes": 2,
    "replay.capacity": 150,
    "env.image_size": 20,
    "sac.crop": 16,
    "sac.batch_size": 8,
    "sac.learning_starts": 20,
    "sac.hidden": 16,
    "sac.filters": 4,
    "sac.feature_dim": 8,
    "mcurl.length": 4,
    "mcurl.batch": 4,
    "compute.threads": 1,
    "compute.precision": "fp32",
    "compute.device": "cpu",
    "compute.native": "off",
}
TRAIN = [
    *("train", "toy/reach", "--env-steps", str(ENV_STEPS), "--seed", "3", "--name", "x"),
    *("--set", *(f"{key}={value}" for key, value in SETTINGS.items())),
]
RUN = Path("toy-reach", "x-seed3")
"""The run folder in the folder of all runs."""
TIMEOUT = 120.0


@dataclass(frozen=True)
class End:
    """How a process ended."""

    status: int
    """Exit status; 128 + the signal's number; -1: it hung."""
    output: str

    @property
    def refused(self) -> bool:
        """Whether it ended with one line for the user."""
        return self.status == 2 and "Traceback" not in self.output and self.last.startswith("mcurl: ")

    @property
    def last(self) -> str:
        """The last line of the output."""
        return self.output.rstrip().rpartition("\n")[2]


def fork(work: Callable[[], int | None], timeout: float = TIMEOUT, kill: Callable[[], bool] = lambda: False) -> End:
    """Do something in a fork of this process, which is killed once ``kill`` says so; return how it ended."""
    with tempfile.TemporaryFile() as file:
        pid = os.fork()
        if pid == 0:
            _child(work, file.fileno())
        end, hung = time.monotonic() + timeout, False
        while (done := os.waitpid(pid, os.WNOHANG)) == (0, 0):
            hung = time.monotonic() > end
            if hung or kill():
                os.kill(pid, signal.SIGKILL)
                done = os.waitpid(pid, 0)
                break
            time.sleep(0.002)
        code = os.waitstatus_to_exitcode(done[1])
        status = -1 if hung else code if code >= 0 else 128 - code
        file.seek(0)
        return End(status, file.read().decode(errors="replace"))


def _child(work: Callable[[], int | None], output: int) -> None:
    import traceback

    os.dup2(output, 1)
    os.dup2(output, 2)
    status = 1
    try:
        status = work() or 0
    except BaseException:
        traceback.print_exc()
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError):
            stream.flush()
    os._exit(status)


def command(*words: str) -> End:
    """A command of the command line, in a fork."""
    return fork(lambda: cli.main(list(words)))


class _Kill(mcurl.Callback):
    def on_evaluation(self, progress: mcurl.Progress) -> None:
        if progress.env_steps == KILLED_AT:
            os._exit(9)


def make_whole(out: Path) -> Path:
    """A run that never stopped. Returns its folder."""
    end = command(*TRAIN, "--out", str(out))
    assert end.status == 0, end.output
    return out / RUN


def make_killed(out: Path) -> Path:
    """A run that was killed at ``KILLED_AT``. Returns its folder."""
    arguments = {"env_steps": ENV_STEPS, "seed": 3, "name": "x", "settings": SETTINGS, "out": out}
    end = fork(lambda: mcurl.train("toy/reach", callbacks=[_Kill()], **arguments) and 1)  # type: ignore[arg-type]
    assert end.status == 9, end.output
    return out / RUN


def result(folder: Path) -> dict[str, bytes]:
    """What must repeat bit for bit: the logs, the settings, and the last checkpoint with its part of the replay."""
    last = max(path for path in (folder / "checkpoints").iterdir() if re.fullmatch("[0-9]{9}", path.name))
    files = [folder / name for name in ("metrics.jsonl", "evaluations.csv", "settings.json")]
    files += [path for path in sorted(last.rglob("*")) if path.is_file()]
    files += sorted((folder / "replay").glob("*.bin"))
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def different(expected: dict[str, bytes], folder: Path) -> list[str]:
    """Names of the files in which a run differs from the result that it should have."""
    found = result(folder)
    return sorted(name for name in expected.keys() | found.keys() if expected.get(name) != found.get(name))
