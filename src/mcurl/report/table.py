"""Our scores at a benchmark's budget beside published ones, as a Markdown table."""

from __future__ import annotations

from pathlib import Path
from statistics import fmean, stdev

from mcurl.errors import UserError, suggest
from mcurl.published import atari_random_and_human, human_normalised
from mcurl.published.scores import BUDGET, Score, seeds, sources
from mcurl.report.collect import label_of, load, tasks
from mcurl.report.curves import in_order


def markdown(results: Path, benchmark: str) -> str:
    """One line for each task with a run that reached the benchmark's budget; where runs went on, their scores at it.

    Args:
        benchmark: ``"dmc"`` or ``"atari100k"``: a folder of ``results``.

    Raises:
        UserError: no run of it has reached the budget, or nothing is published for it.
    """
    if benchmark not in BUDGET:
        raise UserError(f"nothing is published here for {benchmark!r}: {suggest(benchmark, BUDGET)}")
    names = [name for of, name in tasks(results) if of == benchmark]
    if not names:
        raise UserError(f"{results} has no results of {benchmark}")
    ours = {name: scores for name in names if (scores := scores_at(BUDGET[benchmark], results, benchmark, name))}
    if not ours:
        raise UserError(f"no run of {benchmark} in {results} has reached {BUDGET[benchmark]:,} env steps yet")
    methods = in_order({method for scores in ours.values() for method in scores})
    others = sources(benchmark)
    task_of = {method: task for task, scores in ours.items() for method in scores}
    labels = [label_of(results, benchmark, method, task_of[method]) for method in methods]
    lines = [["task", *(f"{label} here" for label in labels), *(source.name for source in others)]]
    for task, scores in ours.items():
        lines.append(
            [
                task,
                *(_ours(task, benchmark, scores.get(method)) for method in methods),
                *(str(source.score(task) or "") for source in others),
            ]
        )
    rule = ["---", *["---:"] * (len(lines[0]) - 1)]
    return "\n".join(f"| {' | '.join(line)} |" for line in [lines[0], rule, *lines[1:]])


def scores_at(env_steps: int, results: Path, benchmark: str, name: str) -> dict[str, list[float]]:
    """Method -> the score of each seed that was evaluated at ``env_steps``; methods without one are left out."""
    found = {
        method: [points[env_steps] for points in seeds.values() if env_steps in points]
        for method, seeds in load(results, benchmark, name).items()
    }
    return {method: scores for method, scores in found.items() if scores}


def _ours(task: str, benchmark: str, scores: list[float] | None) -> str:
    """Mean and standard deviation over seeds, how many there are, and on Atari how the mean stands between random and
    human."""
    if not scores:
        return ""
    score = Score(fmean(scores), stdev(scores) if len(scores) > 1 else None)
    normalised = (
        f", {human_normalised(task, score.mean):.2f}"
        if benchmark == "atari100k" and task in atari_random_and_human()
        else ""
    )
    return f"{score} ({seeds(len(scores))}{normalised})"
