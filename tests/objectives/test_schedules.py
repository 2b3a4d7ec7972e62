"""The schedules at points worked out by hand, and which of them an objective's settings choose."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from mcurl.objectives.masked import MCurl, MCurlSettings
from mcurl.objectives.schedules import constant, constant_then_inverse_sqrt, inverse_sqrt_with_warmup, released_warmup

WARMUP = 1000


@pytest.mark.parametrize(
    ("schedule", "expected"),
    [
        (inverse_sqrt_with_warmup, {1: 0.001, 500: 0.5, 1000: 1.0, 4000: 0.5, 100_000: 0.1}),  # eq. 10
        (released_warmup, {0: 5e-4, 500: 0.50025, 1000: 1.0, 4000: 0.5, 100_000: 0.1}),
        (constant_then_inverse_sqrt, {1: 1.0, 1000: 1.0, 4000: 0.5, 100_000: 0.1}),
        (constant, {1: 1.0, 100_000: 1.0}),
    ],
)
def test_values(schedule: Callable[[float, float], float], expected: dict[int, float]) -> None:
    assert {step: schedule(step, WARMUP) for step in expected} == pytest.approx(expected)


@pytest.mark.parametrize(
    ("name", "transformer", "encoder"),
    [
        ("paper", {250: 0.25, 4000: 0.5}, {250: 1.0, 4000: 0.5}),
        ("released", {250: 0.250375, 4000: 0.5}, {250: 1.0, 4000: 0.5}),
        ("constant", {250: 1.0, 4000: 1.0}, {250: 1.0, 4000: 0.5}),
    ],
)
def test_an_objective_has_the_schedule_of_its_settings(
    name: str, transformer: dict[int, float], encoder: dict[int, float]
) -> None:
    settings = MCurlSettings(schedule=name, warmup=WARMUP, length=4, batch=2)  # type: ignore[arg-type]
    objective = MCurl(settings, feature_dim=8)
    rates = {step: objective.learning_rate(step) for step in transformer}
    assert {step: rate["objective"] for step, rate in rates.items()} == pytest.approx(transformer)
    assert {step: rate["encoder"] for step, rate in rates.items()} == pytest.approx(encoder)
