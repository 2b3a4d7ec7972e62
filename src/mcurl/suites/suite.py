"""A suite: an experiment as data. Arms x tasks x seeds; one of each is a run.

A suite is a TOML file: one of ``data/*.toml``, or a user's own. docs/suites.md describes the format.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from mcurl import envs
from mcurl.config.fields import read_value
from mcurl.config.tasks import flatten, methods, read_toml, task_names
from mcurl.errors import UserError, suggest
from mcurl.run.names import check_meaning, check_name, user_modules

if TYPE_CHECKING:
    from mcurl.config.settings import TrainSettings

DATA = Path(__file__).parent / "data"
_KEYS = ("title", "source", "tasks", "seeds", "env_steps", "score_at", "settings", "arm")
_ARM_KEYS = ("label", "method", "agent", "settings")


@dataclass(frozen=True)
class Arm:
    """A method with settings, and a name of its own."""

    name: str
    """Name in run folders, results and plots. Different settings have different names."""
    label: str
    """Name for people, in tables and plots."""
    method: str
    """As for ``mcurl train --method``."""
    agent: str | None = None
    """As for ``mcurl train --agent``; None: the task's default agent."""
    overrides: tuple[str, ...] = ()
    """``key=value``, as for ``mcurl train --set``."""


@dataclass(frozen=True)
class Suite:
    """An experiment: arms x tasks x seeds."""

    name: str
    """Name of the file, without ``.toml``."""
    title: str
    """What it is, on one line."""
    source: str
    """Where it stands in the paper, or why it exists."""
    arms: tuple[Arm, ...]
    """The methods that are compared."""
    tasks: tuple[str, ...]
    """``suite/name``, in their canonical spelling."""
    seeds: tuple[int, ...]
    """Seeds of each arm on each task."""
    env_steps: int | None = None
    """Budget of a run in simulator steps; None: the task's default."""
    score_at: tuple[int, ...] = ()
    """Env steps at which scores are compared, the budget last; empty: the budget."""

    @classmethod
    def load(cls, name: str | Path) -> Self:
        """Load a suite.

        Args:
            name: the name of a suite of the package, or the path of a TOML file.

        Raises:
            UserError: there is no such suite, or the file does not describe one.
        """
        own = Path(name).suffix == ".toml"
        if not own and name not in suite_names():
            hint = "a suite of your own is the path of a TOML file"
            raise UserError(f"there is no suite {str(name)!r}: {suggest(str(name), suite_names())}; {hint}")
        path = Path(name) if own else DATA / f"{name}.toml"
        try:
            suite = cls._read(path.stem, read_toml(path))
            if not own:  # their names are canonical; looking them up would import the environments' libraries
                return suite
            tasks = dict.fromkeys("/".join(envs.parse_task(task)) for task in suite.tasks)
            return dataclasses.replace(suite, tasks=tuple(tasks))
        except UserError as error:
            raise UserError(str(error) if str(path) in str(error) else f"{path}: {error}") from error

    @classmethod
    def _read(cls, name: str, table: Mapping[str, Any]) -> Self:
        _check_keys(table, _KEYS, "a suite")
        seeds = _seeds(table.get("seeds"))
        budget = _env_steps("env_steps", table["env_steps"]) if "env_steps" in table else None
        score_at = _score_at(table.get("score_at", []), budget)
        common = _overrides(table.get("settings", {}))
        arms = tuple(_arm(arm, values, common) for arm, values in _table(table, "arm").items())
        _check_arms(arms)
        return cls(
            name=name,
            title=_text(table, "title", name),
            source=_text(table, "source", ""),
            arms=arms,
            tasks=tuple(dict.fromkeys(_tasks(table.get("tasks")))),
            seeds=seeds,
            env_steps=budget,
            score_at=score_at,
        )

    def runs(
        self,
        tasks: Sequence[str] | None = None,
        arms: Sequence[str] | None = None,
        seeds: Sequence[int] | None = None,
    ) -> list[SuiteRun]:
        """The runs: the first seed of all tasks and arms, then the next seed, so that all arms advance together.

        Args:
            tasks: only these tasks, in any spelling, with or without ``suite/``; None: all.
            arms: only the arms with these names; None: all.
            seeds: these seeds instead of the suite's, which may have other seeds; None: the suite's.

        Raises:
            UserError: the suite does not have a task or an arm.
        """
        chosen_arms = [self.arm(name) for name in arms] if arms is not None else self.arms
        chosen_tasks = [self._task(name) for name in tasks] if tasks is not None else self.tasks
        return [
            SuiteRun(self, arm, task, seed)
            for seed in dict.fromkeys(self.seeds if seeds is None else seeds)
            for task in dict.fromkeys(chosen_tasks)
            for arm in dict.fromkeys(chosen_arms)
        ]

    def budgets(self, task: str) -> tuple[int, ...]:
        """The budgets of the runs of a task in simulator steps, in ascending order.

        Raises:
            UserError: it depends on the settings, and one of them is invalid.
        """
        if self.env_steps is not None:
            return (self.env_steps,)
        return tuple(sorted({SuiteRun(self, arm, task, self.seeds[0]).env_steps for arm in self.arms}))

    def settings(self, task: str, arm: str) -> dict[str, Any]:
        """The settings of an arm on a task as JSON values. Raises UserError if one of them is invalid."""
        return SuiteRun(self, self.arm(arm), task, self.seeds[0]).settings.to_json()

    def arm(self, name: str) -> Arm:
        """The arm of a name. Raises UserError if there is none."""
        arms = {arm.name: arm for arm in self.arms}
        if name not in arms:
            raise UserError(f"{self.name} has no arm {name!r}: {suggest(name, arms)}")
        return arms[name]

    def _task(self, name: str) -> str:
        plain = {_plain(text): task for task in self.tasks for text in (task, task.partition("/")[2])}
        if _plain(name) not in plain:
            choices = [task.partition("/")[2] for task in self.tasks]
            raise UserError(f"{self.name} has no task {name!r}: {suggest(name, choices)}")
        return plain[_plain(name)]


@dataclass(frozen=True)
class SuiteRun:
    """One arm, task and seed of a suite."""

    suite: Suite
    arm: Arm
    task: str
    seed: int

    @property
    def name(self) -> str:
        """Task, arm and seed, on one line."""
        return f"{self.task} {self.arm.name} seed {self.seed}"

    @property
    def overrides(self) -> tuple[str, ...]:
        """The arm's settings, ``key=value``."""
        return self.arm.overrides

    @cached_property
    def settings(self) -> TrainSettings:
        """All settings. Raises UserError if a setting or a name is invalid."""
        from mcurl.config.resolve import resolve

        arm = self.arm
        try:
            return resolve(
                self.task,
                arm.method,
                agent=arm.agent,
                seed=self.seed,
                env_steps=self.suite.env_steps,
                overrides=arm.overrides,
            )
        except UserError as error:
            raise UserError(f"{self.name}: {error}") from error

    @property
    def env_steps(self) -> int:
        """The budget in simulator steps."""
        return self.suite.env_steps or self.settings.env_steps

    def folder(self, out: Path) -> Path:
        """The run folder below ``out``."""
        from mcurl.run.folder import run_folder

        return run_folder(out, {"task": self.task, "seed": self.seed, "method": self.arm.method}, self.arm.name)

    def arguments(self, out: Path, overrides: Iterable[str] = ()) -> list[str]:
        """The arguments of ``mcurl`` that start the run.

        Args:
            out: folder of all runs.
            overrides: values of settings for this machine, such as ``compute.threads=2``. The arm's come after them.
        """
        line = ["train", self.task, "--method", self.arm.method, "--name", self.arm.name, "--seed", str(self.seed)]
        line += ["--agent", self.arm.agent] if self.arm.agent else []
        line += ["--env-steps", str(self.suite.env_steps)] if self.suite.env_steps else []
        values = [*overrides, *self.overrides]
        return [*line, "--out", str(out), *(["--set", *values] if values else [])]

    def resume_arguments(self, out: Path) -> list[str]:
        """The arguments of ``mcurl`` that continue the run from its latest checkpoint."""
        modules = user_modules({"task": self.task, "method": self.arm.method, "agent": self.arm.agent})
        return ["resume", str(self.folder(out)), *(word for name in modules for word in ("--import", name))]


def check_runs(runs: Iterable[SuiteRun]) -> None:
    """Resolve the settings of runs.

    Raises:
        UserError: a setting or a name is invalid; or an arm is named after a method, but changes a setting.
    """
    for run in runs:
        default = run.settings.name
        if run.arm.name in methods() and run.arm.name != default:
            raise UserError(f"{run.name}: the arm changes settings, so it needs another name, such as {default}")
        try:
            check_meaning(run.arm.name, run.settings.to_json(), methods())
        except UserError as error:
            raise UserError(f"{run.name}: {error}; the arm needs another name, such as {default}") from error
        every = run.settings.evaluation.every
        for step in run.suite.score_at[:-1]:
            if not every or step % every:
                raise UserError(
                    f"{run.name} is never evaluated at {step:,} env steps, a score_at of {run.suite.name}: "
                    f"evaluation.every is {every:,}"
                )
    envs.release()


def suite_names() -> list[str]:
    """Names of the suites of the package, sorted."""
    return sorted(path.stem for path in DATA.glob("*.toml"))


def _check_arms(arms: Sequence[Arm]) -> None:
    """Raise UserError if there is no arm, or two cannot be told apart."""
    if not arms:
        raise UserError("there must be at least one [arm.NAME]")
    labels: dict[str, str] = {}
    contents: dict[Any, str] = {}
    folders: dict[str, str] = {}
    for arm in arms:
        if (other := labels.setdefault(arm.label, arm.name)) != arm.name:
            raise UserError(f"arm.{other} and arm.{arm.name} have the label {arm.label!r}: each needs its own")
        content = arm.method, arm.agent, frozenset(arm.overrides)
        if (other := contents.setdefault(content, arm.name)) != arm.name:
            raise UserError(f"arm.{other} and arm.{arm.name} have the same method, agent and settings")
        # Some file systems do not tell upper and lower case apart.
        if (other := folders.setdefault(arm.name.lower(), arm.name)) != arm.name:
            raise UserError(f"arm.{other} and arm.{arm.name} have the same name but for upper and lower case")


def _score_at(values: Any, budget: int | None) -> tuple[int, ...]:
    if not isinstance(values, list):
        raise UserError(f'score_at must be a list such as ["100k", "500k"], not {values!r}')
    score_at = tuple(_env_steps("score_at", value) for value in values)
    if list(score_at) != sorted(set(score_at)):
        raise UserError(f"score_at must be in ascending order, not {', '.join(map(str, score_at))}")
    if score_at and budget is None:
        raise UserError(f"score_at needs env_steps, with the last of its values: {score_at[-1]}")
    if score_at and score_at[-1] != budget:
        raise UserError(f"the last of score_at must be env_steps, {budget}, not {score_at[-1]}")
    return score_at


def _arm(name: str, table: Any, common: tuple[str, ...]) -> Arm:
    if not isinstance(table, dict):
        raise UserError(f"arm.{name} must be a table, [arm.{name}]")
    _check_keys(table, _ARM_KEYS, f"arm.{name}")
    check_name(name)
    try:
        method, label = _text(table, "method"), _text(table, "label", name)
        agent = _text(table, "agent") if "agent" in table else None
        return Arm(name, label, method, agent, (*common, *_overrides(table.get("settings", {}))))
    except UserError as error:
        raise UserError(f"arm.{name}: {error}") from error


def _overrides(table: Any) -> tuple[str, ...]:
    """Nested tables of settings as ``section.name=value``."""
    if not isinstance(table, dict):
        raise UserError("settings must be a table, such as settings.mcurl.mask_rate = 0.3")
    if "env_steps" in table:
        raise UserError("env_steps is no setting of an arm: arms are compared at one budget, env_steps of the suite")
    return tuple(f"{key}={str(value).lower() if isinstance(value, bool) else value}" for key, value in flatten(table))


def _tasks(value: Any) -> Iterator[str]:
    """The tasks of a list of names, each a task or the name of a list of tasks."""
    names = [value] if isinstance(value, str) else value
    if not isinstance(names, list) or not names or not all(isinstance(name, str) for name in names):
        raise UserError('tasks must be names of tasks or of lists of tasks, such as ["dmc/cartpole-swingup", "dmc16"]')
    for name in names:
        yield from [name] if "/" in name else task_names(name)


def _check_keys(table: Mapping[str, Any], known: Sequence[str], where: str) -> None:
    for key in table:
        if key not in known:
            raise UserError(f"{where} has no {key!r}: {suggest(key, known)}")


def _table(table: Mapping[str, Any], key: str) -> dict[str, Any]:
    value = table.get(key, {})
    if not isinstance(value, dict):
        raise UserError(f"{key} must be a table")
    return value


def _text(table: Mapping[str, Any], key: str, default: str | None = None) -> str:
    value = table.get(key, default)
    if not isinstance(value, str):
        raise UserError(f"{key} is missing" if value is None else f"{key} must be text, not {value!r}")
    text = " ".join(value.split())
    if not text.isprintable() or (not text and default != ""):
        raise UserError(f"{key} must be a line of text, not {value!r}")
    return text


def _env_steps(key: str, value: Any) -> int:
    number = read_value(key, int, value)
    if number < 1:
        raise UserError(f"{key} must be at least 1, not {number}")
    return int(number)


def _seeds(values: Any) -> tuple[int, ...]:
    valid = isinstance(values, list) and all(type(value) is int and value >= 0 for value in values)
    if not valid or not values or len(set(values)) < len(values):
        found = "" if values is None else f", not {values!r}"
        raise UserError(f"seeds must be different whole numbers from 0, such as [1, 2, 3]{found}")
    return tuple(values)


def _plain(name: str) -> str:
    return name.lower().replace("_", "-")
