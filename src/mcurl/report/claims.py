"""The paper's claims, counted in the paper's own Table 1 and in scores of this package.

A claim is data: the paper's words, where they stand, and a check. The check counts; :func:`evaluate` says whether the
count is the paper's. The paper prints numbers for Atari only: its results on DMControl are curves in pictures.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, Protocol

import numpy as np

from mcurl.config.tasks import task_names
from mcurl.published import atari_random_and_human, table1
from mcurl.report.statistics import (
    MIN_SEEDS,
    Array,
    estimate,
    human_normalise,
    median,
    probability_of_improvement,
    score_matrix,
)

if TYPE_CHECKING:
    from mcurl.report.scores import RunScores

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
CHOSEN = "chosen"
"""The first word of the note of a run that was selected for its results: it is no fair sample of the seeds."""
PAPER, OURS = "the paper's Table 1", "our scores"


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
        details = [f"not above {_label(self.baseline)}: {', '.join(lost)}"] if lost else []
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
            details.append(f"{' and '.join(map(_label, from_table))} from {PAPER}")
        return _count(evidence, len(names), self.said, tasks, self.tasks, details)


@dataclass(frozen=True)
class Above:
    """In each of some tasks, the first method of each pair has a higher mean than the second."""

    pairs: tuple[tuple[str, str], ...]
    tasks: tuple[str, ...]

    def __call__(self, evidence: Evidence) -> Finding:
        asked = [(better, worse, task) for better, worse in self.pairs for task in self.tasks]
        names = {pair: f"{_label(pair[0])} above {_label(pair[1])} in {pair[2]}" for pair in asked}
        known = [pair for pair in asked if evidence.common(pair[:2], pair[2:])]
        failed = [pair for pair in known if evidence.mean(pair[0], pair[2]) <= evidence.mean(pair[1], pair[2])]
        details = [f"not {names[pair]}" for pair in failed]
        count = len(known) - len(failed)
        return _count(evidence, count, len(asked), [names[p] for p in known], [names[p] for p in asked], details)


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


def _label(method: str) -> str:
    return LABELS.get(method, method)


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


@dataclass(frozen=True)
class Statement:
    """A claim beside what some scores say of it."""

    claim: Claim
    basis: str
    """``PAPER``, ``OURS``, or the place in the paper of results without numbers."""
    finding: Finding

    def __str__(self) -> str:
        finding = self.finding
        verb = {"holds": "holds in", "differs": "differs in", "not enough data": "not enough data in"}[finding.verdict]
        details = f" ({finding.details})" if finding.details else ""
        return f"{self.claim.name}: the paper says {self.claim.said}; {verb} {self.basis}: {finding.found}{details}"


def paper_scores() -> dict[str, dict[str, list[float]]]:
    """Table 1 of the paper: method -> game -> its mean, as a list of one. Methods have this package's names."""
    names = {column: method for method, column in PAPER_COLUMNS.items()}
    scores: dict[str, dict[str, list[float]]] = {}
    for game, row in table1().items():
        for column, value in row.items():
            scores.setdefault(names.get(column, column), {})[game] = [value]
    return scores


def final_scores(runs: Iterable[RunScores], benchmark: str, env_steps: int) -> dict[str, dict[str, list[float]]]:
    """Scores at a budget: name of the run -> task -> scores of its seeds, in the order of seeds.

    Left out: runs without an evaluation at the budget, and runs whose note begins with ``CHOSEN``.
    """
    scores: dict[str, dict[str, list[float]]] = {}
    for run in sorted(runs, key=lambda run: run.seed):
        score = run.score(env_steps)
        if run.benchmark == benchmark and not run.note.startswith(CHOSEN) and score is not None:
            scores.setdefault(run.name, {}).setdefault(run.task, []).append(score)
    return scores


def evaluate(scores_at: Callable[[str, int], Scores] | None = None) -> list[Statement]:
    """Check all claims in the paper's own table and in scores of this package.

    Args:
        scores_at: benchmark, env steps -> the scores of runs of this package at that budget; None: the paper's table
            alone. :func:`final_scores` gives them.

    Returns:
        A statement about the paper's table for each claim whose numbers are printed, and one about our scores for each
        claim about methods of this package.
    """
    table = Evidence(paper_scores(), published=True)
    statements = []
    for claim in claims():
        if claim.printed:
            statements.append(Statement(claim, PAPER, claim.check(table)))
        else:
            nothing = Finding("not enough data", "no numbers", "the results are in a picture only")
            statements.append(Statement(claim, claim.place, nothing))
        if scores_at is not None and not (isinstance(claim.check, Median) and claim.check.method not in PAPER_COLUMNS):
            ours = Evidence(scores_at(claim.benchmark, claim.env_steps), published=False)
            statements.append(Statement(claim, OURS, claim.check(ours)))
    return statements


def claims() -> list[Claim]:
    """The paper's claims that can be counted, in the order of the paper."""
    return [*_dmc_claims(), *_atari_claims(), *_ablation_claims()]


def _dmc_claims() -> list[Claim]:
    tasks = tuple(task.removeprefix("dmc/") for task in task_names("dmc16"))
    above_state = ("cheetah-run", "finger-spin", "hopper-hop", "pendulum-swingup")
    return [
        *(
            Claim(
                f"better than CURL on DMControl, {env_steps // 1000}k",
                "our method outperforms the standard CURL on 14 out of 16 experiments",
                "section 4.4, Figure 3",
                "14 of 16",
                "dmc",
                env_steps,
                Wins("mcurl", "curl", 14, tasks),
                printed=False,
            )
            for env_steps in (100_000, 500_000)
        ),
        Claim(
            "better than state-SAC on four tasks",
            "in Cheetah-Run, Finger-Spin, Hopper-Hop and Pendulum-Swingup tasks, our method achieves higher scores "
            "than state-SAC",
            "section 4.4 (2), Figure 3",
            "4 of 4",
            "dmc",
            500_000,
            Above((("mcurl", "sac-state"),), above_state),
            printed=False,
        ),
    ]


def _atari_claims() -> list[Claim]:
    games = tuple(atari_random_and_human())
    caption = "Table 1, caption"

    def claim(name: str, words: str, place: str, said: str, check: Check) -> Claim:
        return Claim(name, words, place, said, "atari100k", 400_000, check)

    medians = {"mcurl": 24.2, "curl": 17.5, "simple": 14.4, "rl-only": 16.1, "otrainbow": 20.4}
    return [
        claim(
            "better than CURL on Atari",
            "outperforms CURL on 21 out of 26 environments",
            caption,
            "21 of 26",
            Wins("mcurl", "curl", 21, games),
        ),
        claim(
            "better than Efficient Rainbow on Atari",
            "implemented on top of Eff. Rainbow (van Hasselt et al., 2019), improves its performance on 24 out of 26 "
            "environments",
            caption,
            "24 of 26",
            Wins("mcurl", "rl-only", 24, games),
        ),
        claim(
            "best of all methods on Atari",
            "Our method achieves state-of-the-art performance on 10 out of 26 environments",
            caption,
            "10 of 26",
            Best("mcurl", ("curl", "rl-only", "simple", "otrainbow"), 10, games),
        ),
        claim(
            "above human",
            "M-CURL achieves super-human performances on JamesBond, Krull and Road Runner by 24%, 25% and 13% "
            "improvements",
            "section 4.4 (1)",
            "Jamesbond by 24 %, Krull by 25 %, RoadRunner by 13 %",
            Superhuman("mcurl", {"Jamesbond": 24, "Krull": 25, "RoadRunner": 13}, games),
        ),
        *(
            claim(
                f"median human-normalised score of {_label(method)}",
                f"Median HNS {percent}%",
                "Table 1, last row",
                f"{percent} %",
                Median(method, percent, games),
            )
            for method, percent in medians.items()
        ),
    ]


def _ablation_claims() -> list[Claim]:
    """Figures 4 and 5, on hopper-stand. Methods are the names of the arms in the suites of these figures."""

    def claim(name: str, words: str, place: str, *pairs: tuple[str, str]) -> Claim:
        check = Above(pairs, ("hopper-stand",))
        return Claim(name, words, place, f"{len(pairs)} of {len(pairs)}", "dmc", 500_000, check, printed=False)

    rates = [f"mcurl-mask_rate={rate}" for rate in (0.1, 0.3, 0.7, 0.9)]
    layers = [f"mcurl-layers={count}" for count in (1, 3, 4)]
    return [
        claim(
            "better than CURL with every masking probability",
            "Our method achieves better results than standard CURL w.r.t. different ρ_m",
            "section 5.1, Figure 4a",
            *((name, "curl") for name in ("mcurl", *rates)),
        ),
        claim(
            "masking probability 0.5 is best at 500k",
            "With 500k interactions, setting ρ_m as 0.5 achieves the best performance",
            "section 5.1, Figure 4a",
            *(("mcurl", name) for name in rates),
        ),
        claim(
            "consecutive inputs alone do not help CURL",
            "Compared to standard CURL, the results become even worse",
            "section 5.2 (1), Figure 4b",
            ("curl", "seq-curl"),
        ),
        claim(
            "a Transformer on the keys hurts",
            "using a symmetric architecture hurts the performance too",
            "section 5.2 (2), Figure 4b",
            ("mcurl", "sym-curl"),
        ),
        claim(
            "better than CURL with every number of layers",
            "all the four settings outperform the standard CURL baseline",
            "appendix B.2, Figure 5b",
            *((name, "curl") for name in ("mcurl", *layers)),
        ),
    ]
