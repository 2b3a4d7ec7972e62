"""The replay on disk: files that only grow.

Rows lie in segments of `SEGMENT_ROWS`, by id, one file per column and segment: `frames-00000.bin`, `rows-00000.bin`, raw little-endian bytes without a
header. A row is written once, when nothing about it can change any more; what still can (the newest row, the priorities) travels in the checkpoint's own
state. So every checkpoint stays readable while later rows are appended, and a killed process leaves at worst rows that no checkpoint counts.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from mcurl.errors import UserError

SEGMENT_ROWS = 4096
COLUMNS = ("frames", "rows")


def pieces(first: int, stop: int, capacity: int) -> Iterator[tuple[int, int]]:
    """Cuts the ids first..stop where a segment ends and where the ring does: each piece is consecutive in one file and in memory."""
    while first < stop:
        end = min(stop, first + SEGMENT_ROWS - first % SEGMENT_ROWS, first + capacity - first % capacity)
        yield first, end
        first = end


def append(folder: Path, column: str, first: int, rows: npt.NDArray[Any]) -> None:
    """Writes consecutive rows, of ids from `first` on, that lie in one segment; they are on the disk when it returns."""
    path = _path(folder, column, first // SEGMENT_ROWS)
    with path.open("r+b" if path.exists() else "w+b") as file:
        file.seek(first % SEGMENT_ROWS * (rows.nbytes // len(rows)))
        file.write(np.ascontiguousarray(rows).view(np.uint8).data)
        file.flush()
        os.fsync(file.fileno())


def load(folder: Path, column: str, first: int, stop: int, dtype: np.dtype[Any], shape: tuple[int, ...] = ()) -> npt.NDArray[Any]:
    """Reads consecutive rows that lie in one segment: [stop - first, *shape].

    Raises:
        UserError: the file is missing or shorter than that.
    """
    path = _path(folder, column, first // SEGMENT_ROWS)
    items = int(np.prod(shape))
    try:
        values = np.fromfile(path, dtype, (stop - first) * items, offset=first % SEGMENT_ROWS * items * dtype.itemsize)
    except FileNotFoundError:
        raise UserError(f"{path} is missing: the replay of this checkpoint cannot be restored") from None
    if len(values) < (stop - first) * items:
        raise UserError(f"{path} is shorter than its checkpoint says: the replay of this checkpoint cannot be restored")
    return values.reshape(stop - first, *shape)


def cut(folder: Path, first: int, row_bytes: dict[str, int]) -> None:
    """Drops all rows from id `first` on: what was written after the checkpoint that is being continued."""
    for column, segment, path in _files(folder):
        end = max(0, first - segment * SEGMENT_ROWS) * row_bytes[column]
        if end == 0:
            path.unlink()
        elif path.stat().st_size > end:
            os.truncate(path, end)


def prune(folder: Path, keep_from: int) -> None:
    """Deletes the segments that hold only rows of ids below `keep_from`: the `oldest` in the state of the oldest checkpoint that is kept."""
    for _, segment, path in _files(folder):
        if (segment + 1) * SEGMENT_ROWS <= keep_from:
            path.unlink()


def sync_folder(folder: Path) -> None:
    """Makes the names of new files durable, where the system can."""
    if os.name != "posix":
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _path(folder: Path, column: str, segment: int) -> Path:
    return folder / f"{column}-{segment:05d}.bin"


def _files(folder: Path) -> list[tuple[str, int, Path]]:
    """Column, segment number and path of every segment file in the folder."""
    found = [(re.fullmatch(rf"({'|'.join(COLUMNS)})-(\d{{5,}})\.bin", path.name), path) for path in sorted(folder.iterdir())]
    return [(match[1], int(match[2]), path) for match, path in found if match]
