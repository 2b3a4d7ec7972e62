"""Run folders -> scores, their store, tables and curves."""

from __future__ import annotations

import csv
import json
import re
import subprocess
import sys
import time
import zipfile
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from threading import Event
from typing import Any

import numpy as np
import pytest

from mcurl.config.resolve import resolve
from mcurl.config.settings import TrainSettings
from mcurl.errors import UserError
from mcurl.files import locked_folder
from mcurl.published.scores import Score, sources
from mcurl.recording import Recording
from mcurl.report import plot
from mcurl.report.collect import add
from mcurl.report.curves import task_figure
from mcurl.report.palette import STYLES
from mcurl.report.runs import hours_per_100k, read_run, read_runs
from mcurl.report.scores import RunScores, cells, changed_between, merge, notes
from mcurl.report.store import load, read, shipped_results
from mcurl.report.table import markdown, overview
from mcurl.run.names import run_name

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "results"
Curve = dict[int, list[float]]


def make_run(
    out: Path,
    seed: int = 1,
    *,
    task: str = "dmc/cartpole-swingup",
    method: str = "mcurl",
    env_steps: int = 1000,
    episodes: Curve | None = None,
    sections: dict[str, Any] | None = None,
    about: dict[str, Any] | None = None,
) -> Path:
    """A run folder: returns 1 and 3 at the start, 10 and 30 at 1000 env steps unless said otherwise."""
    name = (about or {}).get("name", method)
    folder = out / task.replace("/", "-") / f"{name}-seed{seed}"
    folder.mkdir(parents=True)
    settings = {"task": task, "method": method, "agent": "sac", "seed": seed, "env_steps": env_steps}
    settings |= sections or {"sac": {"batch_size": 128}}
    (folder / "settings.json").write_text(json.dumps(settings))
    (folder / "run.json").write_text(json.dumps({"format": "mcurl-run", "commit": "abcdef0123", **(about or {})}))
    rows = [
        f"{step},{episode},{value}"
        for step, values in (episodes or {0: [1.0, 3.0], 1000: [10.0, 30.0]}).items()
        for episode, value in enumerate(values)
    ]
    (folder / "evaluations.csv").write_text("\n".join(["env_steps,episode,return", *rows]) + "\n")
    return folder


def everything(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def recorded(env_steps: int) -> bytes:
    """A recording of an evaluation."""
    about = {"task": "dmc/cartpole-swingup", "method": "mcurl", "env": {}, "policy": "", "build": {}}
    actions, numbers = np.zeros((1, 1), np.float32), {"seed": 1, "parallel": 1, "max_episode_steps": 1}
    episodes = {"seeds": (1,), "lengths": (1,), "returns": (0.0,), "actions": actions, "states": None}
    return Recording(**about, **numbers, **episodes, env_steps=env_steps).to_bytes()  # type: ignore[arg-type]


def store(tmp_path: Path, *folders: Path, replace: bool = False, name: str | None = None) -> list[str]:
    return [change.action for change in add(tmp_path / "scores", read_runs(folders, name), replace)]


def points(results: Path) -> dict[tuple[str, str, str], dict[int, dict[int, float]]]:
    return {cell: {run.seed: run.points for run in runs} for cell, runs in cells(load(results)).items()}


CELL = ("dmc", "cartpole-swingup", "mcurl")


# Run folders


def test_the_scores_of_a_run(tmp_path: Path) -> None:
    about = {"name": "mine", "label": "Mine", "packages": {"mujoco": "3.17.0"}, "started_at": "2026-01-01T00:00:00"}
    folder = make_run(tmp_path, about=about, sections={"env": {"action_repeat": 8}})
    run = read_run(folder)
    assert run.cell == ("dmc", "cartpole-swingup", "mine")
    assert (run.label, run.seed, run.method, run.action_repeat) == ("Mine", 1, "mcurl", 8)
    assert run.episodes == {0: [1.0, 3.0], 1000: [10.0, 30.0]}
    assert run.points == {0: 2.0, 1000: 20.0}
    assert (run.number_of_episodes(0), run.budget, run.env_steps, run.finished) == (2, 1000, 1000, True)
    assert run.provenance["commit"] == "abcdef0123"
    assert run.simulator == "mujoco 3.17.0"
    assert read_run(folder, "mcurl-conv").name == read_run(folder, "mcurl-conv").label == "mcurl-conv"
    assert read_run(folder, "other", "Another", "chosen").label == "Another"
    assert read_run(folder, note="chosen").note == "chosen"


def test_a_half_deleted_run_is_named_and_the_others_are_read(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    make_run(tmp_path, 1)
    for seed, name in enumerate(("run.json", "settings.json", "evaluations.csv"), 2):
        (make_run(tmp_path, seed) / name).unlink()
    assert [run.seed for run in read([tmp_path])] == [1]
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 3
    assert all(f"seed{seed}" in line and "skipped" in line for seed, line in enumerate(lines, 2))


def test_hours_are_those_of_the_log(tmp_path: Path) -> None:
    folder = make_run(tmp_path)
    assert hours_per_100k(folder) is None
    speeds = [
        {"env_steps": 500, "seconds": 10.0, "env_steps_per_second": 50.0},
        {"env_steps": 1000, "seconds": 30.0, "env_steps_per_second": 500 / 30},
    ]
    (folder / "speed.jsonl").write_text("".join(json.dumps(line) + "\n" for line in speeds))
    assert hours_per_100k(folder) == pytest.approx(40 / 1000 * 100_000 / 3600)


def test_half_a_line_that_a_kill_left_does_not_count(tmp_path: Path) -> None:
    folder = make_run(tmp_path)
    whole = read_run(folder)
    for name, half in {"evaluations.csv": "2000,0,", "speed.jsonl": '{"env_st'}.items():
        with (folder / name).open("a") as file:
            file.write(half)
    assert read_run(folder) == whole
    (folder / "settings.json").write_text("{}")
    with pytest.raises(UserError, match="is not a run folder, or it is damaged"):
        read_run(folder)


@pytest.mark.parametrize(("extended", "finished"), [(None, True), (1000, True), (5000, False)])
def test_a_run_is_finished_when_it_was_evaluated_at_its_budget(tmp_path: Path, extended: Any, finished: bool) -> None:
    run = read_run(make_run(tmp_path, about={"extended_to": extended}))
    assert run.finished == finished
    short = read_run(make_run(tmp_path / "short", env_steps=1001))
    assert not short.finished
    assert notes([short]) == ["seed 1 is unfinished, at 1,000 of 1,001 env steps"]


def test_the_score_is_the_first_evaluation_at_or_after_the_budget_within_one_agent_step() -> None:
    def score(*steps: int, repeat: int = 8) -> float | None:
        settings = {"env": {"action_repeat": repeat}}
        episodes = {step: [float(step)] for step in steps}
        run = RunScores("dmc", "t", "m", "M", 1, episodes, 1, provenance={"settings": settings})
        return run.score(100_000)

    assert score(0, 99_996, 100_000, 100_004) == 100_000
    assert score(0, 99_996, 100_004, 100_007) == 100_004
    assert score(0, 99_996, 100_008) is None
    assert score(100_001, repeat=1) is None
    assert score(100_001, repeat=2) == 100_001
    assert score(99_999) is None


def test_atari_with_the_budget_of_its_benchmark_stands_apart(tmp_path: Path) -> None:
    for frames, benchmark in ((400_000, "atari100k"), (40_000, "atari")):
        folder = make_run(tmp_path / benchmark, task="atari/Krull", env_steps=frames, episodes={frames: [7.0]})
        [change] = add(tmp_path / "scores", [read_run(folder)])
        assert change.path == tmp_path / "scores" / benchmark / "mcurl" / "Krull.csv"


# Runs that differ in a setting


def pixels_and_states(tmp_path: Path) -> list[Path]:
    """The two runs of `none` that became "530 ± 467 (2 seeds)"."""
    return [
        make_run(
            tmp_path / observation,
            seed,
            method="rl-only",
            env_steps=100_000,
            episodes={100_000: [score]},
            sections={"env": {"observation": observation}},
        )
        for seed, observation, score in ((1, "pixels", 200.0), (2, "state", 860.0))
    ]


def test_runs_that_differ_in_a_setting_are_not_seeds_of_one_method(tmp_path: Path) -> None:
    folders = pixels_and_states(tmp_path)
    runs = read(folders)
    assert [(run.name, run.label, run.score(100_000)) for run in runs] == [
        ("rl-only-observation=pixels", "rl-only, observation=pixels", 200.0),
        ("rl-only-observation=state", "rl-only, observation=state", 860.0),
    ]
    assert "| 200 (1 seed) | 860 (1 seed) |" in markdown(runs, "dmc")
    with pytest.raises(UserError, match=r"has env\.observation=state, and seed 1 in .* has pixels: .* use --name"):
        store(tmp_path, *folders)
    assert not (tmp_path / "scores").exists()
    assert store(tmp_path, folders[0]) == ["added"]
    before = everything(tmp_path / "scores")
    with pytest.raises(UserError, match="not seeds of one method"):
        store(tmp_path, folders[1], replace=True)
    assert everything(tmp_path / "scores") == before
    assert store(tmp_path, folders[1], name="rl-only-states") == ["added"]


def test_a_second_run_of_a_method_and_seed_with_other_settings_replaces_nothing(tmp_path: Path) -> None:
    long = make_run(tmp_path / "a", env_steps=2000, episodes={1000: [5.0], 2000: [9.0]})
    short = make_run(tmp_path / "b", sections={"sac": {"batch_size": 512}})
    assert store(tmp_path, long) == ["added"]
    with pytest.raises(UserError, match="seed 1 already, from another run"):
        store(tmp_path, short)
    assert points(tmp_path / "scores") == {CELL: {1: {1000: 5.0, 2000: 9.0}}}
    assert [run.name for run in read([long, short])] == ["mcurl-batch_size=128", "mcurl-batch_size=512"]


def test_a_run_with_default_settings_keeps_its_name_beside_one_with_others(tmp_path: Path) -> None:
    """In each task the method has one name, so that curves and statistics find it."""
    folders = []
    for seed, overrides in ((1, []), (2, []), (3, ["sac.batch_size=64"])):
        settings = resolve("dmc/cartpole-swingup", seed=seed, env_steps="1000", overrides=overrides).to_json()
        folders.append(make_run(tmp_path / str(seed)))
        (folders[-1] / "settings.json").write_text(json.dumps(settings))
    for order in (folders, folders[::-1]):
        assert [run.name for run in read(order)] == ["mcurl", "mcurl", "mcurl-batch_size=64"]
    (run,) = [run for run in read(folders) if run.seed == 3]
    assert (run.label, run.first_name) == ("mcurl, batch_size=64", "mcurl")
    other = make_run(tmp_path / "4")
    settings = resolve("dmc/cartpole-swingup", seed=4, env_steps="1000", overrides=["mcurl.mask_rate=0.3"]).to_json()
    (other / "settings.json").write_text(json.dumps(settings))
    assert {run.name for run in read([*folders, other])} == {"mcurl", "mcurl-batch_size=64", "mcurl-mask_rate=0.3"}


def test_a_method_that_is_not_known_is_the_name(tmp_path: Path) -> None:
    assert store(tmp_path, make_run(tmp_path / "a")) == ["added"]
    about = tmp_path / "scores/dmc/mcurl/cartpole-swingup.json"
    about.write_text(about.read_text().replace('"method": "mcurl"', '"method": null'))
    (run,) = read([tmp_path / "scores"])
    assert (run.method, run.name) == ("mcurl", "mcurl")


def test_scores_under_the_name_of_another_method_are_refused(tmp_path: Path) -> None:
    folder = make_run(tmp_path / "a", method="curl")
    with pytest.raises(UserError, match=r"curl-seed1: the name .mcurl. is that of the method mcurl, but"):
        read_runs([folder], "mcurl")
    assert store(tmp_path, folder) == ["added"]
    (tmp_path / "scores/dmc/curl").rename(tmp_path / "scores/dmc/mcurl")
    about = tmp_path / "scores/dmc/mcurl/cartpole-swingup.json"
    about.write_text(about.read_text().replace('"name": "curl"', '"name": "mcurl"'))
    assert about.read_text().count('"seed": 1') == 1
    about.write_text(about.read_text().replace('"seed": 1', '"seed": 2'))
    with pytest.raises(UserError, match=r"its seed 1 has the settings of another seed"):
        load(tmp_path / "scores")
    about.write_text(about.read_text().replace('"seed": 2', '"seed": 1'))
    with pytest.raises(UserError, match=r"of seed 1, the name 'mcurl' is that of the method mcurl, but this run is of"):
        load(tmp_path / "scores")


@pytest.mark.parametrize(
    ("section", "values", "differs"),
    [
        ("sac", {"batch_size": 64}, True),
        ("compute", {"precision": "fp32"}, True),
        ("compute", {"threads": 7, "device": "cpu", "native": "off", "graphs": False, "overlap": False}, False),
        ("evaluation", {"every": 5, "final_episodes": 3}, False),
        ("checkpoint", {"every": 5}, False),
    ],
)
def test_which_settings_make_another_method(section: str, values: dict[str, Any], differs: bool) -> None:
    first, second = resolve("toy/reach").to_json(), resolve("toy/reach", seed=2, env_steps=300).to_json()
    second[section] |= values
    runs = [
        RunScores("toy", "reach", "mcurl", "M-CURL", number, {0: [1.0]}, 1, provenance={"settings": settings})
        for number, settings in enumerate((first, second))
    ]
    changed = {f"{section}.{key}" for key in values} if differs else set()
    assert set(changed_between(*runs)) == changed
    # A setting that an older version did not have has its default, false.
    del first["mcurl"]["projection"]
    assert set(changed_between(*runs)) == changed
    second["mcurl"]["projection"] = True
    assert set(changed_between(*runs)) == changed | {"mcurl.projection"}


def test_the_budget_is_another_method_where_schedules_depend_on_it() -> None:
    def changed(task: str, agent: str) -> dict[str, Any]:
        runs = []
        for budget in (100_000, 500_000):
            settings = {"task": task, "method": "mcurl", "agent": agent, "env_steps": budget}
            runs.append(RunScores("x", "y", "mcurl", "M", 1, {0: [1.0]}, budget, provenance={"settings": settings}))
        return changed_between(*runs)

    assert changed("dmc/walker-walk", "sac") == changed("dmc/walker-walk", "drqv2") == {}
    assert changed("atari/Pong", "rainbow") == {"env_steps": (100_000, 500_000)}


def test_settings_with_a_class_of_unknown_origin_run_no_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "evil.py").write_text("raise SystemExit('executed')")
    monkeypatch.syspath_prepend(tmp_path)
    folders = [
        make_run(tmp_path / str(size), size, method="evil:Loss", sections={"sac": {"batch_size": size, f"x{size}": 1}})
        for size in (1, 2)
    ]
    assert {run.name for run in read(folders)} >= {"evil-Loss-batch_size=1-x1=1"}


# The store


def test_scores_grow_seed_by_seed(tmp_path: Path) -> None:
    assert store(tmp_path, make_run(tmp_path / "a", 2)) == ["added"]
    assert store(tmp_path, make_run(tmp_path / "b", 1, episodes={0: [0.5], 1000: [8.0, 9.0, 10.0]})) == ["added"]
    path = tmp_path / "scores" / "dmc" / "mcurl" / "cartpole-swingup.csv"
    assert path.read_text().splitlines() == [
        "seed,env_steps,episode,return,episodes",
        "1,0,0,0.5,1",
        "1,1000,0,8.0,1",
        "1,1000,1,9.0,1",
        "1,1000,2,10.0,1",
        "2,0,0,1.0,1",
        "2,0,1,3.0,1",
        "2,1000,0,10.0,1",
        "2,1000,1,30.0,1",
    ]
    about = json.loads(path.with_suffix(".json").read_text())
    assert set(about) == {"seed 1", "seed 2"}
    assert {key: about["seed 1"][key] for key in ("name", "budget", "finished", "commit")} == {
        "name": "mcurl",
        "budget": 1000,
        "finished": True,
        "commit": "abcdef0123",
    }
    first, second = load(tmp_path / "scores")
    assert (first.seed, first.episodes) == (1, {0: [0.5], 1000: [8.0, 9.0, 10.0]})
    assert (second.seed, second.episodes) == (2, {0: [1.0, 3.0], 1000: [10.0, 30.0]})
    assert not first.averaged


def test_a_run_whose_returns_changed_is_not_called_unchanged(tmp_path: Path) -> None:
    about = {"started_at": "2026-01-01T00:00:00"}
    assert store(tmp_path, make_run(tmp_path / "a", about=about)) == ["added"]
    before = everything(tmp_path / "scores")
    again = make_run(tmp_path / "b", about=about, episodes={0: [1.0, 3.0], 1000: [10.0, 40.0]})
    with pytest.raises(UserError, match="seed 1 already, from this run before its evaluations changed"):
        store(tmp_path, again)
    assert everything(tmp_path / "scores") == before
    assert store(tmp_path, again, replace=True) == ["replaced"]
    assert points(tmp_path / "scores") == {CELL: {1: {0: 2.0, 1000: 25.0}}}
    longer = {0: [1.0, 3.0], 1000: [10.0, 40.0], 2000: [5.0]}
    assert store(tmp_path, make_run(tmp_path / "c", about=about, env_steps=2000, episodes=longer)) == ["updated"]


def test_a_run_that_went_another_way_does_not_take_a_score_away(tmp_path: Path) -> None:
    """It was continued from an earlier checkpoint, beyond its old budget: there is no evaluation at the old one."""
    about = {"started_at": "2026-01-01T00:00:00"}
    whole = {0: [1.0], 400: [5.0], 1000: [10.0]}
    first = make_run(tmp_path / "a", about=about, episodes=whole)
    again = make_run(tmp_path / "b", about=about, env_steps=1200, episodes={0: [1.0], 400: [5.0], 1200: [12.0]})
    (first / "episodes").mkdir()
    (first / "episodes" / "000001000.episodes").write_bytes(recorded(1000))
    assert store(tmp_path, first) == ["added"]
    before = everything(tmp_path / "scores")
    with pytest.raises(UserError, match="from this run before its evaluations changed"):
        store(tmp_path, again)
    assert everything(tmp_path / "scores") == before
    for order in ([first, again], [again, first]):
        with pytest.raises(UserError, match="two runs of"):
            read(order)
    assert store(tmp_path, again, replace=True) == ["replaced"]
    assert points(tmp_path / "scores") == {CELL: {1: {0: 1.0, 400: 5.0, 1200: 12.0}}}
    assert list((tmp_path / "scores").rglob("*.episodes")) == []


def test_an_unfinished_record_gives_way_to_its_run(tmp_path: Path) -> None:
    """It was killed after an evaluation, and resumed on another machine, where that evaluation came out differently."""
    about = {"started_at": "2026-01-01T00:00:00"}
    begun = make_run(tmp_path / "a", about=about, env_steps=2000, episodes={0: [1.0], 1000: [5.0]})
    assert store(tmp_path, begun) == ["added"]
    whole = {0: [1.0], 1000: [5.1], 2000: [9.0]}
    done = make_run(tmp_path / "b", about=about, env_steps=2000, episodes=whole)
    assert store(tmp_path, done, make_run(tmp_path / "c", 2, env_steps=2000, episodes=whole)) == ["updated", "added"]
    assert points(tmp_path / "scores")[CELL][1] == {0: 1.0, 1000: 5.1, 2000: 9.0}


def test_a_folder_that_is_removed_while_another_waits_for_it_is_made_again(tmp_path: Path) -> None:
    """One addition is refused, and takes its new folder away; a second one waits, and a third one comes."""
    folder, entered, leave = tmp_path / "scores", Event(), Event()

    def refused() -> None:
        with suppress(UserError), locked_folder(folder):
            entered.set()
            leave.wait()
            raise UserError("refused")

    def added(seed: int) -> None:
        add(folder, [read_run(make_run(tmp_path / "runs", seed))])

    with ThreadPoolExecutor(3) as pool:
        first = pool.submit(refused)
        entered.wait()
        others = [pool.submit(added, seed) for seed in (2, 3)]
        time.sleep(0.2)  # so that they wait
        leave.set()
        for job in (first, *others):
            job.result()
    assert sorted(points(folder)[CELL]) == [2, 3]


def test_of_two_records_the_one_that_goes_farther_is_kept(tmp_path: Path) -> None:
    about = {"started_at": "2026-01-01T00:00:00"}
    short = make_run(tmp_path / "a", about=about, episodes={0: [1.0], 1000: [10.0]})
    more = {0: [1.0], 1000: [10.0], 2000: [12.0]}
    long = make_run(tmp_path / "b", about=about, env_steps=2000, episodes=more)
    for order in ([short, long], [long, short]):
        assert [run.env_steps for run in read(order)] == [2000]


def test_additions_at_one_time_lose_nothing(tmp_path: Path) -> None:
    runs = [read_run(make_run(tmp_path, seed)) for seed in range(1, 13)]
    with ThreadPoolExecutor(len(runs)) as pool:
        changes = list(pool.map(lambda run: add(tmp_path / "scores", [run]), runs))
    assert [change.action for [change] in changes] == ["added"] * len(runs)
    assert sorted(points(tmp_path / "scores")[CELL]) == list(range(1, 13))


def test_a_store_that_cannot_be_added_to_is_not_created(tmp_path: Path) -> None:
    twice = [read_run(make_run(tmp_path / name, episodes={1000: [value]})) for name, value in (("a", 1.0), ("b", 2.0))]
    with pytest.raises(UserError, match="two runs of"):
        add(tmp_path / "new" / "scores", twice)
    assert not (tmp_path / "new").exists()


def test_a_score_over_another_number_of_episodes_is_noted(tmp_path: Path) -> None:
    games = {1: [1.0] * 100, 2: [1.0]}
    runs = [
        read_run(make_run(tmp_path, seed, task="atari/Krull", env_steps=400_000, episodes={400_000: returns}))
        for seed, returns in games.items()
    ]
    assert notes(runs) == ["seed 2: its score is over 1 episode, not 100"]
    assert notes(runs[1:]) == ["seed 2: its score is over 1 episode, not 100"]
    assert notes(runs[:1]) == []
    control = [read_run(make_run(tmp_path, seed)) for seed in (1, 2)]
    assert notes(control) == []
    assert notes([*control, read_run(make_run(tmp_path, 3, episodes={1000: [1.0, 2.0, 3.0]}))]) == [
        "seed 3: its score is over 3 episodes, not 2"
    ]


def test_what_is_read_from_a_store_is_what_was_added(tmp_path: Path) -> None:
    about = {"name": "mine", "label": "Mine", "packages": {"mujoco": "3"}, "extended_to": 2000, "started_at": "now"}
    run = read_run(make_run(tmp_path, about=about), note="chosen")
    add(tmp_path / "scores", [run])
    [loaded] = load(tmp_path / "scores")
    for field in ("cell", "label", "seed", "episodes", "budget", "finished", "note", "simulator", "settings"):
        assert getattr(loaded, field) == getattr(run, field)


def test_a_repeated_seed_is_refused_and_replaced_only_on_request(tmp_path: Path) -> None:
    old, new = make_run(tmp_path / "a"), make_run(tmp_path / "b", episodes={0: [2.0], 1000: [50.0]})
    store(tmp_path, old, make_run(tmp_path / "a", 2))
    before = everything(tmp_path / "scores")
    with pytest.raises(UserError) as caught:
        store(tmp_path, make_run(tmp_path / "c", 3), new)
    assert "has seed 1 already, from another run (20 at 1,000 env steps, commit abcdef0)" in str(caught.value)
    assert "has 50 at 1,000 env steps, commit abcdef0: use --name for another place, or --replace" in str(caught.value)
    assert everything(tmp_path / "scores") == before
    [change] = add(tmp_path / "scores", [read_run(new)], replace_seeds=True)
    assert str(change) == (
        f"replaced {tmp_path}/scores/dmc/mcurl/cartpole-swingup.csv, seed 1: "
        "20 at 1,000 env steps, commit abcdef0 by 50 at 1,000 env steps, commit abcdef0"
    )
    assert points(tmp_path / "scores") == {CELL: {1: {0: 2.0, 1000: 50.0}, 2: {0: 2.0, 1000: 20.0}}}


@pytest.mark.parametrize("replace", [False, True])
def test_two_runs_of_one_seed_at_once_are_refused(tmp_path: Path, replace: bool) -> None:
    folders = make_run(tmp_path / "a"), make_run(tmp_path / "b", episodes={1000: [50.0]})
    with pytest.raises(UserError, match="two runs of dmc/cartpole-swingup, mcurl, seed 1"):
        store(tmp_path, *folders, replace=replace)
    with pytest.raises(UserError, match="two runs of dmc/cartpole-swingup, mcurl, seed 1"):
        read(folders)


@pytest.mark.parametrize("replace", [False, True])
def test_an_unfinished_run_is_marked_and_replaces_nothing(tmp_path: Path, replace: bool) -> None:
    """`make train`, then a report in the checkout: 11 points that ended at 561 were replaced by one point of 4.87."""
    shipped = {step: [50.0 + step / 200] for step in range(0, 110_000, 10_000)}
    store(tmp_path, make_run(tmp_path / "shipped", env_steps=100_000, episodes=shipped))
    before = everything(tmp_path / "scores")
    begun = make_run(tmp_path / "runs", env_steps=100_000, episodes={0: [4.87]})
    [change] = add(tmp_path / "scores", [read_run(begun)], replace)
    assert change.action == "skipped"
    assert "is unfinished, at 0 of 100,000 env steps, and replaces nothing" in str(change)
    assert everything(tmp_path / "scores") == before
    assert store(tmp_path, make_run(tmp_path / "runs", 2, env_steps=100_000, episodes={0: [4.0]})) == ["added"]
    path = tmp_path / "scores" / "dmc" / "mcurl" / "cartpole-swingup.json"
    assert json.loads(path.read_text())["seed 2"]["finished"] is False
    first, second = load(tmp_path / "scores")
    assert (first.finished, second.finished) == (True, False)
    assert notes([first, second]) == ["seed 2 is unfinished, at 0 of 100,000 env steps"]
    text = markdown([first, second], "dmc")
    assert "| cartpole-swingup | 550 (1 seed) [1] |" in text
    assert text.endswith("seed 2 is unfinished, at 0 of 100,000 env steps")
    assert "| dmc | cartpole-swingup | mcurl | 1 | 100,000 | 550 | seed 2 is unfinished" in overview([first, second])


def test_a_run_that_went_on_is_updated(tmp_path: Path) -> None:
    half = make_run(tmp_path / "a", env_steps=2000)
    assert store(tmp_path, half) == ["added"]
    assert store(tmp_path, half) == ["unchanged"]
    whole = make_run(tmp_path / "b", env_steps=2000, episodes={0: [1.0, 3.0], 1000: [10.0, 30.0], 2000: [40.0]})
    [change] = add(tmp_path / "scores", [read_run(whole)])
    assert str(change).endswith("seed 1: from 1,000 to 2,000 env steps")
    assert points(tmp_path / "scores") == {CELL: {1: {0: 2.0, 1000: 20.0, 2000: 40.0}}}
    assert store(tmp_path, half) == ["unchanged"]
    assert store(tmp_path, half, whole) == ["unchanged"]


def test_notes_and_recorded_episodes_come_later(tmp_path: Path) -> None:
    folder = make_run(tmp_path / "a")
    store(tmp_path, folder)
    (folder / "episodes").mkdir()
    for steps in (0, 1000):
        (folder / "episodes" / f"{steps:09d}.episodes").write_bytes(recorded(steps))
    [change] = add(tmp_path / "scores", [read_run(folder, note="chosen")])
    assert str(change).endswith("seed 1: note, recorded episodes")
    recording = tmp_path / "scores" / "dmc" / "mcurl" / "cartpole-swingup-seed1.episodes"
    early = recording.with_name("cartpole-swingup-seed1-0.episodes")
    assert (recording.read_bytes(), early.read_bytes()) == (recorded(1000), recorded(0))
    assert store(tmp_path, folder) == ["unchanged"]
    [run] = load(tmp_path / "scores")
    assert (run.note, run.recordings) == ("chosen", {0: early, 1000: recording})
    # Those of a run that is replaced do not fit the new scores.
    assert store(tmp_path, make_run(tmp_path / "b", episodes={1000: [7.0]}), replace=True) == ["replaced"]
    assert not recording.exists()
    assert not early.exists()
    assert load(tmp_path / "scores")[0].note == ""


def test_each_score_of_a_run_that_went_on_keeps_its_episodes(tmp_path: Path) -> None:
    """The 100k score of a run that goes on to 500k can still be played again."""
    half, whole = make_run(tmp_path / "a", env_steps=2000), make_run(tmp_path / "b", env_steps=2000)
    for folder, evaluations in ((half, (1000,)), (whole, (1000, 2000))):
        (folder / "episodes").mkdir()
        for steps in evaluations:
            (folder / "episodes" / f"{steps:09d}.episodes").write_bytes(recorded(steps))
    with (whole / "evaluations.csv").open("a") as file:
        file.write("2000,0,40.0\n")
    assert store(tmp_path, half) == ["added"]
    assert store(tmp_path, whole) == ["updated"]
    [run] = load(tmp_path / "scores")
    kept = {1000: recorded(1000), 2000: recorded(2000)}
    assert {steps: path.read_bytes() for steps, path in run.recordings.items()} == kept
    # What the run loses later is still in the store.
    for number, steps in enumerate((1000, 2000)):
        (whole / "episodes" / f"{steps:09d}.episodes").write_bytes(b"damaged")
        add(tmp_path / "scores", [read_run(whole, note=f"note {number}")])
        [run] = load(tmp_path / "scores")
        assert {steps: path.read_bytes() for steps, path in run.recordings.items()} == kept


def test_a_seed_beside_scores_of_older_versions(tmp_path: Path) -> None:
    """Old files have a mean and a number of episodes: no number changes when a seed is added."""
    write_scores(tmp_path / "scores", "dmc/mcurl/cartpole-swingup.csv", "0,5.027451222272092,1,10", "1000,561.5,1,7")
    assert store(tmp_path, make_run(tmp_path / "a", 2)) == ["added"]
    old, new = load(tmp_path / "scores")
    assert old.points == {0: 5.027451222272092, 1000: 561.5}
    assert old.averaged == {0: 10, 1000: 7}
    assert (old.number_of_episodes(1000), new.number_of_episodes(1000)) == (7, 2)
    path = tmp_path / "scores" / "dmc" / "mcurl" / "cartpole-swingup.csv"
    assert path.read_text().splitlines()[:3] == [
        "seed,env_steps,episode,return,episodes",
        "1,0,,5.027451222272092,10",
        "1,1000,,561.5,7",
    ]


def test_scores_of_a_newer_version_are_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"^\S+run.json was written by a newer version of mcurl .format 3, this one"):
        read_runs([make_run(tmp_path / "newer", about={"version": 3})])
    with pytest.raises(UserError, match=r"run.json is damaged: its format is not mcurl-run"):
        read_runs([make_run(tmp_path / "other", about={"format": "other"})])
    store(tmp_path, make_run(tmp_path / "runs"))
    path = tmp_path / "scores" / "dmc" / "mcurl" / "cartpole-swingup.json"
    about = json.loads(path.read_text())
    about["seed 1"]["format"] += 1
    path.write_text(json.dumps(about))
    with pytest.raises(UserError, match=r"^\S+swingup.json was written by a newer version of mcurl .format 2, this"):
        store(tmp_path, tmp_path / "runs")


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("csv", "a,b\n1,2\n", "is not a file of scores: its columns are a, b, not seed"),
        (
            "csv",
            "seed,env_steps,episode,return,episodes\n1,x,0,2,1\n",
            "is damaged in line 2: 'x' is not a whole number",
        ),
        ("csv", "seed,env_steps,episode,return,episodes\n1,0,0,2,1\n1\n", "is damaged in line 3"),
        ("csv", "seed,env_steps,episode,return,episodes\n1,-1,0,2,1\n", "'-1' is not a whole number from 0"),
        ("csv", "seed,env_steps,episode,return,episodes\n-1,0,0,2,1\n", "'-1' is not a whole number from 0"),
        ("csv", "seed,env_steps,episode,return,episodes\n1,0,,2,0\n", "an evaluation of no episodes"),
        ("csv", "seed,env_steps,episode,return,episodes\n1,0,0\n", "is damaged in line 2: expected 5 values"),
        ("csv", "seed,env_steps,episode,return,episodes\n1,0,0,2,1,9\n", "is damaged in line 2: expected 5 values"),
        (
            "csv",
            "seed,env_steps,episode,return,episodes\n1,0,0,2,1\n1,0,0,3,1\n",
            "in line 3: seed 1 has this evaluation",
        ),
        (
            "csv",
            "seed,env_steps,episode,return,episodes\n1,0,,2,9\n1,0,0,3,1\n",
            "in line 3: seed 1 has this evaluation",
        ),
        ("csv", "seed,env_steps,episode,return,episodes\n1,0,1,2,1\n", "seed 1 has no episode 0 at 0 env steps"),
        ("csv", "seed,env_steps,return,episodes\n1,0,2,1\n", "its columns are seed, env_steps, return, episodes, not"),
        ("json", '{"seed 1": {"budget": "x"}}', "budget is not a whole number"),
        ("json", '{"seed 1": {"budget": -1}}', "the budget of seed 1 is not a whole number"),
        ("json", '{"seed 1": {"packages": ["x"]}}', "packages is not versions by name"),
        ("json", '{"seed 1": {"resumed": ["x"]}}', "resumed is not a list of tables"),
        ("json", '{"seed 1": {"evaluated": [{"seed": 1}]}}', "env_steps of an evaluation is 'None'"),
        ("json", '{"seed 1": {"settings": {"env": {"action_repeat": "x"}}}}', "env.action_repeat is 'x'"),
        ("json", '{"seed 1": {"settings": {"task": "dmc/hopper-hop"}}}', "its seed 1 is of dmc/hopper-hop"),
        ("json", '{"seed 1": {"name": "curl"}}', "seed 1 is of curl, but its folder is mcurl: was it renamed?"),
        ("json", '{"seed 1": {"format": "x"}}', "of seed 1, format is not a whole number"),
        ("json", "{", "is damaged"),
        ("json", "[1]", "is damaged: it is not a JSON object"),
    ],
)
def test_a_damaged_store_is_one_line(tmp_path: Path, name: str, text: str, message: str) -> None:
    store(tmp_path, make_run(tmp_path))
    path = tmp_path / "scores" / "dmc" / "mcurl" / f"cartpole-swingup.{name}"
    path.write_text(text)
    if name == "csv":  # scores are read without what is known beside them
        with pytest.raises(UserError, match=message):
            load(tmp_path / "scores")
    with pytest.raises(UserError, match=message):
        store(tmp_path, make_run(tmp_path / "b", 2))
    assert path.read_text() == text


@pytest.mark.parametrize("text", ["", "seed,env_steps,episode,return,episodes\n"])
def test_a_store_without_a_score_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "scores" / "dmc" / "mcurl" / "cartpole-swingup.csv"
    path.parent.mkdir(parents=True)
    path.write_text(text)
    with pytest.raises(UserError, match="has no scores: expected run folders" if text else "its columns are none"):
        load(tmp_path / "scores")
    with pytest.raises(UserError, match="does not exist"):
        load(tmp_path / "nowhere")


def test_what_a_spreadsheet_makes_of_a_table_is_read(tmp_path: Path) -> None:
    """It begins with a byte order mark, lines end in CR and LF, and the user sorted it."""
    store(tmp_path, make_run(tmp_path))
    path = tmp_path / "scores" / "dmc" / "mcurl" / "cartpole-swingup.csv"
    before = load(tmp_path / "scores")
    header, *rows = path.read_text().splitlines()
    path.write_bytes("\r\n".join(["\ufeff" + header, *reversed(rows), ""]).encode())
    assert load(tmp_path / "scores") == before


def test_what_evaluate_found_is_kept_and_is_no_score(tmp_path: Path) -> None:
    folder = make_run(tmp_path)
    store(tmp_path, folder)
    before = points(tmp_path / "scores")
    (folder / "results").mkdir()
    result = {"env_steps": 1000, "seed": 3, "episodes": 100, "mean": 77, "returns": [77.0]}
    (folder / "results" / "000001000-seed3-100episodes.json").write_text(json.dumps(result))
    (folder / "results" / "broken.json").write_text("{")
    [change] = add(tmp_path / "scores", [read_run(folder)])
    assert str(change).endswith("seed 1: evaluations after training")
    [run] = load(tmp_path / "scores")
    assert run.provenance["evaluated"] == [{"env_steps": 1000, "seed": 3, "episodes": 100, "mean": 77.0}]
    assert points(tmp_path / "scores") == before
    assert store(tmp_path, folder) == ["unchanged"]


def test_a_task_of_ones_own_has_a_file(tmp_path: Path) -> None:
    for number, task in enumerate(("gym/my_envs:Corridor-v0", "gym/ALE/Pong-v5")):
        store(tmp_path, make_run(tmp_path / str(number), task=task))
    assert [run.task for run in load(tmp_path / "scores")] == ["ALE/Pong-v5", "my_envs:Corridor-v0"]
    assert {path.name for path in (tmp_path / "scores").glob("*/*/*.csv")} == {
        "my_envs-Corridor-v0.csv",
        "ALE-Pong-v5.csv",
    }
    before = everything(tmp_path / "scores")
    twin = make_run(tmp_path / "twin", 2, task="gym/ALE-Pong-v5")
    for folders in ([twin], [make_run(tmp_path / "a", task="gym/a:b"), make_run(tmp_path / "b", task="gym/a-b")]):
        with pytest.raises(UserError, match="has scores of another task than"):
            store(tmp_path, *folders)
    assert everything(tmp_path / "scores") == before


def test_runs_and_stores_are_read_together(tmp_path: Path) -> None:
    finished, begun = make_run(tmp_path / "a"), make_run(tmp_path / "b", episodes={0: [1.0]})
    store(tmp_path, finished)
    other = make_run(tmp_path / "c", 2)
    before = everything(tmp_path)
    assert [run.seed for run in read([tmp_path / "scores", other])] == [1, 2]
    assert len(read([tmp_path / "scores", finished, finished.parent, begun])) == 1
    assert read([begun, tmp_path / "scores"])[0].finished
    assert everything(tmp_path) == before
    with pytest.raises(UserError, match="nothing does not exist"):
        read([Path("nothing")])


# Versions of the simulators


def versions(tmp_path: Path, seed: int, mujoco: str | None, **about: Any) -> RunScores:
    packages = {} if mujoco is None else {"packages": {"mujoco": mujoco, "dm_control": "1.0.50", "torch": str(seed)}}
    return read_run(make_run(tmp_path, seed, about=packages | about))


def test_seeds_made_with_different_simulators_are_shown_as_such(tmp_path: Path) -> None:
    runs = [versions(tmp_path, 1, "3.11.0"), versions(tmp_path, 2, "3.17.0"), versions(tmp_path, 3, "3.17.0")]
    [text] = notes(runs)
    assert text == (
        "made with different simulators (seed 1: mujoco 3.11.0, dm_control 1.0.50; "
        "seed 2, 3: mujoco 3.17.0, dm_control 1.0.50)"
    )
    assert text in overview(runs)
    assert notes(runs[1:]) == []
    assert "seed 4: unknown" in notes([*runs[1:], versions(tmp_path, 4, None)])[0]
    resumed = versions(tmp_path, 5, "3.11.0", resumed=[{"packages": {"mujoco": "3.17.0"}}])
    assert resumed.simulator == "mujoco 3.11.0, dm_control 1.0.50, then mujoco 3.17.0"


def test_the_package_of_an_environment_is_part_of_its_simulator(tmp_path: Path) -> None:
    about = {"packages": {"gymnasium": "1.4.0", "mujoco": "3"}, "environment": {"minigrid": "3.0.0"}}
    run = read_run(make_run(tmp_path, task="gym/MiniGrid-Empty-v0", about=about))
    assert run.simulator == "gymnasium 1.4.0, minigrid 3.0.0"


# Tables


def test_sources_know_the_tasks_in_our_spelling() -> None:
    paper, rerun, sac, drqv2 = sources("dmc")
    assert paper.score("cartpole-swingup") == Score(582.0, 146.0, 10)
    assert paper.score("hopper-hop") is None
    assert rerun.score("ball_in_cup-catch") is not None
    assert (paper.method, rerun.method, sac.method) == ("curl", "curl", "rl-only-nocrop")
    assert drqv2.score("cartpole-swingup") == Score(626.4, 254.2, 10)
    assert sources("dmc", 500_000)[0].score("cartpole-swingup") == Score(841.0, 45.0, 10)
    assert {source.name: source.score("RoadRunner") for source in sources("atari100k")}[
        "CURL, mean of final scores"
    ] == Score(5006.1)
    assert sources("toy") == []


def write_scores(results: Path, place: str, *rows: str) -> None:
    """A file of an older version."""
    path = results / place
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(["env_steps,return,seed,episodes", *rows]) + "\n")


def test_a_table_sets_scores_at_the_budgets_beside_published_ones(tmp_path: Path) -> None:
    """A run that went on counts with its score at the budget; one that did not get there does not count."""
    write_scores(
        tmp_path,
        "dmc/mcurl/cartpole-swingup.csv",
        "0,2,1,10",
        "100000,20,1,10",
        "500000,800,1,10",
        "100000,30,2,10",
        "80000,7,3,10",
    )
    heading, _, line, _, note = markdown(load(tmp_path), "dmc").splitlines()
    assert note == "[1] cartpole-swingup, M-CURL: seed 3 is unfinished, at 80,000 of 100,000 env steps"
    assert heading.startswith("| task | M-CURL, this package, at 100k | CURL, CURL paper, at 100k |")
    assert line.startswith(
        "| cartpole-swingup | 25.0 ± 7.1 (2 seeds) [1] | 582 ± 146 (10 seeds) | 551 ± 104 (10 seeds) |"
    )
    at_500k = heading.split(" | ").index("M-CURL, this package, at 500k")
    assert line.split(" | ")[at_500k : at_500k + 2] == ["800 (1 seed) [1]", "841 ± 45 (10 seeds)"]
    write_scores(tmp_path, "atari100k/rl-only/Krull.csv", "0,1598,1,10", "400000,2131.75,1,100")
    write_scores(tmp_path, "atari100k/curl/Krull.csv", "360000,9000,1,10")
    write_scores(tmp_path, "atari100k/curl/Pong.csv", "0,-21,1,10")
    heading, _, *lines = markdown(load(tmp_path), "atari100k").splitlines()
    assert heading.startswith("| task | RL alone, this package | M-CURL, M-CURL paper |")
    assert lines == ["| Krull | 2132 (1 seed, 0.50) | 2929 | 4230 | 2852 | 3049 | 3257 | 1598 |"]


def test_published_maxima_are_called_maxima(tmp_path: Path) -> None:
    """The paper's column of CURL on Atari holds maxima over evaluations."""
    write_scores(tmp_path, "atari100k/curl/Krull.csv", "400000,2131.75,1,100")
    heading = markdown(load(tmp_path), "atari100k").splitlines()[0].split(" | ")
    [column] = [text for text in heading if text.startswith("CURL") and "paper" in text]
    assert column == "CURL (maxima over evaluations), M-CURL paper"


def test_a_table_of_nothing_is_refused(tmp_path: Path) -> None:
    write_scores(tmp_path, "dmc/curl/cartpole-swingup.csv", "80000,7,3,10")
    runs = load(tmp_path)
    with pytest.raises(UserError, match="did you mean dmc"):
        markdown(runs, "dcm")
    with pytest.raises(UserError, match="there are no results of atari100k"):
        markdown(runs, "atari100k")
    with pytest.raises(UserError, match="has reached 100,000 env steps yet"):
        markdown(runs, "dmc")
    with pytest.raises(UserError, match="none does not exist"):
        load(tmp_path / "none")


def test_a_strangers_label_stays_in_its_cell(tmp_path: Path) -> None:
    store(tmp_path, make_run(tmp_path, env_steps=100_000, episodes={100_000: [7.0]}, about={"label": "a |\n b"}))
    heading = markdown(load(tmp_path / "scores"), "dmc").splitlines()[0]
    assert heading.startswith("| task | a &#124;\\n b, this package, at 100k |")


def test_names_with_one_label_have_columns_of_their_own(tmp_path: Path) -> None:
    for name in ("one", "two"):
        about = {"name": name, "label": "Mine"}
        store(tmp_path, make_run(tmp_path, env_steps=100_000, episodes={100_000: [7.0]}, about=about))
    heading = markdown(load(tmp_path / "scores"), "dmc").splitlines()[0]
    assert "| Mine (one), this package, at 100k | Mine (two), this package, at 100k |" in heading


# Curves


def lines_of(monkeypatch: pytest.MonkeyPatch, runs: list[RunScores], tmp_path: Path) -> Any:
    """The axes and the figure of a plot."""
    figure = pytest.importorskip("matplotlib.figure")
    figures: list[Any] = []
    monkeypatch.setattr(figure.Figure, "savefig", lambda self, *_, **__: figures.append(self))
    plot.save(task_figure(runs, "dmc", "cartpole-swingup"), tmp_path / "curve.png")
    return figures[0]


def test_curves_are_plotted(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    runs = read([make_run(tmp_path), make_run(tmp_path, method="curl")])
    plot.save(task_figure(runs, "dmc", "cartpole-swingup"), tmp_path / "curve.png")
    assert (tmp_path / "curve.png").read_bytes().startswith(b"\x89PNG")
    with pytest.raises(UserError, match="there are no results of dmc/walker-walk"):
        task_figure(runs, "dmc", "walker-walk")


@pytest.mark.parametrize(("last", "shown"), [(30.0, False), (-100.0, True)])
def test_returns_below_0_are_shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, last: float, shown: bool) -> None:
    run = read_run(make_run(tmp_path / "runs", episodes={0: [1.0], 1000: [last]}))
    bottom, _ = lines_of(monkeypatch, [run], tmp_path).axes[0].get_ylim()
    assert bottom < -45 if shown else bottom == 0


def test_an_unfinished_run_is_dotted_and_not_in_the_mean(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    finished = [make_run(tmp_path, seed) for seed in (1, 2)]
    begun = make_run(tmp_path, 3, episodes={0: [900.0]})
    figure = lines_of(monkeypatch, read([*finished, begun]), tmp_path)
    curves = [line for line in figure.axes[0].lines if line.get_color() == STYLES["mcurl"].light]
    [mean] = [line for line in curves if line.get_linewidth() == 2]
    assert list(mean.get_ydata()) == [2.0, 20.0]
    assert mean.get_label() == "mcurl (2 seeds)"
    assert sorted(line.get_linestyle() for line in curves if line.get_linewidth() < 1) == ["-", "-", ":"]
    assert "seed 3 is unfinished, at 0 of 1,000 env steps" in figure.get_supxlabel().replace("\n", " ")


def test_short_runs_have_a_right_axis(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    axis = lines_of(monkeypatch, [read_run(make_run(tmp_path))], tmp_path).axes[0]
    assert [label.get_text() for label in axis.get_xticklabels()] == ["0", "200", "400", "600", "800", "1000"]
    assert axis.get_xlim()[1] < 1100


# The results in this repository


@pytest.mark.parametrize("path", sorted(RESULTS.glob("*/*/*.json")), ids=lambda path: f"{path.parent.name}-{path.stem}")
def test_the_results_in_this_repository_say_how_they_were_made(path: Path) -> None:
    """Their settings are those of this version: every value that stands there is one that it reads."""
    for note in json.loads(path.read_text()).values():
        settings = TrainSettings.from_json(note["settings"])
        assert settings.task.endswith(f"/{path.stem}")
        name = run_name(note["settings"])
        assert name == path.parent.name or path.parent.name.startswith(f"{name}-")
        if settings.method == path.parent.name:
            assert note["label"] == settings.parts.method.label
        whole = settings.to_json()
        for section, values in note["settings"].items():
            assert whole[section] == (whole[section] | values if isinstance(values, dict) else values)


def test_the_results_in_this_repository_keep_their_numbers() -> None:
    runs = load(RESULTS)
    assert shipped_results().resolve() == RESULTS.resolve()
    scores = {(*run.cell, run.seed): run.score({"dmc": 100_000, "atari100k": 400_000}[run.benchmark]) for run in runs}
    expected = {
        ("dmc", "cartpole-swingup", "mcurl", 1): 560.5402992357707,
        ("dmc", "cartpole-swingup", "curl", 1): 426.7186465483659,
        ("atari100k", "Freeway", "mcurl", 1): 24.76,
        ("atari100k", "Krull", "mcurl", 1): 3020.5,
        ("atari100k", "RoadRunner", "mcurl", 3): 1035.0,
        ("atari100k", "RoadRunner", "mcurl", 6): 15726.0,
        ("atari100k", "RoadRunner", "rl-only", 2): 13707.0,
    }
    assert {key: scores[key] for key in expected} == pytest.approx(expected)
    assert all(run.finished for run in runs)
    for path in RESULTS.glob("*/*/*.csv"):
        with path.open(newline="") as file:
            rows = list(csv.DictReader(file))
        of_file = {run.seed: run for run in runs if run.source == path}
        for row in rows:
            run = of_file[int(row["seed"])]
            if row["episodes"] != "1":
                assert run.points[int(row["env_steps"])] == float(row["return"])
                assert run.number_of_episodes(int(row["env_steps"])) == int(row["episodes"])


def test_the_chosen_seed_on_roadrunner_is_marked() -> None:
    runs = load(RESULTS)
    table = markdown(runs, "atari100k")
    [line] = [line for line in table.splitlines() if line.startswith("| RoadRunner")]
    cell = re.match(r"\| RoadRunner \| 8380 ± 10388 \(2 seeds, 1\.07\) \[(\d)\] \[(\d)\] \|", line)
    assert cell
    assert f"[{cell[1]}] RoadRunner, M-CURL: seed 3: stuck: it runs left for ever" in table
    assert f"[{cell[2]}] RoadRunner, M-CURL: seed 6: chosen because its first 24k frames were promising" in table


def test_a_new_seed_fits_into_the_results_of_this_repository(tmp_path: Path) -> None:
    """A run with the defaults of this version is a seed of the default methods there."""
    for task, name in (("dmc/cartpole-swingup", "mcurl"), ("atari/Krull", "curl"), ("atari/Krull", "rl-only")):
        settings = resolve(task, name, seed=99).to_json()
        [run, *_] = [run for run in load(RESULTS) if run.settings.get("task") == task and run.name == name]
        new = RunScores(*run.cell, run.label, 99, {0: [1.0]}, 1, provenance={"settings": settings})
        assert changed_between(run, new) == {}


@pytest.mark.slow
def test_the_wheel_has_the_results(tmp_path: Path) -> None:
    command = [
        sys.executable,
        "-m",
        "pip",
        "wheel",
        "--no-deps",
        "-w",
        str(tmp_path),
        str(ROOT),
    ]
    subprocess.run(command, check=True, capture_output=True)
    [wheel] = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path / "site")
    code = "from mcurl.report.store import *; print(len(load(shipped_results())), shipped_results())"
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        env={"PYTHONPATH": str(tmp_path / "site")},
    )
    assert done.stdout.split() == [str(len(load(RESULTS))), str(tmp_path / "site" / "mcurl" / "results")]


def test_merge_sorts_and_keeps_what_is_comparable(tmp_path: Path) -> None:
    runs = [read_run(make_run(tmp_path, seed, method=method)) for method in ("curl", "mcurl") for seed in (2, 1)]
    assert [(run.name, run.seed) for run in merge(runs)] == [("mcurl", 1), ("mcurl", 2), ("curl", 1), ("curl", 2)]


def test_renamed_runs_are_not_merged_with_others(tmp_path: Path) -> None:
    """Where two settings have one short name, and where a run has the new name already."""

    def make(place: str, name: str, layers: int, blocks: int, seed: int = 1, last: float = 5.0) -> RunScores:
        sections = {"sac": {"layers": layers}, "mcurl": {"layers": blocks}}
        episodes = {0: [1.0], 1000: [last]}
        return read_run(make_run(tmp_path / place, seed, about={"name": name}, sections=sections, episodes=episodes))

    names = [run.name for run in merge([make("a", "x", 4, 2), make("b", "x", 3, 2), make("c", "x", 4, 3)])]
    assert names == [
        "x-sac.layers=3-mcurl.layers=2",
        "x-sac.layers=4-mcurl.layers=2",
        "x-sac.layers=4-mcurl.layers=3",
    ]
    first = [make("d", "y", 4, 2), make("e", "y", 3, 2)]
    merged = merge([*first, make("f", "y-layers=3", 3, 9, seed=2)])
    assert len({run.name for run in merged}) == 3
    assert {run.first_name for run in merged} == {"y", "y-layers=3"}
    with pytest.raises(UserError, match="two runs of"):
        merge([*first, make("g", "y-layers=3", 3, 2, last=6.0)])
