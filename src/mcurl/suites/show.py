"""The overview of a suite: its runs, how long they take, and which of them exist already."""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table
from rich.text import Text

from mcurl.suites import hours
from mcurl.suites.status import RunStatus, State, read_status
from mcurl.suites.suite import Arm, Suite, SuiteRun, suite_names


@dataclass(frozen=True)
class Overview:
    """The state of runs of a suite."""

    suite: Suite
    out: Path
    """Folder of all runs."""
    jobs: int
    """Number of runs at a time."""
    statuses: Mapping[SuiteRun, RunStatus]
    """What the run folders say."""
    seconds: Mapping[str, float]
    """Kind of run -> seconds per simulator step, see :func:`mcurl.suites.hours.speeds`."""

    @classmethod
    def read(cls, suite: Suite, runs: Sequence[SuiteRun], out: Path, jobs: int) -> Overview:
        """Read the run folders below ``out``. Raises UserError if a setting of a run is invalid."""
        statuses = {run: read_status(run, out) for run in runs}
        return cls(suite, out, jobs, statuses, hours.speeds(runs, out, jobs))

    @property
    def unknown(self) -> dict[str, SuiteRun]:
        """Kinds of runs whose speed is not known -> a run of each."""
        kinds = {hours.kind(run): run for run in self._to_do()}
        return {kind: run for kind, run in kinds.items() if kind not in self.seconds}

    def hours_left(self) -> float:
        """Hours until all runs of known speed are finished, with ``jobs`` at a time."""
        finish = [0.0] * self.jobs  # when each process is free
        for run in self._to_do():
            seconds = self.seconds.get(hours.kind(run), 0.0) * (run.env_steps - self.statuses[run].env_steps)
            heapq.heapreplace(finish, finish[0] + seconds)
        return max(finish) / 3600

    def _to_do(self) -> list[SuiteRun]:
        return [run for run, status in self.statuses.items() if status.state not in (State.FINISHED, State.FAILED)]

    def print(self, console: Console) -> None:
        """Print the overview, at most as wide as the console."""
        suite, runs = self.suite, list(self.statuses)
        tasks, seeds = list(dict.fromkeys(run.task for run in runs)), dict.fromkeys(run.seed for run in runs)
        arms = list(dict.fromkeys(run.arm for run in runs))
        console.print(Text(f"{suite.name}: {suite.title}", "bold"))
        if suite.source:
            console.print(Text(suite.source, "dim"))
        console.print()
        for line in (
            f"{_count(len(arms), 'arm')} × {_count(len(tasks), 'task')} × {_count(len(seeds), 'seed')} = "
            f"{_count(len(runs), 'run')}, {sum(run.env_steps for run in runs):,} env steps",
            f"in {self.out}: {self._states()}",
            self._time(),
            *([f"all arms: {' '.join(self._common(arms))}"] if self._common(arms) else []),
        ):
            console.print(Text(line))
        console.print()
        console.print(self._arms(arms))
        if len(tasks) > 1:
            console.print()
            console.print(self._grid(arms, tasks))
        for run, status in self.statuses.items():
            if status.reason:
                console.print(Text(f"{run.name}: {status.reason}", "red"))

    def _states(self) -> str:
        counts = Counter(status.state for status in self.statuses.values())
        names = {State.WAITING: "not begun", State.FAILED: "cannot be used"}
        return ", ".join(f"{counts[state]} {names.get(state, state)}" for state in State if counts[state])

    def _time(self) -> str:
        if not self._to_do():
            unusable = any(status.state is State.FAILED for status in self.statuses.values())
            return "nothing can be done in this folder, see below" if unusable else "nothing is left to do"
        known, unknown = self.hours_left(), self.unknown
        at_once = f"{self.jobs} at a time on this machine"
        if not unknown:
            return f"about {_duration(known)} left, {at_once}"
        minutes = max(round(len(unknown) * 0.75), 1)
        hint = f"--measure times {_count(len(unknown), 'kind')} of run, about {minutes} min"
        return f"{f'more than {_duration(known)}' if known else 'unknown time'} left, {at_once}; {hint}"

    @staticmethod
    def _common(arms: Sequence[Arm]) -> list[str]:
        """The settings that all arms change in the same way."""
        return [text for text in arms[0].overrides if len(arms) > 1 and all(text in arm.overrides for arm in arms)]

    def _arms(self, arms: Sequence[Arm]) -> Table:
        table = _table("arm", "finished", "label", "method", "settings")
        for arm in arms:
            method = f"{arm.agent} {arm.method}" if arm.agent else arm.method
            own = [text for text in arm.overrides if text not in self._common(arms)]
            cells = (arm.label, method, " ".join(own))
            table.add_row(Text(arm.name), self._cell(arm), *map(Text, cells))
        return table

    def _grid(self, arms: Sequence[Arm], tasks: Sequence[str]) -> Table:
        """Finished of all runs, for each task and arm."""
        table = _table("task", *(arm.name for arm in arms))
        for task in tasks:
            table.add_row(Text(task), *(self._cell(arm, task) for arm in arms))
        return table

    def _cell(self, arm: Arm, task: str | None = None) -> Text:
        """Finished of all runs of an arm, on a task or on all."""
        states = [status.state for run, status in self.statuses.items() if run.arm == arm and task in (None, run.task)]
        done = states.count(State.FINISHED)
        begun = sum(state in (State.RUNNING, State.STOPPED) for state in states)
        text = f"{done}/{len(states)}" + (f" +{begun} begun" if begun else "")
        return Text(text, "green" if done == len(states) else "" if done or begun else "dim")


def list_suites(console: Console) -> None:
    """Print the suites of the package."""
    table = _table("suite", "arms", "tasks", "seeds", "env steps", "runs", "title")
    for column in table.columns[1:6]:
        column.justify = "right"
    for suite in map(Suite.load, suite_names()):
        numbers = (len(suite.arms), len(suite.tasks), len(suite.seeds))
        budget = f"{suite.env_steps // 1000}k" if suite.env_steps else "default"
        table.add_row(suite.name, *map(str, numbers), budget, str(len(suite.runs())), Text(suite.title))
    console.print(table)


def _table(*titles: str) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    for title in titles:
        table.add_column(title, overflow="fold", no_wrap=False)
    return table


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def _duration(hours_left: float) -> str:
    return f"{hours_left:,.1f} h" if hours_left >= 0.1 else f"{max(round(hours_left * 60), 1)} min"
