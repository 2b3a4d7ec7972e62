"""An environment in its own thread: a step starts asynchronously, and its result is fetched later."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable
from concurrent.futures import Future
from queue import SimpleQueue
from typing import Any, TypeVar

import gymnasium
import numpy as np

T = TypeVar("T")
StepOutcome = tuple[np.ndarray, float, bool, bool, dict[str, Any]]
"""Observation, reward, terminated, truncated, info."""
_CLOSE_SECONDS = 5.0
"""How long to wait for an environment to close, before it is left alone."""


class ThreadedEnv:
    """Runs all calls of an environment in one thread, because an OpenGL context belongs to one thread.

    An environment that works only in the main thread runs there: it is made again, if its constructor or its first
    reset asks for that thread. Exceptions of the environment are raised in the calling thread. A call that hangs does
    not keep the process from ending.

    Args:
        make: makes the environment; called in that thread.
        in_thread: False: run it in the calling thread.

    Attributes:
        env: the environment.
        failed: whether a reset or a step raised an exception, so that the environment's state cannot be trusted.
    """

    def __init__(self, make: Callable[[], gymnasium.Env[Any, Any]], *, in_thread: bool = True) -> None:
        self._make, self._used = make, not in_thread
        self.failed = False
        self._worker: _Worker | _MainThread
        if in_thread:
            self.env = call_ahead(make)
            self._worker = _take_worker()
        else:
            self.env, self._worker = make(), _MainThread()

    @property
    def in_main_thread(self) -> bool:
        """Whether the environment works only in the main thread, so that no step overlaps with an update."""
        return isinstance(self._worker, _MainThread)

    def reset(self, seed: int | None = None) -> tuple[np.ndarray, dict[str, Any]]:
        """As of the environment. One that says, at its first reset, that it works in the main thread only is made
        again there."""
        try:
            return self._submit(lambda: self.env.reset(seed=seed)).result()
        except Exception as error:
            if self._used or self.in_main_thread or not _needs_main_thread(error):
                raise
            self._worker.close(self.env.close)
            self.env, self._worker, self.failed = self._make(), _MainThread(), False
            return self.env.reset(seed=seed)
        finally:
            self._used = True

    def step_async(self, action: Any) -> Future[StepOutcome]:
        """Start a step. ``result()`` of the returned future waits for its outcome."""
        return self._submit(lambda: self.env.step(action))  # type: ignore[arg-type, return-value]

    def state_dict(self) -> dict[str, Any]:
        """As of the environment. Raises CannotSave if its state cannot be saved."""
        state: dict[str, Any] = self._worker.submit(self.env.get_wrapper_attr("state_dict")).result()
        return state

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """As of the environment: continue from a state of :meth:`state_dict`."""
        load = self.env.get_wrapper_attr("load_state_dict")
        self._worker.submit(lambda: load(state)).result()
        self._used = True

    def _submit(self, function: Callable[[], T]) -> Future[T]:
        def call() -> T:
            try:
                return function()
            except BaseException:
                self.failed = True
                raise

        return self._worker.submit(call)

    def close(self) -> None:
        """Close the environment. It is left alone if a call of it hangs."""
        self._worker.close(self.env.close)


class _Worker:
    """A thread that carries out calls one after the other. A daemon, so that a call that hangs is left at exit."""

    def __init__(self) -> None:
        self._calls: SimpleQueue[tuple[Future[Any], Callable[[], Any]] | None] = SimpleQueue()
        self._last: Future[Any] | None = None
        self._thread = threading.Thread(target=self._run, name="environment", daemon=True)
        self._thread.start()

    def submit(self, function: Callable[[], T]) -> Future[T]:
        future: Future[T] = Future()
        self._last = future
        self._calls.put((future, function))
        return future

    def close(self, function: Callable[[], object]) -> None:
        """Call a last function after the call that is under way, unless that hangs, and end the thread."""
        try:
            with contextlib.suppress(TimeoutError):
                self.submit(function).result(_CLOSE_SECONDS)
        finally:  # also after a call that failed
            self._calls.put(None)
            if self._last is None or self._last.done():
                self._thread.join(_CLOSE_SECONDS)

    def _run(self) -> None:
        while (call := self._calls.get()) is not None:
            _fulfil(*call)


class _MainThread:
    """In place of a thread: calls are carried out at once."""

    def submit(self, function: Callable[[], T]) -> Future[T]:
        future: Future[T] = Future()
        _fulfil(future, function)
        return future

    def close(self, function: Callable[[], object]) -> None:
        function()


def _fulfil(future: Future[T], function: Callable[[], T]) -> None:
    try:
        future.set_result(function())
    except BaseException as error:  # raised again in the thread that waits
        future.set_exception(error)


_next: _Worker | _MainThread | None = None
"""The thread of the next ThreadedEnv, if calls were made ahead."""


def call_ahead(function: Callable[[], T]) -> T:
    """Call a function in the thread that the next ThreadedEnv will have, so that what it makes can be used there.

    If it raises an exception that asks for the main thread, it is called there, and the next ThreadedEnv has no thread.
    """
    global _next
    if _next is None:
        _next = _Worker()
    worker = _next
    try:
        return worker.submit(function).result()
    except Exception as error:
        if _needs_main_thread(error):
            worker.close(lambda: None)
            _next = _MainThread()
            return function()
        _next = None
        worker.close(lambda: None)
        raise


def _needs_main_thread(error: Exception) -> bool:
    """Whether an exception asks for the main thread, and this is it."""
    return threading.current_thread() is threading.main_thread() and "main thread" in str(error).lower()


def release(function: Callable[[], object]) -> None:
    """Call a function in the thread of the next ThreadedEnv, and end that thread."""
    global _next
    if _next is not None:
        worker, _next = _next, None
        worker.close(function)


def _take_worker() -> _Worker | _MainThread:
    global _next
    worker, _next = _next, None
    assert worker is not None
    return worker
