"""Both convolutions on the matrix units against float64, step by step with the roundings that they promise, and against
the plain layers."""

from __future__ import annotations

from typing import NamedTuple

import pytest
import torch
import torch.nn.functional as F
from helpers import layers_run
from torch import Tensor

from mcurl.native.amx import encoder as amx_encoder
from mcurl.networks.atari import DataEfficientEncoder

pytestmark = pytest.mark.skipif(not layers_run(), reason="neither AMX nor AVX-512 for them, or no compiler")

SHAPES = [(4, 84, 84), (1, 28, 28), (3, 60, 60), (20, 25, 25)]
"""Nine patches of patches of 100 bytes; one of 25; four of 75; one of 500."""


class Case(NamedTuple):
    patches: Tensor
    parameters: amx_encoder.Parameters


def case(shape: tuple[int, int, int], n: int) -> Case:
    torch.manual_seed(n)
    encoder = DataEfficientEncoder(shape, dtype=torch.bfloat16)
    # Nothing follows the patches in memory that belongs to them: what is read past their end would be seen.
    spare = encoder.patches(torch.randint(0, 256, (n + 1, *shape), dtype=torch.uint8))
    return Case(spare[:n], tuple(parameter.detach() for parameter in encoder.parameters()))  # type: ignore[arg-type]


@pytest.mark.usefixtures("threads")
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("n", [1, 5, 16, 17, 48])
def test_each_layer_is_the_product_in_float64(shape: tuple[int, int, int], n: int) -> None:
    patches, parameters = case(shape, n)
    weight1, bias1, weight2, bias2 = (parameter.double() for parameter in parameters)
    features, hidden = amx_encoder.forward(patches, parameters, save=True)
    assert hidden is not None
    cells = patches.shape[1] // 25
    assert features.shape == (n, 64 * cells)
    first = F.relu(patches.double() / 255 @ weight1.flatten(1).T + bias1).view(n * cells, 800)
    # Half a unit of bfloat16's last place, and weights that are off by half a 16256th of the largest.
    bound = first / 2**8 + patches.shape[2] ** 0.5 * weight1.abs().max() / 16256
    assert ((hidden[: n * cells].double() - first).abs() <= bound).all()
    rounded = weight2.permute(0, 2, 3, 1).flatten(1).float().bfloat16().double()
    second = F.relu(hidden[: n * cells].double() @ rounded.T + bias2).view(n, cells, 64).transpose(1, 2).flatten(1)
    torch.testing.assert_close(features.double(), second, rtol=1e-5, atol=1e-5)
    assert torch.equal(features, amx_encoder.forward(patches, parameters, save=False)[0])


@pytest.mark.usefixtures("threads")
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("n", [1, 5, 16, 17, 48])
def test_gradients_are_the_products_in_float64(shape: tuple[int, int, int], n: int) -> None:
    patches, parameters = case(shape, n)
    features, hidden = amx_encoder.forward(patches, parameters, save=True)
    assert hidden is not None
    gradient = torch.randn_like(features)
    gradients = amx_encoder.backward(patches, parameters, hidden, features, gradient)
    cells = patches.shape[1] // 25
    h = hidden[: n * cells].double()
    g = (gradient * (features > 0)).bfloat16().double().view(n, 64, cells).transpose(1, 2).reshape(n * cells, 64)
    weight2 = parameters[2].permute(0, 2, 3, 1).flatten(1).bfloat16().double()
    # Rounded on the way, so that two of a million may fall to the other side.
    through = ((g @ weight2).bfloat16().double() * (h > 0)).view(-1, 32)
    plain = (
        (through.T @ patches.double().flatten(0, 1) / 255).view(parameters[0].shape),
        through.sum(0),
        (g.T @ h).view(64, 5, 5, 32).permute(0, 3, 1, 2),
        g.sum(0),
    )
    for ours, theirs, parameter in zip(gradients, plain, parameters, strict=True):
        assert ours.shape == parameter.shape
        assert ours.stride() == parameter.stride()
        assert (ours.double() - theirs).norm() < 1e-4 * theirs.norm()


@pytest.mark.usefixtures("threads")
def test_can_be_repeated() -> None:
    patches, parameters = case((4, 84, 84), 70)
    features, hidden = amx_encoder.forward(patches, parameters, save=True)
    assert hidden is not None
    gradient = torch.randn_like(features)
    first = amx_encoder.backward(patches, parameters, hidden, features, gradient)
    for _ in range(10):
        assert torch.equal(amx_encoder.forward(patches, parameters, save=True)[0], features)
        assert all(map(torch.equal, first, amx_encoder.backward(patches, parameters, hidden, features, gradient)))


def test_no_stacks_at_all() -> None:
    patches, parameters = case((4, 84, 84), 0)
    features, hidden = amx_encoder.forward(patches, parameters, save=True)
    assert hidden is not None
    assert features.shape == (0, 576)
    gradients = amx_encoder.backward(patches, parameters, hidden, features, features)
    assert not any(gradient.any() for gradient in gradients)


def test_gradients_do_not_depend_on_the_number_of_threads() -> None:
    patches, parameters = case((4, 84, 84), 300)  # in groups of several times sixteen stacks
    features, hidden = amx_encoder.forward(patches, parameters, save=True)
    assert hidden is not None
    gradient, runs, before = torch.randn_like(features), [], torch.get_num_threads()
    for threads in (1, 2, 3):
        torch.set_num_threads(threads)
        runs.append(amx_encoder.backward(patches, parameters, hidden, features, gradient))
    torch.set_num_threads(before)
    for other in runs[1:]:
        assert all(map(torch.equal, runs[0], other))
    twin = patches[:0], runs[0]
    for begin in range(0, 300, 100):  # as sums over parts
        part = slice(begin, begin + 100)
        f, h = amx_encoder.forward(patches[part], parameters, save=True)
        assert h is not None
        ours = amx_encoder.backward(patches[part], parameters, h, f, gradient[part])
        twin = patches[part], tuple(a - b for a, b in zip(twin[1], ours, strict=True))  # type: ignore[assignment]
    for rest, whole in zip(twin[1], runs[0], strict=True):
        assert rest.norm() < 1e-4 * whole.norm()


@pytest.mark.parametrize("broken", range(4))
def test_nan_stays_nan(broken: int) -> None:
    patches, parameters = case((4, 84, 84), 3)
    parameters[broken][7] = torch.nan
    features = amx_encoder.forward(patches, parameters, save=False)[0]
    plain = DataEfficientEncoder((4, 84, 84))
    for own, parameter in zip(plain.parameters(), parameters, strict=True):
        own.data = parameter
    expected = plain(torch.randint(1, 256, (3, 4, 84, 84), dtype=torch.uint8))
    assert features.isnan().sum() == expected.isnan().sum() > 0


def test_channels_without_weights_are_their_bias() -> None:
    patches, (weight1, bias1, weight2, _) = case((4, 84, 84), 3)
    bias2 = torch.linspace(-1, 1, 64)
    features, hidden = amx_encoder.forward(patches, (0 * weight1, bias1, 0 * weight2, bias2), save=True)
    assert hidden is not None
    assert torch.equal(hidden[:27].view(-1, 32), bias1.relu().bfloat16().expand(27 * 25, -1))
    assert torch.equal(features, bias2.relu().repeat_interleave(9).expand(3, -1))


def test_weights_may_lie_in_any_order() -> None:
    patches, parameters = case((4, 84, 84), 3)
    plain = tuple(parameter.contiguous() for parameter in parameters)
    assert plain[2].stride() != parameters[2].stride()
    assert torch.equal(
        amx_encoder.forward(patches, parameters, save=False)[0], amx_encoder.forward(patches, plain, save=False)[0]
    )  # type: ignore[arg-type]


def test_unsupported_arguments_are_refused() -> None:
    patches, parameters = case((4, 84, 84), 3)
    weight1, bias1, weight2, bias2 = parameters
    for other, others in [
        (torch.zeros(3, 25, 525, dtype=torch.uint8), (torch.zeros(32, 21, 5, 5), bias1, weight2, bias2)),
        (patches.float(), parameters),
        (patches, (weight1[:16], bias1[:16], weight2, bias2)),
        (patches, (weight1, bias1, weight2[:32], bias2[:32])),
        (patches, (weight1.double(), bias1, weight2, bias2)),
        (patches[..., :75], parameters),
    ]:
        assert not amx_encoder.supports(other, others)
        with pytest.raises(RuntimeError, match="does not support"):
            amx_encoder.forward(other, others, save=False)


@pytest.mark.parametrize("n", [1, 33])
def test_the_encoder_means_the_same_without_it(n: int, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    encoder = DataEfficientEncoder((4, 84, 84), dtype=torch.bfloat16)
    pixels = torch.randint(0, 256, (n, 4, 84, 84), dtype=torch.uint8)
    upstream = torch.randn(n, encoder.width)

    def encoded() -> tuple[Tensor, tuple[Tensor, ...]]:
        features = encoder(pixels)
        return features, torch.autograd.grad(features, list(encoder.parameters()), upstream)

    features, gradients = encoded()
    with torch.no_grad():
        assert torch.equal(encoder(pixels), features)
    monkeypatch.setattr(amx_encoder, "available", lambda: False)
    plain, plain_gradients = encoded()
    assert (features - plain).norm() < 0.01 * plain.norm()
    for ours, theirs in zip(gradients, plain_gradients, strict=True):
        assert F.cosine_similarity(ours.flatten(), theirs.flatten(), 0) > 0.99


@pytest.mark.usefixtures("threads")
def test_others_that_use_the_matrix_units_are_left_alone() -> None:
    """Each configures the tiles for itself: products in bfloat16 before, between and after are the same."""
    patches, parameters = case((4, 84, 84), 40)
    x, weight = torch.randn(512, 512).bfloat16(), torch.randn(512, 512).bfloat16()
    before = F.linear(x, weight)
    for _ in range(5):
        features, hidden = amx_encoder.forward(patches, parameters, save=True)
        assert torch.equal(F.linear(x, weight), before)
        assert hidden is not None
        amx_encoder.backward(patches, parameters, hidden, features, features)
        assert torch.equal(F.linear(x, weight), before)
