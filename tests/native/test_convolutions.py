"""DMControl's compiled convolutions, for matrix units, AVX-512 and AVX2, against float64 and the plain layers."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from mcurl import native
from mcurl.native import convolutions as compiled
from mcurl.native.processor import processor_flags
from mcurl.networks.encoders import Convolutions, PixelEncoder, centre_crop

BF16, FP32 = torch.bfloat16, torch.float32


@pytest.fixture(autouse=True, params=compiled.DTYPES)
def operation(request: pytest.FixtureRequest) -> Iterator[str]:
    """Each of them alone."""
    if not compiled.available(request.param):
        pytest.skip("not on this processor, or no compiler")
    with native.without_operations(compiled.DTYPES.keys() - {request.param}, "another one is tested"):
        assert compiled.operation(BF16) == request.param
        yield request.param


class Case(NamedTuple):
    module: Convolutions
    pixels: Tensor
    """``uint8``."""

    @property
    def rounded(self) -> Tensor:
        return self.pixels.to(torch.bfloat16, memory_format=torch.channels_last)

    @property
    def parameters(self) -> list[Tensor]:
        return [*self.module.weights, *self.module.biases]


def case(n: int, channels: int, height: int, width: int, layers: int) -> Case:
    """Frames with smooth areas and edges, and weights that let signals through."""
    torch.manual_seed(n + channels + height)
    module = Convolutions(channels, layers=layers, dtype=torch.bfloat16)
    for parameter in module.parameters():
        parameter.data += 0.05 * torch.randn(parameter.shape)
    coarse = torch.rand(n, channels, height // 4 + 1, width // 4 + 1)
    pixels = F.interpolate(coarse, (height, width)) * 255 * (torch.rand(n, channels, height, width) < 0.9)
    return Case(module, pixels.to(torch.uint8))


def exact(pixels: Tensor, parameters: list[Tensor]) -> Tensor:
    x, layers = pixels.double() / 255, len(parameters) // 2
    for layer, (weight, bias) in enumerate(zip(parameters[:layers], parameters[layers:], strict=True)):
        x = F.relu(F.conv2d(x, weight.double(), bias.double(), stride=2 if layer == 0 else 1))
    return x


SHAPES = [
    (1, 9, 84, 84, 4),
    (3, 9, 84, 84, 4),
    (8, 9, 84, 84, 4),
    (17, 9, 84, 84, 4),
    (5, 9, 84, 84, 1),
    (2, 9, 84, 84, 2),
    (3, 9, 64, 64, 4),
    (2, 9, 85, 83, 3),
    (4, 9, 20, 21, 4),
    (3, 9, 3, 3, 1),
    (1, 9, 67, 65, 1),
    (1, 9, 64, 67, 2),
    (3, 9, 5, 7, 1),
    (2, 9, 7, 9, 2),
    (2, 3, 84, 84, 4),
    (2, 1, 30, 30, 3),
    (2, 12, 40, 40, 3),
    (2, 40, 21, 20, 2),
    (2, 9, 100, 100, 11),
]
"""Images, channels, height, width, layers."""


@pytest.mark.usefixtures("threads")
@pytest.mark.parametrize("shape", SHAPES)
def test_equals_float64(shape: tuple[int, int, int, int, int]) -> None:
    module, pixels = c = case(*shape)
    maps = compiled.apply(c.rounded, c.parameters, BF16)
    parameters = [parameter.detach().double().requires_grad_() for parameter in c.parameters]
    expected = exact(pixels, parameters)
    assert maps.shape == expected.shape
    assert maps.dtype == torch.bfloat16
    assert maps.is_contiguous(memory_format=torch.channels_last)
    assert (maps - expected).norm() < 0.01 * expected.norm()
    # Gradients are compared where both have the same positive maps, up to what rounding leaves.
    upstream = (torch.randn(maps.shape) + torch.randn(32, 1, 1)).bfloat16()
    gradients = torch.autograd.grad(maps, list(module.parameters()), upstream)
    plain = torch.autograd.grad(expected, parameters, upstream.double())
    for ours, theirs, parameter in zip(gradients, plain, module.parameters(), strict=True):
        assert ours.stride() == parameter.stride()
        assert ours.dtype == torch.float32
        assert F.cosine_similarity(ours.flatten().double(), theirs.flatten(), 0) > 0.9995
        assert (ours - theirs).norm() < 0.03 * theirs.norm()


@pytest.mark.usefixtures("threads")
@pytest.mark.parametrize("operation", ["winograd"], indirect=True)
@pytest.mark.parametrize("shape", SHAPES)
def test_float32_is_float32(shape: tuple[int, int, int, int, int]) -> None:
    c = case(*shape)
    maps = [compiled.apply(pixels, c.parameters, FP32) for pixels in (c.pixels, c.pixels.float())]
    assert torch.equal(*maps)
    parameters = [parameter.detach().double().requires_grad_() for parameter in c.parameters]
    expected = exact(c.pixels, parameters)
    assert maps[0].dtype == torch.float32
    assert maps[0].is_contiguous(memory_format=torch.channels_last)
    assert (maps[0] - expected).norm() < 1e-5 * expected.norm()
    upstream = torch.randn(maps[0].shape) + torch.randn(32, 1, 1)
    gradients = torch.autograd.grad(maps[0], c.parameters, upstream)
    assert all(map(torch.equal, gradients, torch.autograd.grad(maps[1], c.parameters, upstream)))
    for ours, theirs in zip(gradients, torch.autograd.grad(expected, parameters, upstream.double()), strict=True):
        # A unit within rounding of zero may be on the other side.
        assert (ours - theirs).norm() < 1e-3 * theirs.norm()


@pytest.mark.skipif("avx512f" not in processor_flags(), reason="no AVX-512")
@pytest.mark.parametrize("operation", ["winograd"], indirect=True)
@pytest.mark.parametrize("dtype", [BF16, FP32])
@pytest.mark.parametrize("shape", SHAPES)
def test_eight_lanes_give_the_bits_of_sixteen(
    shape: tuple[int, int, int, int, int], dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    c, results = case(*shape), []
    for flags, narrow in ((processor_flags(), False), (["avx2"], True)):
        monkeypatch.setattr(native, "processor_flags", lambda flags=flags: flags)
        native._build.cache_clear()
        assert native.status()["winograd"].endswith(", for AVX2") == narrow
        maps = compiled.apply(c.pixels, c.parameters, dtype)
        upstream = torch.randn(maps.shape, generator=torch.Generator().manual_seed(1)).to(dtype)
        results.append([maps, *torch.autograd.grad(maps, c.parameters, upstream)])
    native._build.cache_clear()
    assert all(map(torch.equal, *results))


@pytest.mark.parametrize("layers", [1, 2, 4])
def test_gradients_are_within_a_hundredth(layers: int) -> None:
    c = case(16, 9, 84, 84, layers)
    maps = compiled.apply(c.rounded, c.parameters, BF16)
    parameters = [parameter.detach().double().requires_grad_() for parameter in c.parameters]
    expected = exact(c.pixels, parameters)
    upstream = (torch.randn(maps.shape) + torch.randn(32, 1, 1)).bfloat16()
    gradients = torch.autograd.grad(maps, c.parameters, upstream)
    for ours, theirs in zip(gradients, torch.autograd.grad(expected, parameters, upstream.double()), strict=True):
        assert (ours - theirs).norm() < 0.01 * theirs.norm()


def test_one_layer_is_the_product_of_rounded_numbers() -> None:
    """Nothing else is rounded but weights and output."""
    c = case(3, 9, 84, 84, 1)
    weight, bias = (parameter.detach() for parameter in c.parameters)
    x, w = c.pixels.double(), (weight / 255).bfloat16().double()
    expected = F.relu(F.conv2d(x, w, bias.double(), stride=2))
    maps, hidden = compiled.forward(c.rounded, [weight, bias], BF16, save=True)
    assert hidden is None
    assert ((maps - expected).abs() <= expected * 2**-8 + 1e-6).all()
    upstream = torch.randn(maps.shape).bfloat16()
    ours = compiled.backward(upstream, c.rounded, None, maps, [weight, bias])
    g = upstream.double() * (maps > 0)
    windows = F.unfold(x / 255, 3, stride=2)
    plain = [torch.einsum("nfp,nkp->fk", g.flatten(2), windows).view(weight.shape), g.sum((0, 2, 3))]
    for mine, theirs in zip(ours, plain, strict=True):
        assert mine is not None
        torch.testing.assert_close(mine.double(), theirs, rtol=1e-4, atol=1e-4 * theirs.abs().max().item())


def test_results_do_not_depend_on_the_number_of_threads() -> None:
    c, before = case(37, 9, 84, 84, 4), torch.get_num_threads()
    upstream = torch.randn(37, 32, 35, 35).bfloat16()
    results = []
    try:
        for threads in (1, 2, 3, 1):
            torch.set_num_threads(threads)
            maps = compiled.apply(c.rounded, c.parameters, BF16)
            results.append([maps, *torch.autograd.grad(maps, c.parameters, upstream)])
    finally:
        torch.set_num_threads(before)
    for other in results[1:]:
        assert all(map(torch.equal, results[0], other))


def test_an_image_does_not_depend_on_the_others() -> None:
    c = case(9, 9, 84, 84, 4)
    maps, _ = compiled.forward(c.rounded, c.parameters, BF16, save=False)
    for i in (0, 4, 8):
        assert torch.equal(compiled.forward(c.rounded[i : i + 1], c.parameters, BF16, save=False)[0][0], maps[i])


def test_what_lay_in_the_workspace_does_not_matter() -> None:
    """Not even NaN: images of other shapes were there before."""
    c = case(4, 9, 64, 64, 3)
    maps = compiled.apply(c.rounded, c.parameters, BF16)
    upstream = torch.randn(maps.shape).bfloat16()
    gradients = torch.autograd.grad(maps, c.parameters, upstream, retain_graph=True)
    other = case(6, 9, 84, 84, 4)
    for parameter in other.parameters:
        parameter.data.fill_(float("nan"))
    spoilt = compiled.apply(other.rounded, other.parameters, BF16)
    assert spoilt.isnan().all()
    torch.autograd.grad(spoilt, other.parameters, torch.full_like(spoilt, float("nan")))
    assert torch.equal(compiled.apply(c.rounded, c.parameters, BF16), maps)
    assert all(map(torch.equal, gradients, torch.autograd.grad(maps, c.parameters, upstream)))


def test_only_gradients_that_are_wanted() -> None:
    c = case(3, 9, 84, 84, 4)
    upstream = torch.randn(3, 32, 35, 35).bfloat16()
    every = torch.autograd.grad(compiled.apply(c.rounded, c.parameters, BF16), c.parameters, upstream)
    for frozen in range(1, 4):
        for i, parameter in enumerate(c.parameters):
            parameter.requires_grad_(i % 4 >= frozen and i != 7)
        wanted = [i for i, parameter in enumerate(c.parameters) if parameter.requires_grad]
        maps = compiled.apply(c.rounded, c.parameters, BF16)
        some = torch.autograd.grad(maps, [c.parameters[i] for i in wanted], upstream)
        assert all(torch.equal(gradient, every[i]) for gradient, i in zip(some, wanted, strict=True))
    for parameter in c.parameters:
        parameter.requires_grad_(False)
    assert not compiled.apply(c.rounded, c.parameters, BF16).requires_grad


@pytest.mark.parametrize("dtype", [BF16, FP32])
def test_maps_between_layers_are_kept_until_backward(operation: str, dtype: torch.dtype) -> None:
    """On matrix units, they are computed again."""
    if dtype not in compiled.DTYPES[operation]:
        pytest.skip("not for such maps")
    c = case(3, 9, 84, 84, 4)
    pixels = c.pixels.contiguous(memory_format=torch.channels_last)
    maps, hidden = compiled.forward(pixels, c.parameters, dtype, save=True)
    assert torch.equal(compiled.forward(pixels, c.parameters, dtype, save=False)[0], maps)
    assert compiled.forward(pixels, c.parameters, dtype, save=False)[1] is None
    numbers = [3 * 32 * side**2 for side in (41, 39, 37)]
    if operation == "amx.convolutions":
        assert hidden is None
    else:
        assert hidden is not None
        assert hidden.dtype == FP32
        per_image = hidden.view(dtype).view(3, -1).split([n // 3 for n in numbers], dim=1)
        for layers, kept in enumerate(per_image, 1):
            own, side = [*c.parameters[:layers], *c.parameters[4 : 4 + layers]], (41, 39, 37)[layers - 1]
            before = compiled.forward(pixels, own, dtype, save=False)[0]
            assert torch.equal(kept.reshape(3, side, side, 32).permute(0, 3, 1, 2), before)
    out = compiled.apply(pixels, c.parameters, dtype)
    out.sum().backward()
    with pytest.raises(RuntimeError, match="already been freed"):
        out.sum().backward()


def test_backward_uses_the_operation_of_forward(operation: str) -> None:
    c = case(3, 9, 84, 84, 4)
    maps = compiled.apply(c.rounded, c.parameters, BF16)
    expected = torch.autograd.grad(maps.sum(), c.parameters, retain_graph=True)
    with native.disabled_only({operation: "for a moment"}):
        if compiled.operation(BF16) is None:
            pytest.skip("this processor has one only")
        assert compiled.operation(BF16) != operation
        assert all(map(torch.equal, expected, torch.autograd.grad(maps.sum(), c.parameters)))


def test_a_gradient_of_a_gradient_is_refused() -> None:
    c = case(2, 9, 20, 20, 2)
    maps = compiled.apply(c.rounded, c.parameters, BF16)
    with pytest.raises(RuntimeError, match="no gradients of gradients"):
        torch.autograd.grad(maps.sum(), c.parameters, create_graph=True)


def test_the_encoder_means_the_same_without_it(operation: str) -> None:
    c = case(9, 9, 84, 84, 4)
    encoder = PixelEncoder(c.module, 84, chunk=4)
    upstream = torch.randn(9, 50)

    def encoded() -> tuple[Tensor, tuple[Tensor, ...]]:
        features = encoder(c.pixels)
        return features, torch.autograd.grad(features, list(encoder.parameters()), upstream)

    features, gradients = encoded()
    assert operation in native.operations_used()
    with torch.no_grad():
        assert torch.equal(encoder(c.pixels), features)
    with native.without_operations({operation}, "the plain twin"):
        plain, plain_gradients = encoded()
    assert (features - plain).norm() < 0.01 * plain.norm()
    for ours, theirs in zip(gradients, plain_gradients, strict=True):
        assert F.cosine_similarity(ours.flatten(), theirs.flatten(), 0) > 0.99


def test_pixels_may_lie_in_any_order() -> None:
    module = case(1, 9, 84, 84, 4).module
    frames = torch.randint(0, 256, (2, 9, 100, 100), dtype=torch.uint8)
    crop = centre_crop(frames, 84)
    maps = module(crop)
    assert torch.equal(module(crop.contiguous()), maps)
    assert torch.equal(module(crop.bfloat16()), maps)
    last = frames.to(torch.bfloat16, memory_format=torch.channels_last)
    assert torch.equal(module(centre_crop(last, 84)), maps)
    assert torch.equal(
        compiled.forward(centre_crop(last, 84), [*module.weights, *module.biases], BF16, save=False)[0], maps
    )


@pytest.mark.parametrize("shape", SHAPES)
def test_bytes_and_bfloat16_pixels_are_the_same(shape: tuple[int, int, int, int, int]) -> None:
    c = case(*shape)
    maps = [compiled.apply(pixels, c.parameters, BF16) for pixels in (c.pixels, c.rounded)]
    assert torch.equal(*maps)
    upstream = torch.randn(maps[0].shape).bfloat16()
    gradients = [torch.autograd.grad(m, c.parameters, upstream) for m in maps]
    assert all(map(torch.equal, *gradients))


def test_unsupported_arguments_are_refused() -> None:
    c = case(2, 9, 20, 20, 3)
    pixels, parameters = c.rounded, c.parameters
    filters = list(Convolutions(9, 16, 3).parameters())
    plain = [weight.detach().contiguous() for weight in parameters[:3]] + parameters[3:]
    for other, others in [
        (pixels.float(), parameters),  # of another dtype than the maps
        (c.pixels.int(), parameters),
        (pixels[:0], parameters),
        (pixels[:, :8], parameters),
        (pixels[:, :, :5], parameters),
        (pixels[:, :, :2], [parameters[0], parameters[3]]),
        (pixels.clone().requires_grad_(), parameters),
        (pixels, filters),
        (pixels, plain),
        (pixels, [parameter.double() for parameter in parameters]),
        (pixels, [*parameters[:5], parameters[5][:1]]),
        (pixels, [*parameters[:5], torch.zeros(64)[::2]]),
        # Its gradient would lack the last pixel of the first layer.
        (torch.zeros(1, 9, 65, 67, dtype=torch.bfloat16), parameters),
        (torch.zeros(1, 43, 20, 20, dtype=torch.bfloat16), [torch.zeros(32, 43, 3, 3), parameters[3]]),
    ]:
        assert not compiled.supports(other, others, BF16)
        with pytest.raises(RuntimeError, match="do not support"):
            compiled.forward(other, others, BF16, save=False)
    maps, hidden = compiled.forward(pixels, parameters, BF16, save=True)
    for gradient in (maps.float(), maps[:1]):
        with pytest.raises(RuntimeError, match=r"the gradient is torch\.\w+ \(.*\), not torch\.bfloat16 "):
            compiled.backward(gradient, pixels, hidden, maps, parameters)
    wrong = [torch.zeros(64)] if hidden is None else [torch.zeros(64), None, hidden.bfloat16(), hidden.repeat(2)[::2]]
    for other_hidden in wrong:
        with pytest.raises(RuntimeError, match="the maps between layers are not those of the forward pass"):
            compiled.backward(maps, pixels, other_hidden, maps, parameters)


@pytest.mark.usefixtures("threads")
def test_others_that_use_the_matrix_units_are_left_alone() -> None:
    c = case(20, 9, 64, 64, 4)
    x, weight = torch.randn(512, 512).bfloat16(), torch.randn(512, 512).bfloat16()
    before = F.linear(x, weight)
    for _ in range(3):
        maps, hidden = compiled.forward(c.rounded, c.parameters, BF16, save=True)
        assert torch.equal(F.linear(x, weight), before)
        compiled.backward(torch.ones_like(maps), c.rounded, hidden, maps, c.parameters)
        assert torch.equal(F.linear(x, weight), before)
