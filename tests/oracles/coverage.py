"""How often a 95 % interval contains the true value, by seeds, tasks and statistic.

Scores of a run are gamma-distributed (shape 2: skewed), with a scale of its task. Takes some minutes:
``PYTHONPATH=src python tests/oracles/coverage.py``.
"""

from __future__ import annotations

import numpy as np

from mcurl.report.statistics import interquartile_mean, interval, mean, median

TRIALS = 200


def main() -> None:
    rng = np.random.default_rng(1)
    for seeds in (3, 5, 10):
        for tasks in (1, 8, 26):
            scale = rng.gamma(1.0, 1.0, tasks)
            for statistic in (mean, median, interquartile_mean):
                truth = float(np.mean(statistic(rng.gamma(2.0, 0.5, (3000, seeds, tasks)) * scale)))
                inside = 0
                for trial in range(TRIALS):
                    found = interval(statistic, rng.gamma(2.0, 0.5, (seeds, tasks)) * scale, resamples=500, seed=trial)
                    assert found is not None
                    inside += bool(found.low <= truth <= found.high)
                print(f"{seeds} seeds, {tasks} tasks, {statistic.__name__}: {100 * inside / TRIALS:.0f} %", flush=True)


if __name__ == "__main__":
    main()
