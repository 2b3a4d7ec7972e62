"""Scores in the offline format of openrlbenchmark 0.3: its cache of Weights & Biases runs.

::

    <folder>/<benchmark>/offline.sqlite            the runs: id, project (the benchmark), entity, config
    <folder>/<benchmark>/<run>/run.json            the same of one run
    <folder>/<benchmark>/<run>/run_df.csv          global_step, _runtime, charts/episodic_return: a row for each episode

``config`` has ``env_id`` (the task), ``exp_name`` (the name of the run) and ``seed``.
"""

from __future__ import annotations

import csv
import errno
import json
import sqlite3
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

from mcurl import files
from mcurl.errors import UserError
from mcurl.report.scores import RunScores
from mcurl.report.store import file_name

ENTITY = "mcurl"
"""openrlbenchmark looks for the runs in a folder of this name."""
_FIELDS = ("id", "name", "state", "url", "path", "username", "project", "entity", "config")


def write_offline(runs: Iterable[RunScores], folder: Path) -> int:
    """Write runs to a new folder. Of an evaluation of which only the mean is known there is one row.

    ``_runtime`` is in seconds, from the hours per 100k env steps; 0 where these are unknown.

    Returns:
        The number of runs.

    Raises:
        UserError: the folder exists, or there are no runs.
    """
    check_folder(folder)
    projects: dict[str, list[RunScores]] = defaultdict(list)
    for run in runs:
        projects[run.benchmark].append(run)
    if not projects:
        raise UserError("there are no scores to write")
    folder.parent.mkdir(parents=True, exist_ok=True)
    with files.new_folder(folder) as aside:
        _write_projects(aside, projects)
    return sum(map(len, projects.values()))


def _write_projects(folder: Path, projects: Mapping[str, Sequence[RunScores]]) -> None:
    for benchmark, members in projects.items():
        project = folder / benchmark
        project.mkdir(parents=True)
        _write_database(project / "offline.sqlite", [_metadata(run) for run in members])
        for run in members:
            _write_run(project, run)


def check_folder(folder: Path) -> None:
    """Raise UserError if runs cannot be written to ``folder``."""
    if folder.exists():
        raise UserError(f"{folder} exists already: choose another name, or remove it first")


def _metadata(run: RunScores) -> dict[str, Any]:
    name = f"{file_name(run.task)}-{run.name}-seed{run.seed}"
    return {
        "id": name,
        "name": name,
        "state": "finished" if run.finished else "crashed",
        "url": "",
        "path": [ENTITY, run.benchmark, name],
        "username": ENTITY,
        "project": run.benchmark,
        "entity": ENTITY,
        "config": {"env_id": run.task, "exp_name": run.name, "seed": run.seed},
    }


def _write_run(project: Path, run: RunScores) -> None:
    metadata = _metadata(run)
    target = project / metadata["id"]
    target.mkdir()
    username = metadata.pop("username")
    about = metadata | {"tags": [], "user": {"username": username, "name": username}}
    (target / "run.json").write_text(json.dumps(about) + "\n", encoding="utf-8")
    seconds = (run.provenance.get("hours_per_100k_env_steps") or 0) * 3600 / 100_000
    with (target / "run_df.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(("global_step", "_runtime", "charts/episodic_return"))
        for env_steps, returns in sorted(run.episodes.items()):
            writer.writerows((env_steps, env_steps * seconds, value) for value in returns)


def _write_database(path: Path, rows: Iterable[dict[str, Any]]) -> None:
    columns = ", ".join(f'"{name}" TEXT NOT NULL' for name in _FIELDS)
    try:
        with closing(sqlite3.connect(path)) as database, database:
            database.execute(f'CREATE TABLE "offlinerun" ({columns})')
            database.executemany(
                f'INSERT INTO "offlinerun" VALUES ({", ".join("?" * len(_FIELDS))})',
                [[value if isinstance(value, str) else json.dumps(value) for value in row.values()] for row in rows],
            )
    except sqlite3.OperationalError as error:  # for example a full disk
        raise OSError(errno.EIO, str(error), str(path)) from error
