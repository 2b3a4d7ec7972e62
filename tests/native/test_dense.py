"""Linear layers on a few rows in C against float64."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from mcurl import native
from mcurl.native import dense
from mcurl.native.dense import Layer

pytestmark = pytest.mark.skipif(not dense.available(), reason="no compiler")

WIDTHS = [[39200, 50, 64, 2], [7, 5], [16, 1], [1, 3, 1], [2049, 33, 4], [4100, 3]]


def layers_of(widths: list[int]) -> list[Layer]:
    """ReLU follows all layers but the first and the last; LayerNorm follows the first."""
    torch.manual_seed(sum(widths))
    layers = []
    for i, (inputs, outputs) in enumerate(pairwise(widths)):
        norm = (torch.rand(outputs) + 0.5, torch.randn(outputs)) if i == 0 and outputs > 1 else None
        weight = torch.randn(outputs, inputs) / inputs**0.5
        layers.append(Layer(weight, torch.randn(outputs), relu=0 < i < len(widths) - 2, norm=norm))
    return layers


def exact(x: Tensor, layers: list[Layer]) -> Tensor:
    x = x.double()
    for weight, bias, relu, norm in layers:
        x = F.linear(x, weight.double(), bias.double())
        x = F.relu(x) if relu else x
        x = F.layer_norm(x, bias.shape, *(part.double() for part in norm)) if norm else x
    return x


@pytest.mark.usefixtures("threads")
@pytest.mark.parametrize("widths", WIDTHS)
def test_equals_float64(widths: list[int]) -> None:
    layers = layers_of(widths)
    for rows in (1, 2, 3, 4, 10, 16):
        x = torch.randn(rows, widths[0])
        torch.testing.assert_close(dense.bind(rows, layers)(x).double(), exact(x, layers), rtol=1e-4, atol=2e-5)
        rounded = x.bfloat16()
        assert torch.equal(dense.bind(rows, layers)(rounded), dense.bind(rows, layers)(rounded.float()))


def test_one_relu_is_not_forgotten() -> None:
    layer = Layer(torch.eye(6), torch.zeros(6), relu=True)
    x = torch.tensor([[-1.0, 2.0, -0.5, 0.0, 3.0, float("nan")]])
    y = dense.bind(1, [layer])(x)
    assert torch.equal(dense.bind(1, [layer])(x[:, :5].repeat(1, 2)[:, :6])[0, :5], torch.tensor([0.0, 2, 0, 0, 3]))
    assert y.isnan().all()  # as in a product, NaN reaches every output


def test_rows_and_threads_change_no_bit() -> None:
    layers, x = layers_of([4100, 37, 50, 5]), torch.randn(13, 4100)
    before = torch.get_num_threads()
    try:
        results = []
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            results.append(dense.bind(13, layers)(x))
    finally:
        torch.set_num_threads(before)
    assert torch.equal(results[0], results[1])
    assert torch.equal(results[0], results[2])
    for row in (0, 5, 12):
        assert torch.equal(dense.bind(1, layers)(x[row : row + 1])[0], results[0][row])


def test_parameters_may_change() -> None:
    layers, x = layers_of([300, 20, 3]), torch.randn(2, 300)
    apply = dense.bind(2, layers)
    apply(x)
    for layer in layers:
        layer.weight.mul_(2)
        layer.bias.sub_(1)
    assert torch.equal(apply(x), dense.bind(2, layers)(x))
    torch.testing.assert_close(apply(x).double(), exact(x, layers), rtol=1e-4, atol=1e-5)


def test_other_arguments_are_refused() -> None:
    weight, bias = torch.randn(4, 6), torch.randn(4)
    for rows, layer in [
        (0, Layer(weight, bias)),
        (dense.MAX_ROWS + 1, Layer(weight, bias)),
        (1, Layer(weight.double(), bias)),
        (1, Layer(weight.t().contiguous().t(), bias)),
    ]:
        assert not dense.supports(rows, [layer])
        with pytest.raises(RuntimeError, match="do not support"):
            dense.bind(rows, [layer])
    with native.without_operations({"dense"}, "the plain version"):
        assert not dense.supports(1, [Layer(weight, bias)])
