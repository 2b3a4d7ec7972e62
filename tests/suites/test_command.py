"""`mcurl suite run`, with real training."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from mcurl.cli import main
from mcurl.run.folder import Run

SUITE = """
title = "Two small agents"
tasks = ["toy/reach"]
seeds = [1]
env_steps = 300
[settings]
sac = { batch_size = 4, hidden = 16, filters = 4, learning_starts = 30 }
evaluation = { every = 100, episodes = 1 }
checkpoint.every = 50
compute = { precision = "fp32", threads = 1 }
[arm.plain]
method = "rl-only"
[arm.contrast]
method = "curl"
"""
FOLDERS = [Path("runs/toy-reach/plain-seed1"), Path("runs/toy-reach/contrast-seed1")]


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    Path("small.toml").write_text(SUITE)
    return tmp_path


def logs(folder: Path) -> tuple[bytes, bytes]:
    return (folder / "metrics.jsonl").read_bytes(), (folder / "evaluations.csv").read_bytes()


def wait_until(condition: Callable[[], object], process: subprocess.Popen[str]) -> None:
    end = time.monotonic() + 300
    while not condition():
        assert process.poll() is None
        assert time.monotonic() < end
        time.sleep(0.02)


def test_a_suite_is_trained_once(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["suite", "run", "small.toml", "--jobs", "2"]) == 0
    out = capsys.readouterr().out.splitlines()
    assert out[0] == "small: 2 runs: 2 at a time, in runs"
    assert out[-1] == "2 of 2 finished"
    for folder in FOLDERS:
        run = Run(folder)
        assert run.latest_checkpoint().final
        assert run.latest_checkpoint().env_steps == 300
        assert f"{folder.parent.name.replace('-', '/', 1)} {run.name} seed 1: started" in out
    before = [logs(folder) for folder in FOLDERS]
    assert main(["suite", "run", "small.toml", "--jobs", "2"]) == 0
    assert capsys.readouterr().out.splitlines() == [out[0], out[-1]]
    assert [logs(folder) for folder in FOLDERS] == before
    assert main(["suite", "show", "small.toml"]) == 0
    assert "in runs: 2 finished" in capsys.readouterr().out


def test_a_failure_says_why_and_is_the_exit_status(capfd: pytest.CaptureFixture[str]) -> None:
    Path("small.toml").write_text(
        SUITE.replace("[arm.contrast]", "[arm.huge]\nsettings.replay.capacity = 10_000_000_000")
    )
    assert main(["suite", "run", "small.toml", "--retries", "0", "--methods", "huge"]) == 1
    out, err = capfd.readouterr()
    assert "toy/reach huge seed 1: failed: exit status" in out
    assert err.startswith("mcurl: toy/reach huge seed 1 failed: exit status")
    assert out.endswith("0 of 1 finished · 1 failed\n")


def test_an_impossible_folder_is_refused_once(capfd: pytest.CaptureFixture[str]) -> None:
    """Not once for each attempt of each run."""
    Path("file").touch()
    assert main(["suite", "run", "small.toml", "--out", "file/runs"]) == 2
    out, err = capfd.readouterr()
    assert "started" not in out
    assert err == "mcurl: file/runs: Not a directory\n"


@pytest.mark.slow
def test_a_kill_and_a_stop_change_no_bit() -> None:
    command = [sys.executable, "-m", "mcurl", "suite", "run", "small.toml", "--jobs", "1"]
    environment = os.environ | {"PYTHONUNBUFFERED": "1"}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as pool:
        wait_until(lambda: FOLDERS[0].exists() and Run(FOLDERS[0]).checkpoints(), pool)
        os.kill(int((FOLDERS[0] / "lock").read_text().split()[1]), signal.SIGKILL)
        wait_until(lambda: FOLDERS[1].exists() and Run(FOLDERS[1]).checkpoints(), pool)
        pool.send_signal(signal.SIGINT)
        out = pool.communicate(timeout=60)[0]
        assert pool.returncode == 130
    assert "toy/reach plain seed 1: failed, attempt 1 of 3: signal 9" in out
    assert "toy/reach plain seed 1: resumed from" in out
    assert "stopped; the same command continues" in out
    assert not Run(FOLDERS[1]).locked
    assert subprocess.run(command, check=False).returncode == 0
    alone = [*command, "--out", "alone"]
    assert subprocess.run(alone, check=False).returncode == 0
    for folder in FOLDERS:
        assert logs(folder) == logs(Path("alone") / folder.relative_to("runs"))


@pytest.mark.slow
def test_two_commands_share_the_runs() -> None:
    command = [sys.executable, "-m", "mcurl", "suite", "run", "small.toml", "--jobs", "1"]
    with subprocess.Popen(command) as first, subprocess.Popen(command) as second:
        assert (first.wait(300), second.wait(300)) == (0, 0)
    for folder in FOLDERS:
        assert Run(folder).latest_checkpoint().env_steps == 300
        assert list(Run(folder).evaluations()) == [0, 100, 200, 300]
