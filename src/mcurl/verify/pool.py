"""Plays recorded episodes again in several processes, with a progress bar."""

from __future__ import annotations

import multiprocessing
import signal
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_EXCEPTION, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path
from typing import Any, NamedTuple

import gymnasium

from mcurl.errors import UserError
from mcurl.pictures import ContactSheet, Video
from mcurl.recording import Recording, read
from mcurl.registry import import_user_module
from mcurl.verify.replay import Mismatch, ReplayCamera, ReplayOutcome, play
from mcurl.verify.scores import RecordedScore

TICK = 100
"""Steps between two reports of a process to the progress bar."""
LINE_SECONDS = 30
"""Seconds between two lines of progress, where standard error is not a terminal."""


@dataclass(frozen=True)
class ReplayTask:
    """A score whose episodes are played."""

    score: RecordedScore
    recording: Recording
    shown: Mapping[int, Sequence[Path]]
    """Episode -> the files that show it."""


def play_all(
    tasks: Sequence[ReplayTask], jobs: int, modules: Sequence[str]
) -> Iterator[tuple[ReplayTask, float | Mismatch]]:
    """Play the episodes of all tasks.

    Args:
        tasks: what is played.
        jobs: number of processes, at least 1; 1: this process.
        modules: modules with the user's own environments.

    Yields:
        Each task, in order, with its largest deviation (0: exact), or with the reason why it does not come out.

    Raises:
        UserError: an environment cannot be made, or a process was killed.
    """
    units = sum(task.recording.environments for task in tasks)
    context = multiprocessing.get_context("spawn")  # a forked process must not use OpenGL
    shared = Shared(context.Value("q", 0), context.Value("b", 0))
    with _progress(sum(len(task.recording.actions) for task in tasks), shared) as show:
        if min(jobs, units) <= 1:
            for task in tasks:
                yield task, _deviation(_play(shared, task, environment, modules, show) for environment in _units(task))
        else:
            yield from _play_in_processes(tasks, min(jobs, units), modules, context, shared, show)


def import_modules(modules: Iterable[str]) -> None:
    """Import the user's modules. Raises UserError if one cannot be imported."""
    for module in modules:
        import_user_module(module)


class Shared(NamedTuple):
    """Counters that all processes share."""

    steps: Any
    """Steps so far."""
    stop: Any
    """1: the processes stop."""


class _Stopped(Exception):  # noqa: N818 - not an error
    """The main process does not need the episodes any more."""


def _play_in_processes(
    tasks: Sequence[ReplayTask],
    jobs: int,
    modules: Sequence[str],
    context: Any,
    shared: Shared,
    show: Callable[[], None],
) -> Iterator[tuple[ReplayTask, float | Mismatch]]:
    pool = ProcessPoolExecutor(jobs, context, _start, (shared, modules))
    try:
        futures = [[pool.submit(_play_unit, _without_arrays(task), i, modules) for i in _units(task)] for task in tasks]
        for task, own in zip(tasks, futures, strict=True):
            while not _ready(own):
                show()
            yield task, _deviation(future.result() for future in own if future.done())
    except BrokenProcessPool as error:
        raise UserError("a process of mcurl verify was killed; if the memory is full, try --jobs 1") from error
    finally:
        shared.stop.value = 1
        pool.shutdown(cancel_futures=True)


def _ready(futures: Sequence[Future[ReplayOutcome]]) -> bool:
    """Wait a moment; whether all environments are done, or one has failed."""
    done, pending = wait(futures, timeout=0.2, return_when=FIRST_EXCEPTION)
    return not pending or any(future.exception() for future in done)


def _units(task: ReplayTask) -> range:
    return range(task.recording.environments)


def _deviation(outcomes: Iterable[ReplayOutcome]) -> float | Mismatch:
    """The largest deviation of some environments, or the first mismatch."""
    try:
        return max(outcome.deviation for outcome in outcomes)
    except Mismatch as mismatch:
        return mismatch


# In the processes

_shared: Shared


class _File(NamedTuple):
    """A task without its arrays, which each process reads itself."""

    path: Path
    shown: Mapping[int, Sequence[Path]]


def _without_arrays(task: ReplayTask) -> _File:
    assert task.score.recording is not None
    return _File(task.score.recording, task.shown)


def _start(shared: Shared, modules: Sequence[str]) -> None:
    """Prepare a process."""
    global _shared
    _shared = shared
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the main process stops this one
    import_modules(modules)


_read = lru_cache(maxsize=2)(read)


def _play_unit(file: _File, environment: int, modules: Sequence[str]) -> ReplayOutcome:
    return _play(_shared, file, environment, modules)


def _play(
    shared: Shared,
    task: ReplayTask | _File,
    environment: int,
    modules: Sequence[str],
    show: Callable[[], None] = lambda: None,
) -> ReplayOutcome:
    recording = task.recording if isinstance(task, ReplayTask) else _read(task.path)
    own = range(environment, recording.episodes, recording.parallel)
    cameras = {
        episode: partial(_Cameras, paths, recording.lengths[episode])
        for episode, paths in task.shown.items()
        if episode in own
    }
    counter = _Counter(shared, show)
    return play(recording, environment, modules, cameras=cameras, tick=counter.tick)


class _Counter:
    """Counts steps, and stops if the main process says so."""

    def __init__(self, shared: Shared, show: Callable[[], None]) -> None:
        self.shared, self.show, self.steps = shared, show, 0

    def tick(self) -> None:
        self.steps += 1
        if self.steps % TICK:
            return
        with self.shared.steps.get_lock():
            self.shared.steps.value += TICK
        self.show()
        if self.shared.stop.value:
            raise _Stopped


class _Cameras:
    """The files that show one episode."""

    def __init__(self, paths: Sequence[Path], length: int) -> None:
        self.cameras: list[ReplayCamera] = [
            Video(path) if path.suffix == ".mp4" else ContactSheet(path, length) for path in paths
        ]

    def step(self, env: gymnasium.Env[Any, Any]) -> None:
        for camera in self.cameras:
            camera.step(env)

    def close(self) -> None:
        for camera in self.cameras:
            camera.close()


# Progress


@contextmanager
def _progress(total: int, shared: Shared) -> Iterator[Callable[[], None]]:
    """Show the progress on standard error: a bar on a terminal, else a line now and then. Yields what updates it."""
    if not sys.stderr.isatty():
        yield _Lines(total, shared).show
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskProgressColumn, TimeRemainingColumn

    columns = (BarColumn(), TaskProgressColumn(), MofNCompleteColumn(), "steps", TimeRemainingColumn())
    # Printed lines go through the bar's console only if they would appear on the same terminal.
    console = Console(stderr=True)
    with Progress(*columns, console=console, transient=True, redirect_stdout=sys.stdout.isatty()) as bar:
        task = bar.add_task("", total=total)
        yield lambda: bar.update(task, completed=min(shared.steps.value, total))


class _Lines:
    """Progress as lines."""

    def __init__(self, total: int, shared: Shared) -> None:
        self.total, self.shared, self.last = total, shared, time.monotonic()

    def show(self) -> None:
        if time.monotonic() - self.last >= LINE_SECONDS:
            self.last = time.monotonic()
            share = min(self.shared.steps.value / self.total, 1)
            print(f"{share:.0%} of {self.total:,} steps", file=sys.stderr, flush=True)
