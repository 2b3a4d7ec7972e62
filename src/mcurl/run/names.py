"""Names of runs, from their settings as JSON values.

The name of a run stands in its folder, in the results and in plots. Runs with different settings have different names.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Mapping
from typing import Any

from mcurl.errors import UserError

UNNAMED_AGENTS = ("", "sac", "rainbow")
"""Agents without a place in a name: a task has one of them by default."""
NOT_IN_NAMES = (
    *("task", "method", "agent", "seed", "env_steps", "env.task", "evaluation", "checkpoint"),
    *("compute.device", "compute.threads", "compute.overlap", "compute.graphs", "compute.native"),
)
"""Settings and sections without a place in a name: the run's other coordinates, its budget, and those that do not
change what is learned (``compute.native`` and ``compute.device``: up to rounding)."""
MAX_LENGTH = 100
"""Longest default name, in characters."""


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
    text = "-".join([name, *(f"{key}={_text(value)}" for key, value in changed.items())])
    if len(text) <= MAX_LENGTH:
        return text
    return f"{text[: MAX_LENGTH - 9].rstrip('-.')}-{hashlib.sha256(text.encode()).hexdigest()[:8]}"


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
