"""The tasks of all suites as Gymnasium environments with frame stacking, action repeat, and saveable states.

A task is named ``suite/name``: ``dmc/cartpole-swingup``, ``atari/Pong``, ``toy/reach``, ``gym/CartPole-v1``. The
libraries of a suite are imported on first use.
"""

from __future__ import annotations

import os
import re
import sys
from importlib import import_module
from types import ModuleType
from typing import Any

import gymnasium

from mcurl.envs.quiet import silence_libraries
from mcurl.errors import UserError, suggest
from mcurl.registry import import_user_module

SUITES = {"dmc": "mcurl.envs.dmc", "atari": "mcurl.envs.atari", "toy": "mcurl.envs.toy", "gym": "mcurl.envs.gym"}
"""Suite -> its module.

A module defines ``<Suite>Settings``, ``tasks()``, ``resolve(name)`` and ``make(settings, seed)``. It also defines
``action_space(settings)`` if the suite's TOML file does not name the agent, and may define
``make_without_pixels(settings, seed)``, for playing recorded actions again, and ``release()``, see :func:`release`.
"""

OWN_SUITES = "MCURL_SUITES"
"""Environment variable: suites of the user's own, as NAME=MODULE,NAME=MODULE. Processes that a run starts know it."""

_OTHER_SPELLINGS = {
    "atari": r"(?:ALE/)?(\w+?)(?:-ram)?(?:NoFrameskip|Deterministic)?-v[045]",
    "dmc": r"dm_control/([\w-]+?)(?:-v\d)?",
}
"""Suite -> pattern of the names that its tasks have in Gymnasium."""
_SURE = r"ALE/|dm_control/|\w+NoFrameskip-"
"""Beginnings of the names that can belong to no other suite."""


class CannotSave(Exception):  # noqa: N818 - a state of the environment, not an error of the user
    """The state of the environment cannot be saved."""


def parse_task(name: str) -> tuple[str, str]:
    """Split ``suite/task``, and return both in their canonical spelling.

    Raises:
        UserError: the suite or the task is unknown, or the slash is missing.

    >>> parse_task("dmc/Cartpole_Swingup")
    ('dmc', 'cartpole-swingup')
    """
    suite, slash, task = name.partition("/")
    if suite.lower() not in SUITES:
        _refuse_own_id(name)
        _refuse_other_spelling(name)
    if not slash:
        raise UserError(f"a task is written suite/name, not {name!r}: {_with_suite(name)}")
    try:
        canonical: str = suite_module(suite).resolve(task)
    except UserError:
        if suite.lower() in ("gym", "atari"):  # in gym a game may be registered by a module of the user
            _refuse_other_spelling(task)
        raise
    return suite.lower(), canonical


def _refuse_own_id(name: str) -> None:
    """Raise UserError for the ids of :mod:`mcurl.gymnasium`, such as ``mcurl/dmc-cartpole-swingup-v0``."""
    match = re.fullmatch(r"mcurl/(\w+?)-(.+?)(?:-v\d+)?", name, re.IGNORECASE)
    if match and match[1].lower() in SUITES:
        suite, task = parse_task(f"{match[1]}/{match[2]}")
        raise UserError(f"{name} is a name of Gymnasium's: did you mean {suite}/{task}?")


def _refuse_other_spelling(name: str) -> None:
    """Raise UserError for the names of Atari games and DMControl tasks in Gymnasium.

    Such as ``ALE/Pong-v5``, ``PongNoFrameskip-v4`` and ``dm_control/cartpole-swingup-v0``.
    """
    for suite, pattern in _OTHER_SPELLINGS.items():
        if match := re.fullmatch(pattern, name, re.IGNORECASE):
            try:
                task = suite_module(suite).resolve(match[1])
            except UserError:
                if re.match(_SURE, name, re.IGNORECASE):
                    raise
                continue
            raise UserError(f"{name} is a name of Gymnasium's: did you mean {suite}/{task}?")


def _with_suite(task: str) -> str:
    for suite in SUITES:
        try:
            return f"did you mean {suite}/{suite_module(suite).resolve(task)}?"
        except UserError:
            continue
    return f"the suites are {', '.join(SUITES)}"


def suite_module(suite: str) -> ModuleType:
    """The module of a suite. Raises UserError for an unknown suite."""
    if suite.lower() not in SUITES:
        raise UserError(f"unknown suite {suite!r} ({OWN_SUITES} names suites of your own): {suggest(suite, SUITES)}")
    silence_libraries()
    if suite.lower() in _OWN:
        if "" not in sys.path:
            sys.path.insert(0, "")  # as for other modules that the user names
        import_user_module(SUITES[suite.lower()])
    return import_module(SUITES[suite.lower()])


def settings_class(suite: str) -> type[Any]:
    """The frozen dataclass of a suite's settings, first field ``task``. Raises UserError for an unknown suite."""
    module, name = suite_module(suite), f"{suite.capitalize()}Settings"
    if not hasattr(module, name):
        raise UserError(f"the suite {suite} needs {name} in {module.__name__}")
    cls: type[Any] = getattr(module, name)
    return cls


def _read_own_suites() -> dict[str, str]:
    """The suites in :data:`OWN_SUITES`. Raises UserError if it cannot be read."""
    own = {}
    for entry in filter(None, os.environ.get(OWN_SUITES, "").split(",")):
        if not (match := re.fullmatch(r"\s*([a-z]\w*)=([\w.]+)\s*", entry)):
            raise UserError(f"{OWN_SUITES} has {entry!r}; write NAME=MODULE,NAME=MODULE with lower-case names")
        if match[1] in SUITES:
            raise UserError(f"{OWN_SUITES} names {match[1]}, which is a suite of this package: choose another name")
        own[match[1]] = match[2]
    return own


_OWN = _read_own_suites()
SUITES.update(_OWN)


def release() -> None:
    """Close the environments that were made only to look at their action spaces, and were not used since."""
    for module in SUITES.values():
        if function := getattr(sys.modules.get(module), "release", None):
            function()


def make_env(settings: Any, seed: int, *, pixels: bool = True) -> gymnasium.Env[Any, Any]:
    """Make the environment that a suite's settings describe.

    In addition to Gymnasium's attributes, it has ``frame_shape``, ``frame_stack``, ``action_repeat``, ``stack_start``,
    ``state_dict()`` and ``load_state_dict(state)`` (see docs/architecture.md).

    Args:
        settings: an instance of the suite's settings class.
        seed: seed of the environment's random numbers.
        pixels: False: leave out the pixels of observations where the suite can do without, which is faster. Rewards and
            ends of episodes are the same, observations are not. ``render()`` works.

    Raises:
        UserError: the task is unknown, or the suite's library is not installed.
        TypeError: ``settings`` is not an instance of a settings class.
    """
    module = type(settings).__module__
    if module not in SUITES.values():
        raise TypeError(f"{type(settings).__name__} is not the settings class of a suite")
    silence_libraries()
    suite = import_module(module)
    make = suite.make if pixels else getattr(suite, "make_without_pixels", suite.make)
    env: gymnasium.Env[Any, Any] = make(settings, seed)
    return env
