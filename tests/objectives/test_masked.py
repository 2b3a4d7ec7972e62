"""M-CURL's objective against a plain twin, and against the faults that a masked contrastive loss can have."""

from __future__ import annotations

from typing import Any

import numpy as np
import plain
import pytest
import torch
from helpers import CPU, LinearEncoder, padding, perturb, random_pixels, sequences

from mcurl.networks.ema import momentum_copy
from mcurl.networks.transformer import sinusoids
from mcurl.objectives.mask import ROWS_PER_GROUP, MaskTensors, plan_mask
from mcurl.objectives.masked import MCurl, MCurlSettings

B, T, D = 3, 5, 6
PIXELS = (2, 4, 4)


def build(padded: np.ndarray, *, compact: bool = True, seed: int = 0, **changes: object) -> Any:
    """An objective, its plan, the pixels that the plan asks for, and two encoders."""
    torch.manual_seed(seed)
    B, T = padded.shape
    settings = MCurlSettings(length=T, batch=B, **({"dropout": 0.0} | changes))  # type: ignore[arg-type]
    objective = MCurl(settings, D).double()
    objective.set_compute(fixed_shapes=not compact, dtype=torch.float32)
    plan = objective.plan(sequences(padded), np.random.default_rng(seed))
    own, spares = random_pixels(B * T, PIXELS), random_pixels(B * T, PIXELS)
    stand_in = torch.where(torch.as_tensor(plan.replaced).view(-1, 1, 1, 1), spares, own)
    query = torch.cat([torch.zeros(1, *PIXELS, dtype=torch.uint8), stand_in[torch.as_tensor(plan.encoded)]])
    return objective, plan, own, stand_in, query, LinearEncoder(PIXELS, D), momentum_copy(LinearEncoder(PIXELS, D))


PADDINGS = {
    "whole": padding(".....", ".....", "....."),
    "ends": padding("##...", ".....", "...##"),
    "a sequence of nothing": padding("#####", ".....", "#...#"),
}


def check_loss_and_gradients(padded: np.ndarray, *, compact: bool = True, scaled: bool = True, **changes: Any) -> Any:
    """Compare with the plain twin, whose scores are scaled or not; return the objective."""
    changes |= {"temperature": 0.7, "scale_scores": scaled}
    objective, plan, own, stand_in, query, online, momentum = build(padded, compact=compact, seed=3, **changes)
    perturb(objective.transformer)  # no bias is 0 after training
    assert plan.selected.any()
    loss = objective.loss(query, own, plan.to(CPU), online, momentum).value
    parameters = [*online.parameters(), *objective.transformer.parameters()]
    fast = torch.autograd.grad(loss, parameters)

    zero = torch.zeros(1, *PIXELS, dtype=torch.uint8)
    shown = [[online(zero if plan.zeroed[b, t] else stand_in[b * T + t][None])[0] for t in range(T)] for b in range(B)]
    keys = [[momentum(own[b * T + t][None])[0] for t in range(T)] for b in range(B)]
    blocks = plain.blocks_of(objective.transformer)
    own_sequence = changes.get("negatives") == "sequence"
    plainly = plain.masked_loss(
        shown, keys, plan.selected.tolist(), padded.tolist(), blocks, 0.7, own_sequence=own_sequence, scaled=scaled
    )
    slow = torch.autograd.grad(plainly, parameters)
    assert loss.item() == pytest.approx(plainly.item(), rel=1e-10)
    for f, s in zip(fast, slow, strict=True):
        torch.testing.assert_close(f, s, rtol=1e-7, atol=1e-9)
    return objective


@pytest.mark.parametrize("padded", PADDINGS.values(), ids=PADDINGS.keys())
@pytest.mark.parametrize("compact", [True, False], ids=["compact", "fixed"])
@pytest.mark.parametrize("negatives", ["batch", "sequence"])
def test_loss_and_gradients_equal_the_plain_twin(padded: np.ndarray, compact: bool, negatives: str) -> None:
    check_loss_and_gradients(padded, compact=compact, negatives=negatives)


def test_equation_9_without_biases_and_scale_equals_the_plain_twin() -> None:
    objective = check_loss_and_gradients(PADDINGS["ends"], scaled=False, attention_bias=False, ffn_factor=3)
    for block in objective.transformer.blocks:
        assert block.qkv.bias is None
        assert block.ffn1.out_features == 3 * D


def test_the_sum_is_the_mean_times_the_number_of_selected_positions() -> None:
    losses = []
    for reduction in ("sum", "mean"):
        objective, plan, own, _, query, online, momentum = build(PADDINGS["ends"], reduction=reduction)
        losses.append(objective.loss(query, own, plan.to(CPU), online, momentum).value.item())
    assert plan.selected.sum() > 1
    assert losses[0] == pytest.approx(plan.selected.sum() * losses[1], rel=1e-12)


def test_the_selected_fraction_is_of_positions_that_are_not_padding() -> None:
    objective, plan, own, _, query, online, momentum = build(PADDINGS["ends"], mask_rate=1.0)
    assert objective.loss(query, own, plan.to(CPU), online, momentum).metrics["contrast/selected"] == 1


@pytest.mark.parametrize(("width", "dtype"), [(128, torch.float32), (576, torch.bfloat16)])
def test_only_a_wide_transformer_computes_in_the_runs_dtype(width: int, dtype: torch.dtype) -> None:
    objective = MCurl(MCurlSettings(), width)
    objective.set_compute(fixed_shapes=False, dtype=torch.bfloat16)
    assert objective.transformer.dtype == dtype


def test_sinusoids_are_equation_7() -> None:
    torch.testing.assert_close(
        sinusoids(7, 6).double(), torch.stack([plain.position(k, 6) for k in range(7)]), rtol=1e-6, atol=1e-6
    )


def test_positions_work_at_any_length() -> None:
    assert sinusoids(256, 50).shape == (256, 50)


def test_no_gradient_reaches_the_key_encoder() -> None:
    objective, plan, own, _, query, online, _ = build(PADDINGS["ends"])
    key_encoder = LinearEncoder(PIXELS, D)  # one that would accept a gradient
    loss = objective.loss(query, own, plan.to(CPU), online, key_encoder).value
    gradients = torch.autograd.grad(loss, list(key_encoder.parameters()), allow_unused=True)
    assert all(g is None for g in gradients)


@pytest.mark.parametrize("change", ["padded key", "padded query"])
def test_padded_positions_do_not_matter(change: str) -> None:
    objective, plan, own, _, query, online, momentum = build(PADDINGS["ends"], compact=False)
    mask = plan.to(CPU)
    before = objective.loss(query, own, mask, online, momentum).value
    where = torch.as_tensor(plan.padded).view(-1)
    if change == "padded key":
        own = torch.where(where.view(-1, 1, 1, 1), 255 - own, own)
    else:
        query = torch.cat([query[:1], torch.where(where.view(-1, 1, 1, 1), 255 - query[1:], query[1:])])
    assert objective.loss(query, own, mask, online, momentum).value == before


def test_unselected_positions_are_not_in_the_loss() -> None:
    """Selecting nothing but position (0, 0): the loss is that position's term alone."""
    objective, plan, own, _, query, online, momentum = build(PADDINGS["whole"], zero_fraction=0.0, random_fraction=0.0)
    mask = plan.to(CPU)
    terms = []
    for b, t in [(0, 0), (2, 3)]:
        selected = torch.zeros(B, T, dtype=torch.bool)
        selected[b, t] = True
        terms.append(
            objective.loss(query, own, MaskTensors(mask.source, selected, mask.padded), online, momentum).value
        )
    both = torch.zeros(B, T, dtype=torch.bool)
    both[0, 0] = both[2, 3] = True
    assert objective.loss(
        query, own, MaskTensors(mask.source, both, mask.padded), online, momentum
    ).value.item() == pytest.approx((sum(terms) / 2).item(), rel=1e-12)


def test_nothing_selected_gives_zero_and_no_gradient() -> None:
    objective, plan, own, _, query, online, momentum = build(PADDINGS["whole"], mask_rate=0.0)
    assert not plan.selected.any()
    loss = objective.loss(query, own, plan.to(CPU), online, momentum)
    gradients = torch.autograd.grad(loss.value, [*online.parameters(), *objective.parameters()])
    assert loss.value == 0
    assert loss.metrics["contrast/accuracy"] == 0
    assert all((g == 0).all() for g in gradients)


def test_positions_attend_only_within_their_sequence() -> None:
    """Changing sequence 1 leaves what the Transformer rebuilds in sequence 0 as it was, and changes sequence 1
    itself."""
    objective, *_ = build(PADDINGS["whole"])
    h = torch.randn(B, T, D, dtype=torch.float64)
    padded = torch.zeros(B, T, dtype=torch.bool)
    before = objective.transformer(h, padded)
    h[1] += 1.5 * torch.randn(T, D, dtype=torch.float64)
    after = objective.transformer(h, padded)
    assert torch.equal(before[0], after[0])
    assert not torch.allclose(before[1], after[1])


def test_order_in_the_sequence_matters() -> None:
    objective, plan, own, _, query, online, momentum = build(PADDINGS["whole"], zero_fraction=0.0, random_fraction=0.0)
    mask = plan.to(CPU)
    before = objective.loss(query, own, mask, online, momentum).value
    objective.positions.copy_(objective.positions.flip(0))
    assert not torch.isclose(before, objective.loss(query, own, mask, online, momentum).value)


@pytest.mark.parametrize("rate", [0.1, 0.5, 0.6, 0.9])
def test_mask_rates(rate: float) -> None:
    """Within four standard deviations of ρ_m and of 80/10/10, over positions that are not padding."""
    padded = np.zeros((400, 32), bool)
    padded[:, :8] = True
    plan = plan_mask(padded, rate, 0.8, 0.1, np.random.default_rng(1))
    n = (~padded).sum()
    chosen = plan.selected.sum()
    assert abs(chosen - n * rate) < 4 * np.sqrt(n * rate * (1 - rate))
    for part, share in ((plan.zeroed, 0.8), (plan.replaced, 0.1), (plan.selected & ~plan.zeroed & ~plan.replaced, 0.1)):
        assert abs(part.sum() - chosen * share) < 4 * np.sqrt(chosen * share * (1 - share))
    assert not (plan.selected & padded).any()
    assert not (plan.zeroed & plan.replaced).any()


@pytest.mark.parametrize("compact", [True, False])
def test_plan_names_the_row_of_every_position(compact: bool) -> None:
    plan = plan_mask(PADDINGS["ends"], 0.5, 0.8, 0.1, np.random.default_rng(5), compact=compact)
    hidden = (plan.zeroed | plan.padded).ravel()
    source = plan.source.ravel()
    assert (source[hidden] == 0).all()
    assert (plan.encoded[source[~hidden] - 1] == np.flatnonzero(~hidden)).all()
    assert (1 + len(plan.encoded)) % ROWS_PER_GROUP == 0 or len(plan.encoded) == hidden.size


def test_shapes_repeat_and_little_is_encoded_in_vain() -> None:
    rng = np.random.default_rng(0)
    plans = [plan_mask(np.zeros((16, 32), bool), 0.5, 0.8, 0.1, rng) for _ in range(50)]
    assert {(1 + len(plan.encoded)) % ROWS_PER_GROUP for plan in plans} == {0}
    assert all(len(plan.encoded) - (~plan.zeroed).sum() < ROWS_PER_GROUP for plan in plans)


def test_learning_rates_follow_the_paper() -> None:
    objective, *_ = build(PADDINGS["whole"])
    rate = objective.learning_rate
    assert rate(4)["objective"] == pytest.approx(4 / 24_000)
    assert rate(24_000) == {"encoder": 1.0, "objective": 1.0}
    assert rate(96_000) == {"encoder": 0.5, "objective": 0.5}
    assert rate(12_000) == {"encoder": 1.0, "objective": 0.5}
