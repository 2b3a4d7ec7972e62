"""What is decided about the machine, and when."""

from __future__ import annotations

import json
import platform
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch

from mcurl import native
from mcurl.native.processor import processor_flags
from mcurl.runtime import device
from mcurl.runtime.device import Compute, compute_metadata, process_state_restored
from mcurl.runtime.threads import TRAINING, available_cores

PRECISION = """
from mcurl import native
from mcurl.runtime.device import ComputeSettings, prepare

for precision, disabled in [("fp32", native.AMX), ("bf16", frozenset()), ("fp32", native.AMX)]:
    prepare(ComputeSettings(device="cpu", precision=precision))
    assert native.disabled().keys() == disabled
    prepare(ComputeSettings(device="cpu", precision=precision, native="off"))
    assert native.disabled().keys() == native.ALL
print("as asked")
"""


def test_what_is_asked_for_in_float32_is_float32() -> None:
    """Compiled layers multiply sums of two planes of bfloat16."""
    done = subprocess.run([sys.executable, "-c", PRECISION], capture_output=True, text=True)
    assert done.stdout == "as asked\n", done.stderr


def test_metadata_of_what_computes() -> None:
    compute = Compute(torch.device("cpu"), torch.bfloat16, graphs=False)
    native.record_use("adam")
    metadata = compute_metadata(compute)
    assert json.loads(json.dumps(metadata)) == metadata
    assert metadata == {
        "device": "cpu",
        "precision": "bf16",
        "threads": torch.get_num_threads(),
        "native": ["adam"],
        "processor_flags": processor_flags(),
    }
    assert set(processor_flags()) <= {"amx_tile", "amx_bf16", "amx_int8", "avx512f", "avx512_bf16", "avx2"}


def test_a_processor_has_no_tf32() -> None:
    """The user's program may have allowed it for GPUs."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("high")
    try:
        assert Compute(torch.device("cpu"), torch.float32, graphs=False).precision == "fp32"
        assert Compute(torch.device("cuda"), torch.float32, graphs=False).precision == "tf32"
    finally:
        torch.set_float32_matmul_precision(before)


@pytest.mark.parametrize(
    ("machine", "flags", "onednn", "fast"),
    [
        ("x86_64", ["avx512f", "amx_bf16"], True, True),
        ("x86_64", ["avx512f"], True, False),  # oneDNN supports bf16 there, slowly
        ("x86_64", ["avx512_bf16"], False, True),
        ("aarch64", [], True, True),
        ("aarch64", [], False, False),
    ],
)
def test_bf16_is_decided_by_flags_on_x86_and_by_pytorch_elsewhere(
    monkeypatch: Any, machine: str, flags: list[str], onednn: bool, fast: bool
) -> None:
    monkeypatch.setattr(platform, "machine", lambda: machine)
    monkeypatch.setattr(device, "processor_flags", lambda: flags)
    monkeypatch.setattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", lambda: onednn)
    assert device.has_fast_bf16(torch.device("cpu")) == fast


def test_pytorch_without_onednn_has_no_fast_bf16(monkeypatch: Any) -> None:
    def missing() -> bool:
        raise AttributeError("'_OpNamespace' 'mkldnn' object has no attribute '_is_mkldnn_bf16_supported'")

    monkeypatch.setattr(platform, "machine", lambda: "riscv64")
    monkeypatch.setattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", missing)
    assert not device.has_fast_bf16(torch.device("cpu"))


ORDER = """
import sys
from mcurl import cli
from mcurl.training import trainer as training

build_env, seen = training.build_env, []

def spy(*arguments):
    seen.append("torch._dynamo" in sys.modules)
    return build_env(*arguments)

training.build_env = spy
small = ["sac.batch_size=4", "sac.hidden=16", "sac.filters=4", "sac.learning_starts=20", "mcurl.batch=2"]
small += ["mcurl.length=4", "evaluation.episodes=1"]
assert cli.main(["train", "toy/reach", "--env-steps", "20", "--threads", "1", "--name", "tiny", "--set", *small]) == 0
assert cli.main(["evaluate", "runs/toy-reach/tiny-seed1", "--episodes", "1"]) == 0
assert seen
assert all(seen)
print("in order")
"""


def test_the_compiler_is_loaded_before_opengl(tmp_path: Path) -> None:
    """The reverse order crashes where PyTorch brings Triton and OpenGL is Mesa's, each with an LLVM."""
    done = subprocess.run([sys.executable, "-c", ORDER], cwd=tmp_path, capture_output=True, text=True)
    assert done.stdout.strip().endswith("in order"), done.stderr


def repeats() -> bool:
    """Whether the numbers that are drawn in ``process_state_restored`` are drawn again after it."""
    with process_state_restored():
        first = torch.rand(3)
    return torch.equal(torch.rand(3), first)


def test_numbers_of_a_run_in_another_thread_are_not_drawn_again() -> None:
    assert repeats()
    assert TRAINING.acquire()
    try:
        assert repeats()  # a callback of the run
        with ThreadPoolExecutor(1) as pool:
            assert not pool.submit(repeats).result()
            assert not pool.submit(TRAINING.acquire).result()
    finally:
        TRAINING.release()
    assert repeats()


@pytest.mark.parametrize(("text", "cores"), [(" 1", 1), ("1,4", 1), ("0", None), ("x", None), ("", None)])
def test_openmp_s_number_of_threads_is_an_upper_limit(
    text: str, cores: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    free = available_cores()
    monkeypatch.setenv("OMP_NUM_THREADS", text)
    assert available_cores() == (cores or free)
