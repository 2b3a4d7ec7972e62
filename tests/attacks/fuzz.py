"""Gives random inputs to the tests of ``test_fuzz.py``: nothing but one line may come of them.

    PYTHONPATH=tests python tests/attacks/fuzz.py 1000000 [SEED]

The inputs are random bytes, from which Hypothesis makes what a test takes. Its search for inputs unlike those before
grows slower with their number, and is left out; ``guided.py`` searches by coverage. Inputs too short for what they
should become do not count.
"""

from __future__ import annotations

import contextlib
import random
import sys
import tempfile
import traceback
from collections import Counter

from attacks import test_fuzz

SLOW = {
    "test_a_bad_run_does_not_stop_the_report_of_a_good_one",
    "test_checkpoints",
    "test_command_lines",
    "test_exported_policies",
    "test_run_folders_with_damaged_files",
    "test_run_folders_with_other_settings",
    "test_stores",
}
"""Tests with inputs that take ten times as long: they get a twentieth of the others' number."""
SIZES = (64, 256, 1024)
"""Bytes of an input."""


def main(count: int, seed: int) -> int:
    """Give ``count`` inputs, print how many each test got and what was found, and return the exit status."""
    rng, counts, bad = random.Random(seed), Counter[str](), 0
    tests = {name: test for name, test in vars(test_fuzz).items() if name.startswith("test_")}
    weights = [1 if name in SLOW else 20 for name in tests]
    with tempfile.TemporaryDirectory() as scratch, contextlib.chdir(scratch):
        while (done := counts.total()) < count:
            [name] = rng.choices(list(tests), weights)
            data, path = rng.randbytes(rng.choice(SIZES)), list(sys.path)
            try:
                counts[name] += tests[name].hypothesis.fuzz_one_input(data) is not None
            except Exception:
                bad += 1
                counts[name] += 1
                print(f"{name}: {data.hex()}\n{traceback.format_exc()}", flush=True)
            sys.path[:] = path
            if counts.total() > done and counts.total() % 10_000 == 0:
                print(f"{counts.total():,} of {count:,}, {bad} bad", file=sys.stderr, flush=True)
    for name, number in counts.most_common():
        print(f"{number:8,d} {name}")
    print(f"{count:,} inputs, {bad} with another end than one line")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else 0))
