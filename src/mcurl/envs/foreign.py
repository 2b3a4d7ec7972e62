"""Code of other people's environments: what it raises becomes one line that names the environment and the place."""

from __future__ import annotations

import re
import threading
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from mcurl.errors import UserError, one_line

T = TypeVar("T")
Hint = Callable[[BaseException], str]
INTERFACE = "Gymnasium's are reset(*, seed=None, options=None) -> (observation, info) and step(action) -> " + (
    "(observation, reward, terminated, truncated, info)"
)
SHIMMY = (
    "for an environment of the old gym package: pip install shimmy gym, then train gym/shimmy:GymV26Environment-v0 "
    "--set env.kwargs.env_id=MODULE:ID (GymV21Environment-v0 before gym 0.26)"
)
_MAX_MESSAGE = 300
_MAX_VALUE = 100
_DIVERGENCES = {"PhysicsError"}
"""Exceptions of simulators whose state diverged, and that go on after a reset: dm_control's."""


class EnvironmentFailure(UserError):  # noqa: N818 - of the environment
    """An environment raised an exception, or returned what its spaces do not declare."""


class Diverged(EnvironmentFailure):
    """The state of the simulator diverged in a step or a reset. After another reset it goes on."""


def call(
    name: str, where: str, function: Callable[..., T], *arguments: Any, hint: Hint | None = None, **options: Any
) -> T:
    """Call a function of an environment.

    Args:
        name: of the environment, for the error message.
        where: what is called, such as ``step()``.
        function: is called with the other arguments.
        hint: the advice at the end of the error message, from the exception; may be empty.

    Raises:
        Diverged: the function raised a simulator's exception after which a reset helps.
        EnvironmentFailure: it raised another exception, SystemExit included.
    """
    in_main_thread = threading.current_thread() is threading.main_thread()
    try:
        return function(*arguments, **options)
    except UserError:
        raise
    except BaseException as error:
        if isinstance(error, KeyboardInterrupt) and in_main_thread:  # of the user, who may press Ctrl-C meanwhile
            raise
        advice = hint(error) if hint is not None else ""
        if "main thread" in message(error) and not in_main_thread:
            advice = "compute.overlap=false runs it in the main thread"
        text = f"{name}: {where} raised {describe(error)}"
        recoverable = any(cls.__name__ in _DIVERGENCES for cls in type(error).__mro__)
        failure = Diverged if recoverable else EnvironmentFailure
        raise failure(f"{text}; {advice}" if advice else text) from error


def describe(error: BaseException) -> str:
    """The type, message and place of an exception, on one line."""
    line = one_line(re.sub(r"\x1b\[[0-9;]*m", "", message(error)), _MAX_MESSAGE)
    return f"{type(error).__name__}{': ' if line else ''}{line}{_place(error)}"


def message(error: BaseException) -> str:
    """The message of an exception; empty if the exception cannot say it."""
    try:
        return str(error)
    except Exception:
        return ""


def show(value: object) -> str:
    """What an environment returned, on one short line: its representation, else its type."""
    try:
        text = " ".join(repr(value).split())
    except Exception:  # also of integers with thousands of digits
        text = ""
    return text if 0 < len(text) <= _MAX_VALUE else type(value).__name__


def _place(error: BaseException) -> str:
    """The file and line that raised the exception, in parentheses; empty if it is in no Python file."""
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if frame.filename != __file__]
    return f" ({_short(frames[-1].filename)}, line {frames[-1].lineno})" if frames else ""


def _short(path: str) -> str:
    """The path below the folder of the installed packages, or the file's name."""
    parts = Path(path).parts
    for folder in ("site-packages", "dist-packages"):
        if folder in parts:
            return "/".join(parts[len(parts) - parts[::-1].index(folder) :])
    return parts[-1]
