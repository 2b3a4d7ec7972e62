"""Prioritised draws: the tree against an array, validity in the tree, and the distribution."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from replay_twin import Setup, fill, histories, play, setups

from mcurl.replay import NothingToSample, Replay
from mcurl.replay.priorities import SumTree


@settings(max_examples=100, deadline=None)
@given(
    st.integers(1, 70), st.lists(st.lists(st.tuples(st.integers(0, 69), st.integers(0, 2**40)), min_size=1), max_size=5)
)
def test_sum_tree_is_an_array(size: int, assignments: list[list[tuple[int, int]]]) -> None:
    tree, array = SumTree(size), [0] * size
    for assignment in assignments:
        for leaf, value in assignment:
            array[leaf % size] = value
        tree.set(np.array([leaf % size for leaf, _ in assignment]), np.array([value for _, value in assignment]))
        assert tree.total == sum(array)
        assert tree.get(np.arange(size)).tolist() == array
    ends = np.cumsum(array)
    mass = np.array([m for end in ends for m in (end - 1, end) if 0 <= m < ends[-1]], np.int64)
    assert tree.find(mass).tolist() == np.searchsorted(ends, mass, side="right").tolist()


def in_the_tree(replay: Replay) -> dict[int, int]:
    assert replay.priorities is not None
    values = replay.priorities.state_dict()["values"]
    held = range(replay.records.oldest, replay.written)
    return {row: int(value) for row, value in zip(held, values, strict=True) if value}


@settings(max_examples=100, deadline=None)
@given(setups(), histories(), st.integers(0, 100))
def test_the_tree_holds_what_may_be_drawn(setup: Setup, events: list[str], seed: int) -> None:
    """At every step, at the write position too: n up to 20, most episodes shorter."""
    rng, replay, twin = np.random.default_rng(seed), setup.replay(priority_alpha=0.5), setup.twin()
    assert replay.priorities is not None
    known: dict[int, int] = {}
    largest = 1 << 24
    drawn: list[np.ndarray] = []
    for event in events:
        play(event, rng, replay, twin)
        valid = twin.transitions()
        known = {row: known.get(row, largest) for row in valid}
        assert in_the_tree(replay) == known
        assert replay.priorities._tree.total == sum(known.values())
        if not valid:
            with pytest.raises(NothingToSample):
                replay.sample_prioritised(4, rng, 0.4)
            continue
        rows, weights = replay.sample_prioritised(4, rng, 0.4)
        assert set(rows.tolist()) <= valid
        assert weights.max() == 1
        drawn.append(rows)
        stale = drawn[rng.integers(len(drawn))]  # may have been overwritten since
        error = rng.random(4)
        replay.update_priorities(torch.from_numpy(stale), torch.from_numpy(-error))
        for row, value in zip(stale.tolist(), np.sqrt(error), strict=True):
            if row in known:
                known[row] = max(1, int(value * 2**24))
        largest = max(largest, int(np.sqrt(error).max() * 2**24))


def test_distribution_and_weights() -> None:
    replay = Setup(200, 3, "repeat", 3).replay(priority_alpha=0.5)
    fill(270, 30, replay)
    rng = np.random.default_rng(0)
    rows = np.array(sorted(in_the_tree(replay)))
    error = rng.uniform(0, 5, len(rows))
    replay.update_priorities(rows, error)
    probability = np.sqrt(error) / np.sqrt(error).sum()
    drawn = [replay.sample_prioritised(32, rng, 0.4) for _ in range(2000)]
    counts = np.bincount(np.searchsorted(rows, np.concatenate([d for d, _ in drawn])), minlength=len(rows))
    expected = probability * counts.sum()
    # Stratified draws vary less than independent ones, so this is a loose bound.
    assert (((counts - expected) ** 2 / expected.clip(1)).sum() - len(rows)) / np.sqrt(2 * len(rows)) < 5
    for batch, weights in drawn[:20]:
        p = probability[np.searchsorted(rows, batch)]
        w = (len(rows) * p) ** -0.4
        np.testing.assert_allclose(weights, w / w.max(), rtol=1e-4)
    assert replay.sample_prioritised(8, rng, 0.0)[1].tolist() == [1] * 8


def test_one_of_each_part() -> None:
    replay = Setup(60, 1, "repeat", 1).replay(priority_alpha=0.5)
    fill(33, 100, replay)
    rows, _ = replay.sample_prioritised(32, np.random.default_rng(0), 1.0)
    assert rows.tolist() == list(range(32))


def test_priorities_that_are_no_numbers() -> None:
    replay = Setup(60, 1, "repeat", 1).replay(priority_alpha=0.5)
    fill(10, 100, replay)
    with pytest.raises(ValueError, match="not finite"):
        replay.update_priorities(np.array([3]), np.array([np.nan]))
    with pytest.raises(RuntimeError, match="no priorities"):
        Setup(60, 1, "repeat", 1).replay().sample_prioritised(1, np.random.default_rng(0), 1.0)
