"""The commands, as a user meets them: one line for a mistake, nothing written, the way on after a stop."""

from __future__ import annotations

import contextlib
import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import time
import tomllib
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from mcurl import evaluate, native, training
from mcurl.cli import main
from mcurl.config import resolve as config
from mcurl.errors import UserError
from mcurl.native.processor import processor_flags
from mcurl.run.display import Display
from mcurl.run.folder import Run
from mcurl.run.logger import DisplaySink
from mcurl.runtime.parallel import run_parallel
from mcurl.runtime.signals import Interrupted

SMALL = [
    "sac.batch_size=4",
    "sac.hidden=16",
    "sac.filters=4",
    "sac.learning_starts=20",
    "mcurl.batch=2",
    "mcurl.length=4",
]
TINY = ["--name", "mcurl", "--threads", "1", "--set", "compute.precision=fp32", "evaluation.episodes=2", *SMALL]
Capture = pytest.CaptureFixture[str]


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def everything(folder: Path) -> dict[str, bytes]:
    """All files but the lock, which names the process that had the run last."""
    return {
        str(path.relative_to(folder)): path.read_bytes() if path.is_file() else b""
        for path in sorted(folder.rglob("*"))
        if path.name != "lock"
    }


def refused(capture: Capture, *arguments: str) -> str:
    """The one line of a mistake; nothing may have been written or deleted."""
    before = everything(Path())
    capture.readouterr()
    assert main(arguments) == 2
    out, err = capture.readouterr()
    assert out == ""
    assert err.startswith("mcurl: ")
    assert err.count("\n") == 1
    assert everything(Path()) == before
    return err


def display_of(sinks: Any) -> Display:
    (display,) = (sink.display for sink in sinks if isinstance(sink, DisplaySink))
    return display


@pytest.fixture
def finished(monkeypatch: pytest.MonkeyPatch) -> Path:
    """A run of 100 steps that a stand-in for the training loop made."""

    def work(settings: Any, run: Run, sinks: Any) -> None:
        run.log_evaluation(settings.env_steps, [1.0, 2.0])
        run.checkpoint(settings.env_steps, {"agent": {}}, policy={})

    with monkeypatch.context() as patch:
        patch.setattr(training, "train", work)
        assert main(["train", "toy/reach", "--env-steps", "100"]) == 0
    return Path("runs/toy-reach/mcurl-seed1")


def test_help_is_at_once_and_says_how() -> None:
    code = "import sys; from mcurl.cli import main\ntry: main(['--help'])\nexcept SystemExit: pass\n"
    code += "heavy = {'torch', 'numpy', 'rich', 'gymnasium'} & set(sys.modules); assert not heavy, heavy"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    for word in ("train", "resume", "evaluate", "settings", "tasks", "mcurl train dmc/cartpole-swingup", "--version"):
        assert word in done.stdout


@pytest.mark.parametrize("command", ["train", "resume", "evaluate", "settings", "tasks"])
def test_every_command_has_help(capsys: Capture, command: str) -> None:
    with pytest.raises(SystemExit) as caught:
        main([command, "--help"])
    assert caught.value.code == 0
    assert f"usage: mcurl {command}" in capsys.readouterr().out


def test_version_and_nothing(capsys: Capture) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["--version"])
    assert caught.value.code == 0
    assert capsys.readouterr().out.startswith("mcurl 0.")
    assert main([]) == 0
    assert "usage: mcurl" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("trian toy/reach", "unknown command 'trian': did you mean train?"),
        ("--verson", "did you mean --version?"),
        ("train", "train: the following arguments are required: TASK"),
        ("train toy/reach --sede 1", "unknown option --sede: did you mean --seed?"),
        ("train toy/reach toy/catch", "unexpected argument 'toy/catch'"),
        ("train toy/reach --seed x", "expected an integer from 0, not 'x'"),
        ("train toy/reach --seed -1", "--seed"),
        ("train toy/reach --threads 0", "expected an integer from 1, not '0'"),
        ("train toy/reach --env-steps many", "env_steps is a whole number such as 400_000, 100k or 1e5, not 'many'"),
        ("train toy/reech", "did you mean reach?"),
        ("train tyo/reach", "did you mean toy?"),
        ("train dmc/cartpole-swingp", "did you mean cartpole-swingup?"),
        ("train toy/reach --method crul", "did you mean curl?"),
        ("train toy/reach --agent sak", "unknown agent 'sak': did you mean sac?"),
        ("train toy/reach --agent no_such_module_here:Dqn", "cannot import no_such_module_here: No module named"),
        ("train toy/reach --agent rainbow --threads 1", "Rainbow needs discrete actions"),
        ("train toy/catch --agent sac --threads 1", "SAC needs continuous actions"),
        ("train toy/catch --method rl-only-nocrop", "Rainbow's RL loss sees whole frames in any case"),
        ("train gym/CartPole-v1 --method rl-only --set sac.batch_size=8", "sac.batch_size has no effect here"),
        ("train gym/Pendulum-v1 --method sac-state", "needs the setting env.observation, which gym does not have"),
        ("train toy/reach --set mcurl.mask_rate=7", "mcurl.mask_rate must be from 0 to 1, not 7.0"),
        ("train toy/reach --set sac.contrast_weight=2", "it needs sac.joint_optimizer=true"),
        ("train toy/reach --method rl-only --set sac.contrast_encoder_lr=1", "the method has no contrastive loss"),
        ("train toy/reach --set sac.batchsize=3", "did you mean sac.batch_size?"),
        ("train toy/reach --set sac.batch_size=big", "sac.batch_size is a whole number"),
        ("train toy/reach --set mcurl.negatives=sequences", "did you mean sequence?"),
        ("train toy/reach --method curl --set mcurl.mask_rate=.3", "mcurl.mask_rate has no effect here"),
        ("train toy/reach --preset no.toml", "there is no preset 'no.toml'"),
        ("resume nothing", "nothing is not a run folder"),
        ("resume", "resume: the following arguments are required: RUN"),
        ("evaluate nothing", "nothing is not a run folder"),
        ("evaluate nothing --episodes 0", "expected an integer from 1, not '0'"),
        ("report", "report: the following arguments are required: PATHS"),
        ("report nothing --plot plots", "nothing does not exist"),
        ("report runs --draw plots", "unknown option --draw"),
        ("collect", "collect: the following arguments are required: RUNS"),
        ("collect nothing", "there are no run folders in nothing"),
        ("collect runs --name ../evil", "a name has letters, digits"),
        ("table dmc --results nothing", "nothing does not exist"),
        ("table dcm", "did you mean dmc?"),
        ("settings toy/reach --method no", "unknown method 'no'"),
        ("tasks dmc15", "did you mean dmc1"),
    ],
)
def test_a_mistake_is_one_line_and_nothing_is_written(capsys: Capture, line: str, expected: str) -> None:
    assert expected in refused(capsys, *line.split())


def test_an_environment_without_images_leaves_nothing(capsys: Capture) -> None:
    assert "gives states here" in refused(
        capsys, "train", "toy/reach", "--set", "env.observation=state", "--threads", "1"
    )


def test_an_existing_run_is_left_alone(capsys: Capture, finished: Path) -> None:
    line = refused(capsys, "train", "toy/reach")
    assert f"{finished} exists already: use `mcurl resume {finished}`, or another --seed, --name or --out" in line


def test_a_changed_setting_or_a_name_makes_another_run(
    capsys: Capture, finished: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(training, "train", lambda settings, run, sinks: run.log_evaluation(settings.env_steps, [1.0]))
    assert main(["train", "toy/reach", "--set", "mcurl.mask_rate=0.3"]) == 0
    assert main(["train", "toy/reach", "--name", "mine", "--set", "mcurl.mask_rate=0.3"]) == 0
    about = json.loads((finished.parent / "mcurl-mask_rate=0.3-seed1" / "run.json").read_text())
    assert (about["name"], about["label"]) == ("mcurl-mask_rate=0.3", "M-CURL, mask_rate=0.3")
    about = json.loads((finished.parent / "mine-seed1" / "run.json").read_text())
    assert (about["name"], about["label"]) == ("mine", "mine")
    assert "mine-seed1 exists already" in refused(capsys, "train", "toy/reach", "--name", "mine")
    assert "a name has letters" in refused(capsys, "train", "toy/reach", "--name", "../evil")


def test_resuming_what_is_complete_or_not_a_run(capsys: Capture, finished: Path) -> None:
    assert "is complete with 100 env steps: use a larger --env-steps to continue" in refused(
        capsys, "resume", str(finished)
    )
    assert "has 100 env steps already: --env-steps must be above 100" in refused(
        capsys, "resume", str(finished), "--env-steps", "50"
    )
    assert "--env-steps is a whole number" in refused(capsys, "resume", str(finished), "--env-steps", "x")
    Run(finished).record_resume(extend_to=900)
    short = refused(capsys, "resume", str(finished), "--env-steps", "500")
    assert "has a budget of 900 env steps already: --env-steps must be at least 900" in short
    assert f"did you mean {finished}?" in refused(capsys, "resume", "runs/toy-reach/mcurl-seed2")
    assert f"did you mean {finished}?" in refused(capsys, "resume", str(finished / "checkpoints"))


def test_a_run_without_a_checkpoint_says_so(capsys: Capture, finished: Path) -> None:
    checkpoint = next((finished / "checkpoints").iterdir())
    shutil.rmtree(checkpoint)
    hint = f"wait for the first one or, if the run was stopped before it, use `mcurl resume {finished}`"
    assert f"has no checkpoint yet: {hint}" in refused(capsys, "evaluate", str(finished))
    assert f"use `mcurl resume {finished}`" in refused(capsys, "train", "toy/reach")
    Run(finished).record_compute({"precision": "fp32"})  # written at the first checkpoint
    for command in ("resume", "evaluate"):
        assert "has no checkpoint: they were removed, so start a new run" in refused(capsys, command, str(finished))


def test_resume_extends_and_knows_the_past(capsys: Capture, finished: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []

    def go_on(run: Run, sinks: Any, env_steps: int | None, **_: Any) -> None:
        display = display_of(sinks)
        seen.append((run.folder, env_steps, display.total, display.evaluations))

    monkeypatch.setattr(training, "resume", go_on)
    assert main(["resume", str(finished), "--env-steps", "1k"]) == 0
    assert seen == [(finished, 1000, 1000, [(100, 1.5, 0.5)])]


def test_a_stop_says_how_to_resume(capsys: Capture, finished: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def stopped(*arguments: Any, **_: Any) -> None:
        raise Interrupted(signal.SIGINT)

    monkeypatch.setattr(training, "resume", stopped)
    assert main(["resume", str(finished), "--env-steps", "1k"]) == 130
    assert f"stopped and saved at 100 env steps; resume with: mcurl resume {finished}\n" in capsys.readouterr().out


def test_a_second_stop_quits_at_once(capsys: Capture, finished: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def stopped(*arguments: Any, **_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(training, "resume", stopped)
    monkeypatch.setattr(training, "train", stopped)
    assert main(["resume", str(finished), "--env-steps", "1k"]) == 130
    assert (
        f"stopped without saving; the latest checkpoint is at 100 env steps; resume with: mcurl resume {finished}"
        in capsys.readouterr().out
    )
    assert main(["train", "toy/reach", "--seed", "2"]) == 130
    assert "stopped before the first checkpoint" in capsys.readouterr().out
    assert not Path("runs/toy-reach/mcurl-seed2").exists()


def test_a_mistake_that_only_training_finds_leaves_no_folder(capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*arguments: Any) -> None:
        raise UserError("100 GB of frames do not fit")

    monkeypatch.setattr(training, "train", refuse)
    assert "do not fit" in refused(capsys, "train", "toy/reach")


def test_evaluate_prints_the_score(capsys: Capture, finished: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []

    def play(run: Run, episodes: int, seed: int | None, callback: Any, message: Any, **_: Any) -> Any:
        callback(0, episodes)
        message("something to be said")
        seen.append((run.folder, episodes, seed))
        fields = {"returns": (1.0, 2.0, 6.0), "lengths": (5, 5, 5), "episodes": 3, "seed": 1, "env_steps": 100}
        return SimpleNamespace(**fields, task="toy/reach", method="mcurl", policy="0", build={})

    monkeypatch.setattr(evaluate, "evaluate_run", play)
    capsys.readouterr()
    before = everything(finished)
    assert main(["evaluate", str(finished), "--episodes", "3", "--seed", "7"]) == 0
    assert main(["evaluate", str(finished)]) == 0
    assert seen == [(finished, 3, 7), (finished, 100, None)]
    out, err = capsys.readouterr()
    assert "mcurl on toy/reach, seed 1, after 100 env steps" in out
    assert "3 episodes: mean return 3.00 ± 2.16, from 1.00 to 6.00" in out
    assert "mcurl: something to be said\n" in err
    shutil.rmtree(finished / "results")
    assert everything(finished) == before


def test_collect_keeps_scores_and_report_only_reads(capsys: Capture, finished: Path) -> None:
    pytest.importorskip("matplotlib")
    capsys.readouterr()
    assert main(["collect", "runs"]) == 0
    assert capsys.readouterr().out == "added scores/toy/mcurl/reach.csv, seed 1: 1.5 at 100 env steps, " + (
        f"commit {json.loads((finished / 'run.json').read_text())['commit'][:7]}\n"
    )
    assert main(["collect", "runs"]) == 0
    assert capsys.readouterr().out == "unchanged scores/toy/mcurl/reach.csv, seed 1\n"
    shutil.copytree(finished, "runs/begun")
    Path("runs/begun/evaluations.csv").write_text("env_steps,episode,return\n")
    before = everything(Path())
    for paths in (["runs"], ["scores"], ["scores", "runs"]):
        assert main(["report", *paths]) == 0
        assert "| toy | reach | mcurl | 1 | 100 | 1.5 |  |\n" in capsys.readouterr().out
    assert everything(Path()) == before
    assert main(["report", "scores", "--plot", "plots"]) == 0
    assert capsys.readouterr().out.endswith("\nplots/toy-reach.png\n")
    assert Path("plots/toy-reach.png").stat().st_size > 1000
    shutil.rmtree("plots")
    assert everything(Path()) == before


def test_a_run_without_evaluations_is_skipped(capsys: Capture, finished: Path) -> None:
    shutil.copytree(finished, "runs/begun")
    shutil.rmtree("runs/begun/checkpoints")
    Path("runs/begun/evaluations.csv").write_text("env_steps,episode,return\n")
    capsys.readouterr()
    assert main(["collect", "runs", "--name", "mine", "--label", "My method", "--note", "chosen"]) == 0
    out, err = capsys.readouterr()
    assert out.startswith("added scores/toy/mine/reach.csv, seed 1")
    assert err == "mcurl: skipped: runs/begun has no evaluation yet\n"
    about = json.loads(Path("scores/toy/mine/reach.json").read_text())["seed 1"]
    assert (about["label"], about["note"]) == ("My method", "chosen")


def test_a_score_is_replaced_on_request_alone(capsys: Capture, finished: Path) -> None:
    assert main(["collect", "runs"]) == 0
    shutil.rmtree(finished / "checkpoints")
    (finished / "evaluations.csv").write_text("env_steps,episode,return\n100,0,9.0\n")
    about = json.loads((finished / "run.json").read_text()) | {"started_at": "another time"}
    (finished / "run.json").write_text(json.dumps(about))
    assert "scores/toy/mcurl/reach.csv has seed 1 already, from another run" in refused(capsys, "collect", "runs")
    assert main(["collect", "runs", "--replace"]) == 0
    assert capsys.readouterr().out.startswith("replaced scores/toy/mcurl/reach.csv, seed 1: 1.5 at 100 env steps")


def test_the_table_is_that_of_the_package_wherever_one_is(capsys: Capture, finished: Path) -> None:
    """A user's own runs and scores, or a folder named results, do not change it."""
    assert main(["collect", "runs", "--results", "results"]) == 0
    capsys.readouterr()
    before = everything(Path())
    assert main(["table", "dmc"]) == 0
    assert "| cartpole-swingup | 380 ± 170 (3 seeds) [1] | 456 ± 231 (3 seeds) [2] |" in capsys.readouterr().out
    assert everything(Path()) == before
    assert "there are no results of dmc" in refused(capsys, "table", "dmc", "--results", "results")


def test_settings_prints_toml_with_help(capsys: Capture) -> None:
    assert (
        main(
            [
                "settings",
                "dmc/cartpole-swingup",
                "--method",
                "curl",
                "--set",
                "sac.batch_size=512",
                "--env-steps",
                "1e5",
            ]
        )
        == 0
    )
    out = capsys.readouterr().out
    values = tomllib.loads(out)
    assert values["env"]["action_repeat"] == 8
    assert values["sac"]["batch_size"] == 512
    assert values["env_steps"] == 100_000
    assert "Default: 128." in out
    assert "mcurl" not in values


def test_tasks_lists(capsys: Capture) -> None:
    assert main(["tasks", "dmc16"]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 16
    assert main(["tasks"]) == 0
    assert "atari26" in capsys.readouterr().out


def test_a_reader_that_has_enough_is_no_error() -> None:
    code = "import sys; from mcurl.cli import main; sys.exit(main(['tasks', 'gym']))"
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        assert b"Traceback" not in process.stderr.read()


def test_train_resume_and_evaluate_for_real(capsys: Capture) -> None:
    line = ["toy/reach", "--env-steps", "60", *TINY, "evaluation.every=30", "checkpoint.every=30"]
    assert main(["train", *line]) == 0
    folder = Path("runs/toy-reach/mcurl-seed1")
    out = capsys.readouterr().out
    assert "evaluation" in out
    assert f"finished; evaluate more episodes with: mcurl evaluate {folder}" in out
    assert json.loads((folder / "settings.json").read_text())["sac"]["batch_size"] == 4
    about = json.loads((folder / "run.json").read_text())
    assert about["label"] == "mcurl"
    assert (about["compute"]["threads"], about["compute"]["precision"]) == (1, "fp32")
    assert about["compute"]["native"] == native.operations_used()
    assert about["compute"]["processor_flags"] == processor_flags()
    assert [row.split(",")[0] for row in (folder / "evaluations.csv").read_text().split()[1:]] == [
        "0",
        "0",
        "30",
        "30",
        "60",
        "60",
    ]
    assert main(["resume", str(folder), "--env-steps", "80"]) == 0
    assert Run.open(folder).latest_checkpoint().env_steps == 80
    before = everything(folder)
    assert main(["evaluate", str(folder), "--episodes", "3"]) == 0
    assert "3 episodes: mean" in capsys.readouterr().out
    kept = {"results", "results/000000080-seed1-3episodes.json"}
    assert {name: data for name, data in everything(folder).items() if name not in kept} == before
    assert kept <= everything(folder).keys()


def test_what_a_run_computes_with_is_noted_at_its_first_checkpoint(finished: Path) -> None:
    """And again where a resumed run computes with something else."""
    line = ["train", "toy/reach", "--env-steps", "30", *TINY, "evaluation.every=0", "compute.native=off"]
    assert "compute" not in json.loads((finished / "run.json").read_text())
    assert main([*line, "--seed", "2", "--method", "sym-curl", "--name", "sym-curl"]) == 0
    folder = Path("runs/toy-reach/sym-curl-seed2")
    about = json.loads((folder / "run.json").read_text())
    assert about["compute"]["native"] == []
    assert about["label"] == "sym-curl"
    settings = json.loads((folder / "settings.json").read_text())
    settings["compute"] |= {"native": "auto", "threads": 2}
    (folder / "settings.json").write_text(json.dumps(settings))
    assert main(["resume", str(folder), "--env-steps", "40"]) == 0
    compute = json.loads((folder / "run.json").read_text())["compute"]
    assert (compute["threads"], compute["native"]) == (2, native.operations_used())
    assert ("adam" in compute["native"]) == native.status()["adam"].startswith("built")


def test_sac_on_states_is_filed_under_a_name_of_its_own(capsys: Capture) -> None:
    pytest.importorskip("matplotlib")
    small = ["--env-steps", "40", "--threads", "1", "--set", "sac.hidden=16", "sac.learning_starts=20"]
    for method in ("sac-state", "rl-only"):
        assert main(["train", "toy/reach", "--method", method, *small, "evaluation.episodes=1"]) == 0
    folder = Path("runs/toy-reach/sac-state-learning_starts=20-hidden=16-seed1")
    assert json.loads((folder / "settings.json").read_text())["env"]["observation"] == "state"
    assert json.loads((folder / "run.json").read_text())["label"] == "SAC on states, learning_starts=20, hidden=16"
    assert main(["collect", "runs"]) == 0
    assert {str(path) for path in Path("scores").rglob("*.csv")} == {
        "scores/toy/sac-state-learning_starts=20-hidden=16/reach.csv",
        "scores/toy/rl-only-learning_starts=20-hidden=16/reach.csv",
    }
    assert main(["report", "scores", "--plot", "plots"]) == 0
    assert "| sac-state-learning_starts=20-hidden=16 | 1 | 40 |" in capsys.readouterr().out
    assert Path("plots/toy-reach.png").stat().st_size > 1000


OWN_ENVS = """
import gymnasium
import numpy as np

class Dot(gymnasium.Env):
    metadata = {"render_modes": []}

    def __init__(self, continuous=False, render_mode=None):
        self.observation_space = gymnasium.spaces.Box(0, 255, (28, 28, 1), np.uint8)
        box = gymnasium.spaces.Box(-2, 2, (1,), np.float32)
        self.action_space = box if continuous else gymnasium.spaces.Discrete(3)

    def see(self):
        return np.full((28, 28, 1), self.left, np.uint8)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.left = int(self.np_random.integers(5, 15))
        return self.see(), {}

    def step(self, action):
        self.left -= 1
        return self.see(), float(np.sum(action)), self.left == 0, False, {}

gymnasium.register("Dot-v0", Dot)
gymnasium.register("Slider-v0", Dot, kwargs={"continuous": True})
"""


@pytest.mark.parametrize(
    ("task", "agent", "small"),
    [
        ("dot_envs:Dot-v0", "rainbow", ["rainbow.learning_starts=20", "rainbow.hidden=16"]),
        ("dot_envs:Slider-v0", "sac", ["sac.learning_starts=20", "sac.hidden=16", "sac.filters=4", "sac.crop=24"]),
    ],
)
def test_an_environment_of_ones_own_has_the_agent_that_learns_its_actions(
    capsys: Capture, monkeypatch: pytest.MonkeyPatch, task: str, agent: str, small: list[str]
) -> None:
    Path("dot_envs.py").write_text(OWN_ENVS)
    monkeypatch.syspath_prepend(Path().absolute())
    monkeypatch.delitem(sys.modules, "dot_envs", raising=False)
    other = "rainbow.n_step=3" if agent == "sac" else "sac.batch_size=8"
    line = ["train", f"gym/{task}", "--method", "rl-only", "--env-steps", "40", "--threads", "1", "--name", "dot"]
    assert f"{other.partition('=')[0]} has no effect here" in refused(capsys, *line, "--set", other)
    assert "env.observation, which gym does not have" in refused(
        capsys, *line[:3], "sac-state", "--agent", "sac", *line[4:]
    )
    if agent == "rainbow":
        assert "Rainbow's RL loss sees whole frames in any case" in refused(
            capsys, *line[:3], "rl-only-nocrop", *line[4:]
        )
    assert main([*line, "--set", "env.image_size=28", "evaluation.episodes=2", *small]) == 0
    folder = Path(f"runs/gym-{task.replace(':', '-')}/dot-seed1")
    assert json.loads((folder / "settings.json").read_text())["agent"] == agent
    assert json.loads((folder / "run.json").read_text())["environment"] == {}  # its module belongs to no package
    capsys.readouterr()
    assert main(["resume", str(folder), "--env-steps", "60"]) == 0
    assert "not exact: the environment's state was not saved" in capsys.readouterr().out
    assert Run.open(folder).latest_checkpoint().env_steps == 60


def test_what_settings_prints_is_a_preset(capsys: Capture) -> None:
    """Every method's, with what the user changed."""
    for task, method, changes in (
        ("toy/reach", "mcurl", ["mcurl.mask=block", "mcurl.block_length=2", "sac.joint_optimizer=true"]),
        ("toy/reach", "sac-state", ["sac.batch_size=16"]),
        ("atari/Pong", "curl", ["rainbow.contrast_weight=0.05"]),
        ("gym/CartPole-v1", "sym-curl", ["mcurl.projection=true"]),
    ):
        line = [task, "--method", method]
        assert main(["settings", *line, "--set", *changes]) == 0
        text = capsys.readouterr().out
        Path("mine.toml").write_text(text)
        assert main(["settings", *line, "--preset", "mine.toml"]) == 0
        assert capsys.readouterr().out == text
        assert config.resolve(task, method, preset="mine.toml") == config.resolve(task, method, overrides=changes)


def until_it_learns(folder: Path) -> None:
    for _ in range(1200):
        if (folder / "metrics.jsonl").exists() and (folder / "metrics.jsonl").stat().st_size:
            return
        time.sleep(0.05)


def ended(process: subprocess.Popen[str]) -> tuple[str, str]:
    """What it says until it ends, which is soon."""
    try:
        return process.communicate(timeout=60)
    except subprocess.TimeoutExpired:
        process.kill()
        raise


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGHUP])
def test_a_signal_saves_and_says_how_to_resume(number: signal.Signals) -> None:
    command = [sys.executable, "-m", "mcurl", "train", "toy/reach", "--env-steps", "1e6", *TINY, "evaluation.every=0"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"}
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
    ) as process:
        folder = Path("runs/toy-reach/mcurl-seed1")
        until_it_learns(folder)
        process.send_signal(number)
        out, err = ended(process)
    assert process.returncode == 128 + number, err
    saved = Run.open(folder).latest_checkpoint().env_steps
    assert saved > 0
    assert out.endswith(f"stopped and saved at {saved:,} env steps; resume with: mcurl resume {folder}\n")
    assert err.strip() == "Saving before exit. Press Ctrl-C again to quit without saving."


def test_a_module_is_looked_for_here_where_the_user_names_it_not_where_a_run_does() -> None:
    code = "import gymnasium, pathlib; pathlib.Path('ran').touch(); "
    code += "gymnasium.register('Here-v0', 'mcurl.envs.toy:CatchEnv')"
    Path("here_envs.py").write_text(code)
    command = [str(Path(sys.executable).with_name("mcurl"))]
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}

    def said(*arguments: str) -> str:
        return subprocess.run([*command, *arguments], capture_output=True, text=True, env=environment).stderr

    assert "did you mean Here-v0?" in said("settings", "gym/here_envs:There-v0")
    assert Path("ran").exists()
    Path("ran").unlink()
    folder = Path("stranger")
    (folder / "checkpoints" / "000000100").mkdir(parents=True)
    (folder / "checkpoints" / "000000100" / "state.json").write_text("{}")
    (folder / "run.json").write_text(json.dumps({"format": "mcurl-run"}))
    settings = config.resolve("gym/CartPole-v1", "rl-only").to_json()
    (folder / "settings.json").write_text(json.dumps(settings | {"task": "gym/here_envs:Here-v0"}))
    assert "this run needs the module here_envs, whose code would run" in said("evaluate", "stranger")
    assert not Path("ran").exists()


def test_training_goes_on_where_nobody_reads() -> None:
    command = [sys.executable, "-m", "mcurl", "train", "toy/reach", "--env-steps", "60", *TINY, "evaluation.every=10"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.readline()
        process.stdout.close()
        assert process.stderr.read() == ""
    assert process.returncode == 0
    assert Run.open(Path("runs/toy-reach/mcurl-seed1")).latest_checkpoint().env_steps == 60


def test_what_goes_wrong_in_mid_run_says_what_is_saved(
    capsys: Capture, finished: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(run: Run, sinks: Any, env_steps: int | None, **_: Any) -> None:
        run.rewind(run.latest_checkpoint())
        raise OSError(28, "No space left on device", str(finished))

    monkeypatch.setattr(training, "resume", full)
    assert main(["resume", str(finished), "--env-steps", "1k"]) == 2
    first, second = capsys.readouterr().err.splitlines()
    assert first == f"mcurl: the latest checkpoint is at 100 env steps; resume with: mcurl resume {finished}"
    assert "No space left" in second


def test_several_seeds_train_side_by_side(capfd: pytest.CaptureFixture[str]) -> None:
    line = ["toy/reach", "--env-steps", "40", *TINY, "evaluation.every=0"]
    assert main(["train", *line, "--seed", "1,2"]) == 0
    out = capfd.readouterr().out
    for seed in (1, 2):
        assert Run.open(Path(f"runs/toy-reach/mcurl-seed{seed}")).latest_checkpoint().env_steps == 40
        assert f"seed {seed} | finished" in out
    assert main(["train", *line, "--seed", "3", "--out", "alone"]) == 0
    assert main(["train", *line, "--seed", "4,3"]) == 0
    side, alone = (Path(f"{out}/toy-reach/mcurl-seed3") for out in ("runs", "alone"))
    assert (side / "evaluations.csv").read_bytes() == (alone / "evaluations.csv").read_bytes()


def test_a_seed_that_was_killed_is_no_success(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    dies = tmp_path / "dies"
    dies.write_text("#!/bin/sh\ncase $* in *well) ;; *) kill -9 $$ ;; esac\n")
    dies.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(dies))
    assert run_parallel({"a": ["well"], "b": ["badly"]}, 2) == 128 + signal.SIGKILL
    assert run_parallel({"a": ["well"]}, 1) == 0


def test_of_several_seeds_none_starts_after_a_mistake(capsys: Capture) -> None:
    (Path("runs") / "toy-reach" / "mcurl-seed2").mkdir(parents=True)
    assert "mcurl-seed2 exists already" in refused(capsys, "train", "toy/reach", "--seed", "1,2")
    assert "expected distinct seeds, not '1,1'" in refused(capsys, "train", "toy/reach", "--seed", "1,1")
    assert "expected an integer from 0, not 'x'" in refused(capsys, "train", "toy/reach", "--seed", "1,x")
    assert "batch_size" in refused(capsys, "train", "toy/reach", "--seed", "3,4", "--set", "sac.batch_siz=3")


def test_ctrl_c_saves_every_seed() -> None:
    command = [
        sys.executable,
        "-m",
        "mcurl",
        "train",
        "toy/reach",
        "--env-steps",
        "1e6",
        "--seed",
        "1,2",
        "--max-parallel",
        "2",
        *TINY,
        "evaluation.every=0",
    ]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
        folders = [Path(f"runs/toy-reach/mcurl-seed{seed}") for seed in (1, 2)]
        for _ in range(1200):
            if all(
                (folder / "metrics.jsonl").exists() and (folder / "metrics.jsonl").stat().st_size for folder in folders
            ):
                break
            time.sleep(0.05)
        process.send_signal(signal.SIGINT)
        out = ended(process)[0]
    assert process.returncode == 130
    for seed, folder in enumerate(folders, 1):
        assert f"seed {seed} | stopped and saved at {Run.open(folder).latest_checkpoint().env_steps:,} env steps" in out


@pytest.mark.parametrize(
    ("given", "expected"), [({}, "30000"), ({"GOMP_SPINCOUNT": "7"}, "7"), ({"OMP_WAIT_POLICY": "active"}, None)]
)
def test_threads_wait_calmly_unless_told_otherwise(
    monkeypatch: pytest.MonkeyPatch, given: dict[str, str], expected: str | None
) -> None:
    for name in ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY"):
        monkeypatch.delenv(name, raising=False)
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    main(["tasks", "toy"])
    assert os.environ.pop("GOMP_SPINCOUNT", None) == expected


@pytest.fixture
def trained(capsys: Capture) -> Path:
    """A run with weights that fit its settings."""
    assert main(["train", "toy/reach", "--env-steps", "40", *TINY]) == 0
    capsys.readouterr()
    return Path("runs/toy-reach/mcurl-seed1")


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("mcurl-sed1", "did you mean runs/toy-reach/mcurl-seed1?"),
        ("", "choose from runs/toy-reach/a, runs/toy-reach/b, runs/toy-reach/mcurl-seed1\n"),
        ("nothing", "choose from runs/toy-reach/a, runs/toy-reach/b, runs/toy-reach/mcurl-seed1\n"),
    ],
)
def test_a_run_is_suggested_where_its_own_name_is_close(
    capsys: Capture, finished: Path, name: str, expected: str
) -> None:
    for other in ("a", "b"):
        shutil.copytree(finished, finished.parent / other)
    capsys.readouterr()
    assert expected in refused(capsys, "evaluate", str(finished.parent / name)) + "\n"


@contextlib.contextmanager
def nothing_can_be_written() -> Iterator[None]:
    """Files may be made, but hold no byte, as on a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.parametrize(
    ("words", "named"),
    [
        ("collect runs --results new", "new/toy/mcurl/reach"),
        ("report runs --out new", "new: "),
        ("report runs --table new.csv", "new.csv: "),
        ("report runs --plot new", "new/toy-reach.png: "),
        ("report runs --openrlbenchmark new", "new: "),
        ("export RUN --to new", "new: "),
        ("watch RUN --out new.mp4", "new.mp4: "),
    ],
)
def test_a_full_disk_is_a_line_with_the_file_that_was_asked_for(
    capsys: Capture, trained: Path, words: str, named: str
) -> None:
    pytest.importorskip("matplotlib")
    pytest.importorskip("av")
    words = words.replace("RUN", "runs/toy-reach/mcurl-seed1")
    with nothing_can_be_written():
        assert main(words.split()) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith("mcurl: ")
    assert error.endswith((": File too large", ": disk I/O error"))
    assert named in error
    assert "/." not in error
    assert not list(Path().rglob(".*"))


@pytest.mark.parametrize(
    "words", ["report runs --out X", "report runs --table X.csv", "export RUN --to X", "watch RUN --out X.mp4"]
)
def test_a_folder_where_nothing_can_be_made_is_named_as_it_was_typed(
    capsys: Capture, trained: Path, words: str
) -> None:
    pytest.importorskip("av")
    words = words.replace("RUN", "runs/toy-reach/mcurl-seed1").replace("X", "/proc/none")
    assert main(words.split()) == 2
    assert capsys.readouterr().err.startswith(f"mcurl: {words.split()[-1]}: ")


def test_a_run_without_a_checkpoint_is_begun_anew_after_a_full_disk(
    capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patched:
        patched.setattr(training, "train", lambda *_, **__: (_ for _ in ()).throw(OSError(28, "No space left", "x")))
        assert main(["train", "toy/reach", "--env-steps", "60", *TINY]) == 2
    assert capsys.readouterr().err.splitlines()[-2:] == [
        "mcurl: there is no checkpoint yet: the same command begins this run anew",
        "mcurl: x: No space left",
    ]
    assert main(["train", "toy/reach", "--env-steps", "60", *TINY]) == 0


@pytest.mark.parametrize(
    "words",
    [
        "train toy/reach --out FILE",
        "export RUN --to FILE",
        "verify RUN --picture FILE",
        "verify RUN --video FILE",
        "collect RUN --results FILE",
        "report RUN --out FILE",
        "report RUN --plot FILE",
        "report RUN --openrlbenchmark FILE",
        "table dmc --results FILE",
        "suite run mini-dmc --out FILE",
        "bench profile --plot-dir FILE",
    ],
)
def test_a_file_is_no_folder(capsys: Capture, tmp_path: Path, words: str) -> None:
    path = tmp_path / "file"
    path.write_text("mine")
    assert main(words.replace("FILE", str(path)).replace("RUN", "runs").split()) == 2
    assert f": expected a folder, and {str(path)!r} is a plain file (see " in capsys.readouterr().err
    assert path.read_text() == "mine"
