"""Transformer, dueling head and SAC's heads on the matrix units against the same layers in float64, forward and
every gradient."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from helpers import layers_run
from torch import Tensor, nn

from mcurl import native
from mcurl.native.amx import dueling, mlp, transformer
from mcurl.networks.heads import GaussianActor, TwinQ, outputs
from mcurl.networks.heads import mlp as three_layers
from mcurl.networks.noisy import DuelingHead
from mcurl.networks.transformer import Transformer

pytestmark = pytest.mark.skipif(not layers_run(), reason="neither AMX nor AVX-512 for them, or no compiler")

Work = Callable[[nn.Module, Tensor], Tensor]
CLOSE = 3e-5
"""Of the norm. Two planes of bfloat16 hold 16 bits; float32 itself comes within 1e-6, one plane within 1e-2."""


def randomised(module: nn.Module, scale: float = 0.05) -> nn.Module:
    """Biases and norms have weights that show, too."""
    for parameter in module.parameters():
        parameter.data += scale * torch.randn_like(parameter)
    return module


def results(module: nn.Module, x: Tensor, upstream: Tensor, work: Work) -> list[Tensor | None]:
    """What comes out, the gradient of what came in, and those of the parameters."""
    module, x = copy.deepcopy(module), x.detach().clone().requires_grad_()
    torch.manual_seed(1)  # dropout
    out = work(module, x)
    out.backward(upstream.to(out.dtype))  # type: ignore[no-untyped-call]
    return [out.detach(), x.grad, *(parameter.grad for parameter in module.parameters())]


def differences(module: nn.Module, x: Tensor, work: Work, monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """How far each result is from float64's, in its norm."""
    torch.manual_seed(2)
    out = work(module, x).detach()
    upstream = torch.randn(out.shape)
    ours = results(module, x, upstream, work)
    native.disable(native.ALL, "the plain twin")
    exact = results(copy.deepcopy(module).double(), x.double(), upstream, work)
    distances = []
    for a, b in zip(ours, exact, strict=True):
        assert (a is None) == (b is None)
        if a is not None and b is not None:
            assert a.dtype == torch.float32
            distances.append(float((a.double() - b).norm() / b.norm()))
    return distances


def through_transformer(padded: Tensor) -> Work:
    return lambda module, h: module(h, padded)


def through_dueling(noise: Tensor | None) -> Work:
    def work(module: Any, features: Tensor) -> Tensor:
        draw = None if noise is None else noise.to(features.dtype)
        logits: Tensor = module(features, module.weights(draw))
        return logits

    return work


def through_mlp(module: Any, x: Tensor) -> Tensor:
    return torch.stack(list(outputs(x, *module)))


def heads(nets: int, inputs: int, hidden: int, out: int) -> nn.Module:
    return randomised(nn.ModuleList(three_layers(inputs, hidden, out) for _ in range(nets)), 0.02)


def padding(batch: int, length: int) -> Tensor:
    padded = torch.rand(batch, length) < 0.3
    padded[:, 0] = False
    return padded


@pytest.mark.usefixtures("threads")
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize(
    ("batch", "length", "width", "hidden"),
    [(16, 16, 128, 256), (1, 1, 32, 32), (5, 10, 96, 64), (3, 33, 32, 160), (2, 32, 64, 64), (7, 5, 64, 32)],
)
def test_the_transformer_in_float64(
    batch: int, length: int, width: int, hidden: int, bias: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(batch)
    module = randomised(Transformer(width, 2, hidden, bias=bias, dropout=0.2))
    work = through_transformer(padding(batch, length))
    assert max(differences(module, torch.randn(batch, length, width), work, monkeypatch)) < CLOSE


def test_a_sequence_of_nothing_attends_to_all_of_it_alike(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where float64 would still tell scores of -1e9 apart, float32 does not."""
    torch.manual_seed(0)
    module, h, upstream = randomised(Transformer(64, 2, 64, dropout=0.0)), torch.randn(3, 6, 64), torch.randn(3, 6, 64)
    work = through_transformer(torch.tensor([[False], [True], [False]]).expand(3, 6))
    ours = results(module, h, upstream, work)
    native.disable(native.ALL, "the plain twin")
    for a, b in zip(ours, results(module, h, upstream, work), strict=True):
        assert (a - b).norm() < CLOSE * b.norm()  # type: ignore[operator, union-attr]


def test_the_transformer_rounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Farther away than both planes, but as near as PyTorch's own in bfloat16."""
    torch.manual_seed(0)
    module = randomised(Transformer(64, 2, 128, dropout=0.0, dtype=torch.bfloat16))
    h, upstream = torch.randn(4, 8, 64), torch.randn(4, 8, 64)
    work = through_transformer(padding(4, 8)[:1].expand(4, 8))
    ours = results(module, h, upstream, work)
    native.disable(native.ALL, "the plain twin")
    theirs = results(module, h, upstream, work)
    module.dtype = torch.float32  # type: ignore[assignment]
    exact = results(copy.deepcopy(module).double(), h.double(), upstream, work)
    for a, b, e in zip(ours, theirs, exact, strict=True):
        assert a is not None
        assert b is not None
        assert e is not None
        assert (a - e).norm() < max(1.5 * (b - e).norm(), 1e-5 * e.norm())
    assert (ours[0] - exact[0]).norm() > 1e-4 * exact[0].norm()  # type: ignore[operator, union-attr]


@pytest.mark.usefixtures("threads")
@pytest.mark.parametrize("noisy", [True, False])
@pytest.mark.parametrize(
    ("rows", "actions", "features", "hidden", "atoms"),
    [(32, 18, 576, 256, 51), (1, 2, 32, 64, 5), (37, 6, 64, 128, 51), (64, 3, 576, 64, 64)],
)
def test_the_dueling_head_in_float64(
    rows: int, actions: int, features: int, hidden: int, atoms: int, noisy: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(rows)
    module = DuelingHead(features, actions, atoms, hidden)
    randomised(module)
    noise = module.sample_noise() if noisy else None
    assert max(differences(module, torch.rand(rows, features), through_dueling(noise), monkeypatch)) < CLOSE


def test_both_observations_in_one_pass_are_two_passes() -> None:
    torch.manual_seed(0)
    module = DuelingHead(64, 4, 51, 64)
    noise = module.sample_noise()
    weights = module.weights(noise)
    assert weights.layers is None
    x, others, upstream = torch.rand(32, 64, requires_grad=True), torch.rand(20, 64), torch.randn(32, 4, 51)
    logits, other_logits = module.both(x, others, weights)
    assert not other_logits.requires_grad
    torch.testing.assert_close(other_logits, module(others, weights).detach(), rtol=0, atol=1e-6)
    gradients = torch.autograd.grad(logits, [x, *module.parameters()], upstream)
    alone = module(x, weights)
    assert torch.equal(logits, alone)
    for a, b in zip(gradients, torch.autograd.grad(alone, [x, *module.parameters()], upstream), strict=True):
        assert torch.equal(a, b)


@pytest.mark.usefixtures("threads")
@pytest.mark.parametrize(
    ("nets", "rows", "inputs", "hidden", "out"),
    [(2, 37, 51, 64, 1), (1, 1, 50, 1024, 2), (1, 32, 33, 96, 40), (3, 5, 7, 320, 3), (2, 70, 64, 160, 32)],
)
def test_the_heads_of_sac_in_float64(
    nets: int, rows: int, inputs: int, hidden: int, out: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(rows)
    module = heads(nets, inputs, hidden, out)
    assert max(differences(module, torch.randn(rows, inputs), through_mlp, monkeypatch)) < CLOSE


@pytest.mark.usefixtures("threads")
@pytest.mark.parametrize(("nets", "inputs", "out"), [(2, 51, 1), (1, 50, 2), (2, 88, 1), (1, 50, 76)])
def test_gradients_of_default_heads_are_within_a_hundredth(
    nets: int, inputs: int, out: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Among 260 000 hidden numbers, some so near zero have the other sign in float64."""
    torch.manual_seed(inputs)
    module = heads(nets, inputs, 1024, out)
    assert max(differences(module, torch.randn(128, inputs), through_mlp, monkeypatch)) < 0.01


def test_only_gradients_of_the_heads_that_are_wanted() -> None:
    torch.manual_seed(0)
    critic, actor = TwinQ(50, 3, 64), GaussianActor(50, 3, 64)
    features, action = torch.randn(20, 50), torch.randn(20, 3, requires_grad=True)

    def gradients(of: list[Tensor]) -> tuple[Tensor, ...]:
        return torch.autograd.grad(torch.minimum(*critic(features, action)).sum(), of)

    assert "amx.mlp" not in native.operations_used()
    both = gradients([action, *critic.parameters()])
    assert "amx.mlp" in native.operations_used()
    assert torch.equal(gradients([action])[0], both[0])
    assert all(map(torch.equal, gradients(list(critic.parameters())), both[1:]))
    for parameter in critic.parameters():
        parameter.requires_grad_(False)
    assert torch.equal(gradients([action])[0], both[0])
    with torch.no_grad():
        assert not any(x.requires_grad for x in actor(features))


def test_nan_stays_nan_in_the_heads() -> None:
    torch.manual_seed(0)
    module, x = heads(2, 51, 64, 3), torch.randn(40, 51)
    x[7, 0] = torch.nan
    out = through_mlp(module, x)
    assert out[:, 7].isnan().all()
    assert out.isnan().sum() == 2 * 3
    gradients = torch.autograd.grad(out, list(module.parameters()), torch.ones_like(out))
    assert all(gradient.isnan().any() for gradient in gradients[::2])


def test_a_gradient_of_a_gradient_is_refused() -> None:
    """The gradients in C are not differentiable: a penalty on one would be wrong without a word."""
    torch.manual_seed(0)
    module, x = heads(2, 51, 64, 3), torch.randn(40, 51, requires_grad=True)
    out = through_mlp(module, x)
    with pytest.raises(RuntimeError, match="no gradients of gradients"):
        torch.autograd.grad(out, x, torch.ones_like(out), create_graph=True)


def test_a_transformer_without_layers_is_the_identity() -> None:
    h = torch.randn(2, 4, 64)
    assert torch.equal(Transformer(64, 0, 128)(h, torch.zeros(2, 4, dtype=torch.bool)), h)


def test_results_do_not_depend_on_the_threads() -> None:
    torch.manual_seed(0)
    h, padded, features = torch.randn(9, 16, 64), padding(9, 16), torch.rand(70, 64)
    blocks, duel = Transformer(64, 2, 128, dropout=0.2), DuelingHead(64, 5, 51, 128)
    cases: list[tuple[nn.Module, Tensor, Work]] = [
        (blocks, h, through_transformer(padded)),
        (duel, features, through_dueling(duel.sample_noise())),
        (heads(2, 51, 320, 4), torch.randn(70, 51), through_mlp),
    ]
    before = torch.get_num_threads()
    for module, x, work in cases:
        upstream, runs = torch.randn(work(module, x).shape), []
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            runs.append(results(module, x, upstream, work))
        torch.set_num_threads(before)
        for other in runs[1:]:
            for a, b in zip(runs[0], other, strict=True):
                assert a is b or torch.equal(a, b)  # type: ignore[arg-type]


def test_unsupported_layers_are_left_to_pytorch() -> None:
    """Widths that are no multiples, other numbers."""
    h, padded = torch.randn(2, 4, 50), torch.zeros(2, 4, dtype=torch.bool)
    narrow = Transformer(50, 1, 100, dropout=0.0)
    assert narrow(h, padded).shape == h.shape
    parameters = narrow.blocks[0].parameters_in_order()  # type: ignore[operator]
    assert not transformer.supports(h, parameters)
    with pytest.raises(RuntimeError, match="does not support"):
        transformer.forward(h, padded, None, parameters, 1.0, rounded=False)
    for module in (DuelingHead(64, 2, 5, 32), DuelingHead(48, 2, 5, 64), DuelingHead(64, 2, 5, 64).double()):
        weights = module.weights(None)
        assert weights.layers is not None
        with pytest.raises(RuntimeError, match="does not support"):
            dueling.forward(torch.rand(3, 64), weights.parameters, None)
    x, parameters = torch.randn(3, 50), [parameter.detach() for parameter in three_layers(50, 64, 2).parameters()]
    assert mlp.supports(x, parameters)
    for other, of in [
        (x.double(), parameters),
        (x.bfloat16(), parameters),
        (x[:0], parameters),
        (x[:, :49], parameters),
        (x, [parameter.double() for parameter in parameters]),
        (x, list(three_layers(50, 48, 2).parameters())),
        (x, [parameters[0].t().contiguous().t(), *parameters[1:]]),
        (x, [*parameters, *three_layers(50, 96, 2).parameters()]),
    ]:
        assert not mlp.supports(other, of)
        with pytest.raises(RuntimeError, match="does not support"):
            mlp.forward(other, of, save=False)
