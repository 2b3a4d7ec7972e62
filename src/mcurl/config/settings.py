"""The settings of a run: a tree of frozen dataclasses, their description, and their JSON values.

The docstring below a field is its help text.
"""

from __future__ import annotations

import dataclasses
import json
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING, Any, Self

from mcurl import envs
from mcurl.config.fields import (
    Meta,
    field_defaults,
    field_help,
    field_hints,
    field_meta,
    is_table,
    read_literal,
    read_value,
)
from mcurl.config.sections import CheckpointSettings, EvaluationSettings, ReplaySettings
from mcurl.config.tasks import Method, flatten, methods
from mcurl.errors import UserError, argument, suggest
from mcurl.run.names import (
    UNNAMED_AGENTS,
    append_changes,
    changed_settings,
    check_form,
    check_meaning,
    check_settings,
    run_name,
    user_modules,
)

# The registries are imported inside functions, because the packages of agents and objectives import config.fields.
if TYPE_CHECKING:
    from mcurl.agents.base import Agent
    from mcurl.objectives.base import Objective
    from mcurl.runtime.device import ComputeSettings

ENV_STEPS = 100_000
"""Default budget, unless the suite's file or the user sets another."""
BUDGET_HELP = "Budget in simulator steps, action repeat included (Atari: frames). The schedules' horizon."
TOP = ("task", "method", "agent", "seed", "env_steps")
"""What stands above the sections."""
ENV_STEPS_META = Meta(low=1)


@dataclass(frozen=True)
class TrainSettings:
    """Everything that a run depends on, except the code and the machine."""

    task: str
    """``suite/name``, in its canonical spelling."""
    method: str
    """A name in ``methods.toml``, or a user-defined objective as ``module:Class``."""
    agent: str
    """sac, rainbow, drqv2, or a user-defined agent as ``module:Class``."""
    seed: int
    """Seed of all random numbers of the run."""
    env_steps: int
    """Budget in simulator steps, action repeat included (Atari: frames). The schedules' horizon."""
    env: Any
    """``DmcSettings``, ``AtariSettings``, ``ToySettings`` or ``GymSettings``."""
    replay: ReplaySettings
    agent_settings: Any
    """An instance of the agent's class ``Settings``."""
    objective_settings: Any | None
    """An instance of the objective's class ``Settings``; None: only the RL loss."""
    evaluation: EvaluationSettings
    checkpoint: CheckpointSettings
    compute: ComputeSettings

    @property
    def parts(self) -> Parts:
        """The classes of the task's suite, the method and the agent."""
        return Parts.of(self.task, self.method, self.agent)

    @property
    def name(self) -> str:
        """Default name of the run: the method's, followed by the settings that differ from the defaults."""
        return append_changes(run_name(self.to_json()), self.changed)

    def named(self, name: str | None) -> tuple[str, str]:
        """The name and label of the run.

        Args:
            name: chosen by the user; None or empty: the default name.

        Raises:
            UserError: the name says another method or another setting, see :func:`mcurl.run.names.check_meaning`.
        """
        if not name or name == self.name:
            return self.name, self.label
        try:
            check_meaning(name, self.to_json(), methods())
        except UserError as error:
            raise UserError(f"{error}: choose another name, or leave it out for {self.name}") from error
        return name, name

    @property
    def label(self) -> str:
        """Default name in tables and plots: the method's, after the agent's where no task has that by default."""
        parts = self.parts
        method = parts.method.label
        if self.agent not in UNNAMED_AGENTS:
            method = f"{parts.agent.label}, {method}"
        return ", ".join([method, *(f"{key}={str(value).lower()}" for key, value in self.changed.items())])

    @property
    def changed(self) -> dict[str, Any]:
        """The settings that change what is learned, and differ from the defaults of the task, method and agent."""
        # The defaults are what a run without changes resolves to.
        from mcurl.config.resolve import resolve

        defaults = resolve(self.task, self.method, agent=self.agent, seed=self.seed)
        return changed_settings(self.to_json(), defaults.to_json())

    @property
    def sections(self) -> dict[str, Any]:
        """Name -> settings of each section of the run, in the order of :func:`describe`."""
        values = {"env": self.env, "replay": self.replay, self.parts.agent.section: self.agent_settings}
        if self.parts.objective is not None:
            values[self.parts.objective.section] = self.objective_settings
        return values | {"evaluation": self.evaluation, "checkpoint": self.checkpoint, "compute": self.compute}

    def to_json(self) -> dict[str, Any]:
        """Convert to JSON values; :meth:`from_json` restores an equal object."""
        top = {name: getattr(self, name) for name in TOP}
        sections = {name: dataclasses.asdict(section) for name, section in self.sections.items()}
        return dict(json.loads(json.dumps(top | sections, default=str)))

    @classmethod
    def from_json(cls, values: Mapping[str, Any], *, environment: bool = True) -> Self:
        """Inverse of :meth:`to_json`. Settings that are missing, as in files of older versions, have their defaults.

        No module is imported because a file names it: one with a user's class or environment must be imported already.

        Args:
            values: the JSON values.
            environment: whether the environment will be made. If not, its module need not be imported.

        Raises:
            UserError: a setting is unknown, or its value is invalid, or a module is not imported.
        """
        try:
            top = {name: values[name] for name in TOP}
            check_settings(values)
            check_form("agent", top["agent"])
        except (KeyError, UserError) as error:
            reason = f"{error.args[0]} is missing" if isinstance(error, KeyError) else error
            raise UserError(f"these are not the settings of a run: {reason}") from error
        for module in user_modules(values, environment=environment):
            if module not in sys.modules:
                raise UserError(
                    f"this run needs the module {module}, whose code would run: if you trust it, add "
                    f"--import {module} (in Python: import it first)"
                )
        sections = {name: section for name, section in values.items() if isinstance(section, dict)}
        flat = {key: value for key, value in flatten(sections) if key != "env.task"}
        return cls.build(top, Parts.of(top["task"], top["method"], top["agent"]), flat)

    @classmethod
    def build(cls, top: Mapping[str, Any], parts: Parts, flat: Mapping[str, Any]) -> Self:
        """Construct the settings of all sections.

        Args:
            top: the fields that belong to no section.
            parts: the classes of the run.
            flat: ``section.name`` -> value, as text or as a TOML or JSON value.

        Raises:
            UserError: a setting is unknown, or its value is invalid.
        """
        known = known_settings(parts)
        values: dict[str, dict[str, Any]] = {name: {} for name in parts.sections}
        values["env"]["task"] = top["task"].partition("/")[2]
        for key, raw in collect_tables(flat, known).items():
            if key not in known:
                raise UserError(f"there is no setting {key}: {suggest(key, known)}")
            section, _, name = key.partition(".")
            values[section][name] = read_value(key, known[key].hint, raw)
            known[key].meta.check(key, values[section][name])
        sections = {name: construct(name, section, values[name]) for name, section in parts.sections.items()}
        agent = sections.pop(parts.agent.section)
        objective = sections.pop(parts.objective.section) if parts.objective is not None else None
        return cls(**top, **sections, agent_settings=agent, objective_settings=objective)


@dataclass(frozen=True)
class Parts:
    """The classes of a run, from the names of its task, method and agent."""

    suite: str
    method: Method
    agent: type[Agent]
    objective: type[Objective] | None

    @classmethod
    def of(cls, task: str, method: str, agent: str) -> Parts:
        """Look up the classes. Raises UserError for an unknown name, and if two sections have the same name."""
        from mcurl.agents.registry import AGENTS
        from mcurl.objectives.registry import OBJECTIVES

        definition = find_method(method)
        objective = OBJECTIVES.get(definition.objective) if definition.objective is not None else None
        parts = cls(task.partition("/")[0], definition, AGENTS.get(agent), objective)
        names = [section.section for section in (parts.agent, parts.objective) if section is not None]
        for name in names:
            if name in FIXED_SECTIONS or name == "env" or name in TOP or names.count(name) > 1:
                raise UserError(f"the section name {name!r} is already used: set another `section` in the class")
        return parts

    @property
    def sections(self) -> dict[str, type[Any]]:
        """Name -> settings class of each section of the run."""
        sections = {"env": envs.settings_class(self.suite), "replay": ReplaySettings}
        sections[self.agent.section] = self.agent.Settings
        if self.objective is not None:
            sections[self.objective.section] = self.objective.Settings
        return sections | {name: load_class(path) for name, path in FIXED_SECTIONS.items() if name != "replay"}


FIXED_SECTIONS = {
    "replay": "mcurl.config.sections:ReplaySettings",
    "evaluation": "mcurl.config.sections:EvaluationSettings",
    "checkpoint": "mcurl.config.sections:CheckpointSettings",
    "compute": "mcurl.runtime.device:ComputeSettings",
}
"""The sections that all runs share -> ``module:Class`` of their settings."""


@dataclass(frozen=True)
class Setting:
    """The description of one setting, for help texts and listings."""

    key: str
    """Full name, such as ``sac.batch_size``."""
    hint: Any
    """Its type."""
    default: Any
    """Default of its class, before experiments and methods change it."""
    help: str
    """Help text, on one line."""
    meta: Meta
    """Range, unit, and conditions."""
    value: Any = None
    """Value in a run, if any."""


def describe(settings: TrainSettings) -> list[Setting]:
    """All settings that have an effect in a run, with their values, in the order of the sections."""
    used = []
    for key, setting in known_settings(settings.parts).items():
        section, _, name = key.rpartition(".")
        owner = settings.sections[section] if section else settings
        if unused_reason(setting, settings.parts) is None and has_effect(setting, owner):
            used.append(dataclasses.replace(setting, value=getattr(owner, name)))
    return used


def known_settings(parts: Parts) -> dict[str, Setting]:
    """Full name -> description of each setting of a run's sections."""
    known = {"env_steps": Setting("env_steps", int, ENV_STEPS, BUDGET_HELP, ENV_STEPS_META)}
    for section, cls in parts.sections.items():
        defaults, help_, meta = field_defaults(cls), field_help(cls), field_meta(cls)  # type: ignore[arg-type]
        for name, hint in field_hints(cls).items():
            if (section, name) != ("env", "task"):  # the task is an argument of the command
                key = f"{section}.{name}"
                known[key] = Setting(key, hint, defaults.get(name), help_[name], meta[name])
    return known


def find_method(name: str) -> Method:
    """The method of a name in ``methods.toml``, or of ``module:Class``. Raises UserError for an unknown name."""
    from mcurl.objectives.registry import OBJECTIVES

    if ":" in name:
        return Method(OBJECTIVES.get(name).label, name, {}, (), "")
    if name not in methods():
        _refuse_agent(name)
        hint = "a user-defined objective is named MODULE:CLASS"
        raise UserError(f"unknown method {name!r}: {suggest(name, methods())}; {hint}")
    return methods()[name]


def _refuse_agent(name: str) -> None:
    """Raise UserError if a method's name is that of an agent."""
    from mcurl.agents.registry import AGENTS

    if name.lower() in AGENTS:
        agent = name.lower()
        choice = f"did you mean {argument('method', 'rl-only')} (the RL loss alone), or {argument('agent', agent)}?"
        raise UserError(f"{name} is an agent, not a method: {choice}")


def setting_of(key: str, known: Mapping[str, Setting]) -> str:
    """The setting that a key belongs to: ``env.kwargs`` for ``env.kwargs.config.duration``, else the key itself."""
    parent = ".".join(key.split(".")[:2])
    return parent if parent in known and is_table(known[parent].hint) else key


def collect_tables(flat: Mapping[str, Any], known: Mapping[str, Setting]) -> dict[str, Any]:
    """``section.name`` -> value, with the entries of a table collected in a nested dict; later ones win.

    Raises:
        UserError: a key goes on below a value that is not a table.
    """
    values: dict[str, Any] = {}
    for key, value in flat.items():
        parent = setting_of(key, known)
        if parent not in known or not is_table(known[parent].hint):
            values[key] = value
        elif key == parent:
            values[parent] = read_value(key, known[key].hint, read_literal(value))
        else:
            table = values.setdefault(parent, {})
            *path, last = key[len(parent) + 1 :].split(".")
            for name in path:
                table = table.setdefault(name, {})
                if not isinstance(table, dict):
                    raise UserError(f"{key} cannot be set: {name} has the value {table!r}")
            table[last] = value
    return values


def unused_reason(setting: Setting, parts: Parts) -> str | None:
    """Why a run does not use a setting; None if it does."""
    if setting.meta.needs_contrast and parts.objective is None:
        return "the method has no contrastive loss"
    return parts.agent.unused_settings.get(setting.key)


def has_effect(setting: Setting, owner: Any) -> bool:
    """Whether the condition ``only_if`` of a setting holds in an object of its class."""
    return setting.meta.only_if is None or getattr(owner, setting.meta.only_if[0]) in setting.meta.only_if[1]


def construct(section: str, cls: type[Any], values: Mapping[str, Any]) -> Any:
    """An object of a settings class; its UserErrors name the section."""
    try:
        return cls(**values)
    except UserError as error:
        raise UserError(f"{section}.{error}") from error


def load_class(path: str) -> type[Any]:
    """The class of ``module:Class``."""
    module, _, name = path.partition(":")
    cls: type[Any] = getattr(import_module(module), name)
    return cls
