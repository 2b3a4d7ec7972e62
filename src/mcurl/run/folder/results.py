"""What `mcurl evaluate` found, kept in a run folder."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mcurl.files import own_folder, read_object, read_text, write_new
from mcurl.run.folder.paths import as_json


def keep_result(run_folder: Path, env_steps: int, seed: int, values: Mapping[str, Any]) -> Path:
    """Keep the result of an evaluation after training, in ``results``. No file is overwritten.

    Args:
        run_folder: of the run.
        env_steps: simulator steps of training before the evaluation.
        seed: seed of the episodes.
        values: the result as JSON values, with ``returns``.

    Returns:
        The new file, or the one that holds the same result already.
    """
    folder = own_folder(run_folder / "results")
    stem, text = f"{env_steps:09d}-seed{seed}-{len(values['returns'])}episodes", as_json(values)
    for number in itertools.count(1):
        path = folder / f"{stem}{f'-{number}' if number > 1 else ''}.json"
        try:
            write_new(path, text)
            return path
        except FileExistsError:
            if path.is_file() and read_text(path) == text:
                return path
    raise AssertionError


def kept_results(run_folder: Path) -> list[dict[str, Any]]:
    """The results that :func:`keep_result` kept, by file name. Raises UserError if one is damaged."""
    return [read_object(path) for path in sorted((run_folder / "results").glob("*.json"))]
