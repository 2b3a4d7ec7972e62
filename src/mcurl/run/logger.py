"""The logger of a run, and its outputs (sinks): run folder, display, TensorBoard, and user-defined sinks.

The logger calls the run folder's sink first, then the display, then the others. A user-defined sink is a subclass of
:class:`Sink` that overrides some of its methods.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from statistics import fmean, pstdev
from typing import TYPE_CHECKING, Any

from mcurl.errors import UserError, printable, suggest

if TYPE_CHECKING:
    from torch import Tensor
    from torch.utils.tensorboard import SummaryWriter

    from mcurl.run.display import Display
    from mcurl.run.folder import Run

EVENT_SUFFIX = ".mcurl"
"""Suffix of the event files that this module writes, and may delete."""


class NotFinite(ArithmeticError):  # noqa: N818
    """The mean of a metric is infinite or NaN."""

    def __init__(self, name: str, value: float) -> None:
        super().__init__(f"{name} is {value}")
        self.name, self.value = name, value


class Sink:
    """Base class of the logger's outputs. All methods do nothing by default.

    ``env_steps`` counts simulator steps since the start of the run, action repeat included. An exception from a sink
    ends training. The run folder stays valid, and the run can be resumed from its latest checkpoint.
    """

    def metrics(self, env_steps: int, values: Mapping[str, float]) -> None:
        """Receive the means of the metrics since the last call, by name."""

    def episode(self, env_steps: int, return_: float, length: int) -> None:
        """Receive a training episode: its undiscounted return, and its length in agent steps."""

    def evaluation(self, env_steps: int, returns: Sequence[float]) -> None:
        """Receive the undiscounted returns of an evaluation, one for each episode."""

    def evaluating(self, env_steps: int, finished: int, episodes: int) -> None:
        """Receive during an evaluation, after each step, how many of its episodes are finished. It must be fast."""

    def speed(self, env_steps: int, values: Mapping[str, float]) -> None:
        """Receive wall-clock times at each checkpoint, see :class:`SpeedMeter`."""

    def progress(self, env_steps: int, updates: int) -> None:
        """Receive the counters after each agent step. This method must be fast.

        Args:
            env_steps: simulator steps.
            updates: updates since the start of the run.
        """

    def message(self, text: str) -> None:
        """Receive a message for the user, one line."""

    def rewind(self, env_steps: int) -> None:
        """Discard the data after a checkpoint at ``env_steps``, from which training continues.

        The logs in the run folder are truncated before.
        """

    def flush(self) -> None:
        """Write buffered data. Called at each checkpoint."""

    def checkpoint(self, env_steps: int) -> None:
        """Receive the step of a checkpoint that was saved. All logs are written by then."""

    def close(self) -> None:
        """Release files and threads. Called once, also after an exception."""


class RunFolderSink(Sink):
    """Writes ``metrics.jsonl``, ``evaluations.csv`` and ``speed.jsonl``.

    The run owns these files: ``Run.checkpoint`` syncs, ``Run.rewind`` truncates and ``Run.close`` closes them.
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
    """Shows a run on the terminal. The caller enters and exits the display."""

    def __init__(self, display: Display) -> None:
        self.display = display

    def metrics(self, env_steps: int, values: Mapping[str, float]) -> None:
        self.display.update(env_steps, values)

    def episode(self, env_steps: int, return_: float, length: int) -> None:
        self.display.episode(return_)

    def evaluation(self, env_steps: int, returns: Sequence[float]) -> None:
        self.display.evaluation(env_steps, returns)

    def evaluating(self, env_steps: int, finished: int, episodes: int) -> None:
        self.display.evaluating(env_steps, finished, episodes)

    def progress(self, env_steps: int, updates: int) -> None:
        self.display.update(env_steps, updates=updates)

    def message(self, text: str) -> None:
        self.display.message(text)


class TensorBoardSink(Sink):
    """Writes TensorBoard event files to ``tensorboard/`` in the run folder.

    The scalars are the metrics by name, ``evaluation/return`` (mean) and ``evaluation/return_std`` (population standard
    deviation), over env steps, as float32.

    The constructor and :meth:`rewind` rewrite the event files from ``metrics.jsonl`` and ``evaluations.csv``. So no
    point occurs twice, no point remains from steps that a resume repeats, and the sink can be added to a run later. The
    wall time of these points is the time of writing. Files of other programs in the folder are not changed.

    Args:
        run_folder: the run folder.

    Raises:
        UserError: the package tensorboard is not installed, or a log is damaged.
    """

    def __init__(self, run_folder: Path) -> None:
        self.run_folder, self.folder = run_folder, run_folder / "tensorboard"
        self._writer = self._open()

    @staticmethod
    def require() -> type[SummaryWriter]:
        """Return the writer class of TensorBoard. Raises UserError if the package is not installed."""
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError as error:
            raise UserError(
                f"TensorBoard logging needs the package tensorboard ({error}): pip install 'mcurl[tensorboard]'"
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
        metrics, evaluations = (
            run.metrics(),
            run.evaluations(),
        )  # before old files are deleted, because a log may be damaged
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
"""Name -> class of the sinks that ``--log`` adds."""


def check_sinks(names: Iterable[str]) -> None:
    """Raise UserError if a name is not in :data:`SINKS`, or the package of a sink is not installed."""
    for name in names:
        if name not in SINKS:
            raise UserError(f"unknown log {name!r}: {suggest(name, SINKS)}")
        SINKS[name].require()


def make_sinks(run: Run, display: Display | None, names: Iterable[str] = ()) -> list[Sink]:
    """Make the sinks of a run.

    Args:
        run: a run, opened for training.
        display: progress display, if any.
        names: keys of :data:`SINKS`; repeated names are ignored.

    Raises:
        UserError: a name is unknown, or the package of a sink is not installed.
    """
    names = list(dict.fromkeys(names))
    check_sinks(names)
    displays: list[Sink] = [DisplaySink(display)] if display else []
    return [RunFolderSink(run), *displays, *(SINKS[name](run.folder) for name in names)]


class Logger:
    """Averages metrics over updates, and forwards everything to the sinks.

    Each call reaches the run folder first, then the display, then the other sinks in order. If a sink raises an
    exception, the sinks after it are not called.

    Args:
        sinks: the outputs.
        every: number of updates that metrics are averaged over.
    """

    def __init__(self, sinks: Iterable[Sink], every: int = 100) -> None:
        self.sinks, self.every = sorted(sinks, key=_rank), every
        self._sums: dict[str, Tensor] = {}
        self._counts: dict[str, int] = {}

    def add(self, metrics: Mapping[str, Tensor], updates: int, env_steps: int) -> None:
        """Add the metrics of one update. Every ``every`` updates the sinks receive their means.

        The sums stay on the device of the tensors until then.

        Args:
            metrics: name -> scalar tensor. It may be overwritten after the call.
            updates: updates since the start of the run, this one included.
            env_steps: simulator steps since the start of the run.

        Raises:
            NotFinite: a mean is not finite. No sink receives the means then.
        """
        for name, value in metrics.items():
            value = value.detach().float()
            # Not in place: sums that were loaded from a checkpoint are on the host.
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
        """Return the means since the last call, and reset them. There is one transfer from the device."""
        import torch  # here, because the command line imports this module for its error messages

        if not self._sums:
            return {}
        totals = list(self._sums.values())
        # Those from a checkpoint are on the host until their metric comes again.
        device = next((total.device for total in totals if total.device.type != "cpu"), totals[0].device)
        sums = torch.stack([total.to(device) for total in totals]).tolist()
        means = {name: total / self._counts[name] for name, total in zip(self._sums, sums, strict=True)}
        self._sums, self._counts = {}, {}
        return means

    def state_dict(self) -> dict[str, Any]:
        """Sums and counts of the metrics since the last means."""
        return {"sums": dict(self._sums), "counts": dict(self._counts)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore a state from :meth:`state_dict`."""
        self._sums, self._counts = dict(state["sums"]), dict(state["counts"])

    # Forwarding, see Sink

    def episode(self, env_steps: int, return_: float, length: int) -> None:
        for sink in self.sinks:
            sink.episode(env_steps, return_, length)

    def evaluation(self, env_steps: int, returns: Iterable[float]) -> None:
        values = [float(value) for value in returns]
        for sink in self.sinks:
            sink.evaluation(env_steps, values)

    def evaluating(self, env_steps: int, finished: int, episodes: int) -> None:
        for sink in self.sinks:
            sink.evaluating(env_steps, finished, episodes)

    def speed(self, env_steps: int, values: Mapping[str, float]) -> None:
        for sink in self.sinks:
            sink.speed(env_steps, values)

    def progress(self, env_steps: int, updates: int) -> None:
        for sink in self.sinks:
            sink.progress(env_steps, updates)

    def message(self, text: str) -> None:
        for sink in self.sinks:
            sink.message(printable(text))

    def rewind(self, env_steps: int) -> None:
        """Must be called after ``Run.rewind``."""
        for sink in self.sinks:
            sink.rewind(env_steps)

    def flush(self) -> None:
        for sink in self.sinks:
            sink.flush()

    def checkpoint(self, env_steps: int) -> None:
        for sink in self.sinks:
            sink.checkpoint(env_steps)

    def close(self) -> None:
        """Close all sinks. An exception of a sink is raised after the others are closed."""
        with ExitStack() as stack:
            for sink in reversed(self.sinks):
                stack.callback(sink.close)


class SpeedMeter:
    """Measures wall-clock time between checkpoints, evaluations and saving included.

    Args:
        clock: returns the time in seconds; tests replace it.
    """

    def __init__(self, clock: Callable[[], float] = time.perf_counter) -> None:
        self.clock = clock
        self.start(0)

    def start(self, env_steps: int) -> None:
        """Start a lap at ``env_steps`` simulator steps."""
        self._start_time, self._start_steps = self.clock(), env_steps

    def lap(self, env_steps: int) -> dict[str, float]:
        """End the lap at ``env_steps`` simulator steps, and start the next one.

        Returns:
            ``seconds``, ``env_steps_per_second`` and ``hours_per_100k_env_steps`` of the lap; empty if it has no steps.
        """
        seconds, steps = self.clock() - self._start_time, env_steps - self._start_steps
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
