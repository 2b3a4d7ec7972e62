"""Running means of what is logged."""

from __future__ import annotations

import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from mcurl.train import Metrics


def test_means_go_on_after_a_checkpoint() -> None:
    metrics = Metrics()
    value = torch.tensor(1.0)
    metrics.add({"a": value})
    value.fill_(100.0)  # as the next replay of a graph does
    state = metrics.state_dict()
    metrics.add({"a": torch.tensor(5.0)})
    again = Metrics()
    again.load_state_dict(state)
    again.add({"a": torch.tensor(3.0)})
    assert metrics.take() == {"a": 3.0}
    assert again.take() == {"a": 2.0}
    assert again.take() == {}


def test_a_checkpoint_of_the_host_goes_on_on_a_gpu() -> None:
    with FakeTensorMode():
        metrics = Metrics()
        metrics.load_state_dict({"sums": {"a": torch.zeros(())}, "counts": {"a": 1}})
        metrics.add({"a": torch.ones((), device="cuda")})
        assert metrics.state_dict()["sums"]["a"].device.type == "cuda"
