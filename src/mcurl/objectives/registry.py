"""A contrastive loss of one's own as a method: ``--method my_module:MyObjective``. The class says what its settings
are; they are ``own.<name>``."""

from __future__ import annotations

import dataclasses
from importlib import import_module

from mcurl.errors import UserError, suggest
from mcurl.objectives.base import Objective


def objective_class(method: str) -> type[Objective]:
    """The class that ``module:Class`` names: an :class:`Objective` with a frozen dataclass ``Settings``, made as
    ``Class(settings, features)``.

    Raises:
        UserError: there is no such module or class, or it is none.
    """
    module, _, name = method.partition(":")
    try:
        found = getattr(import_module(module), name)
    except ImportError as error:
        raise UserError(
            f"cannot import {module} for its method: {error} (PYTHONPATH=FOLDER says where it is)"
        ) from error
    except AttributeError:
        there = [key for key, value in vars(import_module(module)).items() if _is_objective(value)]
        raise UserError(
            f"{module} has no {name}: {suggest(name, there) if there else 'nor any other Objective'}"
        ) from None
    if not _is_objective(found):
        raise UserError(f"{method} is no Objective (see mcurl/objectives/base.py)")
    if not dataclasses.is_dataclass(getattr(found, "Settings", None)):
        raise UserError(f"{method} needs Settings, the frozen dataclass of its settings")
    return found  # type: ignore[no-any-return]


def _is_objective(value: object) -> bool:
    return isinstance(value, type) and issubclass(value, Objective)
