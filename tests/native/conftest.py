"""What tests of compiled code share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from mcurl import native


@pytest.fixture(autouse=True)
def every_layer(monkeypatch: pytest.MonkeyPatch) -> None:
    """Layers that are slower than PyTorch without matrix units must be right there, too."""
    monkeypatch.setattr(native, "VECTORS", native.AMX)


@pytest.fixture(params=[1, 2])
def threads(request: pytest.FixtureRequest) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield
    torch.set_num_threads(before)
