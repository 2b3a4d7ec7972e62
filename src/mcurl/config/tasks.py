"""The experiments of the paper as TOML files: values for each suite, lists of tasks, and methods."""

from __future__ import annotations

import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from mcurl import envs, files
from mcurl.errors import UserError, suggest

EXPERIMENTS = Path(__file__).parent / "experiments"


@dataclass(frozen=True)
class Method:
    """A method: an objective and values of settings."""

    label: str
    """Name in tables and plots."""
    objective: str | None
    """Name of the contrastive objective; None: only the RL loss."""
    values: Mapping[str, Any]
    """``section.name`` -> value of the settings that the method changes."""
    agents: tuple[str, ...]
    """Names of the agents that it supports; empty: all agents."""
    reason: str
    """Why it supports only these agents."""


@cache
def methods() -> dict[str, Method]:
    """Name -> method, from ``methods.toml``."""
    return {name: _method(table) for name, table in read_toml(EXPERIMENTS / "methods.toml").items()}


def _method(table: Mapping[str, Any]) -> Method:
    values = dict(flatten({key: value for key, value in table.items() if isinstance(value, dict)}))
    agents = tuple(table.get("agents", ()))
    return Method(table["label"], table.get("objective"), values, agents, table.get("reason", ""))


def task_names(suite: str) -> list[str]:
    """The tasks of a suite, or of a list of tasks such as ``dmc16``, as ``suite/name``.

    Raises:
        UserError: the suite or list is unknown, or the suite's library is not installed.
    """
    lists = _task_lists()
    if suite in lists:
        return lists[suite]
    if suite not in envs.SUITES:
        raise UserError(f"unknown suite {suite!r}: {suggest(suite, [*envs.SUITES, *lists])}")
    return [f"{suite}/{task}" for task in envs.suite_module(suite).tasks()]


def task_overview() -> list[str]:
    """A line of text for each suite and each list of tasks."""
    lines = []
    for name in (*envs.SUITES, *_task_lists()):
        try:
            tasks = task_names(name)
            lines.append(f"{name:<8} {len(tasks):>4} tasks, such as {tasks[0]}, {tasks[-1]}")
        except UserError as error:
            lines.append(f"{name:<8}    – {error}")
    return lines


def _task_lists() -> dict[str, list[str]]:
    """Name -> tasks of each list in the suites' files."""
    return {
        name: [f"{suite}/{task}" for task in tasks]
        for suite in envs.SUITES
        for name, tasks in read_experiments(suite).get("lists", {}).items()
    }


def read_experiments(suite: str) -> dict[str, Any]:
    """The contents of ``experiments/<suite>.toml``; empty if there is no such file."""
    path = EXPERIMENTS / f"{suite}.toml"
    return read_toml(path) if path.exists() else {}


def read_toml(path: Path) -> dict[str, Any]:
    """Read a TOML file. Raises UserError if it cannot be read or is not TOML."""
    try:
        with path.open("rb") as file:  # may be a pipe, as in --preset <(...)
            data = file.read(files.JSON_BYTES + 1)
        if len(data) > files.JSON_BYTES:
            raise UserError(f"{path} has more than {files.JSON_BYTES:,} bytes")
        return tomllib.loads(data.decode("utf-8-sig"))
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}") from error
    except RecursionError:
        raise UserError(f"{path} is not TOML: it is nested too deeply") from None
    except ValueError as error:
        raise UserError(f"{path} is not TOML: {error}") from error


def flatten(table: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield ``section.name`` and value of each leaf of nested tables."""
    for name, value in table.items():
        # An empty table that is no section is a value, as in env.kwargs.config = {}.
        if isinstance(value, dict) and (value or prefix.count(".") < 2):
            yield from flatten(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value
