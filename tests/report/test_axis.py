"""Axes: ticks that can be read, at every length of a run."""

from __future__ import annotations

import pytest
from examples import figure
from hypothesis import given
from hypothesis import strategies as st

from mcurl.report.axis import beyond, tick_labels, ticks, x_range, y_range
from mcurl.report.model import Figure, Line, Mark, Panel, Series


@given(st.floats(1e-3, 1e8), st.floats(0, 1))
def test_ticks_are_few_and_their_labels_differ(high: float, part: float) -> None:
    low = -part * high
    values = ticks(low, high)
    assert 2 <= len(values) <= 7
    assert low - 1e-9 <= values[0]
    assert values[-1] <= high * (1 + 1e-9)
    labels = tick_labels(values)
    assert len(set(labels)) == len(labels)


@pytest.mark.parametrize("last", [100, 1000, 2000, 2500, 50_000, 400_000, 10_000_000])
def test_a_label_says_the_number_of_its_tick(last: int) -> None:
    units = {"k": 1e3, "M": 1e6}
    for value, label in zip(ticks(0, last), tick_labels(ticks(0, last)), strict=True):
        unit = units.get(label[-1], 1.0)
        assert float(label.rstrip("kM")) * unit == pytest.approx(value)


def test_the_axis_of_a_short_run_ends_with_it() -> None:
    panel = Panel("", (Series("mcurl", "a", ((0.0, 5.0), (2000.0, 6.0))),))
    low, high = x_range(Figure("a", "", (panel,), "", ""), panel)
    assert low == 0
    assert 2000 < high < 2200


def test_the_axis_of_returns_holds_curves_bands_and_bars_and_begins_at_zero() -> None:
    band = ((0.0, -3.0, 12.0),)
    marks = (Mark("curl", "b", 1, 9.0, 20.0),)
    panel = Panel("", (Series("mcurl", "a", ((0.0, 5.0),), band),), marks)
    low, high = y_range(figure(), panel)
    assert low == 0
    assert high > 29
    panel = Panel("", (Series("mcurl", "a", ((0.0, -5.0),)),))
    assert y_range(figure(), panel)[0] < -5


def test_a_human_far_above_does_not_flatten_the_curves() -> None:
    curve = Series("mcurl", "a", ((0.0, 0.0), (1.0, 100.0)))
    near, far = Panel("", (curve,), (), (Line("human", 120.0),)), Panel("", (curve,), (), (Line("human", 9000.0),))
    assert y_range(figure(), near)[1] > 120
    assert beyond(figure(), near) == []
    assert y_range(figure(), far)[1] < 120
    assert beyond(figure(), far) == ["human: 9000 ↑"]
