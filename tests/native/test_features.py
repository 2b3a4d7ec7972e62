"""DMControl's linear layer on the matrix units against float64 and against the plain layer."""

from __future__ import annotations

import pytest
import torch
from helpers import layers_run
from torch import Tensor

from mcurl import native
from mcurl.native.amx import features
from mcurl.networks.encoders import FeatureHead

pytestmark = pytest.mark.skipif(not layers_run(), reason="neither AMX nor AVX-512 for them, or no compiler")

SHAPES = [
    (128, 39200, 50),
    (1, 39200, 50),
    (37, 3872, 50),
    (16, 320, 1),
    (3, 32, 64),
    (70, 96, 17),
    (33, 2304, 48),
]
"""Images, inputs, outputs."""


def case(n: int, inputs: int, outputs: int) -> tuple[Tensor, Tensor, Tensor]:
    """Maps after ReLU, a weight that is exact in bfloat16, and a gradient."""
    torch.manual_seed(n + inputs)
    maps = torch.randn(n, inputs).relu().bfloat16()
    return maps, torch.randn(outputs, inputs).bfloat16().float(), torch.randn(n, outputs)


def distance(ours: Tensor | None, exact: Tensor) -> float:
    """Relative to the norm."""
    assert ours is not None
    return float((ours.detach().double() - exact.detach()).norm() / exact.detach().norm())


@pytest.mark.usefixtures("threads")
@pytest.mark.parametrize("shape", SHAPES)
def test_equals_float64(shape: tuple[int, int, int]) -> None:
    """Numbers that are exact in bfloat16 leave float32's rounding; the gradient of the maps is rounded to bfloat16."""
    maps, weight, gradient = case(*shape)
    out = features.forward(maps, weight)
    assert out.dtype == torch.float32
    assert distance(out, maps.double() @ weight.double().t()) < 1e-6
    maps_gradient, weight_gradient = features.backward(gradient, maps, weight)
    assert maps_gradient is not None
    assert maps_gradient.dtype == torch.bfloat16
    assert distance(maps_gradient, gradient.double() @ weight.double()) < 4e-3
    assert distance(weight_gradient, gradient.double().t() @ maps.double()) < 1e-5


def test_each_gradient_alone() -> None:
    maps, weight, gradient = case(37, 352, 50)
    both = features.backward(gradient, maps, weight)
    for needs in (True, False):
        some = features.backward(gradient, maps, weight, need_maps=needs, need_weight=not needs)
        for need, ours, theirs in zip((needs, not needs), some, both, strict=True):
            assert (ours is not None) == need
            assert ours is None or torch.equal(ours, theirs)  # type: ignore[arg-type]


def test_only_gradients_that_are_needed_are_computed(monkeypatch: pytest.MonkeyPatch) -> None:
    maps, weight, gradient = case(4, 64, 8)
    asked, compiled = [], features.backward

    def backward(*arguments: Tensor, need_maps: bool, need_weight: bool) -> tuple[Tensor | None, Tensor | None]:
        asked.append((need_maps, need_weight))
        return compiled(*arguments, need_maps=need_maps, need_weight=need_weight)

    monkeypatch.setattr(features, "backward", backward)
    for needs in [(True, False), (False, True), (True, True)]:
        leaves = [x.clone().requires_grad_(need) for x, need in zip((maps, weight), needs, strict=True)]
        features.apply(*leaves).backward(gradient)  # type: ignore[no-untyped-call]
        assert tuple(leaf.grad is not None for leaf in leaves) == needs
    assert asked == [(True, False), (False, True), (True, True)]


def test_results_do_not_depend_on_the_number_of_threads() -> None:
    maps, weight, gradient = case(70, 39200, 50)
    results, before = [], torch.get_num_threads()
    try:
        for threads in (1, 2, 3, 1):
            torch.set_num_threads(threads)
            results.append([features.forward(maps, weight), *features.backward(gradient, maps, weight)])
    finally:
        torch.set_num_threads(before)
    for other in results[1:]:
        assert all(map(torch.equal, results[0], other))  # type: ignore[arg-type]


def test_an_image_does_not_depend_on_the_others() -> None:
    maps, weight, _ = case(37, 3872, 50)
    out = features.forward(maps, weight)
    for i in (0, 17, 36):
        assert torch.equal(features.forward(maps[i : i + 1], weight)[0], out[i])


def test_nan_stays_nan() -> None:
    maps, weight, gradient = case(20, 320, 50)
    maps[3, 7] = gradient[5, 2] = float("nan")
    out = features.forward(maps, weight)
    assert out[3].isnan().all()
    assert out[[0, 1, 2, *range(4, 20)]].isfinite().all()
    maps_gradient, weight_gradient = features.backward(gradient, maps, weight)
    assert maps_gradient is not None
    assert weight_gradient is not None
    assert maps_gradient[5].isnan().all()
    assert weight_gradient[2].isnan().all()
    assert weight_gradient[:, 7].isnan().all()
    assert weight_gradient[0, :7].isfinite().all()


@pytest.mark.parametrize("channels_last", [True, False])
def test_the_head_means_the_same_without_it(channels_last: bool) -> None:
    torch.manual_seed(0)
    head = FeatureHead(32, 11, 50, channels_last=channels_last)
    maps = torch.randn(9, 32, 11, 11).relu().bfloat16().contiguous(memory_format=torch.channels_last)
    upstream, leaves = torch.randn(9, 50), [maps.requires_grad_(), *head.parameters()]

    def results() -> list[Tensor]:
        out = head(maps)
        return [out, *torch.autograd.grad(out, leaves, upstream)]

    ours = results()
    assert "amx.features" in native.operations_used()
    with native.without_operations({"amx.features"}, "the plain twin"):
        plain = results()
    for a, b in zip(ours, plain, strict=True):
        assert a.dtype == b.dtype
        assert a.stride() == b.stride()
        assert distance(a, b.double()) < 0.01


def test_unsupported_arguments_are_refused() -> None:
    maps, weight, _ = case(3, 64, 50)
    for other, of in [
        (maps.float(), weight),
        (maps, weight.double()),
        (maps, weight.bfloat16()),
        (maps[:0], weight),
        (maps[:, :48].contiguous(), weight[:, :48].contiguous()),
        (maps[:, :32], weight[:, :32].contiguous()),
        (maps, weight.t().contiguous().t()),
        (maps, torch.zeros(65, 64)),
        (maps, torch.zeros(50, 96)),
    ]:
        assert not features.supports(other, of)
        with pytest.raises(RuntimeError, match="does not support"):
            features.forward(other, of)
