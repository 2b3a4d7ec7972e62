"""What all tests and the processes that they start have in common."""

from __future__ import annotations

import signal

import pytest

from mcurl.runtime.threads import limit_openmp_spinning

# Before PyTorch is imported: threads that wait for each other sleep soon, as in the commands, or the tests beside
# another busy process take for ever.
limit_openmp_spinning()
# Under nohup it is ignored, and would be by the commands whose answer to it is tested.
signal.signal(signal.SIGHUP, signal.SIG_DFL)


@pytest.fixture(autouse=True)
def native_operations_as_before(monkeypatch: pytest.MonkeyPatch) -> None:
    """A run disables native operations for the whole process, and what served is recorded for all of it: each test
    leaves both as they were."""
    from mcurl import native

    monkeypatch.setattr(native, "disabled", native.disabled)
    monkeypatch.setattr(native, "_served", set())
