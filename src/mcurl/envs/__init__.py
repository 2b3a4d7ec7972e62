"""Environments: every suite's tasks as Gymnasium environments that stack frames, repeat actions, and can be saved.

A task is written ``suite/name``: ``dmc/cartpole-swingup``, ``atari/Pong``, ``toy/reach``, ``gym/CartPole-v1``.
Libraries are imported when first used.
"""

from __future__ import annotations

from importlib import import_module
from types import ModuleType
from typing import Any

import gymnasium

from mcurl.errors import UserError, suggest

SUITES = {"dmc": "mcurl.envs.dmc", "atari": "mcurl.envs.atari", "toy": "mcurl.envs.toy", "gym": "mcurl.envs.gym"}
"""Suite -> its module, which has ``<Suite>Settings``, ``tasks()``, ``resolve(name)``, ``make(settings, seed)``; where
the suite's file does not say which agent learns a task, ``action_space(name)`` too."""


class CannotSave(Exception):  # noqa: N818 (it reads as what it says)
    """The environment's simulator offers no way to save its state."""


def parse_task(name: str) -> tuple[str, str]:
    """Suite and task, as the suite spells it, of ``suite/task``.

    Raises UserError, in one line that says what was meant, where the suite or the task is unknown or the slash is
    missing.

    >>> parse_task("dmc/Cartpole_Swingup")
    ('dmc', 'cartpole-swingup')
    """
    suite, slash, task = name.partition("/")
    if not slash:
        raise UserError(f"a task is written suite/name, not {name!r}: {_with_suite(name)}")
    canonical: str = suite_module(suite).resolve(task)
    return suite.lower(), canonical


def _with_suite(task: str) -> str:
    for suite in SUITES:
        try:
            return f"did you mean {suite}/{suite_module(suite).resolve(task)}?"
        except UserError:
            continue
    return f"the suites are {', '.join(SUITES)}"


def suite_module(suite: str) -> ModuleType:
    """The module of a suite. Raises UserError for an unknown one."""
    if suite.lower() not in SUITES:
        raise UserError(f"unknown suite {suite!r}: {suggest(suite, SUITES)}")
    return import_module(SUITES[suite.lower()])


def settings_class(suite: str) -> type[Any]:
    """The frozen dataclass of a suite's settings, whose first field is ``task``. Raises UserError for an unknown
    suite."""
    found: type[Any] = getattr(suite_module(suite), f"{suite.capitalize()}Settings")
    return found


def make_env(settings: Any, seed: int) -> gymnasium.Env[Any, Any]:
    """The environment that a suite's settings describe; its random numbers come from the seed.

    ThreadedEnv Gymnasium's attributes it has ``frame_shape``, ``frame_stack``, ``action_repeat``, ``stack_start``,
    ``state_dict()`` and ``load_state_dict(state)`` (see docs/architecture.md). Raises UserError where a task is unknown
    or the suite's library is not installed, TypeError for what are no settings.
    """
    module = type(settings).__module__
    if module not in SUITES.values():
        raise TypeError(f"{type(settings).__name__} are not the settings of a suite")
    env: gymnasium.Env[Any, Any] = import_module(module).make(settings, seed)
    return env
