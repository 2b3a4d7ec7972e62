"""Adam's compiled step is clipping and PyTorch's Adam; its state moves between machines."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from torch import Tensor, nn

from mcurl.agents import optim
from mcurl.agents.optim import adam, clip_and_step, load_optimizer, set_learning_rates
from mcurl.native import adam as native_adam

CPU = torch.device("cpu")
needs_native = pytest.mark.skipif(not native_adam.available(), reason="no C compiler here")


def parameters() -> list[nn.Parameter]:
    """One number, fewer than a vector's, more than a piece, and a convolution whose channels are last."""
    made = [torch.randn(shape) for shape in [(), (7,), (3, 8191), (16, 8192)]] + [
        torch.randn(8, 4, 5, 5).to(memory_format=torch.channels_last)
    ]
    return [nn.Parameter(tensor) for tensor in made]


def two_groups(params: list[nn.Parameter]) -> torch.optim.Adam:
    optimizer = adam(
        [{"params": params[:2], "name": "a"}, {"params": params[2:], "name": "b"}], 1e-2, CPU, beta1=0.5, eps=1e-3
    )
    set_learning_rates(optimizer, 1e-2, {"b": 0.1})
    return optimizer


def set_gradients(params: list[nn.Parameter], scale: float) -> None:
    for parameter in params:
        parameter.grad = scale * torch.randn_like(parameter)


def everything(params: list[nn.Parameter], optimizer: torch.optim.Adam) -> list[Tensor]:
    return [tensor for p in params for tensor in (p.detach(), *optimizer.state[p].values())]


@needs_native
@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("scale", [1e-5, 1e-2, 30.0])
def test_the_compiled_step_is_clipping_and_adam(threads: int, scale: float, monkeypatch: pytest.MonkeyPatch) -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    params = parameters()
    plain = copy.deepcopy(params)
    native, twin = two_groups(params), two_groups(plain)
    for update in range(5):
        set_gradients(params, scale)
        for parameter, other in zip(params, plain, strict=True):
            other.grad = parameter.grad.clone()  # type: ignore[union-attr]
        if update == 2:  # no gradient, no step
            params[1].grad = plain[1].grad = None
        assert (optim._native_parameters(native) is None) == (update == 0)
        norm = clip_and_step(native, 0.5)
        with monkeypatch.context() as context:
            context.setattr(native_adam, "available", lambda: False)
            torch.testing.assert_close(norm, clip_and_step(twin, 0.5))
    torch.set_num_threads(before)
    torch.testing.assert_close(everything(params, native), everything(plain, twin), rtol=1e-5, atol=1e-7)
    assert [int(native.state[p]["step"]) for p in params] == [5, 4, 5, 5, 5]


@needs_native
def test_the_compiled_step_does_not_depend_on_the_threads() -> None:
    results = []
    before = torch.get_num_threads()
    for threads in (1, 2):
        torch.set_num_threads(threads)
        torch.manual_seed(0)
        params = parameters()
        optimizer = two_groups(params)
        for _ in range(3):
            set_gradients(params, 1.0)
            clip_and_step(optimizer, 0.5)
        results.append(everything(params, optimizer))
    torch.set_num_threads(before)
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))


@needs_native
@pytest.mark.parametrize("threads", [1, 2])
def test_moments_of_what_has_no_gradient_any_more_become_zero(threads: int) -> None:
    """As denormal numbers they would never reach it, and make every step slower. Elsewhere denormal numbers stay what
    they are."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    weight = nn.Parameter(torch.zeros(40_000))
    optimizer = adam([{"params": [weight], "name": "all"}], 1e-3, CPU)
    for update in range(1200):
        weight.grad = torch.full_like(weight, 1e-3 if update < 2 else 0.0)
        optim.step(optimizer)
        if update == 700:
            assert optimizer.state[weight]["exp_avg"].all()
    assert not optimizer.state[weight]["exp_avg"].any()
    assert (torch.full((40_000,), 1e-38) * 0.1).all()
    assert 5e-324 > 0
    torch.set_num_threads(before)


@needs_native
def test_a_step_without_a_clip_is_adams() -> None:
    torch.manual_seed(0)
    params = parameters()
    plain = copy.deepcopy(params)
    native, twin = two_groups(params), two_groups(plain)
    for _ in range(4):
        set_gradients(params, 1.0)
        for parameter, other in zip(params, plain, strict=True):
            other.grad = parameter.grad.clone()  # type: ignore[union-attr]
        optim.step(native)
        twin.step()
    torch.testing.assert_close(everything(params, native), everything(plain, twin), rtol=1e-5, atol=1e-6)


@needs_native
@pytest.mark.parametrize("broken", [math.inf, math.nan])
def test_a_gradient_that_is_no_number_is_reported_as_the_norm(broken: float) -> None:
    params = parameters()
    optimizer = two_groups(params)
    for _ in range(2):
        set_gradients(params, 1.0)
        params[2].grad[0, 0] = broken  # type: ignore[index]
        assert not clip_and_step(optimizer, 0.5).isfinite()


@needs_native
def test_what_the_compiled_step_cannot_take_goes_the_plain_way() -> None:
    params = parameters()
    optimizer = two_groups(params)
    set_gradients(params, 1.0)
    clip_and_step(optimizer, 0.5)
    set_gradients(params, 1.0)
    assert optim._native_parameters(optimizer) is not None
    params[-1].grad = params[-1].grad.contiguous()  # type: ignore[union-attr]
    assert optim._native_parameters(optimizer) is None
    double = nn.Parameter(torch.ones(3, dtype=torch.float64))
    optimizer = adam([{"params": [double], "name": "all"}], 1e-3, CPU)
    for _ in range(2):
        double.grad = torch.ones_like(double)
        assert clip_and_step(optimizer, 10.0) == pytest.approx(math.sqrt(3))
    torch.testing.assert_close(double.detach(), torch.full((3,), 1 - 2e-3, dtype=torch.float64))


def test_a_state_from_a_processor_leaves_a_gpus_optimizer_capturable() -> None:
    weight = torch.nn.Parameter(torch.ones(3))
    saved = adam([{"params": [weight], "name": "all"}], 1e-3, torch.device("cpu"))
    weight.grad = torch.ones(3)
    saved.step()
    set_learning_rates(saved, 1e-3, {"all": 0.5})
    on_gpu = torch.optim.Adam(
        [{"params": [weight], "name": "all", "lr": torch.tensor(1e-3)}], fused=True, capturable=True
    )
    rate = on_gpu.param_groups[0]["lr"]
    load_optimizer(on_gpu, saved.state_dict())
    assert on_gpu.param_groups[0]["capturable"]
    assert on_gpu.param_groups[0]["lr"] is rate  # the tensor that a graph reads
    assert float(rate) == torch.tensor(5e-4).item()
    assert torch.equal(on_gpu.state[weight]["exp_avg"], torch.full((3,), 0.1))
