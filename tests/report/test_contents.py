"""Scores -> the tables, figures and claims of a report."""

from __future__ import annotations

import csv
import re
from dataclasses import replace
from pathlib import Path

import pytest
from examples import run

from mcurl.errors import UserError
from mcurl.published import atari_random_and_human, table1
from mcurl.published.catalogue import catalogue, choose
from mcurl.report.contents import report, section
from mcurl.report.curves import arm_styles, task_figure
from mcurl.report.files import write
from mcurl.report.model import Cell, Claims, Figure, Report, Table
from mcurl.report.palette import STEPS
from mcurl.report.plan import PlanScores, ShownArm, plan_of_benchmark, plans_of_suite
from mcurl.report.scores import RunScores, merge
from mcurl.report.store import read
from mcurl.report.text import figure_csv
from mcurl.suites.suite import Arm, Suite

RESULTS = Path(__file__).parents[2] / "results"
GAMES = list(atari_random_and_human())


SMALL = Suite(
    name="small",
    title="Small",
    source="nowhere",
    arms=(Arm("mcurl", "M-CURL", "mcurl"), Arm("curl", "CURL", "curl")),
    tasks=("dmc/cartpole-swingup", "dmc/hopper-hop"),
    seeds=(1, 2, 3),
    env_steps=500_000,
    score_at=(100_000, 500_000),
)


def block(found: Report, key: str) -> Table | Figure | Claims:
    return next(block for block in found.blocks() if block.key == key)


def table(found: Report, key: str) -> dict[str, dict[str, Cell]]:
    """First cell of a row -> key of a column -> cell."""
    result = block(found, key)
    assert isinstance(result, Table)
    keys = [column.key for column in result.columns]
    return {row[0].text: dict(zip(keys, row, strict=True)) for row in (*result.rows, *result.footer)}


def figure(found: Report, key: str) -> Figure:
    result = block(found, key)
    assert isinstance(result, Figure)
    return result


def curve(last: float, steps: int = 500_000) -> dict[int, float]:
    return {0: 1.0, steps // 5: last / 2, steps: last}


def test_the_shipped_results_stand_beside_the_published_table() -> None:
    found = report(read([RESULTS]))
    rows = table(found, "atari100k-scores-400k")
    assert list(rows) == GAMES
    assert rows["Krull"]["published_m-curl"].value == table1()["Krull"]["m_curl"]
    assert rows["Krull"]["rl-only"].seeds == 2
    assert rows["Krull"]["rl-only"].value == pytest.approx(3044, abs=1)
    assert rows["Krull"]["reference_human"].value == 2665.5
    assert rows["Alien"]["mcurl"].missing
    assert "RoadRunner, M-CURL, seed 3: stuck" in figure(found, "atari100k-curves").caption
    human = table(found, "atari100k-scores-400k-human")
    medians = {"m-curl": 24.2, "curl": 17.5, "efficient-rainbow": 16.1, "simple": 14.4}
    for name, percent in medians.items():
        assert human["Median"][f"published_{name}"].main() == f"{percent}"
    assert human["Median"]["mcurl"].missing


def test_columns_with_maxima_say_so() -> None:
    assert "maxima" in catalogue("atari100k")["curl"].note
    found = report(read([RESULTS]), published=["curl", "curl-maxima"])
    result = block(found, "atari100k-scores-400k")
    assert isinstance(result, Table)
    assert [column.key for column in result.columns][-2:] == ["published_curl", "published_curl-maxima"]
    assert all("axima" in column.note or "highest" in column.note for column in result.columns[-2:])


def test_an_unknown_published_column_is_one_line() -> None:
    with pytest.raises(UserError, match="did you mean curl"):
        report(read([RESULTS]), published=["crul"])
    assert [column.name for column in choose("dmc", ["bbf", "sac"])] == ["sac"]


def test_missing_runs_of_a_suite_are_shown_as_missing() -> None:
    runs = [run("cartpole-swingup", "mcurl", seed, curve(100.0 * seed)) for seed in (1, 2)]
    found = report(runs, [SMALL])
    assert found.title == "Small"
    assert "2 of 12 runs are there, to 500k env steps." in found.sections[0].paragraphs
    rows = table(found, "small-scores-500k")
    assert rows["cartpole-swingup"]["mcurl"].detail() == "± 71, 2 of 3 seeds"
    assert rows["cartpole-swingup"]["curl"].missing
    assert rows["hopper-hop"]["mcurl"].missing
    assert [panel.note for panel in figure(found, "small-curves").panels] == ["", "no run yet"]


def test_a_score_is_that_of_its_budget_and_a_run_that_ended_before_has_none() -> None:
    found = report([run("cartpole-swingup", "mcurl", 1, curve(100.0)), run("hopper-hop", "mcurl", 1, {100_000: 7.0})])
    assert table(found, "dmc-scores-100k")["cartpole-swingup"]["mcurl"].value == 50
    assert table(found, "dmc-scores-500k")["hopper-hop"]["mcurl"].missing


def test_the_best_is_marked_only_with_three_seeds() -> None:
    names = {"mcurl": 100.0, "curl": 90.0}
    three = [run("cartpole-swingup", name, seed, curve(last)) for name, last in names.items() for seed in (1, 2, 3)]
    rows = table(report(three), "dmc-scores-500k")["cartpole-swingup"]
    assert (rows["mcurl"].strong, rows["curl"].strong) == (True, False)
    rows = table(report(three[:-1]), "dmc-scores-500k")["cartpole-swingup"]
    assert (rows["mcurl"].strong, rows["curl"].strong) == (False, False)


def test_a_mean_has_a_band_from_three_seeds_and_only_over_steps_that_all_have() -> None:
    runs = [run("cartpole-swingup", "mcurl", seed, {0: 0.0, 1000: 10.0 * seed}) for seed in (1, 2, 3)]
    runs.append(run("cartpole-swingup", "mcurl", 4, {0: 0.0, 500: 3.0, 1000: 40.0}))
    (series,) = task_figure(runs, "dmc", "cartpole-swingup").panels[0].series
    assert series.mean == ((0, 0), (1000, 25))
    low, high = series.band[1][1:]
    assert (low + high) / 2 == pytest.approx(25)
    assert high - low == pytest.approx(2 * 12.91, abs=0.01)
    assert series.label == "mcurl (4 seeds)"
    (pair,) = task_figure(runs[:2], "dmc", "cartpole-swingup").panels[0].series
    assert pair.band == ()
    assert len(pair.seeds) == 2


def test_an_unfinished_run_is_dotted_marked_and_not_in_a_mean() -> None:
    half = run("cartpole-swingup", "mcurl", 2, {0: 0.0, 1000: 90.0}, budget=500_000)
    whole = run("cartpole-swingup", "mcurl", 1, curve(100.0))
    (series,) = task_figure([half], "dmc", "cartpole-swingup").panels[0].series
    assert series.partial
    assert "unfinished" in series.label
    (series,) = task_figure([half, whole], "dmc", "cartpole-swingup").panels[0].series
    assert series.mean[-1] == (500_000, 100)
    assert series.unfinished == (((0, 0), (1000, 90)),)
    both = report([half, whole])
    assert "1 of them is unfinished" in both.paragraphs[0]
    assert "Dotted: unfinished runs." in figure(both, "dmc-curves").caption
    assert "Thin" not in figure(both, "dmc-curves").caption
    assert "unfinished, of 500,000 env steps" in table(report([half]), "runs").popitem()[1]["note"].text


def test_what_must_be_known_of_a_score_is_its_footnote() -> None:
    runs = [
        run("cartpole-swingup", "mcurl", 1, curve(1.0), note="seed chosen", packages={"mujoco": "3.11"}),
        run("cartpole-swingup", "mcurl", 2, curve(2.0), packages={"mujoco": "3.17"}),
    ]
    note = table(report(runs), "dmc-scores-500k")["cartpole-swingup"]["mcurl"].note
    assert "seed 1: seed chosen" in note
    assert "mujoco 3.11" in note
    assert "mujoco 3.17" in note
    caption = task_figure(runs, "dmc", "cartpole-swingup").caption
    assert caption.count("seed chosen") == 1
    assert "mcurl: made with different simulators" in caption


def test_published_marks_stand_at_the_budgets_that_the_runs_reach() -> None:
    short = task_figure([run("cartpole-swingup", "curl", 1, {0: 1.0, 2000: 2.0})], "dmc", "cartpole-swingup")
    assert short.panels[0].marks == ()
    assert short.x_range is not None
    assert short.x_range[1] < 2200
    assert "not shown" in short.caption
    whole = task_figure([run("cartpole-swingup", "curl", 1, curve(2.0))], "dmc", "cartpole-swingup")
    near = [[mark for mark in whole.panels[0].marks if mark.x == budget] for budget in (100_000, 500_000)]
    assert [len(marks) for marks in near] == [2, 2]
    assert near[0][0].label == "CURL, CURL paper"
    assert (near[0][0].y, near[0][0].std) == (582, 146)
    assert len({mark.shape for mark in near[0]}) == 2
    assert "published scores at 100k and 500k" in whole.caption


def test_published_curves_stand_where_they_have_a_point() -> None:
    curve_to_40k = {0: 377.2, 20_000: 378.9, 40_000: 962.5}
    figure = task_figure([run("cartpole-balance", "drqv2-rl-only", 1, curve_to_40k)], "dmc", "cartpole-balance")
    marks = figure.panels[0].marks
    assert [(mark.y, mark.std) for mark in marks] == [(373.9, 67.1), (374.7, 129.2), (834.9, 192.5)]
    assert [mark.x for mark in marks] == list(curve_to_40k)
    assert all(0 < mark.drawn_x - mark.x < 2000 for mark in marks)
    rows = list(csv.DictReader(figure_csv(figure).splitlines()))
    assert [row["x"] for row in rows if row["kind"] == "published"] == ["0", "20000", "40000"]
    assert {mark.label for mark in marks} == {"DrQ-v2, its authors' curves"}
    assert {mark.style for mark in marks} == {figure.panels[0].series[0].style}  # DrQ-v2 has no colour of its own
    assert "published scores at 0, 20k and 40k" in figure.caption


def test_atari_has_the_lines_of_a_human_and_a_random_policy() -> None:
    krull = run("Krull", "mcurl", 1, {0: 1.0}, benchmark="atari100k")
    lines = task_figure([krull], "atari100k", "Krull").panels[0].lines
    assert {line.label: line.y for line in lines} == {"human": 2665.5, "random policy": 1598.0}
    assert len({line.dash for line in lines}) == 2


def test_arms_of_a_sweep_have_a_scale_and_methods_their_colours() -> None:
    sweep = [ShownArm(f"mcurl-{i}", "", "mcurl") for i in range(4)]
    found = arm_styles([*sweep, ShownArm("curl", "", "curl")])
    assert {found[arm.name] for arm in sweep} <= set(STEPS)
    assert found["curl"] == "curl"
    others = [ShownArm(name, "", "mcurl") for name in ("mcurl", "mcurl-50k", "mcurl-amx")]
    assert arm_styles(others)["mcurl"] == "mcurl"  # the method itself keeps its colour beside other arms
    others = [ShownArm(name, "", "mcurl") for name in ("mcurl-layers=1", "mcurl", "mcurl-layers=3")]
    assert arm_styles(others)["mcurl"] in STEPS
    names = {"mcurl": "mcurl", "mcurl-conv": "mcurl", "curl-50k": "curl"}
    found = arm_styles([ShownArm(name, "", method) for name, method in names.items()])
    assert (found["mcurl"], found["curl-50k"]) == ("mcurl", "curl")
    assert found["mcurl-conv"].startswith("other-")


def all_games(scale: float, name: str, seeds: int) -> list[RunScores]:
    return [
        run(game, name, seed, {400_000: scale * table1()[game]["m_curl"] + seed}, benchmark="atari100k")
        for game in GAMES
        for seed in range(1, seeds + 1)
    ]


def test_statistics_have_intervals_from_three_seeds() -> None:
    found = report([*all_games(1.0, "mcurl", 3), *all_games(0.9, "curl", 3)])
    rows = table(found, "atari100k-400k-aggregates")
    own = rows["M-CURL"] if rows["M-CURL"]["basis"].text == "this package" else rows["mcurl"]
    assert own["tasks"].value == 26
    assert own["median"].interval is not None
    result = block(found, "atari100k-400k-aggregates")
    assert isinstance(result, Table)
    published = {row[0].text: row for row in result.rows if row[1].text == "M-CURL paper"}
    assert published["M-CURL"][4].main() == "24.2"
    assert table(found, "atari100k-400k-improvement")["mcurl"]["probability"].interval is not None
    profile = figure(found, "atari100k-400k-profiles")
    assert profile.panels[0].series[0].mean[0][1] <= 1
    few = report([*all_games(1.0, "mcurl", 2), *all_games(0.9, "curl", 2)])
    rows = table(few, "atari100k-400k-aggregates")
    assert all(cell.interval is None for row in rows.values() for cell in row.values())
    assert "nothing here says which method is better" in few.paragraphs[1]


@pytest.mark.parametrize(
    ("arms", "compared", "tasks", "left_out"),
    [
        # An arm on few tasks does not shrink the comparison of the others ...
        (
            {"mcurl": 8, "curl": 8, "rl-only": 10, "mcurl-layers=3": 2},
            ["mcurl", "curl", "rl-only"],
            8,
            "mcurl-layers=3",
        ),
        ({"mcurl": 8, "curl": 3, "rl-only": 8}, ["mcurl", "rl-only"], 8, "curl"),
        # ... nor does one on most of them disappear, nor the first.
        ({"mcurl": 8, "curl": 7, "rl-only": 8}, ["mcurl", "curl", "rl-only"], 7, ""),
        ({"mcurl": 2, "curl": 26, "rl-only": 26}, ["mcurl", "curl", "rl-only"], 2, ""),
        ({"mcurl": 1, "curl": 5, "rl-only": 5}, ["curl", "rl-only"], 5, "mcurl"),
        ({"mcurl": 3, "curl": 1}, [], 0, ""),
    ],
)
def test_statistics_compare_the_arms_and_tasks_with_the_most_cells(
    arms: dict[str, int], compared: list[str], tasks: int, left_out: str
) -> None:
    runs = [run(game, name, 1, {400_000: 1.0}, benchmark="atari100k") for name, n in arms.items() for game in GAMES[:n]]
    found = report(runs)
    if not compared:
        assert not any(part.key.endswith("-aggregates") for part in found.blocks())
        return
    result = block(found, "atari100k-400k-aggregates")
    assert isinstance(result, Table)
    own = [row for row in result.rows if row[1].text == "this package"]
    assert [row[0].text for row in own] == compared
    assert {row[2].value for row in own} == {tasks}
    assert (f"Left out, because they lack some of these tasks: {left_out}." in result.caption) == bool(left_out)


def test_claims_say_where_the_paper_s_own_table_says_otherwise() -> None:
    found = block(report([*all_games(1.0, "mcurl", 3), *all_games(0.9, "curl", 3)]), "atari100k-claims")
    assert isinstance(found, Claims)
    better = next(claim for claim in found.claims if "21 of 26" in claim.text)
    assert better.published_verdict == "disagrees"
    assert better.published.startswith("20 of 26")
    assert better.our_verdict == "agrees"
    assert better.ours.startswith("2")


def test_a_suite_has_the_claims_about_its_arms_and_tasks() -> None:
    for name, claims in {"table1": 9, "figure3": 4, "figure4a": 3, "figure4b": 2, "figure5a": 1, "figure5b": 3}.items():
        (plan,) = plans_of_suite(Suite.load(name))
        task = plan.tasks[0]
        found = section(PlanScores(plan, [run(task, "mcurl", 1, {1: 1.0}, benchmark=plan.benchmark)]))
        assert sum(len(item.claims) for item in found.blocks if isinstance(item, Claims)) == claims, name


def test_every_suite_of_the_package_can_be_reported() -> None:
    from mcurl.suites.suite import suite_names

    for name in suite_names():
        suite = Suite.load(name)
        (plan,) = plans_of_suite(suite)
        last = {plan.budgets[-1]: 1.0}
        runs = [run(plan.tasks[0], a.name, 1, last, benchmark=plan.benchmark, method=a.method) for a in suite.arms]
        found = report(runs, [suite])
        assert found.title == suite.title
        assert len({block.key for block in found.blocks()}) == len(found.blocks())


def test_a_suite_without_runs_is_one_line() -> None:
    with pytest.raises(UserError, match="no run belongs to small"):
        report([run("walker-walk", "mcurl", 1, curve(1.0))], [SMALL])
    with pytest.raises(UserError, match="no results of dmc/hopper"):
        task_figure([], "dmc", "hopper")


def test_other_environments_are_reported_without_published_scores() -> None:
    runs = [run("CarRacing-v3", "mcurl", 1, {0: -5.0, 3000: 7.0}, benchmark="gym")]
    assert report(runs).paragraphs[0] == "1 run of 1 task."
    assert plan_of_benchmark("gym", runs).budgets == (3000,)
    assert table(report(runs), "gym-scores-3k")["CarRacing-v3"]["mcurl"].value == 7


def test_arms_with_one_label_are_not_merged() -> None:
    ends = {"mine": 100.0, "other": 10.0}
    runs = [
        run(task, name, seed, curve(last + seed), label="Mine")
        for name, last in ends.items()
        for task in ("cartpole-swingup", "hopper-hop")
        for seed in (1, 2, 3)
    ]
    found = report(runs)
    rows = table(found, "dmc-500k-aggregates")
    assert {"Mine (mine)", "Mine (other)"} <= set(rows)
    labels = [series.label for series in figure(found, "dmc-curves").panels[0].series]
    assert labels == ["Mine (mine)", "Mine (other)"]


def test_statistics_of_control_are_in_percent_of_1000_and_of_the_better_runs() -> None:
    runs = [
        run(task, name, seed, curve(last + seed))
        for name, last in {"better": 498.0, "worse": 98.0}.items()
        for task in ("cartpole-swingup", "hopper-hop")
        for seed in (1, 2, 3)
    ]
    found = report(runs)
    means = {name: row["mean"].value for name, row in table(found, "dmc-500k-aggregates").items()}
    assert (means["better"], means["worse"]) == pytest.approx((50, 10))
    (row,) = table(found, "dmc-500k-improvement").values()
    assert [row[key].text for key in ("first", "second")] == ["better", "worse"]
    assert row["probability"].value == 100


def with_settings(found: RunScores, **values: object) -> RunScores:
    """A run with all settings of its arm, some of them changed."""
    settings = SMALL.settings(f"dmc/{found.task}", found.name)
    changed = {key: settings[key] | value if isinstance(value, dict) else value for key, value in values.items()}
    return replace(found, provenance={"settings": settings | {"seed": found.seed} | changed})


def test_runs_with_other_settings_than_their_arm_do_not_count_in_a_suite() -> None:
    right = with_settings(run("cartpole-swingup", "mcurl", 1, curve(100.0)))
    wrong = with_settings(run("cartpole-swingup", "mcurl", 2, curve(900.0)), mcurl={"mask_rate": 0.3})
    found = report(merge([wrong, right]), [SMALL])
    cell = table(found, "small-scores-500k")["cartpole-swingup"]["mcurl"]
    assert (cell.value, cell.seeds) == (100, 1)
    assert [series.label for series in figure(found, "small-curves").panels[0].series] == ["M-CURL"]
    left_out = "cartpole-swingup mcurl seed 2 (mcurl.mask_rate is 0.3, not 0.5)"
    assert any(left_out in text for text in found.sections[0].paragraphs)
    assert len(table(found, "runs")) == 1
    with pytest.raises(UserError, match=r"no run belongs to small: .*mcurl.mask_rate is 0.3, not 0.5"):
        report([wrong], [SMALL])
    # The interval of evaluations, and for SAC the budget, do not change what is learned.
    longer = with_settings(run("cartpole-swingup", "mcurl", 3, curve(1.0)), evaluation={"every": 7}, env_steps=600_000)
    assert table(report([right, longer], [SMALL]), "small-scores-500k")["cartpole-swingup"]["mcurl"].seeds == 2


def test_a_suite_without_a_budget_is_compared_at_that_of_its_tasks() -> None:
    suite = replace(SMALL, env_steps=None, score_at=(), tasks=("toy/reach", "toy/catch"))
    (plan,) = plans_of_suite(suite)
    assert plan.budgets == (4000,)
    found = report([run("reach", "mcurl", 1, {4000: 3.0}, benchmark="toy")], [suite])
    assert table(found, "small-scores-4k")["reach"]["mcurl"].value == 3
    (plan,) = plans_of_suite(replace(suite, tasks=("atari/Krull",)))
    assert (plan.benchmark, plan.budgets) == ("atari100k", (400_000,))


def test_a_run_that_has_just_begun_is_reported(tmp_path: Path) -> None:
    begun = run("cartpole-swingup", "mcurl", 1, {0: 3.0}, budget=500_000)
    for number, found in enumerate((report([begun]), report([begun], [SMALL]))):
        assert (tmp_path / str(number) / "index.html") in write(found, tmp_path / str(number), png=False)


def test_what_was_evaluated_after_training_is_listed_and_is_no_score() -> None:
    later = {"env_steps": 500_000, "seed": 9, "episodes": 100, "mean": 77.0}
    done = run("cartpole-swingup", "mcurl", 1, curve(100.0))
    found = report([replace(done, provenance={**done.provenance, "evaluated": [later, later | {"seed": 1}]})])
    assert table(found, "dmc-scores-500k")["cartpole-swingup"]["mcurl"].value == 100
    note = table(found, "runs").popitem()[1]["note"].text
    assert note == "mcurl evaluate: 77.0 over 100 episodes of seed 9; mcurl evaluate: 77.0 over 100 episodes"


def test_the_documentation_lists_every_published_column() -> None:
    text = (Path(__file__).parents[2] / "docs" / "report.md").read_text()
    listed = text.partition("## Published columns")[2].partition("## From Python")[0]
    words = set(re.findall(r"[\w-]+", listed))
    bold = set(re.findall(r"\*\*([\w-]+)\*\*", listed))
    for benchmark in ("atari100k", "dmc"):
        columns = catalogue(benchmark).values()
        assert {column.name for column in columns} <= words
        assert {column.name for column in columns if column.default} <= bold


def test_the_documentation_s_python_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = (Path(__file__).parents[2] / "docs" / "report.md").read_text()
    (code,) = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    (tmp_path / "results").symlink_to(RESULTS)
    monkeypatch.chdir(tmp_path)
    exec(compile(code, "docs/report.md", "exec"), {})
    assert (tmp_path / "report" / "index.html").exists()
