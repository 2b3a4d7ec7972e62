"""Statistics over runs and tasks: against rliable's stored values, slow twins, and what must hold of them."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Callable
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from mcurl import published
from mcurl.errors import UserError
from mcurl.report import statistics
from mcurl.report.statistics import (
    AGGREGATES,
    Array,
    aggregate,
    estimate,
    human_normalise,
    interquartile_mean,
    interval,
    mean,
    median,
    optimality_gap,
    performance_profile,
    probability_of_improvement,
    profile,
    read_columns,
    score_matrix,
)

RLIABLE = json.loads((Path(__file__).parent / "oracles" / "rliable.json").read_text())
PER_GAME = published.FOLDER / "atari100k_published_per_game.csv"
SOME = settings(max_examples=50, deadline=None)


def arrays(tasks: int | None = None, missing: bool = True) -> st.SearchStrategy[Array]:
    """Scores ``[runs, tasks]``, with many ties, each task with at least one run."""
    values = st.integers(-4, 8).map(lambda value: value / 4)
    width = st.integers(1, 6) if tasks is None else st.just(tasks)
    shapes = st.tuples(st.integers(1, 6), width)

    def remove(drawn: tuple[Array, Array]) -> Array:
        scores, gone = drawn
        gone[0] = False
        return np.where(gone & missing, np.nan, scores)

    def pair(shape: tuple[int, int]) -> st.SearchStrategy[tuple[Array, Array]]:
        return st.tuples(hnp.arrays(float, shape, elements=values), hnp.arrays(bool, shape))

    return shapes.flatmap(pair).map(remove)


def columns(scores: Array) -> list[list[float]]:
    """The runs of each task."""
    return [[float(value) for value in column if not math.isnan(value)] for column in scores.T]


# Slow twins: the definitions, one run at a time.


def plain_mean(scores: Array) -> float:
    means = [sum(runs) / len(runs) for runs in columns(scores)]
    return sum(means) / len(means)


def plain_median(scores: Array) -> float:
    means = sorted(sum(runs) / len(runs) for runs in columns(scores))
    half = len(means) // 2
    return means[half] if len(means) % 2 else (means[half - 1] + means[half]) / 2


def plain_iqm(scores: Array) -> float:
    """Each score as many times as it weighs, so often that a quarter is a whole number where runs differ."""
    counts = {len(runs) for runs in columns(scores)}
    common = 4 * math.lcm(*counts) if len(counts) > 1 else counts.pop()
    repeated = sorted(score for runs in columns(scores) for score in runs for _ in range(common // len(runs)))
    cut = len(repeated) // 4
    kept = repeated[cut : len(repeated) - cut]
    return sum(kept) / len(kept)


def plain_gap(scores: Array) -> float:
    gaps = [sum(1 - min(score, 1) for score in runs) / len(runs) for runs in columns(scores)]
    return sum(gaps) / len(gaps)


def plain_improvement(x: Array, y: Array) -> float:
    shares = []
    for ours, theirs in zip(columns(x), columns(y), strict=True):
        points = [1 if a > b else 0.5 if a == b else 0 for a, b in product(ours, theirs)]
        shares.append(sum(points) / len(points))
    return sum(shares) / len(shares)


TWINS: list[tuple[Callable[..., Any], Callable[..., float]]] = [
    (mean, plain_mean),
    (median, plain_median),
    (interquartile_mean, plain_iqm),
    (optimality_gap, plain_gap),
]


@pytest.mark.parametrize("case", RLIABLE["cases"].values(), ids=list(RLIABLE["cases"]))
def test_values_are_those_of_rliable(case: dict[str, Any]) -> None:
    scores = np.array(case["scores"])
    ours = aggregate(scores)
    assert {name: found.value for name, found in ours.estimates.items()} == pytest.approx(case["aggregates"], abs=1e-12)
    np.testing.assert_allclose(performance_profile(scores, RLIABLE["thresholds"]), case["profile"], atol=1e-12)
    for name, bounds in case["intervals"].items():
        # Both are percentiles over random resamples.
        assert ours.estimates[name].interval == pytest.approx(bounds, abs=0.05 * scores.std()), name


@pytest.mark.parametrize("pair", RLIABLE["pairs"], ids=lambda pair: f"{pair['x']} over {pair['y']}")
def test_the_probability_of_improvement_is_that_of_rliable(pair: dict[str, Any]) -> None:
    x, y = (np.array(RLIABLE["cases"][pair[name]]["scores"]) for name in "xy")
    ours = estimate(probability_of_improvement, x, y)
    assert ours.value == pytest.approx(pair["probability"], abs=1e-12)
    assert ours.interval == pytest.approx(pair["interval"], abs=0.05)


@pytest.mark.parametrize(("statistic", "twin"), TWINS, ids=list(AGGREGATES))
@given(scores=arrays())
@SOME
def test_statistics_are_their_definitions(
    statistic: Callable[..., Any], twin: Callable[..., float], scores: Array
) -> None:
    assert float(statistic(scores)) == pytest.approx(twin(scores), abs=1e-12)


def test_a_quarter_is_left_out_at_both_ends_where_tasks_have_different_runs() -> None:
    """Of weights 1/2 1/2 1/3 1/3 1/3 the quarter is 1/2: the lowest score, and the highest with half of the next."""
    scores = np.array([[5.0, 1.0], [3.0, 0.0], [4.0, np.nan]])
    assert float(interquartile_mean(scores)) == pytest.approx(1 / 2 + 3 / 3 + 4 / 6)


def test_the_best_run_is_not_left_out_alone() -> None:
    """Two runs of one task, one of the others: of 44 a quarter is left, of 133 half."""
    scores = np.array([[83.6, 133.1, 43.5], [np.nan, 255.2, np.nan]])
    assert float(interquartile_mean(scores)) == pytest.approx((0.25 * 43.5 + 83.6 + 0.25 * 133.1) / 1.5)


@given(pair=st.integers(1, 5).flatmap(lambda tasks: st.tuples(arrays(tasks), arrays(tasks))))
@SOME
def test_the_probability_of_improvement_is_its_definition(pair: tuple[Array, Array]) -> None:
    x, y = pair
    forth, back = float(probability_of_improvement(x, y)), float(probability_of_improvement(y, x))
    assert forth == pytest.approx(plain_improvement(x, y), abs=1e-12)
    assert forth + back == pytest.approx(1)
    assert float(probability_of_improvement(x, x)) == 0.5


@given(scores=arrays(), thresholds=st.lists(st.integers(-5, 9).map(lambda value: value / 4), min_size=1))
@SOME
def test_the_profile_is_its_definition(scores: Array, thresholds: list[float]) -> None:
    for threshold, share in zip(thresholds, performance_profile(scores, thresholds), strict=True):
        shares = [sum(score > threshold for score in runs) / len(runs) for runs in columns(scores)]
        assert share == pytest.approx(sum(shares) / len(shares), abs=1e-12)


@given(scores=arrays(), data=st.data())
@SOME
def test_the_order_of_runs_and_tasks_and_the_unit_make_no_difference(scores: Array, data: st.DataObject) -> None:
    tasks = data.draw(st.permutations(range(scores.shape[1])))
    runs = data.draw(st.permutations(range(scores.shape[0])))
    for statistic in (mean, median, interquartile_mean):
        value = float(statistic(scores))
        assert float(statistic(scores[runs][:, tasks])) == pytest.approx(value, abs=1e-12)
        assert float(statistic(2 * scores + 1)) == pytest.approx(2 * value + 1, abs=1e-12)
        assert np.nanmin(scores) - 1e-12 <= value <= np.nanmax(scores) + 1e-12
    padded = np.vstack([scores, np.full(scores.shape[1], np.nan)])
    assert float(interquartile_mean(padded)) == pytest.approx(float(interquartile_mean(scores)), abs=1e-12)


@given(stacked=hnp.arrays(float, (2, 4, 3), elements=st.integers(-2, 2).map(float)))
@SOME
def test_leading_axes_are_a_batch(stacked: Array) -> None:
    stacked[0, 2, 1] = stacked[1, 3, 0] = np.nan
    for statistic in AGGREGATES.values():
        np.testing.assert_allclose(statistic(stacked), [statistic(scores) for scores in stacked])
    both = probability_of_improvement(stacked, stacked[::-1])
    np.testing.assert_allclose(both, [probability_of_improvement(*stacked), probability_of_improvement(*stacked[::-1])])
    assert performance_profile(stacked, [0, 1]).shape == (2, 2)


def test_an_interval_is_that_of_a_plain_bootstrap() -> None:
    rng = np.random.default_rng(3)
    scores = rng.normal(size=(6, 4))
    scores[3:, 1] = np.nan
    scores[0, 2] = np.nan
    values = []
    for _ in range(4000):
        resampled = [rng.choice(runs, len(runs)) for runs in columns(scores)]
        values.append(float(np.mean([runs.mean() for runs in resampled])))
    found = interval(mean, scores)
    assert found is not None
    assert (float(found.low), float(found.high)) == pytest.approx(tuple(np.quantile(values, [0.025, 0.975])), abs=0.04)
    narrow = interval(mean, scores, confidence=0.5)
    assert narrow is not None
    assert found.low < narrow.low < mean(scores) < narrow.high < found.high


def test_an_interval_is_the_same_twice_and_in_small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    scores = np.random.default_rng(0).normal(size=(5, 26))
    first = interval(interquartile_mean, scores)
    assert first == interval(interquartile_mean, scores)
    assert first != interval(interquartile_mean, scores, seed=1)
    monkeypatch.setattr(statistics, "_CHUNK", 26 * 5 * 7)
    assert first == interval(interquartile_mean, scores)  # 7 resamples at a time, the same random numbers


def test_runs_are_resampled_within_their_task() -> None:
    # Runs of a task agree, tasks do not: there is nothing to resample.
    scores = np.tile([0.0, 1.0, 5.0], (3, 1))
    for found in aggregate(scores).estimates.values():
        assert found.interval == (found.value, found.value)


def test_there_is_no_interval_below_three_seeds() -> None:
    scores = np.ones((3, 2))
    assert interval(mean, scores) is not None
    scores[0, 1] = np.nan
    found = aggregate(scores)
    assert (found.tasks, found.fewest_runs, found.most_runs) == (2, 2, 3)
    assert {estimate.interval for estimate in found.estimates.values()} == {None}
    assert interval(probability_of_improvement, np.ones((5, 1)), np.ones((2, 1))) is None
    assert str(found.estimates["mean"]) == "1.000"
    assert profile(scores, [0, 1])[1] is None


def test_a_profile_has_a_band() -> None:
    values, band = profile(np.array([[0.1, 0.9], [0.3, 0.9], [0.5, 0.9]]), [0.0, 0.2, 0.4, 0.8, 1.0])
    np.testing.assert_allclose(values, [1, 5 / 6, 4 / 6, 1 / 2, 0])
    assert band is not None
    np.testing.assert_allclose(band.low[[0, 3, 4]], [1, 0.5, 0])
    assert (band.low[1:3] < values[1:3]).all()
    assert (band.high[1:3] > values[1:3]).all()


@pytest.mark.parametrize("scores", [[[np.nan, 1.0]], np.ones((0, 2)), np.ones((2, 0))])
def test_a_task_without_runs_is_refused(scores: Any) -> None:
    with pytest.raises(ValueError, match="every task needs a run"):
        interval(mean, scores)
    with pytest.raises(ValueError, match="every task needs a run"):
        aggregate(scores)


def test_scores_of_tasks_become_an_array() -> None:
    scores = {"b": [1.0, 2.0], "a": [3.0], "empty": []}
    np.testing.assert_array_equal(score_matrix(scores), [[1, 3], [2, np.nan]])
    np.testing.assert_array_equal(score_matrix(scores, ["a", "b"]), [[3, 1], [np.nan, 2]])
    for tasks in (["a", "empty"], ["a", "other"], []):
        with pytest.raises(ValueError, match="every task needs a run"):
            score_matrix(scores, tasks)


def test_scores_are_normalised_game_by_game() -> None:
    games = ["Pong", "RoadRunner"]
    np.testing.assert_allclose(human_normalise([[14.6, 11.5], [-20.7, 7845.0]], games), [[1, 0], [0, 1]])
    assert human_normalise(np.ones((2, 0)), []).shape == (2, 0)
    with pytest.raises(UserError, match="did you mean Pong"):
        human_normalise([1.0], ["Pon"])


def published_aggregates(column: str) -> dict[str, float]:
    scores = read_columns(PER_GAME)[column]
    found = aggregate(human_normalise(score_matrix({game: [score] for game, score in scores.items()}), list(scores)))
    assert found.tasks == 26
    return {name: estimate.value for name, estimate in found.estimates.items()}


def test_published_columns_give_their_aggregates() -> None:
    with PER_GAME.open(encoding="utf-8") as file:
        summaries = {row["game"].partition("(")[0]: row for row in csv.DictReader(file) if "(" in row["game"]}
    rows = {"median": "MEDIAN_HNS", "mean": "MEAN_HNS", "IQM": "IQM", "optimality gap": "OG"}
    columns = read_columns(PER_GAME)
    assert len(columns) == 27
    for column in columns:
        expected = {name: float(summaries[row][column]) for name, row in rows.items()}
        assert published_aggregates(column) == pytest.approx(expected, abs=6e-5), column


def test_a_random_player_and_a_human_are_the_ends_of_the_scale() -> None:
    assert published_aggregates("Random") == {"median": 0, "IQM": 0, "mean": 0, "optimality gap": 1}
    assert published_aggregates("Human") == {"median": 1, "IQM": 1, "mean": 1, "optimality gap": 0}


def test_columns_of_a_stranger_are_read_or_refused(tmp_path: Path) -> None:
    path = tmp_path / "scores.csv"
    path.write_text("game,a,b\nPong,1,\nKrull,2.5,3\nMEDIAN,4,5\n")
    assert read_columns(path) == {"a": {"Pong": 1, "Krull": 2.5}, "b": {"Krull": 3}}
    for text, message in {
        "title,a\nPong,1\n": "has no column 'game'; its columns are title, a",
        "": "has no column 'game'; its columns are none",
        "game,a\nPong,x\n": "Pong, a: expected a number, not 'x'",
        "game,a\nPong,nan\n": "expected a number, not 'nan'",
        "game,a\nPong,1\nPong,2\n": "has 2 rows of Pong",
        "game,a\nMEDIAN,1\n": "has no game of the Atari 100k benchmark",
    }.items():
        path.write_text(text)
        with pytest.raises(UserError, match=message):
            read_columns(path)
    with pytest.raises(UserError, match="cannot be read as CSV"):
        read_columns(tmp_path / "none.csv")
