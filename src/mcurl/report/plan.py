"""What a report compares: the arms of a suite, or all runs of a benchmark."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache, partial
from typing import Any, Protocol

from mcurl.errors import UserError
from mcurl.published import atari_random_and_human
from mcurl.published.scores import BUDGETS
from mcurl.report.runs import benchmark_of
from mcurl.report.scores import RunScores, changed_from, distinct_labels, sort_names
from mcurl.run.names import run_name

TITLES = {"atari100k": "Atari 100k", "dmc": "DMControl", "atari": "Atari"}
"""Benchmark -> its name for people."""
FEWEST = 3
"""The fewest seeds with which a mean has a band, and with which the best of a row is set in bold."""


class SuiteArm(Protocol):
    """An arm as ``mcurl.suites`` has it: what is trained."""

    @property
    def name(self) -> str: ...
    @property
    def label(self) -> str: ...
    @property
    def method(self) -> str: ...
    @property
    def agent(self) -> str | None: ...


class SuiteLike(Protocol):
    """A suite, as ``mcurl.suites`` has it."""

    @property
    def name(self) -> str: ...
    @property
    def title(self) -> str: ...
    @property
    def source(self) -> str: ...
    @property
    def arms(self) -> Sequence[SuiteArm]: ...
    @property
    def tasks(self) -> Sequence[str]: ...
    @property
    def seeds(self) -> Sequence[int]: ...
    @property
    def score_at(self) -> Sequence[int]: ...
    def budgets(self, task: str) -> Sequence[int]: ...
    def settings(self, task: str, arm: str) -> Mapping[str, Any]: ...


@dataclass(frozen=True)
class ShownArm:
    """An arm as tables and plots show it: from a suite, or the runs of one name."""

    name: str
    label: str
    """No two arms of a plan have the same."""
    method: str
    """As ``RunScores.method``, so with the agent; it decides the colour, and the published scores beside it."""


@dataclass(frozen=True)
class Plan:
    """A comparison: a suite, as far as it belongs to one benchmark, or all runs of a benchmark."""

    key: str
    """Name of files and anchors."""
    title: str
    benchmark: str
    arms: tuple[ShownArm, ...]
    tasks: tuple[str, ...]
    """Tasks without their suite."""
    budgets: tuple[int, ...]
    """Env steps at which scores are compared, at least one."""
    expected: int | None = None
    """Number of seeds of each arm and task that the suite asks for; None: no suite."""
    source: str = ""
    """Where the suite comes from."""
    settings: Callable[[str, str], Mapping[str, Any]] | None = None
    """Task and name of an arm -> the settings that its runs must have; empty where they are unknown. None: any."""


class PlanScores:
    """The runs of a plan, found by task and arm.

    Args:
        plan: what is compared.
        runs: all runs. Left out are those of other benchmarks, tasks and arms, and those whose settings are not those
            of their arm.
    """

    def __init__(self, plan: Plan, runs: Iterable[RunScores]) -> None:
        self.plan = plan
        self.different: list[str] = []
        """The runs that have the name of an arm, but other settings, and which."""
        tasks, arms = set(plan.tasks), {arm.name: arm for arm in plan.arms}
        self._cells: dict[tuple[str, str], list[RunScores]] = {}
        for run in runs:
            name = run.name if plan.settings is None else run.first_name
            if run.benchmark != plan.benchmark or run.task not in tasks or name not in arms:
                continue
            if plan.settings is not None:
                if changed := changed_from(plan.settings(run.task, name), run):
                    key, (ours, theirs) = next(iter(changed.items()))
                    self.different.append(f"{run.task} {name} seed {run.seed} ({key} is {theirs}, not {ours})")
                    continue
                run = replace(run, name=name, label=arms[name].label)
            self._cells.setdefault((run.task, name), []).append(run)

    @property
    def runs(self) -> list[RunScores]:
        """The runs of the plan."""
        return [run for group in self._cells.values() for run in group]

    def find(self, task: str, arm: ShownArm) -> list[RunScores]:
        """The runs of a task and an arm, by seed."""
        return sorted(self._cells.get((task, arm.name), []), key=lambda run: run.seed)

    def scored(self, task: str, arm: ShownArm, env_steps: int) -> list[RunScores]:
        """Those that have a score at a budget."""
        return [run for run in self.find(task, arm) if run.score(env_steps) is not None]

    def scores(self, task: str, arm: ShownArm, env_steps: int) -> list[float]:
        """One score for each of these."""
        return [score for run in self.find(task, arm) if (score := run.score(env_steps)) is not None]

    def has(self, task: str) -> bool:
        """Whether a task has a run."""
        return any(self.find(task, arm) for arm in self.plan.arms)


def plans_of_suite(suite: SuiteLike) -> list[Plan]:
    """The comparisons of a suite: one for each benchmark that its tasks belong to."""
    tasks: dict[str, dict[str, str]] = {}
    budgets: dict[str, set[int]] = {}
    for task in suite.tasks:
        for budget in suite.budgets(task):
            benchmark = benchmark_of({"task": task, "env_steps": budget})
            tasks.setdefault(benchmark, {})[task.partition("/")[2]] = task
            budgets.setdefault(benchmark, set()).add(budget)
    labels = distinct_labels({arm.name: arm.label for arm in suite.arms})
    methods = {arm.name: run_name({"agent": arm.agent, "method": arm.method}) for arm in suite.arms}
    arms = tuple(ShownArm(arm.name, labels[arm.name], methods[arm.name]) for arm in suite.arms)
    several = len(tasks) > 1
    return [
        Plan(
            slug(f"{suite.name}-{benchmark}" if several else suite.name),
            f"{suite.title} ({TITLES.get(benchmark, benchmark)})" if several else suite.title,
            benchmark,
            arms,
            tuple(names),
            tuple(suite.score_at) or tuple(sorted(budgets[benchmark])),
            len(suite.seeds),
            suite.source,
            cache(partial(_settings, suite, names)),
        )
        for benchmark, names in tasks.items()
    ]


def _settings(suite: SuiteLike, tasks: Mapping[str, str], task: str, arm: str) -> Mapping[str, Any]:
    """The settings of an arm on a task; empty where they cannot be resolved, such as without the simulator."""
    try:
        return suite.settings(tasks[task], arm)
    except UserError:
        return {}


def plans_of_runs(runs: Iterable[RunScores]) -> list[Plan]:
    """One comparison for each benchmark that has runs."""
    runs = list(runs)
    return [plan_of_benchmark(benchmark, runs) for benchmark in sorted({run.benchmark for run in runs})]


def plan_of_benchmark(benchmark: str, runs: Iterable[RunScores]) -> Plan:
    """All runs of a benchmark. Atari 100k has all its 26 games; other benchmarks have the tasks that were run."""
    runs = [run for run in runs if run.benchmark == benchmark]
    first = {run.name: run for run in reversed(runs)}
    tasks = sorted({run.task for run in runs})
    last = max((run.env_steps for run in runs), default=0)
    budgets = tuple(budget for budget in BUDGETS.get(benchmark, ()) if budget <= last) or (last,)
    if benchmark == "atari100k":
        games = list(atari_random_and_human())
        tasks, budgets = [*games, *(task for task in tasks if task not in games)], BUDGETS[benchmark]
    labels = distinct_labels({name: run.label for name, run in first.items()})
    arms = tuple(ShownArm(name, labels[name], first[name].method) for name in sort_names(first))
    return Plan(slug(benchmark), TITLES.get(benchmark, benchmark), benchmark, arms, tuple(tasks), budgets)


def thousands(value: int) -> str:
    """A number of env steps.

    >>> thousands(400_000), thousands(1500), thousands(40)
    ('400k', '1.5k', '40')
    """
    return f"{value / 1000:g}k" if value >= 1000 else str(value)


def slug(text: str) -> str:
    """A text as a name of a file or an anchor."""
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-") or "part"
