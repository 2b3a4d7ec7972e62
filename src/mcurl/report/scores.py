"""Scores of runs: their evaluations, and what must be known of them to compare them.

A *cell* is one place in a table: the runs of one benchmark, task and name, which differ in their seeds alone.
"""

from __future__ import annotations

import math
import re
import sys
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from statistics import fmean
from typing import Any

from mcurl.config.tasks import flatten, methods
from mcurl.errors import UserError, printable
from mcurl.published.scores import is_score
from mcurl.run.names import SAME_LEARNING, action_repeat, append_changes, changed_settings, run_name

SIMULATORS = {"dmc": ("mujoco", "dm_control"), "atari": ("ale-py",)}
"""Suite -> packages whose versions decide what its environments do; other suites: gymnasium."""
_SAME_LEARNING = (
    *("task", "seed", "evaluation", "checkpoint"),
    *SAME_LEARNING,
)
"""Settings and sections in which the runs of a cell may differ: they do not change what is learned."""
_FINAL_EPISODES = {"atari100k": 100}
"""Benchmark -> episodes of its final evaluation, where its scores are comparable with that number alone."""
MAX_LABEL = 200
"""Longest label and note that is shown, in characters."""
_WITHOUT_HORIZON = ("sac", "drqv2")
"""Agents whose schedules do not depend on the budget: runs with different budgets agree until the smaller one."""


@dataclass(frozen=True)
class RunScores:
    """The evaluations of one run."""

    benchmark: str
    """The suite, or ``atari100k`` for Atari with a budget of 400k frames."""
    task: str
    """The task without its suite."""
    name: str
    """Name of the run: its method and changed settings, or a name that the user chose."""
    label: str
    """The name in tables and plots."""
    seed: int
    episodes: dict[int, list[float]]
    """Env steps -> returns of the episodes of an evaluation; the mean alone for the env steps in ``averaged``."""
    budget: int
    """Simulator steps that the run was to have, action repeat included."""
    averaged: dict[int, int] = field(default_factory=dict)
    """Env steps -> number of episodes, for evaluations of which only the mean is known (files of older versions)."""
    provenance: dict[str, Any] = field(default_factory=dict)
    """Settings, commit, versions, machine, note, hours per 100k env steps; values that are unknown may be missing."""
    recordings: Mapping[int, Path] = field(default_factory=dict, compare=False)
    """Env steps -> file with the recorded episodes of that evaluation, to play them again; in ascending order."""
    source: Path = field(default=Path(), compare=False)
    """The run folder or CSV file that the scores were read from."""
    merged_from: str = field(default="", compare=False)
    """The name that :func:`merge` replaced by ``name``; empty: none."""

    @property
    def cell(self) -> tuple[str, str, str]:
        """Benchmark, task and name."""
        return self.benchmark, self.task, self.name

    @cached_property
    def points(self) -> dict[int, float]:
        """The learning curve: env steps -> mean return, in ascending order."""
        return {step: fmean(values) for step, values in sorted(self.episodes.items())}

    @property
    def env_steps(self) -> int:
        """Env steps of the last evaluation."""
        return max(self.episodes)

    @property
    def finished(self) -> bool:
        """Whether the run was evaluated at the end of its budget."""
        return self.env_steps >= self.budget

    @property
    def scored(self) -> list[int]:
        """Env steps of the evaluations that are scores, see :func:`mcurl.published.scores.is_score`."""
        task = str(self.settings.get("task", f"{self.benchmark.removesuffix('100k')}/{self.task}"))
        return [step for step in sorted(self.episodes) if is_score(task, step, self.action_repeat, self.budget)]

    @property
    def settings(self) -> Mapping[str, Any]:
        """All settings, as JSON values; empty if they are unknown."""
        return dict(self.provenance.get("settings") or {})

    @property
    def method(self) -> str:
        """The method, such as ``"mcurl"``, after an agent as in ``run_name``; the name if the settings are unknown."""
        return run_name(self.settings) if self.settings.get("method") else self.name

    @property
    def action_repeat(self) -> int:
        """Env steps of one agent step; 1 if the settings are unknown."""
        return action_repeat(self.settings.get("env", {}))

    @property
    def note(self) -> str:
        """What must be known of the run, such as that its seed was chosen; empty if nothing."""
        return printable(str(self.provenance.get("note") or ""))

    @property
    def simulator(self) -> str:
        """The versions of what simulates the task, such as ``"ale-py 0.12.1"``; ``"unknown"`` in older results.

        With those of every resume that had others.
        """
        suite = str(self.settings.get("task", self.benchmark)).partition("/")[0]
        names = SIMULATORS.get(suite, ("gymnasium",))
        versions = []
        for about in (self.provenance, *(self.provenance.get("resumed") or ())):
            packages = {name: number for name, number in (about.get("packages") or {}).items() if name in names}
            packages |= about.get("environment") or self.provenance.get("environment") or {}
            versions.append(", ".join(f"{name} {number}" for name, number in packages.items()) or "unknown")
        return printable(", then ".join(dict.fromkeys(versions)))

    def number_of_episodes(self, env_steps: int) -> int:
        """Number of episodes of the evaluation at ``env_steps``."""
        return self.averaged.get(env_steps) or len(self.episodes[env_steps])

    def evaluation_at(self, budget: int) -> int | None:
        """Env steps of the first evaluation at or after a budget, within one agent step; None if there is none."""
        return min((step for step in self.episodes if budget <= step < budget + self.action_repeat), default=None)

    def score(self, budget: int) -> float | None:
        """The mean return of the evaluation that :meth:`evaluation_at` finds; None if there is none."""
        env_steps = self.evaluation_at(budget)
        return None if env_steps is None else self.points[env_steps]

    @property
    def first_name(self) -> str:
        """The name before :func:`merge` told runs with different settings apart."""
        return self.merged_from or self.name

    def __str__(self) -> str:
        return f"{self.benchmark}/{self.task}, {self.name}, seed {self.seed}"


def skip(reason: str) -> None:
    """Say on standard error what is left out of tables and plots."""
    print(f"mcurl: skipped: {printable(reason)}", file=sys.stderr)


# Comparisons


def changed_between(first: RunScores, second: RunScores) -> dict[str, tuple[Any, Any]]:
    """The settings in which two runs learn differently: full name -> both values.

    Settings that one of them lacks, because an older version made it, have their defaults. Nothing is compared if the
    settings of one are unknown.
    """
    if not first.settings or not second.settings:
        return {}
    ours, theirs = dict(flatten(first.settings)), dict(flatten(second.settings))
    if ours.keys() != theirs.keys():
        ours, theirs = (dict(flatten(_with_defaults(run.settings))) for run in (first, second))
    return {
        key: (ours.get(key), theirs.get(key))
        for key in dict.fromkeys([*ours, *theirs])
        if ours.get(key) != theirs.get(key) and _changes_learning(key, first, second)
    }


def changed_from(settings: Mapping[str, Any], run: RunScores) -> dict[str, tuple[Any, Any]]:
    """The settings in which a run learns differently from ``settings``: full name -> both values, the run's last.

    Settings that are not known of the run are left out.
    """
    known = dict(flatten(run.settings))
    changed = changed_between(replace(run, provenance={"settings": settings}), run)
    return {key: values for key, values in changed.items() if key in known}


def _changes_learning(key: str, first: RunScores, second: RunScores) -> bool:
    if key == "env_steps":
        return not {first.settings.get("agent"), second.settings.get("agent")} <= set(_WITHOUT_HORIZON)
    return not {key, key.rpartition(".")[0]} & set(_SAME_LEARNING)


def _with_defaults(settings: Mapping[str, Any]) -> Mapping[str, Any]:
    """Settings of an older version with the defaults of newer ones; unchanged if this version cannot read them."""
    # The module of a user's class may be anyone's: its code must not run here.
    if ":" in str(settings.get("method")) + str(settings.get("agent")):
        return settings
    from mcurl.config.settings import TrainSettings

    try:
        return TrainSettings.from_json(settings).to_json()
    except UserError:
        return settings


def same_run(first: RunScores, second: RunScores) -> bool:
    """Whether two records are of one run: its evaluations agree as far as both go.

    All evaluations of the shorter record are in the longer one. A run that was continued from an earlier checkpoint may
    have other evaluations from there: that is another run.
    """
    if (*first.cell, first.seed) != (*second.cell, second.seed) or changed_between(first, second):
        return False
    started = first.provenance.get("started_at"), second.provenance.get("started_at")
    if all(started) and started[0] != started[1]:
        return False
    short, long = (run.points for run in sorted((first, second), key=_length))
    return all(step in long and _agree(value, long[step]) for step, value in short.items())


def _length(run: RunScores) -> tuple[int, int]:
    """How far the evaluations of a record go, and how many they are."""
    return run.env_steps, len(run.points)


def _agree(a: float, b: float) -> bool:
    """Whether two means are equal but for the order of their sum."""
    return math.isclose(a, b, rel_tol=1e-9) or (math.isnan(a) and math.isnan(b))


def merge(runs: Iterable[RunScores]) -> list[RunScores]:
    """Make the runs comparable, for tables and plots: the runs of a cell differ in their seeds alone.

    Runs of one name with different settings get the changed settings appended to their names. Of two records of one run
    the longer is kept. A finished run is kept instead of an unfinished one of the same seed, with a message on standard
    error.

    Raises:
        UserError: two runs have the same seed and settings.
    """
    renamed = [run for group in cells(runs).values() for run in _rename(group)]
    # A new name may be the name of other runs.
    renamed = [run for group in cells(renamed).values() for run in _rename(group)]
    return [run for group in cells(renamed).values() for run in one_per_seed(group)]


def _rename(runs: Sequence[RunScores]) -> list[RunScores]:
    """The runs of a cell; those with different settings with names and labels that say them."""
    groups: list[list[RunScores]] = []
    for run in runs:
        group = next((group for group in groups if not changed_between(group[0], run)), None)
        groups.append([run]) if group is None else group.append(run)
    if len(groups) == 1:
        return groups[0]
    # A run with the settings that its name stands for keeps it: else its method had another name in this task alone.
    plain = [group for group in groups if _has_default_name(group[0])]
    unchanged = plain[0] if len(plain) == 1 else []
    groups = ([unchanged] if unchanged else []) + [group for group in groups if group is not unchanged]
    keys = dict.fromkeys(key for group in groups[1:] for key in changed_between(groups[0][0], group[0]))
    short = Counter(key.rpartition(".")[2] for key in keys)
    renamed = list(unchanged)
    for group in groups[1:] if unchanged else groups:
        settings = dict(flatten(_with_defaults(group[0].settings)))
        names = {key: name if short[name := key.rpartition(".")[2]] == 1 else key for key in keys}
        changes = {names[key]: settings[key] for key in keys if key in settings}
        if unchanged:  # as the default name of the other settings says them
            others = (_with_defaults(runs[0].settings) for runs in (group, unchanged))
            changes = changed_settings(*others) or changes
        text = printable(", ".join(f"{key}={str(value).lower()}" for key, value in changes.items()))[:MAX_LABEL]
        name = append_changes(runs[0].name, changes)
        renamed += [replace(run, name=name, label=f"{run.label}, {text}", merged_from=run.first_name) for run in group]
    return renamed


def _has_default_name(run: RunScores) -> bool:
    """Whether a run's name is the default one for its settings; False if this version cannot tell."""
    if ":" in str(run.settings.get("method")) + str(run.settings.get("agent")) or not run.settings.get("method"):
        return False  # as in _with_defaults
    from mcurl.config.settings import TrainSettings

    try:
        return TrainSettings.from_json(run.settings).name == run.name
    except UserError:
        return False


def one_per_seed(runs: Iterable[RunScores]) -> list[RunScores]:
    """The runs of a cell, one for each seed: see :func:`merge`. Raises UserError if two runs have the same seed."""
    kept: dict[tuple[str, int], RunScores] = {}
    for run in runs:
        key = run.name, run.seed
        other = kept.get(key)
        if other is None:
            kept[key] = run
        elif same_run(run, other):
            kept[key] = max(run, other, key=_length)
        elif run.finished == other.finished:
            raise UserError(
                f"two runs of {run}: {other.source} and {run.source}; pass one of them, or train with another --name"
            )
        else:
            kept[key], dropped = (run, other) if run.finished else (other, run)
            skip(f"{dropped.source} is unfinished; {kept[key].source} is not")
    return list(kept.values())


def cells(runs: Iterable[RunScores]) -> dict[tuple[str, str, str], list[RunScores]]:
    """Benchmark, task and name -> runs, sorted: built-in methods first, in the order of ``methods.toml``."""
    grouped: dict[tuple[str, str, str], list[RunScores]] = defaultdict(list)
    for run in runs:
        grouped[run.cell].append(run)
    order = sort_names({run.name for group in grouped.values() for run in group})
    ranks = sorted(grouped, key=lambda cell: (*cell[:2], order.index(cell[2])))
    return {cell: sorted(grouped[cell], key=lambda run: run.seed) for cell in ranks}


def sort_names(names: Iterable[str]) -> list[str]:
    """Sort names of runs: built-in methods first, in the order of ``methods.toml``, each before its changed settings.

    >>> sort_names(["other", "curl", "mcurl-mask_rate=0.3", "mcurl"])
    ['mcurl', 'mcurl-mask_rate=0.3', 'curl', 'other']
    """
    order = list(methods())

    def rank(name: str) -> tuple[int, str]:
        method = re.split(r"-(?=[\w.]+=)", name)[0]
        return order.index(method) if method in order else len(order), name

    return sorted(names, key=rank)


def distinct_labels(labels: Mapping[str, str]) -> dict[str, str]:
    """Name -> label, where equal labels of different names are told apart by the names.

    >>> distinct_labels({"mcurl": "M-CURL", "mcurl-conv": "M-CURL", "curl": "CURL"})
    {'mcurl': 'M-CURL (mcurl)', 'mcurl-conv': 'M-CURL (mcurl-conv)', 'curl': 'CURL'}
    """
    numbers = Counter(labels.values())
    return {name: label if numbers[label] == 1 else f"{label} ({name})" for name, label in labels.items()}


def run_notes(runs: Iterable[RunScores]) -> list[str]:
    """The notes of the runs of a cell, such as that a seed was chosen."""
    return [f"seed {run.seed}: {run.note}" for run in runs if run.note]


def notes(runs: Iterable[RunScores]) -> list[str]:
    """What must be known of the runs of a cell: their notes, unfinished ones, numbers of episodes, simulators."""
    runs = list(runs)
    texts = run_notes(runs)
    texts += [
        f"seed {run.seed} is unfinished, at {run.env_steps:,} of {run.budget:,} env steps"
        for run in runs
        if not run.finished
    ]
    texts += _episode_notes([run for run in runs if run.finished])
    seeds: dict[str, list[str]] = defaultdict(list)
    for run in runs:
        seeds[run.simulator].append(str(run.seed))
    if len(seeds) > 1:
        versions = "; ".join(f"seed {', '.join(numbers)}: {version}" for version, numbers in seeds.items())
        texts.append(f"made with different simulators ({versions})")
    return texts


def _episode_notes(runs: Sequence[RunScores]) -> list[str]:
    """The scores over another number of episodes than is usual; usual is most seeds' where the benchmark says none."""
    counts = {run.seed: run.number_of_episodes(run.env_steps) for run in runs}
    if not counts:
        return []
    usual = _FINAL_EPISODES.get(runs[0].benchmark, Counter(counts.values()).most_common(1)[0][0])
    return [
        f"seed {seed}: its score is over {count} episode{'s' if count > 1 else ''}, not {usual}"
        for seed, count in counts.items()
        if count != usual
    ]
