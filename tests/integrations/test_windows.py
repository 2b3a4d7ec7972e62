"""Padded windows of foreign buffers."""

from __future__ import annotations

import numpy as np
import pytest

from mcurl.errors import UserError
from mcurl.integrations import Episodes
from mcurl.replay.sampling import Records, record_dtype, sample_sequences

LENGTH = 4


def windows(dones: object, *, position: int = 0, batch: int = 400) -> tuple[np.ndarray, np.ndarray]:
    return Episodes.from_dones(dones, position=position).sample(batch, LENGTH, np.random.default_rng(0))


@pytest.mark.parametrize("position", [0, 1, 5, 9])
def test_windows_stay_in_one_episode_of_a_ring(position: int) -> None:
    episode_by_age = np.array([0, 0, 0, 1, 2, 2, 2, 2, 3, 3])
    done_by_age = np.array([0, 0, 1, 1, 0, 0, 0, 1, 0, 0], np.float32)  # the newest episode is not over
    rows, padded = windows(np.roll(done_by_age, position), position=position)
    ages = (rows - position) % 10
    assert (episode_by_age[ages] == episode_by_age[ages[:, :1]]).all()
    steps = np.diff(ages, axis=1)
    inside = ~padded[:, 1:] & ~padded[:, :-1]
    assert (steps[inside] == 1).all()
    assert (steps[~inside] <= 1).all()
    assert (~padded).any(axis=1).all()
    assert set(ages[~padded]) == set(range(10))


def test_padded_positions_repeat_the_nearest_row() -> None:
    rows, padded = windows([0, 1, 0, 0, 1])
    first = np.argmax(~padded, axis=1)
    last = LENGTH - 1 - np.argmax(~padded[:, ::-1], axis=1)
    for row, start, stop in zip(rows, first, last, strict=True):
        assert (row[:start] == row[start]).all()
        assert (row[stop:] == row[stop]).all()


def test_every_row_is_equally_likely_at_every_position() -> None:
    rows, padded = windows([1, 0, 0, 0, 1, 0, 1], batch=50_000)
    for position in range(LENGTH):
        counts = np.bincount(rows[~padded[:, position], position], minlength=7)
        np.testing.assert_allclose(counts / counts.mean(), 1, atol=0.06)


def test_the_windows_are_those_of_our_own_replay() -> None:
    records = Records(np.zeros(64, record_dtype((), np.int64)))
    lengths = [3, 1, 7]
    for length in lengths:
        records.begin()
        for _ in range(length - 1):
            records.append(0, 0.0, 0)
    ends = np.cumsum(lengths) - 1
    expected = sample_sequences(records, 1, LENGTH, 50, np.random.default_rng(3))
    found = Episodes.from_ends(ends, sum(lengths)).sample(50, LENGTH, np.random.default_rng(3))
    for a, b in zip(found, expected, strict=True):
        np.testing.assert_array_equal(a, b)


def test_environments_side_by_side_are_not_mixed() -> None:
    dones = np.zeros((6, 2))
    dones[2, 0] = 1
    rows, padded = windows(dones, position=4)
    step, env = np.divmod(rows, 2)
    assert (env == env[:, :1]).all()
    assert set(env.ravel()) == {0, 1}
    ages = (step - 4) % 6
    after = (ages > 4) & (env == 0)  # the end in row 2 is of age 4
    assert (after.any(axis=1) == after.all(axis=1)).all()
    assert set(zip(step[~padded], env[~padded], strict=True)) == {(s, e) for s in range(6) for e in range(2)}


def test_windows_across_ends() -> None:
    episodes = Episodes.from_dones(np.ones((5, 2)), position=2)
    rows, padded = episodes.sample(100, LENGTH, np.random.default_rng(0), cross_episodes=True)
    step, env = np.divmod(rows, 2)
    assert not padded.any()
    assert (np.diff((step - 2) % 5, axis=1) == 1).all()
    assert (env == env[:, :1]).all()
    with pytest.raises(UserError, match="at least 6 rows, not 5"):
        episodes.sample(1, 6, np.random.default_rng(0), cross_episodes=True)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: Episodes.from_dones([]), r"dones of shape \(0,\)"),
        (lambda: Episodes.from_dones(np.zeros((2, 2, 2))), "expected \\[N\\] or"),
        (lambda: Episodes.from_dones([0, 1], position=2), "position=2 in 2 rows: expected 0 to 1"),
        (lambda: Episodes.from_ends([5], 5), "episode ends from 5 to 5: expected 0 to 4"),
        (lambda: Episodes.from_ends([], 0), "0 rows"),
    ],
)
def test_wrong_input_is_refused(call: object, message: str) -> None:
    with pytest.raises(UserError, match=message):
        call()  # type: ignore[operator]
