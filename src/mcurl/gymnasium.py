"""The tasks as environments of Gymnasium: importing this module registers them.

``mcurl/<suite>-<name>-v0``, such as ``mcurl/dmc-cartpole-swingup-v0`` and ``mcurl/atari-Pong-v0``. Gymnasium's ids have
one slash, and end in a version. ``gymnasium.make("mcurl.gymnasium:mcurl/dmc-cartpole-swingup-v0")`` imports this module
by itself. No library of an environment is imported before an environment is made.
"""

from __future__ import annotations

import secrets
from typing import Any

import gymnasium

from mcurl.envs import atari, dmc, toy

TASKS = (
    *(f"dmc/{name}" for name in dmc.tasks()),
    *(f"atari/{name}" for name in atari.ATARI_26),
    *(f"toy/{name}" for name in toy.tasks()),
)
"""The tasks that are registered. Other games of Atari: :func:`mcurl.make_env`."""


def environment_id(task: str) -> str:
    """Gymnasium's id of a task.

    >>> environment_id("dmc/cartpole-swingup")
    'mcurl/dmc-cartpole-swingup-v0'
    """
    return f"mcurl/{task.replace('/', '-')}-v0"


def make(
    task: str, render_mode: str | None = None, seed: int | None = None, **settings: Any
) -> gymnasium.Env[Any, Any]:
    """Make the environment of a task, see :func:`mcurl.make_env`.

    Args:
        task: ``suite/name``.
        render_mode: None or ``"rgb_array"``; ``render()`` works in either case.
        seed: seed of the first episode, unless ``reset(seed=...)`` has one; None: another one each time.
        settings: of the environment, such as ``action_repeat=4``.

    Raises:
        UserError: a setting is unknown, or the library of the environment is not installed.
        gymnasium.error.Error: another render mode.
    """
    from mcurl.api import make_env

    if render_mode not in (None, "rgb_array"):
        raise gymnasium.error.Error(f"render_mode is rgb_array, not {render_mode!r}")
    return make_env(task, seed=secrets.randbelow(2**31) if seed is None else seed, **settings)


for _task in TASKS:
    gymnasium.register(environment_id(_task), f"{__name__}:make", kwargs={"task": _task})
