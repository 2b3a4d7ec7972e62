"""C51 in float32 against loops over atoms in float64."""

from __future__ import annotations

import pytest
import torch
from plain_c51 import plain_projection
from torch import Tensor

from mcurl.agents.distributional import cross_entropy, double_q_target, expected, make_support, project


def check(probabilities: Tensor, rewards: Tensor, discounts: Tensor, support: Tensor) -> Tensor:
    fast = project(probabilities, rewards, discounts, support)
    for row, p, r, d in zip(fast, probabilities, rewards, discounts, strict=True):
        plain = plain_projection(p.tolist(), float(r), float(d), support.double().tolist())
        torch.testing.assert_close(row, torch.tensor(plain), rtol=0, atol=2e-5)
    return fast


def test_projection_equals_the_loop() -> None:
    torch.manual_seed(0)
    support = make_support(51, -10, 10)
    probabilities = torch.softmax(2 * torch.randn(64, 51), 1)
    rewards, discounts = 8 * torch.randn(64), 0.99 ** torch.randint(1, 21, (64,)) * (torch.rand(64) > 0.2)
    fast = check(probabilities, rewards, discounts, support)
    torch.testing.assert_close(fast.sum(1), torch.ones(64))


@pytest.mark.parametrize(
    ("reward", "discount", "why"),
    [
        (0.0, 1.0, "every Tz on its own atom"),
        (0.4, 1.0, "every Tz on the next atom"),
        (-0.4, 1.0, "every Tz on the atom before"),
        (0.2, 1.0, "halfway between atoms"),
        (0.0, 0.0, "terminal, on the atom at 0"),
        (1.0, 0.0, "terminal, halfway"),
        (10.0, 0.0, "terminal, on the last atom"),
        (-10.0, 0.0, "terminal, on the first atom"),
        (25.0, 0.9, "everything beyond the last atom"),
        (-25.0, 0.9, "everything before the first atom"),
        (20.0, 1.0, "only the first atom lands on the support"),
    ],
)
def test_projection_at_its_edges(reward: float, discount: float, why: str) -> None:
    torch.manual_seed(1)
    support = make_support(51, -10, 10)
    probabilities = torch.softmax(torch.randn(2, 51), 1)
    fast = check(probabilities, torch.full((2,), reward), torch.full((2,), discount), support)
    torch.testing.assert_close(fast.sum(1), torch.ones(2), msg=why)


def test_projection_keeps_the_mean_where_nothing_is_cut_off() -> None:
    torch.manual_seed(2)
    support = make_support(51, -10, 10)
    probabilities = torch.softmax(torch.randn(8, 51), 1)
    rewards, discounts = torch.randn(8), torch.full((8,), 0.5)
    mean = project(probabilities, rewards, discounts, support) @ support
    torch.testing.assert_close(mean, rewards + 0.5 * (probabilities @ support), rtol=1e-4, atol=1e-4)


def test_double_q_target_takes_the_online_choice_and_the_targets_distribution() -> None:
    support = make_support(3, -1, 1)
    online = torch.tensor([[[0.0, 0.0, 5.0], [5.0, 0.0, 0.0]]])  # prefers action 0
    target = torch.tensor([[[0.0, 3.0, 0.0], [0.0, 0.0, 9.0]]])  # would prefer action 1
    out = double_q_target(online, target, torch.zeros(1), torch.ones(1), support)
    torch.testing.assert_close(out, torch.softmax(target[:, 0], -1))


def test_cross_entropy_is_that_of_the_action_taken() -> None:
    torch.manual_seed(3)
    logits, target = torch.randn(4, 3, 5), torch.softmax(torch.randn(4, 5), 1)
    actions = torch.tensor([0, 2, 1, 2])
    plain = []
    for sample, action in enumerate(actions.tolist()):
        row = logits[sample, action].double()
        plain.append(-sum(target[sample, i].double() * (row[i] - torch.logsumexp(row, 0)) for i in range(5)))
    torch.testing.assert_close(cross_entropy(logits, actions, target), torch.stack(plain).float())


def test_expected_is_the_mean_of_the_distribution() -> None:
    support = make_support(3, -1, 1)
    logits = torch.log(torch.tensor([[[0.2, 0.3, 0.5]]]))
    torch.testing.assert_close(expected(logits, support), torch.tensor([[0.3]]))
