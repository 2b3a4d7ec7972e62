"""What others published at the budget at which we compare: for each benchmark its sources, each with a score for every
task that it covers."""

from __future__ import annotations

import csv
from dataclasses import dataclass, field
from typing import NamedTuple

from mcurl.published import FOLDER, atari_random_and_human, table1

BUDGET = {"atari100k": 400_000, "dmc": 100_000}
"""Env steps at which methods are compared (Atari: frames, 100k agent steps of four)."""


class Score(NamedTuple):
    """A mean, and what is known of the seeds behind it: their standard deviation and their number."""

    mean: float
    std: float | None = None
    seeds: int | None = None

    def __str__(self) -> str:
        digits = 1 if abs(self.mean) < 100 else 0
        spread = "" if self.std is None else f" ± {self.std:.{digits}f}"
        count = "" if self.seeds is None else f" ({seeds(self.seeds)})"
        return f"{self.mean:.{digits}f}{spread}{count}"


def seeds(count: int) -> str:
    return f"{count} seed{'s' if count > 1 else ''}"


@dataclass(frozen=True)
class Source:
    """Scores of one method from one place."""

    name: str
    """Method and place, for people."""
    method: str | None
    """Our name for the method; None for what is not a method here (a random player)."""
    scores: dict[str, Score] = field(repr=False)
    """By task, as its place spells it."""

    def score(self, task: str) -> Score | None:
        """Of a task without its suite, in our spelling; None where there is none."""
        return self.scores.get(task.replace("-", "_"))


def sources(benchmark: str) -> list[Source]:
    """What is published for a benchmark; empty where nothing is."""
    return {"atari100k": _atari, "dmc": _dmc}.get(benchmark, list)()


def _atari() -> list[Source]:
    """The paper's Table 1, and means of final scores over 100 runs (Agarwal et al., 2021)."""

    def paper(name: str, method: str, column: str) -> Source:
        return Source(f"{name}, the paper", method, {game: Score(scores[column]) for game, scores in table1().items()})

    def final(name: str, method: str, column: str) -> Source:
        rows = _rows("atari100k_published_per_game.csv")
        return Source(
            f"{name}, mean of final scores",
            method,
            {row["game"]: Score(float(row[column])) for row in rows if row[column]},
        )

    return [
        paper("M-CURL", "mcurl", "m_curl"),
        paper("CURL", "curl", "curl"),
        paper("Efficient Rainbow", "rl-only", "efficient_rainbow"),
        final("CURL", "curl", "CURL_rliable100"),
        final("Efficient Rainbow", "rl-only", "DER_rliable100"),
        Source("random", None, {game: Score(random) for game, (random, _) in atari_random_and_human().items()}),
    ]


def _dmc() -> list[Source]:
    """CURL and SAC from pixels."""
    tables = [
        row
        for row in _rows("dmc_published_tables.csv")
        if _at_100k(row) and row["method"] == "CURL" and "CURL paper" in row["source"]
    ]
    reruns = [row for row in _rows("dmc_published_at_100k_500k.csv") if _at_100k(row)]

    def rerun(name: str, method: str, column: str) -> Source:
        rows = [row for row in reruns if row["method"] == column]
        return Source(
            name,
            method,
            {row["task"]: Score(float(row["mean"]), float(row["std_over_seeds"]), int(row["n_seeds"])) for row in rows},
        )

    return [
        Source(
            "CURL, its paper",
            "curl",
            {row["task"]: Score(float(row["mean"]), float(row["std"]), CURL_SEEDS) for row in tables},
        ),
        rerun("CURL, a later rerun", "curl", "curl"),
        rerun("SAC, a rerun", "rl-only-nocrop", "sac"),
    ]


CURL_SEEDS = 10
"""Behind CURL's own table."""


def _at_100k(row: dict[str, str]) -> bool:
    return row["env_steps"] == str(BUDGET["dmc"]) and row["input"] == "pixels"


def _rows(name: str) -> list[dict[str, str]]:
    with (FOLDER / name).open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))
