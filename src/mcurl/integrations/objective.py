"""An objective by its name."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from mcurl.config.fields import field_hints, field_meta, read_value
from mcurl.errors import UserError, one_line, suggest
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
    if not (isinstance(cls, type) and issubclass(cls, Objective)):
        raise UserError(f"an objective is a name or a subclass of Objective, not {one_line(objective)}")
    if isinstance(feature_dim, bool) or not isinstance(feature_dim, int) or feature_dim < 1:
        raise UserError(f"feature_dim is a whole number, at least 1, not {feature_dim!r}")
    if settings is not None and not isinstance(settings, Mapping):
        raise UserError(f'settings are a dict such as {{"length": 16}}, not {one_line(settings)}')
    hints, meta = field_hints(cls.Settings), field_meta(cls.Settings)
    values: dict[str, Any] = {}
    for name, raw in (settings or {}).items():
        key = f"{cls.section}.{name}"
        if name not in hints:
            short = str(name).removeprefix(f"{cls.section}.")
            if short in hints:
                raise UserError(f"there is no setting {name!r}: write {short!r}, without the section")
            raise UserError(f"there is no setting {cls.section}.{short}: {suggest(short, hints)}")
        values[name] = read_value(key, hints[name], raw)
        meta[name].check(key, values[name])
    return cls(cls.Settings(**values), feature_dim)


def mask_generator(seed: Any) -> np.random.Generator:
    """The generator of an objective's random choices. Raises UserError if the seed is not a whole number from 0."""
    if isinstance(seed, bool) or not isinstance(seed, int | np.integer) or seed < 0:
        raise UserError(f"seed is a whole number from 0, not {seed!r}")
    return np.random.default_rng(int(seed))
