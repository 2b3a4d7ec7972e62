"""A Markdown table that compares scores at a benchmark's budget with published ones."""

from __future__ import annotations

from pathlib import Path
from statistics import fmean, stdev

from mcurl.errors import UserError, suggest
from mcurl.published import atari_random_and_human, human_normalised
from mcurl.published.scores import BUDGET, Score, seeds, sources
from mcurl.report.collect import load, method_label, tasks
from mcurl.report.curves import sort_methods


def markdown(results: Path, benchmark: str) -> str:
    """Make the table, with one row for each task with a run that reached the benchmark's budget.

    A run that continued beyond the budget counts with its score at the budget.

    Args:
        results: folder of the results.
        benchmark: ``"dmc"`` or ``"atari100k"``.

    Raises:
        UserError: there are no published scores of the benchmark, or no run has reached its budget.
    """
    if benchmark not in BUDGET:
        raise UserError(f"there are no published scores of {benchmark!r}: {suggest(benchmark, BUDGET)}")
    names = [name for other, name in tasks(results) if other == benchmark]
    if not names:
        raise UserError(f"{results} has no results of {benchmark}")
    own_scores = {name: scores for name in names if (scores := scores_at(BUDGET[benchmark], results, benchmark, name))}
    if not own_scores:
        raise UserError(f"no run of {benchmark} in {results} has reached {BUDGET[benchmark]:,} env steps yet")
    methods = sort_methods({method for scores in own_scores.values() for method in scores})
    published = sources(benchmark)
    task_of = {method: task for task, scores in own_scores.items() for method in scores}
    labels = [method_label(results, benchmark, method, task_of[method]) for method in methods]
    lines = [["task", *(f"{label}, this package" for label in labels), *(source.name for source in published)]]
    for task, scores in own_scores.items():
        lines.append(
            [
                task,
                *(_cell(task, benchmark, scores.get(method)) for method in methods),
                *(str(source.score(task) or "") for source in published),
            ]
        )
    rule = ["---", *["---:"] * (len(lines[0]) - 1)]
    return "\n".join(f"| {' | '.join(line)} |" for line in [lines[0], rule, *lines[1:]])


def scores_at(env_steps: int, results: Path, benchmark: str, name: str) -> dict[str, list[float]]:
    """Method -> scores of the seeds that were evaluated at ``env_steps``. Methods without scores are omitted."""
    scores = {
        method: [points[env_steps] for points in seeds.values() if env_steps in points]
        for method, seeds in load(results, benchmark, name).items()
    }
    return {method: values for method, values in scores.items() if values}


def _cell(task: str, benchmark: str, scores: list[float] | None) -> str:
    """Mean and standard deviation over seeds, number of seeds, and on Atari the human-normalised mean."""
    if not scores:
        return ""
    score = Score(fmean(scores), stdev(scores) if len(scores) > 1 else None)
    normalised = (
        f", {human_normalised(task, score.mean):.2f}"
        if benchmark == "atari100k" and task in atari_random_and_human()
        else ""
    )
    return f"{score} ({seeds(len(scores))}{normalised})"
