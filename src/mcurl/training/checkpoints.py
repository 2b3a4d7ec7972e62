"""The checkpoints that a run saves on its way."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mcurl.replay import Replay, prune
from mcurl.run.folder import RECENT_CHECKPOINTS, Run
from mcurl.run.logger import Logger, SpeedMeter
from mcurl.runtime.device import Compute, compute_metadata


class CheckpointSchedule:
    """Saves the state of a run together with its replay, whose files only grow.

    Args:
        run: the run folder.
        replay: of the run.
        compute: is noted with each checkpoint.
        logger: receives the speed since the last checkpoint.

    Attributes:
        at: simulator steps of the checkpoint that was saved or loaded last; -1: there was none. If these are the
            current steps, no further checkpoint is saved after a failure or a stop.
    """

    def __init__(self, run: Run, replay: Replay, compute: Compute, logger: Logger) -> None:
        self._run, self._replay, self._compute, self._logger = run, replay, compute, logger
        self._speed = SpeedMeter()
        self._oldest_rows: dict[int, int] = {}  # env steps of a kept checkpoint -> oldest row that it needs
        self.at = -1

    def start(self, env_steps: int) -> None:
        """Start the clock of the speed at ``env_steps`` simulator steps."""
        self._speed.start(env_steps)

    def save(self, env_steps: int, state: Mapping[str, Any], policy: Any = None) -> None:
        """Save a checkpoint.

        Args:
            env_steps: simulator steps.
            state: everything that the rest of the run depends on, except the replay.
            policy: of a finished run, as from :meth:`mcurl.agents.base.Agent.policy_state`.

        Raises:
            UserError: the folder belongs to another process by now, or cannot be written.
        """
        self._run.check_owner()
        replay = self._replay.save_files(self._run.replay_folder)
        self._run.checkpoint(env_steps, {**state, "replay": replay}, policy=policy)
        # Overwritten rows stay on disk as long as a kept checkpoint needs them.
        self._oldest_rows[env_steps] = replay["oldest"]
        self._oldest_rows = dict(sorted(self._oldest_rows.items())[-RECENT_CHECKPOINTS:])
        prune(self._run.replay_folder, min(self._oldest_rows.values()))
        self._run.record_compute(compute_metadata(self._compute))
        if speed := self._speed.lap(env_steps):
            self._logger.speed(env_steps, speed)
        self._logger.flush()
        self.at = env_steps
        self._logger.checkpoint(env_steps)

    def load_replay(self, state: dict[str, Any], env_steps: int) -> None:
        """Restore the replay from its part of the state of a checkpoint at ``env_steps``, and its files."""
        self._replay.load_files(self._run.replay_folder, state)
        # An older checkpoint may exist; assume that it needs all rows.
        self._oldest_rows = {-1: 0, env_steps: state["oldest"]}
        self.at = env_steps
