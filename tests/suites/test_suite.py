"""Every run of every suite resolves; a suite of one's own is read, and its mistakes are one line."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

from mcurl.config.resolve import resolve
from mcurl.config.tasks import task_names
from mcurl.errors import UserError
from mcurl.parsers import build_parsers
from mcurl.replay import Replay
from mcurl.suites.suite import DATA, Suite, SuiteRun, check_runs, suite_names

COUNTS = {
    "figure3": (16 * 3 * 5, 500_000),
    "figure3-extended": (20 * 3 * 5, 500_000),
    "figure4a": (6 * 5, 500_000),
    "figure4b": (4 * 5, 500_000),
    "figure4b-small": (4 * 3, 50_000),
    "figure5a": (5 * 5, 500_000),
    "figure5b": (5 * 5, 500_000),
    "mini-atari": (8 * 3 * 2, 400_000),
    "mini-dmc": (3 * 4 * 3, 100_000),
    "table1": (26 * 3 * 5, 400_000),
}
OWN = """
title = "Two rates"
source = "mine"
tasks = ["toy/Reach", "toy/catch"]
seeds = [1, 2]
env_steps = "1k"
[settings]
evaluation.every = 0
[arm.mcurl]
method = "mcurl"
[arm.little]
label = "little masking"
method = "mcurl"
settings.mcurl = { mask_rate = 0.1, projection = true }
"""


def own(folder: Path, text: str = OWN) -> Path:
    path = folder / "mine.toml"
    path.write_text(text)
    return path


def test_there_is_a_count_for_every_suite() -> None:
    assert suite_names() == sorted(COUNTS)


@pytest.mark.parametrize("name", COUNTS)
def test_every_run_resolves(name: str) -> None:
    suite = Suite.load(name)
    runs = suite.runs()
    count, env_steps = COUNTS[name]
    assert len(runs) == count
    check_runs(runs)
    assert {run.settings.env_steps for run in runs} == {run.env_steps for run in runs} == {env_steps}
    assert all(run.settings.task == run.task for run in runs)
    assert len({run.folder(Path("runs")) for run in runs}) == count
    # What differs only in the name of its arm would be trained twice.
    assert len({str(run.settings) for run in runs}) == count
    # An arm with the defaults has the method's name, and shares its runs with other suites.
    assert all(run.arm.name == run.arm.method for run in runs if not run.settings.changed and env_steps != 50_000)
    assert suite.title
    assert suite.source
    assert len({arm.label for arm in suite.arms}) == len(suite.arms)


def test_suites_share_the_runs_that_have_the_same_name() -> None:
    """In one folder; where the budgets differ, the pool refuses the other run."""
    settings: dict[tuple[Path, int], str] = {}
    for name in suite_names():
        for run in Suite.load(name).runs(seeds=[1]):
            key = run.folder(Path()), run.env_steps
            assert settings.setdefault(key, str(run.settings)) == str(run.settings)


def test_arms_and_tasks_are_the_papers() -> None:
    assert Suite.load("figure3").tasks == tuple(task_names("dmc16"))
    assert Suite.load("figure3-extended").tasks == tuple(task_names("dmc20"))
    assert Suite.load("table1").tasks == tuple(task_names("atari26"))
    assert {"atari/Freeway", "atari/Krull", "atari/KungFuMaster", "atari/RoadRunner"} < set(
        Suite.load("mini-atari").tasks
    )
    masks = [run.settings.objective_settings for run in Suite.load("figure4a").runs(seeds=[1])]
    assert [getattr(mask, "mask_rate", None) for mask in masks] == [0.1, 0.3, 0.5, 0.7, 0.9, None]
    layers = [run.settings.objective_settings for run in Suite.load("figure5b").runs(seeds=[1])]
    assert [getattr(layer, "layers", None) for layer in layers] == [1, 2, 3, 4, None]
    assert [arm.method for arm in Suite.load("figure4b").arms] == ["mcurl", "sym-curl", "seq-curl", "curl"]


def test_every_value_has_a_source() -> None:
    for name in suite_names():
        lines = (DATA / f"{name}.toml").read_text().splitlines()
        for line in lines:
            if line.startswith(("seeds", "env_steps", "score_at", "settings", "evaluation")):
                assert "  # " in line, f"{name}: {line}"
        assert any(line.startswith("source = ") for line in lines)


def test_figure_5a_has_as_many_real_positions_in_each_update() -> None:
    """(n + 1) / (n + T) of a window's positions are real: by the formula, and in a replay of such episodes."""
    steps = 250
    rng = np.random.default_rng(0)
    lengths = []
    for run in Suite.load("figure5a").runs(seeds=[1]):
        settings = run.settings
        assert 1000 // settings.env.action_repeat == steps
        length, batch = settings.objective_settings.length, settings.objective_settings.batch
        assert batch == round(512 * (steps + length) / (length * (steps + 1)))
        assert length * batch * (steps + 1) / (steps + length) == pytest.approx(512, rel=0.01)
        ring = Replay(
            capacity=4 * (steps + 1),
            frame_shape=(1,),
            frame_dtype="uint8",
            frame_stack=1,
            stack_start="repeat",
            action_shape=(),
            action_dtype=np.int64,
            n_step=1,
            discount=0.99,
        )
        for _ in range(4):
            ring.begin(np.zeros(1, np.uint8))
            for step in range(steps):
                ring.append(0, 0.0, np.zeros(1, np.uint8), False, step == steps - 1)
        samples = [ring.sample_sequences(batch, length, rng) for _ in range(200)]
        real = [int((~sample[1]).sum()) for sample in samples if sample is not None]
        assert np.mean(real) == pytest.approx(512, rel=0.04)
        lengths.append(length)
    assert lengths == [16, 32, 64, 128, 256]


def test_a_suite_of_ones_own(tmp_path: Path) -> None:
    suite = Suite.load(own(tmp_path))
    assert (suite.name, suite.title, suite.env_steps) == ("mine", "Two rates", 1000)
    assert suite.tasks == ("toy/reach", "toy/catch")
    little = suite.arm("little")
    assert little.overrides == ("evaluation.every=0", "mcurl.mask_rate=0.1", "mcurl.projection=true")
    runs = suite.runs()
    check_runs(runs)
    names = [(run.seed, run.task, run.arm.name) for run in runs]
    assert names[:5] == [
        (1, "toy/reach", "mcurl"),
        (1, "toy/reach", "little"),
        (1, "toy/catch", "mcurl"),
        (1, "toy/catch", "little"),
        (2, "toy/reach", "mcurl"),
    ]
    assert runs[1].folder(Path("out")) == Path("out/toy-reach/little-seed1")
    assert runs[1].settings.objective_settings.mask_rate == 0.1


def test_a_file_of_an_editor_on_windows_is_read_and_a_task_counts_once(tmp_path: Path) -> None:
    text = OWN.replace('"toy/catch"', '"toy", "toy/Catch"').replace("little masking", "little\tmasking")
    path = own(tmp_path)
    path.write_bytes(b"\xef\xbb\xbf" + text.replace("\n", "\r\n").encode())
    suite = Suite.load(path)
    assert suite.tasks == ("toy/reach", "toy/catch")
    assert suite.arm("little").label == "little masking"
    assert len(suite.runs()) == 8


def test_the_budget_is_the_suites_or_else_the_tasks(tmp_path: Path) -> None:
    assert Suite.load(own(tmp_path)).budgets("toy/reach") == (1000,)
    suite = Suite.load(own(tmp_path, OWN.replace('env_steps = "1k"', "")))
    assert suite.budgets("toy/reach") == (4000,)
    assert suite.settings("toy/reach", "little")["mcurl"]["mask_rate"] == 0.1


def test_runs_are_chosen(tmp_path: Path) -> None:
    suite = Suite.load("table1")
    runs = suite.runs(["krull", "atari/Boxing"], ["curl"], [2, 9])
    assert [(run.task, run.arm.name, run.seed) for run in runs] == [
        ("atari/Krull", "curl", 2),
        ("atari/Boxing", "curl", 2),
        ("atari/Krull", "curl", 9),
        ("atari/Boxing", "curl", 9),
    ]
    with pytest.raises(UserError, match=r"table1 has no task 'Krul': did you mean Krull?"):
        suite.runs(["Krul"])
    with pytest.raises(UserError, match=r"table1 has no arm 'mcrl': did you mean mcurl?"):
        suite.runs(arms=["mcrl"])


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ("seeds = [1, 2]", "seeds = [1, 1]", "seeds must be different whole numbers from 0"),
        ("seeds = [1, 2]", "", "seeds must be different whole numbers from 0"),
        ("seeds = [1, 2]", "seeds = [true]", "seeds must be different whole numbers from 0"),
        ('"1k"', '"many"', "env_steps is a whole number"),
        ('"1k"', "0", "env_steps must be at least 1"),
        ("[settings]", "score_at = [500]\n[settings]", "the last of score_at must be env_steps, 1000, not 500"),
        ("[settings]", "score_at = 1000\n[settings]", "score_at must be a list"),
        ("[settings]", 'score_at = "1k"\n[settings]', "score_at must be a list"),
        ("[settings]", "score_at = [500, 200, 1000]\n[settings]", "score_at must be in ascending order"),
        ("[settings]", "score_at = [1000, 1000]\n[settings]", "score_at must be in ascending order"),
        ('env_steps = "1k"', "score_at = [500]", "score_at needs env_steps, with the last of its values: 500"),
        ("[settings]", "[settings]\nenv_steps = 7", "env_steps is no setting of an arm"),
        ("little masking", "mcurl", "arm.mcurl and arm.little have the label 'mcurl': each needs its own"),
        (OWN[OWN.index("settings.mcurl") :], "", "arm.mcurl and arm.little have the same method, agent and settings"),
        ("little masking", " ", "label must be a line of text"),
        ("little masking", "a\\u001b[2J", "label must be a line of text"),
        ("[arm.little]", "[arm.MCURL]", "arm.mcurl and arm.MCURL have the same name but for upper and lower case"),
        ('tasks = ["toy/Reach", "toy/catch"]', "tasks = []", "tasks must be names of tasks or of lists"),
        ("toy/catch", "toy/cach", "did you mean catch?"),
        ("toy/catch", "dmc61", "did you mean dmc16?"),
        ("title", "titel", "a suite has no 'titel': did you mean title?"),
        ('label = "little', 'lable = "little', "arm.little has no 'lable': did you mean label?"),
        ("[arm.little]", '["arm"."a/b"]', "a name has letters"),
        (OWN[OWN.index("[arm.mcurl]") :], "", "there must be at least one"),
        ('[arm.mcurl]\nmethod = "mcurl"', "[arm.mcurl]", "arm.mcurl: method is missing"),
        ('[arm.mcurl]\nmethod = "mcurl"', "[arm]\nmcurl = 1", "arm.mcurl must be a table"),
    ],
)
def test_a_mistake_in_a_file_is_one_line(tmp_path: Path, old: str, new: str, expected: str) -> None:
    assert old in OWN
    path = own(tmp_path, OWN.replace(old, new))
    with pytest.raises(UserError, match=re.escape(expected)) as error:
        Suite.load(path)
    assert str(error.value).startswith(str(path))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(("every", "step"), [(300, 500), (500, 100), (0, 500)])
def test_a_score_is_asked_for_where_runs_are_evaluated(tmp_path: Path, every: int, step: int) -> None:
    def asked(step: int) -> list[SuiteRun]:
        text = OWN.replace("[settings]", f"score_at = [{step}, 1000]\n[settings]")
        return Suite.load(own(tmp_path, text.replace("every = 0", f"every = {every}"))).runs()

    with pytest.raises(UserError, match=f"toy/reach mcurl seed 1 is never evaluated at {step} env steps, a score_at"):
        check_runs(asked(step))
    if every:
        check_runs(asked(every))


def test_an_arm_that_is_named_after_another_setting_is_refused(tmp_path: Path) -> None:
    path = own(tmp_path, OWN.replace("[arm.little]", '[arm."mcurl-mask_rate=0.9"]'))
    with pytest.raises(UserError, match=r"seed 1: the name 'mcurl-mask_rate=0.9' says mask_rate=0.9, but this run has"):
        check_runs(Suite.load(path).runs())


def test_a_mistake_in_a_setting_is_found_before_anything_runs(tmp_path: Path) -> None:
    path = own(tmp_path, OWN.replace("mask_rate", "mask_rat"))
    with pytest.raises(UserError, match=r"toy/reach little seed 1: there is no setting mcurl.mask_rat: did you mean"):
        check_runs(Suite.load(path).runs())
    path = own(tmp_path, OWN.replace("[arm.little]", "[arm.curl]"))
    with pytest.raises(UserError, match="the arm changes settings, so it needs another name, such as mcurl-mask_rate"):
        check_runs(Suite.load(path).runs())
    with pytest.raises(UserError, match="there is no suite 'tabel1': did you mean table1"):
        Suite.load("tabel1")
    with pytest.raises(UserError, match=r"nowhere.toml cannot be read: No such file"):
        Suite.load("nowhere.toml")


def test_the_arguments_train_this_run(tmp_path: Path) -> None:
    for run in (*Suite.load(own(tmp_path)).runs(), *Suite.load("figure5a").runs(seeds=[3])):
        options = build_parsers()[0].parse_args(run.arguments(Path("out"), ["compute.threads=1"]))
        settings = resolve(
            options.task,
            options.method,
            agent=options.agent,
            seed=options.seed[0],
            env_steps=options.env_steps,
            overrides=options.overrides,
        )
        assert settings.compute.threads == 1
        assert settings.to_json() | {"compute": {}} == run.settings.to_json() | {"compute": {}}
        assert (options.name, options.out) == (run.arm.name, Path("out"))
        resumed = build_parsers()[0].parse_args(run.resume_arguments(Path("out")))
        assert resumed.path == run.folder(Path("out"))
