"""How actors and critics begin, and the range of the log standard deviation."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from mcurl.networks.heads import DeterministicActor, GaussianActor, TwinQ


def orthogonality(weight: Tensor) -> Tensor:
    """The products of the rows with each other, or of the columns where there are fewer of them."""
    return weight @ weight.T if weight.shape[0] <= weight.shape[1] else weight.T @ weight


@pytest.mark.parametrize("net", [GaussianActor(10, 3, 32), DeterministicActor(10, 3, 32), TwinQ(10, 3, 32)])
def test_layers_begin_orthogonal_without_biases(net: nn.Module) -> None:
    layers = [layer for layer in net.modules() if isinstance(layer, nn.Linear)]
    assert len(layers) == (6 if isinstance(net, TwinQ) else 3)
    for layer in layers:
        products = orthogonality(layer.weight.detach())
        torch.testing.assert_close(products, torch.eye(len(products)), rtol=1e-4, atol=1e-5)
        assert not layer.bias.any()


def test_the_log_standard_deviation_lies_between_its_bounds() -> None:
    mean, log_std = GaussianActor.split(torch.tensor([[30.0, -30.0, 0.5, 50.0, -50.0, 0.0]]))
    assert mean.tolist() == [[30, -30, 0.5]]
    assert log_std.tolist() == [[2, -10, -4]]
