"""What the tests of integrations have in common."""

from __future__ import annotations

from pathlib import Path

import pytest


@pytest.fixture(autouse=True)
def logs_of_stable_baselines(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Stable-Baselines3 makes a folder in the system's temporary folder at every ``learn``, and leaves it there."""
    monkeypatch.setenv("SB3_LOGDIR", str(tmp_path / "sb3"))
