"""`mcurl watch`, and `mcurl evaluate` with --video, --json, --checkpoint; the result of an evaluation is kept."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mcurl import envs
from mcurl.cli import main
from mcurl.run.folder import Run

av = pytest.importorskip("av")
pytest.importorskip("PIL")

Capture = pytest.CaptureFixture[str]
SMALL = ["--threads", "1", "--set", "sac.learning_starts=20", "sac.batch_size=8", "sac.hidden=16", "sac.filters=4"]
SHORT = ["evaluation.episodes=2", "evaluation.parallel=2", "evaluation.every=0", "checkpoint.every=40"]
STEPS = 25
"""Agent steps of an episode of toy/reach."""


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("runs")
    arguments = ["train", "toy/reach", "--method", "curl", "--env-steps", "60", "--out", str(out), "--name", "curl"]
    assert main([*arguments, *SMALL, *SHORT]) == 0
    return out / "toy-reach" / "curl-seed1"


def outcome(capture: Capture, *arguments: object) -> tuple[int, str, str]:
    capture.readouterr()
    status = main([str(argument) for argument in arguments])
    out, err = capture.readouterr()
    return status, out, err


def result(capture: Capture, *arguments: object) -> Any:
    status, out, err = outcome(capture, "evaluate", *arguments, "--json")
    assert (status, err) == (0, "")
    return json.loads(out)


def frames(path: Path) -> list[np.ndarray]:
    with av.open(str(path)) as container:
        return [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]


def rate(path: Path) -> float:
    with av.open(str(path)) as container:
        return float(container.streams.video[0].average_rate)


def test_the_result_is_kept_once(run: Path, capsys: Capture) -> None:
    found = result(capsys, run, "--episodes", 3, "--seed", 7)
    assert len(found["returns"]) == len(found["lengths"]) == found["episodes"] == 3
    assert found["mean"] == pytest.approx(np.mean(found["returns"]))
    assert found["std"] == pytest.approx(np.std(found["returns"]))
    assert (found["run_seed"], found["seed"], found["env_steps"], found["task"]) == (1, 7, 60, "toy/reach")
    kept = Path(found["files"]["kept"])
    assert kept.parent == run / "results"
    assert json.loads(kept.read_text()).items() <= found.items()
    assert result(capsys, run, "--episodes", 3, "--seed", 7)["files"]["kept"] == str(kept)
    # Another result for the same question, as of other code, stays beside it.
    before = kept.read_text().replace('"mean"', '"average"')
    kept.write_text(before)
    second = Path(result(capsys, run, "--episodes", 3, "--seed", 7)["files"]["kept"])
    assert second != kept
    assert kept.read_text() == before


def test_a_folder_that_cannot_be_written_is_no_error(run: Path, capsys: Capture, monkeypatch: Any) -> None:
    def refuse(*_: Any) -> Path:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Run, "keep_result", refuse)
    status, out, err = outcome(capsys, "evaluate", run, "--episodes", 1)
    assert status == 0
    assert "mean return" in out
    assert err == f"mcurl: the result is not kept in {run}: Permission denied\n"


def test_an_earlier_checkpoint_plays_otherwise(run: Path, capsys: Capture) -> None:
    early, late = (result(capsys, run, "--episodes", 2, "--checkpoint", n) for n in ("40", "60"))
    assert (early["env_steps"], late["env_steps"]) == (40, 60)
    assert early["policy"] != late["policy"]
    assert late["returns"] == result(capsys, run, "--episodes", 2)["returns"]


def test_the_video_is_of_the_first_episode(run: Path, capsys: Capture, tmp_path: Path) -> None:
    target = tmp_path / "first.mp4"
    plain = result(capsys, run, "--episodes", 3)
    shown = result(capsys, run, "--episodes", 3, "--video", target)
    assert shown["returns"] == plain["returns"]
    assert shown["files"]["video"] == str(target)
    images = frames(target)
    assert len(images) == plain["lengths"][0] + 1
    assert images[0].shape[2] == 3
    assert any((image != images[0]).any() for image in images)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--final", "--checkpoint", "40"], "omit --episodes, --checkpoint and --seed"),
        (["--checkpoint", "50"], "no checkpoint at 50 env steps: there are 40, 60"),
        (["--checkpoint", "many"], "--checkpoint"),
        (["--video", "there.mp4"], "there.mp4 exists already"),
        (["--video", "film.gif"], "end the name in .mp4"),
        (["--video", "nowhere/film.mp4"], "nowhere is not a folder"),
    ],
)
def test_wrong_options_are_one_line(
    run: Path, capsys: Capture, tmp_path: Path, monkeypatch: Any, arguments: list[str], message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("there.mp4").write_text("mine")
    status, out, err = outcome(capsys, "evaluate", run, *arguments)
    assert (status, out, err.count("\n")) == (2, "", 1)
    assert message in err
    assert Path("there.mp4").read_text() == "mine"


def test_watch_shows_what_both_see(run: Path, capsys: Capture, tmp_path: Path) -> None:
    one, two = tmp_path / "one.mp4", tmp_path / "two.mp4"
    returns = result(capsys, run, "--episodes", 2)["returns"]
    status, out, err = outcome(capsys, "watch", run, "--out", one, "--episode", 1)
    assert (status, err) == (0, "")
    assert f"return {returns[1]:.2f} in {STEPS} agent steps\n" in out
    images = frames(one)
    # The first frame, one for each step, and the last one for a second.
    assert len(images) == 1 + STEPS + round(rate(one))
    dark = [(image < 100).all(axis=2) for image in images]
    assert all(picture.any() for picture in dark)
    bottom = images[0].shape[0] - 40
    assert (images[0][bottom:] != images[STEPS][bottom:]).any(), "the return so far is written below"
    assert outcome(capsys, "watch", run, run, "--out", two, "--seconds", 1)[0] == 0
    both = frames(two)
    assert len(both) == round(rate(two))
    assert both[0].shape[1] == 2 * images[0].shape[1]
    assert both[0].shape[0] == images[0].shape[0]


def test_watch_refuses_before_it_plays(run: Path, capsys: Capture, tmp_path: Path) -> None:
    target = tmp_path / "film.mp4"
    target.write_text("mine")
    status, _, err = outcome(capsys, "watch", run, "--out", target)
    assert status == 2
    assert "exists already" in err
    assert target.read_text() == "mine"
    status, _, err = outcome(capsys, "watch", run, tmp_path, "--out", tmp_path / "other.mp4")
    assert status == 2
    assert "is not a run folder" in err
    assert list(tmp_path.iterdir()) == [target]


def test_nothing_is_left_after_an_error(run: Path, capsys: Capture, tmp_path: Path, monkeypatch: Any) -> None:
    from mcurl import pictures
    from mcurl.errors import UserError

    added, count = pictures.Mp4.add, itertools.count(1)

    def fail(self: Any, frame: np.ndarray) -> None:
        if next(count) % 4 == 0:
            raise UserError("enough")
        added(self, frame)

    monkeypatch.setattr(pictures.Mp4, "add", fail)
    for command, option in (("watch", "--out"), ("evaluate", "--video")):
        status, _, err = outcome(capsys, command, run, option, tmp_path / "film.mp4")
        assert (status, err) == (2, "mcurl: enough\n")
        assert list(tmp_path.iterdir()) == []


def test_a_video_that_appears_meanwhile_is_not_replaced(tmp_path: Path) -> None:
    from mcurl.errors import UserError
    from mcurl.pictures import Mp4

    target, frame = tmp_path / "film.mp4", np.zeros((8, 8, 3), np.uint8)
    video = Mp4(target, 10)
    video.add(frame)
    target.write_text("another's")
    with pytest.raises(UserError, match=r"another program has made .*film\.mp4 meanwhile: this video is ") as error:
        video.close()
    assert target.read_text() == "another's"
    kept = Path(str(error.value).rpartition(" ")[2])
    assert [image.shape for image in frames(kept)] == [(8, 8, 3)]
    assert sorted(tmp_path.iterdir()) == sorted([target, kept])


SUITE = """
import random, gymnasium, numpy as np
from dataclasses import dataclass
from mcurl.envs.stack import StackedEnv

@dataclass(frozen=True)
class MineSettings:
    task: str = "corridor"
    frame_stack: int = 2

def tasks():
    return ["corridor"]

def resolve(name):
    return name

def action_space(settings):
    return gymnasium.spaces.Discrete(2)

def make(settings, seed):
    return Corridor(settings)

class Corridor(StackedEnv):
    def __init__(self, settings):
        super().__init__((1, 25, 25), settings.frame_stack, action_repeat=1, frames_per_second=10)
        self.action_space = gymnasium.spaces.Discrete(2)
    def _begin(self, seed):
        self.steps = 0
    def _advance(self, action):
        self.steps += 1
        return random.random() + np.random.rand(), False, self.steps == 5
    def _look(self):
        return np.full((1, 25, 25), 40 * self.steps, np.uint8)
    def _save(self):
        return {"steps": self.steps}
    def _load(self, state):
        self.steps = state["steps"]
"""


@pytest.fixture
def corridor(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A run on an environment without a ``render`` of its own, with rewards from the global generators."""
    (tmp_path / "corridor_suite.py").write_text(SUITE)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setitem(envs.SUITES, "mine", "corridor_suite")
    arguments = ["train", "mine/corridor", "--method", "rl-only", "--env-steps", "20", "--out", str(tmp_path / "runs")]
    values = ["rainbow.learning_starts=200", "evaluation.parallel=1000000", "evaluation.every=0", "replay.capacity=99"]
    assert main([*arguments, "--name", "x", "--set", *values]) == 0
    return tmp_path / "runs/mine-corridor/x-seed1"


def test_an_environment_without_a_picture_shows_its_frames(corridor: Path, capsys: Capture, tmp_path: Path) -> None:
    """And the episode is the evaluation's, where no other one draws from the global generators."""
    film, other = tmp_path / "film.mp4", tmp_path / "other.mp4"
    assert outcome(capsys, "evaluate", corridor, "--episodes", 1, "--video", film)[0] == 0
    assert [round(float(image.mean()), -1) for image in frames(film)][:3] == [0, 40, 80]
    score = result(capsys, corridor, "--episodes", 1)["returns"][0]
    for target in (tmp_path / "one.mp4", tmp_path / "two.mp4"):
        status, out, err = outcome(capsys, "watch", corridor, "--out", target)
        assert (status, err) == (0, "")
        assert f"return {score:.2f} in 5 agent steps" in out
    assert not other.exists()


def test_the_policy_of_sac_sees_the_centre_crop(run: Path) -> None:
    from mcurl.config.settings import TrainSettings
    from mcurl.loading import load_agent

    with Run.open(run) as opened:
        settings = TrainSettings.from_json(opened.settings)
        agent = load_agent(opened, settings).agent
    size, crop = settings.env.image_size, settings.agent_settings.crop
    frame = np.arange(3 * size * size, dtype=np.int64).reshape(3, size, size)
    edge = (size - crop) // 2
    assert crop < size
    np.testing.assert_array_equal(agent.visible(frame), frame[:, edge : edge + crop, edge : edge + crop])
