"""The experiments of the paper as data: what each suite's TOML file says, lists of tasks, methods."""

from __future__ import annotations

import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from mcurl import envs
from mcurl.errors import UserError, suggest

EXPERIMENTS = Path(__file__).parent / "experiments"


@dataclass(frozen=True)
class Method:
    """What a name after --method means."""

    label: str
    """In tables and plots."""
    objective: str | None
    """Name of the contrastive objective; None: the RL loss alone."""
    values: Mapping[str, Any]
    """Settings that the method changes."""
    agents: tuple[str, ...]
    """The agents that it goes with; none: every agent."""
    why: str
    """Why it goes with these only."""


@cache
def methods() -> dict[str, Method]:
    """The methods by name, from ``methods.toml``."""
    return {name: _method(table) for name, table in read_toml(EXPERIMENTS / "methods.toml").items()}


def _method(table: Mapping[str, Any]) -> Method:
    values = dict(flatten({key: value for key, value in table.items() if isinstance(value, dict)}))
    agents = tuple(table.get("agents", ()))
    return Method(table["label"], table.get("objective"), values, agents, table.get("why", ""))


def task_names(suite: str) -> list[str]:
    """The tasks of a suite, or of a list of tasks such as ``dmc16``, as ``suite/name``.

    Raises:
        UserError: there is no such suite or list.
    """
    lists = _task_lists()
    if suite in lists:
        return lists[suite]
    if suite not in envs.SUITES:
        raise UserError(f"unknown suite {suite!r}: {suggest(suite, [*envs.SUITES, *lists])}")
    return [f"{suite}/{task}" for task in envs.suite_module(suite).tasks()]


def task_overview() -> list[str]:
    """A line for each suite and each list of tasks."""
    lines = []
    for name in (*envs.SUITES, *_task_lists()):
        try:
            tasks = task_names(name)
            lines.append(f"{name:<8} {len(tasks):>4} tasks, such as {tasks[0]}, {tasks[-1]}")
        except UserError as error:
            lines.append(f"{name:<8}    – {error}")
    return lines


def _task_lists() -> dict[str, list[str]]:
    return {
        name: [f"{suite}/{task}" for task in tasks]
        for suite in envs.SUITES
        for name, tasks in read_experiments(suite).get("lists", {}).items()
    }


def read_experiments(suite: str) -> dict[str, Any]:
    """What ``experiments/<suite>.toml`` says; nothing for a suite without one."""
    path = EXPERIMENTS / f"{suite}.toml"
    return read_toml(path) if path.exists() else {}


def read_toml(path: Path) -> dict[str, Any]:
    """A TOML file. Raises UserError where it cannot be read or is not TOML."""
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}") from error
    except ValueError as error:
        raise UserError(f"{path} is not TOML: {error}") from error


def flatten(table: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """``section.name`` and value of every leaf of nested tables."""
    for name, value in table.items():
        if isinstance(value, dict):
            yield from flatten(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value
