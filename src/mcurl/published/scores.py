"""Published scores at the budgets of a benchmark, by source and task."""

from __future__ import annotations

import csv
from dataclasses import dataclass, field
from typing import NamedTuple

from mcurl.published import FOLDER, atari_random_and_human, table1

BUDGET = {"atari100k": 400_000, "dmc": 100_000}
"""Benchmark -> env steps at which methods are compared. On Atari these are frames, 4 per agent step."""
BUDGETS = {"atari100k": (400_000,), "dmc": (100_000, 500_000)}
"""Benchmark -> all env steps at which methods are compared; the first is :data:`BUDGET`."""
SCORE_BUDGETS = {"dmc": BUDGETS["dmc"], "atari": BUDGETS["atari100k"]}
"""Suite -> env steps at which its benchmarks compare methods."""
CURL_SEEDS = 10
"""Number of seeds of the scores in the CURL paper."""
DRQV2_AUTHORS = "drqv2(author)"
"""Name of DrQ-v2's curves as its authors published them, in ``dmc_published_at_100k_500k.csv``."""


def is_score(task: str, env_steps: int, action_repeat: int, budget: int) -> bool:
    """Whether an evaluation gives a score: at the end of the run, or the first at or after a budget of its benchmark.

    Args:
        task: ``suite/name``.
        env_steps: simulator steps so far.
        action_repeat: simulator steps per agent step.
        budget: simulator steps of the run.
    """
    marks = SCORE_BUDGETS.get(task.partition("/")[0], ())
    return env_steps >= budget or any(mark <= env_steps < mark + action_repeat for mark in marks)


class Score(NamedTuple):
    """A score over seeds."""

    mean: float
    """Mean over seeds."""
    std: float | None = None
    """Standard deviation over seeds, if known."""
    seeds: int | None = None
    """Number of seeds, if known."""

    def __str__(self) -> str:
        digits = 1 if abs(self.mean) < 100 else 0
        spread = "" if self.std is None else f" ± {self.std:.{digits}f}"
        count = "" if self.seeds is None else f" ({seeds(self.seeds)})"
        return f"{self.mean:.{digits}f}{spread}{count}"


def seeds(count: int) -> str:
    """``"1 seed"``, ``"2 seeds"``, ..."""
    return f"{count} seed{'s' if count > 1 else ''}"


@dataclass(frozen=True)
class Source:
    """The scores of one method in one publication."""

    name: str
    """Method and publication, for tables and plots."""
    method: str | None
    """Name of the method in this package, with the agent as in ``run.names``; None for a random policy."""
    scores: dict[str, Score] = field(repr=False)
    """Task -> score. Words in the name of a task are separated by underscores."""
    beside_own: bool = False
    """True: shown only beside a run of its method."""

    def score(self, task: str) -> Score | None:
        """The score of a task, whose name has no suite; None if there is none."""
        return self.scores.get(task.replace("-", "_"))


def sources(benchmark: str, env_steps: int | None = None) -> list[Source]:
    """The sources of a benchmark; empty if there are none.

    Args:
        benchmark: ``"dmc"`` or ``"atari100k"``.
        env_steps: one of the benchmark's budgets; None: :data:`BUDGET`.
    """
    if benchmark == "atari100k":
        return _atari()
    return _dmc(env_steps or BUDGET["dmc"]) if benchmark == "dmc" else []


def _atari() -> list[Source]:
    """Table 1 of the M-CURL paper, and means of final scores over 100 runs (Agarwal et al., 2021)."""

    def paper(name: str, method: str, column: str) -> Source:
        scores = {game: Score(row[column]) for game, row in table1().items()}
        return Source(f"{name}, M-CURL paper", method, scores)

    def final(name: str, method: str, column: str) -> Source:
        rows = read_rows("atari100k_published_per_game.csv")
        return Source(
            f"{name}, mean of final scores",
            method,
            {row["game"]: Score(float(row[column])) for row in rows if row[column]},
        )

    return [
        paper("M-CURL", "mcurl", "m_curl"),
        paper("CURL (maxima over evaluations)", "curl", "curl"),
        paper("Efficient Rainbow", "rl-only", "efficient_rainbow"),
        final("CURL", "curl", "CURL_rliable100"),
        final("Efficient Rainbow", "rl-only", "DER_rliable100"),
        Source("random", None, {game: Score(random) for game, (random, _) in atari_random_and_human().items()}),
    ]


def _dmc(env_steps: int) -> list[Source]:
    """CURL, SAC and DrQ-v2 from pixels."""

    def used(row: dict[str, str]) -> bool:
        return row["env_steps"] == str(env_steps) and row["input"] == "pixels"

    tables = [
        row
        for row in read_rows("dmc_published_tables.csv")
        if used(row) and row["method"] == "CURL" and "CURL paper" in row["source"]
    ]
    reruns = [row for row in read_rows("dmc_published_at_100k_500k.csv") if used(row)]

    def rerun(name: str, method: str, column: str, *, beside_own: bool = False) -> Source:
        rows = [row for row in reruns if row["method"] == column]
        return Source(
            name,
            method,
            {row["task"]: Score(float(row["mean"]), float(row["std_over_seeds"]), int(row["n_seeds"])) for row in rows},
            beside_own,
        )

    return [
        Source(
            "CURL, CURL paper",
            "curl",
            {row["task"]: Score(float(row["mean"]), float(row["std"]), CURL_SEEDS) for row in tables},
        ),
        rerun("CURL, later rerun", "curl", "curl"),
        rerun("SAC, rerun", "rl-only-nocrop", "sac"),
        rerun("DrQ-v2, its authors' curves", "drqv2-rl-only", DRQV2_AUTHORS, beside_own=True),
    ]


def read_rows(name: str) -> list[dict[str, str]]:
    """The rows of a CSV file of this package."""
    with (FOLDER / name).open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))
