"""The short forms of the attacks on runs; `make attacks`, `make kills` and `make endurance` run the long ones."""

from __future__ import annotations

import random
import shutil
import subprocess
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

import pytest
from attack_runs import result
from endurance import Sample, judge
from kills import Bench, report, write_suite

from mcurl.suites.suite import Suite

HERE = Path(__file__).parent


def attack(script: str, count: int, *options: str) -> str:
    """Run an attack in a process that has not computed anything, because it forks. Returns what it prints."""
    command = [sys.executable, str(HERE / script), str(count), *options]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"{count} " in done.stdout
    return done.stdout


def test_a_damaged_run_gives_the_same_result_or_one_line() -> None:
    attack("damage.py", 12)


@pytest.mark.skipif(sys.platform != "linux" or shutil.which("cc") is None, reason="needs LD_PRELOAD and a C compiler")
def test_a_file_operation_that_fails_loses_nothing() -> None:
    attack("faults.py", 8)


def test_a_run_that_is_killed_three_times_ends_with_the_same_bytes() -> None:
    out = attack("kills.py", 3, "--tasks", "toy/reach", "--methods", "mcurl", "--ways", "process")
    assert out.splitlines()[1].split()[:3] == ["toy/reach", "mcurl", "process"]
    assert "3 kills, 0 of " in out


@pytest.mark.parametrize("damage", ["nothing", "another digit", "a missing file", "an exit status"])
def test_a_run_that_differs_from_the_one_without_kills_is_counted(
    damage: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))  # where the folder is kept
    [run] = Suite.load(write_suite(tmp_path, "toy/reach", ["curl"])).runs()
    folder = run.folder(tmp_path)
    for name in ("metrics.jsonl", "evaluations.csv", "settings.json", "checkpoints/000000220/state.json"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("220,1.5")
    (folder / "run.json").write_text('{"resumed": [{}, {}]}')
    bench = Bench(tmp_path, random.Random(0), expected={run: result(folder)})
    if damage == "another digit":
        (folder / "evaluations.csv").write_text("220,1.6")
    elif damage == "a missing file":
        (folder / "metrics.jsonl").unlink()
    bench.compare(run, "process", tmp_path, "exit status 1" if damage == "an exit status" else "")
    assert report(bench) == (damage != "nothing")
    out = capsys.readouterr().out
    assert ("DIVERGED process: toy/reach tiny-curl seed 3" in out) == (damage != "nothing")
    assert out.splitlines()[-2].split() == ["all", "1", "0", "2", str(int(damage != "nothing"))]


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_training_leaves_no_file_and_no_thread_open_and_takes_no_more_memory() -> None:
    out = attack("endurance.py", 5, "--env-steps", "3k", "--any-speed")
    assert out.splitlines()[-1] == "15 measurements, 3,000 env steps: flat"


def samples(**per_sample: float) -> list[Sample]:
    """30 measurements, of which some values grow by so much each time."""
    first = Sample(seconds=0, cpu=0, env_steps=0, memory=300 * 2**20, files=10, threads=3, disk=2**20)
    growth = {"cpu": 1.0, "env_steps": 100, **per_sample}
    return [
        replace(first, **{name: getattr(first, name) + int(number * step) for name, step in growth.items()})
        for number in range(30)
    ]


def test_endurance_says_what_is_not_flat() -> None:
    assert judge(samples()) == []
    assert judge(samples(memory=100_000)) == []  # 3 MB in all
    assert judge(samples(files=0.1)) == ["files: between 10 and 12"]
    assert judge(samples(threads=0.1)) == ["threads: between 3 and 5"]
    assert judge(samples(memory=2 * 2**20))[0].startswith("memory: 320.0 MB in the first third")
    assert judge(samples(disk=2 * 2**20))[0].startswith("disk: ")
    slower = [replace(sample, cpu=sample.cpu**2) for sample in samples()]
    assert judge(slower)[0].startswith("speed: ")
    assert judge(slower, check_speed=False) == []
    assert judge(samples()[:5]) == ["only 5 measurements: too few to judge"]
