"""`mcurl verify` and `mcurl evaluate --record`: run folders, folders of scores, files, pictures, exit status."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from helpers_verify import record

from mcurl.cli import main
from mcurl.recording import find_recordings, read
from mcurl.run.folder import Run

Capture = pytest.CaptureFixture[str]
SMALL = ["--threads", "1", "--set", "sac.learning_starts=20", "sac.batch_size=8", "sac.hidden=16", "sac.filters=4"]
SHORT = ["evaluation.episodes=3", "evaluation.parallel=2", "evaluation.every=0"]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Runs of two seeds, and their scores."""
    folder = tmp_path_factory.mktemp("trained")
    out = ["--out", str(folder / "runs")]
    for seed in ("1", "2"):
        arguments = ["train", "toy/reach", "--method", "curl", "--env-steps", "60", "--seed", seed]
        arguments += ["--name", "curl"]
        assert main([*arguments, *out, *SMALL, *SHORT, "checkpoint.every=40"]) == 0
    assert main(["collect", str(folder / "runs"), "--results", str(folder / "scores")]) == 0
    return folder


@pytest.fixture
def folder(trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of them as the current folder."""
    shutil.copytree(trained, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    return tmp_path


RUN = Path("runs/toy-reach/curl-seed1")
TABLE = Path("scores/toy/curl/reach.csv")
RECORDED = TABLE.with_name("reach-seed1.episodes")


def outcome(capture: Capture, *arguments: str) -> tuple[int, str, str]:
    capture.readouterr()
    status = main(["verify", *arguments])
    out, err = capture.readouterr()
    assert err.count("\n") <= 1
    return status, out, err


@pytest.mark.usefixtures("folder")
@pytest.mark.parametrize("path", ["runs", str(RUN), "scores", "scores/toy/curl", str(RECORDED), "."])
def test_scores_come_out(capsys: Capture, path: str) -> None:
    before = {file: file.read_bytes() for file in Path().rglob("*") if file.is_file()}
    status, out, err = outcome(capsys, path)
    assert (status, err) == (0, "")
    count = {str(RUN): 1, str(RECORDED): 1, ".": 4}.get(path, 2)
    assert f"{count} of {count} recorded scores verified" in out
    assert out.count("over 3 episodes, exactly") == count
    assert before == {file: file.read_bytes() for file in Path().rglob("*") if file.is_file()}


@pytest.mark.usefixtures("folder")
def test_several_processes_find_the_same(capsys: Capture) -> None:
    one, two = (outcome(capsys, "scores", "--jobs", jobs) for jobs in ("1", "2"))
    assert one == two
    rewrite(RECORDED, actions=lambda actions: -actions)
    status, _, err = outcome(capsys, str(RECORDED), "--jobs", "2")
    assert status == 1
    assert "does not come out: episode" in err


def rewrite(path: Path, **changes: Callable[[np.ndarray], object]) -> None:
    """Change a recording, with a right checksum."""
    recording = read(path)
    path.write_bytes(replace(recording, **{key: f(getattr(recording, key)) for key, f in changes.items()}).to_bytes())


def edit(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))


def better(table: Path) -> None:
    """Raise the first return of seed 1 at 60 env steps."""
    lines = table.read_text().splitlines(keepends=True)
    row = next(i for i, line in enumerate(lines) if "60" in line.split(",")[:2])
    value = next(word for word in lines[row].strip().split(",") if "." in word)
    lines[row] = lines[row].replace(value, str(float(value) + 1))
    table.write_text("".join(lines))


def put_earlier_episodes_in_the_place_of_the_last() -> None:
    assert main(["resume", str(RUN), "--env-steps", "80"]) == 0
    recordings = find_recordings(RUN)
    shutil.copyfile(recordings[60], recordings[80])


def take_weights_of_another_run() -> None:
    policy = "checkpoints/000000060/policy"
    shutil.rmtree(RUN / policy)
    shutil.copytree(RUN.with_name("curl-seed2") / policy, RUN / policy)


TAMPERED: dict[str, tuple[str, Callable[[], object], str]] = {
    "a return in the table": ("scores", lambda: better(TABLE), f"the score in {TABLE} is"),
    "env steps in the table": (
        "scores",
        lambda: TABLE.write_text(TABLE.read_text().replace(",60,", ",59,")),
        "the episodes are of 60 env steps, the score of 59",
    ),
    "a row is missing": (
        "scores",
        lambda: edit(TABLE, "1,60,2,", "3,60,2,"),
        "is damaged: seed 3 has no episode 0 at 60 env steps",
    ),
    "a setting of the environment": (
        "scores",
        lambda: edit(TABLE.with_suffix(".json"), '"image_size": 28', '"image_size": 32'),
        "other settings of the environment than the run: image_size",
    ),
    "the task": (
        "scores",
        lambda: edit(TABLE.with_suffix(".json"), '"toy/reach"', '"toy/catch"'),
        "its seed 1 is of toy/catch",
    ),
    "a byte of the file": (
        "scores",
        lambda: RECORDED.write_bytes(RECORDED.read_bytes()[:-1] + b"x"),
        f"{RECORDED} is damaged or was changed",
    ),
    "another file": ("scores", lambda: RECORDED.write_bytes(b"hello"), f"{RECORDED} is not a recording"),
    "actions": (
        "scores",
        lambda: rewrite(RECORDED, actions=lambda actions: actions * 0.5),
        "episode 0: the return is",
    ),
    "returns": (
        "scores",
        lambda: rewrite(RECORDED, returns=lambda returns: tuple(value + 1 for value in returns)),
        f"the score in {TABLE} is",
    ),
    "the file of another seed": (
        "scores",
        lambda: RECORDED.write_bytes(TABLE.with_name("reach-seed2.episodes").read_bytes()),
        "the episodes are of seed 2, the score of seed 1",
    ),
    "the method": (
        "scores",
        lambda: edit(TABLE.with_suffix(".json"), '"method": "curl"', '"method": "rl-only"'),
        "that of the method curl, but this run is of rl-only",
    ),
    "a return that is no number": (
        "scores",
        lambda: edit(TABLE, f",{read(RECORDED).returns[0]!r},", ",nan,"),
        f"the score in {TABLE} is nan",
    ),
    "an episode more": (
        "scores",
        lambda: TABLE.write_text(f"{TABLE.read_text()}1,60,3,0.5,1\n"),
        f"3 episodes are recorded, but {TABLE} has 4",
    ),
    "an episode twice": (
        "scores",
        lambda: TABLE.write_text(f"{TABLE.read_text()}1,60,2,0.5,1\n"),
        "seed 1 has this evaluation, or this episode of it, already",
    ),
    "the name": (
        "scores",
        lambda: shutil.move(TABLE.parent, TABLE.parents[1] / "mcurl"),
        "seed 1 is of curl, but its folder is mcurl",
    ),
    "a file without a score": (
        "scores",
        lambda: RECORDED.rename(TABLE.with_name("reach-seed7.episodes")),
        "the episodes are of seed 1, the score of seed 7",
    ),
    "the scores of a run": (
        "runs",
        lambda: (RUN / "evaluations.csv").unlink(),
        f"60 env steps, for which {RUN}/evaluations.csv has no score",
    ),
    "a line of a run": (
        "runs",
        lambda: (RUN / "evaluations.csv").write_text("env_steps,episode,return\nx,0,1\n"),
        "evaluations.csv is not as at the checkpoint of 60 env steps",
    ),
    "a return of a run": (
        "runs",
        lambda: better(RUN / "evaluations.csv"),
        "evaluations.csv is not as at the checkpoint of 60 env steps",
    ),
    "the settings of a run": (
        "runs",
        lambda: edit(RUN / "settings.json", '"frame_stack": 3', '"frame_stack": 4'),
        "settings.json was changed since the run began",
    ),
    "the version of a run": (
        "runs",
        lambda: edit(RUN / "run.json", '"version": 2', '"version": 3'),
        "was written by a newer version of mcurl",
    ),
    "the episodes of a run": (
        "runs",
        put_earlier_episodes_in_the_place_of_the_last,
        "at 80 env steps does not come out: the episodes are of 60 env steps",
    ),
    "the weights of a run": ("runs", take_weights_of_another_run, "are not those that played the episodes"),
}
"""What was changed: where scores are verified, the change, and what is said."""


@pytest.mark.usefixtures("folder")
@pytest.mark.parametrize("what", TAMPERED)
def test_whatever_was_changed_is_found(capsys: Capture, what: str) -> None:
    path, change, reason = TAMPERED[what]
    change()
    status, out, err = outcome(capsys, path)
    assert status == 1
    assert err.startswith(f"mcurl: {path}/toy")
    assert " does not come out: " in err
    assert reason in err
    assert "failed" in out


@pytest.mark.usefixtures("folder")
def test_the_first_failure_ends_it_unless_all_are_asked_for(capsys: Capture) -> None:
    rewrite(RECORDED, actions=lambda actions: -actions)
    assert "0 of 2 recorded scores verified, 1 failed" in outcome(capsys, "scores")[1]
    status, out, err = outcome(capsys, "scores", "--keep-going")
    assert status == 1
    assert "1 of 2 recorded scores verified, 1 failed" in out
    assert "seed 1 at 60 env steps does not come out: episode 0: the return is" in err


@pytest.mark.usefixtures("folder")
def test_scores_without_a_recording_are_listed(capsys: Capture) -> None:
    RECORDED.unlink()
    for options, expected in ((), 0), (("--strict",), 1):
        status, out, _ = outcome(capsys, "scores", *options)
        assert status == expected
        missing = "scores/toy/curl/reach seed 1: not recorded"
        assert f"{missing}\n1 of 1 recorded scores verified, 1 not recorded\n" in out
    TABLE.with_name("reach-seed2.episodes").unlink()
    status, _, err = outcome(capsys, "scores")
    assert status == 2
    assert "none of the 2 scores has recorded episodes" in err


@pytest.mark.usefixtures("folder")
def test_a_score_needs_the_recording_of_its_own_evaluation(capsys: Capture) -> None:
    """Rows of a later and better evaluation are not verified by the recording of an earlier one."""
    with TABLE.open("a") as file:
        file.writelines(f"1,120,{episode},99.0,1\n" for episode in range(3))
    status, _, err = outcome(capsys, "scores", "--keep-going")
    assert status == 1
    assert "seed 1 at 120 env steps does not come out: the episodes are of 60 env steps, the score of 120" in err


@pytest.mark.usefixtures("folder")
def test_a_recording_whose_table_is_gone_fails(capsys: Capture) -> None:
    TABLE.unlink()
    status, _, err = outcome(capsys, "scores")
    assert status == 1
    assert f"{TABLE} with its score is missing" in err


@pytest.mark.usefixtures("folder")
def test_without_settings_the_folder_names_the_method(capsys: Capture) -> None:
    TABLE.parent.rename(TABLE.parent.with_name("mcurl"))
    (TABLE.parent.with_name("mcurl") / "reach.json").unlink()
    status, _, err = outcome(capsys, "scores")
    assert status == 1
    assert "the episodes are of curl, the score of mcurl" in err


@pytest.mark.usefixtures("folder")
def test_a_table_without_settings_says_that_they_were_not_compared(capsys: Capture) -> None:
    TABLE.with_suffix(".json").unlink()
    status, out, _ = outcome(capsys, "scores")
    assert status == 0
    assert out.count("exactly; the settings of the environment are not beside it") == 2


@pytest.mark.usefixtures("folder")
def test_old_tables_of_means_are_compared(capsys: Capture) -> None:
    recording = read(RECORDED)
    TABLE.with_name("reach-seed2.episodes").unlink()
    TABLE.with_suffix(".json").unlink()
    header = "env_steps,return,seed,episodes\n"
    TABLE.write_text(f"{header}0,1.5,1,3\n60,{recording.score!r},1,3\n")
    assert outcome(capsys, "scores")[0] == 0
    TABLE.write_text(f"{header}60,{recording.score + 1e-9!r},1,3\n")
    assert outcome(capsys, "scores")[0] == 1
    TABLE.write_text(f"{header}60,{recording.score!r},1,10\n")
    assert "3 episodes are recorded, but" in outcome(capsys, "scores")[2]


@pytest.mark.usefixtures("folder")
def test_wrong_input_is_refused(capsys: Capture) -> None:
    Path("empty").mkdir()
    Path("a.episodes").write_bytes(b"hello")
    for path, message in (
        ("nowhere", "does not exist"),
        ("empty", "nothing to verify"),
        ("a.episodes", "not a recording"),
    ):
        status, out, err = outcome(capsys, path)
        assert (status, out) == (2, "")
        assert message in err
    status, _, err = outcome(capsys, "scores", "--import", "no_such_module")
    assert (status, "cannot import no_such_module" in err) == (2, True)


# Recording


@pytest.mark.usefixtures("folder")
def test_a_finished_run_is_recorded_afterwards_with_the_same_bytes(capsys: Capture) -> None:
    path = find_recordings(RUN)[60]
    before = path.read_bytes()
    shutil.rmtree(path.parent)
    assert outcome(capsys, str(RUN))[0] == 2
    assert main(["evaluate", str(RUN), "--final"]) == 0
    assert "each return is that of the final evaluation in training" in capsys.readouterr().out
    assert find_recordings(RUN) == {}
    assert main(["evaluate", str(RUN), "--final", "--record"]) == 0
    assert path.read_bytes() == before
    assert main(["evaluate", str(RUN), "--final", "--record"]) == 0
    better(RUN / "evaluations.csv")
    path.unlink()
    capsys.readouterr()
    assert main(["evaluate", str(RUN), "--final", "--record"]) == 2
    assert "1 of 3 returns differ" in capsys.readouterr().err
    assert not path.exists()


@pytest.mark.usefixtures("folder")
def test_an_evaluation_is_recorded_in_a_new_file(capsys: Capture) -> None:
    arguments = ["evaluate", str(RUN), "--episodes", "2", "--seed", "5", "--record", "my.episodes"]
    assert main(arguments) == 0
    data = Path("my.episodes").read_bytes()
    assert "my.episodes: " in outcome(capsys, "my.episodes")[1]
    assert read(Path("my.episodes")).seed == 5
    assert main(arguments) == 2
    assert Path("my.episodes").read_bytes() == data
    kept = list((RUN / "results").iterdir())
    capsys.readouterr()
    assert main(["evaluate", str(RUN), "--episodes", "2", "--record", "nowhere/my.episodes"]) == 2
    assert capsys.readouterr().err == "mcurl: --record nowhere/my.episodes: there is no folder nowhere\n"
    assert list((RUN / "results").iterdir()) == kept
    for options in (["--record"], ["--final", "--seed", "3"], ["--final", "--episodes", "3"]):
        assert main(["evaluate", str(RUN), *options]) == 2


@pytest.mark.usefixtures("folder")
def test_a_resumed_run_records_the_same_bytes(capsys: Capture) -> None:
    path = find_recordings(RUN)[60]
    before = path.read_bytes()
    shutil.rmtree(RUN / "checkpoints/000000060")
    with Run.open(RUN, train=True) as run:
        run.rewind(run.latest_checkpoint())
    assert not path.exists()
    assert main(["resume", str(RUN)]) == 0
    assert path.read_bytes() == before
    assert main(["resume", str(RUN), "--env-steps", "80"]) == 0
    assert path.read_bytes() == before
    assert main(["verify", str(RUN)]) == 0
    assert list(find_recordings(RUN)) == [60, 80]
    find_recordings(RUN)[80].unlink()
    assert "at 80 env steps: not recorded" in outcome(capsys, str(RUN))[1]
    assert main(["collect", str(RUN), "--results", "longer"]) == 0
    assert "reach seed 1 at 80 env steps: not recorded" in outcome(capsys, "longer")[1]


def test_states_as_observations_come_out(tmp_path: Path, capsys: Capture) -> None:
    pytest.importorskip("dm_control")
    arguments = ["train", "dmc/pendulum-swingup", "--method", "sac-state", "--env-steps", "600", "--out", str(tmp_path)]
    small = ["--threads", "1", "--set", "sac.learning_starts=30", "sac.hidden=16", "sac.batch_size=8"]
    assert main([*arguments, *small, "env.action_repeat=10", *SHORT]) == 0
    status, out, _ = outcome(capsys, str(tmp_path))
    assert status == 0
    assert "over 3 episodes, exactly" in out


# Pictures


@pytest.mark.parametrize("task", ["toy/reach", "dmc/cartpole-swingup", "atari/Breakout", "gym/CartPole-v1"])
def test_pictures_show_the_best_and_the_median_episode(
    task: str, tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    cv2 = pytest.importorskip("cv2")
    suite = task.partition("/")[0]
    pytest.importorskip({"dmc": "dm_control", "atari": "ale_py", "gym": "pygame"}.get(suite, "numpy"))
    monkeypatch.chdir(tmp_path)
    settings = {"dmc": {"action_repeat": 20, "observation": "state"}, "atari": {"max_frames": 200}}.get(suite, {})
    recording = record(task, 3, **settings)
    Path("a.episodes").write_bytes(recording.to_bytes())
    assert outcome(capsys, "a.episodes", "--picture", "pictures")[0] == 0
    best, median = (cv2.imread(f"pictures/a.episodes-{label}.png") for label in ("best", "median"))
    assert best.shape[1] > 500
    assert best.std() > 5
    assert median.std() > 5
    assert (recording.best_and_median()["best"], max(recording.returns)) == max(
        enumerate(recording.returns), key=lambda pair: (pair[1], -pair[0])
    )
    assert "exists already" in outcome(capsys, "a.episodes", "--picture", "pictures")[2]


def test_a_video_needs_pyav(tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("a.episodes").write_bytes(record("toy/reach", 1).to_bytes())
    monkeypatch.setitem(sys.modules, "av", None)
    status, out, err = outcome(capsys, "a.episodes", "--video", "videos")
    assert (status, out) == (2, "")
    assert "pip install 'mcurl[video]'" in err
    assert not Path("videos").exists()


def test_a_video_has_a_frame_for_each_step(tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    av = pytest.importorskip("av")
    monkeypatch.chdir(tmp_path)
    Path("a.episodes").write_bytes(record("toy/reach", 2).to_bytes())
    assert outcome(capsys, "a.episodes", "--video", "videos")[0] == 0
    with av.open("videos/a.episodes-best.mp4") as container:
        frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    assert len(frames) == 26
    assert frames[0].shape[0] >= 200
    assert frames[0].std() > 5


def test_provenance_has_settings(trained: Path) -> None:
    """The tampering tests above change entries that exist."""
    provenance = json.loads((trained / TABLE.with_suffix(".json")).read_text())
    assert provenance["seed 1"]["settings"]["env"]["task"] == "reach"
