"""What a report contains: sections of tables, figures and claims, from scores and published columns."""

from __future__ import annotations

from collections.abc import Sequence

from mcurl.errors import UserError
from mcurl.published.catalogue import choose
from mcurl.published.scores import BUDGETS
from mcurl.report import summary
from mcurl.report.curves import arm_styles, curves
from mcurl.report.model import Block, Report, Section, count
from mcurl.report.plan import FEWEST, PlanScores, SuiteLike, plans_of_runs, plans_of_suite, thousands
from mcurl.report.score_tables import normalised_table, provenance_table, score_table
from mcurl.report.scores import RunScores, cells

SCORES = {
    "atari100k": "The score is the mean of 100 full games, unless noted, with the final weights, after 400k frames.",
    "dmc": "The score is the mean return of the first evaluation at or after the budget, within one agent step.",
}


def report(
    runs: Sequence[RunScores],
    suites: Sequence[SuiteLike] = (),
    published: Sequence[str] | None = None,
    command: str = "",
) -> Report:
    """The report over some runs.

    Args:
        runs: see :func:`mcurl.report.store.read`.
        suites: a section for each; none: a section for each benchmark that has runs.
        published: names of published columns; None: the default ones.
        command: the command that makes the report.

    Raises:
        UserError: there is no published column of a name, or no run to show.
    """
    plans = [plan for suite in suites for plan in plans_of_suite(suite)] or plans_of_runs(runs)
    compared = [PlanScores(plan, runs) for plan in plans]
    shown = list({(*run.cell, run.seed, run.source): run for scores in compared for run in scores.runs}.values())
    if not shown:
        raise UserError(_nothing(suites, compared))
    sections = [section(scores, published) for scores in compared]
    how = Section("provenance", "How each score was made", (), (provenance_table(shown),))
    title = suites[0].title if len(suites) == 1 else "M-CURL: scores"
    return Report(title, _summary(shown), (*sections, how), command)


def _nothing(suites: Sequence[SuiteLike], compared: Sequence[PlanScores]) -> str:
    """Why no run is shown."""
    if not suites:
        return "there are no runs to report"
    different = [text for scores in compared for text in scores.different]
    why = f"; not those of its arms: {different[0]}" if different else ""
    names = " or ".join(suite.name for suite in suites)
    return f"no run belongs to {names}: see `mcurl suite show`{why}"


def _summary(runs: Sequence[RunScores]) -> tuple[str, ...]:
    groups = cells(runs)
    tasks = {(benchmark, task) for benchmark, task, _ in groups}
    beside = ", beside published scores" if any(benchmark in BUDGETS for benchmark, _ in tasks) else ""
    text = f"{count(len(runs), 'run')} of {count(len(tasks), 'task')}{beside}."
    if unfinished := sum(not run.finished for run in runs):
        text += f" {unfinished} of them {'is' if unfinished == 1 else 'are'} unfinished."
    most = max(len(group) for group in groups.values())
    if most >= FEWEST:
        return (text,)
    few = f"No method has more than {count(most, 'seed')} on a task: nothing here says which method is better."
    return text, few


def section(scores: PlanScores, published: Sequence[str] | None = None) -> Section:
    """The section of a plan: tables of scores, and learning curves.

    Args:
        scores: the plan and its runs.
        published: names of ``published.catalogue``; None: the default columns.

    Raises:
        UserError: there is no published column of a name.
    """
    plan = scores.plan
    columns = choose(plan.benchmark, published, {arm.method for arm in plan.arms})
    blocks: list[Block] = []
    for budget in plan.budgets:
        table = score_table(scores, columns, budget)
        blocks += [table, normalised_table(table)] if plan.benchmark == "atari100k" else [table]
    blocks.append(curves(scores, columns))
    if plan.benchmark in BUDGETS:
        style = arm_styles(plan.arms)
        labels = {arm.name: (arm.label, style[arm.name]) for arm in plan.arms}
        for budget in plan.budgets:
            key = f"{plan.key}-{thousands(budget)}"
            blocks += summary.statistics(key, plan.benchmark, labels, scores.runs, budget, columns)
        arms = None if plan.expected is None else set(labels)
        claims = summary.claims(plan.key, plan.benchmark, scores.runs, arms, set(plan.tasks))
        blocks += [claims] if claims else []
    return Section(plan.key, plan.title, _introduction(scores), tuple(blocks))


def _introduction(scores: PlanScores) -> tuple[str, ...]:
    plan = scores.plan
    lines = [SCORES[plan.benchmark]] if plan.benchmark in SCORES else []
    if plan.source:
        lines.insert(0, f"{plan.source}.")
    if plan.expected is not None:
        asked = len(plan.tasks) * len(plan.arms) * plan.expected
        places = [(task, arm) for task in plan.tasks for arm in plan.arms]
        done = sum(min(len(scores.scores(task, arm, plan.budgets[-1])), plan.expected) for task, arm in places)
        lines.append(f"{done} of {count(asked, 'run')} are there, to {thousands(plan.budgets[-1])} env steps.")
    if scores.different:
        lines.append(f"Not shown, because their settings are not those of the suite: {', '.join(scores.different)}.")
    return tuple(lines)
