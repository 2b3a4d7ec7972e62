"""openrlbenchmark 0.3.1 reads the scores that ``mcurl report --openrlbenchmark`` wrote.

Runs in an environment of its own (openrlbenchmark pins old versions of rich; its rliable needs old pandas and arch)::

    mcurl report results --table scores.csv --openrlbenchmark offline
    python -m venv oracle
    oracle/bin/pip install openrlbenchmark==0.3.1 'pandas<3' 'arch<8'
    oracle/bin/python tests/oracles/openrlbenchmark_load.py scores.csv offline
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import openrlbenchmark
import pandas as pd


def main(table: Path, folder: Path, project: str = "atari100k") -> None:
    target = Path(openrlbenchmark.__path__[0], "dataset", "mcurl")
    shutil.rmtree(target, ignore_errors=True)  # of an earlier run of this script
    shutil.copytree(folder, target)
    scores = pd.read_csv(table)
    scores = scores[(scores.suite == project) & scores.method.isin(["mcurl", "curl"])]
    tasks = sorted(scores.task.unique())
    with tempfile.TemporaryDirectory() as plots:
        output = Path(plots, "compare")
        command = [sys.executable, "-m", "openrlbenchmark.rlops", "--offline", "--scan-history"]
        command += ["--filters", f"?we=mcurl&wpn={project}", "mcurl?cl=mcurl", "curl?cl=curl"]
        command += ["--env-ids", *tasks, "--metric-last-n-average-window", "1", "--output-filename", str(output)]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        read = pd.read_csv(output.with_suffix(".csv"), index_col=0)
    last = scores.sort_values("env_steps").groupby(["method", "task", "seed"])["return"].last()
    for task in tasks:
        for method in ("mcurl", "curl"):
            ours = f"{last[method][task].mean():.2f}"
            assert read.loc[task, method].split(" ± ")[0] == ours, (task, method, read.loc[task, method], ours)
            print(f"{task}, {method}: {read.loc[task, method]}")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
