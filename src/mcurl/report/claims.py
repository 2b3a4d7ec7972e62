"""Claims about methods, and how they are counted in scores.

A claim is data: the paper's words, where they stand, and a check. A check counts, and says whether the count is the
paper's.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, Protocol

import numpy as np

from mcurl.published import table1
from mcurl.report.statistics import (
    MIN_SEEDS,
    Array,
    estimate,
    human_normalise,
    median,
    probability_of_improvement,
    score_matrix,
)

Scores = Mapping[str, Mapping[str, Sequence[float]]]
"""Method -> task, without its suite -> the scores of its runs at the claim's budget."""
Verdict = Literal["holds", "differs", "not enough data"]

PAPER_COLUMNS = {"mcurl": "m_curl", "curl": "curl", "rl-only": "efficient_rainbow"}
"""Method of this package -> its column in Table 1. Other columns have their own names."""
LABELS = {
    "mcurl": "M-CURL",
    "curl": "CURL",
    "rl-only": "Efficient Rainbow",
    "sac-state": "state-SAC",
    "seq-curl": "seq-CURL",
    "sym-curl": "sym-CURL",
    "simple": "SimPLe",
    "otrainbow": "OTRainbow",
}
"""Method -> its name in the paper."""
PAPER = "the paper's Table 1"


@dataclass(frozen=True)
class Evidence:
    """The scores that a claim is checked in."""

    scores: Scores
    published: bool
    """The scores are the published means that the claim is about: the count must be the paper's to the digit. Else they
    are runs: a task counts with ``MIN_SEEDS`` runs of each method, and a count may exceed the paper's."""

    def has(self, method: str, task: str) -> bool:
        """Whether a task has enough runs of a method."""
        runs = self.scores.get(method, {}).get(task, ())
        return len(runs) >= (1 if self.published else MIN_SEEDS)

    def mean(self, method: str, task: str) -> float:
        """The mean over runs."""
        return float(np.mean(self.scores[method][task]))

    def common(self, methods: Sequence[str], tasks: Sequence[str]) -> list[str]:
        """The tasks with enough runs of all methods."""
        return [task for task in tasks if all(self.has(method, task) for method in methods)]

    def matrix(self, method: str, tasks: Sequence[str]) -> Array:
        """Scores of a method, ``[runs, tasks]``."""
        return score_matrix(self.scores[method], tasks)


@dataclass(frozen=True)
class Finding:
    """What some scores say of a claim."""

    verdict: Verdict
    found: str
    """What was counted, such as ``20 of 26``; of fewer tasks than the claim's where scores are missing."""
    details: str = ""
    """What stands behind the count: names of tasks, intervals, missing scores."""


class Check(Protocol):
    """Counts one claim."""

    def __call__(self, evidence: Evidence) -> Finding: ...


@dataclass(frozen=True)
class Wins:
    """The number of tasks in which one method's mean is above another's."""

    method: str
    baseline: str
    said: int
    tasks: tuple[str, ...] = field(repr=False)

    def __call__(self, evidence: Evidence) -> Finding:
        tasks = evidence.common((self.method, self.baseline), self.tasks)
        lost = [task for task in tasks if evidence.mean(self.method, task) <= evidence.mean(self.baseline, task)]
        wins = len(tasks) - len(lost)
        details = [f"not above {label(self.baseline)}: {', '.join(lost)}"] if lost else []
        if tasks and not evidence.published:
            pair = [evidence.matrix(method, tasks) for method in (self.method, self.baseline)]
            details.append(f"probability of improvement {estimate(probability_of_improvement, *pair)}")
        return _count(evidence, wins, self.said, tasks, self.tasks, details)


@dataclass(frozen=True)
class Best:
    """The number of tasks in which a method's mean is the highest. Methods without runs count with Table 1's means."""

    method: str
    others: tuple[str, ...]
    said: int
    tasks: tuple[str, ...] = field(repr=False)

    def __call__(self, evidence: Evidence) -> Finding:
        table = paper_scores()
        from_table = [name for name in self.others if not evidence.scores.get(name) and name not in PAPER_COLUMNS]
        runs = [self.method, *(name for name in self.others if name not in from_table)]
        tasks = evidence.common(runs, self.tasks)

        def best(task: str) -> bool:
            means = [evidence.mean(name, task) for name in runs] + [table[name][task][0] for name in from_table]
            return evidence.mean(self.method, task) == max(means)

        names = [task for task in tasks if best(task)]
        details = [f"best in {', '.join(names)}"] if names else []
        if tasks and from_table:
            details.append(f"{' and '.join(map(label, from_table))} from {PAPER}")
        return _count(evidence, len(names), self.said, tasks, self.tasks, details)


@dataclass(frozen=True)
class Above:
    """In each of some tasks, the first method of each pair has a higher mean than the second."""

    pairs: tuple[tuple[str, str], ...]
    tasks: tuple[str, ...]

    def __call__(self, evidence: Evidence) -> Finding:
        asked = [(better, worse, task) for better, worse in self.pairs for task in self.tasks]
        names = {pair: f"{label(pair[0])} above {label(pair[1])} in {pair[2]}" for pair in asked}
        known = [pair for pair in asked if evidence.common(pair[:2], pair[2:])]
        failed = [pair for pair in known if evidence.mean(pair[0], pair[2]) <= evidence.mean(pair[1], pair[2])]
        details = [f"not {names[pair]}" for pair in failed]
        count = len(known) - len(failed)
        return _count(evidence, count, len(asked), [names[p] for p in known], [names[p] for p in asked], details)


@dataclass(frozen=True)
class Alike:
    """The pairs of methods that some tasks do not tell apart.

    A pair counts if the interval of the probability that the first is better than the second contains one half.
    """

    pairs: tuple[tuple[str, str], ...]
    tasks: tuple[str, ...]

    def __call__(self, evidence: Evidence) -> Finding:
        names = {pair: f"{label(pair[0])} and {label(pair[1])}" for pair in self.pairs}
        known = [pair for pair in self.pairs if evidence.common(pair, self.tasks) == list(self.tasks)]
        details, alike = [], 0
        for pair in known:
            better = estimate(probability_of_improvement, *(evidence.matrix(name, self.tasks) for name in pair))
            same = better.interval is None or better.interval[0] <= 0.5 <= better.interval[1]
            alike += same
            details.append(f"{names[pair]}{'' if same else ' differ'}: probability of improvement {better}")
        asked = list(names.values())
        return _count(evidence, alike, len(asked), [names[p] for p in known], asked, details)


@dataclass(frozen=True)
class Superhuman:
    """The games in which a method is above a human, with how much, in percent of (human - random)."""

    method: str
    said: Mapping[str, int]
    games: tuple[str, ...] = field(repr=False)

    def __call__(self, evidence: Evidence) -> Finding:
        games = evidence.common((self.method,), self.games)
        normalised = human_normalise([evidence.mean(self.method, game) for game in games], games)
        above = {game: float(value) - 1 for game, value in zip(games, normalised, strict=True) if value > 1}
        found = ", ".join(f"{game} by {100 * margin:.0f} %" for game, margin in above.items()) or "no game"
        missing = [game for game in self.said if game not in games]
        if missing:
            return Finding("not enough data", f"{found} (of {_games(len(games))})", _missing(missing, evidence))
        if evidence.published:
            holds = {game: round(100 * margin) for game, margin in above.items()} == dict(self.said)
        else:
            holds = set(self.said) <= set(above)
        return Finding("holds" if holds else "differs", found, "")


@dataclass(frozen=True)
class Median:
    """The median human-normalised score over games, in percent."""

    method: str
    percent: float
    games: tuple[str, ...] = field(repr=False)

    def __call__(self, evidence: Evidence) -> Finding:
        games = evidence.common((self.method,), self.games)
        if not games:
            return Finding("not enough data", f"none of {_games(len(self.games))}", _missing(self.games, evidence))
        result = estimate(median, human_normalise(evidence.matrix(self.method, games), games))
        found = f"{100 * result.value:.1f} %"
        if len(games) < len(self.games):
            missing = [game for game in self.games if game not in games]
            return Finding("not enough data", f"{found} over {_games(len(games))}", _missing(missing, evidence))
        if result.interval is None:
            return Finding("holds" if round(100 * result.value, 1) == self.percent else "differs", found)
        low, high = (100 * bound for bound in result.interval)
        # A median above the paper's holds too.
        verdict: Verdict = "holds" if high >= self.percent else "differs"
        return Finding(verdict, f"{found} [{low:.1f}, {high:.1f}]")


def _count(
    evidence: Evidence, count: int, said: int, tasks: Sequence[str], asked: Sequence[str], details: list[str]
) -> Finding:
    """A count of tasks, and whether it is the paper's."""
    found = f"{count} of {len(tasks)}"
    if len(tasks) < len(asked):
        details = [*details, _missing([task for task in asked if task not in tasks], evidence)]
        return Finding("not enough data", found if tasks else f"none of {len(asked)}", "; ".join(details))
    holds = count == said if evidence.published else count >= said
    return Finding("holds" if holds else "differs", found, "; ".join(details))


def _missing(tasks: Sequence[str], evidence: Evidence) -> str:
    need = "no published number" if evidence.published else f"fewer than {MIN_SEEDS} seeds"
    listed = ", ".join(tasks[:4]) + (f" and {len(tasks) - 4} more" if len(tasks) > 4 else "")
    return f"{need}: {listed}"


def _games(count: int) -> str:
    return f"{count} game{'s' if count != 1 else ''}"


def label(method: str) -> str:
    return LABELS.get(method, method)


def paper_scores() -> dict[str, dict[str, list[float]]]:
    """Table 1 of the paper: method -> game -> its mean, as a list of one. Methods have this package's names."""
    names = {column: method for method, column in PAPER_COLUMNS.items()}
    scores: dict[str, dict[str, list[float]]] = {}
    for game, row in table1().items():
        for column, value in row.items():
            scores.setdefault(names.get(column, column), {})[game] = [value]
    return scores


@dataclass(frozen=True)
class Claim:
    """One claim of the paper."""

    name: str
    words: str
    """The paper's own words."""
    place: str
    """Where in the paper."""
    said: str
    """What the paper counts."""
    benchmark: str
    """The benchmark of the results: atari100k or dmc."""
    env_steps: int
    """The budget."""
    check: Check
    printed: bool = True
    """The paper prints the numbers that the claim is about."""
