"""What is decided about the machine, and when."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

PRECISION = """
from mcurl import native
from mcurl.runtime.device import ComputeSettings, prepare

for precision, unused in [("fp32", native.LAYERS), ("bf16", frozenset()), ("fp32", native.LAYERS)]:
    prepare(ComputeSettings(device="cpu", precision=precision))
    assert native.unused == unused
print("as asked")
"""


def test_what_is_asked_for_in_float32_is_float32() -> None:
    """Compiled layers multiply sums of two planes of bfloat16."""
    done = subprocess.run([sys.executable, "-c", PRECISION], capture_output=True, text=True)
    assert done.stdout == "as asked\n", done.stderr


ORDER = """
import sys
from mcurl import cli, train

build_env, seen = train.build_env, []

def spy(*arguments):
    seen.append("torch._dynamo" in sys.modules)
    return build_env(*arguments)

train.build_env = spy
small = ["sac.batch_size=4", "sac.hidden=16", "sac.filters=4", "sac.learning_starts=20", "mcurl.batch=2", "mcurl.length=4"]
assert cli.main(["train", "toy/reach", "--env-steps", "20", "--threads", "1", "--set", "evaluation.episodes=1", *small]) == 0
assert cli.main(["evaluate", "runs/toy-reach/mcurl-seed1", "--episodes", "1"]) == 0
assert seen
assert all(seen)
print("in order")
"""


def test_the_compiler_is_loaded_before_opengl(tmp_path: Path) -> None:
    """The reverse order crashes where PyTorch brings Triton and OpenGL is Mesa's, each with an LLVM."""
    done = subprocess.run([sys.executable, "-c", ORDER], cwd=tmp_path, capture_output=True, text=True)
    assert done.stdout.strip().endswith("in order"), done.stderr
