"""The short forms of the attacks on run folders; `make attacks` runs the long ones."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent


def attack(script: str, count: int) -> None:
    """Run an attack in a process that has not computed anything, because it forks."""
    command = [sys.executable, str(HERE / script), str(count)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"{count} " in done.stdout


def test_a_damaged_run_gives_the_same_result_or_one_line() -> None:
    attack("damage.py", 12)


@pytest.mark.skipif(sys.platform != "linux" or shutil.which("cc") is None, reason="needs LD_PRELOAD and a C compiler")
def test_a_file_operation_that_fails_loses_nothing() -> None:
    attack("faults.py", 8)
