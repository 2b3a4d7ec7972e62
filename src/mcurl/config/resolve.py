"""Resolution of a run's settings to a tree of frozen dataclasses.

Values come from these layers; later layers override earlier ones:

1. the defaults of the classes;
2. ``[defaults]`` and ``[task.<name>]`` of ``experiments/<suite>.toml``;
3. ``[agent.<name>]`` and ``[agent.<name>.task.<task>]`` of ``experiments/<suite>.toml``;
4. the method's values in ``methods.toml``;
5. ``[method.<name>]`` of ``experiments/<suite>.toml``;
6. a preset;
7. single values from the command line.

In the last two, an unknown setting is an error; so is one of a part that the run does not have, and one whose declared
condition does not hold.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mcurl import envs
from mcurl.config.fields import Meta, field_hints, field_meta, read_literal, read_value
from mcurl.config.settings import (
    ENV_STEPS,
    ENV_STEPS_META,
    Parts,
    Setting,
    TrainSettings,
    collect_tables,
    construct,
    find_method,
    has_effect,
    known_settings,
    setting_of,
    unused_reason,
)
from mcurl.config.tasks import flatten, read_experiments, read_toml
from mcurl.errors import UserError, argument, suggest
from mcurl.run.names import MAX_SEED, MAX_STEPS

# The registries are imported inside functions, because the packages of agents and objectives import config.fields.
if TYPE_CHECKING:
    from mcurl.registry import Pluggable

_ARGUMENTS = {"task", "method", "agent", "seed", "env.task"}
"""Names that look like settings, but are arguments."""
_OTHER_NAMES = {"lr": "learning_rate", "gamma": "discount", "tau": "critic_tau", "bs": "batch_size"}
"""Common names of settings -> their names here."""


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
    given = list(flatten(values or {}))
    for key, count in Counter(key for key, _ in given).items():
        if count > 1:
            raise UserError(f"{key} is set twice, as a name with a dot and in a table: keep one of them")
    explicit = dict([*_preset(preset, experiments).items(), *map(_override, overrides), *given])
    agent = agent or _default_agent(experiments, suite, name, explicit)
    # What needs no PyTorch is checked before the classes of the run are imported, which takes seconds.
    AGENTS.check(agent)
    if env_steps is not None:
        ENV_STEPS_META.check("env_steps", read_value("env_steps", int, env_steps))
    seed = read_seed(seed)
    parts = Parts.of(suite, method, agent)
    _check_method(parts, method, f"{suite}/{name}")
    known = known_settings(parts)
    merged: dict[str, Any] = {}
    for layer in _layers(experiments, parts, method, name):
        merged |= {key: value for key, value in layer.items() if key in known}
    for key in explicit:
        _require_in_use(setting_of(key, known), parts, f"{argument('method', method)} on {suite}/{name}")
    merged |= explicit
    suite_budget = merged.pop("env_steps", ENV_STEPS)
    budget = read_value("env_steps", int, suite_budget if env_steps is None else env_steps)
    ENV_STEPS_META.check("env_steps", budget)
    if budget > MAX_STEPS:
        raise UserError(f"env_steps must be at most {MAX_STEPS:,}, not {budget:,}")
    top = {"task": f"{suite}/{name}", "method": method, "agent": agent, "seed": seed, "env_steps": budget}
    settings = TrainSettings.build(top, parts, merged)
    for key in explicit:
        _require_effect(setting_of(key, known), settings)
    return settings


def read_seed(seed: Any) -> int:
    """The seed as a Python int, also from NumPy's integers. Raises UserError if it is not an integer from 0."""
    number = -1 if isinstance(seed, bool | str) else int(read_value("seed", int, seed))
    if not 0 <= number <= MAX_SEED:
        raise UserError(f"the seed must be an integer from 0 to {MAX_SEED}, not {seed!r}")
    return number


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
    return construct("env", cls, {"task": name, **merged})


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
    for key in explicit:
        if key.startswith("env.") and key != "env.task" and setting_of(key, known) not in known:
            raise UserError(f"there is no setting {key}: {suggest(key, known)}")
    values = {
        key.partition(".")[2]: read_value(key, known[key].hint, value)
        for key, value in collect_tables(explicit, known).items()
        if key in known and key != "env.task"
    }
    return construct("env", cls, values | {"task": task})


def _check_method(parts: Parts, method: str, task: str) -> None:
    """Raise UserError if a method does not support the agent or the suite."""
    from mcurl.agents.registry import AGENTS

    if parts.method.agents and not set(parts.method.agents) & set(AGENTS.names_of(parts.agent)):
        labels = " or ".join(AGENTS.get(name).label for name in parts.method.agents)
        named = argument("method", method)
        raise UserError(f"{named} is for {labels}; {parts.agent.label} learns {task}. {parts.method.reason}")
    for key in parts.method.values:
        if key.startswith("env.") and key not in known_settings(parts):
            raise UserError(f"{argument('method', method)} needs the setting {key}, which {parts.suite} does not have")


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
        if reason := unused_reason(known[key], parts):
            raise UserError(f"{key} has no effect here: {reason}")
        return
    if key in _ARGUMENTS:
        how = "as the first argument" if key.endswith("task") else f"as {argument(key)}"
        raise UserError(f"{key} is not a setting: pass it {how}")
    section, _, name = key.partition(".")
    other = _other_sections(parts).get(section)
    if other is not None and name in field_hints(other.Settings):
        why = f"it is a setting of {other.label}, and {parts.agent.label} learns {run}"
        sections = f"the run's sections are {', '.join(parts.sections)}"
        raise UserError(f"{key} has no effect here: {why}; {sections}")
    if section == "env" and (suites := _suites_with(name.partition(".")[0])):
        raise UserError(f"{key} has no effect here: it is a setting of {' and '.join(suites)}, not of {parts.suite}/")
    choices = [name for name, setting in known.items() if unused_reason(setting, parts) is None]
    meant = f"{section if name else parts.agent.section}.{_OTHER_NAMES.get(name or section)}"
    advice = f"did you mean {meant}?" if meant in choices else suggest(key, choices)
    raise UserError(f"there is no setting {key}: {advice}")


def _suites_with(name: str) -> list[str]:
    """The suites with a setting of this name in the section ``env``, such as ``gym/``."""
    return [f"{suite}/" for suite in envs.SUITES if name != "task" and name in field_hints(envs.settings_class(suite))]


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
    if getattr(owner, name) != setting.default and not has_effect(setting, owner):
        other, values = setting.meta.only_if
        choices = " or ".join(f"{section}.{other}={str(value).lower()}" for value in values)
        current = str(getattr(owner, other)).lower()
        raise UserError(f"{key} has no effect with {section}.{other}={current}: it needs {choices}")


def _override(text: str) -> tuple[str, Any]:
    """Split ``key=value``. The value of an entry of a table, as env.kwargs.width, is read as in TOML."""
    key, equals, value = text.partition("=")
    if not equals or not key.strip():
        raise UserError(f"--set takes key=value, not {text!r}")
    return key.strip(), read_literal(value) if key.count(".") > 1 else value.strip()


def _preset(preset: str | None, experiments: Mapping[str, Any]) -> dict[str, Any]:
    """``section.name`` -> value of a preset in the suite's file, or of a TOML file."""
    if preset is None:
        return {}
    named = experiments.get("preset", {})
    if preset in named:
        return dict(flatten(named[preset]))
    if not preset or not Path(preset).exists():
        advice = suggest(preset, named) if named else "the suite has no presets"
        raise UserError(f"there is no preset {preset!r}, neither a file nor a name: {advice}")
    values = flatten(read_toml(Path(preset)))
    # TOML has no null.
    return {key: None if key.count(".") > 1 and value == "none" else value for key, value in values}
