"""Making the environments that other packages register, with arguments of the user's."""

from __future__ import annotations

import copy
import inspect
import math
import re
from collections.abc import Collection, Mapping
from typing import Any

import gymnasium
import numpy as np
from gymnasium.envs.registration import EnvSpec, load_env_creator

from mcurl.envs.foreign import SHIMMY, Hint, call, describe, message
from mcurl.envs.opengl import choose_backends, complaint
from mcurl.errors import UserError, settings_argument, suggest


def construct(task: str, kwargs: Mapping[str, Any]) -> gymnasium.Env[Any, Any]:
    """Make an environment, without Gymnasium's wrappers. It renders images if it can.

    Args:
        task: its id, which may begin with ``<module>:``; that module has been imported.
        kwargs: the user's arguments of its constructor.

    Raises:
        UserError: it cannot be made.
    """
    choose_backends()
    spec = copy.deepcopy(gymnasium.spec(task.rpartition(":")[2]))
    spec.max_episode_steps = None
    spec.order_enforce = False
    spec.disable_env_checker = True
    name = f"gym/{task}"
    creator = call(name, "its import", _creator, spec)
    options = dict(spec.kwargs) | _merged(spec.kwargs, kwargs)
    _check_arguments(creator, kwargs, name)
    modes = render_modes(creator)
    if (modes is None or "rgb_array" in modes) and _accepts(creator, "render_mode"):
        options["render_mode"] = "rgb_array"
    spec.kwargs = options  # not as arguments of make(), which has some of its own
    env: gymnasium.Env[Any, Any] = call(name, "its constructor", gymnasium.make, spec, hint=_constructor_hint(creator))
    return env


def read_space(env: gymnasium.Env[Any, Any], attribute: str, name: str) -> Any:
    """A space that an environment declares. Raises EnvironmentFailure if it cannot be read."""
    return call(name, f"its {attribute}", getattr, env, attribute)


def _creator(spec: EnvSpec) -> Any:
    """The class or function that makes an environment."""
    return load_env_creator(spec.entry_point) if isinstance(spec.entry_point, str) else spec.entry_point


def _parameters(creator: Any) -> Mapping[str, inspect.Parameter]:
    """The arguments of a function; if they cannot be known, any."""
    try:
        return inspect.signature(creator).parameters
    except (TypeError, ValueError):
        return {"kwargs": inspect.Parameter("kwargs", inspect.Parameter.VAR_KEYWORD)}


def render_modes(env: Any) -> Collection[Any] | None:
    """The render modes that a class or an environment declares; None if it declares none."""
    metadata = getattr(env, "metadata", None)
    modes = metadata.get("render_modes") if isinstance(metadata, Mapping) else None
    return modes if isinstance(modes, Collection) else None


def frames_per_second(env: gymnasium.Env[Any, Any]) -> float:
    """Frames in a second of an environment; 30 if it declares no positive number."""
    declared = env.metadata.get("render_fps") if isinstance(env.metadata, Mapping) else None
    if not isinstance(declared, int | float | np.number) or not math.isfinite(declared) or declared <= 0:
        return 30.0
    return float(declared)


def _accepts(creator: Any, name: str) -> bool:
    """Whether a function takes an argument of a name."""
    parameters = _parameters(creator)
    anything = any(parameter.kind is inspect.Parameter.VAR_KEYWORD for parameter in parameters.values())
    return anything or name in parameters


def _check_arguments(creator: Any, kwargs: Mapping[str, Any], name: str) -> None:
    """Raise UserError for an argument that the environment does not take."""
    choices = [key for key in _parameters(creator) if key not in ("self", "render_mode")]
    for key in kwargs:
        if not _accepts(creator, key):
            advice = suggest(key, choices) if choices else "it takes none"
            raise UserError(f"{name} has no argument env.kwargs.{key}: {advice}")


def _merged(defaults: Mapping[str, Any], kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """The user's arguments; nested dicts are completed from the registration's."""
    merged = {}
    for key, value in kwargs.items():
        default = defaults.get(key)
        if isinstance(value, Mapping) and isinstance(default, Mapping):
            merged[key] = {**default, **_merged(default, value)}
        else:
            merged[key] = copy.deepcopy(value)
    return merged


def _constructor_hint(creator: Any) -> Hint:
    """What helps if a constructor fails: a class of the old gym package needs a converter."""
    old = any(base.__module__.partition(".")[0] == "gym" for base in getattr(creator, "__mro__", ()))
    return (lambda error: SHIMMY) if old else (lambda error: _argument_hint(error) or opengl_hint(error))


def _argument_hint(error: BaseException) -> str:
    """How to set the argument that a constructor misses, if the error is about one."""
    match = re.search(r"missing \d+ required [\w -]*arguments?: '(\w+)'", message(error))
    if not match or not isinstance(error, TypeError):
        return ""
    return f"{settings_argument({f'env.kwargs.{match[1]}': 'VALUE'})} sets it"


def opengl_hint(error: BaseException) -> str:
    """The variable or package that keeps OpenGL from working, if the error may come from that."""
    return (complaint() or "") if re.search(r"(?i)gl|display|x11|screen|render", describe(error)) else ""
