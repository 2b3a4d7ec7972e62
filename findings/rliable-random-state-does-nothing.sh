#!/usr/bin/env bash
# rliable 1.2.0: random_state does nothing; the same scores and the same seed give other confidence intervals.
#
# Source:    rliable 1.2.0 with arch 7.2.0, get_interval_estimates() and StratifiedBootstrap, IQM of 5 runs of 10 tasks.
# Expected:  "random_state: If specified, ensures reproducibility in uncertainty estimates."
# Seen:      three calls with RandomState(42) give three intervals. StratifiedBootstrap.update_indices() and its twin
#            for independent samples draw with np.random.choice, that is from NumPy's global state, and never read
#            random_state. With the global state seeded, two different values of random_state give the same interval.
#            create_performance_profile() has no such option at all.
# Way out:   np.random.seed(42) before each call.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check \
    rliable==1.2.0 arch==7.2.0 pandas==2.3.3 scipy==1.17.1 numpy==2.4.6
cat > "$folder/intervals.py" <<'PYTHON'
import warnings

import numpy as np
from numpy.random import RandomState
from rliable import library, metrics

warnings.simplefilter("ignore", FutureWarning)
scores = RandomState(0).normal(size=(5, 10))


def iqm(values):
    return np.array([metrics.aggregate_iqm(values)])


def from_estimates(seed: int) -> tuple[float, ...]:
    intervals = library.get_interval_estimates({"A": scores}, iqm, reps=200, random_state=RandomState(seed))[1]
    return tuple(intervals["A"].ravel())


def from_bootstrap(seed: int) -> tuple[float, ...]:
    bootstrap = library.StratifiedBootstrap(scores, random_state=RandomState(seed))
    return tuple(bootstrap.conf_int(iqm, reps=200, method="percentile").ravel())


for interval in (from_estimates, from_bootstrap):
    np.random.seed(0)
    print(f"{interval.__name__}, one seed, three calls: different intervals {len({interval(42) for _ in range(3)})}")
    different = set()
    for seed in (1, 2, 3):
        np.random.seed(0)
        different.add(interval(seed))
    print(f"{interval.__name__}, three seeds, global state seeded: different intervals {len(different)}")
PYTHON
"$folder/venv/bin/python" "$folder/intervals.py" | tee "$folder/seen"
diff "$folder/seen" - <<'SEEN'
from_estimates, one seed, three calls: different intervals 3
from_estimates, three seeds, global state seeded: different intervals 1
from_bootstrap, one seed, three calls: different intervals 3
from_bootstrap, three seeds, global state seeded: different intervals 1
SEEN
