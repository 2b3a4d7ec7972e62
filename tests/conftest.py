"""What all tests and the processes that they start have in common."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from mcurl.runtime.threads import limit_openmp_spinning

# Before PyTorch is imported. Small tests use one thread: two take longer where other processes use the cores.
os.environ.setdefault("OMP_NUM_THREADS", "1")
limit_openmp_spinning()
# As in an activated environment: printed commands begin with `mcurl`.
os.environ["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"
# pytest-xdist sets it in its workers; commands print no wider than it says.
os.environ.pop("COLUMNS", None)
# Under nohup SIGHUP is ignored, in background jobs SIGINT, and would be by the commands whose answer to it is tested.
signal.signal(signal.SIGHUP, signal.SIG_DFL)
signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(autouse=True)
def native_operations_as_before(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Restore the disabled native operations and the record of those that ran, which outlive a test."""
    from mcurl import native

    monkeypatch.setattr(native, "_used", set())
    with native.disabled_only(native.disabled()):
        yield
