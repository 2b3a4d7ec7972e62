"""Callbacks of a training run in Python: called at evaluations and checkpoints, and able to stop the run."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean

from mcurl.run.logger import Sink
from mcurl.runtime.signals import Stop


@dataclass(frozen=True)
class Progress:
    """What a callback learns about its run, and the way to stop it."""

    folder: Path
    """The run folder."""
    task: str
    """``suite/name``."""
    seed: int
    """Seed of the run."""
    budget: int
    """Simulator steps after which the run ends by itself, action repeat included."""
    env_steps: int
    """Simulator steps so far."""
    evaluations: Mapping[int, Sequence[float]]
    """Env steps -> undiscounted return of each episode, of all evaluations so far, oldest first."""
    _stop: Stop = field(repr=False)

    @property
    def returns(self) -> list[float]:
        """The return of each episode of the latest evaluation; empty before the first evaluation."""
        return list(self.evaluations[max(self.evaluations)]) if self.evaluations else []

    @property
    def mean_return(self) -> float:
        """The mean of :attr:`returns`; nan before the first evaluation."""
        return fmean(self.returns) if self.evaluations else float("nan")

    def stop(self, reason: str = "stopped by a callback") -> None:
        """Save the run and stop it before its next step. It can be resumed.

        At the end of the budget this has no effect: the run is finished.

        Args:
            reason: becomes ``RunResult.stopped``; must not be empty.
        """
        self._stop.reason = str(reason) or "stopped by a callback"


class Callback:
    """Base class of callbacks. Both methods do nothing by default.

    They are called in the thread that trains, between two steps. An exception from them ends training and reaches the
    caller of :func:`mcurl.train`. The run can then be resumed from its latest checkpoint; nothing is saved at the time
    of the exception. To stop a run and keep everything, call ``progress.stop()``.
    """

    def on_evaluation(self, progress: Progress) -> None:
        """Called after each evaluation, the one of the untrained agent at step 0 included."""

    def on_checkpoint(self, progress: Progress) -> None:
        """Called after each checkpoint. Everything up to ``progress.env_steps`` is on disk."""


class CallbackSink(Sink):
    """Calls callbacks as a sink of the logger.

    Args:
        callbacks: in the order of their calls.
        progress: of the run, as it is before training.
    """

    def __init__(self, callbacks: Iterable[Callback], progress: Progress) -> None:
        self.callbacks, self.initial = list(callbacks), progress
        self.evaluations = {step: list(returns) for step, returns in progress.evaluations.items()}

    def evaluation(self, env_steps: int, returns: Sequence[float]) -> None:
        self.evaluations[env_steps] = list(returns)
        for callback in self.callbacks:
            callback.on_evaluation(self._progress(env_steps))

    def checkpoint(self, env_steps: int) -> None:
        for callback in self.callbacks:
            callback.on_checkpoint(self._progress(env_steps))

    def rewind(self, env_steps: int) -> None:
        self.evaluations = {step: returns for step, returns in self.evaluations.items() if step <= env_steps}

    def _progress(self, env_steps: int) -> Progress:
        first = self.initial
        evaluations = dict(self.evaluations)
        return Progress(first.folder, first.task, first.seed, first.budget, env_steps, evaluations, first._stop)
