"""The reference pages of the site, generated from the code: command line, settings, Python."""

from __future__ import annotations

import argparse
import os
import re
from collections.abc import Iterator
from typing import Any

from mcurl import envs
from mcurl.agents.registry import AGENTS
from mcurl.config.fields import describe_type, field_defaults, field_help, field_hints, field_meta
from mcurl.config.settings import BUDGET_HELP, ENV_STEPS, FIXED_SECTIONS, load_class
from mcurl.config.tasks import flatten, methods, read_experiments
from mcurl.objectives.registry import OBJECTIVES
from mcurl.parsers import build_parsers

API = {
    "The face": ["mcurl"],
    "Contracts": [
        *("mcurl.objectives.base", "mcurl.agents.base", "mcurl.replay.augment", "mcurl.replay.batch"),
        *("mcurl.config.fields", "mcurl.run.logger", "mcurl.registry", "mcurl.envs"),
    ],
    "Methods": [
        *("mcurl.objectives.masked", "mcurl.objectives.contrast", "mcurl.objectives.sequence"),
        *("mcurl.objectives.mask", "mcurl.objectives.schedules"),
        *("mcurl.agents.sac", "mcurl.agents.rainbow", "mcurl.agents.drqv2"),
    ],
    "Networks": [
        *("mcurl.networks.encoders", "mcurl.networks.transformer", "mcurl.networks.heads", "mcurl.networks.ema"),
    ],
    "In other agents": [
        *("mcurl.integrations", "mcurl.integrations.learner", "mcurl.integrations.windows"),
        *("mcurl.integrations.augment", "mcurl.integrations.optim"),
        *("mcurl.integrations.sb3", "mcurl.integrations.torchrl"),
    ],
    "Reports": ["mcurl.report.contents:report", "mcurl.report.files:write", "mcurl.report.store:read"],
}
"""Heading -> modules of the Python reference, in the order of the page; ``module:name`` is one name of a module."""


def pages() -> Iterator[tuple[str, str]]:
    """File name and Markdown of each page."""
    yield "reference/commands.md", commands()
    yield "reference/settings.md", settings()
    yield "reference/api.md", api()


def commands() -> str:
    """The command line, from its parsers."""
    os.environ["COLUMNS"] = "88"  # the width that argparse wraps usages to
    parser, parsers = build_parsers()
    lines = ["# Command line", "", f"```text\n{parser.epilog}```", ""]
    lines += ["`mcurl --version` prints the version, `mcurl COMMAND --help` what is below.", ""]
    for name, command in parsers.items():
        lines += [f"## mcurl {name}", "", _plain(command.description or ""), ""]
        lines += [f"```text\n{command.format_usage()}```", ""]
        for action in command._actions:
            other = isinstance(action, argparse._HelpAction | argparse._SubParsersAction)
            if not other and action.help != argparse.SUPPRESS:
                lines += [f"`{_invocation(action)}`", f": {_plain(action.help or '')}", ""]
    return "\n".join(lines)


def settings() -> str:
    """Every setting of every section, from the fields of the settings classes."""
    lines = [
        "# Settings",
        "",
        "`mcurl settings TASK --method NAME` prints the settings of a run with the values that hold there, as TOML. "
        "`--set KEY=VALUE` and `--preset FILE` change them. The defaults below are those of the classes; a suite, a "
        "task, an agent or a method may have its own, which are named where they apply to all of it.",
        "",
        "`env_steps`",
        f": {_markup(BUDGET_HELP)} An argument: `--env-steps`. Default {ENV_STEPS:,}.",
        "",
    ]
    for title, section, cls in _sections():
        lines += [f"## {title}", "", _markup(_summary(cls)), ""]
        for key, text in _settings(section, cls):
            lines += [f"`{key}`", f": {text}", ""]
    return "\n".join(lines)


def api() -> str:
    """The Python reference: names from the modules, text from their docstrings."""
    lines = ["# Python", "", "The guide is [From Python](../python.md).", ""]
    for heading, modules in API.items():
        lines += [f"## {heading}", ""]
        for entry in modules:
            module, _, names = entry.partition(":")
            lines += [f"### {module}", "", "```{eval-rst}", f".. automodule:: {module}", f"   :members: {names}"]
            if module == "mcurl":
                lines.append("   :imported-members:")
            lines += ["```", ""]
    return "\n".join(lines)


def _sections() -> Iterator[tuple[str, str, type[Any]]]:
    """Title, name and class of each section of settings."""
    for suite in envs.SUITES:
        yield f"env: {suite}", "env", envs.settings_class(suite)
    for name in AGENTS:
        agent = AGENTS.get(name)
        yield agent.section, agent.section, agent.Settings
    seen = set()
    for name in OBJECTIVES:
        objective = OBJECTIVES.get(name)
        if objective.section not in seen:
            yield objective.section, objective.section, objective.Settings
        seen.add(objective.section)
    for name, path in FIXED_SECTIONS.items():
        yield name, name, load_class(path)


def _settings(section: str, cls: type[Any]) -> Iterator[tuple[str, str]]:
    """Full name and description of each setting of a section."""
    defaults, help_, meta = field_defaults(cls), field_help(cls), field_meta(cls)
    elsewhere = _other_defaults(cls)
    for name, hint in field_hints(cls).items():
        if (section, name) == ("env", "task"):
            continue
        key = f"{section}.{name}"
        kind = describe_type(hint).replace(describe_type(int), "a whole number")
        facts = [f"Default {_value(defaults.get(name))}", kind]
        if meta[name].bounded:
            facts.append(_range(meta[name]))
        if meta[name].unit:
            facts.append(f"in {meta[name].unit}")
        if meta[name].needs_contrast:
            facts.append("with a contrastive loss only")
        if (condition := meta[name].only_if) is not None:
            choices = " or ".join(f"`{section}.{condition[0]}={_plain_value(value)}`" for value in condition[1])
            facts.append(f"with {choices} only")
        others = [f"{where} {_value(value)}" for where, value in elsewhere.get(key, {}).items()]
        own = f" *Elsewhere: {'; '.join(others)}.*" if others else ""
        yield key, f"{_markup(help_[name])} *{'; '.join(facts)}.*{own}"


def _other_defaults(cls: type[Any]) -> dict[str, dict[str, Any]]:
    """Full name -> where -> value, of the defaults of suites and methods."""
    values: dict[str, dict[str, Any]] = {}
    for suite in envs.SUITES:
        if cls.__module__ in envs.SUITES.values() and cls.__module__ != envs.SUITES[suite]:
            continue  # the environments of another suite
        experiments = read_experiments(suite)
        layers = {suite: experiments.get("defaults", {})}
        layers |= {f"{suite}, `--agent {name}`": table for name, table in experiments.get("agent", {}).items()}
        layers |= {f"{suite}, `--method {name}`": table for name, table in experiments.get("method", {}).items()}
        for where, table in layers.items():
            for key, value in flatten({name: part for name, part in table.items() if name != "task"}):
                values.setdefault(key, {})[where] = value
    for name, method in methods().items():
        for key, value in method.values.items():
            values.setdefault(key, {})[f"`--method {name}`"] = value
    return values


def _range(meta: Any) -> str:
    if meta.high < float("inf"):
        return f"{meta.low:g} to {meta.high:g}"
    return f"above {meta.above:g}" if meta.above > -float("inf") else f"at least {meta.low:g}"


def _value(value: Any) -> str:
    text = _plain_value(value)
    return f"`{text}`" if text else "empty"


def _plain_value(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) or value is None else str(value)


def _invocation(action: argparse.Action) -> str:
    """An option or argument with its value, such as ``--seed N``."""
    value = action.metavar or (action.dest if not action.option_strings else "")
    parts = [*action.option_strings] or [str(value)]
    return f"{', '.join(parts)} {value}" if action.option_strings and action.nargs != 0 and value else ", ".join(parts)


def _summary(cls: type[Any]) -> str:
    return " ".join((cls.__doc__ or "").split("\n\n")[0].split())


def _markup(text: str) -> str:
    """Markdown of a docstring: reStructuredText's roles and double backticks become code; the rest is escaped."""
    code = re.sub(r":\w+:`~?([^`]+)`|``([^`]+)``", lambda match: f"`{match[1] or match[2]}`", text)
    return _plain(code)


def _plain(text: str) -> str:
    """Markdown in which only code is markup."""
    parts = re.split(r"(`[^`]*`)", text)
    return "".join(part if part.startswith("`") else re.sub(r"([\\*_<>\[\]|#])", r"\\\1", part) for part in parts)
