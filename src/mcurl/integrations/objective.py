"""An objective by its name."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mcurl.config.fields import field_hints, field_meta, read_value
from mcurl.errors import UserError, suggest
from mcurl.objectives.base import Objective
from mcurl.objectives.registry import OBJECTIVES


def make_objective(
    objective: str | type[Objective], feature_dim: int, settings: Mapping[str, Any] | None = None
) -> Objective:
    """An objective on the features of an encoder.

    Args:
        objective: ``"mcurl"``, ``"curl"``, ``"seq-curl"``, ``"sym-curl"``, ``"module:Class"``, or a class.
        feature_dim: d, number of features of the encoder.
        settings: settings that differ from their defaults, as ``mcurl settings`` lists them; without the section.

    Raises:
        UserError: the objective or a setting does not exist, or a value is out of range.
    """
    cls = OBJECTIVES.get(objective) if isinstance(objective, str) else objective
    hints, meta = field_hints(cls.Settings), field_meta(cls.Settings)
    values: dict[str, Any] = {}
    for name, raw in (settings or {}).items():
        key = f"{cls.section}.{name}"
        if name not in hints:
            raise UserError(f"there is no setting {key}: {suggest(name, hints)}")
        values[name] = read_value(key, hints[name], raw)
        meta[name].check(key, values[name])
    return cls(cls.Settings(**values), feature_dim)
