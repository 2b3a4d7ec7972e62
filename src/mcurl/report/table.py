"""Our scores at a benchmark's budget beside published ones, as a Markdown table."""

from __future__ import annotations

import csv
from collections.abc import Callable
from functools import partial
from pathlib import Path
from statistics import fmean, stdev
from typing import NamedTuple

from mcurl.errors import UserError, nearest
from mcurl.published import FOLDER, atari_random_and_human, human_normalised, table1
from mcurl.report.collect import ATARI_100K, load
from mcurl.report.curves import NAMES


class Score(NamedTuple):
    """A mean, and what is known of the seeds behind it: their standard deviation and their number."""

    mean: float
    std: float | None = None
    seeds: int | None = None

    def __str__(self) -> str:
        digits = 1 if abs(self.mean) < 100 else 0
        spread = "" if self.std is None else f" ± {self.std:.{digits}f}"
        return f"{self.mean:.{digits}f}{spread}"


Column = tuple[str, Callable[[str], Score | None]]
"""A heading, and the score of a task, where there is one."""


def markdown(results: Path, benchmark: str) -> str:
    """One line for each task with a run that reached the benchmark's budget; where runs went on, their scores at it.

    Args:
        benchmark: ``"dmc"`` or ``"atari100k"``: a folder of ``results``.

    Raises:
        UserError: no run of it has reached the budget, or nothing is published for it.
    """
    if benchmark not in PUBLISHED:
        raise UserError(f"nothing is published here for {benchmark!r}: {nearest(benchmark, PUBLISHED)}")
    names = sorted({path.stem for path in (results / benchmark).glob("*/*.csv")})
    if not names:
        raise UserError(f"{results} has no results of {benchmark}")
    ours = {name: scores for name in names if (scores := scores_at(BUDGET[benchmark], results, benchmark, name))}
    if not ours:
        raise UserError(f"no run of {benchmark} in {results} has reached {BUDGET[benchmark]:,} env steps yet")
    found = {method for scores in ours.values() for method in scores}
    methods = sorted(found, key=lambda method: (list(NAMES).index(method) if method in NAMES else len(NAMES), method))
    columns = PUBLISHED[benchmark]()
    lines = [["task", *(f"{NAMES.get(method, method)} here" for method in methods), *(name for name, _ in columns)]]
    for task, scores in ours.items():
        lines.append([task, *(_ours(task, benchmark, scores.get(method)) for method in methods), *(_published(score(task)) for _, score in columns)])
    rule = ["---", *["---:"] * (len(lines[0]) - 1)]
    return "\n".join(f"| {' | '.join(line)} |" for line in [lines[0], rule, *lines[1:]])


def scores_at(env_steps: int, results: Path, benchmark: str, name: str) -> dict[str, list[float]]:
    """Method -> the score of each seed that was evaluated at ``env_steps``; methods without one are left out."""
    found = {method: [points[env_steps] for points in seeds.values() if env_steps in points] for method, seeds in load(results, benchmark, name).items()}
    return {method: scores for method, scores in found.items() if scores}


def _ours(task: str, benchmark: str, scores: list[float] | None) -> str:
    """Mean and standard deviation over seeds, how many there are, and on Atari how the mean stands between random and human."""
    if not scores:
        return ""
    score = Score(fmean(scores), stdev(scores) if len(scores) > 1 else None, len(scores))
    normalised = f", {human_normalised(task, score.mean):.2f}" if benchmark == "atari100k" and task in atari_random_and_human() else ""
    return f"{score} ({_seeds(len(scores))}{normalised})"


def _published(score: Score | None) -> str:
    if score is None:
        return ""
    return str(score) if score.seeds is None else f"{score} ({_seeds(score.seeds)})"


def _seeds(count: int) -> str:
    return f"{count} seed{'s' if count > 1 else ''}"


def _atari_columns() -> list[Column]:
    paper = {game: {method: Score(score) for method, score in scores.items()} for game, scores in table1().items()}
    columns: list[Column] = [(f"{name}, the paper", partial(_of, paper, method)) for name, method in _PAPER.items()]
    final = {
        row["game"]: {name: Score(float(value)) for name, value in row.items() if name in _FINAL.values() and value}
        for row in _rows("atari100k_published_per_game.csv")
    }
    columns += [(f"{name}, mean of final scores", partial(_of, final, column)) for name, column in _FINAL.items()]
    random = {game: {"random": Score(scores[0])} for game, scores in atari_random_and_human().items()}
    return [*columns, ("random", partial(_of, random, "random"))]


_PAPER = {"M-CURL": "m_curl", "CURL": "curl", "Efficient Rainbow": "efficient_rainbow"}
_FINAL = {"CURL": "CURL_rliable100", "Efficient Rainbow": "DER_rliable100"}


def _dmc_columns() -> list[Column]:
    """CURL and SAC from pixels at 100k env steps."""
    tables = {
        row["task"]: {"CURL": Score(float(row["mean"]), float(row["std"]))}
        for row in _rows("dmc_published_tables.csv")
        if _at_100k(row) and "CURL paper" in row["source"] and row["method"] == "CURL"
    }
    reruns: dict[str, dict[str, Score]] = {}
    for row in _rows("dmc_published_at_100k_500k.csv"):
        if _at_100k(row):
            reruns.setdefault(row["task"], {})[row["method"]] = Score(float(row["mean"]), float(row["std_over_seeds"]), int(row["n_seeds"]))

    def of(scores: dict[str, dict[str, Score]], method: str, task: str) -> Score | None:
        return _of(scores, method, task.replace("-", "_"))

    return [
        ("CURL, its paper", partial(of, tables, "CURL")),
        ("CURL, a later rerun", partial(of, reruns, "curl")),
        ("SAC, a rerun", partial(of, reruns, "sac")),
    ]


def _at_100k(row: dict[str, str]) -> bool:
    return row["env_steps"] == "100000" and row["input"] == "pixels"


def _of(scores: dict[str, dict[str, Score]], column: str, task: str) -> Score | None:
    return scores.get(task, {}).get(column)


def _rows(name: str) -> list[dict[str, str]]:
    with (FOLDER / name).open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


PUBLISHED = {"atari100k": _atari_columns, "dmc": _dmc_columns}
BUDGET = {"atari100k": ATARI_100K, "dmc": 100_000}
"""Env steps at which methods are compared, ours and the published ones."""
