"""An environment in its own thread: a step starts asynchronously, and its result is fetched later."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import gymnasium
import numpy as np

Outcome = tuple[np.ndarray, float, bool, bool, dict[str, Any]]
"""Observation, reward, terminated, truncated, info."""


class ThreadedEnv:
    """Runs all calls of an environment in one thread, because an OpenGL context belongs to one thread.

    Exceptions of the environment are raised in the calling thread.

    Args:
        make: makes the environment; called in that thread.
    """

    def __init__(self, make: Callable[[], gymnasium.Env[Any, Any]]) -> None:
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="environment")
        self.env = self._thread.submit(make).result()

    def reset(self) -> tuple[np.ndarray, dict[str, Any]]:
        return self._thread.submit(self.env.reset).result()

    def step_async(self, action: Any) -> Future[Outcome]:
        """Start a step. ``result()`` of the returned future waits for its outcome."""
        return self._thread.submit(self.env.step, action)  # type: ignore[arg-type]

    def state_dict(self) -> dict[str, Any]:
        """As of the environment. Raises CannotSave if its state cannot be saved."""
        state: dict[str, Any] = self._thread.submit(self.env.get_wrapper_attr("state_dict")).result()
        return state

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._thread.submit(self.env.get_wrapper_attr("load_state_dict"), state).result()

    def close(self) -> None:
        self._thread.submit(self.env.close).result()
        self._thread.shutdown()
