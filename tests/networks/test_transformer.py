"""The Transformer's matrix products in bfloat16 against those in float32. Its formula is tested with the objective,
against loops."""

from __future__ import annotations

from typing import cast

import pytest
import torch
import torch.nn.functional as F

from mcurl.networks.transformer import Block, Transformer, dropout_scales, sample_dropout


def test_bfloat16_is_close_and_gives_float32() -> None:
    torch.manual_seed(0)
    exact = Transformer(96, 2, 192, dropout=0.0)
    rounded = Transformer(96, 2, 192, dropout=0.0, dtype=torch.bfloat16)
    rounded.load_state_dict(exact.state_dict())
    h, padded = torch.randn(4, 8, 96), torch.zeros(4, 8, dtype=torch.bool)
    padded[1, 5:], padded[2] = True, True
    direction = torch.randn(4, 8, 96) * ~padded[..., None]
    a, b = exact(h, padded), rounded(h, padded)
    assert b.dtype == torch.float32
    assert not torch.equal(a, b)
    assert (a - b).norm() < 0.02 * a.norm()
    (a * direction).sum().backward()
    (b * direction).sum().backward()
    for p, q in zip(exact.parameters(), rounded.parameters(), strict=True):
        assert p.grad is not None
        assert q.grad is not None
        assert q.grad.dtype == torch.float32
        assert F.cosine_similarity(p.grad.flatten(), q.grad.flatten(), 0) > 0.99


def test_matrices_begin_as_xaviers_without_biases() -> None:
    """Each of query, key and value on its own."""
    torch.manual_seed(0)
    width, ffn_width = 64, 192
    for block in Transformer(width, 2, ffn_width).blocks:
        layers = cast(Block, block)
        for matrix in (*layers.qkv.weight.chunk(3), layers.ffn1.weight, layers.ffn2.weight):
            bound = (6 / sum(matrix.shape)) ** 0.5
            assert 0.99 * bound < matrix.abs().max() <= bound
        assert not any(layer.bias.any() for layer in (layers.qkv, layers.ffn1, layers.ffn2))


def test_matrices_and_biases_can_begin_as_in_the_released_code() -> None:
    torch.manual_seed(0)
    for block in Transformer(64, 2, 192, xavier=False).blocks:
        layers = cast(Block, block)
        for layer in (layers.qkv, layers.ffn1, layers.ffn2):
            bound = layer.in_features**-0.5
            assert 0.99 * bound < layer.weight.abs().max() <= bound
            assert 0.9 * bound < layer.bias.abs().max() <= bound


@pytest.mark.parametrize("p", [0.1, 0.5, 0.9])
def test_dropout_drops_its_share_and_keeps_the_mean(p: float) -> None:
    torch.manual_seed(0)
    scales = dropout_scales(sample_dropout((4, 2, 101, 333), p))
    assert scales.dtype == torch.float32
    assert set(scales.unique().tolist()) == {0.0, torch.tensor(1 / (1 - round(p * 65536) / 65536)).item()}
    n = scales.numel()
    assert (scales == 0).double().mean().item() == pytest.approx(p, abs=4 * (p * (1 - p) / n) ** 0.5)
    assert scales.double().mean().item() == pytest.approx(1, abs=4 * (p / (1 - p) / n) ** 0.5)


def test_dropout_is_independent_from_place_to_place() -> None:
    """Four neighbours come from one random word: each of the sixteen patterns has its probability."""
    torch.manual_seed(0)
    kept = dropout_scales(sample_dropout((400_000, 4), 0.5)) > 0
    patterns = (kept * torch.tensor([1, 2, 4, 8])).sum(1).bincount(minlength=16) / len(kept)
    assert (patterns - 1 / 16).abs().max() < 4 * (15 / 256 / len(kept)) ** 0.5


def test_dropout_is_for_training() -> None:
    torch.manual_seed(0)
    transformer = Transformer(16, 2, 32, dropout=0.3)
    h, padded = torch.randn(2, 5, 16), torch.zeros(2, 5, dtype=torch.bool)
    assert not torch.equal(transformer(h, padded), transformer(h, padded))
    transformer.eval()
    state = torch.get_rng_state()
    assert torch.equal(transformer(h, padded), transformer(h, padded))
    assert torch.equal(state, torch.get_rng_state())


def test_dropout_on_every_branch_of_every_block_changes_what_comes_out() -> None:
    torch.manual_seed(0)
    transformer = Transformer(16, 2, 32)
    h, bias = torch.randn(2, 5, 16), torch.zeros(2, 1, 5)
    for block in transformer.blocks:
        whole = block(h, bias, (1.0, 1.0))
        for scales in [(0.0, 1.0), (1.0, 0.0)]:
            assert not torch.allclose(whole, block(h, bias, scales))


@pytest.mark.parametrize(("p", "kept"), [(0.0, 1.0), (1.0, 0.0)])
def test_dropout_of_nothing_and_of_everything(p: float, kept: float) -> None:
    assert torch.equal(dropout_scales(sample_dropout((3, 7), p)), torch.full((3, 7), kept))
