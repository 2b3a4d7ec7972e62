"""The folder of a new run: it appears complete and locked, or not at all."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path

from mcurl.files import write_file
from mcurl.run.folder.lock import Lock
from mcurl.run.folder.logs import EVALUATIONS, EVALUATIONS_HEADER, METRICS


def make_folder(folder: Path, documents: Mapping[str, str]) -> tuple[Lock, list[Path]]:
    """Make the folder of a run, without a checkpoint.

    Args:
        folder: its path, where nothing is.
        documents: file name -> contents.

    Returns:
        The lock that this process holds, and the folders that did not exist before, the innermost first.

    Raises:
        OSError: the folder cannot be made, or exists by now. Nothing is left of it.
    """
    created = [path for path in (folder, *folder.parents) if not path.exists()]
    draft = folder.with_name(f".{folder.name}.{os.getpid()}")
    lock = Lock(draft)
    try:
        for subfolder in ("checkpoints", "replay"):
            (draft / subfolder).mkdir(parents=True)
        (draft / METRICS).touch()
        (draft / EVALUATIONS).write_text(EVALUATIONS_HEADER)
        for name, text in documents.items():
            write_file(draft / name, text)
        lock.acquire()
        draft.rename(folder)
    except BaseException:
        lock.release()
        shutil.rmtree(draft, ignore_errors=True)
        remove_empty(created[1:])
        raise
    return lock, created


def remove_empty(folders: Iterable[Path]) -> None:
    """Remove folders, the innermost first, up to one that is not empty."""
    with contextlib.suppress(OSError):
        for folder in folders:
            folder.rmdir()
