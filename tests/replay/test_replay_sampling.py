"""Which rows are drawn, and what they give, against the obvious twin."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from replay_twin import Setup, Twin, fill, histories, play, setups

from mcurl.replay import NothingToSample, Replay, sampling


def ids(spans: sampling.Spans) -> list[int]:
    return [row for first, stop in zip(spans.first, spans.stop, strict=True) for row in range(first, stop)]


def sampleable(replay: Replay) -> list[int]:
    return ids(sampling.transitions(replay.records, replay.frame_stack, replay.n_step))


class Enumerating(np.random.Generator):
    """Gives 0, 1, 2, ... instead of random numbers, so that a draw of as many as there are gives each once."""

    def __init__(self) -> None:
        super().__init__(np.random.PCG64(0))
        self.high = 1

    def integers(self, high, size):  # type: ignore[no-untyped-def, override]
        self.high = high
        return np.arange(size) % high


@settings(max_examples=120, deadline=None)
@given(setups(), histories(), st.integers(0, 100))
def test_transitions_are_the_twins(setup: Setup, events: list[str], seed: int) -> None:
    rng, replay, twin = np.random.default_rng(seed), setup.replay(), setup.twin()
    for event in events:
        play(event, rng, replay, twin)
        rows = sampleable(replay)
        assert rows == sorted(twin.transitions())
        assert replay.sampleable == len(rows)
        assert (len(replay), replay.written) == (len(twin.held), len(twin.rows))
        assert ids(sampling.observations(replay.records, replay.frame_stack)) == sorted(twin.observations())
    if not rows:
        with pytest.raises(NothingToSample):
            replay.sample_uniform(4, rng)
        return
    compare(replay, twin, np.array(rows))
    compare(replay, twin, replay.sample_uniform(8, rng))


def compare(replay: Replay, twin: Twin, rows: np.ndarray) -> None:
    batch = replay.gather_transitions(rows)
    assert batch.rows.tolist() == rows.tolist()
    assert batch.weights.tolist() == [1] * len(rows)
    for i, row in enumerate(rows.tolist()):
        expected = twin.transition(row)
        assert expected is not None
        obs, action, reward, next_obs, discount = expected
        assert np.array_equal(batch.obs[i], obs)
        assert np.array_equal(batch.action[i], action)
        assert np.array_equal(batch.next_obs[i], next_obs) or discount == 0
        assert batch.reward[i].item() == pytest.approx(reward, abs=1e-5)
        assert batch.discount[i].item() == pytest.approx(discount, abs=1e-7)


@settings(max_examples=80, deadline=None)
@given(setups(), histories(), st.integers(1, 40))
def test_every_row_is_at_every_position_once(setup: Setup, events: list[str], length: int) -> None:
    rng, replay, twin = np.random.default_rng(0), setup.replay(), setup.twin()
    for event in events:
        play(event, rng, replay, twin)
    valid = twin.observations()
    all_windows = Enumerating()
    replay.sample_sequences(1, length, all_windows)
    drawn = replay.sample_sequences(int(all_windows.high), length, all_windows)
    if drawn is None:
        assert not valid
        return
    rows, padded = drawn
    assert sorted(rows.T[~padded.T].tolist()) == sorted(list(valid) * length)
    for position in range(length):
        assert sorted(rows[~padded[:, position], position].tolist()) == sorted(valid)
    for row, pad in zip(rows, padded, strict=True):
        assert len({twin.rows[r].episode for r in row}) == 1
        assert set(row) <= valid
        inside = np.flatnonzero(~pad)
        assert np.array_equal(np.diff(row[inside]), np.ones(len(inside) - 1))
        assert np.array_equal(np.diff(inside), np.ones(len(inside) - 1))
        # Padded only where there is no such row.
        if inside[0] > 0:
            before = row[inside[0]] - 1
            assert before not in valid or twin.rows[before].episode != twin.rows[row[0]].episode
        if inside[-1] < length - 1:
            after = row[inside[-1]] + 1
            assert after not in valid or twin.rows[after].episode != twin.rows[row[0]].episode


@pytest.mark.parametrize("length", [5, 40])
def test_draws_are_uniform(length: int) -> None:
    setup = Setup(capacity=300, frame_stack=3, stack_start="repeat", n_step=3)
    replay, twin = setup.replay(), setup.twin()
    fill(410, 26, replay, twin)
    rng = np.random.default_rng(0)
    for drawn, expected in (
        (replay.sample_uniform(60_000, rng), twin.transitions()),
        (replay.sample_observations(60_000, rng), twin.observations()),
    ):
        rows, counts = np.unique(drawn, return_counts=True)
        assert set(rows.tolist()) == expected
        assert chi_square_excess(counts) < 5
    found = replay.sample_sequences(20_000, length, rng)
    assert found is not None
    rows, padded = found
    for position in (0, length // 2, length - 1):  # the episodes' first frames as often as any
        there, counts = np.unique(rows[~padded[:, position], position], return_counts=True)
        assert set(there.tolist()) == twin.observations()
        assert chi_square_excess(counts) < 5


def chi_square_excess(counts: np.ndarray) -> float:
    """By how many standard deviations the chi-square of equally likely cells exceeds its mean."""
    mean, freedom = counts.mean(), len(counts) - 1
    return float((((counts - mean) ** 2 / mean).sum() - freedom) / np.sqrt(2 * freedom))


def test_sequences_across_episodes() -> None:
    setup = Setup(capacity=50, frame_stack=3, stack_start="blank", n_step=1)
    replay, twin = setup.replay(), setup.twin()
    rng = np.random.default_rng(0)
    assert replay.sample_sequences(4, 8, rng, cross_episodes=True) is None
    fill(7, 4, replay, twin)
    assert replay.sample_sequences(4, 8, rng, cross_episodes=True) is None
    fill(101, 6, replay, twin)
    drawn = replay.sample_sequences(2000, 8, rng, cross_episodes=True)
    assert drawn is not None
    rows, padded = drawn
    assert not padded.any()
    assert (np.diff(rows) == 1).all()
    assert set(rows.flatten().tolist()) == twin.observations()


def test_nothing_stored_yet() -> None:
    replay, rng = Setup(50, 3, "repeat", 1).replay(), np.random.default_rng(0)
    assert replay.sample_sequences(2, 4, rng) is None
    assert replay.sampleable == len(replay) == 0
    with pytest.raises(NothingToSample):
        replay.sample_uniform(2, rng)
    with pytest.raises(NothingToSample):
        replay.sample_observations(2, rng)
    with pytest.raises(ValueError, match="can be sampled"):
        replay.gather_transitions(np.array([0]))


def test_one_step_by_hand() -> None:
    """γ = 0.9, n = 3, episode a b c d e: a life lost after c, truncated at e."""
    replay = Setup(50, 1, "repeat", 3).replay()
    frames = np.arange(5, dtype=np.uint8)[:, None, None, None] * np.ones((1, 2, 5, 6), np.uint8)
    replay.begin(frames[0])
    for i in range(4):
        replay.append(
            np.zeros(2, np.float32), 10.0**i, frames[i + 1], terminated=False, truncated=i == 3, life_lost=i == 2
        )
    batch = replay.gather_transitions(np.arange(4))
    assert batch.reward.tolist() == pytest.approx([1 + 9 + 81, 10 + 90, 100, 1000])
    assert batch.discount.tolist() == pytest.approx([0, 0, 0, 0.9])
    assert batch.next_obs[:, 0, 0, 0].tolist() == [3, 3, 3, 4]


def test_rows_that_cannot_be_sampled_are_refused() -> None:
    replay = Setup(12, 3, "repeat", 1).replay()
    fill(20, 50, replay)
    for row in (7, 8, 9, 19, 20, -1):  # overwritten, broken stack (8, 9), newest, not written, nonsense
        with pytest.raises(ValueError, match="can be sampled"):
            replay.gather_transitions(np.array([row]))
        if row != 19:
            with pytest.raises(ValueError, match="no whole stack"):
                replay.gather_stacks(np.array([row]))
    assert len(replay.gather_transitions(np.array([10, 18]))) == 2
