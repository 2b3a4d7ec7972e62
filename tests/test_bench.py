"""The benchmark measures what a run does: the textbook version is the same update."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from mcurl import native
from mcurl.bench import command, timing
from mcurl.bench.parts import time_act
from mcurl.bench.profile import GROUPS
from mcurl.bench.timing import Timing, measure
from mcurl.bench.update import Learner, operations, time_ablations, time_busy, time_update
from mcurl.errors import UserError
from mcurl.native import amx, convolutions
from mcurl.objectives.masked import MCurl
from mcurl.runtime.device import Compute

SAME = """
import torch
from mcurl.bench.update import Learner
from mcurl.runtime.device import Compute

torch.set_num_threads(1)
compute = Compute(torch.device("cpu"), torch.float32, graphs=False)
metrics = []
for plain in (False, True):
    learner = Learner({suite!r}, {method!r}, compute, plain=plain)
    torch.manual_seed(0)
    metrics.append(learner.agent.update(learner.sample(), learner.clock).metrics)
for name in metrics[0]:
    torch.testing.assert_close(metrics[0][name], metrics[1][name], rtol=2e-3, atol=1e-4, msg=lambda m: name + m)
print("the same")
"""


@pytest.mark.parametrize(("fast", "products"), [(True, ["fp32", "bf16"]), (False, ["fp32"])])
def test_bfloat16_is_multiplied_where_that_is_fast(
    monkeypatch: pytest.MonkeyPatch, fast: bool, products: list[str]
) -> None:
    monkeypatch.setattr(timing, "has_fast_bf16", lambda device: fast)
    monkeypatch.setattr(timing, "measure", lambda name, function, **_: Timing(name, 1.0, 1.0, 1.0, 1))
    names = [measured.name for measured in timing.time_peak_throughput(torch.device("cpu"))]
    assert names == [*(f"matrix product 2048, {dtype}" for dtype in products), "copy of 256 MB"]


@pytest.mark.parametrize(("suite", "method"), [("dmc", "curl"), ("atari", "curl")])
def test_the_textbook_computes_the_same_losses(suite: str, method: str) -> None:
    """In a separate process, because the textbook version stays on.

    M-CURL samples crops only for encoded positions, so its numbers would differ.
    """
    done = subprocess.run(
        [sys.executable, "-c", SAME.format(suite=suite, method=method)], capture_output=True, text=True
    )
    assert done.stdout.strip().endswith("the same"), done.stderr


def test_a_timing_is_a_median() -> None:
    calls: list[int] = []
    timing = measure("x", lambda: calls.append(1), warm_up=2, repeats=5, gflop=1.0, megabytes=1.0)
    assert len(calls) == 7
    assert timing.low <= timing.milliseconds <= timing.high
    assert (
        Timing("x", 10.0, 9.0, 11.0, 5, gflop=2.0, megabytes=30.0).to_json()
        | {"gflop_per_second": 200.0, "gigabytes_per_second": 3.0}
        == Timing("x", 10.0, 9.0, 11.0, 5, gflop=2.0, megabytes=30.0).to_json()
    )


@pytest.mark.parametrize("features", ["head", "conv"])
def test_settings_reach_what_is_timed(features: str) -> None:
    compute = Compute(torch.device("cpu"), torch.bfloat16, graphs=False)
    learner = Learner("atari", "mcurl", compute, overrides=[f"rainbow.feature_source={features}"])
    assert learner.settings.agent_settings.feature_source == features
    objective = learner.agent.objective
    assert isinstance(objective, MCurl)
    # Wide features pass the Transformer in the run's precision.
    assert (objective.positions.shape[1], objective.transformer.dtype) == (
        (576, torch.bfloat16) if features == "conv" else (128, torch.float32)
    )


def test_settings_that_nothing_timed_has_are_refused_before_anything_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(command, "prepare", lambda *_: pytest.fail("something was timed"))
    rest: dict[str, Any] = {
        "suites": ["atari"],
        "threads": 1,
        "precision": "fp32",
        "repeats": 1,
        "plain": False,
        "without": [],
        "target": None,
        "plot_dir": Path(),
    }
    with pytest.raises(UserError, match="--set is for update, busy, profile, not for render"):
        command.run(["update", "render"], methods=["mcurl"], overrides=["mcurl.layers=1"], **rest)
    with pytest.raises(UserError, match=r"mcurl\.layers has no effect"):
        command.run(["update"], methods=["mcurl", "curl"], overrides=["mcurl.layers=1"], **rest)


def test_the_profile_knows_the_compiled_layers() -> None:
    """By the names of their autograd functions, which are the profiler's."""
    modules = [convolutions, amx.dueling, amx.encoder, amx.features, amx.mlp, amx.transformer]
    functions = {name for module in modules for name in vars(module) if name.startswith(("_Amx", "_Compiled"))}
    named = {name for names in GROUPS.values() for name in names if name.startswith("_")}
    assert len(functions) == len(modules)
    assert named == functions | {f"{name}Backward" for name in functions}


def test_operations_to_leave_out_are_named() -> None:
    rest: dict[str, Any] = {"suites": ["atari"], "methods": ["mcurl"], "overrides": [], "threads": 1, "repeats": 1}
    rest |= {"precision": "fp32", "plain": False, "target": None, "plot_dir": Path()}
    with pytest.raises(UserError, match="--without is for update, not for render"):
        command.run(["render"], without=["amx.dueling"], **rest)
    with pytest.raises(UserError, match=r"unknown native operation 'amx\.duelling': did you mean amx\.dueling\?"):
        command.run(["update"], without=["amx.duelling"], **rest)
    assert operations("frames") == {"frames"}
    assert operations("amx") == native.AMX


def test_an_update_beside_a_busy_process_is_timed() -> None:
    compute = Compute(torch.device("cpu"), torch.bfloat16, graphs=False)
    alone, busy = time_busy("atari", "rl-only", compute, repeats=2)
    assert [alone.name, busy.name] == ["atari rl-only, alone", "atari rl-only, beside a busy process"]
    assert min(alone.milliseconds, busy.milliseconds) > 0


@pytest.mark.parametrize("suite", ["dmc", "atari"])
def test_acting_is_timed(suite: str) -> None:
    compute = Compute(torch.device("cpu"), torch.bfloat16, graphs=False)
    assert [timing.name for timing in time_act(suite, compute, 1)] == [f"{suite}, act on 1", f"{suite}, act on 10"]


def test_what_an_operation_gains_alone() -> None:
    """Each name is left out by itself, and everything serves again afterwards."""
    compute, before = Compute(torch.device("cpu"), torch.bfloat16, graphs=False), native.disabled()
    full, dueling, everything = time_ablations("atari", "curl", compute, ["amx.dueling", "all"], repeats=2)
    assert [full.name, dueling.name, everything.name] == [
        "atari curl, interleaved",
        "atari curl without amx.dueling",
        "atari curl without all",
    ]
    assert min(full.milliseconds, dueling.milliseconds, everything.milliseconds) > 0
    assert native.disabled() == before


@pytest.mark.slow
def test_the_command_writes_json(tmp_path: Path) -> None:
    target = tmp_path / "bench.json"
    subprocess.run(
        [
            sys.executable,
            "-m",
            "mcurl",
            "bench",
            "update",
            "replay",
            "checkpoint",
            "--suite",
            "atari",
            "--method",
            "rl-only",
            "--plain",
            "--repeats",
            "2",
            "--json",
            str(target),
        ],
        check=True,
    )
    found = json.loads(target.read_text())
    assert any("textbook" in name and ratio > 0 for name, ratio in found["times_slower"].items())
    assert torch.__version__ == found["torch"]


@pytest.mark.parametrize(("suite", "overrides"), [("dmc", ["sac.batch_size=2"]), ("atari", [])])
def test_operations_are_counted_whatever_does_them(suite: str, overrides: list[str]) -> None:
    """Fused and compiled kernels are unknown to the counter; arithmetic and layout change no count."""
    rounded, exact = (
        time_update(
            suite, "rl-only", Compute(torch.device("cpu"), dtype, graphs=False), overrides=overrides, repeats=2
        ).gflop
        for dtype in (torch.bfloat16, torch.float32)
    )
    assert rounded == exact > 0
