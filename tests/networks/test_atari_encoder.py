"""The patch encoder against the two convolutions that it is, and the contrastive head against its formula."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from helpers import patches, random_pixels
from torch import Tensor

from mcurl.errors import UserError
from mcurl.networks.atari import ContrastHead, DataEfficientEncoder, encoder_width

SHAPES = [(4, 84, 84), (1, 28, 28), (2, 25, 25), (3, 60, 77), (2, 84, 76)]


def convolutions(encoder: DataEfficientEncoder, pixels: Tensor) -> Tensor:
    """The textbook form."""
    x = pixels.to(encoder.conv1.weight.dtype) / 255
    x = F.relu(F.conv2d(x, encoder.conv1.weight, encoder.conv1.bias, stride=5))
    x = F.relu(F.conv2d(x, encoder.conv2.weight, encoder.conv2.bias, stride=5))
    return x.flatten(1)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("given", ["contiguous", "strided", "patches"])
def test_equals_the_convolutions_in_values_and_gradients(shape: tuple[int, int, int], given: str) -> None:
    torch.manual_seed(0)
    n = 9
    encoder = DataEfficientEncoder(shape, dtype=torch.float64).double()
    pixels = random_pixels(2 * n, shape)[::2] if given == "strided" else random_pixels(n, shape)
    fast, plain = encoder(patches(pixels).double() if given == "patches" else pixels), convolutions(encoder, pixels)
    assert fast.dtype == torch.float32
    assert fast.shape == (n, encoder.width) == (n, encoder_width(shape))
    torch.testing.assert_close(fast, plain.float())
    upstream = torch.randn(n, encoder.width)
    of_fast = torch.autograd.grad(fast, list(encoder.parameters()), upstream)
    of_plain = torch.autograd.grad(plain, list(encoder.parameters()), upstream.double())
    for a, b in zip(of_fast, of_plain, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-10)


def test_without_gradient_the_features_are_the_same() -> None:
    torch.manual_seed(0)
    encoder = DataEfficientEncoder((4, 84, 84))
    pixels = random_pixels(70, (4, 84, 84))
    with torch.no_grad():
        torch.testing.assert_close(encoder(pixels), encoder(pixels[:, :, :75, :75]))
        torch.testing.assert_close(encoder(pixels), convolutions(encoder, pixels))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_linear_relu_equals_its_two_steps(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    x, weight, bias = (torch.randn(shape, dtype=dtype, requires_grad=True) for shape in ((40, 24), (16, 24), (16,)))
    upstream = torch.randn(40, 16, dtype=dtype)
    encoder = DataEfficientEncoder((1, 25, 25), dtype=dtype)
    fused, plain = encoder._product(x, weight, bias), F.relu(F.linear(x, weight, bias))
    torch.testing.assert_close(fused, plain)
    for a, b in zip(*(torch.autograd.grad(y, [x, weight, bias], upstream) for y in (fused, plain)), strict=True):
        torch.testing.assert_close(a, b)


def test_pixels_may_be_numbers_of_any_kind() -> None:
    torch.manual_seed(0)
    encoder = DataEfficientEncoder((2, 28, 28))
    pixels = random_pixels(3, (2, 28, 28))
    torch.testing.assert_close(encoder(pixels.float()), encoder(pixels))


@pytest.mark.parametrize("layout", ["planes", "channels last", "patches"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_pixels_may_be_jittered(layout: str, dtype: torch.dtype) -> None:
    """As after an intensity jitter: no integers, and above 255. In bfloat16 where they are gathered channels-last."""
    torch.manual_seed(0)
    encoder = DataEfficientEncoder((4, 84, 84), dtype=dtype)
    pixels = 280 * torch.rand(9, 4, 84, 84)
    if layout == "channels last":
        pixels = pixels.to(torch.bfloat16, memory_format=torch.channels_last)
    features = encoder.encode(encoder.patches(patches(pixels).float() if layout == "patches" else pixels))
    expected = convolutions(encoder, pixels)
    assert features.dtype == torch.float32
    if dtype == torch.float32:
        torch.testing.assert_close(features, expected, rtol=1e-4, atol=1e-5)
    assert (features - expected).norm() < 0.02 * expected.norm()


def test_pixels_need_not_be_contiguous() -> None:
    torch.manual_seed(0)
    encoder = DataEfficientEncoder((2, 28, 28))
    frames = random_pixels(5, (2, 40, 40))
    crop = frames[1:4, :, 6:34, 7:35]
    torch.testing.assert_close(encoder(crop), encoder(crop.contiguous()))


def test_the_last_patch_does_not_read_past_its_array() -> None:
    """The words that patches are copied by are wider than their rows."""
    torch.manual_seed(0)
    encoder = DataEfficientEncoder((1, 25, 25))
    page = random_pixels(2, (1, 25, 25))
    before = encoder(page[:1])
    page[1] = 255 - page[1]
    assert torch.equal(before, encoder(page[:1]))


def test_only_the_top_left_75_by_75_pixels_are_seen() -> None:
    torch.manual_seed(0)
    encoder = DataEfficientEncoder((4, 84, 84))
    pixels = random_pixels(2, (4, 84, 84))
    other = pixels.clone()
    other[:, :, 75:], other[:, :, :, 75:] = 7, 9
    assert torch.equal(encoder(pixels), encoder(other))


def test_bfloat16_is_close_and_gives_float32() -> None:
    torch.manual_seed(0)
    exact = DataEfficientEncoder((4, 84, 84))
    rounded = DataEfficientEncoder((4, 84, 84), dtype=torch.bfloat16)
    rounded.load_state_dict(exact.state_dict())
    pixels = random_pixels(8, (4, 84, 84))
    a, b = exact(pixels), rounded(pixels)
    assert b.dtype == torch.float32
    assert (a - b).abs().max() < 0.02 * a.abs().max()
    a.square().sum().backward()
    b.square().sum().backward()
    for p, q in zip(exact.parameters(), rounded.parameters(), strict=True):
        assert p.grad is not None
        assert q.grad is not None
        assert q.grad.dtype == torch.float32
        assert F.cosine_similarity(p.grad.flatten(), q.grad.flatten(), 0) > 0.999


def test_parameters_are_those_of_the_convolutions() -> None:
    shapes = {name: tuple(value.shape) for name, value in DataEfficientEncoder((4, 84, 84)).state_dict().items()}
    assert shapes == {
        "conv1.weight": (32, 4, 5, 5),
        "conv1.bias": (32,),
        "conv2.weight": (64, 32, 5, 5),
        "conv2.bias": (64,),
    }


def test_observations_too_small_are_refused() -> None:
    with pytest.raises(UserError, match="24 × 84"):
        DataEfficientEncoder((4, 24, 84))


def test_head_follows_its_formula() -> None:
    torch.manual_seed(0)
    head = ContrastHead(10)
    x = torch.randn(3, 10)

    def norm(y: Tensor) -> Tensor:
        return (y - y.mean(1, keepdim=True)) / torch.sqrt(y.var(1, correction=0, keepdim=True) + 1e-5)

    plain = norm(F.relu(norm(x @ head.hidden.weight.T + head.hidden.bias)) @ head.out.weight.T + head.out.bias)
    torch.testing.assert_close(head(x), plain)
    assert head(x).shape == (3, 128)
    assert len(list(head.parameters())) == 4


def test_curls_head_begins_uniform() -> None:
    torch.manual_seed(0)
    head = ContrastHead(576, "uniform")
    for layer in (head.hidden, head.out):
        assert layer.weight.min() >= 0
        assert 0.99 < layer.weight.max() < 1
        assert layer.weight.mean().item() == pytest.approx(0.5, abs=0.01)
        assert not layer.bias.any()
