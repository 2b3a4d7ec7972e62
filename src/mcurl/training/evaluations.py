"""The evaluations of a run: when they are made, and what is kept of them."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from mcurl.agents.base import Agent, Clock
from mcurl.config.settings import TrainSettings
from mcurl.errors import UserError
from mcurl.evaluate import evaluate_policy, record_policy, score_line
from mcurl.published.scores import is_score
from mcurl.recording import Recording
from mcurl.run.folder import Run
from mcurl.run.logger import Logger
from mcurl.runtime.signals import Stop
from mcurl.training.checks import Checks


class Evaluations:
    """Evaluates the agent at the start, at every multiple of ``evaluation.every``, and at the end.

    Args:
        settings: of the run.
        run: keeps the episodes of a score.
        agent: plays.
        logger: receives the returns.
        checks: checks the agent's weights before each evaluation.
        stop: ends an evaluation, of which nothing is logged then.

    Attributes:
        at: simulator steps of the latest evaluation; -1: there was none.
    """

    def __init__(
        self, settings: TrainSettings, run: Run, agent: Agent, logger: Logger, checks: Checks, stop: Stop
    ) -> None:
        self._settings, self._schedule = settings, settings.evaluation
        self._run, self._agent, self._logger, self._checks, self._stop = run, agent, logger, checks, stop
        self.at = -1

    def make_if_due(self, clock: Clock, budget: int) -> bool:
        """Evaluate if that is due; return whether it was.

        A resumed run does not repeat an evaluation. With ``final_episodes``, the final evaluation replaces the regular
        one at the end of the budget.

        Raises: see :meth:`_make`.
        """
        if clock.env_steps >= budget and self._schedule.final_episodes:
            return False
        if self.at == clock.env_steps or not (clock.agent_steps == 0 or clock.is_due(self._schedule.every)):
            return False
        self._make(clock, self._schedule.episodes)
        return True

    def make_final(self, clock: Clock) -> None:
        """Evaluate at the end of the run, unless the last regular evaluation was the final one, and say the score."""
        if self._schedule.final_episodes or self.at != clock.env_steps:
            returns = self._make(clock, self._schedule.final_episodes or self._schedule.episodes)
        else:
            returns = np.array(self._run.evaluations()[clock.env_steps])
        self._logger.message(score_line(self._settings.task, returns))

    def _make(self, clock: Clock, episodes: int) -> npt.NDArray[np.float64]:
        """Evaluate the policy, log and return the returns ``float64 [episodes]``.

        Raises:
            Interrupted: the user stopped the run during the evaluation; nothing is logged.
            UserError: the agent has diverged, or the environment failed.
        """
        self._checks.check_agent(clock)

        def watch(finished: int) -> None:
            self._stop.check()
            self._logger.evaluating(clock.env_steps, finished, episodes)

        watch(0)
        settings, agent, say = self._settings, self._agent, self._logger.message
        if is_score(settings.task, clock.env_steps, clock.action_repeat, self._run.env_steps):
            recording = record_policy(settings, agent, clock, episodes, settings.seed, watch, say)
            returns = np.array(recording.returns)
            self._keep(recording)
        else:
            returns = evaluate_policy(settings, agent, clock, episodes, settings.seed, watch, message=say)
        self.at = clock.env_steps
        self._logger.evaluation(clock.env_steps, returns.tolist())
        return returns

    def _keep(self, recording: Recording) -> None:
        """Save the episodes of an evaluation. Training goes on if they cannot be recorded."""
        try:
            self._run.save_recording(recording.env_steps, recording.to_bytes())
        except UserError as error:
            self._logger.message(f"the score cannot be verified by playing its episodes again: {error}")
