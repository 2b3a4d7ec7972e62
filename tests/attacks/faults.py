"""Lets one file operation of a run fail, then resumes the run: the same result as if nothing had failed.

    python tests/attacks/faults.py 1000

Each attack picks an operation (write, create, truncate, sync, rename, make a folder, remove), and an error: a full disk
or a broken one, once or from then on. A write that fails writes half. The run may end in one line only. Without the
fault, the same command or `mcurl resume` must then give the result of a run that never stopped.

Linux only: a library (faults.c) is loaded before all others.
"""

from __future__ import annotations

import ctypes
import errno
import os
import random
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path

LIBRARY = "MCURL_FAULTS"


def _preloaded() -> int:
    """Run this program again with the library, which is compiled into a temporary folder; return its exit status."""
    with tempfile.TemporaryDirectory() as scratch:
        library, source = str(Path(scratch) / "faults.so"), Path(__file__).with_suffix(".c")
        subprocess.run(["cc", "-O1", "-shared", "-fPIC", "-o", library, str(source), "-ldl"], check=True)
        environment = {**os.environ, "LD_PRELOAD": library, LIBRARY: library}
        return subprocess.run([sys.executable, *sys.argv], env=environment).returncode


def main(count: int, seed: int) -> int:
    """Run ``count`` attacks, print what came of them, and return the exit status."""
    from attack_runs import RUN, TRAIN, End, command, different, fork, result

    from mcurl import cli

    # Updates take the time, and files are what is attacked.
    few_updates = [*TRAIN, "sac.learning_starts=140"]
    library = ctypes.CDLL(os.environ[LIBRARY])

    def train(out: Path, at: int, error: int, lasting: bool) -> End:
        def work() -> int:
            library.faults_arm(os.fsencode(out), ctypes.c_long(at), error, int(lasting))
            status = cli.main([*few_updates, "--out", str(out)])
            if at == 0:
                print(f"operations: {library.faults_count()}")
            return status

        return fork(work)

    counts: Counter[str] = Counter()
    bad = 0
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch).resolve()
        operations = _count(train, folder / "whole")
        expected = result(folder / "whole" / RUN)
        print(f"{operations} operations in a run", flush=True)
        for number in range(seed, seed + count):
            rng = random.Random(number)
            at, error = rng.randrange(1, operations + 1), rng.choice((errno.ENOSPC, errno.EIO))
            lasting, out = rng.random() < 0.5, folder / "run"
            first = train(out, at, error, lasting)
            trouble = "" if first.status == 0 or first.refused else "TRACEBACK"
            end = first
            if not trouble and first.status != 0:
                again = ["resume", str(out / RUN)]
                end = command(*(again if (out / RUN).exists() else [*few_updates, "--out", str(out)]))
                trouble = "" if end.status == 0 or "is complete with" in end.last else "TORN"
            if not trouble and (names := different(expected, out / RUN)):
                trouble = f"SILENT {', '.join(names)}"
            counts[trouble.partition(" ")[0] or ("refused, then the same" if first.status else "the same")] += 1
            if trouble:
                bad += 1
                what = f"operation {at}, {errno.errorcode[error]}{' from then on' if lasting else ''}"
                print(f"seed {number}: {what}: {trouble}\n{first.output}\n{end.output}", flush=True)
            shutil.rmtree(out, ignore_errors=True)
            if (done := number - seed + 1) % 100 == 0:
                print(f"{done} of {count}, {bad} bad", file=sys.stderr, flush=True)
    for outcome, number in counts.most_common():
        print(f"{number:6d} {outcome}")
    print(f"{count} faults, {bad} with another end than one line and the same result after resume")
    return 1 if bad else 0


def _count(train: object, out: Path) -> int:
    """The number of file operations of a run without faults."""
    end = train(out, 0, 0, False)  # type: ignore[operator]
    assert end.status == 0, end.output
    return int(end.output.rpartition("operations: ")[2])


if __name__ == "__main__":
    if LIBRARY not in os.environ:
        sys.exit(_preloaded())
    sys.exit(main(int(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else 0))
