"""What a run reports, and where it goes: one logger, and the sinks that it forwards to.

The run folder's own files come first, always. The display comes next, then TensorBoard and the sinks of a user. A sink
derives from :class:`Sink` and overrides what it wants to hear.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from statistics import fmean, pstdev
from typing import TYPE_CHECKING, Any

from mcurl.errors import UserError, suggest

if TYPE_CHECKING:
    from torch import Tensor
    from torch.utils.tensorboard import SummaryWriter

    from mcurl.run.display import Display
    from mcurl.run.folder import Run

EVENT_SUFFIX = ".mcurl"
"""Ends the name of every event file that is written here. Event files without it belong to someone else."""


class NotFinite(ArithmeticError):  # noqa: N818
    """The mean of a metric is infinite or not a number."""

    def __init__(self, name: str, value: float) -> None:
        super().__init__(f"{name} is {value}")
        self.name, self.value = name, value


class Sink:
    """Base class of the logger's outputs. Every method does nothing until a subclass overrides it.

    ``env_steps`` are simulator steps, action repeat included. An exception that a sink raises ends the training; the
    run folder is intact, and the run goes on from its last checkpoint.
    """

    def metrics(self, env_steps: int, values: Mapping[str, float]) -> None:
        """Means of the metrics since the last call, by name."""

    def episode(self, env_steps: int, return_: float, length: int) -> None:
        """A training episode ended: its undiscounted return, and its length in agent steps."""

    def evaluation(self, env_steps: int, returns: Sequence[float]) -> None:
        """An evaluation gave these returns, one for each episode."""

    def speed(self, env_steps: int, values: Mapping[str, float]) -> None:
        """Figures of the wall clock, at every checkpoint: see :class:`SpeedMeter`."""

    def progress(self, env_steps: int, updates: int) -> None:
        """An agent step ended, with so many updates since the run began. Called at every step: must cost next to
        nothing."""

    def message(self, text: str) -> None:
        """One line for a person."""

    def rewind(self, env_steps: int) -> None:
        """Training goes on from a checkpoint at ``env_steps``: forget what came after it. The run folder's logs end
        there already."""

    def flush(self) -> None:
        """Write what is still in memory. Called at every checkpoint."""

    def close(self) -> None:
        """Let go of files and threads. Called once, also after an error."""


class RunFolderSink(Sink):
    """Writes ``metrics.jsonl``, ``evaluations.csv`` and ``speed.jsonl``.

    The run keeps these files: ``Run.checkpoint`` syncs them, ``Run.rewind`` cuts them, ``Run.close`` closes them.
    """

    def __init__(self, run: Run) -> None:
        self.run = run

    def metrics(self, env_steps: int, values: Mapping[str, float]) -> None:
        self.run.log(env_steps, values)

    def episode(self, env_steps: int, return_: float, length: int) -> None:
        self.run.log(env_steps, {"episode/return": return_, "episode/length": length})

    def evaluation(self, env_steps: int, returns: Sequence[float]) -> None:
        self.run.log_evaluation(env_steps, returns)

    def speed(self, env_steps: int, values: Mapping[str, float]) -> None:
        self.run.log_speed(env_steps, values)


class DisplaySink(Sink):
    """Shows a run on the terminal. Whoever made the display opens and closes it."""

    def __init__(self, display: Display) -> None:
        self.display = display

    def metrics(self, env_steps: int, values: Mapping[str, float]) -> None:
        self.display.update(env_steps, values)

    def episode(self, env_steps: int, return_: float, length: int) -> None:
        self.display.episode(return_)

    def evaluation(self, env_steps: int, returns: Sequence[float]) -> None:
        self.display.evaluation(env_steps, returns)

    def progress(self, env_steps: int, updates: int) -> None:
        self.display.update(env_steps, updates=updates)

    def message(self, text: str) -> None:
        self.display.message(text)


class TensorBoardSink(Sink):
    """Writes ``tensorboard/`` in the run folder: every metric by its name, ``evaluation/return`` (the mean) and
    ``evaluation/return_std`` (population), over env steps, as float32.

    The event files are a view of ``metrics.jsonl`` and ``evaluations.csv``. Opening the sink replaces its earlier event
    files by what these two logs hold, and so does :meth:`rewind`. So no point is there twice, none is left from
    training that a resume took back, and the sink may be added to a run that began without it. What is replayed carries
    the time of the replay. Files that others put into the folder stay.

    Args:
        run_folder: its logs are read, and ``tensorboard/`` is made in it.

    Raises:
        UserError: the package tensorboard is missing, or a log is damaged.
    """

    def __init__(self, run_folder: Path) -> None:
        self.run_folder, self.folder = run_folder, run_folder / "tensorboard"
        self._writer = self._open()

    @staticmethod
    def require() -> type[SummaryWriter]:
        """Raise UserError, with the way to install it, where the package is missing."""
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError as error:
            raise UserError(
                f"TensorBoard logs need the package tensorboard ({error}): pip install 'mcurl[tensorboard]'"
            ) from error
        return SummaryWriter

    def metrics(self, env_steps: int, values: Mapping[str, float]) -> None:
        for name, value in values.items():
            self._writer.add_scalar(name, value, env_steps)

    def episode(self, env_steps: int, return_: float, length: int) -> None:
        self.metrics(env_steps, {"episode/return": return_, "episode/length": length})

    def evaluation(self, env_steps: int, returns: Sequence[float]) -> None:
        spread = pstdev(returns) if all(map(math.isfinite, returns)) else math.nan
        self.metrics(env_steps, {"evaluation/return": fmean(returns), "evaluation/return_std": spread})

    def rewind(self, env_steps: int) -> None:
        self.close()
        self._writer = self._open()

    def flush(self) -> None:
        self._writer.flush()

    def close(self) -> None:
        self._writer.close()

    def _open(self) -> SummaryWriter:
        from mcurl.run.folder import Run

        writer_class, run = self.require(), Run(self.run_folder)
        metrics, evaluations = run.metrics(), run.evaluations()  # Read first: a damaged log leaves the old files.
        for path in self.folder.glob(f"events.out.tfevents.*{EVENT_SUFFIX}"):
            path.unlink()
        self._writer = writer_class(str(self.folder), flush_secs=30, filename_suffix=EVENT_SUFFIX)
        for env_steps, values in metrics:
            self.metrics(env_steps, values)
        for env_steps, returns in evaluations.items():
            self.evaluation(env_steps, returns)
        self._writer.flush()
        return self._writer


SINKS: Mapping[str, type[TensorBoardSink]] = {"tensorboard": TensorBoardSink}
"""Sinks that a run can be asked to have, by name (``--log``)."""


def check_sinks(names: Iterable[str]) -> None:
    """Raise UserError where a name is unknown, with the nearest one, or where a sink's package is missing."""
    for name in names:
        if name not in SINKS:
            raise UserError(f"unknown log {name!r}: {suggest(name, SINKS)}")
        SINKS[name].require()


def make_sinks(run: Run, display: Display | None, names: Iterable[str] = ()) -> list[Sink]:
    """The sinks of a run.

    Args:
        run: open for training.
        display: None where nobody watches.
        names: further sinks, keys of :data:`SINKS`, such as ``run.sinks``; each is made once.

    Raises:
        UserError: a name is unknown, or a sink's package is missing.
    """
    names = list(dict.fromkeys(names))
    check_sinks(names)
    shown: list[Sink] = [DisplaySink(display)] if display else []
    return [RunFolderSink(run), *shown, *(SINKS[name](run.folder) for name in names)]


class Logger:
    """Running means of named scalars, and the sinks that get them.

    Every call reaches the run folder first, then the display, then the other sinks as they were given. Where a sink
    raises, the sinks after it are not called; :meth:`close` closes all.

    Args:
        sinks: where everything goes.
        every: updates between two calls of ``Sink.metrics``.
    """

    def __init__(self, sinks: Iterable[Sink], every: int = 100) -> None:
        self.sinks, self.every = sorted(sinks, key=_rank), every
        self._sums: dict[str, Tensor] = {}
        self._counts: dict[str, int] = {}

    def add(self, metrics: Mapping[str, Tensor], updates: int, env_steps: int) -> None:
        """Add the metrics of one update to the means; every ``every`` updates the sinks get the means.

        The sums stay on the device of the tensors until then.

        Args:
            metrics: scalars by name, which may be overwritten after the call.
            updates: updates since the run began, this one included.
            env_steps: simulator steps since the run began.

        Raises:
            NotFinite: a mean is not finite. No sink has seen the means.
        """
        for name, value in metrics.items():
            value = value.detach().float()
            # Not in place: sums of a checkpoint come back on the host.
            self._sums[name] = self._sums[name] + value if name in self._sums else value.clone()
            self._counts[name] = self._counts.get(name, 0) + 1
        if updates % self.every == 0:
            means = self.pop_means()
            for name, mean in means.items():
                if not math.isfinite(mean):
                    raise NotFinite(name, mean)
            for sink in self.sinks:
                sink.metrics(env_steps, means)

    def pop_means(self) -> dict[str, float]:
        """The means since the last call, with one transfer from the device; they begin anew."""
        import torch  # Here: the command line reads SINKS, and answers a mistake at once.

        if not self._sums:
            return {}
        sums = torch.stack(list(self._sums.values())).tolist()
        means = {name: total / self._counts[name] for name, total in zip(self._sums, sums, strict=True)}
        self._sums, self._counts = {}, {}
        return means

    def state_dict(self) -> dict[str, Any]:
        """The means that no sink has seen yet, as sums and counts."""
        return {"sums": dict(self._sums), "counts": dict(self._counts)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self._sums, self._counts = dict(state["sums"]), dict(state["counts"])

    def episode(self, env_steps: int, return_: float, length: int) -> None:
        for sink in self.sinks:
            sink.episode(env_steps, return_, length)

    def evaluation(self, env_steps: int, returns: Iterable[float]) -> None:
        values = [float(value) for value in returns]
        for sink in self.sinks:
            sink.evaluation(env_steps, values)

    def speed(self, env_steps: int, values: Mapping[str, float]) -> None:
        for sink in self.sinks:
            sink.speed(env_steps, values)

    def progress(self, env_steps: int, updates: int) -> None:
        for sink in self.sinks:
            sink.progress(env_steps, updates)

    def message(self, text: str) -> None:
        for sink in self.sinks:
            sink.message(text)

    def rewind(self, env_steps: int) -> None:
        """Call it after ``Run.rewind``."""
        for sink in self.sinks:
            sink.rewind(env_steps)

    def flush(self) -> None:
        for sink in self.sinks:
            sink.flush()

    def close(self) -> None:
        """Close every sink, also where one raises; its exception comes through afterwards."""
        with ExitStack() as stack:
            for sink in reversed(self.sinks):
                stack.callback(sink.close)


class SpeedMeter:
    """Wall-clock time between checkpoints, evaluations and saving included.

    Args:
        clock: seconds, for tests.
    """

    def __init__(self, clock: Callable[[], float] = time.perf_counter) -> None:
        self.clock = clock
        self.start(0)

    def start(self, env_steps: int) -> None:
        """A lap begins now, at so many simulator steps."""
        self._began, self._from = self.clock(), env_steps

    def lap(self, env_steps: int) -> dict[str, float]:
        """``seconds``, ``env_steps_per_second`` and ``hours_per_100k_env_steps`` of the lap that ends now; empty where
        it has no step. The next lap begins."""
        seconds, steps = self.clock() - self._began, env_steps - self._from
        self.start(env_steps)
        if not steps:
            return {}
        return {
            "seconds": seconds,
            "env_steps_per_second": steps / seconds,
            "hours_per_100k_env_steps": seconds / steps * 100_000 / 3600,
        }


def _rank(sink: Sink) -> int:
    return 0 if isinstance(sink, RunFolderSink) else 1 if isinstance(sink, DisplaySink) else 2
