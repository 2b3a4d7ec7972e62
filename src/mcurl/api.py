"""Training from Python: :func:`train`, :func:`resume`, :func:`make_env`. ``import mcurl`` has these names, too.

A run here is the same as one of the command line: its folder can be resumed, evaluated and reported by either.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any, TextIO, cast

from mcurl.callbacks import Callback, CallbackSink, Progress
from mcurl.errors import UserError, printable
from mcurl.files import as_path
from mcurl.runtime.signals import Interrupted, Stop
from mcurl.runtime.threads import TRAINING, limit_openmp_spinning

if TYPE_CHECKING:
    import gymnasium

    from mcurl.policy import Device, Policy
    from mcurl.run.display import Display
    from mcurl.run.folder import Run
    from mcurl.run.logger import Sink

_OPENMP = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT")


@dataclass(frozen=True)
class RunResult:
    """A run folder, read only. :func:`train` and :func:`resume` return it; it can be made from any run folder.

    All properties read the folder anew. They raise UserError if it is not a run folder, or damaged.
    """

    folder: Path
    """The run folder."""
    stopped: str = ""
    """Why training stopped before its budget, such as the reason of a callback; empty: it did not."""

    @property
    def name(self) -> str:
        """Name of the run: the method and the settings that were changed, or the one that was given."""
        return self._run.name

    @property
    def settings(self) -> dict[str, Any]:
        """All settings, as JSON values: ``task``, ``method``, ``agent``, ``seed``, ``env_steps`` and the sections."""
        return self._run.settings

    @property
    def env_steps(self) -> int:
        """Simulator steps at the latest checkpoint, action repeat included; 0 without a checkpoint."""
        checkpoints = self._run.checkpoints()
        return checkpoints[-1].env_steps if checkpoints else 0

    @property
    def budget(self) -> int:
        """Simulator steps after which the run is complete."""
        return self._run.env_steps

    @property
    def evaluations(self) -> dict[int, list[float]]:
        """Env steps -> undiscounted return of each episode, of all evaluations, oldest first."""
        return self._run.checked_evaluations()

    @property
    def score(self) -> float:
        """Mean return of the latest evaluation. Raises UserError if there was none."""
        if not (evaluations := self.evaluations):
            raise UserError(f"{self.folder} has no evaluation yet")
        return fmean(evaluations[max(evaluations)])

    @property
    def metrics(self) -> list[tuple[int, dict[str, float]]]:
        """Env steps and values by name of each line of ``metrics.jsonl``, see docs/metrics.md."""
        return self._run.metrics()

    def load_policy(self, device: Device = "auto") -> Policy:
        """The policy of the latest checkpoint, as :func:`mcurl.load` returns it."""
        from mcurl.policy import load

        return load(self.folder, device=device)

    @property
    def _run(self) -> Run:
        from mcurl.run.folder import Run

        return Run.open(as_path("folder", self.folder))


def train(
    task: str,
    *,
    method: str = "mcurl",
    agent: str | None = None,
    env_steps: int | str | None = None,
    settings: Mapping[str, Any] | None = None,
    preset: str | os.PathLike[str] | None = None,
    seed: int = 1,
    out: str | os.PathLike[str] = "runs",
    name: str | None = None,
    callbacks: Sequence[Callback] = (),
    log: Sequence[str] = (),
    progress: bool = True,
) -> RunResult:
    """Train an agent, and save the run in a new folder, as ``mcurl train`` does.

    It works in a notebook and in any thread, once at a time in a process. In the main thread, a first Ctrl-C (a
    notebook's Interrupt) or SIGTERM saves the run; then the signal is raised again, for the program's own handler. A
    second one quits at once. In other threads no signal is handled. At the end, signal handlers, PyTorch's number of
    threads and its random generators are as before.

    Args:
        task: ``suite/name``, such as ``"dmc/cartpole-swingup"``, ``"atari/Pong"`` or ``"gym/CartPole-v1"``.
        method: ``"mcurl"``, ``"curl"``, ``"rl-only"`` and others (docs/methods.md), or ``"module:Class"``.
        agent: ``"sac"``, ``"drqv2"``, ``"rainbow"``, or ``"module:Class"``; None: the default agent for the task.
        env_steps: budget in simulator steps, action repeat included; None: the suite's default.
        settings: ``section.name`` -> value, such as ``{"mcurl.mask_rate": 0.3}``, or nested, such as
            ``{"mcurl": {"mask_rate": 0.3}}``. ``mcurl settings TASK`` lists all.
        preset: a name in the suite's file, or the path of a TOML file; ``settings`` override it.
        seed: seed of all random numbers of the run, at least 0.
        out: folder of all runs; the run is saved in ``<out>/<suite>-<task>/<name>-seed<seed>``.
        name: name of the run; None: the method and the changed settings.
        callbacks: called at evaluations and checkpoints.
        log: additional logs, such as ``["tensorboard"]``.
        progress: print lines of progress to standard output.

    Returns:
        The run. ``stopped`` says whether a callback stopped it.

    Raises:
        UserError: an argument, a name or a setting is invalid, the folder exists already, another run trains in this
            process, or training diverged.
    """
    from mcurl.config.resolve import resolve
    from mcurl.run.logger import check_sinks

    _check_text(task=task, method=method, agent="" if agent is None else agent, name="" if name is None else name)
    _check_callbacks(callbacks)
    _check_log(log)
    check_sinks(log)
    out = as_path("out", out)
    preset = None if preset is None else str(as_path("preset", preset))
    with _exclusive():
        resolved = resolve(
            task, method, agent=agent, seed=seed, env_steps=env_steps, preset=preset, values=_plain(settings or {})
        )
        from mcurl import training
        from mcurl.run.folder import Run

        name, label = resolved.named(name)
        with Run.create(out, resolved.to_json(), name=name, label=label) as run:
            run.add_sinks(log)

            def work(sinks: Sequence[Sink], stop: Stop) -> None:
                training.train(resolved, run, sinks, stop)

            ended = _learn(run, resolved.env_steps, work, callbacks, progress, {})
    return _result(run, *ended)


def resume(
    run: str | os.PathLike[str] | RunResult,
    *,
    env_steps: int | str | None = None,
    checkpoint: int | str | None = None,
    callbacks: Sequence[Callback] = (),
    log: Sequence[str] = (),
    progress: bool = True,
) -> RunResult:
    """Continue a run from its latest checkpoint, or extend it, as ``mcurl resume`` does.

    On a CPU the result is the same, bit for bit, as without the interruption. Signals and threads: as for
    :func:`train`.

    Args:
        run: a run folder, or a result.
        env_steps: new budget in simulator steps; None: the run's own. Schedules keep their horizon.
        checkpoint: simulator steps of the checkpoint from which it continues; None: the latest. What came
            later is kept in ``*.aside``.
        callbacks: called at evaluations and checkpoints; those of :func:`train` are not kept.
        log: additional logs, such as ``["tensorboard"]``.
        progress: print lines of progress to standard output.

    Raises:
        UserError: it is not a run folder, nothing remains to train, or as for :func:`train`.
    """
    from mcurl.config.fields import read_value
    from mcurl.config.settings import TrainSettings
    from mcurl.run.logger import check_sinks

    folder = run.folder if isinstance(run, RunResult) else as_path("run", run)
    _check_callbacks(callbacks)
    _check_log(log)
    check_sinks(log)
    budget = None if env_steps is None else int(read_value("env_steps", int, env_steps))
    at = None if checkpoint is None else int(read_value("checkpoint", int, checkpoint))
    with _exclusive():
        from mcurl import training
        from mcurl.run.folder import Run

        with Run.open(folder, train=True) as opened:
            TrainSettings.from_json(opened.settings)  # before anything is changed
            start = opened.check_budget(budget, at)
            before = opened.evaluations(until=start.env_steps) if start else {}
            check_sinks(opened.sinks)
            opened.add_sinks(log)

            def work(sinks: Sequence[Sink], stop: Stop) -> None:
                training.resume(opened, sinks, budget, stop, at)

            ended = _learn(opened, budget or opened.env_steps, work, callbacks, progress, before)
    return _result(opened, *ended)


def make_env(task: str, *, seed: int = 1, **settings: Any) -> gymnasium.Env[Any, Any]:
    """Make the environment of a task as runs use it: frames stacked, actions repeated, rewards not clipped.

    Pixel observations are ``uint8 [K*C, H, W]``, oldest frame first; states are ``float32 [D]``. Continuous actions are
    ``float32 [A]`` in [-1, 1]. ``render()`` returns ``uint8 [H, W, 3]``.

    Args:
        task: ``suite/name``.
        seed: seed of the first episode, unless ``reset(seed=...)`` has one.
        settings: of the environment, such as ``action_repeat=4``, see the section env of ``mcurl settings TASK``.

    Raises:
        UserError: the task or a setting is unknown, or the library of the environment is not installed.
    """
    from mcurl import envs
    from mcurl.config.resolve import read_seed, resolve_env

    _check_text(task=task)
    seed = read_seed(seed)
    return envs.make_env(resolve_env(task, settings), seed)


def _check_text(**arguments: str) -> None:
    """Raise UserError for an argument that is not text."""
    for name, value in arguments.items():
        if not isinstance(value, str):
            raise UserError(f"{name} is text, not {value!r}")


def _check_log(log: Sequence[str]) -> None:
    """Raise UserError if it is not a list of texts."""
    if not isinstance(log, list | tuple) or not all(isinstance(name, str) for name in log):
        raise UserError(f'log is a list such as ["tensorboard"], not {log!r}')


def _check_callbacks(callbacks: Sequence[Callback]) -> None:
    """Raise UserError if it is not a list of callbacks."""
    if not isinstance(callbacks, list | tuple):
        raise UserError(f"callbacks are a list of objects of subclasses of mcurl.Callback, not {callbacks!r}")
    for callback in callbacks:
        if not isinstance(callback, Callback):
            kind = "a class: make an object of it" if isinstance(callback, type) else f"a {type(callback).__name__}"
            raise UserError(f"callbacks are objects of subclasses of mcurl.Callback, not {callback!r}, {kind}")


def _plain(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Nested mappings as dicts, which have string keys. Raises UserError for other keys."""
    if not isinstance(settings, Mapping):
        raise UserError(f'settings are a dict such as {{"mcurl.mask_rate": 0.3}}, not {settings!r}')
    for key in settings:
        if not isinstance(key, str):
            raise UserError(f"the name of a setting is text, not {key!r}")
    return {key: _plain(value) if isinstance(value, Mapping) else value for key, value in settings.items()}


@contextlib.contextmanager
def _exclusive() -> Iterator[None]:
    """A context manager that holds the process for one run, with PyTorch imported.

    Raises:
        UserError: another run trains in this process.
    """
    if not TRAINING.acquire():
        raise UserError(
            "another run trains in this process, and both would use PyTorch's random numbers: "
            "wait for it, or train in another process"
        )
    try:
        _import_torch()
        yield
    finally:
        TRAINING.release()


def _import_torch() -> None:
    """Import PyTorch. OpenMP reads its environment variables then; they are as before afterwards."""
    if "torch" in sys.modules:
        return
    before = {name: os.environ.get(name) for name in _OPENMP}
    limit_openmp_spinning()
    import torch  # noqa: F401

    for name, value in before.items():
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = value


def _learn(
    run: Run,
    budget: int,
    training: Callable[[Sequence[Sink], Stop], None],
    callbacks: Sequence[Callback],
    progress: bool,
    evaluations: Mapping[int, list[float]],
) -> tuple[str, int]:
    """Train with callbacks.

    Args:
        evaluations: env steps -> returns of the evaluations before a resume.

    Returns:
        Why training stopped before its budget, empty if it did not; and the number of the signal that arrived, or 0.
    """
    from mcurl.run.logger import make_sinks
    from mcurl.runtime.device import process_state_restored

    stop, display = Stop(), _display(run, budget) if progress else None
    settings = run.settings
    start = Progress(run.folder, settings["task"], settings["seed"], budget, 0, dict(evaluations), stop)
    try:
        with process_state_restored(), display or contextlib.nullcontext():
            if display:
                display.load_evaluations(evaluations)
            training([*make_sinks(run, display, run.sinks), CallbackSink(callbacks, start)], stop)
    except Interrupted as interrupt:
        if progress:
            saved = f"{interrupt.reason}; saved at {run.latest_checkpoint().env_steps:,} env steps"
            print(f"{saved}; continue with: mcurl.resume({str(run.folder)!r})")
        return interrupt.reason, interrupt.signal_number
    finally:
        run.discard_if_empty()
    return "", stop.signal_number


def _display(run: Run, budget: int) -> Display:
    """A display that prints plain lines, also in a notebook and on a terminal."""
    from rich.console import Console

    from mcurl.run.display import Display
    from mcurl.run.eta import EvaluationSchedule
    from mcurl.run.status import IgnoreBrokenPipe

    settings = run.settings
    file = cast(TextIO, IgnoreBrokenPipe(sys.stdout))
    console = Console(file=file, highlight=False, force_terminal=False, force_jupyter=False)
    title = f"{run.name} · {settings['task']} · seed {settings['seed']}"
    evaluations = EvaluationSchedule.of(settings["evaluation"])
    return Display(budget, title, printable(str(run.folder)), console=console, evaluations=evaluations)


def _result(run: Run, stopped: str, signal_number: int) -> RunResult:
    """The result of a run that is closed. A signal that arrived is raised again, with the handlers as before."""
    if signal_number:
        signal.raise_signal(signal_number)
    return RunResult(run.folder, stopped)
