"""Names -> classes, imported when they are asked for. A class of the user's is named ``module:Class``."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterator, Mapping
from importlib import import_module
from typing import Any, ClassVar, Generic, TypeVar

from mcurl.errors import UserError, suggest

T = TypeVar("T", bound="Pluggable")


class Pluggable:
    """A class that a run can name: an objective or an agent.

    A subclass inherits the section, so that the values, limits and initialisation that hold for its parent hold for it.
    """

    Settings: ClassVar[type[Any]]
    """A frozen dataclass. The docstring below a field is its help."""
    section: ClassVar[str] = ""
    """Where the settings stand, as in ``mcurl.length``. Default: the parent's, or the class's name in snake_case."""
    label: ClassVar[str] = ""
    """Name in tables and plots. Default: the class's name."""

    def __init_subclass__(cls, **keywords: Any) -> None:
        super().__init_subclass__(**keywords)
        if Pluggable in cls.__bases__:  # Objective and Agent themselves name no section that others would inherit.
            return
        cls.section = cls.section or re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", cls.__name__).lower()
        if "label" not in vars(cls):
            cls.label = cls.__name__


class Registry(Generic[T]):
    """The classes of one kind.

    Args:
        kind: in words, for messages.
        base: ``module:Class`` that all of them derive from.
        classes: name -> ``module:Class``.
    """

    def __init__(self, kind: str, base: str, classes: Mapping[str, str]) -> None:
        self.kind, self.base, self.classes = kind, base, dict(classes)

    def __iter__(self) -> Iterator[str]:
        return iter(self.classes)

    def get(self, name: str) -> type[T]:
        """The class of a registered name, or of ``module:Class``.

        Raises:
            UserError: there is no such name, module or class, or the class is not of this kind.
        """
        if ":" in name:
            return self._of_user(name)
        if name not in self.classes:
            raise UserError(f"unknown {self.kind} {name!r}: {suggest(name, self.classes)}; your own is MODULE:CLASS")
        return self._load(self.classes[name])

    def names_of(self, cls: type[T]) -> list[str]:
        """Registered names of a class and of its parents, the most general first."""
        paths = {path: name for name, path in self.classes.items()}
        lineage = (f"{parent.__module__}:{parent.__qualname__}" for parent in reversed(cls.__mro__))
        return [paths[path] for path in lineage if path in paths]

    def _load(self, path: str) -> type[T]:
        module, _, name = path.partition(":")
        cls: type[T] = getattr(import_module(module), name)
        return cls

    def _of_user(self, path: str) -> type[T]:
        module, _, name = path.partition(":")
        base = self._load(self.base)
        try:
            cls = getattr(import_module(module), name)
        except ImportError as error:
            hint = "PYTHONPATH=FOLDER says where it is"
            raise UserError(f"cannot import {module} for its {self.kind}: {error} ({hint})") from error
        except AttributeError:
            others = [key for key, value in vars(import_module(module)).items() if _is_subclass(value, base)]
            nearest = suggest(name, others) if others else f"nor any other {self.kind}"
            raise UserError(f"{module} has no {name}: {nearest}") from None
        if not _is_subclass(cls, base):
            where = self.base.partition(":")[0].replace(".", "/")
            raise UserError(f"{path} is not a subclass of {base.__name__} (see {where}.py)")
        if not dataclasses.is_dataclass(getattr(cls, "Settings", None)):
            raise UserError(f"{path} needs Settings, the frozen dataclass of its settings")
        return cls  # type: ignore[no-any-return]


def _is_subclass(value: object, base: type[Any]) -> bool:
    return isinstance(value, type) and issubclass(value, base) and value is not base
