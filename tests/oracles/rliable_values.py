"""Compare ``mcurl.report.statistics`` with rliable 1.2.0, and store rliable's values for ``tests/test_statistics.py``.

Runs in an environment of its own, because rliable needs old versions of pandas and arch::

    python -m venv oracle
    oracle/bin/pip install rliable==1.2.0 'pandas<3' 'arch<8' pyarrow
    PYTHONPATH=src oracle/bin/python tests/oracles/rliable_values.py            # compare, and write rliable.json
    PYTHONPATH=src oracle/bin/python tests/oracles/rliable_values.py --check    # compare only
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from rliable import library, metrics

from mcurl.report import export, statistics

TARGET = Path(__file__).with_name("rliable.json")
THRESHOLDS = np.linspace(-0.25, 2.0, 10)
RESAMPLES = 5_000
INTERVAL_TOLERANCE = 0.1
"""Largest difference between bounds, in standard deviations of the scores: both are means over random resamples."""


def cases() -> dict[str, np.ndarray]:
    """Scores ``[runs, tasks]`` in the shapes of the paper's experiments, with 4 decimals; one with many ties."""
    rng = np.random.default_rng(16)
    scores = {
        "atari, 5 seeds": rng.gamma(0.6, 0.6, (5, 26)) + rng.normal(0, 0.05, (5, 26)),
        "atari, another method": rng.gamma(0.6, 0.7, (5, 26)),
        "atari, 10 seeds": rng.gamma(0.6, 0.5, (10, 26)),
        "dmc, 5 seeds": rng.beta(2, 2, (5, 16)),
        "3 seeds, 7 tasks": rng.normal(0.5, 0.5, (3, 7)),
        "4 seeds, 1 task": rng.normal(0.5, 0.5, (4, 1)),
        "ties": rng.integers(0, 4, (5, 6)) / 4,
        "more ties": rng.integers(0, 4, (3, 6)) / 4,
    }
    return {name: values.round(4) for name, values in scores.items()}


PAIRS = [
    ("atari, 5 seeds", "atari, another method"),
    ("atari, another method", "atari, 10 seeds"),
    ("ties", "more ties"),
    ("ties", "ties"),
]


def values(scores: np.ndarray) -> dict[str, Any]:
    """rliable's values of one array."""
    functions = [metrics.aggregate_median, metrics.aggregate_iqm, metrics.aggregate_mean]
    functions.append(metrics.aggregate_optimality_gap)

    def aggregates(array: np.ndarray) -> np.ndarray:
        return np.array([function(array) for function in functions])

    np.random.seed(0)
    _, intervals = library.get_interval_estimates({"x": scores}, aggregates, reps=RESAMPLES)
    profiles, bands = library.create_performance_profile({"x": scores}, THRESHOLDS, reps=1)
    del bands
    return {
        "scores": scores.tolist(),
        "aggregates": dict(zip(statistics.AGGREGATES, aggregates(scores).tolist(), strict=True)),
        "intervals": dict(zip(statistics.AGGREGATES, intervals["x"].T.tolist(), strict=True)),
        "profile": profiles["x"].tolist(),
    }


def improvement(x: np.ndarray, y: np.ndarray) -> dict[str, Any]:
    np.random.seed(0)

    def probability(first: np.ndarray, second: np.ndarray) -> np.ndarray:
        return np.array([metrics.probability_of_improvement(first, second)])

    points, intervals = library.get_interval_estimates({"x": [x, y]}, probability, reps=300)
    return {"probability": float(points["x"][0]), "interval": intervals["x"][:, 0].tolist()}


def seconds(function: Callable[[], object]) -> float:
    start = time.perf_counter()
    function()
    return time.perf_counter() - start


def compare(reference: dict[str, Any]) -> None:
    """Print the largest differences; stop where they are too large."""
    exact, bounds = 0.0, 0.0
    for case in reference["cases"].values():
        scores = np.array(case["scores"])
        ours = statistics.aggregate(scores)
        for name, estimate in ours.estimates.items():
            exact = max(exact, abs(estimate.value - case["aggregates"][name]))
            assert estimate.interval is not None
            difference = np.abs(np.subtract(estimate.interval, case["intervals"][name])).max()
            bounds = max(bounds, difference / scores.std())
        exact = max(exact, np.abs(statistics.performance_profile(scores, THRESHOLDS) - case["profile"]).max())
    for pair in reference["pairs"]:
        x, y = (np.array(reference["cases"][name]["scores"]) for name in (pair["x"], pair["y"]))
        ours = statistics.estimate(statistics.probability_of_improvement, x, y)
        exact = max(exact, abs(ours.value - pair["probability"]))
        if (x.shape != y.shape or (x != y).any()) and ours.interval:
            bounds = max(bounds, np.abs(np.subtract(ours.interval, pair["interval"])).max())
    print(f"largest difference of a value {exact:.1e}, of an interval's bound {bounds:.4f}")
    assert exact < 1e-12
    assert bounds < INTERVAL_TOLERANCE


def load_table() -> None:
    """A table of scores -> rliable's ``score_dict``, as docs/statistics.md shows, from CSV and from Parquet."""
    scores = {"mcurl": cases()["atari, 5 seeds"], "curl": cases()["atari, another method"]}
    rows = [
        row
        for method, array in scores.items()
        for (seed, task), score in np.ndenumerate(array)
        for env_steps, returns in {0: [0.0], 400_000: [score - 0.5, score + 0.5]}.items()
        for row in [
            export.Row("atari100k", f"game{task:02}", method, seed, env_steps, episode, value)
            for episode, value in enumerate(returns)
        ]
    ]
    with tempfile.TemporaryDirectory() as folder:
        for name in ("scores.csv", "scores.parquet"):
            path = Path(folder, name)
            export.write_table(rows, path)
            table = pd.read_csv(path) if path.suffix == ".csv" else pd.read_parquet(path)
            final = table[table.env_steps == 400_000]
            means = final.groupby(["method", "task", "seed"])["return"].mean()
            score_dict = {method: means[method].unstack("task").to_numpy() for method in means.index.levels[0]}
            for method, array in scores.items():
                np.testing.assert_allclose(score_dict[method], array, atol=1e-12)
            points, _ = library.get_interval_estimates(
                score_dict, lambda array: np.array([metrics.aggregate_iqm(array)]), reps=100
            )
            for method, array in scores.items():
                np.testing.assert_allclose(points[method][0], statistics.interquartile_mean(array), atol=1e-12)
            assert export.read_table(path) == sorted(rows)
            print(f"{name}: {len(table)} rows, loaded by rliable")


def main() -> None:
    arrays = cases()
    if "--check" in sys.argv:
        reference = json.loads(TARGET.read_text())
    else:
        start = time.perf_counter()
        reference = {
            "rliable": "1.2.0",
            "thresholds": THRESHOLDS.tolist(),
            "resamples": RESAMPLES,
            "cases": {name: values(array) for name, array in arrays.items()},
            "pairs": [{"x": x, "y": y, **improvement(arrays[x], arrays[y])} for x, y in PAIRS],
        }
        print(f"rliable took {time.perf_counter() - start:.1f} s")
        TARGET.write_text(json.dumps(reference, indent=1) + "\n")
    compare(reference)
    load_table()
    scores = arrays["atari, 5 seeds"]
    own = seconds(lambda: statistics.interval(statistics.interquartile_mean, scores, resamples=2000))
    other = seconds(
        lambda: library.get_interval_estimates(
            {"x": scores}, lambda array: np.array([metrics.aggregate_iqm(array)]), reps=2000
        )
    )
    print(f"interval of the IQM, 2000 resamples: {own * 1000:.0f} ms, rliable {other * 1000:.0f} ms")


if __name__ == "__main__":
    main()
