"""A setting that cannot be allocated is refused at once, with what it would take."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from mcurl.cli import main
from mcurl.errors import UserError
from mcurl.runtime.memory import check_memory, limited_allocations


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
