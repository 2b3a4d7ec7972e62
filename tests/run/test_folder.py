"""Run folders: never overwritten, cut back to a checkpoint, one process at a time."""

from __future__ import annotations

import errno
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from mcurl.errors import UserError
from mcurl.run import provenance
from mcurl.run.checkpoint import save_tree
from mcurl.run.evaluations import read_evaluations
from mcurl.run.folder import Run, run_folder
from mcurl.runtime.signals import stop_on_signal

SETTINGS = {
    "task": "dmc/cartpole-swingup",
    "method": "mcurl",
    "agent": "sac",
    "seed": 1,
    "env_steps": 1000,
    "sac": {"batch_size": 128},
}


def make(out: Path, **changes: Any) -> Run:
    return Run.create(out, SETTINGS | changes)


def one_line(error: pytest.ExceptionInfo[UserError]) -> str:
    assert "\n" not in str(error.value)
    return str(error.value)


def tree_of(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def test_a_run_says_what_it_was_made_with(tmp_path: Path) -> None:
    with make(tmp_path / "runs") as run:
        assert run.folder == tmp_path / "runs/dmc-cartpole-swingup/mcurl-seed1"
        assert run.settings == SETTINGS
        assert run.env_steps == 1000
        assert run.replay_folder.is_dir()
        assert {
            "mcurl",
            "commit",
            "dirty",
            "torch",
            "packages",
            "python",
            "platform",
            "cpu",
            "gpu",
            "command",
            "started_at",
        } <= run.metadata.keys()
        assert run.metadata["torch"] == torch.__version__
        assert run.metadata["packages"]["numpy"] == np.__version__
        run.record_resume()
        run.record_resume(extend_to=2000)
        assert run.env_steps == 2000
        assert len(run.metadata["resumed"]) == 2
        assert run.settings["env_steps"] == 1000


@pytest.mark.parametrize(
    ("task", "name"),
    [("toy/catch", "toy-catch"), ("gym/ALE/Pong-v5", "gym-ALE-Pong-v5"), ("gym/a b:../c", "gym-a-b-..-c")],
)
def test_any_task_makes_one_folder_name(task: str, name: str) -> None:
    settings = {"task": task, "method": "rl-only", "seed": 3}
    assert run_folder(Path("runs"), settings) == Path("runs") / name / "rl-only-seed3"


def test_an_existing_run_is_refused_and_left_alone(tmp_path: Path) -> None:
    with make(tmp_path) as run:
        run.checkpoint(10, {})
    before = tree_of(tmp_path)
    with pytest.raises(
        UserError, match=r"exists already: use `mcurl.resume\('.*mcurl-seed1'\)`, or another seed=, name= or out="
    ) as error:
        make(tmp_path)
    one_line(error)
    assert tree_of(tmp_path) == before
    make(tmp_path, seed=2).close()


def test_a_folder_that_is_not_a_run_is_refused_too(tmp_path: Path) -> None:
    folder = run_folder(tmp_path, SETTINGS)
    folder.mkdir(parents=True)
    (folder / "thesis.txt").write_text("years of work")
    with pytest.raises(UserError, match="exists already, without a checkpoint"):
        make(tmp_path)
    assert tree_of(tmp_path) == {"dmc-cartpole-swingup/mcurl-seed1/thesis.txt": b"years of work"}


def test_an_out_that_cannot_be_written_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot create") as error:
        make(tmp_path / "file")
    one_line(error)


def test_a_folder_that_cannot_be_filled_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full_disk(path: Path, content: str | bytes) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))

    (tmp_path / "mine").mkdir()
    with monkeypatch.context() as patch:
        patch.setattr("mcurl.run.folder.create.write_file", full_disk)
        with pytest.raises(UserError, match=r"cannot create .*: No space left"):
            make(tmp_path / "mine" / "runs")
    assert list(tmp_path.rglob("*")) == [tmp_path / "mine"]


def test_opening_another_folder_suggests_runs(tmp_path: Path) -> None:
    make(tmp_path / "runs").close()
    with pytest.raises(UserError, match=r"is not a run folder: did you mean .*/dmc-cartpole-swingup/mcurl-seed1\?"):
        Run.open(tmp_path / "runs/dmc-cartpole-swingup/mcrl-sed1")
    with pytest.raises(UserError, match="mcurl-seed1"):
        Run.open(tmp_path / "runs")
    (tmp_path / "empty" / "deep" / "er" / "still").mkdir(parents=True)
    with pytest.raises(UserError, match="there are no runs nearby"):
        Run.open(tmp_path / "empty/deep/er/still")
    foreign = tmp_path / "other"
    foreign.mkdir()
    (foreign / "settings.json").write_text("{}")
    (foreign / "run.json").write_text("not json")
    with pytest.raises(UserError, match="is not a run folder"):
        Run.open(foreign)


def test_opening_touches_nothing(tmp_path: Path) -> None:
    with make(tmp_path) as run:
        run.checkpoint(10, {"a": 1})
    before = tree_of(tmp_path)
    with Run.open(run.folder) as again:
        assert again.latest_checkpoint().load() == {"a": 1}
    assert tree_of(tmp_path) == before


def test_no_checkpoint_yet_is_one_line(tmp_path: Path) -> None:
    with make(tmp_path) as run, pytest.raises(UserError, match="has no checkpoint yet") as error:
        run.latest_checkpoint()
    one_line(error)


def test_logs_are_exact_and_can_be_followed(tmp_path: Path) -> None:
    with make(tmp_path) as run:
        run.log(4, {"loss": 0.1 + 0.2, "worst": float("inf")})
        run.log_speed(4, {"seconds": 1.5})
        run.log_evaluation(4, np.array([1 / 3, 2.0]))
        line = json.loads((run.folder / "metrics.jsonl").read_text())
        assert line == {"env_steps": 4, "loss": 0.1 + 0.2, "worst": float("inf")}
        assert (run.folder / "evaluations.csv").read_text() == f"env_steps,episode,return\n4,0,{1 / 3!r}\n4,1,2.0\n"
        assert json.loads((run.folder / "speed.jsonl").read_text()) == {"env_steps": 4, "seconds": 1.5}


def test_a_rewound_run_writes_the_same_logs(tmp_path: Path) -> None:
    def work(run: Run, first: int, last: int) -> None:
        for step in range(first, last):
            run.log(step, {"x": step / 3})
            if step % 4 == 0:
                run.log_evaluation(step, [float(step)] * 2)

    with make(tmp_path / "whole") as whole:
        work(whole, 1, 20)
    with make(tmp_path / "broken") as broken:
        work(broken, 1, 10)
        broken.checkpoint(9, {"step": 9})
        work(broken, 10, 15)
    with Run.open(broken.folder, train=True) as broken:
        latest = broken.latest_checkpoint()
        broken.rewind(latest)
        work(broken, latest.load()["step"] + 1, 20)
    for name in ("metrics.jsonl", "evaluations.csv"):
        assert (whole.folder / name).read_bytes() == (broken.folder / name).read_bytes()


def test_a_log_that_lost_lines_is_refused_and_nothing_is_cut(tmp_path: Path) -> None:
    with make(tmp_path) as run:
        run.log(1, {"x": 1.0})
        made = run.checkpoint(1, {})
        run.log_evaluation(2, [1.0])
        os.truncate(run.folder / "metrics.jsonl", 3)
        before = tree_of(run.folder)
        with pytest.raises(UserError, match="another program changed it"):
            run.rewind(made)
        assert tree_of(run.folder) == before


def test_half_a_line_that_a_kill_left_does_not_count(tmp_path: Path) -> None:
    with make(tmp_path) as run:
        run.log_evaluation(2, [1.0, 2.0])
        with (run.folder / "evaluations.csv").open("a") as file:
            file.write("4,0")
        assert run.evaluations() == {2: [1.0, 2.0]}


def test_a_damaged_checkpoint_names_the_one_before(tmp_path: Path) -> None:
    with make(tmp_path) as run:
        for step in (10, 20):
            run.checkpoint(step, {"x": torch.ones(2)})
        newest = run.latest_checkpoint().folder
        assert (newest / "state.safetensors").stat().st_mode == (newest / "state.json").stat().st_mode
        (newest / "state.safetensors").write_bytes(b"x")
        with pytest.raises(UserError, match="does not match; the one before it is used with checkpoint=10") as error:
            run.latest_checkpoint().load()
        one_line(error)


@pytest.mark.parametrize("name", ["state.json", "manifest.json", "settings.json"])
def test_any_damage_to_a_checkpoint_is_named(tmp_path: Path, name: str) -> None:
    with make(tmp_path) as run:
        for step in (10, 20):
            run.checkpoint(step, {"x": step})
    path = run.latest_checkpoint().folder / name
    whole = path.read_bytes()
    for damage in (whole[:-2], whole.replace(b"2", b"3"), b"", b"[]", b"\0" * len(whole)):
        path.write_bytes(damage)
        with pytest.raises(UserError, match=f"{name} .*checkpoint=10") as error:
            use_latest(run.folder)
        one_line(error)
    path.write_bytes(whole)
    use_latest(run.folder)


def use_latest(folder: Path) -> None:
    """What a resume does with the latest checkpoint."""
    with Run.open(folder, train=True) as run:
        latest = run.latest_checkpoint()
        run.check_settings(latest)
        latest.load()
        run.rewind(latest)


def test_a_file_of_another_checkpoint_is_noticed(tmp_path: Path) -> None:
    with make(tmp_path) as run:
        older, newer = (run.checkpoint(step, {"x": torch.full((2,), step)}) for step in (10, 20))
        for name in ("state.json", "state.safetensors"):
            (newer.folder / name).write_bytes((older.folder / name).read_bytes())
        with pytest.raises(UserError, match="belongs to another checkpoint"):
            newer.load()
        (newer.folder / "manifest.json").write_bytes((older.folder / "manifest.json").read_bytes())
        with pytest.raises(UserError, match="belongs to the checkpoint of 10 env steps"):
            newer.logs()


def test_an_earlier_checkpoint_is_used_on_request_and_later_ones_are_kept(tmp_path: Path) -> None:
    with make(tmp_path) as run:
        for step in (10, 20):
            run.log(step, {"x": 1.0})
            if step == 20:
                run.log_evaluation(step, [0.5])
                run.save_recording(step, b"recorded")
            run.checkpoint(step, {"step": step})
    metrics = (run.folder / "metrics.jsonl").read_bytes()
    with Run.open(run.folder, train=True) as again:
        checkpoint = again.check_budget(None, at=10)
        assert checkpoint is not None
        aside = again.rewind(checkpoint)
        assert [path.name for path in aside] == ["000000020.aside", "logs.aside"]
        assert (aside[0] / "state.json").exists()
        assert (aside[1] / "metrics.jsonl").read_bytes() == metrics
        assert (aside[1] / "evaluations.csv").read_text().splitlines()[1:] == ["20,0,0.5"]
        assert (aside[1] / "episodes" / "000000020.episodes").read_bytes() == b"recorded"
        assert again.evaluations() == {}
        assert again.latest_checkpoint().load() == {"step": 10}
        assert again.metrics() == [(10, {"x": 1.0})]
        for step in (20, 30, 40):
            again.checkpoint(step, {"step": step})
        assert aside[0].exists()
    with Run.open(run.folder, train=True) as again:
        again.checkpoint(50, {})
        assert [path.name for path in again.rewind(again.checkpoint_at(40))] == ["000000050.aside", "logs.aside-2"]
        with pytest.raises(UserError, match="has no checkpoint at 10 env steps: there are 40"):
            again.check_budget(None, at=10)


def test_a_checkpoint_of_an_older_version_is_read(tmp_path: Path) -> None:
    with make(tmp_path) as run:
        run.log(10, {"x": 1.0})
        checkpoint = run.checkpoint(10, {"step": 10})
        length = (run.folder / "metrics.jsonl").stat().st_size
        run.log(20, {"x": 2.0})
    for name in ("manifest.json", "settings.json"):
        (checkpoint.folder / name).unlink()
    (checkpoint.folder / "logs.json").write_text(json.dumps({"metrics.jsonl": length, "evaluations.csv": 25}))
    about = json.loads((run.folder / "run.json").read_text())
    for key in ("version", "crc32", "settings_crc32"):
        del about[key]
    (run.folder / "run.json").write_text(json.dumps(about))
    with Run.open(run.folder, train=True) as again:
        latest = again.latest_checkpoint()
        assert (latest.load(), again.check_settings(latest)) == ({"step": 10}, [])
        again.rewind(latest)
        assert again.metrics() == [(10, {"x": 1.0})]
        again.record_resume()
        again.checkpoint(20, {})
    with Run.open(run.folder, train=True) as again:
        assert again.latest_checkpoint().logs()["metrics.jsonl"].length == length


def test_a_newer_version_is_refused_by_name(tmp_path: Path) -> None:
    with make(tmp_path) as run:
        checkpoint = run.checkpoint(10, {})
    path = checkpoint.folder / "manifest.json"
    path.write_text(path.read_text().replace('"version": 2', '"version": 3'))
    with pytest.raises(
        UserError, match=r"manifest.json was written by a newer version of mcurl .format 3, this one reads"
    ):
        checkpoint.load()
    path = run.folder / "run.json"
    path.write_text(path.read_text().replace('"version": 2', '"version": 9'))
    with pytest.raises(UserError, match=r"run.json was written by a newer version of mcurl .format 9"):
        Run.open(run.folder)


def test_changed_settings_are_named_and_can_be_put_back(tmp_path: Path) -> None:
    with make(tmp_path, compute={"threads": 1}) as run:
        checkpoint = run.checkpoint(10, {})
        path = run.folder / "settings.json"
        values = json.loads(path.read_text())
        assert run.check_settings(checkpoint) == []
        path.write_text(json.dumps(values | {"compute": {"threads": 2}}))
        assert run.check_settings(checkpoint) == ["compute.threads is 2, was 1"]
        path.write_text(json.dumps(values | {"compute": {}}))
        assert run.check_settings(checkpoint) == ["compute.threads is missing, was 1"]
        path.write_text(json.dumps(values | {"sac": {"batch_size": 64}, "seed": 2}))
        with pytest.raises(
            UserError, match=r"10 env steps: seed is 2, was 1; sac.batch_size is 64, was 128\. To"
        ) as error:
            run.check_settings(checkpoint)
        with pytest.raises(UserError, match="was changed since the run began"):
            run.check_settings(None)
        path.write_text("{")
        with pytest.raises(UserError, match=f"settings.json is damaged.*a copy is in {checkpoint.settings_path}"):
            run.check_settings(checkpoint)
        subprocess.run(one_line(error).partition("put the settings back: ")[2], shell=True, check=True)
        assert run.check_settings(checkpoint) == []
        assert json.loads(path.read_text()) == values


def test_settings_changed_while_it_trains_are_noticed_later(tmp_path: Path) -> None:
    with make(tmp_path) as run:
        path = run.folder / "settings.json"
        path.write_text(path.read_text().replace("128", "64"))
        checkpoint = run.checkpoint(10, {})
        with pytest.raises(UserError, match=r"sac.batch_size is 64, was 128"):
            run.check_settings(checkpoint)


def test_changed_metadata_is_noticed_before_training(tmp_path: Path) -> None:
    with make(tmp_path) as run:
        run.record_resume(extend_to=2000)
    path = run.folder / "run.json"
    path.write_text(path.read_text().replace("2000", "3000"))
    with pytest.raises(UserError, match=r"run.json is damaged, or was changed by another program"):
        Run.open(run.folder, train=True)
    Run.open(run.folder).close()


@pytest.mark.parametrize("change", ["digit", "zeros", "swapped"])
def test_a_changed_log_is_refused_and_nothing_is_cut(tmp_path: Path, change: str) -> None:
    with make(tmp_path) as run:
        run.log_evaluation(1, [1.0, 2.0])
        made = run.checkpoint(1, {})
        run.log_evaluation(2, [3.0])
        path = run.folder / "evaluations.csv"
        text = path.read_bytes()
        damaged = {"digit": text.replace(b"1.0", b"7.0"), "zeros": text[:30] + bytes(4) + text[34:]}
        path.write_bytes(damaged.get(change, b"".join(reversed(text.splitlines(keepends=True)))))
        before = tree_of(run.folder)
        with pytest.raises(UserError, match=r"evaluations.csv is not as at the checkpoint of 1 env steps"):
            run.rewind(made)
        assert tree_of(run.folder) == before


@pytest.mark.parametrize("garbage", [bytes(512), bytes(512) + b"\n", b"\xff\xfe\n4,0\n", b"x,y,z\n", b"4,0,1.0,9\n"])
def test_what_a_power_cut_leaves_behind_the_checkpoint_does_not_count(tmp_path: Path, garbage: bytes) -> None:
    with make(tmp_path) as run:
        run.log(2, {"x": 1.0})
        run.log_evaluation(2, [1.0, 2.0])
        run.checkpoint(2, {})
        for name in ("evaluations.csv", "metrics.jsonl"):
            with (run.folder / name).open("ab") as file:
                file.write(garbage)
    assert read_evaluations(run.folder) == {2: [1.0, 2.0]}
    with Run.open(run.folder, train=True) as again:
        assert again.evaluations() == {2: [1.0, 2.0]}
        assert again.metrics() == [(2, {"x": 1.0})]
        again.rewind(again.latest_checkpoint())
        again.log_evaluation(4, [3.0])
        assert again.evaluations() == {2: [1.0, 2.0], 4: [3.0]}
        path = run.folder / "evaluations.csv"
        path.write_bytes(path.read_bytes().replace(b"2,0,1.0", b"2,0,1.x"))
        with pytest.raises(UserError, match=r"evaluations.csv is damaged in line 2"):
            again.evaluations()


@pytest.mark.parametrize("command", ["save_recording", "keep_result"])
def test_nothing_is_written_where_the_folder_was(tmp_path: Path, command: str) -> None:
    with make(tmp_path) as run:
        run.folder.rename(tmp_path / "moved")
        if command == "save_recording":
            with pytest.raises(UserError, match="moved or deleted while the run trained"):
                run.save_recording(10, b"")
        else:
            with pytest.raises(FileNotFoundError):
                run.keep_result(10, 1, {"returns": [1.0]})
        assert not run.folder.exists()


@pytest.mark.parametrize("deleted", [False, True])
def test_a_run_whose_folder_is_gone_stops_at_the_checkpoint(tmp_path: Path, deleted: bool) -> None:
    with make(tmp_path / "runs") as run:
        run.log(1, {"x": 1.0})
        run.checkpoint(1, {})
        run.log(2, {"x": 1.0})
        if deleted:
            shutil.rmtree(run.folder)
        else:
            run.folder.rename(tmp_path / "moved")
        with pytest.raises(UserError, match="lock is gone: the run folder was moved or deleted while the run") as error:
            run.checkpoint(2, {})
        one_line(error)
        run.discard_if_empty()
    assert not run.folder.exists()
    if not deleted:
        with Run.open(tmp_path / "moved", train=True) as moved:
            moved.rewind(moved.latest_checkpoint())
            assert moved.metrics() == [(1, {"x": 1.0})]


def test_a_log_that_another_program_changes_meanwhile_stops_the_run(tmp_path: Path) -> None:
    with make(tmp_path) as run:
        run.log(1, {"x": 1.0})
        run.checkpoint(1, {})
        (run.folder / "metrics.jsonl").write_text("")
        with pytest.raises(UserError, match=r"metrics.jsonl has 0 bytes, not 27: another program changed it"):
            run.checkpoint(2, {})
        assert [checkpoint.env_steps for checkpoint in run.checkpoints()] == [1]


def test_what_else_lies_among_the_checkpoints_is_left_alone(tmp_path: Path) -> None:
    with make(tmp_path) as run:
        folder = run.folder / "checkpoints"
        (folder / "000000005").write_text("a note")
        (folder / "000000030").write_text("a note")
        (folder / ".000000040.new").write_text("a note")
        (folder / ".000000010.old").mkdir()
        (folder / ".000000010.old" / "notes.txt").write_text("mine")
        (folder / "²").mkdir()
        (folder / "000000007").mkdir()
        (folder / "000000007" / "notes.txt").write_text("mine")
        for step in (10, 20, 30, 40):
            run.checkpoint(step, {"step": step})
        assert [checkpoint.env_steps for checkpoint in run.checkpoints()] == [30, 40]
        names = {path.name for path in folder.iterdir()}
        assert names == {
            *("000000005", "000000030.aside", "²", "000000007", "000000030", "000000040"),
            *(".000000040.new.aside", ".000000010.old.aside"),
        }
        assert (folder / ".000000010.old.aside" / "notes.txt").exists()
        assert (folder / "000000030.aside").read_text() == "a note"


def test_renamed_or_half_removed_checkpoints_are_named_and_nothing_begins_anew(tmp_path: Path) -> None:
    with make(tmp_path) as run:
        folder = run.checkpoint(10, {}).folder
    folder.rename(folder.with_name("old"))
    before = tree_of(run.folder)
    with pytest.raises(UserError, match=r"they were renamed: .*checkpoints/old; give one its name back"):
        Run.open(run.folder).check_budget(None)
    (folder.with_name("old") / "state.json").unlink()
    with pytest.raises(UserError, match="they were removed"):
        Run.open(run.folder).check_budget(None)
    with pytest.raises(UserError, match="exists already, without a checkpoint"):
        make(tmp_path)
    before.pop("checkpoints/old/state.json")
    assert tree_of(run.folder) == before


def test_checkpoints_that_cannot_be_listed_were_not_removed(tmp_path: Path) -> None:
    with make(tmp_path) as run:
        run.checkpoint(1, {})
        shutil.rmtree(run.folder / "checkpoints")
        (run.folder / "checkpoints").write_text("")
        with pytest.raises(UserError, match=r"checkpoints cannot be read: Not a directory$"):
            run.latest_checkpoint()


def test_a_run_that_was_killed_before_its_first_checkpoint_begins_anew(tmp_path: Path) -> None:
    with make(tmp_path) as run:
        assert not run.begun_anew
        run.log(1, {"x": 1.0})
        run.log_evaluation(0, [1.0])
        with pytest.raises(UserError, match=r"is being trained by another process|exists already"):
            make(tmp_path)
    with pytest.raises(UserError, match=r"exists already: use `mcurl.resume"):
        make(tmp_path, sac={"batch_size": 64})
    (run.folder / "notes.txt").write_text("mine")
    with make(tmp_path) as again:
        assert again.begun_anew
        assert (again.metrics(), again.evaluations()) == ([], {})
        again.log(1, {"x": 1.0})
        again.checkpoint(1, {})
        assert (run.folder / "notes.txt").read_text() == "mine"
    with pytest.raises(UserError, match="exists already"):
        make(tmp_path)


@pytest.mark.parametrize(("at", "again"), [(20, True), (21, True), (24, False)])
def test_an_evaluation_beyond_the_first_checkpoint_says_that_there_was_one(
    at: int, again: bool, tmp_path: Path
) -> None:
    """One within the same agent step was made before it."""
    schedule = {"checkpoint": {"every": 20}, "env": {"action_repeat": 3}}
    with make(tmp_path, **schedule) as run:
        run.log_evaluation(at, [1.0])
    if again:
        with make(tmp_path, **schedule) as begun:
            assert begun.begun_anew
    else:
        with pytest.raises(UserError, match="exists already, without a checkpoint"):
            make(tmp_path, **schedule)


def test_the_newest_two_and_every_final_checkpoint_are_kept(tmp_path: Path) -> None:
    with make(tmp_path) as run:
        for step in (10, 20, 30):
            run.checkpoint(step, {"step": step})
        run.checkpoint(30, {"step": 30, "end": True}, policy={"w": torch.ones(2)})
        assert [c.env_steps for c in run.checkpoints()] == [20, 30]
        assert run.latest_checkpoint().load()["end"]
        assert run.latest_checkpoint().final
        assert run.latest_checkpoint().load_policy()["w"].equal(torch.ones(2))
        for step in (40, 50, 60):
            run.checkpoint(step, {"step": step})
        assert [c.env_steps for c in run.checkpoints()] == [30, 50, 60]
        assert sorted(path.name for path in (run.folder / "checkpoints").iterdir()) == [
            "000000030",
            "000000050",
            "000000060",
        ]


def test_a_run_that_came_to_nothing_is_taken_back(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    with make(tmp_path / "mine" / "runs") as run:
        run.discard_if_empty()
    assert list(tmp_path.rglob("*")) == [tmp_path / "mine"]
    with (
        make(tmp_path / "mine") as first,
        make(tmp_path / "mine", seed=2) as second,
        make(tmp_path / "mine", seed=3) as third,
    ):
        first.log_evaluation(0, [1.0])
        second.checkpoint(0, {})
        for run in (first, second, third):
            run.discard_if_empty()
    with Run.open(first.folder, train=True) as again:
        again.discard_if_empty()
    assert first.folder.exists()
    assert second.folder.exists()
    assert not third.folder.exists()


def test_evaluations_are_read_back(tmp_path: Path) -> None:
    with make(tmp_path) as run:
        run.log_evaluation(0, [1.0, 0.1])
        run.log_evaluation(20, [3.0])
        assert run.evaluations() == {0: [1.0, 0.1], 20: [3.0]}
        assert run.evaluations(until=10) == {0: [1.0, 0.1]}


def test_half_removed_or_half_written_checkpoints_do_not_count(tmp_path: Path) -> None:
    with make(tmp_path) as run:
        run.checkpoint(10, {"step": 10})
        (run.folder / "checkpoints" / "000000020").mkdir()
        (run.folder / "checkpoints" / ".000000030.new").mkdir()
        assert run.latest_checkpoint().env_steps == 10
        (run.folder / "checkpoints" / "000000010").rename(run.folder / "checkpoints" / ".000000010.old")
    with Run.open(run.folder, train=True) as again:
        assert again.latest_checkpoint().load() == {"step": 10}


def test_one_process_trains(tmp_path: Path) -> None:
    with make(tmp_path) as run:
        with pytest.raises(UserError, match=f"is being trained by another process .process {os.getpid()}.") as error:
            Run.open(run.folder, train=True)
        one_line(error)
        Run.open(run.folder).close()
    Run.open(run.folder, train=True).close()


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL])
def test_a_file_system_without_locks_is_said_and_trained_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], number: int
) -> None:
    from mcurl.cli import main

    refuse_locks(monkeypatch, number)
    words = ["train", "toy/reach", "--method", "sac-state", "--env-steps", "20", "--out", str(tmp_path), "--name", "x"]
    assert main([*words, "--set", "evaluation.episodes=1"]) == 0
    note = f"the file system of the run folder has no locks ({os.strerror(number)}): do not train this run twice"
    assert capsys.readouterr().out.count(note) == 1
    folder = tmp_path / "toy-reach" / "x-seed1"
    assert not Run(folder).locked
    assert main(["resume", str(folder), "--env-steps", "30"]) == 0
    assert capsys.readouterr().out.count(note) == 1
    # The file still tells a process that another one has taken over.
    taken_over = pytest.raises(UserError, match=r"is trained by another process .* now")
    with Run.open(folder, train=True) as given_up, Run.open(folder, train=True), taken_over:
        given_up.check_owner()


@pytest.mark.parametrize("number", [errno.EWOULDBLOCK, errno.EACCES])
def test_a_lock_that_is_held_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    with make(tmp_path) as run:
        pass
    refuse_locks(monkeypatch, number)
    with pytest.raises(UserError, match="is being trained by another process"):
        Run.open(run.folder, train=True)
    assert run.locked


def test_a_folder_that_cannot_be_locked_is_taken_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    refuse_locks(monkeypatch, errno.EACCES)
    with pytest.raises(UserError, match="is being trained"):
        make(tmp_path)
    monkeypatch.undo()
    make(tmp_path).close()
    assert not list(tmp_path.rglob(".*"))


def refuse_locks(monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    def flock(file: object, operation: int) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr("fcntl.flock", flock)


@pytest.fixture
def _locks_do_not_hold(monkeypatch: pytest.MonkeyPatch) -> None:
    """As between the machines of some network file systems."""
    monkeypatch.setattr("fcntl.flock", lambda *args: None)


@pytest.mark.usefixtures("_locks_do_not_hold")
def test_where_locks_do_not_hold_the_process_that_was_given_up_changes_nothing(tmp_path: Path) -> None:
    with make(tmp_path) as given_up:
        given_up.log(100, {"loss": 1.0})
        given_up.checkpoint(100, {"x": torch.ones(3)})
        given_up.log(200, {"loss": 2.0})
        with Run.open(given_up.folder, train=True) as successor:
            successor.rewind(successor.latest_checkpoint())
            given_up.log(300, {"loss": 3.0})
            successor.log(200, {"loss": 2.0})
            before = tree_of(given_up.folder)
            for write in (
                lambda: given_up.checkpoint(300, {"x": torch.zeros(3)}),
                lambda: given_up.log_evaluation(300, [1.0]),
                given_up.check_owner,
            ):
                with pytest.raises(UserError, match=r"is trained by another process .process .* now") as error:
                    write()
                assert "\n" not in str(error.value)
            assert tree_of(given_up.folder) == before
            assert successor.metrics() == [(100, {"loss": 1.0}), (200, {"loss": 2.0})]
            successor.checkpoint(200, {"x": torch.ones(3)})


@pytest.mark.usefixtures("_locks_do_not_hold")
def test_a_process_given_up_while_it_saves_does_not_replace_the_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with make(tmp_path) as given_up:
        given_up.checkpoint(100, {"x": torch.ones(3)})
        before = tree_of(given_up.folder / "checkpoints")

        def slow_save(folder: Path, tree: Any) -> None:
            save_tree(folder, tree)
            Run.open(given_up.folder, train=True).close()

        monkeypatch.setattr("mcurl.run.folder.checkpoints.save_tree", slow_save)
        with pytest.raises(UserError, match="stops without saving"):
            given_up.checkpoint(100, {"x": torch.zeros(3)})
        assert tree_of(given_up.folder / "checkpoints") == before


@pytest.mark.usefixtures("_locks_do_not_hold")
def test_a_process_given_up_before_its_first_line_does_not_delete_the_folder(tmp_path: Path) -> None:
    with make(tmp_path) as given_up, Run.open(given_up.folder, train=True):
        given_up.discard_if_empty()
        assert given_up.folder.exists()


def test_a_killed_process_leaves_no_lock(tmp_path: Path) -> None:
    make(tmp_path).close()
    folder = run_folder(tmp_path, SETTINGS)
    code = "from mcurl.run.folder import Run; from pathlib import Path; "
    code += f"r = Run.open(Path({str(folder)!r}), train=True); print('has it', flush=True); input()"
    process = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    with process:
        assert process.stdout is not None
        process.stdout.readline()
        with pytest.raises(UserError, match="is being trained"):
            Run.open(folder, train=True)
        process.kill()
    Run.open(folder, train=True).close()


def test_the_first_signal_asks_and_the_second_quits() -> None:
    before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    with stop_on_signal() as stop:
        assert not stop.requested
        os.kill(os.getpid(), signal.SIGTERM)
        assert stop.requested
        assert stop.signal_number == signal.SIGTERM
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == before


def test_a_hang_up_is_a_wish_to_stop_but_not_under_nohup() -> None:
    before = signal.getsignal(signal.SIGHUP)
    try:
        with stop_on_signal() as stop:
            os.kill(os.getpid(), signal.SIGHUP)
            assert stop.signal_number == signal.SIGHUP
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        with stop_on_signal() as stop:
            os.kill(os.getpid(), signal.SIGHUP)
            assert not stop.requested
    finally:
        signal.signal(signal.SIGHUP, before)


def test_outside_the_main_thread_nothing_is_requested() -> None:
    seen = []

    def work() -> None:
        with stop_on_signal() as stop:
            seen.append(stop.requested)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [False]


def test_the_commit_is_that_of_the_package_or_none(tmp_path: Path) -> None:
    subprocess.run(["git", "init", "-q", str(tmp_path)], check=True)
    package = tmp_path / "venv"
    package.mkdir()
    (package / "__init__.py").write_text("")
    assert provenance._commit(package) == {"commit": None, "dirty": None}
    git = ["git", "-C", str(tmp_path), "-c", "user.name=a", "-c", "user.email=a@b"]
    subprocess.run([*git, "add", "."], check=True)
    subprocess.run([*git, "commit", "-qm", "x"], check=True)
    clean = provenance._commit(package)
    assert len(clean["commit"]) == 40
    assert clean["dirty"] is False
    (package / "new.py").write_text("")
    assert provenance._commit(package)["dirty"] is True


def test_without_git_there_is_no_commit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert provenance._commit(tmp_path) == {"commit": None, "dirty": None}


def test_a_run_keeps_its_name(tmp_path: Path) -> None:
    with Run.create(tmp_path, SETTINGS, name="mcurl-mask_rate=0.3", label="M-CURL, mask_rate=0.3") as run:
        assert run.folder == tmp_path / "dmc-cartpole-swingup/mcurl-mask_rate=0.3-seed1"
        assert run.name == "mcurl-mask_rate=0.3"
        assert (run.metadata["name"], run.metadata["label"]) == ("mcurl-mask_rate=0.3", "M-CURL, mask_rate=0.3")
    with make(tmp_path) as run:
        assert (run.name, run.metadata["label"]) == ("mcurl", "mcurl")
        run.folder.joinpath("run.json").write_text('{"format": "mcurl-run"}')  # of an older version
        assert run.name == "mcurl"
    with pytest.raises(UserError, match="a name has letters"):
        Run.create(tmp_path, SETTINGS, name="../evil")


def test_a_run_has_the_versions_of_its_environments_packages(tmp_path: Path) -> None:
    assert provenance.package_versions(["numpy", "no-such-package"]) == {"numpy": np.__version__}
    with make(tmp_path) as run:
        run.record_environment("gymnasium.envs.classic_control.cartpole:CartPoleEnv")
        assert run.metadata["environment"] == {"gymnasium": version("gymnasium")}
        run.record_environment(np.random.default_rng)
        assert run.metadata["environment"] == {"numpy": np.__version__}
        for unknown in ("my_module:Corridor", "", None):
            run.record_environment(unknown)
            assert run.metadata["environment"] == {}
