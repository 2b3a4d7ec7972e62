"""Noisy layers against matrices of noise that are really built, and the dueling head against its formula."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from mcurl.networks.noisy import DuelingHead, NoisyLinear, sample_noise


def materialised(layer: NoisyLinear, x: Tensor, noise: Tensor | None) -> Tensor:
    """The layer with its weight matrix spelled out."""
    if noise is None:
        return F.linear(x, layer.weight_mu, layer.bias_mu)
    noise_in, noise_out = noise[: layer.inputs], noise[layer.inputs :]
    weight = layer.weight_mu + layer.weight_sigma * torch.outer(noise_out, noise_in)
    return F.linear(x, weight, layer.bias_mu + layer.bias_sigma * noise_out)


def randomised(layer: NoisyLinear) -> NoisyLinear:
    """σ differs from weight to weight after training; at the start it is one number."""
    with torch.no_grad():
        layer.weight_sigma.normal_()
        layer.bias_sigma.normal_()
    return layer.double()


@pytest.mark.parametrize("noisy", [True, False])
def test_equals_the_materialised_matrix(noisy: bool) -> None:
    torch.manual_seed(0)
    layer = randomised(NoisyLinear(7, 5))
    x = torch.randn(3, 7, dtype=torch.float64)
    noise = sample_noise(layer.noise_size).double() if noisy else None
    upstream = torch.randn(3, 5, dtype=torch.float64)
    fast, plain = F.linear(x, *layer.weights(noise)), materialised(layer, x, noise)
    torch.testing.assert_close(fast, plain)
    for a, b in zip(
        *(torch.autograd.grad(y, list(layer.parameters()), upstream, allow_unused=True) for y in (fast, plain)),
        strict=True,
    ):
        torch.testing.assert_close(a, b)


def test_initial_ranges() -> None:
    torch.manual_seed(0)
    layer = NoisyLinear(400, 25, sigma=0.1)
    assert -1 / 20 <= layer.weight_mu.min() < -0.99 / 20
    assert 0.99 / 20 < layer.weight_mu.max() <= 1 / 20
    assert -1 / 20 <= layer.bias_mu.min() < -0.5 / 20
    assert 0.5 / 20 < layer.bias_mu.max() <= 1 / 20
    assert torch.all(layer.weight_sigma == torch.tensor(0.1 / 20))
    assert torch.all(layer.bias_sigma == torch.tensor(0.1 / 5))


def test_noise_is_the_signed_root_of_a_gaussian() -> None:
    generator = torch.Generator().manual_seed(3)
    noise = sample_noise(200_000, generator=generator)
    gaussian = torch.randn(200_000, generator=generator.manual_seed(3))
    torch.testing.assert_close(noise * noise.abs(), gaussian)
    assert noise.abs().mean() == pytest.approx(2**0.25 * math.gamma(0.75) / math.sqrt(math.pi), abs=0.01)


def test_drawing_from_a_generator_leaves_torchs_own_alone() -> None:
    head = DuelingHead(8, 2, 3, 4)
    state = torch.get_rng_state()
    first, again = (head.sample_noise(torch.Generator().manual_seed(0)) for _ in range(2))
    assert torch.equal(first, again)
    assert torch.equal(state, torch.get_rng_state())


def test_dueling_head_is_value_plus_centred_advantage() -> None:
    torch.manual_seed(1)
    actions, atoms = 3, 4
    head = DuelingHead(6, actions, atoms, hidden=5).double()
    for layer in head.children():
        if isinstance(layer, NoisyLinear):
            randomised(layer)
    x = torch.randn(2, 6, dtype=torch.float64)
    noise = head.sample_noise().double()
    parts = list(noise.split(head.noise_sizes))
    value = materialised(head.value, F.relu(materialised(head.value_hidden, x, parts[0])), parts[1])
    advantage = materialised(head.advantage, F.relu(materialised(head.advantage_hidden, x, parts[2])), parts[3])
    logits = head(x, head.weights(noise))
    assert logits.shape == (2, actions, atoms)
    for sample in range(2):
        for atom in range(atoms):
            of_actions = [advantage[sample, action * atoms + atom] for action in range(actions)]
            for action in range(actions):
                expected = value[sample, atom] + of_actions[action] - sum(of_actions) / actions
                torch.testing.assert_close(logits[sample, action, atom], expected)


def test_both_is_the_head_on_each_with_the_gradient_of_one() -> None:
    torch.manual_seed(3)
    head = DuelingHead(6, 2, 3, 4)
    x, others = torch.randn(5, 6, requires_grad=True), torch.randn(3, 6, requires_grad=True)
    weights = head.weights(head.sample_noise())
    logits, other_logits = head.both(x, others, weights)
    assert torch.equal(logits, head(x, weights))
    assert torch.equal(other_logits, head(others, weights))
    assert not other_logits.requires_grad
    logits.sum().backward()
    assert others.grad is None


def test_noise_changes_the_head_and_none_is_its_mean() -> None:
    torch.manual_seed(2)
    head = DuelingHead(6, 2, 3, 4)
    x = torch.randn(2, 6)
    mean = head(x, head.weights(None))
    assert torch.equal(mean, head(x, head.weights(None)))
    assert not torch.equal(mean, head(x, head.weights(head.sample_noise())))
    assert not torch.equal(head.sample_noise(), head.sample_noise())
