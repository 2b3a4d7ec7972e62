"""InfoNCE and CURL's objective."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from mcurl.objectives.contrast import Curl, CurlSettings, info_nce


def test_info_nce_is_equation_1() -> None:
    torch.manual_seed(0)
    logits = torch.randn(4, 6, dtype=torch.float64)
    targets, selected = torch.tensor([2, 0, 5, 1]), torch.tensor([True, False, True, True])
    mean, accuracy, each = info_nce(logits, targets, selected)
    plainly = [-math.log(math.exp(logits[i, targets[i]]) / sum(math.exp(x) for x in logits[i])) for i in (0, 2, 3)]
    assert mean.item() == pytest.approx(sum(plainly) / 3)
    assert each.tolist() == pytest.approx([plainly[0], 0, plainly[1], plainly[2]])
    assert accuracy.item() == pytest.approx(sum(logits[i].argmax() == targets[i] for i in (0, 2, 3)) / 3)


def test_curl_uses_the_bilinear_similarity_and_trains_no_key() -> None:
    torch.manual_seed(0)
    objective = Curl(CurlSettings(scale=0.5), 3).double()
    assert (objective.W >= 0).all()
    assert (objective.W < 1).all()
    query, key = nn.Linear(4, 3, dtype=torch.float64), nn.Linear(4, 3, dtype=torch.float64)
    x, y = torch.randn(5, 4, dtype=torch.float64), torch.randn(5, 4, dtype=torch.float64)
    loss = objective.loss(x, y, None, query, key)
    q, k = query(x), key(y)
    terms = [
        -torch.log_softmax(torch.stack([0.5 * (q[i] @ objective.W @ k[j]) for j in range(5)]), 0)[i] for i in range(5)
    ]
    assert loss.value.item() == pytest.approx(sum(terms).item() / 5)  # type: ignore[union-attr]
    gradients: tuple[Tensor | None, ...] = torch.autograd.grad(
        loss.value, [objective.W, query.weight, key.weight], allow_unused=True
    )
    assert gradients[0] is not None
    assert gradients[1] is not None
    assert gradients[2] is None


def test_curl_rates_have_no_schedule() -> None:
    objective = Curl(CurlSettings(), 3)
    assert objective.learning_rate(1) == objective.learning_rate(10**6) == {"encoder": 1.0, "objective": 1.0}
