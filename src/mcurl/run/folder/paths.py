"""Where run folders are, what makes a folder one, and their JSON files."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mcurl.errors import UserError, closest, list_choices
from mcurl.files import read_object
from mcurl.run.format import FORMAT
from mcurl.run.names import check_name, run_name


def run_folder(out: Path, settings: Mapping[str, Any], name: str | None = None) -> Path:
    """Path of a run's folder: ``<out>/<suite>-<task>/<name>-seed<k>``, with only the characters of file names.

    Raises UserError if the name does not fit into a path. None: the names of the method and of a user's agent.

    >>> str(run_folder(Path("runs"), {"task": "dmc/cartpole-swingup", "method": "mcurl", "seed": 1}))
    'runs/dmc-cartpole-swingup/mcurl-seed1'
    """
    task = re.sub(r"[^\w.-]+", "-", settings["task"])
    return out / task / f"{check_name(name) if name is not None else run_name(settings)}-seed{settings['seed']}"


def is_run(path: Path) -> bool:
    """Whether a path is a run folder. The format in ``run.json`` excludes folders of other programs."""
    try:
        return (path / "settings.json").is_file() and read_object(path / "run.json").get("format") == FORMAT
    except UserError:
        return False


def suggest_runs(path: Path) -> str:
    """Suggest runs below ``path``, or below its first parent that contains runs."""
    for folder in (path, *path.parents[:3]):
        runs = [
            run.parent
            for depth in ("*", "*/*", "*/*/*")
            for run in folder.glob(f"{depth}/run.json")
            if is_run(run.parent)
        ]
        if runs:
            # Compared from this folder on: before it, all are alike.
            close = closest(str(path.relative_to(folder)), [str(run.relative_to(folder)) for run in runs])
            return f"did you mean {folder / close}?" if close else list_choices(map(str, runs), 4)
    return "there are no runs nearby"


def as_json(value: Any) -> str:
    """The text of a JSON file."""
    return json.dumps(value, indent=2) + "\n"
