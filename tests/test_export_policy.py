"""`mcurl export`, and what a stranger does with the folder."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import types
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import mcurl
from mcurl import cli
from mcurl.export.card import CardScore, model_card
from mcurl.export.folder import CARD, CONFIG, VIDEO, foreign_code
from mcurl.run.checkpoint import load_tree
from mcurl.run.folder import Run

Capture = pytest.CaptureFixture[str]
SMALL = ["--threads", "1", "--set", "compute.precision=fp32", "evaluation.episodes=2", "evaluation.every=0"]
SAC = ["sac.learning_starts=20", "sac.batch_size=4", "sac.hidden=16", "sac.filters=4"]
RAINBOW = ["rainbow.learning_starts=30", "rainbow.hidden=16"]
DRQ = ["drqv2.learning_starts=20", "drqv2.batch_size=4", "drqv2.hidden=16", "drqv2.filters=4"]
RUNS = {
    "mcurl": ["toy/reach", "--method", "mcurl", *SMALL, *SAC, "mcurl.batch=2", "mcurl.length=4"],
    "rainbow": ["toy/catch", "--method", "curl", *SMALL, *RAINBOW],
    "state": ["toy/reach", "--method", "sac-state", *SMALL, *SAC[:-1]],
    "drqv2": ["toy/reach", "--method", "rl-only", "--agent", "drqv2", *SMALL, *DRQ],
}


def outcome(capture: Capture, *arguments: object) -> tuple[int, str, str]:
    capture.readouterr()
    status = cli.main([str(argument) for argument in arguments])
    out, err = capture.readouterr()
    return status, out, err


def train(out: Path, name: str, *more: str) -> Path:
    task, *arguments = RUNS[name]
    arguments = ["train", task, *more, "--out", str(out), "--env-steps", "60", "--name", name, *arguments]
    assert cli.main(arguments) == 0
    return out / task.replace("/", "-") / f"{name}-seed1"


@pytest.fixture(scope="module", params=RUNS)
def run(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return train(tmp_path_factory.mktemp("runs"), request.param)


@pytest.fixture(scope="module")
def one(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return train(tmp_path_factory.mktemp("runs"), "mcurl")


@pytest.fixture
def exported(one: Path, tmp_path: Path) -> Path:
    assert cli.main(["export", str(one), "--to", str(tmp_path / "policy"), "--no-video"]) == 0
    return tmp_path / "policy"


def change_config(folder: Path, **values: Any) -> None:
    """Change top-level values, and settings named ``section__name``."""
    config = json.loads((folder / CONFIG).read_text())
    for key, value in values.items():
        section, _, name = key.partition("__")
        if name:
            config["settings"][section][name] = value
        elif key in config["settings"]:
            config["settings"][key] = value
        else:
            config[key] = value
    (folder / CONFIG).write_text(json.dumps(config))


def header(folder: Path) -> dict[str, Any]:
    yaml = pytest.importorskip("yaml")
    _, text, _ = (folder / CARD).read_text().split("---\n", 2)
    values: dict[str, Any] = yaml.safe_load(text)
    return values


def test_the_policy_acts_as_in_its_run(run: Path, tmp_path: Path) -> None:
    assert cli.main(["export", str(run), "--to", str(tmp_path / "policy"), "--no-video"]) == 0
    original, policy = mcurl.load(run), mcurl.load(tmp_path / "policy")
    assert (policy.task, policy.env_steps) == (original.task, 60)
    assert policy.observation_shape == original.observation_shape
    assert policy.action_space == original.action_space
    rng = np.random.default_rng(0)
    shape = (8, *original.observation_shape)
    pixels = len(shape) == 4
    observations = rng.integers(0, 256, shape, np.uint8) if pixels else rng.normal(size=shape).astype(np.float32)
    np.testing.assert_array_equal(policy.act(observations), original.act(observations))
    np.testing.assert_array_equal(policy.evaluate(2), original.evaluate(2))


def test_only_the_weights_of_acting_are_exported(exported: Path) -> None:
    assert set(load_tree(exported, "model")) == {"convolutions", "actor_features", "actor"}


def test_the_folder_has_what_the_hub_expects(exported: Path, one: Path) -> None:
    assert {path.name for path in exported.iterdir()} == {"README.md", "config.json", "model.safetensors", "model.json"}
    card = header(exported)
    assert card["library_name"] == "mcurl"
    assert card["pipeline_tag"] == "reinforcement-learning"
    assert {"reinforcement-learning", "mcurl", "toy/reach", "sac"} <= set(card["tags"])
    [model] = card["model-index"]
    assert model["name"] == "mcurl-toy-reach-seed1"
    [result] = model["results"]
    assert result["dataset"]["name"] == "toy/reach"
    returns = Run.open(one).evaluations()[60]
    [metric] = result["metrics"]
    assert metric["type"] == "mean_reward"
    assert metric["value"] == f"{np.mean(returns):.2f} +/- {np.std(returns):.2f}"
    assert "seed 1" in metric["name"]
    text = (exported / CARD).read_text()
    assert mcurl.__version__ in text
    assert "mcurl train toy/reach" in text
    assert str(one.parents[1]) not in text  # nothing of this machine


def test_later_evaluations_of_the_same_weights_are_scores(one: Path, tmp_path: Path) -> None:
    assert cli.main(["evaluate", str(one), "--episodes", "3", "--seed", "5"]) == 0
    assert cli.main(["export", str(one), "--to", str(tmp_path / "policy"), "--no-video"]) == 0
    names = [result["metrics"][0]["name"] for result in header(tmp_path / "policy")["model-index"][0]["results"]]
    assert len(names) == 2
    assert "3 episodes" in names[1]
    assert "mcurl evaluate, seed 5" in names[1]


def test_a_policy_without_a_score_says_so(
    one: Path, tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Run, "checked_evaluations", lambda run: {})
    monkeypatch.setattr(Run, "results", lambda run: [])
    status, _, err = outcome(capsys, "export", one, "--to", tmp_path / "policy", "--no-video")
    assert status == 0
    assert err.startswith("mcurl: no score: this checkpoint was not evaluated")
    assert "model-index" not in header(tmp_path / "policy")


def test_each_task_and_seed_has_its_own_name(exported: Path) -> None:
    config = json.loads((exported / CONFIG).read_text())
    own = [CardScore("toy/reach", "mcurl", 1, 60, (1.0, 3.0))]
    others = [CardScore("toy/reach", "mcurl", 2, 60, (5.0,)), CardScore("dmc/walker-walk", "mcurl", 1, 60, (7.0,))]
    (exported / CARD).write_text(model_card(config, own, others))
    models = {model["name"]: model["results"] for model in header(exported)["model-index"]}
    assert list(models) == ["mcurl-toy-reach-seed1", "mcurl-toy-reach-seed2", "mcurl-dmc-walker-walk-seed1"]
    values = {name: results[0]["metrics"][0]["value"] for name, results in models.items()}
    assert values == dict(zip(models, ("2.00 +/- 1.00", "5.00 +/- 0.00", "7.00 +/- 0.00"), strict=True))


def test_scores_of_other_runs_are_found(one: Path, tmp_path: Path) -> None:
    other = train(tmp_path / "runs", "mcurl", "--seed", "2").with_name("mcurl-seed2")
    paths = [str(one), str(other)]
    assert cli.main(["export", str(one), "--to", str(tmp_path / "policy"), "--no-video", "--scores", *paths]) == 0
    models = [model["name"] for model in header(tmp_path / "policy")["model-index"]]
    assert models == ["mcurl-toy-reach-seed1", "mcurl-toy-reach-seed2"]


def test_a_video_is_made(one: Path, tmp_path: Path) -> None:
    pytest.importorskip("av")
    pytest.importorskip("PIL")
    assert cli.main(["export", str(one), "--to", str(tmp_path / "policy")]) == 0
    assert (tmp_path / "policy" / VIDEO).stat().st_size > 1000
    assert VIDEO in (tmp_path / "policy" / CARD).read_text()


def test_without_pyav_there_is_no_video_but_a_policy(
    one: Path, tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "av", None)
    status, out, err = outcome(capsys, "export", one, "--to", tmp_path / "policy")
    assert (status, out) == (0, f"{tmp_path / 'policy'}\n")
    assert err.startswith("mcurl: no video: videos need PyAV")
    assert VIDEO not in (tmp_path / "policy" / CARD).read_text()


def test_a_folder_with_contents_is_refused(one: Path, tmp_path: Path, capsys: Capture) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    status, out, err = outcome(capsys, "export", one, "--to", tmp_path)
    assert (status, out) == (2, "")
    assert err == f"mcurl: {tmp_path} exists already and is not an empty folder: use another name for --to\n"
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]


def test_an_empty_folder_is_filled(one: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    assert cli.main(["export", str(one), "--to", ".", "--no-video"]) == 0
    assert mcurl.load(".").env_steps == 60
    assert [path.name for path in tmp_path.iterdir()] == ["here"]


NO_ENVIRONMENTS = """
import sys

class Block:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {"dm_control", "mujoco", "ale_py", "cv2", "pygame"} or name in BLOCKED:
            raise ImportError(name + " is blocked")

BLOCKED = {"gymnasium.envs.classic_control", "gymnasium.envs.mujoco", "gymnasium.envs.box2d", "gymnasium.envs.toy_text"}
sys.meta_path.insert(0, Block())
import numpy as np
import mcurl

policy = mcurl.load(sys.argv[1])
print(policy.act(np.zeros(policy.observation_shape, np.uint8)).shape)
"""


@pytest.mark.parametrize("task", ["toy/reach", "dmc/cartpole-swingup", "gym/Pendulum-v1"])
def test_acting_needs_no_environment(exported: Path, task: str) -> None:
    """The settings of the environments are those of other suites; their packages cannot be imported."""
    config = json.loads((exported / CONFIG).read_text())
    config["settings"]["task"] = task
    if not task.startswith("toy"):
        names = ("image_size", "frame_stack", "action_repeat")
        config["settings"]["env"] = {name: config["settings"]["env"][name] for name in names}
    (exported / CONFIG).write_text(json.dumps(config))
    command = [sys.executable, "-c", NO_ENVIRONMENTS, str(exported)]
    process = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (process.stdout, process.returncode) == ("(2,)\n", 0), process.stderr


STRANGE = "raise SystemExit('the code of a stranger ran')\n"


@pytest.mark.parametrize("form", ["--out {}", "--out={}"])
def test_a_model_card_does_not_tell_where_the_run_was(form: str, tmp_path: Path) -> None:
    task, *arguments = RUNS["mcurl"]
    private, out = tmp_path / "private", tmp_path / "policy"
    words = ["train", task, *form.format(private).split(), "--env-steps", "60", "--name", "x", *arguments]
    program = [sys.executable, "-P", "-m", "mcurl"]
    subprocess.run([*program, *words], check=True, capture_output=True)
    run = private / task.replace("/", "-") / "x-seed1"
    subprocess.run([*program, "export", run, "--to", out, "--no-video"], check=True, capture_output=True)
    assert f"mcurl train {task} --env-steps 60 --name x" in (out / "README.md").read_text()
    for path in out.rglob("*"):
        assert not path.is_file() or b"private" not in path.read_bytes(), path


@pytest.mark.parametrize("command", ["evaluate {}", "watch {}", "resume {}", "export {} --to copy"])
def test_commands_of_runs_say_what_an_exported_policy_is(exported: Path, command: str, capsys: Capture) -> None:
    assert cli.main(command.format(exported).split()) == 2
    assert "is an exported policy, not a run folder: `mcurl.load` in Python opens it" in capsys.readouterr().err


def test_a_folder_of_links_is_loaded(exported: Path, tmp_path: Path) -> None:
    """As ``huggingface_hub.snapshot_download`` returns it."""
    snapshot = tmp_path / "snapshot"
    snapshot.mkdir()
    for path in exported.iterdir():
        (snapshot / path.name).symlink_to(path)
    observation = np.zeros(mcurl.load(exported).observation_shape, np.uint8)
    assert np.array_equal(mcurl.load(snapshot).act(observation), mcurl.load(exported).act(observation))


@pytest.mark.parametrize("key", ["method", "agent"])
def test_a_class_of_a_stranger_is_not_imported(
    exported: Path, tmp_path: Path, key: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "strange_module.py").write_text(STRANGE)
    monkeypatch.syspath_prepend(tmp_path)
    change_config(exported, **{key: "strange_module:Thing"})
    with pytest.raises(mcurl.UserError, match="if you trust that code, import strange_module first"):
        mcurl.load(exported)


def test_an_environment_of_a_stranger_is_not_imported(
    exported: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "strange_module.py").write_text(STRANGE)
    monkeypatch.syspath_prepend(tmp_path)
    config = json.loads((exported / CONFIG).read_text())
    config["settings"] |= {"task": "gym/strange_module:Env-v0", "env": {"image_size": 28}}
    (exported / CONFIG).write_text(json.dumps(config))
    policy = mcurl.load(exported)
    assert policy.act(np.zeros(policy.observation_shape, np.uint8)).shape == (2,)
    for use in (policy.env, policy.evaluate):
        with pytest.raises(mcurl.UserError, match="the module strange_module"):
            use()


def test_arguments_of_environments_are_code_of_a_stranger() -> None:
    assert "env_id" in foreign_code("gym/GymV26Environment-v0", {"kwargs": {"env_id": "strange:Env-v0"}})
    assert foreign_code("gym/CartPole-v1", {"kwargs": {}}) == foreign_code("dmc/walker-walk", {"image_size": 100}) == ""
    assert foreign_code("gym/json:Env-v0", {"kwargs": {}}) == ""  # imported already


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda folder: change_config(folder, version=9), "another version of mcurl"),
        (lambda folder: change_config(folder, clock={"agent_steps": 1}), "is damaged"),
        (lambda folder: change_config(folder, action={"shape": [3]}), "do not fit the agent"),
        (lambda folder: change_config(folder, sac__hidden=17), "do not fit the agent"),
        (lambda folder: change_config(folder, sac__hidden=10**13), "is sac.hidden=10,000,000,000,000 too large"),
        (lambda folder: change_config(folder, sac__widht=17), "there is no setting sac.widht"),
        (lambda folder: (folder / "model.safetensors").write_bytes(b"x"), "is damaged"),
        (lambda folder: (folder / "model.json").unlink(), "does not exist"),
        (lambda folder: (folder / CONFIG).write_text("{"), "config.json is damaged"),
        (lambda folder: (folder / CONFIG).unlink(), "config.json cannot be read"),
        (lambda folder: os.truncate(folder / CONFIG, 2**40), "config.json has 1,099,511,627,776 bytes"),
    ],
)
def test_a_damaged_folder_is_one_line(exported: Path, damage: Any, words: str) -> None:
    damage(exported)
    with pytest.raises(mcurl.UserError, match=words) as error:
        mcurl.load(exported)
    assert "\n" not in str(error.value)


class FakeHub:
    """What of ``huggingface_hub`` is used."""

    def __init__(self, *, user: str | None = "someone", existing: tuple[str, ...] = ()) -> None:
        self.user, self.existing = user, existing
        self.created: dict[str, bool] = {}
        self.uploaded: dict[str, set[str]] = {}
        self.module = types.ModuleType("huggingface_hub")
        self.module.HfApi = lambda: self  # type: ignore[attr-defined]

    def whoami(self) -> dict[str, str]:
        if self.user is None:
            raise OSError("Token is required,\nbut no token found")
        return {"name": self.user}

    def create_repo(self, repo_id: str, *, repo_type: str, private: bool, exist_ok: bool) -> None:
        assert repo_type == "model"
        if repo_id in self.existing and not exist_ok:
            raise OSError("409: You already created this model repo")
        self.created[repo_id] = private

    def upload_folder(self, *, repo_id: str, repo_type: str, folder_path: str, commit_message: str) -> None:
        self.uploaded[repo_id] = {path.name for path in Path(folder_path).iterdir()}


def push(capture: Capture, monkeypatch: pytest.MonkeyPatch, hub: FakeHub, *arguments: object) -> tuple[int, str, str]:
    monkeypatch.setitem(sys.modules, "huggingface_hub", hub.module)
    return outcome(capture, "export", *arguments, "--no-video", "--push", "someone/policy")


@pytest.mark.parametrize("private", [False, True])
def test_push_uploads_the_folder(
    one: Path, tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch, private: bool
) -> None:
    hub, to = FakeHub(), tmp_path / "policy"
    words = ["--private"] if private else []
    status, out, _ = push(capsys, monkeypatch, hub, one, "--to", to, *words)
    assert (status, out.splitlines()[-1]) == (0, "https://huggingface.co/someone/policy")
    assert hub.created == {"someone/policy": private}
    assert hub.uploaded == {"someone/policy": {path.name for path in to.iterdir()}}


def test_without_a_login_nothing_is_written(
    one: Path, tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    status, _, err = push(capsys, monkeypatch, FakeHub(user=None), one, "--to", tmp_path / "policy")
    assert status == 2
    assert err == "mcurl: --push needs a login (Token is required, but no token found): hf auth login\n"
    assert not list(tmp_path.iterdir())


def test_an_existing_repository_is_not_overwritten(
    one: Path, tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub, to = FakeHub(existing=("someone/policy",)), tmp_path / "policy"
    status, _, err = push(capsys, monkeypatch, hub, one, "--to", to)
    assert status == 2
    assert f"to upload it yourself: hf upload someone/policy {to}" in err
    assert hub.uploaded == {}
    assert mcurl.load(to).env_steps == 60


def test_what_push_needs_is_said(one: Path, tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    line = ["export", one, "--to", tmp_path / "policy"]
    status, _, err = outcome(capsys, *line, "--push", "someone/policy")
    assert (status, err.endswith("pip install 'mcurl[hub]'\n")) == (2, True)
    assert outcome(capsys, *line, "--push", "policy")[2] == "mcurl: --push takes USER/NAME, not 'policy'\n"
    assert outcome(capsys, *line, "--private")[2] == "mcurl: --private has an effect only with --push\n"
    assert not list(tmp_path.iterdir())
