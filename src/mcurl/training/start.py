"""Begin a run, or continue one from a checkpoint."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing

from mcurl.config.settings import TrainSettings
from mcurl.errors import UserError, argument
from mcurl.run.checkpoint import WRONG_VALUES, first_line
from mcurl.run.folder import Checkpoint, Run, earlier_hint
from mcurl.run.logger import Logger, Sink
from mcurl.runtime.signals import Stop
from mcurl.training.trainer import Trainer


def train(settings: TrainSettings, run: Run, sinks: Sequence[Sink], stop: Stop | None = None) -> None:
    """Train from the beginning.

    Args:
        settings: see :func:`mcurl.config.resolve.resolve`.
        run: a new run folder, or one that begins anew.
        sinks: receive the metrics, see :func:`mcurl.run.logger.make_sinks`.
        stop: a request to stop, which a sink may set; None: only signals stop the run.

    Raises:
        Interrupted: the user stopped the run; a checkpoint is saved.
        UserError: the environment or the settings do not fit the method or the machine, or training diverged.
    """
    with closing(Logger(sinks)) as logger, Trainer(settings, run, logger, stop) as trainer:
        if run.begun_anew:
            logger.message(f"{run.folder} was stopped before its first checkpoint: it begins anew")
        trainer.learn(settings.env_steps)


def resume(
    run: Run, sinks: Sequence[Sink], env_steps: int | None = None, stop: Stop | None = None, at: int | None = None
) -> None:
    """Continue from a checkpoint, exactly as if the run had not stopped.

    A run that was stopped before its first checkpoint starts from the beginning.

    Args:
        run: a run folder, opened for training.
        sinks: as for :func:`train`.
        env_steps: extend the budget to this many simulator steps; schedules keep their original horizon.
        stop: as for :func:`train`.
        at: simulator steps of the checkpoint; None: the latest. What came later is kept in ``*.aside``.

    Raises:
        Interrupted: the user stopped the run; a checkpoint is saved.
        UserError: the checkpoint or the run folder is damaged, or the settings changed after it was saved.
    """
    checkpoint = run.start(at)
    changes = run.check_settings(checkpoint)
    settings = TrainSettings.from_json(run.settings)
    with closing(Logger(sinks)) as logger, Trainer(settings, run, logger, stop) as trainer:
        if checkpoint is not None:
            _load(run, checkpoint, trainer)
        else:
            run.restart()
        if changes:
            logger.message(f"settings were changed: {'; '.join(changes)}")
        logger.rewind(trainer.clock.env_steps)
        run.record_resume(env_steps)
        logger.message(f"resumed at {trainer.clock.env_steps:,} env steps")
        if run.env_steps != settings.env_steps:
            horizon = f"schedules keep the horizon of {settings.env_steps:,} that the run began with"
            logger.message(f"extended to {run.env_steps:,} env steps; {horizon}")
        trainer.learn(run.env_steps)


def _load(run: Run, checkpoint: Checkpoint, trainer: Trainer) -> None:
    """Load a checkpoint, and truncate the logs to it."""
    state = checkpoint.load()
    try:
        trainer.load_state_dict(state)
        if (steps := trainer.clock.env_steps) != checkpoint.env_steps:
            raise UserError(f"{checkpoint.folder} holds the state of {steps:,} env steps: it was renamed")
        aside = run.rewind(checkpoint)
    except UserError as error:
        hint = "" if argument("checkpoint") in str(error) else earlier_hint(checkpoint)
        again = run.command("evaluate", "--checkpoint", checkpoint.env_steps)
        raise UserError(f"{error}{hint}; the policy can be evaluated with: {again}") from error
    except WRONG_VALUES as error:
        path = run.folder / "settings.json"
        reason = f"one of the two was changed since, or is damaged: {first_line(error)}"
        raise UserError(f"{checkpoint.folder} does not fit {path}: {reason}") from error
    for path in aside:
        trainer.logger.message(f"what came after {checkpoint.env_steps:,} env steps is kept in {path}")
