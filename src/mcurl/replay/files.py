"""The replay on disk: files that only grow.

Rows lie in segments of ``SEGMENT_ROWS``, by id, one file per column and segment: ``frames-00000.bin``,
``rows-00000.bin``, raw little-endian bytes without a header. A row is written once, when nothing about it can change
any more; what still can (the newest row, the priorities) travels in the checkpoint's own state. So every checkpoint
stays readable while later rows are appended, and a killed process leaves at worst rows that no checkpoint counts.
"""

from __future__ import annotations

import os
import re
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from mcurl.errors import UserError
from mcurl.replay.sampling import Records

SEGMENT_ROWS = 4096
COLUMNS = ("frames", "rows")
_FINGERPRINT_ROWS = 16


class Journal:
    """Writes a ring to a folder and reads it back. ``frames [capacity, ...]`` may be on any device."""

    def __init__(self, frames: Tensor, records: Records) -> None:
        self._frames, self._records = frames, records
        self._folder: Path | None = None
        self._persisted = 0  # ids below are in the folder's files, but for those overwritten before they were written

    def write(self, folder: Path) -> dict[str, Any]:
        """Append the rows that became final since the last call to the files in ``folder``; return the rest of the
        state."""
        records = self._records
        final = records.written - records.open
        if folder.resolve() != self._folder:
            self._folder, self._persisted = folder.resolve(), 0
        folder.mkdir(parents=True, exist_ok=True)
        if final > self._persisted:
            first = max(self._persisted, records.oldest)
            truncate(folder, first, {"frames": self._frames[0].nbytes, "rows": records.table.itemsize})
            for start, stop in segments(first, final, records.capacity):
                slot = start % records.capacity
                append(folder, "frames", start, self._frames[slot : slot + stop - start].cpu().numpy())
                append(folder, "rows", start, records.table[slot : slot + stop - start])
            sync_folder(folder)
        self._persisted = final
        newest = (records.written - 1) % records.capacity
        return {
            "layout": self._layout(),
            "written": records.written,
            "oldest": records.oldest,
            "fingerprint": self._fingerprint(final),
            "open_frame": self._frames[newest].cpu().numpy().copy() if records.open else None,
            "open_step": int(records.table["step"][newest]) if records.open else None,
        }

    def read(self, folder: Path, state: dict[str, Any]) -> None:
        """Restore what ``write`` saved.

        Raises:
            UserError: layout or files do not fit. The ring is unusable then.
        """
        if state["layout"] != self._layout():
            raise UserError(
                f"the saved replay is laid out as {state['layout']}, not as {self._layout()}: "
                "keep these settings to resume"
            )
        records, frames, is_open = self._records, self._frames, state["open_frame"] is not None
        final = int(state["written"]) - is_open
        dtype = np.dtype(str(frames.dtype).removeprefix("torch.")).newbyteorder("<")
        for start, stop in segments(int(state["oldest"]), final, records.capacity):
            slot = start % records.capacity
            frames[slot : slot + stop - start] = torch.from_numpy(
                load(folder, "frames", start, stop, dtype, tuple(frames.shape[1:]))
            )
            records.table[slot : slot + stop - start] = load(folder, "rows", start, stop, records.table.dtype)
        records.written, records.open = int(state["written"]), is_open
        if self._fingerprint(final) != state["fingerprint"]:
            raise UserError(
                f"{folder} was continued from an earlier checkpoint: its rows are no longer those of this one"
            )
        if is_open:
            newest = final % records.capacity
            frames[newest] = torch.as_tensor(state["open_frame"])
            records.table[newest] = np.zeros((), records.table.dtype)
            records.table[newest]["step"] = state["open_step"]
        records.find_starts()
        self._folder, self._persisted = folder.resolve(), final

    def _layout(self) -> dict[str, Any]:
        return {
            "capacity": self._records.capacity,
            "frame_shape": list(self._frames.shape[1:]),
            "frame_dtype": str(self._frames.dtype),
            "row": str(self._records.table.dtype.descr),
            "segment_rows": SEGMENT_ROWS,
        }

    def _fingerprint(self, final: int) -> int:
        """A checksum of the last final rows, which tells these files from those of another continuation of the run."""
        slots = np.arange(max(final - _FINGERPRINT_ROWS, self._records.oldest), final) % self._records.capacity
        frames = self._frames[torch.from_numpy(slots).to(self._frames.device)].cpu().numpy()
        return zlib.crc32(frames.tobytes(), zlib.crc32(self._records.table[slots].tobytes()))


def segments(first: int, stop: int, capacity: int) -> Iterator[tuple[int, int]]:
    """Split the ids from ``first`` up to and without ``stop`` where a segment ends and where the ring does.

    Yields:
        The first id and the stop of each part, whose rows are consecutive both in one file and in memory.
    """
    while first < stop:
        end = min(stop, first + SEGMENT_ROWS - first % SEGMENT_ROWS, first + capacity - first % capacity)
        yield first, end
        first = end


def append(folder: Path, column: str, first: int, rows: npt.NDArray[Any]) -> None:
    """Write consecutive rows ``[M, ...]``, of ids from ``first`` on, that lie in one segment. They are on the disk when
    this returns."""
    path = _path(folder, column, first // SEGMENT_ROWS)
    with path.open("r+b" if path.exists() else "w+b") as file:
        file.seek(first % SEGMENT_ROWS * (rows.nbytes // len(rows)))
        file.write(np.ascontiguousarray(rows).view(np.uint8).data)
        file.flush()
        os.fsync(file.fileno())


def load(
    folder: Path, column: str, first: int, stop: int, dtype: np.dtype[Any], shape: tuple[int, ...] = ()
) -> npt.NDArray[Any]:
    """Read consecutive rows that lie in one segment: ``[stop - first, *shape]``.

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


def truncate(folder: Path, first: int, row_bytes: dict[str, int]) -> None:
    """Delete all rows from id ``first`` on, which were written after the checkpoint that is being continued.

    Args:
        row_bytes: bytes of a row in each column.
    """
    for column, segment, path in _files(folder):
        end = max(0, first - segment * SEGMENT_ROWS) * row_bytes[column]
        if end == 0:
            path.unlink()
        elif path.stat().st_size > end:
            os.truncate(path, end)


def prune(folder: Path, keep_from: int) -> None:
    """Delete the segments whose rows all have ids below ``keep_from``: the ``oldest`` in the state of the oldest
    checkpoint to keep."""
    for _, segment, path in _files(folder):
        if (segment + 1) * SEGMENT_ROWS <= keep_from:
            path.unlink()


def sync_folder(folder: Path) -> None:
    """Make the names of new files durable, where the system can."""
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
    matches = [
        (re.fullmatch(rf"({'|'.join(COLUMNS)})-(\d{{5,}})\.bin", path.name), path) for path in sorted(folder.iterdir())
    ]
    return [(match[1], int(match[2]), path) for match, path in matches if match]
