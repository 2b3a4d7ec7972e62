"""SAC's encoder equals the textbook's, values and gradients, in every memory layout."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from mcurl.networks.encoders import Convolutions, PixelEncoder, centre_crop


def textbook(encoder: PixelEncoder, pixels: Tensor) -> Tensor:
    """NCHW, flattened as PyTorch does, the division written where the algorithm has it."""
    c, f = encoder.convolutions, encoder.features
    x = pixels.to(f.bias.dtype) / 255 - c.offset
    for i, (w, b) in enumerate(zip(c.weights, c.biases, strict=True)):
        x = F.relu(F.conv2d(x, w, b, stride=2 if i == 0 else 1))
    h = F.layer_norm(F.linear(x.flatten(1), f.weight.flatten(1), f.bias), f.bias.shape, f.norm.weight, f.norm.bias)
    return h.tanh() if f.tanh else h


def build(
    *,
    channels_last: bool = True,
    dtype: torch.dtype = torch.float32,
    chunk: int = 128,
    filters: int = 8,
    drqv2: bool = False,
) -> PixelEncoder:
    torch.manual_seed(0)
    convolutions = Convolutions(6, filters, 3, dtype=dtype, channels_last=channels_last, offset=0.5 if drqv2 else 0.0)
    encoder = PixelEncoder(convolutions, 20, 10, tanh=drqv2, chunk=chunk)
    for p in encoder.convolutions.parameters():
        p.data += 0.1 * torch.randn(p.shape)
    return encoder


@pytest.mark.parametrize("drqv2", [False, True])
@pytest.mark.parametrize("channels_last", [True, False])
@pytest.mark.parametrize("chunk", [128, 2])
def test_equals_the_textbook(channels_last: bool, chunk: int, drqv2: bool) -> None:
    encoder = build(channels_last=channels_last, chunk=chunk, drqv2=drqv2)
    pixels = torch.randint(0, 256, (5, 6, 20, 20), dtype=torch.uint8)
    weight = torch.randn(5, 10)
    fast, slow = encoder(pixels), textbook(encoder, pixels)
    torch.testing.assert_close(fast, slow, rtol=1e-4, atol=1e-5)
    with torch.no_grad():
        torch.testing.assert_close(encoder(pixels), slow, rtol=1e-4, atol=1e-5)
    parameters = list(encoder.parameters())
    for f, s in zip(
        torch.autograd.grad((fast * weight).sum(), parameters),
        torch.autograd.grad((slow * weight).sum(), parameters),
        strict=True,
    ):
        torch.testing.assert_close(f, s, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("frozen", ["weights.0", "weights.1", "weights.2", "weights", "biases", "pixels"])
def test_frozen_layers_cut_no_gradient(frozen: str) -> None:
    encoder, weight = build(), torch.randn(5, 10)
    kept = {name: p for name, p in encoder.named_parameters() if f"convolutions.{frozen}" not in name}
    for p in encoder.parameters():
        p.requires_grad_(any(p is other for other in kept.values()))
    pixels = torch.randint(0, 256, (5, 6, 20, 20)).float().requires_grad_(frozen != "pixels")
    wanted = [*kept.values(), *([pixels] if pixels.requires_grad else [])]
    fast, slow = (
        torch.autograd.grad((work * weight).sum(), wanted) for work in (encoder(pixels), textbook(encoder, pixels))
    )
    for f, s in zip(fast, slow, strict=True):
        torch.testing.assert_close(f, s, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("filters", [8, 32])  # 32: on the matrix units, where there are any
def test_an_offset_in_bfloat16_is_close_to_the_textbook(filters: int) -> None:
    encoder = build(dtype=torch.bfloat16, filters=filters, drqv2=True)
    pixels = torch.randint(0, 256, (5, 6, 20, 20), dtype=torch.uint8)
    weight = torch.randn(5, 10)
    fast, slow = encoder(pixels), textbook(encoder, pixels)
    assert (fast - slow).norm() < 0.02 * slow.norm()
    first = encoder.convolutions.weights[0]
    gradients = [torch.autograd.grad((found * weight).sum(), first)[0] for found in (fast, slow)]
    assert (gradients[0] - gradients[1]).norm() < 0.2 * gradients[1].norm()  # ReLUs flip


@pytest.mark.parametrize("channels_last", [True, False])
def test_pixels_may_be_planes_of_float32(channels_last: bool) -> None:
    """As after an intensity jitter: no integers, and above 255."""
    encoder = build(channels_last=channels_last)
    pixels = 280 * torch.rand(5, 6, 20, 20)
    torch.testing.assert_close(encoder(pixels), textbook(encoder, pixels), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_pixels_may_be_bfloat16_and_channels_last(dtype: torch.dtype) -> None:
    exact, encoder = build(), build(dtype=dtype)
    pixels = (280 * torch.rand(5, 6, 20, 20)).to(torch.bfloat16, memory_format=torch.channels_last)
    features, expected = encoder(pixels), textbook(exact, pixels)
    if dtype == torch.float32:
        torch.testing.assert_close(features, expected, rtol=1e-4, atol=1e-5)
    assert (features - expected).norm() < 0.02 * expected.norm()


def test_bf16_stays_near() -> None:
    encoder, rounded = build(), build(dtype=torch.bfloat16)
    pixels = torch.randint(0, 256, (5, 6, 20, 20), dtype=torch.uint8)
    error = (rounded(pixels) - encoder(pixels)).norm() / encoder(pixels).norm()
    assert 0 < error < 0.02


def test_saved_order_does_not_depend_on_the_layout() -> None:
    last, first = build(channels_last=True), build(channels_last=False)
    assert last.features.weight.stride() != first.features.weight.stride()
    for name, value in last.state_dict().items():
        assert torch.equal(value, first.state_dict()[name]), name


def test_delta_orthogonal() -> None:
    torch.manual_seed(0)
    weight = Convolutions(9, 32, 4).weights[1]
    centre = weight[:, :, 1, 1]
    torch.testing.assert_close(centre @ centre.T, 2 * torch.eye(32), rtol=1e-4, atol=1e-4)  # gain √2
    assert weight.count_nonzero() == centre.count_nonzero()


def test_shapes_of_the_paper() -> None:
    assert Convolutions(9, 32, 4).output_size(84) == 35


def test_centre_crop() -> None:
    assert centre_crop(torch.arange(100.0).expand(1, 100, 100), 84)[0, 0, [0, -1]].tolist() == [8, 91]
