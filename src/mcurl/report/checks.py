"""What files of unknown origin say of runs is checked before it is used."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from mcurl.errors import UserError
from mcurl.run.names import check_form

MAX_RETURN = 1e100
"""Largest return of an episode. A larger one comes from no environment, and its square may be infinite."""


def check_evaluated(values: Any) -> None:
    """Raise UserError if this is no result of ``mcurl evaluate``, as :func:`later_evaluations` returns them."""
    if not isinstance(values, dict):
        raise UserError("evaluated is not a list of tables")
    for key in ("env_steps", "seed", "episodes"):
        if type(values.get(key)) is not int or values[key] < 0:
            raise UserError(f"{key} of an evaluation is {str(values.get(key))[:100]!r}, not a whole number from 0")
    if type(values.get("mean")) not in (int, float) or not abs(values["mean"]) <= MAX_RETURN:
        raise UserError(f"the mean of an evaluation is {str(values.get('mean'))[:100]!r}, which is no score")


def check_returns(episodes: Mapping[int, Sequence[float]], source: object) -> None:
    """Raise UserError if a return is not a number that means and plots can be made of; ``source`` names the run."""
    for env_steps, values in episodes.items():
        for value in values:
            if not abs(value) <= MAX_RETURN:
                raise UserError(f"{source} has the return {value} at {env_steps:,} env steps, which is no score")


_TEXT = "text"
_PROVENANCE: dict[str, tuple[type[Any] | tuple[type[Any], ...], str]] = {
    **dict.fromkeys(("commit", "mcurl", "torch", "python", "cpu", "gpu", "started_at", "note", "label"), (str, _TEXT)),
    **dict.fromkeys(("dirty", "finished"), (bool, "true or false")),
    **dict.fromkeys(("packages", "environment"), (dict, "versions by name")),
    **dict.fromkeys(("settings", "compute"), (dict, "a table")),
    **dict.fromkeys(("resumed", "evaluated"), (list, "a list of tables")),
    **dict.fromkeys(("cores", "budget"), (int, "a whole number")),
    "hours_per_100k_env_steps": ((int, float), "a number"),
}
"""What is known of a run -> its type, and the type in words. Each may be missing, or None."""


def check_provenance(provenance: Mapping[str, Any]) -> None:
    """Check the types of what a file of unknown origin says about a run.

    Raises:
        UserError: a value has another type than this package writes.
    """
    for key, (kind, words) in _PROVENANCE.items():
        value = provenance.get(key)
        if value is not None and (not isinstance(value, kind) or (kind is int and isinstance(value, bool))):
            raise UserError(f"{key} is not {words}")
    for about in (provenance, *(provenance.get("resumed") or ())):
        if not isinstance(about, dict):
            raise UserError("resumed is not a list of tables")
        for key in ("packages", "environment"):
            versions = about.get(key)
            if versions is not None and not (
                isinstance(versions, dict) and all(isinstance(number, str) for number in versions.values())
            ):
                raise UserError(f"{key} is not versions by name")
    for values in provenance.get("evaluated") or ():
        check_evaluated(values)
    _check_sections(provenance.get("settings") or {})


def _check_sections(settings: Mapping[str, Any]) -> None:
    if "task" in settings:
        check_form("task", settings["task"])
    for key in ("method", "agent"):
        if settings.get(key) not in (None, ""):
            check_form(key, settings[key])
    for section in ("env", "replay", "evaluation", "checkpoint", "compute"):
        if not isinstance(settings.get(section, {}), dict):
            raise UserError(f"{section} is not a table of settings")
    for key in ("action_repeat", "frame_skip"):
        value = settings.get("env", {}).get(key)
        if value is not None and (type(value) is not int or not 0 <= value <= 10**6):
            raise UserError(f"env.{key} is {str(value)[:100]!r}, not a whole number")
