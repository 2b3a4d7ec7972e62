"""A run that is killed at any moment and resumed ends as one that never stopped, bit for bit. With real processes, and
SIGKILL."""

from __future__ import annotations

import csv
import os
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

EXACT = ["--set", "compute.precision=fp32", "--set", "compute.threads=1", "--set", "compute.device=cpu"]
TOY = ["--env-steps", "600", "--set", "checkpoint.every=150", "evaluation.every=200", "evaluation.episodes=2"]
CATCH = [*TOY, "--set", "replay.capacity=300"]
"""The replay wraps around."""
DMC = [
    *[
        "--env-steps",
        "1000",
        "--set",
        "checkpoint.every=200",
        "evaluation.every=600",
        "evaluation.episodes=1",
        "env.action_repeat=8",
        "env.image_size=40",
    ],
    *[
        "env.shadows=off",
        "sac.crop=36",
        "sac.learning_starts=50",
        "sac.batch_size=8",
        "sac.hidden=32",
        "sac.filters=4",
        "replay.capacity=80",
    ],
]
MASKED = ["--set", "mcurl.length=4", "mcurl.batch=4"]


def command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "mcurl", *arguments]


def run_folder(out: Path) -> Path:
    (folder,) = (path.parent for path in out.glob("*/*/run.json"))
    return folder


def wait_for(condition: object, process: subprocess.Popen[bytes], seconds: float = 120) -> None:
    end = time.monotonic() + seconds
    while not condition():  # type: ignore[operator]
        assert process.poll() is None, "the run ended before it could be killed"
        assert time.monotonic() < end
        time.sleep(0.02)


def files(folder: Path) -> dict[str, bytes]:
    """Everything in the run folder that must repeat: logs and the last checkpoint; timings and the machine's
    description may differ."""
    last = max((folder / "checkpoints").iterdir())
    named = {name: (folder / name).read_bytes() for name in ("metrics.jsonl", "evaluations.csv", "settings.json")}
    named |= {str(path.relative_to(last)): path.read_bytes() for path in sorted(last.rglob("*")) if path.is_file()}
    return named | {path.name: path.read_bytes() for path in sorted((folder / "replay").iterdir())}


@pytest.mark.parametrize(
    ("task", "method", "small"),
    [
        ("toy/reach", "mcurl", TOY),
        ("toy/catch", "mcurl", CATCH),
        ("toy/reach", "mcurl", ["--agent", "drqv2", *TOY]),
        ("dmc/reacher-easy", "mcurl", DMC + MASKED),
        ("dmc/walker-walk", "curl", DMC),
        pytest.param("toy/reach", "curl", TOY, marks=pytest.mark.slow),
        pytest.param("toy/catch", "curl", CATCH, marks=pytest.mark.slow),
        pytest.param("dmc/cartpole-swingup", "mcurl", DMC + MASKED, marks=pytest.mark.slow),
        pytest.param("dmc/finger-turn_hard", "rl-only", DMC, marks=pytest.mark.slow),
    ],
)
def test_killed_and_resumed_is_as_never_stopped(tmp_path: Path, task: str, method: str, small: list[str]) -> None:
    arguments = ["train", task, "--method", method, "--seed", "3", *small, *EXACT]
    subprocess.run(command(*arguments, "--out", str(tmp_path / "whole")), check=True, stdout=subprocess.DEVNULL)
    whole = run_folder(tmp_path / "whole")

    process = subprocess.Popen(command(*arguments, "--out", str(tmp_path / "killed")), stdout=subprocess.DEVNULL)
    wait_for(lambda: len(list((tmp_path / "killed").glob("*/*/checkpoints/0*"))) >= 2, process)
    killed = run_folder(tmp_path / "killed")
    # Not on a checkpoint: some way on, with lines in the logs that the resumed run writes again.
    length = (killed / "metrics.jsonl").stat().st_size
    wait_for(lambda: (killed / "metrics.jsonl").stat().st_size > length, process)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert not (max((killed / "checkpoints").iterdir()) / "policy").exists()
    subprocess.run(command("resume", str(killed)), check=True, stdout=subprocess.DEVNULL)

    expected, found = files(whole), files(killed)
    assert expected.keys() == found.keys()
    assert [name for name in expected if expected[name] != found[name]] == []


@pytest.mark.parametrize("evaluating", [False, True], ids=["in training", "in the first evaluation"])
def test_interrupted_saves_and_goes_on(tmp_path: Path, evaluating: bool) -> None:
    arguments = ["train", "toy/reach", "--seed", "3", *TOY, *EXACT, "evaluation.episodes=20"]
    subprocess.run(command(*arguments, "--out", str(tmp_path / "whole")), check=True, stdout=subprocess.DEVNULL)
    process = subprocess.Popen(
        command(*arguments, "--out", str(tmp_path / "stopped")),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        bufsize=0,
    )
    assert process.stdout is not None
    process.stdout.readline()  # says what trains and where; the first evaluation comes next
    wait_for(lambda: evaluating or list((tmp_path / "stopped").glob("*/*/checkpoints/0*")), process)
    process.send_signal(signal.SIGINT)
    output = process.communicate(timeout=60)[0].decode()
    stopped = run_folder(tmp_path / "stopped")
    assert process.returncode == 130
    assert f"mcurl resume {stopped}" in output
    assert ((stopped / "checkpoints" / "000000000").exists(), (stopped / "metrics.jsonl").stat().st_size == 0) == (
        evaluating,
        evaluating,
    )
    subprocess.run(command("resume", str(stopped)), check=True, stdout=subprocess.DEVNULL)
    whole = run_folder(tmp_path / "whole")
    expected, found = (
        load_file(max((folder / "checkpoints").iterdir()) / "state.safetensors") for folder in (whole, stopped)
    )
    assert expected.keys() == found.keys()
    assert all(torch.equal(expected[name], found[name]) for name in expected)
    assert (whole / "evaluations.csv").read_bytes() == (stopped / "evaluations.csv").read_bytes()


def test_the_replay_on_disk_only_grows(tmp_path: Path) -> None:
    """What one checkpoint wrote is there unchanged, in front of what the next one added."""
    arguments = [
        "train",
        "toy/reach",
        "--env-steps",
        "100k",
        *EXACT,
        "--set",
        "checkpoint.every=100",
        "--out",
        str(tmp_path),
    ]
    process = subprocess.Popen(command(*arguments), stdout=subprocess.DEVNULL)
    wait_for(lambda: list(tmp_path.glob("*/*/checkpoints/0*")), process)
    frames = run_folder(tmp_path) / "replay" / "frames-00000.bin"
    before = frames.read_bytes()
    wait_for(lambda: frames.stat().st_size > len(before), process)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    after = frames.read_bytes()
    assert after[: len(before)] == before


def test_the_last_evaluation_is_the_final_one_alone(tmp_path: Path) -> None:
    """Where the curve's last point and the final evaluation fall on the same step, only the final one is played: the
    same seeds must not count twice."""
    arguments = ["train", "toy/reach", *TOY, *EXACT, "evaluation.final_episodes=5"]
    subprocess.run(command(*arguments, "--out", str(tmp_path)), check=True, stdout=subprocess.DEVNULL)
    folder = run_folder(tmp_path)
    assert evaluated(folder) == {0: 2, 200: 2, 400: 2, 600: 5}
    subprocess.run(command("resume", str(folder), "--env-steps", "800"), check=True, stdout=subprocess.DEVNULL)
    assert evaluated(folder) == {0: 2, 200: 2, 400: 2, 600: 5, 800: 5}


def evaluated(folder: Path) -> dict[int, int]:
    """Episodes at each evaluation."""
    with open(folder / "evaluations.csv") as file:
        return dict(Counter(int(row["env_steps"]) for row in csv.DictReader(file)))


def test_a_run_that_was_killed_before_its_first_checkpoint_starts_again(tmp_path: Path) -> None:
    arguments = ["train", "toy/reach", "--method", "rl-only", *EXACT, *TOY, "--set", "checkpoint.every=0"]
    subprocess.run(command(*arguments, "--out", str(tmp_path / "whole")), check=True, stdout=subprocess.DEVNULL)
    killed = tmp_path / "killed"
    with subprocess.Popen(command(*arguments, "--out", str(killed)), stdout=subprocess.DEVNULL) as process:
        wait_for(lambda: any(path.stat().st_size for path in killed.glob("*/*/metrics.jsonl")), process)
        process.kill()
    folder = run_folder(killed)
    assert not list((folder / "checkpoints").iterdir())
    subprocess.run(command("resume", str(folder)), check=True, stdout=subprocess.DEVNULL)
    assert files(folder) == files(run_folder(tmp_path / "whole"))


@pytest.fixture(scope="module")
def stopped_at_300(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with checkpoints at 150 and 300 env steps, and its final one at 400."""
    out = tmp_path_factory.mktemp("stopped")
    arguments = ["train", "toy/reach", *TOY, *EXACT, "--env-steps", "400", "--out", str(out)]
    subprocess.run(command(*arguments), check=True, stdout=subprocess.DEVNULL)
    return run_folder(out)


def resumed(folder: Path, *words: str, **environment: str) -> tuple[int, str]:
    done = subprocess.run(
        command("resume", str(folder), *words),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
        env={**os.environ, **environment},
    )
    assert "Traceback" not in done.stdout
    return done.returncode, done.stdout


def test_a_damaged_replay_is_named_and_the_checkpoint_before_is_used_on_request(
    tmp_path: Path, stopped_at_300: Path
) -> None:
    folder = Path(shutil.copytree(stopped_at_300, tmp_path / "run"))
    path = folder / "replay" / "frames-00000.bin"
    whole = path.read_bytes()
    width = len(whole) // 400
    path.write_bytes(whole[: 310 * width] + bytes(width) + whole[311 * width :])
    status, printed = resumed(folder, "--env-steps", "450")
    assert status == 2
    # Nothing advises the command that was refused.
    assert "resume with" not in printed
    assert "frames-00000.bin does not match its checksum in rows 0 to " in printed
    assert "the one before it is used with --checkpoint 300; the policy can be evaluated with: " in printed
    evaluated = subprocess.run(command("evaluate", str(folder), "--episodes", "1"), stdout=subprocess.PIPE, check=True)
    assert b"after 400 env steps" in evaluated.stdout
    status, printed = resumed(folder, "--checkpoint", "300")
    assert status == 0
    assert "000000400.aside" in printed
    expected, found = files(stopped_at_300), files_of(folder, "000000400")
    assert [name for name in expected if expected[name] != found[name]] == []


def test_a_damaged_final_checkpoint_still_has_its_policy(tmp_path: Path, stopped_at_300: Path) -> None:
    folder = Path(shutil.copytree(stopped_at_300, tmp_path / "run"))

    def evaluated() -> tuple[int, str, str]:
        words = command("evaluate", str(folder), "--episodes", "2", "--json")
        done = subprocess.run(words, capture_output=True, text=True, check=False)
        return done.returncode, done.stdout.partition('"files"')[0], done.stderr

    whole = evaluated()
    state = folder / "checkpoints" / "000000400" / "state.safetensors"
    state.write_bytes(state.read_bytes()[:-1] + b"?")
    status, result, said = evaluated()
    assert (status, result) == whole[:2] != (2, "")
    assert "the policy alone is used, because" in said
    assert "state.safetensors is damaged" in said
    shutil.rmtree(state.parent / "policy")
    status, _, said = evaluated()
    assert status == 2
    assert "--checkpoint 300" in said
    assert said.count("\n") == 1


def test_another_number_of_threads_or_arithmetic_is_said(tmp_path: Path, stopped_at_300: Path) -> None:
    folder = Path(shutil.copytree(stopped_at_300, tmp_path / "run"))
    status, printed = resumed(folder, "--env-steps", "410")
    assert (status, "not exact" in printed) == (0, False)
    path = folder / "settings.json"
    text = path.read_text()
    path.write_text(text.replace('"threads": 1', '"threads": 2').replace('"native": "auto"', '"native": "off"'))
    assert path.read_text() != text
    status, printed = resumed(folder, "--env-steps", "420")
    line = " ".join(printed.split())
    assert status == 0
    assert "resume is not exact: 1 thread, compute.native=auto before; 2 threads, compute.native=off now" in line
    path.write_text(text.replace('"batch_size": ', '"batch_size": 1'))
    status, printed = resumed(folder, "--env-steps", "430")
    assert status == 2
    assert "settings.json was changed since the checkpoint at 420 env steps: sac.batch_size is 1" in printed


def files_of(folder: Path, checkpoint: str) -> dict[str, bytes]:
    """:func:`files` with the checkpoint of this name as the last one."""
    others = [path for path in (folder / "checkpoints").iterdir() if path.name != checkpoint]
    for path in others:
        shutil.rmtree(path)
    return files(folder)


def test_the_same_command_begins_anew_what_was_killed_before_its_first_checkpoint(tmp_path: Path) -> None:
    arguments = ["train", "toy/reach", "--method", "rl-only", *EXACT, *TOY, "--set", "checkpoint.every=0"]
    subprocess.run(command(*arguments, "--out", str(tmp_path / "whole")), check=True, stdout=subprocess.DEVNULL)
    killed = [*arguments, "--out", str(tmp_path / "killed")]
    with subprocess.Popen(command(*killed), stdout=subprocess.DEVNULL) as process:
        wait_for(lambda: any(path.stat().st_size for path in tmp_path.glob("killed/*/*/metrics.jsonl")), process)
        process.kill()
    done = subprocess.run(command(*killed), check=True, stdout=subprocess.PIPE)
    assert b"was stopped before its first checkpoint: it begins anew" in b" ".join(done.stdout.split())
    assert files(run_folder(tmp_path / "killed")) == files(run_folder(tmp_path / "whole"))
