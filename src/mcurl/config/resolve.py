"""Resolution of a run's settings to a tree of frozen dataclasses.

The docstring below a field is its help text. Values come from these layers; later layers override earlier ones:

1. the defaults of the classes;
2. ``[defaults]`` and ``[task.<name>]`` of ``experiments/<suite>.toml``;
3. ``[agent.<name>]`` and ``[agent.<name>.task.<task>]`` of ``experiments/<suite>.toml``;
4. the method's values in ``methods.toml``;
5. ``[method.<name>]`` of ``experiments/<suite>.toml``;
6. a preset;
7. single values from the command line.

In the last two, an unknown setting, and one that the run does not use, is an error.
"""

from __future__ import annotations

import dataclasses
import json
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
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
from mcurl.config.tasks import Method, flatten, methods, read_experiments, read_toml
from mcurl.errors import UserError, suggest
from mcurl.run.names import (
    MAX_SEED,
    MAX_STEPS,
    UNNAMED_AGENTS,
    append_changes,
    changed_settings,
    check_form,
    check_settings,
    run_name,
    user_modules,
)

# The registries are imported inside functions, because the packages of agents and objectives import config.fields.
if TYPE_CHECKING:
    from mcurl.agents.base import Agent
    from mcurl.objectives.base import Objective
    from mcurl.registry import Pluggable
    from mcurl.runtime.device import ComputeSettings

ENV_STEPS = 100_000
"""Default budget, unless the suite's file or the user sets another."""
BUDGET_HELP = "Budget in simulator steps, action repeat included (Atari: frames). The schedules' horizon."
TOP = ("task", "method", "agent", "seed", "env_steps")
"""What stands above the sections."""
_BUDGET = Meta(low=1)
_ARGUMENTS = {"task": "TASK", "method": "--method", "agent": "--agent", "seed": "--seed", "env.task": "TASK"}
"""Names that look like settings, but are arguments of the command -> the argument."""

_OTHER_NAMES = {"lr": "learning_rate", "gamma": "discount", "tau": "critic_tau", "bs": "batch_size"}
"""Common names of settings -> their names here."""


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
        return cls._build(top, Parts.of(top["task"], top["method"], top["agent"]), flat)

    @classmethod
    def _build(cls, top: Mapping[str, Any], parts: Parts, flat: Mapping[str, Any]) -> Self:
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
        for key, raw in _collect_tables(flat, known).items():
            if key not in known:
                raise UserError(f"there is no setting {key}: {suggest(key, known)}")
            section, _, name = key.partition(".")
            values[section][name] = read_value(key, known[key].hint, raw)
            known[key].meta.check(key, values[section][name])
        sections = {name: _construct(name, section, values[name]) for name, section in parts.sections.items()}
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
        return sections | {name: _load(path) for name, path in FIXED_SECTIONS.items() if name != "replay"}


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


def resolve(
    task: str,
    method: str = "mcurl",
    *,
    agent: str | None = None,
    seed: int = 1,
    env_steps: str | int | None = None,
    preset: str | None = None,
    overrides: Iterable[str] = (),
    values: Mapping[str, Any] | None = None,
) -> TrainSettings:
    """Resolve the settings of a run from the arguments of the command line or of :func:`mcurl.train`.

    Args:
        task: ``suite/name`` in any spelling.
        method: a name in ``methods.toml``, or ``module:Class``.
        agent: sac, rainbow, drqv2, or ``module:Class``; None: the default agent for the task.
        seed: seed of all random numbers, at least 0.
        env_steps: the budget (``"100k"``); None: the suite's default.
        preset: a name in the suite's file, or the path of a TOML file.
        overrides: ``key=value``; for repeated keys the last value is used.
        values: ``section.name`` -> value, or nested tables; after the overrides.

    Raises:
        UserError: a name or a setting is unknown, invalid, or without effect; the message suggests the nearest choice.
    """
    from mcurl.agents.registry import AGENTS

    suite, name = envs.parse_task(task)
    find_method(method)  # checked first, because the default agent may need an environment
    experiments = read_experiments(suite)
    explicit = dict([*_preset(preset, experiments).items(), *map(_override, overrides), *flatten(values or {})])
    agent = agent or _default_agent(experiments, suite, name, explicit)
    # What needs no PyTorch is checked before the classes of the run are imported, which takes seconds.
    AGENTS.check(agent)
    if env_steps is not None:
        _BUDGET.check("env_steps", read_value("env_steps", int, env_steps))
    if not 0 <= seed <= MAX_SEED:
        raise UserError(f"the seed must be an integer from 0 to {MAX_SEED}, not {seed}")
    parts = Parts.of(suite, method, agent)
    _check_method(parts, method, f"{suite}/{name}")
    known = known_settings(parts)
    merged: dict[str, Any] = {}
    for layer in _layers(experiments, parts, method, name):
        merged |= {key: value for key, value in layer.items() if key in known}
    for key in explicit:
        _require_in_use(_setting_of(key, known), parts, f"--method {method} on {suite}/{name}")
    merged |= explicit
    suite_budget = merged.pop("env_steps", ENV_STEPS)
    budget = read_value("env_steps", int, suite_budget if env_steps is None else env_steps)
    _BUDGET.check("env_steps", budget)
    if budget > MAX_STEPS:
        raise UserError(f"env_steps must be at most {MAX_STEPS:,}, not {budget:,}")
    top = {"task": f"{suite}/{name}", "method": method, "agent": agent, "seed": seed, "env_steps": budget}
    settings = TrainSettings._build(top, parts, merged)
    for key in explicit:
        _require_effect(_setting_of(key, known), settings)
    return settings


def resolve_env(task: str, values: Mapping[str, Any]) -> Any:
    """The settings of an environment outside a run: of its suite and task, as methods on pixels use it.

    Args:
        task: ``suite/name`` in any spelling.
        values: name -> value in the section ``env``, such as ``{"action_repeat": 4}``.

    Raises:
        UserError: the task or a setting is unknown, or a value is invalid.
    """
    suite, name = envs.parse_task(task)
    cls, experiments = envs.settings_class(suite), read_experiments(suite)
    layers = _layer(experiments, "defaults") | _layer(experiments, "task", name)
    merged = {key.partition(".")[2]: value for key, value in layers.items() if key.startswith("env.")} | dict(values)
    hints = {key: hint for key, hint in field_hints(cls).items() if key != "task"}
    for key, raw in merged.items():
        if key not in hints:
            raise UserError(f"{suite} has no setting env.{key}: {suggest(key, hints)}")
        merged[key] = read_value(f"env.{key}", hints[key], raw)
        field_meta(cls)[key].check(f"env.{key}", merged[key])
    return _construct("env", cls, {"task": name, **merged})


def describe(settings: TrainSettings) -> list[Setting]:
    """All settings that have an effect in a run, with their values, in the order of the sections."""
    used = []
    for key, setting in known_settings(settings.parts).items():
        section, _, name = key.rpartition(".")
        owner = settings.sections[section] if section else settings
        if _unused_reason(setting, settings.parts) is None and _has_effect(setting, owner):
            used.append(dataclasses.replace(setting, value=getattr(owner, name)))
    return used


def known_settings(parts: Parts) -> dict[str, Setting]:
    """Full name -> description of each setting of a run's sections."""
    known = {"env_steps": Setting("env_steps", int, ENV_STEPS, BUDGET_HELP, _BUDGET)}
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
        choice = f"did you mean --method rl-only (the RL loss alone), or --agent {agent}?"
        raise UserError(f"{name} is an agent, not a method: {choice}")


def _setting_of(key: str, known: Mapping[str, Setting]) -> str:
    """The setting that a key belongs to: ``env.kwargs`` for ``env.kwargs.config.duration``, else the key itself."""
    parent = ".".join(key.split(".")[:2])
    return parent if parent in known and is_table(known[parent].hint) else key


def _collect_tables(flat: Mapping[str, Any], known: Mapping[str, Setting]) -> dict[str, Any]:
    """``section.name`` -> value, with the entries of a table collected in a nested dict; later ones win.

    Raises:
        UserError: a key goes on below a value that is not a table.
    """
    values: dict[str, Any] = {}
    for key, value in flat.items():
        parent = _setting_of(key, known)
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


def _default_agent(experiments: Mapping[str, Any], suite: str, task: str, explicit: Mapping[str, Any]) -> str:
    """The agent in the suite's file, for the task or for the suite; else the default for the task's action space.

    The action space may depend on the user's settings of the environment.
    """
    from mcurl.agents.registry import agent_for

    agent = experiments.get("task", {}).get(task, {}).get("agent") or experiments.get("defaults", {}).get("agent")
    return agent or agent_for(envs.suite_module(suite).action_space(_env_settings(suite, task, explicit)))


def _env_settings(suite: str, task: str, explicit: Mapping[str, Any]) -> Any:
    """The settings of the environment, from the user's values; those of other sections are left out."""
    cls = envs.settings_class(suite)
    hints = field_hints(cls)
    known = {f"env.{name}": Setting(f"env.{name}", hint, None, "", Meta()) for name, hint in hints.items()}
    values = {
        key.partition(".")[2]: read_value(key, known[key].hint, value)
        for key, value in _collect_tables(explicit, known).items()
        if key in known and key != "env.task"
    }
    return _construct("env", cls, values | {"task": task})


def _check_method(parts: Parts, method: str, task: str) -> None:
    """Raise UserError if a method does not support the agent or the suite."""
    from mcurl.agents.registry import AGENTS

    if parts.method.agents and not set(parts.method.agents) & set(AGENTS.names_of(parts.agent)):
        labels = " or ".join(AGENTS.get(name).label for name in parts.method.agents)
        raise UserError(f"--method {method} is for {labels}; {parts.agent.label} learns {task}. {parts.method.reason}")
    for key in parts.method.values:
        if key.startswith("env.") and key not in known_settings(parts):
            raise UserError(f"--method {method} needs the setting {key}, which {parts.suite} does not have")


def _layers(experiments: Mapping[str, Any], parts: Parts, method: str, task: str) -> list[dict[str, Any]]:
    """The layers of values from the suite's and the methods' files, in order of increasing precedence.

    A user-defined objective also has the values of its base classes' methods, and a user-defined agent those of its
    base classes.
    """
    from mcurl.agents.registry import AGENTS
    from mcurl.objectives.registry import OBJECTIVES

    inherited = OBJECTIVES.names_of(parts.objective) if parts.objective is not None else []
    names = dict.fromkeys([*inherited, method])
    agents = AGENTS.names_of(parts.agent)
    return [
        _layer(experiments, "defaults"),
        _layer(experiments, "task", task),
        *(_layer(experiments, "agent", *path) for name in agents for path in ((name,), (name, "task", task))),
        dict(parts.method.values),
        *(_layer(experiments, "method", name) for name in names),
    ]


def _layer(experiments: Mapping[str, Any], *path: str) -> dict[str, Any]:
    table: Any = experiments
    for name in path:
        table = table.get(name, {})
    return {key: value for key, value in flatten(table) if key != "agent"}


def _require_in_use(key: str, parts: Parts, run: str) -> None:
    """Raise UserError if a setting of the user is unknown, or not used by the run."""
    known = known_settings(parts)
    if key in known:
        if reason := _unused_reason(known[key], parts):
            raise UserError(f"{key} has no effect here: {reason}")
        return
    if key in _ARGUMENTS:
        option = _ARGUMENTS[key]
        example = f", e.g. `{option} 2`" if key == "seed" else f" ({option})"
        raise UserError(f"{key} is not a setting: pass it on the command line{example}, or as an argument in Python")
    section, _, name = key.partition(".")
    other = _other_sections(parts).get(section)
    if other is not None and name in field_hints(other.Settings):
        why = f"it is a setting of {other.label}, and {parts.agent.label} learns {run}"
        sections = f"the run's sections are {', '.join(parts.sections)}"
        raise UserError(f"{key} has no effect here: {why}; {sections}")
    choices = [name for name, setting in known.items() if _unused_reason(setting, parts) is None]
    meant = f"{section if name else parts.agent.section}.{_OTHER_NAMES.get(name or section)}"
    advice = f"did you mean {meant}?" if meant in choices else suggest(key, choices)
    raise UserError(f"there is no setting {key}: {advice}")


def _unused_reason(setting: Setting, parts: Parts) -> str | None:
    """Why a run does not use a setting; None if it does."""
    if setting.meta.needs_contrast and parts.objective is None:
        return "the method has no contrastive loss"
    return parts.agent.unused_settings.get(setting.key)


def _other_sections(parts: Parts) -> dict[str, type[Pluggable]]:
    """Section -> class of the registered agents and objectives that a run does not use."""
    from mcurl.agents.registry import AGENTS
    from mcurl.objectives.registry import OBJECTIVES

    classes: list[type[Pluggable]] = [*map(AGENTS.get, AGENTS), *map(OBJECTIVES.get, reversed(list(OBJECTIVES)))]
    return {cls.section: cls for cls in classes if cls.section not in parts.sections}


def _require_effect(key: str, settings: TrainSettings) -> None:
    """Raise UserError if a setting that the user changed has no effect, because of the value of another one."""
    section, _, name = key.partition(".")
    setting = known_settings(settings.parts)[key]
    if not name or setting.meta.only_if is None:
        return
    owner = settings.sections[section]
    if getattr(owner, name) != setting.default and not _has_effect(setting, owner):
        other, values = setting.meta.only_if
        choices = " or ".join(f"{section}.{other}={str(value).lower()}" for value in values)
        current = str(getattr(owner, other)).lower()
        raise UserError(f"{key} has no effect with {section}.{other}={current}: it needs {choices}")


def _has_effect(setting: Setting, owner: Any) -> bool:
    """Whether the condition ``only_if`` of a setting holds in an object of its class."""
    return setting.meta.only_if is None or getattr(owner, setting.meta.only_if[0]) in setting.meta.only_if[1]


def _construct(section: str, cls: type[Any], values: Mapping[str, Any]) -> Any:
    """An object of a settings class; its UserErrors name the section."""
    try:
        return cls(**values)
    except UserError as error:
        raise UserError(f"{section}.{error}") from error


def _load(path: str) -> type[Any]:
    """The class of ``module:Class``."""
    module, _, name = path.partition(":")
    cls: type[Any] = getattr(import_module(module), name)
    return cls


def _override(text: str) -> tuple[str, Any]:
    """Split ``key=value``. The value of an entry of a table, as env.kwargs.width, is read as in TOML."""
    key, equals, value = text.partition("=")
    if not equals:
        raise UserError(f"--set takes key=value, not {text!r}")
    return key.strip(), read_literal(value) if key.count(".") > 1 else value.strip()


def _preset(preset: str | None, experiments: Mapping[str, Any]) -> dict[str, Any]:
    """``section.name`` -> value of a preset in the suite's file, or of a TOML file."""
    if preset is None:
        return {}
    named = experiments.get("preset", {})
    if preset in named:
        return dict(flatten(named[preset]))
    if not Path(preset).exists():
        advice = suggest(preset, named) if named else "the suite has no presets"
        raise UserError(f"there is no preset {preset!r}, neither a file nor a name: {advice}")
    values = flatten(read_toml(Path(preset)))
    # TOML has no null.
    return {key: None if key.count(".") > 1 and value == "none" else value for key, value in values}
