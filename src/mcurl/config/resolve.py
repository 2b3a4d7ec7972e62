"""A run's settings: one tree of frozen dataclasses, resolved before anything starts.

The docstring below a field is its help. Values come from these layers, later ones win: the classes' defaults;
``experiments/<suite>.toml``: ``[defaults]``, ``[task.<name>]``; the method's own values; ``[method.<name>]``; a preset;
single values from the command line. A key that no section knows, or whose section the run does not use, is an error
wherever a user wrote it.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from mcurl import envs
from mcurl.config.fields import Meta, field_defaults, field_help, field_hints, field_meta, read_value
from mcurl.config.sections import CheckpointSettings, EvaluationSettings, ReplaySettings
from mcurl.config.tasks import Method, flatten, methods, read_experiments, read_toml
from mcurl.errors import UserError, suggest

if TYPE_CHECKING:
    from mcurl.agents.base import Agent
    from mcurl.objectives.base import Objective
    from mcurl.registry import Pluggable
    from mcurl.runtime.device import ComputeSettings

ENV_STEPS = 100_000
"""The budget where neither the suite nor the user says another."""
BUDGET_HELP = "Budget in simulator steps, action repeat included (Atari: frames). The schedules' horizon."
TOP = ("task", "method", "agent", "seed", "env_steps")
"""What stands above the sections."""
_BUDGET = Meta(low=1)
_ARGUMENTS = {"task": "TASK", "method": "--method", "agent": "--agent", "seed": "--seed", "env.task": "TASK"}
"""What looks like a setting and is an argument of the command."""


@dataclass(frozen=True)
class TrainSettings:
    """Everything that a run depends on, beside the code and the machine."""

    task: str
    """``suite/name``, as the suite spells it."""
    method: str
    """A name in ``methods.toml``, or an objective of the user's as ``module:Class``."""
    agent: str
    """sac, rainbow, or an agent of the user's as ``module:Class``."""
    seed: int
    """All random numbers of the run come from it."""
    env_steps: int
    """Budget in simulator steps, action repeat included (Atari: frames). The schedules' horizon."""
    env: Any
    """``DmcSettings``, ``AtariSettings``, ``ToySettings`` or ``GymSettings``."""
    replay: ReplaySettings
    agent_settings: Any
    """Of the agent's class ``Settings``."""
    objective_settings: Any | None
    """Of the objective's class ``Settings``; None: the RL loss alone."""
    evaluation: EvaluationSettings
    checkpoint: CheckpointSettings
    compute: ComputeSettings

    @property
    def parts(self) -> Parts:
        """The classes behind the names."""
        return Parts.of(self.task, self.method, self.agent)

    @property
    def label(self) -> str:
        """Name in tables and plots: the method's, after the agent's where that is the user's own."""
        parts = self.parts
        return f"{parts.agent.label}, {parts.method.label}" if ":" in self.agent else parts.method.label

    @property
    def sections(self) -> dict[str, Any]:
        """Name -> settings of every section that the run uses, in the order of the file."""
        values = {"env": self.env, "replay": self.replay, self.parts.agent.section: self.agent_settings}
        if self.parts.objective is not None:
            values[self.parts.objective.section] = self.objective_settings
        return values | {"evaluation": self.evaluation, "checkpoint": self.checkpoint, "compute": self.compute}

    def to_json(self) -> dict[str, Any]:
        """As JSON values; :meth:`from_json` gives an equal object."""
        top = {name: getattr(self, name) for name in TOP}
        sections = {name: dataclasses.asdict(section) for name, section in self.sections.items()}
        return dict(json.loads(json.dumps(top | sections, default=str)))

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Self:
        """Read what :meth:`to_json` gave. A setting that did not exist yet has its default.

        Raises:
            UserError: a key that this version does not know, or a value that it does not take.
        """
        try:
            top = {name: values[name] for name in TOP}
        except KeyError as error:
            raise UserError(f"these are not the settings of a run: {error.args[0]} is missing") from error
        sections = {name: section for name, section in values.items() if isinstance(section, dict)}
        flat = {key: value for key, value in flatten(sections) if key != "env.task"}
        return cls._build(top, Parts.of(top["task"], top["method"], top["agent"]), flat)

    @classmethod
    def _build(cls, top: Mapping[str, Any], parts: Parts, flat: Mapping[str, Any]) -> Self:
        """One object of each section's class, from values that are not yet read."""
        known = known_settings(parts)
        values: dict[str, dict[str, Any]] = {name: {} for name in parts.sections}
        values["env"]["task"] = top["task"].partition("/")[2]
        for key, raw in flat.items():
            if key not in known:
                raise UserError(f"there is no setting {key}: {suggest(key, known)}")
            section, _, name = key.partition(".")
            values[section][name] = read_value(key, known[key].hint, raw)
            known[key].meta.check(key, values[section][name])
        built = {name: _construct(name, section, values[name]) for name, section in parts.sections.items()}
        agent = built.pop(parts.agent.section)
        objective = built.pop(parts.objective.section) if parts.objective is not None else None
        return cls(**top, **built, agent_settings=agent, objective_settings=objective)


@dataclass(frozen=True)
class Parts:
    """The classes that a task, a method and an agent name, and the sections that follow from them."""

    suite: str
    method: Method
    agent: type[Agent]
    objective: type[Objective] | None

    @classmethod
    def of(cls, task: str, method: str, agent: str) -> Parts:
        """Raises UserError where one of the names means nothing, or two sections have one name."""
        from mcurl.agents.registry import AGENTS
        from mcurl.objectives.registry import OBJECTIVES

        meaning = find_method(method)
        objective = OBJECTIVES.get(meaning.objective) if meaning.objective is not None else None
        parts = cls(task.partition("/")[0], meaning, AGENTS.get(agent), objective)
        names = [section.section for section in (parts.agent, parts.objective) if section is not None]
        for name in names:
            if name in FIXED_SECTIONS or name == "env" or name in TOP or names.count(name) > 1:
                raise UserError(f"the section {name!r} is taken: give the class another `section`")
        return parts

    @property
    def sections(self) -> dict[str, type[Any]]:
        """Name -> settings class, in the order of the file."""
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


@dataclass(frozen=True)
class Setting:
    """One setting of a run, for people."""

    key: str
    """Full name, such as ``sac.batch_size``."""
    hint: Any
    default: Any
    """The class's own default."""
    help: str
    meta: Meta
    value: Any = None


def resolve(
    task: str,
    method: str = "mcurl",
    *,
    agent: str | None = None,
    seed: int = 1,
    env_steps: str | int | None = None,
    preset: str | None = None,
    overrides: Iterable[str] = (),
) -> TrainSettings:
    """The settings of a run, from what a user typed.

    Args:
        task: ``suite/name`` in any spelling.
        method: a name in ``methods.toml``, or ``module:Class``.
        agent: sac, rainbow, or ``module:Class``; None: the one that learns the task's actions.
        env_steps: the budget (``"100k"``); None: the suite's own.
        preset: a name in the suite's file, or the path of a TOML file.
        overrides: ``key=value``, the last one wins.

    Raises:
        UserError: anything unknown or unfit, with the nearest valid choice.
    """
    suite, name = envs.parse_task(task)
    find_method(method)  # before the agent, for which an environment may have to be made
    experiments = read_experiments(suite)
    agent = agent or _default_agent(experiments, suite, name)
    parts = Parts.of(suite, method, agent)
    _check_method(parts, method, f"{suite}/{name}")
    known = known_settings(parts)
    merged: dict[str, Any] = {}
    for layer in _layers(experiments, parts, method, name):
        merged |= {key: value for key, value in layer.items() if key in known}
    explicit = dict([*_preset(preset, experiments).items(), *map(_override, overrides)])
    for key in explicit:
        _require_in_use(key, parts, f"--method {method} on {suite}/{name}")
    merged |= explicit
    if seed < 0:
        raise UserError(f"the seed is a whole number from 0, not {seed}")
    suite_budget = merged.pop("env_steps", ENV_STEPS)
    budget = read_value("env_steps", int, suite_budget if env_steps is None else env_steps)
    _BUDGET.check("env_steps", budget)
    top = {"task": f"{suite}/{name}", "method": method, "agent": agent, "seed": seed, "env_steps": budget}
    settings = TrainSettings._build(top, parts, merged)
    for key in explicit:
        _require_effect(key, settings)
    return settings


def describe(settings: TrainSettings) -> list[Setting]:
    """Every setting that has an effect in the run, with its value, default and help, in the order of the classes."""
    rows = []
    for key, row in known_settings(settings.parts).items():
        section, _, name = key.rpartition(".")
        owner = settings.sections[section] if section else settings
        if _unused(row, settings.parts) is None and _has_effect(row, owner):
            rows.append(dataclasses.replace(row, value=getattr(owner, name)))
    return rows


def known_settings(parts: Parts) -> dict[str, Setting]:
    """Every setting that a run of these parts may have, by its full name."""
    rows = {"env_steps": Setting("env_steps", int, ENV_STEPS, BUDGET_HELP, _BUDGET)}
    for section, cls in parts.sections.items():
        defaults, help_, meta = field_defaults(cls), field_help(cls), field_meta(cls)  # type: ignore[arg-type]
        for name, hint in field_hints(cls).items():
            if (section, name) != ("env", "task"):  # The task is an argument of its own.
                key = f"{section}.{name}"
                rows[key] = Setting(key, hint, defaults.get(name), help_[name], meta[name])
    return rows


def find_method(name: str) -> Method:
    """What a name after --method means. Raises UserError where it means nothing."""
    from mcurl.objectives.registry import OBJECTIVES

    if ":" in name:
        return Method(OBJECTIVES.get(name).label, name, {}, (), "")
    if name not in methods():
        raise UserError(f"unknown method {name!r}: {suggest(name, methods())}; one of your own is MODULE:CLASS")
    return methods()[name]


def _default_agent(experiments: Mapping[str, Any], suite: str, task: str) -> str:
    """What the suite's file says of the task or the suite; else the agent that learns the environment's actions."""
    from mcurl.agents.registry import agent_for

    agent = experiments.get("task", {}).get(task, {}).get("agent") or experiments.get("defaults", {}).get("agent")
    return agent or agent_for(envs.suite_module(suite).action_space(task))


def _check_method(parts: Parts, method: str, task: str) -> None:
    """Raise UserError, with the reason, where a method does not go with the agent or the suite."""
    from mcurl.agents.registry import AGENTS

    if parts.method.agents and not set(parts.method.agents) & set(AGENTS.names_of(parts.agent)):
        fitting = " or ".join(AGENTS.get(name).label for name in parts.method.agents)
        raise UserError(f"--method {method} is for {fitting}; {parts.agent.label} learns {task}. {parts.method.why}")
    for key in parts.method.values:
        if key.startswith("env.") and key not in known_settings(parts):
            raise UserError(f"--method {method} needs the setting {key}, which {parts.suite} does not have")


def _layers(experiments: Mapping[str, Any], parts: Parts, method: str, task: str) -> list[dict[str, Any]]:
    """The values that hold without the user, earliest first. A user's class has those of its parents' methods too."""
    from mcurl.objectives.registry import OBJECTIVES

    inherited = OBJECTIVES.names_of(parts.objective) if parts.objective is not None else []
    names = dict.fromkeys([*inherited, method])
    return [
        _layer(experiments, "defaults"),
        _layer(experiments, "task", task),
        dict(parts.method.values),
        *(_layer(experiments, "method", name) for name in names),
    ]


def _layer(experiments: Mapping[str, Any], *path: str) -> dict[str, Any]:
    table: Any = experiments
    for name in path:
        table = table.get(name, {})
    return {key: value for key, value in flatten(table) if key != "agent"}


def _require_in_use(key: str, parts: Parts, run: str) -> None:
    """Raise UserError, with the reason, where a key that the user set means nothing to the run."""
    known = known_settings(parts)
    if key in known:
        if why := _unused(known[key], parts):
            raise UserError(f"{key} has no effect here: {why}")
        return
    if key in _ARGUMENTS:
        option = _ARGUMENTS[key]
        example = f", e.g. `{option} 2`" if key == "seed" else f" ({option})"
        raise UserError(f"{key} is not a setting: pass it on the command line{example}")
    section, _, name = key.partition(".")
    other = _other_sections(parts).get(section)
    if other is not None and name in field_hints(other.Settings):
        used = f"{run} is learned by {parts.agent.label}; its sections are {', '.join(parts.sections)}"
        raise UserError(f"{key} is a setting of {other.label} and has no effect here: {used}")
    usable = [name for name, row in known.items() if _unused(row, parts) is None]
    raise UserError(f"there is no setting {key}: {suggest(key, usable)}")


def _unused(row: Setting, parts: Parts) -> str | None:
    """Why a setting means nothing to a run of these parts; None where it does."""
    if row.meta.needs_contrast and parts.objective is None:
        return "the method has no contrastive loss"
    return parts.agent.unused_settings.get(row.key)


def _other_sections(parts: Parts) -> dict[str, type[Pluggable]]:
    """Section -> class of the registered agents and objectives that this run does not use."""
    from mcurl.agents.registry import AGENTS
    from mcurl.objectives.registry import OBJECTIVES

    classes: list[type[Pluggable]] = [*map(AGENTS.get, AGENTS), *map(OBJECTIVES.get, reversed(list(OBJECTIVES)))]
    return {cls.section: cls for cls in classes if cls.section not in parts.sections}


def _require_effect(key: str, settings: TrainSettings) -> None:
    """Raise UserError where another setting leaves a value that the user changed without effect."""
    section, _, name = key.partition(".")
    row = known_settings(settings.parts)[key]
    if not name or row.meta.only_if is None:
        return
    owner = settings.sections[section]
    if getattr(owner, name) != row.default and not _has_effect(row, owner):
        other, values = row.meta.only_if
        choices = " or ".join(f"{section}.{other}={str(value).lower()}" for value in values)
        now = str(getattr(owner, other)).lower()
        raise UserError(f"{key} has no effect with {section}.{other}={now}: it needs {choices}")


def _has_effect(row: Setting, owner: Any) -> bool:
    return row.meta.only_if is None or getattr(owner, row.meta.only_if[0]) in row.meta.only_if[1]


def _construct(section: str, cls: type[Any], values: Mapping[str, Any]) -> Any:
    try:
        return cls(**values)
    except UserError as error:
        raise UserError(f"{section}.{error}") from error


def _load(path: str) -> type[Any]:
    module, _, name = path.partition(":")
    cls: type[Any] = getattr(import_module(module), name)
    return cls


def _override(text: str) -> tuple[str, str]:
    key, equals, value = text.partition("=")
    if not equals:
        raise UserError(f"--set takes key=value, not {text!r}")
    return key.strip(), value.strip()


def _preset(preset: str | None, experiments: Mapping[str, Any]) -> dict[str, Any]:
    if preset is None:
        return {}
    named = experiments.get("preset", {})
    if preset in named:
        return dict(flatten(named[preset]))
    if not Path(preset).exists():
        nearest = suggest(preset, named) if named else "this suite has no named ones"
        raise UserError(f"there is no preset {preset!r}, neither a file nor a name: {nearest}")
    return dict(flatten(read_toml(Path(preset))))
