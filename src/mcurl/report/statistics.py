"""Statistics over runs and tasks (Agarwal et al., 2021, "Deep RL at the edge of the statistical precipice").

Scores are arrays ``float64 [..., runs, tasks]``; NaN is a missing run, so tasks may have different numbers of seeds.
Every task weighs the same, and within a task every run. Where all tasks have the same number of runs, each value equals
that of ``rliable`` 1.2 (``tests/oracles/``).
"""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from mcurl import files
from mcurl.errors import UserError, suggest
from mcurl.published import atari_random_and_human

Array = NDArray[np.float64]
Statistic = Callable[..., Array]
"""Function of one or more arrays ``[..., runs, tasks]`` -> ``[...]``, or ``[..., K]`` for a curve of K values."""

MIN_SEEDS = 3
"""The fewest runs per task with which an interval is given."""
RESAMPLES = 10_000
"""Number of bootstrap resamples."""
PROFILE_RESAMPLES = 2_000
"""Number of bootstrap resamples of a performance profile, which has many values."""
_CHUNK = 1 << 21
"""Number of scores that are resampled at a time."""


def task_means(scores: ArrayLike) -> Array:
    """The mean over the runs of each task, ``[..., runs, tasks]`` -> ``[..., tasks]``.

    Raises:
        ValueError: a task has no run.
    """
    values = np.asarray(scores, dtype=np.float64)
    missing = np.isnan(values)
    if not missing.any():
        return np.asarray(values.mean(axis=-2))
    return np.asarray(np.where(missing, 0, values).sum(axis=-2) / _runs_per_task(missing))


def mean(scores: ArrayLike) -> Array:
    """The mean over tasks of each task's mean, ``[..., runs, tasks]`` -> ``[...]``."""
    return np.asarray(task_means(scores).mean(axis=-1))


def median(scores: ArrayLike) -> Array:
    """The median over tasks of each task's mean, ``[..., runs, tasks]`` -> ``[...]``."""
    return np.asarray(np.median(task_means(scores), axis=-1))


def interquartile_mean(scores: ArrayLike) -> Array:
    """The interquartile mean (IQM): the mean of the middle half of all runs of all tasks.

    Of n scores, the lowest and the highest ``floor(n / 4)`` are left out, as rliable does. Where tasks have different
    numbers of runs, a score weighs 1 / (runs of its task), and a quarter of all weight is left out at each end: of a
    score on the edge, a part. Whole scores would leave out more at one end than at the other.

    Args:
        scores: ``[..., runs, tasks]``.

    Returns:
        ``[...]``.
    """
    values = np.asarray(scores, dtype=np.float64)
    missing = np.isnan(values)
    flat = values.reshape(*values.shape[:-2], -1)
    runs = _runs_per_task(missing)
    if (runs == runs.flat[0]).all():
        n = int(runs.flat[0]) * runs.shape[-1]  # missing ones are sorted behind them
        return np.asarray(np.sort(flat, axis=-1)[..., n // 4 : n - n // 4].mean(axis=-1))
    weights = np.where(missing, 0, 1 / runs[..., None, :]).reshape(flat.shape)
    order = np.argsort(flat, axis=-1)
    ordered = np.take_along_axis(np.where(np.isnan(flat), 0, flat), order, axis=-1)
    weights = np.take_along_axis(weights, order, axis=-1)
    below = np.cumsum(weights, axis=-1)
    total = below[..., -1:]
    quarter = total / 4
    outside = np.clip(quarter - (below - weights), 0, weights) + np.clip(quarter - (total - below), 0, weights)
    inside = weights - outside
    return np.asarray((ordered * inside).sum(axis=-1) / inside.sum(axis=-1))


def optimality_gap(scores: ArrayLike, target: float = 1.0) -> Array:
    """How far scores are below a target, on average: target - mean(min(score, target)). 0 is best.

    Args:
        scores: ``[..., runs, tasks]``.
        target: 1 is a human, for human-normalised scores.

    Returns:
        ``[...]``.
    """
    return np.asarray(target - mean(np.minimum(np.asarray(scores, dtype=np.float64), target)))


def probability_of_improvement(x: ArrayLike, y: ArrayLike) -> Array:
    """The probability that a run of X is better than a run of Y, averaged over tasks.

    Of a task: the share of pairs of runs with X above Y, where a tie counts half (the Mann-Whitney U statistic divided
    by the number of pairs).

    Args:
        x: ``[..., runs of X, tasks]``.
        y: ``[..., runs of Y, tasks]``, with the same tasks.

    Returns:
        ``[...]``, from 0 to 1.
    """
    first, second = np.asarray(x, dtype=np.float64), np.asarray(y, dtype=np.float64)
    pairs = _runs_per_task(np.isnan(first)) * _runs_per_task(np.isnan(second))
    wins = np.zeros(np.broadcast_shapes(first.shape[:-2], second.shape[:-2]) + first.shape[-1:])
    for run in range(first.shape[-2]):
        row = first[..., run : run + 1, :]
        wins += (row > second).sum(axis=-2) + 0.5 * (row == second).sum(axis=-2)
    return np.asarray((wins / pairs).mean(axis=-1))


def performance_profile(scores: ArrayLike, thresholds: ArrayLike) -> Array:
    """The share of runs above each threshold (the score distribution; tasks weigh the same).

    Args:
        scores: ``[..., runs, tasks]``.
        thresholds: ``[K]``.

    Returns:
        ``[..., K]``, from 1 to 0.
    """
    values = np.asarray(scores, dtype=np.float64)
    runs = _runs_per_task(np.isnan(values))
    shares = [
        ((values > threshold).sum(axis=-2) / runs).mean(axis=-1) for threshold in np.asarray(thresholds, np.float64)
    ]
    return np.stack(shares, axis=-1)


def _runs_per_task(missing: NDArray[np.bool_]) -> NDArray[np.int64]:
    """The number of runs of each task, ``[..., runs, tasks]`` -> ``[..., tasks]``."""
    runs = missing.shape[-2] - missing.sum(axis=-2)
    if not runs.size or not runs.all():
        raise ValueError("every task needs a run: leave out tasks without scores")
    return np.asarray(runs, dtype=np.int64)


AGGREGATES: dict[str, Statistic] = {
    "median": median,
    "IQM": interquartile_mean,
    "mean": mean,
    "optimality gap": optimality_gap,
}
"""Aggregate statistics of one method by name, in the order of the columns of a table."""


class Interval(NamedTuple):
    """An interval for a statistic, or for each point of a curve."""

    low: Array
    high: Array


def interval(
    statistic: Statistic, *scores: ArrayLike, resamples: int = RESAMPLES, confidence: float = 0.95, seed: int = 0
) -> Interval | None:
    """An interval by stratified bootstrap: the runs of each task are resampled with replacement, tasks are kept.

    The interval lies between percentiles of the statistic over the resamples. Two arrays are resampled independently.

    Args:
        statistic: such as :func:`interquartile_mean`, or :func:`probability_of_improvement` with two arrays.
        *scores: arrays ``[runs, tasks]``.
        resamples: number of resamples.
        confidence: the share of resamples in the interval, between 0 and 1.
        seed: of the resampling. The same seed gives the same interval.

    Returns:
        The interval; None where a task has fewer than ``MIN_SEEDS`` runs.
    """
    arrays = [_pack(np.asarray(array, dtype=np.float64)) for array in scores]
    runs = [_runs_per_task(np.isnan(array)) for array in arrays]
    if min(int(counts.min()) for counts in runs) < MIN_SEEDS:
        return None
    rng = np.random.default_rng(seed)
    chunk = max(_CHUNK // max(array.size for array in arrays), 1)
    values = [
        statistic(*(_resample(array, counts, size, rng) for array, counts in zip(arrays, runs, strict=True)))
        for size in _chunks(resamples, chunk)
    ]
    low, high = np.quantile(np.concatenate(values), [(1 - confidence) / 2, (1 + confidence) / 2], axis=0)
    return Interval(np.asarray(low), np.asarray(high))


def _pack(array: Array) -> Array:
    """Move missing runs to the end of their task."""
    return np.take_along_axis(array, np.argsort(np.isnan(array), axis=0, kind="stable"), axis=0)


def _chunks(total: int, size: int) -> Iterator[int]:
    for start in range(0, total, size):
        yield min(size, total - start)


def _resample(array: Array, runs: NDArray[np.int64], size: int, rng: np.random.Generator) -> Array:
    """Resample the runs of each task: ``[runs, tasks]`` -> ``[size, runs, tasks]``, missing where they were."""
    rows = rng.integers(0, runs, size=(size, *array.shape))
    sample = array[rows, np.arange(array.shape[1])]
    beyond = np.arange(array.shape[0])[:, None] >= runs
    if beyond.any():
        sample[:, beyond] = np.nan
    return sample


@dataclass(frozen=True)
class Estimate:
    """A statistic with its interval."""

    value: float
    interval: tuple[float, float] | None
    """Lower and upper bound; None where a task has fewer than ``MIN_SEEDS`` runs."""

    def __str__(self) -> str:
        bounds = "" if self.interval is None else f" [{self.interval[0]:.3f}, {self.interval[1]:.3f}]"
        return f"{self.value:.3f}{bounds}"


@dataclass(frozen=True)
class Aggregates:
    """The aggregate statistics of one method."""

    estimates: dict[str, Estimate]
    """Names of ``AGGREGATES`` -> estimate."""
    tasks: int
    """Number of tasks."""
    fewest_runs: int
    """The smallest number of runs of a task."""
    most_runs: int
    """The largest number of runs of a task."""


def estimate(statistic: Statistic, *scores: ArrayLike, seed: int = 0) -> Estimate:
    """A statistic and its 95 % interval. Args as for :func:`interval`; the statistic must give one number."""
    bounds = interval(statistic, *scores, seed=seed)
    return Estimate(float(statistic(*scores)), None if bounds is None else (float(bounds.low), float(bounds.high)))


def aggregate(scores: ArrayLike, seed: int = 0) -> Aggregates:
    """All aggregate statistics of normalised scores ``[runs, tasks]``, with 95 % intervals from the same resamples.

    One row of means over seeds, such as a published table, gives the median and the mean of the runs. Its IQM and its
    optimality gap are those of the means, which differ from those of the runs.
    """

    def stack(values: ArrayLike) -> Array:
        return np.stack([statistic(values) for statistic in AGGREGATES.values()], axis=-1)

    runs = _runs_per_task(np.isnan(np.asarray(scores, dtype=np.float64)))
    bounds = interval(stack, scores, seed=seed)
    estimates = {
        name: Estimate(float(value), None if bounds is None else (float(bounds.low[i]), float(bounds.high[i])))
        for i, (name, value) in enumerate(zip(AGGREGATES, stack(scores), strict=True))
    }
    return Aggregates(estimates, len(runs), int(runs.min()), int(runs.max()))


def profile(scores: ArrayLike, thresholds: ArrayLike, seed: int = 0) -> tuple[Array, Interval | None]:
    """The performance profile ``[K]`` of scores ``[runs, tasks]``, and its 95 % interval at each threshold."""
    statistic = partial(performance_profile, thresholds=thresholds)
    return statistic(scores), interval(statistic, scores, resamples=PROFILE_RESAMPLES, seed=seed)


def score_matrix(scores: Mapping[str, Sequence[float]], tasks: Sequence[str] | None = None) -> Array:
    """Scores as an array ``[runs, tasks]``. Tasks with fewer runs than others are filled with NaN.

    Args:
        scores: task -> scores of its runs.
        tasks: the columns, in their order; None: all tasks of ``scores`` that have a run.

    Raises:
        ValueError: a task has no run, or there is no task.
    """
    columns = [scores.get(task, ()) for task in tasks] if tasks is not None else [v for v in scores.values() if len(v)]
    if not columns or not all(map(len, columns)):
        raise ValueError("every task needs a run: leave out tasks without scores")
    matrix = np.full((max(map(len, columns)), len(columns)), np.nan)
    for i, column in enumerate(columns):
        matrix[: len(column), i] = column
    return matrix


def human_normalise(scores: ArrayLike, games: Sequence[str]) -> Array:
    """Human-normalised scores: 0 is a random policy, 1 is a human.

    Args:
        scores: ``[..., games]``.
        games: games of the Atari 100k benchmark.

    Raises:
        UserError: a game is not in the benchmark.
    """
    known = atari_random_and_human()
    for game in games:
        if game not in known:
            raise UserError(f"there is no human score for {game!r}: {suggest(game, known)}")
    random, human = np.array([known[game] for game in games]).reshape(-1, 2).T
    return np.asarray((np.asarray(scores, dtype=np.float64) - random) / (human - random))


def read_columns(path: Path) -> dict[str, dict[str, float]]:
    """Read a CSV file with one row per game and one column per method, such as those of ``mcurl.published``.

    Empty cells, and rows that are not a game of the Atari 100k benchmark (such as a median), are left out.

    Returns:
        Column -> game -> score.

    Raises:
        UserError: the file cannot be read, has no column ``game``, no game or a game twice, or a cell is
            not a number.
    """
    try:
        reader = csv.DictReader(io.StringIO(files.read_text(path, follow=True), newline=""))
        rows, header = list(reader), list(reader.fieldnames or ())
    except (OSError, csv.Error) as error:
        raise UserError(f"{path} cannot be read as CSV: {error}") from error
    if "game" not in header:
        raise UserError(f"{path} has no column 'game'; its columns are {', '.join(header) or 'none'}")
    rows = [row for row in rows if row["game"] in atari_random_and_human()]
    games = [row["game"] for row in rows]
    if not games:
        raise UserError(f"{path} has no game of the Atari 100k benchmark in its column 'game'")
    for game in games:
        if games.count(game) > 1:
            raise UserError(f"{path} has {games.count(game)} rows of {game}")
    columns: dict[str, dict[str, float]] = {name: {} for name in header if name != "game"}
    for row in rows:
        for name, column in columns.items():
            if row[name]:
                column[row["game"]] = _number(row[name], f"{path}, {row['game']}, {name}")
    return columns


def _number(text: str, place: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = np.nan
    if not np.isfinite(value):
        raise UserError(f"{place}: expected a number, not {text!r}")
    return value
