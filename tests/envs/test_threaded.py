"""Environments in a thread of their own."""

from __future__ import annotations

import threading
from typing import Any

import gymnasium
import numpy as np

from mcurl.envs.threaded import ThreadedEnv


class Waits(gymnasium.Env[np.ndarray, Any]):
    """A step waits until it may go on."""

    def __init__(self) -> None:
        self.began, self.go_on, self.closed = threading.Event(), threading.Event(), False

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[np.ndarray, dict[str, Any]]:
        return np.zeros(1), {}

    def step(self, action: Any) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        self.began.set()
        assert self.go_on.wait(60)
        return np.zeros(1), 0.0, False, False, {}

    def close(self) -> None:
        self.closed = True


def test_an_environment_is_closed_after_the_step_that_is_under_way() -> None:
    """As where an update fails while the environment steps."""
    env = Waits()
    threaded = ThreadedEnv(lambda: env)
    threaded.reset()
    outcome = threaded.step_async(0)
    assert env.began.wait(60)
    threading.Timer(0.1, env.go_on.set).start()
    threaded.close()
    assert outcome.done()
    assert env.closed
