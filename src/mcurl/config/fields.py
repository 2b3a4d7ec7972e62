"""Fields of settings classes: metadata, conversion of text to a field's type, and help texts."""

from __future__ import annotations

import ast
import dataclasses
import inspect
import json
import math
import textwrap
import tomllib
import types
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from decimal import Decimal
from functools import cache
from pathlib import Path
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

import numpy as np

from mcurl.errors import UserError, suggest

T = TypeVar("T")
_SUFFIXES = {"k": 1_000, "m": 1_000_000, "g": 1_000_000_000}
_BOOLS = {"true": True, "yes": True, "on": True, "false": False, "no": False, "off": False}


@dataclass(frozen=True)
class Meta:
    """Metadata of a field, in addition to its type, default and help."""

    low: float = -math.inf
    """Minimum."""
    high: float = math.inf
    """Maximum."""
    above: float = -math.inf
    """Exclusive lower bound."""
    below: float = math.inf
    """Exclusive upper bound."""
    unit: str = ""
    """Unit, in words."""
    needs_contrast: bool = False
    """Whether the field has an effect only with a contrastive objective."""
    only_if: tuple[str, tuple[Any, ...]] | None = None
    """Another field of the class, and those of its values with which this field has an effect."""

    @property
    def bounded(self) -> bool:
        """Whether the field has a bound."""
        return max(self.low, self.above) > -math.inf or min(self.high, self.below) < math.inf

    def check(self, key: str, value: Any) -> None:
        """Raise UserError if a number is out of range."""
        if not self.bounded or isinstance(value, bool) or not isinstance(value, int | float):
            return
        if math.isfinite(value) and self.low <= value <= self.high and self.above < value < self.below:
            return
        raise UserError(f"{key} must be {self._range()}, not {value}")

    def _range(self) -> str:
        """The bounds in words."""
        if self.high < math.inf:
            return f"from {self.low:g} to {self.high:g}"
        if self.below < math.inf:
            return f"at least {self.low:g} and below {self.below:g}"
        return f"above {self.above:g}" if self.above > -math.inf else f"at least {self.low:g}"


def setting(
    default: T,
    *,
    low: float = -math.inf,
    high: float = math.inf,
    above: float = -math.inf,
    below: float = math.inf,
    unit: str = "",
    needs_contrast: bool = False,
    only_if: tuple[str, tuple[Any, ...]] | None = None,
) -> T:
    """A dataclass field with metadata; the arguments are the attributes of :class:`Meta`."""
    meta = Meta(low, high, above, below, unit, needs_contrast, only_if)
    field: T = dataclasses.field(default=default, metadata={"mcurl": meta})
    return field


def field_meta(cls: type[Any]) -> dict[str, Meta]:
    """Name -> metadata of each field of a dataclass."""
    return {field.name: field.metadata.get("mcurl", Meta()) for field in dataclasses.fields(cls)}


def read_value(key: str, hint: Any, raw: Any) -> Any:
    """Convert text, or a TOML or JSON value, to the type ``hint``.

    Args:
        key: full name of the setting, for error messages.
        hint: int (``400_000``, ``100k``, ``1e5``), float, bool, str, Path, Literal, tuple, or a union of these or None;
            or Mapping, for a nested dict of JSON values.
        raw: the value; a NumPy scalar counts as a Python value.

    Raises:
        UserError: the value does not have this type.
    """
    if isinstance(raw, np.generic):
        raw = raw.item()
    try:
        return _convert(hint, raw)
    except ValueError as error:
        value = repr(raw) if isinstance(raw, str) else str(raw)
        raise UserError(f"{key} is {describe_type(hint)}, not {value}" + (f": {error}" if str(error) else "")) from None


def is_table(hint: Any) -> bool:
    """Whether the values of a type are nested dicts, whose entries are settings of their own."""
    return get_origin(hint) is Mapping


def read_literal(raw: Any) -> Any:
    """The value that a text on the command line stands for, as in TOML or JSON; other text stands for itself.

    >>> read_literal("20"), read_literal("true"), read_literal("[1, 2]"), read_literal("None"), read_literal("Pick-v0")
    (20, True, [1, 2], None, 'Pick-v0')
    """
    if not isinstance(raw, str):
        return raw
    text = raw.strip()
    if text.lower() in ("none", "null"):
        return None
    if text in ("True", "False"):
        return text == "True"
    for read, source in ((tomllib.loads, f"value = {text}"), (json.loads, f'{{"value": {text}}}')):
        try:
            value = read(source)["value"]
            json.dumps(value)
        except (ValueError, TypeError, RecursionError):  # a TypeError: a date
            continue
        return value
    return raw


def describe_type(hint: Any) -> str:
    """Describe the values of a type in words.

    >>> describe_type(Literal["auto", "cpu"] | None)
    'auto or cpu, or none'
    """
    origin, arguments = get_origin(hint), get_args(hint)
    if origin is Literal:
        *most, last = map(_plain, arguments)
        return f"{', '.join(most)} or {last}" if most else last
    if origin in (Union, types.UnionType):
        return " or ".join(describe_type(arm) for arm in arguments if arm is not types.NoneType) + (
            ", or none" if types.NoneType in arguments else ""
        )
    if origin is Mapping:
        return "a table of numbers, text, true or false, lists and tables, whose keys are names without dots"
    if origin is tuple:
        return (
            f"a list of {len(arguments)} values"
            if Ellipsis not in arguments
            else f"a list, each {describe_type(arguments[0])}"
        )
    names = {
        int: "a whole number such as 400_000, 100k or 1e5",
        float: "a number",
        bool: "true or false",
        str: "text",
        Path: "a path",
    }
    return names[hint]


def field_hints(cls: type[Any]) -> dict[str, Any]:
    """Name -> type of each field of a dataclass."""
    hints = get_type_hints(cls)
    return {field.name: hints[field.name] for field in dataclasses.fields(cls)}


@cache
def field_help(cls: type[Any]) -> dict[str, str]:
    """Name -> docstring below each field, on one line; empty without a docstring, or if there is no source file."""
    help_texts = dict.fromkeys(field_hints(cls), "")
    for base in reversed(cls.__mro__[:-1]):
        try:
            body = ast.parse(textwrap.dedent(inspect.getsource(base))).body[0]
        except (OSError, TypeError):
            continue
        assert isinstance(body, ast.ClassDef)
        for field, below in zip(body.body, body.body[1:], strict=False):
            if not (isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name)):
                continue
            if (
                isinstance(below, ast.Expr)
                and isinstance(below.value, ast.Constant)
                and isinstance(below.value.value, str)
            ):
                help_texts[field.target.id] = " ".join(below.value.value.split())
    return help_texts


def field_defaults(cls: type[Any]) -> dict[str, Any]:
    """Name -> default of each field that has one."""
    defaults = {}
    for field in dataclasses.fields(cls):
        if field.default is not dataclasses.MISSING:
            defaults[field.name] = field.default
        elif field.default_factory is not dataclasses.MISSING:
            defaults[field.name] = field.default_factory()
    return defaults


def as_toml(title: str, settings: Iterable[Any]) -> str:
    """Format settings as a commented TOML file, which can be used as a preset.

    Args:
        title: comment at the top of the file.
        settings: in the order of the file, each a :class:`mcurl.config.settings.Setting`.
    """
    lines, section = [f"# {line}" for line in title.splitlines()], ""
    for setting in settings:
        table, _, name = setting.key.rpartition(".")
        if table != section:
            section = table
            lines += ["", f"[{table}]"]
        lines += textwrap.wrap(
            _toml_comment(setting),
            110,
            initial_indent="# ",
            subsequent_indent="#   ",
            break_long_words=False,
        )
        lines.append(f"# {name} = none" if setting.value is None else f"{name} = {_toml(setting.value)}")
    return "\n".join(lines) + "\n"


def _toml_comment(setting: Any) -> str:
    """Help, choices, unit and default of a setting."""
    notes = [setting.help.rstrip(".") + "."]
    if get_origin(setting.hint) is Literal:
        notes.append(f"One of: {', '.join(map(_plain, get_args(setting.hint)))}.")
    if setting.meta.unit:
        notes.append(f"Unit: {setting.meta.unit}.")
    if setting.value != setting.default:
        notes.append(f"Default: {_plain(setting.default)}.")
    return " ".join(notes)


def _toml(value: Any) -> str:
    """Format a value as TOML."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int):
        return f"{value:_}"
    if isinstance(value, float):
        return repr(value)
    if isinstance(value, tuple | list):
        return f"[{', '.join(map(_toml, value))}]"
    if isinstance(value, Mapping):
        return f"{{{', '.join(f'{json.dumps(key)} = {_toml(entry)}' for key, entry in value.items())}}}"
    if value is None:
        return '"none"'
    return json.dumps(str(value), ensure_ascii=False)


def _convert(hint: Any, raw: Any) -> Any:
    """Convert a value to a type. Raises ValueError, with advice as its text if there is any."""
    origin, arguments = get_origin(hint), get_args(hint)
    if origin is Literal:
        return _choose(arguments, raw)
    if origin in (Union, types.UnionType):
        return _first_that_fits(arguments, raw)
    if origin is tuple:
        return _tuple(arguments, raw)
    if origin is Mapping:
        return _table(raw)
    if hint is bool:
        return raw if isinstance(raw, bool) else _bool(raw)
    if hint is int:
        return _integer(raw)
    if hint is float:
        return _float(raw)
    if hint in (str, Path):
        if not isinstance(raw, str | Path):
            raise ValueError
        return hint(raw)
    raise TypeError(f"settings of the type {hint} cannot be read")


_OTHER_VALUES = {"gpu": "cuda", "float32": "fp32", "bfloat16": "bf16"}
"""Common names of values -> their names here."""


def _choose(choices: tuple[Any, ...], raw: Any) -> Any:
    for choice in choices:
        if _plain(choice) == _plain(raw):
            return choice
    name = _plain(raw)
    advice = suggest(_OTHER_VALUES.get(name, name), map(_plain, choices))
    raise ValueError(advice if advice.startswith("did") else "")


def _first_that_fits(arms: tuple[Any, ...], raw: Any) -> Any:
    if types.NoneType in arms and (raw is None or _plain(raw) == "none"):
        return None
    for arm in arms:
        try:
            return _convert(arm, raw)
        except (ValueError, TypeError):
            continue
    raise ValueError


def _tuple(arguments: tuple[Any, ...], raw: Any) -> tuple[Any, ...]:
    if isinstance(raw, str):
        raw = [part.strip() for part in raw.strip().strip("[]()").split(",") if part.strip()]
    if not isinstance(raw, list | tuple):
        raise ValueError
    hints = arguments[:1] * len(raw) if Ellipsis in arguments else arguments
    if len(hints) != len(raw):
        raise ValueError
    return tuple(map(_convert, hints, raw))


def _table(raw: Any) -> dict[str, Any]:
    if not isinstance(raw, Mapping) or not all(isinstance(key, str) and "." not in key for key in raw):
        raise ValueError
    try:
        json.dumps(raw)
    except (TypeError, ValueError):
        raise ValueError from None
    return {key: _table(value) if isinstance(value, Mapping) else value for key, value in raw.items()}


def _integer(raw: Any) -> int:
    number = _decimal(raw) if not isinstance(raw, float) else Decimal(raw)
    if not number.is_finite() or number.adjusted() > 26 or number != number.to_integral_value():
        raise ValueError
    return int(number)


def _float(raw: Any) -> float:
    if isinstance(raw, float):
        return raw
    if isinstance(raw, str) and raw[-1:].lower() not in _SUFFIXES:
        return float(raw.strip())
    return float(_decimal(raw))


def _decimal(raw: Any) -> Decimal:
    """The exact number in a text such as 400_000, 1e5, 100k, 2M or 1G."""
    if isinstance(raw, bool) or not isinstance(raw, int | str):
        raise ValueError
    text = str(raw).strip().lower()
    factor = _SUFFIXES.get(text[-1:], 1)
    try:
        return Decimal(text[: -1 if factor > 1 else None]) * factor
    except ArithmeticError:  # not a number, or out of Decimal's range
        raise ValueError from None


def _bool(raw: Any) -> bool:
    if not isinstance(raw, str) or raw.strip().lower() not in _BOOLS:
        raise ValueError
    return _BOOLS[raw.strip().lower()]


def _plain(value: Any) -> str:
    """Format a value as on the command line."""
    return str(value).lower() if isinstance(value, bool) or value is None else str(value)
