"""A setting that cannot be allocated is refused at once, with what it would take."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from mcurl.cli import main
from mcurl.errors import UserError
from mcurl.runtime import limits
from mcurl.runtime.memory import check_memory, check_memory_of_runs, limited_allocations
from mcurl.runtime.threads import available_cores


@pytest.mark.parametrize(
    ("task", "override", "says"),
    [
        ("toy/reach", "sac.hidden=100M", "networks with gradients and optimizers would take"),
        ("toy/reach", "sac.hidden=1e20", "is sac.hidden=100,000,000,000,000,000,000 too large?"),
        ("toy/reach", "sac.feature_dim=10G", "is sac.feature_dim=10,000,000,000 too large?"),
        ("toy/reach", "sac.batch_size=1G", "a batch of 1,000,000,000 transitions (sac.batch_size) would take"),
        ("toy/reach", "mcurl.batch=1G", "a batch of 1,000,000,000 sequences of 8 (mcurl) would take"),
        ("toy/reach", "sac.layers=1G", "sac.layers must be from 1 to 1000"),
        ("toy/reach", "mcurl.layers=1G", "mcurl.layers must be from 0 to 1000"),
        ("toy/reach", "compute.threads=20000", "compute.threads=20,000 are too many for this machine, which has"),
        ("toy/reach", "evaluation.episodes=1000G", "evaluation.episodes=1,000,000,000,000 would take 1,000,000.0 GB"),
        ("toy/reach", "evaluation.final_episodes=1000G", "evaluation.final_episodes=1,000,000,000,000 would take"),
        ("toy/reach", "env.image_size=1M", "image_size=1,000,000 makes an observation of 9,000.0 GB"),
        ("toy/reach", "env.frame_stack=1G", "frame_stack=1,000,000,000 makes an observation of"),
        ("toy/reach", "env.action_repeat=1G", "action_repeat must be at most 1,000,000, not 1,000,000,000"),
        ("toy/catch", "rainbow.atoms=10G", "is rainbow.atoms=10,000,000,000 too large?"),
        (
            "toy/catch",
            "rainbow.batch_size=10G",
            "a batch of 10,000,000,000 transitions (rainbow.batch_size) would",
        ),
        ("toy/catch", "replay.capacity=1e20", "a replay of 100,000,000,000,000,000,000 rows would take"),
    ],
)
def test_it_is_refused_with_what_it_would_take(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], task: str, override: str, says: str
) -> None:
    line = [
        "train",
        task,
        "--env-steps",
        "100",
        "--out",
        str(tmp_path / "runs"),
        "--set",
        "compute.device=cpu",
        override,
    ]
    assert main(line) == 2
    error = capsys.readouterr().err
    assert says in error
    assert error.count("\n") == 1
    assert not (tmp_path / "runs").exists()


def test_so_many_evaluation_episodes_are_refused_before_the_first(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    small = ["sac.batch_size=8", "sac.hidden=16", "evaluation.episodes=1", "compute.device=cpu"]
    line = ["train", "toy/reach", "--method", "sac-state", "--out", str(tmp_path), "--name", "x", "--env-steps", "30"]
    assert main([*line, "--set", *small]) == 0
    capsys.readouterr()
    assert main(["evaluate", str(tmp_path / "toy-reach" / "x-seed1"), "--episodes", "1000000000000"]) == 2
    assert "episodes=1,000,000,000,000 would take 1,000,000.0 GB" in capsys.readouterr().err


def test_what_fits_is_allocated_and_what_does_not_is_never_touched() -> None:
    cpu = torch.device("cpu")
    with limited_allocations(cpu, "the networks", "choose"):
        assert torch.nn.Linear(3, 4)(torch.ones(2, 3)).shape == (2, 4)
    for rows in (10**13, 10**20):
        with (
            pytest.raises(UserError, match=r"the networks (would take|cannot be allocated).*choose smaller"),
            limited_allocations(cpu, "the networks", "choose smaller"),
        ):
            torch.empty(rows, 10)
    with pytest.raises(RuntimeError, match="shape"), limited_allocations(cpu, "the networks", "choose"):
        torch.ones(2, 3) @ torch.ones(2, 3)  # another mistake keeps its own message
    with pytest.raises(UserError, match=r"it would take 1,000,000\.0 GB"):
        check_memory(10**15, "it", cpu, "choose")


SMALL = ["evaluation.episodes=1", "compute.device=cpu", "compute.threads=1"]


@pytest.mark.parametrize("version", [1, 2])
def test_the_limit_of_a_container(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, version: int) -> None:
    monkeypatch.setattr(limits, "_CGROUPS", tmp_path)
    groups = Path("/proc/self/cgroup").read_text() if Path("/proc/self/cgroup").exists() else ""
    before = limits.machine_memory()
    if before is None or ("memory" not in groups if version == 1 else "0::" not in groups):
        pytest.skip("no /proc/meminfo, or no such control groups")
    folder = tmp_path if version == 2 else tmp_path / "memory"
    folder.mkdir(exist_ok=True)
    names = ("max", "current") if version == 2 else ("limit_in_bytes", "usage_in_bytes")
    (folder / f"memory.{names[0]}").write_text("1000000\n")
    (folder / f"memory.{names[1]}").write_text("400000\n")
    (folder / "memory.stat").write_text("anon 5\ninactive_file 100000\ntotal_inactive_file 100000\n")
    assert limits.machine_memory() == (1_000_000, 700_000)
    assert limits.process_memory() == limits.total_memory() == 1_000_000
    (folder / f"memory.{names[0]}").write_text("max\n" if version == 2 else "9223372036854771712\n")
    after = limits.machine_memory()
    assert after is not None
    assert after.total == before.total


@pytest.mark.parametrize("version", [1, 2])
@pytest.mark.parametrize(("quota", "cores"), [(150_000, 2), (100_000, 1), (None, 64)])
def test_the_cores_of_a_container(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, version: int, quota: int | None, cores: int
) -> None:
    groups = Path("/proc/self/cgroup").read_text() if Path("/proc/self/cgroup").exists() else ""
    if "cpu" not in groups if version == 1 else "0::" not in groups:
        pytest.skip("no such control groups")
    monkeypatch.setattr(limits, "_CGROUPS", tmp_path)
    monkeypatch.setattr("os.sched_getaffinity", lambda pid: set(range(64)))
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    assert available_cores() == 64
    if version == 2:
        (tmp_path / "cpu.max").write_text(f"{quota or 'max'} 100000\n")
    else:
        (tmp_path / "cpu").mkdir()
        (tmp_path / "cpu" / "cpu.cfs_quota_us").write_text(f"{quota or -1}\n")
        (tmp_path / "cpu" / "cpu.cfs_period_us").write_text("100000\n")
    assert available_cores() == cores


def test_several_runs_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mcurl.runtime.memory.total_memory", lambda: 10 * 10**9)
    sizes = [2 * 10**9, 6 * 10**9, 4 * 10**9]
    check_memory_of_runs(sizes, 2, "--jobs")
    with pytest.raises(UserError, match=r"3 runs at once would take 12.0 GB.*10.0 GB of memory here: use --jobs 2"):
        check_memory_of_runs(sizes, 3, "--jobs")
    check_memory_of_runs([10**9] * 100, 10, "--jobs")
    with pytest.raises(UserError, match=r"a run would take 11.0 GB.*: choose a smaller replay.capacity"):
        check_memory_of_runs([11 * 10**9], 1, "--jobs")


def test_seeds_and_suites_that_fit_alone_but_not_together_are_refused_before_the_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("mcurl.runtime.memory.total_memory", lambda: 2 * 10**9)
    Path("two.toml").write_text(
        'title = "two"\ntasks = ["toy/reach"]\nseeds = [1, 2]\nenv_steps = 100_000\n'
        'settings = {"replay.capacity" = 100_000, "env.image_size" = 100}\n[arm.rl]\nmethod = "rl-only"\n'
    )
    large = ["env.image_size=100", "replay.capacity=100000", "compute.device=cpu"]
    seeds = ["train", "toy/reach", "--seed", "1,2", "--env-steps", "100k", "--max-parallel", "2", "--set", *large]
    for words, option in ((seeds, "--max-parallel 1"), (["suite", "run", "two.toml", "--jobs", "2"], "--jobs 1")):
        assert main(words) == 2
        assert capsys.readouterr().err == (
            f"mcurl: 2 runs at once would take 2.5 GB, more than the 2.0 GB of memory here: use {option}\n"
        )
        assert not Path("runs").exists()


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="the size of the process is unknown")
def test_a_limit_of_the_address_space_is_one_line(tmp_path: Path) -> None:
    words = ["train", "toy/reach", "--env-steps", "30", "--set", *SMALL, "replay.capacity=10M", "env.image_size=32"]
    process = subprocess.run(
        [sys.executable, "-m", "mcurl", *words],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_AS, (12 * 10**9, 12 * 10**9)),
        capture_output=True,
        text=True,
        check=False,
    )
    assert process.returncode == 2
    assert "a replay of 10,000,000 rows would take 31.2 GB, more than the" in process.stderr
    assert process.stderr.count("\n") == 1


@pytest.mark.parametrize("error", [MemoryError(), RuntimeError("DefaultCPUAllocator: can't allocate memory")])
def test_no_memory_left_is_one_line(
    error: Exception, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    def fail(*arguments: object) -> None:
        raise error

    monkeypatch.setattr("mcurl.training.trainer.build_replay", fail)
    words = ["train", "toy/reach", "--env-steps", "30", "--out", str(tmp_path / "runs"), "--set", *SMALL]
    assert main(words) == 2
    assert capsys.readouterr().err.startswith("mcurl: there is not enough memory: choose")
    assert not (tmp_path / "runs").exists()
