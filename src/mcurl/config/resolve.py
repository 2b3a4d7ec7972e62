"""The run's settings: one tree of frozen dataclasses, filled in layers. Each setting has one default, in the class of
the part that it sets.

Layers, the later over the earlier: the classes' defaults; the method; ``experiments/<suite>.toml``: ``[defaults]``,
    ``[task.<name>]``, ``[method.<name>]``; a
preset; single values from the command line. A key that no part knows, or whose part the run does not use, is an error
wherever a user wrote it.
"""

from __future__ import annotations

import dataclasses
import json
import tomllib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple, Self

from mcurl import envs
from mcurl.agents.rainbow import RainbowSettings
from mcurl.agents.sac import SacSettings
from mcurl.config.fields import check_limits, field_defaults, field_help, field_hints, read_value
from mcurl.errors import UserError, suggest
from mcurl.objectives.contrast import CurlSettings
from mcurl.objectives.masked import MCurlSettings
from mcurl.objectives.registry import objective_class
from mcurl.runtime.device import ComputeSettings

EXPERIMENTS = Path(__file__).parent / "experiments"
ENV_STEPS = 100_000
"""The budget where neither the suite nor the user says another."""


@dataclass(frozen=True)
class ReplaySettings:
    """The memory of what happened."""

    capacity: int = 100_000
    """Frames that are kept; the oldest give way."""


@dataclass(frozen=True)
class EvaluationSettings:
    """When the policy is tried out, apart from training."""

    every: int = 20_000
    """Simulator steps between evaluations; 0: only at the end."""
    episodes: int = 10
    """Episodes in an evaluation."""
    final_episodes: int = 0
    """Episodes in the one at the end of the run, whose mean is the score; 0: as many as in the others."""
    parallel: int = 10
    """Episodes played side by side, by a policy that sees them as one batch."""


@dataclass(frozen=True)
class CheckpointSettings:
    """When the run is saved, so that it can go on from there."""

    every: int = 20_000
    """Simulator steps between checkpoints; 0: only at the end and at Ctrl-C."""


class Method(NamedTuple):
    """What a name after --method means."""

    section: str | None
    """The settings that it brings with it."""
    values: Mapping[str, Any]
    """Settings that it changes."""
    agents: tuple[str, ...] = ("sac", "rainbow")
    """The agents that it goes with."""


@dataclass(frozen=True)
class OwnSettings:
    """Stands for the ``Settings`` of an objective of one's own, which ``--method module:Class`` names."""


METHODS = {
    "mcurl": Method("mcurl", {}),
    "curl": Method("curl", {}),
    "none": Method(None, {}),
    "none-nocrop": Method(None, {"sac.random_crop": False}, agents=("sac",)),
}
SECTIONS: dict[str, type[Any]] = {
    "replay": ReplaySettings,
    "sac": SacSettings,
    "rainbow": RainbowSettings,
    "mcurl": MCurlSettings,
    "curl": CurlSettings,
    "own": OwnSettings,
    "evaluation": EvaluationSettings,
    "checkpoint": CheckpointSettings,
    "compute": ComputeSettings,
}
"""Every section but ``env``, whose class depends on the suite; that of ``own`` depends on the method."""
NEEDS = {
    **dict.fromkeys(
        ("mcurl.encoder_rate", "mcurl.contrast_max_grad_norm", "curl.encoder_rate", "compute.overlap"), "sac"
    ),
    "mcurl.features": "rainbow",
}
"""Settings of shared sections that mean something to one agent only."""
_ALWAYS = ("replay", "evaluation", "checkpoint", "compute")


@dataclass(frozen=True)
class TrainSettings:
    """Everything that a run depends on, beside the code and the machine. A part that the run does not use is None."""

    task: str
    """``suite/name``, as the suite spells it."""
    method: str
    """mcurl, curl, none, none-nocrop, or an objective of one's own as module:Class."""
    seed: int
    """All random numbers of the run come from it."""
    env_steps: int
    """Budget in simulator steps, action repeat included (Atari: frames). The schedules' horizon."""
    env: Any
    """``DmcSettings``, ``AtariSettings``, ``ToySettings`` or ``GymSettings``."""
    replay: ReplaySettings
    sac: SacSettings | None
    rainbow: RainbowSettings | None
    mcurl: MCurlSettings | None
    curl: CurlSettings | None
    own: Any | None
    evaluation: EvaluationSettings
    checkpoint: CheckpointSettings
    compute: ComputeSettings

    def to_json(self) -> dict[str, Any]:
        """As JSON values; :meth:`from_json` gives an equal object."""
        return dict(json.loads(json.dumps(dataclasses.asdict(self), default=str)))

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Self:
        """Read what :meth:`to_json` gave. A setting that did not exist yet has its default.

        Raises:
            UserError: a key that this version does not know, or a value that it does not take.
        """
        try:
            top = {name: values[name] for name in ("task", "method", "seed", "env_steps")}
        except KeyError as error:
            raise UserError(f"these are not the settings of a run: {error.args[0]} is missing") from error
        sections = {name: section for name, section in values.items() if isinstance(section, dict)}
        flat = {key: value for key, value in _flatten(sections) if key != "env.task"}
        return cls._build(top, [name for name in SECTIONS if name in sections or name in _ALWAYS], flat)

    @classmethod
    def _build(cls, top: Mapping[str, Any], active: Iterable[str], flat: Mapping[str, Any]) -> Self:
        """One object of each active section's class, from values that are not yet read."""
        suite, method = _suite(top["task"]), top["method"]
        known = known_keys(suite, method)
        values: dict[str, dict[str, Any]] = {
            "env": {"task": top["task"].partition("/")[2]},
            **{name: {} for name in active},
        }
        for key, raw in flat.items():
            if key not in known:
                raise UserError(f"there is no setting {key}: {suggest(key, known)}")
            section, _, name = key.partition(".")
            values[section][name] = read_value(key, known[key].hint, raw)
        check_limits({f"{section}.{name}": value for section, own in values.items() for name, value in own.items()})
        sections = {name: _construct(name, _section_class(name, suite, method), own) for name, own in values.items()}
        return cls(**{**dict.fromkeys(SECTIONS), **top, **sections})


@dataclass(frozen=True)
class Setting:
    """One setting of a run, for people."""

    key: str
    """Full name, such as ``sac.batch_size``."""
    hint: Any
    default: Any
    """The class's own default."""
    help: str
    value: Any = None


def resolve(
    task: str,
    method: str = "mcurl",
    *,
    seed: int = 1,
    env_steps: str | int | None = None,
    preset: str | None = None,
    overrides: Iterable[str] = (),
) -> TrainSettings:
    """The settings of a run, from what a user typed.

    Args:
        task: ``suite/name`` in any spelling.
        env_steps: the budget (``"100k"``); None: the suite's own.
        preset: a name in the suite's file, or the path of a TOML file.
        overrides: ``key=value``, the last one wins.

    Raises:
        UserError: anything unknown or unfit, with the nearest that exists.
    """
    suite, name = envs.parse_task(task)
    means = _method(method)
    experiments = read_experiments(suite)
    agents = _agents(experiments, suite, name)
    if not set(agents) & set(means.agents):
        raise UserError(
            f"the method {method} is for {' or '.join(means.agents)}; {suite}/{name} is learned by {agents[0]}: use --method none"
        )
    active = _active(means, agents)
    merged: dict[str, Any] = {}
    for layer in (
        means.values,
        *(_layer(experiments, part) for part in ("defaults", f"task.{name}", f"method.{method}")),
    ):
        merged |= {key: value for key, value in layer.items() if _in_use(key, active)}
    for key, value in (*_preset(preset, experiments).items(), *map(_override, overrides)):
        _require_in_use(key, suite, method, active)
        merged[key] = value
    if seed < 0:
        raise UserError(f"the seed is a whole number from 0, not {seed}")
    wanted = merged.pop("env_steps", ENV_STEPS)
    budget = read_value("env_steps", int, wanted if env_steps is None else env_steps)
    check_limits({"env_steps": budget})
    top = {"task": f"{suite}/{name}", "method": method, "seed": seed, "env_steps": budget}
    return TrainSettings._build(top, active, merged)


def describe(settings: TrainSettings) -> list[Setting]:
    """Every setting that the run uses, with its value, default and help, in the order of the classes."""
    known = known_keys(_suite(settings.task), settings.method)
    active = [name for name in SECTIONS if getattr(settings, name) is not None]
    found = []
    for key, setting in known.items():
        section, _, name = key.rpartition(".")
        owner = getattr(settings, section) if section else settings
        if _in_use(key, active):
            found.append(dataclasses.replace(setting, value=getattr(owner, name)))
    return found


@cache
def known_keys(suite: str, method: str = "") -> Mapping[str, Setting]:
    """Every setting that a run of this suite may have, by its full name; with those of a method of one's own."""
    found = {"env_steps": Setting("env_steps", int, ENV_STEPS, field_help(TrainSettings)["env_steps"])}
    for section in ("env", *SECTIONS):
        cls = _section_class(section, suite, method)
        defaults, help_ = field_defaults(cls), field_help(cls)
        for name, hint in field_hints(cls).items():
            if (section, name) != ("env", "task"):  # The task is an argument of its own.
                found[f"{section}.{name}"] = Setting(f"{section}.{name}", hint, defaults.get(name), help_[name])
    return found


def task_names(suite: str) -> list[str]:
    """The tasks of a suite, or of a list of tasks such as ``dmc16``, as ``suite/name``. Raises UserError for an unknown
    one."""
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
            found = task_names(name)
            lines.append(f"{name:<8} {len(found):>4} tasks, such as {found[0]}, {found[-1]}")
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
    return _read_toml(path) if path.exists() else {}


def _construct(section: str, cls: type[Any], values: Mapping[str, Any]) -> Any:
    try:
        return cls(**values)
    except UserError as error:
        raise UserError(f"{section}.{error}") from error


def _suite(task: str) -> str:
    return task.partition("/")[0]


def _section_class(section: str, suite: str, method: str) -> type[Any]:
    if section == "own" and ":" in method:
        return objective_class(method).Settings
    return envs.settings_class(suite) if section == "env" else SECTIONS[section]


def _method(name: str) -> Method:
    """What a name after --method means. Raises UserError where it means nothing."""
    if ":" in name:
        objective_class(name)
        return Method("own", {})
    if name not in METHODS:
        raise UserError(f"unknown method {name!r}: {suggest(name, METHODS)}; one of your own is MODULE:CLASS")
    return METHODS[name]


def _agents(experiments: Mapping[str, Any], suite: str, task: str) -> tuple[str, ...]:
    """Which agents the run may need: what the suite's file says of the suite or the task; else the actions decide when
    the environment is made."""
    agent = experiments.get("task", {}).get(task, {}).get("agent") or experiments.get("defaults", {}).get("agent")
    return (agent,) if agent else ("sac", "rainbow")


def _active(method: Method, agents: tuple[str, ...]) -> list[str]:
    """Sections that the run uses, in order; ``env`` always is."""
    used = {*_ALWAYS, method.section, *(agent for agent in agents if agent in method.agents)}
    return [name for name in SECTIONS if name in used]


def _in_use(key: str, active: Iterable[str]) -> bool:
    active = ("env", "env_steps", *active)
    return key.partition(".")[0] in active and NEEDS.get(key, "env") in active


def _require_in_use(key: str, suite: str, method: str, active: list[str]) -> None:
    known = known_keys(suite, method)
    if key in ("task", "method", "seed", "env.task"):
        raise UserError(f"{key} is no setting: it is given as an argument of the command")
    if key not in known:
        raise UserError(f"there is no setting {key}: {suggest(key, [name for name in known if _in_use(name, active)])}")
    if not _in_use(key, active):
        why = (
            f"it is for {NEEDS[key]}"
            if key in NEEDS
            else f"with --method {method} on {suite} the settings are those of env, {', '.join(active)}"
        )
        raise UserError(f"{key} has no effect here: {why}")


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
        return dict(_flatten(named[preset]))
    if not Path(preset).exists():
        raise UserError(
            f"there is no preset {preset!r}, neither a file nor a name: {suggest(preset, named) if named else 'this suite has no named ones'}"
        )
    return dict(_flatten(_read_toml(Path(preset))))


def _layer(experiments: Mapping[str, Any], part: str) -> dict[str, Any]:
    section, _, name = part.partition(".")
    table = experiments.get(section, {})
    return {key: value for key, value in _flatten(table.get(name, {}) if name else table) if key != "agent"}


def _flatten(table: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in table.items():
        if isinstance(value, dict):
            yield from _flatten(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def _read_toml(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}") from error
    except ValueError as error:
        raise UserError(f"{path} is no TOML: {error}") from error
