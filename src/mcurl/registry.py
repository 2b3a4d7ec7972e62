"""Registries that map names to classes, imported on first use. A user-defined class is named ``module:Class``."""

from __future__ import annotations

import dataclasses
import re
import sys
from collections.abc import Iterator, Mapping
from importlib import import_module
from typing import Any, ClassVar, Generic, TypeVar

from mcurl.errors import UserError, suggest

T = TypeVar("T", bound="Pluggable")


class Pluggable:
    """Base of the classes that a run selects by name: objectives and agents.

    A subclass inherits its parent's settings section. So the suite's values and the limits for the parent apply to it.
    """

    Settings: ClassVar[type[Any]]
    """A frozen dataclass of the settings. The docstring below a field is its help text."""
    section: ClassVar[str] = ""
    """Section of the settings, as in ``mcurl.length``. Default: the parent's, or the class name in snake_case."""
    label: ClassVar[str] = ""
    """Name in tables and plots. Default: the class name."""

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if not cls.section and hasattr(cls, "Settings"):  # the abstract bases have none
            cls.section = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", cls.__name__).lower()
        if "label" not in vars(cls):
            cls.label = cls.__name__


class Registry(Generic[T]):
    """The classes of one kind.

    Args:
        kind: what the classes are, in words, for error messages.
        base: ``module:Class`` of their common base class.
        classes: name -> ``module:Class``.
    """

    def __init__(self, kind: str, base: str, classes: Mapping[str, str]) -> None:
        self.kind, self.base, self.classes = kind, base, dict(classes)

    def __iter__(self) -> Iterator[str]:
        return iter(self.classes)

    def get(self, name: str) -> type[T]:
        """The class of a registered name, or of ``module:Class``.

        Raises:
            UserError: the name, module or class does not exist, or the class is not of this kind.
        """
        if ":" in name:
            return self._user_class(name)
        self.check(name)
        return self._load(self.classes[name])

    def check(self, name: str) -> None:
        """Raise UserError if a name is neither registered nor ``module:Class``. Nothing is imported."""
        if ":" not in name and name not in self.classes:
            hint = f"a user-defined {self.kind} is named MODULE:CLASS"
            raise UserError(f"unknown {self.kind} {name!r}: {suggest(name, self.classes)}; {hint}")

    def names_of(self, cls: type[T]) -> list[str]:
        """Registered names of a class and of its base classes, the most general first."""
        names = {path: name for name, path in self.classes.items()}
        paths = (f"{base.__module__}:{base.__qualname__}" for base in reversed(cls.__mro__))
        return [names[path] for path in paths if path in names]

    def _load(self, path: str) -> type[T]:
        module, _, name = path.partition(":")
        cls: type[T] = getattr(import_module(module), name)
        return cls

    def _user_class(self, path: str) -> type[T]:
        module, _, name = path.partition(":")
        base = self._load(self.base)
        import_user_module(module)
        try:
            cls = getattr(sys.modules[module], name)
        except AttributeError:
            choices = [key for key, value in vars(sys.modules[module]).items() if _is_subclass(value, base)]
            advice = suggest(name, choices) if choices else f"the module defines no {self.kind}"
            raise UserError(f"{module} has no {name}: {advice}") from None
        if not _is_subclass(cls, base):
            source = self.base.partition(":")[0].replace(".", "/")
            raise UserError(f"{path} is not a subclass of {base.__name__} (see {source}.py)")
        if not dataclasses.is_dataclass(getattr(cls, "Settings", None)):
            raise UserError(f"{path} needs Settings, a frozen dataclass of its settings")
        return cls  # type: ignore[no-any-return]


def import_user_module(module: str) -> None:
    """Import a module that the user has named.

    Raises:
        UserError: there is no such module, or its code raises an exception.
    """
    if not re.fullmatch(r"[^\W\d]\w*(\.[^\W\d]\w*)*", module):
        raise UserError(f"{module!r} is not the name of a module")
    try:
        import_module(module)
    except ImportError as error:
        raise UserError(f"cannot import {module}: {error}; is its folder in PYTHONPATH?") from error
    except (Exception, SystemExit) as error:
        raise UserError(f"cannot import {module}: {type(error).__name__}: {error} (--debug shows where)") from error


def _is_subclass(value: object, base: type[Any]) -> bool:
    return isinstance(value, type) and issubclass(value, base) and value is not base
