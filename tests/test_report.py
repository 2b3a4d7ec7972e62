"""Run folders -> results and curves."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest

from mcurl.config.resolve import TrainSettings
from mcurl.errors import UserError
from mcurl.published.scores import Score, sources
from mcurl.report.collect import hours_per_100k, load, read_run, save
from mcurl.report.curves import plot
from mcurl.report.table import markdown


def make_run(folder: Path, seed: int, method: str = "mcurl", last: float = 30.0) -> Path:
    folder = folder / f"{method}-seed{seed}"
    folder.mkdir(parents=True)
    (folder / "settings.json").write_text(json.dumps({"task": "dmc/cartpole-swingup", "method": method, "seed": seed}))
    (folder / "run.json").write_text(json.dumps({"commit": "abc", "torch": "2"}))
    (folder / "evaluations.csv").write_text(f"env_steps,episode,return\n0,0,1.0\n0,1,3.0\n1000,0,10.0\n1000,1,{last}\n")
    speeds = [
        {"env_steps": 500, "seconds": 10.0, "env_steps_per_second": 50.0},
        {"env_steps": 1000, "seconds": 30.0, "env_steps_per_second": 500 / 30},
    ]
    (folder / "speed.jsonl").write_text("".join(json.dumps(line) + "\n" for line in speeds))
    return folder


def test_a_curve_is_the_mean_of_the_episodes(tmp_path: Path) -> None:
    curve = read_run(make_run(tmp_path, 1))
    assert curve.points == {0: 2.0, 1000: 20.0}
    assert curve.episodes == {0: 2, 1000: 2}
    assert curve.provenance["commit"] == "abc"
    assert curve.benchmark == "dmc"
    assert read_run(tmp_path / "mcurl-seed1", "mcurl-conv").method == "mcurl-conv"
    assert hours_per_100k(tmp_path / "mcurl-seed1") == pytest.approx(40 / 1000 * 100_000 / 3600)


def test_half_a_line_that_a_kill_left_does_not_count(tmp_path: Path) -> None:
    folder = make_run(tmp_path, 1)
    whole = read_run(folder)
    for name, half in {"evaluations.csv": "2000,0,", "speed.jsonl": '{"env_st'}.items():
        with (folder / name).open("a") as file:
            file.write(half)
    assert read_run(folder) == whole
    (folder / "settings.json").write_text("{}")
    with pytest.raises(UserError, match="is not a run folder, or it is damaged"):
        read_run(folder)


def test_a_foreign_table_among_the_results_is_one_line(tmp_path: Path) -> None:
    (path,) = save([read_run(make_run(tmp_path, 1))], tmp_path / "results")
    path.write_text("a,b\n1,2\n")
    with pytest.raises(UserError, match="has the columns a, b, not env_steps"):
        load(tmp_path / "results", "dmc", "cartpole-swingup")


def test_atari_with_the_budget_of_its_benchmark_stands_apart(tmp_path: Path) -> None:
    for frames, benchmark in ((400_000, "atari100k"), (40_000, "atari")):
        folder = make_run(tmp_path / benchmark, 1)
        (folder / "settings.json").write_text(
            json.dumps({"task": "atari/Krull", "method": "mcurl", "seed": 1, "env_steps": frames})
        )
        (path,) = save([read_run(folder)], tmp_path / "results")
        assert path == tmp_path / "results" / benchmark / "mcurl" / "Krull.csv"


def test_results_grow_and_a_seed_is_replaced(tmp_path: Path) -> None:
    results = tmp_path / "results"
    save([read_run(make_run(tmp_path / "a", seed)) for seed in (1, 2)], results)
    (path,) = save([read_run(make_run(tmp_path / "b", 2, last=50.0))], results)
    assert path == results / "dmc" / "mcurl" / "cartpole-swingup.csv"
    assert load(results, "dmc", "cartpole-swingup") == {"mcurl": {1: {0: 2.0, 1000: 20.0}, 2: {0: 2.0, 1000: 30.0}}}
    with path.open(newline="") as file:
        assert [row["seed"] for row in csv.DictReader(file)] == ["1", "1", "2", "2"]
    assert set(json.loads(path.with_suffix(".json").read_text())) == {"seed 1", "seed 2"}


def test_curves_are_plotted(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    results = tmp_path / "results"
    save([read_run(make_run(tmp_path, 1)), read_run(make_run(tmp_path, 1, "curl"))], results)
    plot(results, "dmc", "cartpole-swingup", tmp_path / "curve.png")
    assert (tmp_path / "curve.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(("last", "shown"), [(30.0, False), (-100.0, True)])
def test_returns_below_0_are_shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, last: float, shown: bool) -> None:
    figure = pytest.importorskip("matplotlib.figure")
    limits = []
    monkeypatch.setattr(figure.Figure, "savefig", lambda self, _: limits.append(self.axes[0].get_ylim()))
    save([read_run(make_run(tmp_path / "runs", 1, last=last))], tmp_path / "results")
    plot(tmp_path / "results", "dmc", "cartpole-swingup", tmp_path / "curve.png")
    ((bottom, _),) = limits
    assert bottom < -45 if shown else bottom == 0


def test_sources_know_the_tasks_in_our_spelling() -> None:
    paper, rerun, sac = sources("dmc")
    assert paper.score("cartpole-swingup") == Score(582.0, 146.0, 10)
    assert paper.score("hopper-hop") is None
    assert rerun.score("ball_in_cup-catch") is not None
    assert (paper.method, rerun.method, sac.method) == ("curl", "curl", "rl-only-nocrop")
    assert {source.name: source.score("RoadRunner") for source in sources("atari100k")}[
        "CURL, mean of final scores"
    ] == Score(5006.1)
    assert sources("toy") == []


def write_scores(results: Path, place: str, *rows: str) -> None:
    path = results / place
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(["env_steps,return,seed,episodes", *rows]) + "\n")


def test_a_table_sets_scores_at_the_budget_beside_published_ones(tmp_path: Path) -> None:
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
    heading, _, line = markdown(tmp_path, "dmc").splitlines()
    assert heading.startswith("| task | M-CURL, this package | CURL, CURL paper |")
    assert line.startswith("| cartpole-swingup | 25.0 ± 7.1 (2 seeds) | 582 ± 146 (10 seeds) | 551 ± 104 (10 seeds) |")
    write_scores(tmp_path, "atari100k/rl-only/Krull.csv", "0,1598,1,10", "400000,2131.75,1,100")
    write_scores(tmp_path, "atari100k/curl/Krull.csv", "360000,9000,1,10")
    write_scores(tmp_path, "atari100k/curl/Pong.csv", "0,-21,1,10")
    heading, _, *lines = markdown(tmp_path, "atari100k").splitlines()
    assert heading.startswith("| task | RL alone, this package | M-CURL, M-CURL paper |")
    assert lines == ["| Krull | 2132 (1 seed, 0.50) | 2929 | 4230 | 2852 | 3049 | 3257 | 1598 |"]


def test_a_table_of_nothing_is_refused(tmp_path: Path) -> None:
    write_scores(tmp_path, "dmc/curl/cartpole-swingup.csv", "80000,7,3,10")
    with pytest.raises(UserError, match="did you mean dmc"):
        markdown(tmp_path, "dcm")
    with pytest.raises(UserError, match="has no results"):
        markdown(tmp_path / "none", "dmc")
    with pytest.raises(UserError, match="has reached 100,000 env steps yet"):
        markdown(tmp_path, "dmc")


RESULTS = Path(__file__).parents[1] / "results"


@pytest.mark.parametrize("path", sorted(RESULTS.glob("*/*/*.json")), ids=lambda path: f"{path.parent.name}-{path.stem}")
def test_the_results_in_this_repository_say_how_they_were_made(path: Path) -> None:
    """Their settings are those of this version: every value that stands there is one that it reads."""
    for note in json.loads(path.read_text()).values():
        settings = TrainSettings.from_json(note["settings"])
        assert settings.task.endswith(f"/{path.stem}")
        assert settings.method == path.parent.name or path.parent.name.startswith(f"{settings.method}-")
        assert note["label"] == (settings.label if settings.method == path.parent.name else path.parent.name)
        whole = settings.to_json()
        for section, values in note["settings"].items():
            assert whole[section] == (whole[section] | values if isinstance(values, dict) else values)
