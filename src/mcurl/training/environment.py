"""The state of a run's environment, which not every environment can save."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from mcurl.envs import CannotSave
from mcurl.envs.foreign import EnvironmentFailure
from mcurl.envs.threaded import ThreadedEnv
from mcurl.run.checkpoint import check_tree


class EnvironmentState:
    """Saves and restores the environment. If it cannot be saved, training goes on, and a resume is not exact.

    Args:
        env: the environment.
        task: ``suite/name``, for messages.
        message: is told, once, why the state was not saved.
    """

    def __init__(self, env: ThreadedEnv, task: str, message: Callable[[str], None]) -> None:
        self._env, self._task, self._message = env, task, message
        self._told = False

    def save(self) -> dict[str, Any] | None:
        """The state of the environment; None if it cannot be saved, or after the environment has failed."""
        if self._env.failed:
            return None
        try:
            state = self._env.state_dict()
            check_tree(state)
            return state
        except CannotSave:
            return None
        except EnvironmentFailure as error:
            problem = str(error)
        except TypeError as error:
            problem = f"{self._task}: state_dict() returned what cannot be saved: {error}"
        if not self._told:
            self._told = True
            self._message(f"{problem}; a resume will not be exact")
        return None

    def load(self, state: dict[str, Any] | None) -> str:
        """Restore a state from :meth:`save`. Returns why that is impossible; empty if it was done."""
        if state is None:
            return "the environment's state was not saved"
        try:
            self._env.load_state_dict(state)
        except (CannotSave, EnvironmentFailure) as error:
            return str(error)
        return ""
