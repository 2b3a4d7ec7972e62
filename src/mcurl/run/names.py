"""Names of runs, and what else follows from their settings as JSON values.

The name of a run stands in its folder, in the results and in plots. Runs with different settings have different names.
"""

from __future__ import annotations

import contextlib
import hashlib
import re
from collections.abc import Collection, Iterator, Mapping
from importlib.util import find_spec
from typing import Any

from mcurl.errors import UserError

UNNAMED_AGENTS = ("", "sac", "rainbow")
"""Agents without a place in a name: a task has one of them by default."""
NAMED_AGENTS = ("drqv2",)
"""The other agents of this package, which names begin with."""
SAME_LEARNING = ("compute.device", "compute.threads", "compute.overlap", "compute.graphs", "compute.native")
"""Settings that do not change what is learned (``compute.native`` and ``compute.device``: up to rounding)."""
NOT_IN_NAMES = (
    *("task", "method", "agent", "seed", "env_steps", "env.task", "evaluation", "checkpoint"),
    *SAME_LEARNING,
)
"""Settings and sections without a place in a name: the run's other coordinates, its budget, and those that do not
change what is learned."""
MAX_LENGTH = 100
"""Longest default name, in characters."""
_CUT = re.compile(r"-[0-9a-f]{8}$")
"""The end of a default name that was too long."""
_CLASS = r"\w[\w.-]*(:[\w.]+)?"
"""A registered name, or ``module:Class``."""
_FORMS = {
    "task": (r"\w+/\w[\w.-]*([:/][\w-][\w.-]*)*", "suite/name, such as dmc/cartpole-swingup"),
    "method": (_CLASS, "the name of a method, or MODULE:CLASS"),
    "agent": (_CLASS, "the name of an agent, or MODULE:CLASS"),
}
"""Setting -> what it may be, as a pattern and in words."""
_LONGEST_FORM = 200
_MODULE_ID = re.compile(r"([^\W\d]\w*(?:\.[^\W\d]\w*)*):[\w/-]")
MAX_SEED = 2**62 - 1
MAX_STEPS = 10**15 - 1
"""Largest seed, and largest number of simulator steps."""


def run_name(settings: Mapping[str, Any]) -> str:
    """The method's name, after that of an agent that no task has by default, with only the characters of file names.

    >>> [run_name({"method": "rl-only", "agent": agent}) for agent in ("sac", "drqv2", "mine:Toy")]
    ['rl-only', 'drqv2-rl-only', 'mine-Toy-rl-only']
    """
    agent, method = settings.get("agent") or "", settings["method"]
    return re.sub(r"[^\w.-]+", "-", method if agent in UNNAMED_AGENTS else f"{agent}-{method}")


def check_name(name: str) -> str:
    """Return a name of a run. Raises UserError if it does not fit into the name of a folder."""
    if not re.fullmatch(r"\w[\w.=+-]*", name) or len(name) > MAX_LENGTH:
        raise UserError(f"a name has letters, digits and . _ = + -, at most {MAX_LENGTH}, not {name!r}")
    return name


def check_settings(settings: Mapping[str, Any]) -> None:
    """Check what the paths and titles of a run are made from: its task, method, agent, seed and budget.

    Args:
        settings: of a run, as JSON values, from a file of unknown origin.

    Raises:
        UserError: one of them is missing, or is nothing that this could be; an agent may be missing.
    """
    if missing := {"task", "method", "seed", "env_steps"} - settings.keys():
        raise UserError(f"{min(missing)} is missing")
    for key in _FORMS:
        if key != "agent" or settings.get(key) not in (None, ""):
            check_form(key, settings[key])
    for key, low, limit in (("seed", 0, MAX_SEED), ("env_steps", 1, MAX_STEPS)):
        if type(settings[key]) is not int or not low <= settings[key] <= limit:
            raise UserError(f"{key} is {_short(settings[key])}, not a whole number from {low}")


def check_form(key: str, value: Any) -> None:
    """Raise UserError if a value can be no ``"task"``, ``"method"`` or ``"agent"``, which paths are made from."""
    pattern, expected = _FORMS[key]
    if not isinstance(value, str) or not re.fullmatch(pattern, value) or len(value) > _LONGEST_FORM:
        raise UserError(f"{key} is {_short(value)}, not {expected}")


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 100 else f"{text[:100]}..."


def action_repeat(env: Mapping[str, Any]) -> int:
    """Simulator steps per agent step.

    Args:
        env: the section ``env`` of a run's settings, as JSON values. In a suite of the user's own it may not say it.

    >>> action_repeat({"action_repeat": 8}), action_repeat({"frame_skip": 4}), action_repeat({})
    (8, 4, 1)
    """
    return int(env.get("action_repeat") or env.get("frame_skip") or 1)


def user_modules(settings: Mapping[str, Any], *, environment: bool = True) -> list[str]:
    """The modules whose code a run needs beside this package: of its method, agent and task, and in ``env.kwargs``.

    Args:
        settings: of a run, as JSON values, of unknown origin.
        environment: whether those of the task and in ``env.kwargs`` count.

    >>> user_modules({"task": "gym/envs.mine:Maze-v0", "method": "losses:Mine", "agent": "sac"})
    ['losses', 'envs.mine']
    """
    env, names = settings.get("env"), [settings.get("method"), settings.get("agent")]
    modules = [name.partition(":")[0] for name in names if isinstance(name, str) and ":" in name]
    if not environment:
        return list(dict.fromkeys(modules))
    suite, _, task = str(settings.get("task")).partition("/")
    modules += [task.rpartition(":")[0]] if suite == "gym" and ":" in task else []
    # Such as the id of another environment, which Gymnasium imports a module for.
    texts = _texts(env.get("kwargs")) if isinstance(env, Mapping) else ()
    modules += [match[1] for match in map(_MODULE_ID.match, texts) if match and _exists(match[1])]
    return list(dict.fromkeys(modules))


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping | list):
        for item in value.values() if isinstance(value, Mapping) else value:
            yield from _texts(item)


def _exists(module: str) -> bool:
    """Whether there is a module of this name. Nothing is imported."""
    with contextlib.suppress(ValueError, ImportError):
        return find_spec(module.partition(".")[0]) is not None
    return True


def changed_settings(settings: Mapping[str, Any], defaults: Mapping[str, Any]) -> dict[str, Any]:
    """The settings that belong to a run's name and differ from the defaults.

    Args:
        settings: all settings of a run.
        defaults: all settings of the same task, method and agent, without changes of the user.

    Returns:
        Short name, or ``section.name`` where two sections have the same short name -> value.

    >>> changed_settings({"mcurl": {"mask_rate": 0.3}}, {"mcurl": {"mask_rate": 0.5}})
    {'mask_rate': 0.3}
    """
    values, default_values = dict(_leaves(settings)), dict(_leaves(defaults))
    short = [key.rpartition(".")[2] for key in values if key not in NOT_IN_NAMES]
    changed = {}
    for key, value in values.items():
        section, _, name = key.rpartition(".")
        if not {key, section} & set(NOT_IN_NAMES) and value != default_values.get(key):
            changed[name if short.count(name) == 1 else key] = value
    return changed


def append_changes(name: str, changed: Mapping[str, Any]) -> str:
    """A name followed by settings; a long one ends in a hash of the settings.

    >>> append_changes("mcurl", {"mask_rate": 0.3, "projection": True})
    'mcurl-mask_rate=0.3-projection=true'
    """
    text = "-".join([name, *(f"{_text(key)}={_text(value)}" for key, value in changed.items())])
    if len(text) <= MAX_LENGTH:
        return text
    return f"{text[: MAX_LENGTH - 9].rstrip('-.')}-{hashlib.sha256(text.encode()).hexdigest()[:8]}"


def check_meaning(name: str, settings: Mapping[str, Any], methods: Collection[str]) -> None:
    """Check that a name of the default form says nothing false: results are looked up by their names.

    Args:
        name: of a run, of unknown origin.
        settings: of the run, as JSON values.
        methods: the built-in methods. A name that begins with none of them, also after an agent, is the user's own, and
            says nothing.

    Raises:
        UserError: the name says another method, or another value of a setting.
    """
    method, changes = _split(name)
    own, agents = run_name(settings), ("", *(f"{agent}-" for agent in NAMED_AGENTS))
    if method != own and method not in {f"{agent}{known}" for agent in agents for known in methods}:
        return
    if method != own:
        raise UserError(f"the name {name!r} is that of the method {method}, but this run is of {own}")
    values = _values(settings)
    for key, text in changes.items():
        if key in values and not any(_says(text, value) for value in values[key]):
            found = " or ".join(dict.fromkeys(map(_text, values[key])))
            raise UserError(f"the name {name!r} says {key}={text}, but this run has {key}={found}")


def _split(name: str) -> tuple[str, dict[str, str]]:
    """The method and the settings that a name of the default form says; without the last one, if it was cut."""
    method, *changes = re.split(r"-(?=[\w.]+=)", name)
    if changes and _CUT.search(name) and len(name) > MAX_LENGTH - 20:
        changes.pop()
    return method, {key: text for key, _, text in (change.partition("=") for change in changes)}


def _values(settings: Mapping[str, Any]) -> dict[str, list[Any]]:
    """Short and full names of the settings -> their values."""
    values: dict[str, list[Any]] = {}
    for key, value in _leaves(settings):
        for name in {key, key.rpartition(".")[2]}:
            values.setdefault(name, []).append(value)
    return values


def _says(text: str, value: Any) -> bool:
    """Whether a text in a name is this value, in any spelling of it, and perhaps followed by a word of the user's."""
    text, own = text.lower(), _text(value).lower()
    if text == own or text.startswith(f"{own}-"):
        return True
    number = re.match(r"(\d+\.?\d*(?:e[-+]?\d+)?)([km]?)(?=-|$)", text)
    if number is None or type(value) not in (int, float):
        return False
    return bool(float(number[1]) * {"": 1, "k": 1e3, "m": 1e6}[number[2]] == value)


def _text(value: Any) -> str:
    """A value with only the characters of file names."""
    text = str(value).lower() if value is None or isinstance(value, bool) else str(value)
    return re.sub(r"[^\w.+-]+", "-", text)


def _leaves(table: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in table.items():
        if isinstance(value, Mapping):
            yield from _leaves(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value
