"""The replay on disk, as append-only files.

Rows are stored by id in segments of ``SEGMENT_ROWS``, one file per column and segment: ``frames-00000.bin``,
``rows-00000.bin``, raw little-endian bytes without a header. A row is written once, when it can no longer change. Data
that can change (the newest row, the priorities) is part of the checkpoint's state. So every checkpoint stays readable
while later rows are appended. A killed process leaves at worst rows that belong to no checkpoint.
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
    """Writes a ring to a folder and reads it back.

    Args:
        frames: ``[capacity, ...]``, on any device.
        records: of the ring.
    """

    def __init__(self, frames: Tensor, records: Records) -> None:
        self._frames, self._records = frames, records
        self._folder: Path | None = None
        self._persisted = 0  # rows with smaller ids are in the files, unless the ring overwrote them before

    def write(self, folder: Path) -> dict[str, Any]:
        """Append the rows that became final since the last call to the files in ``folder``.

        Returns:
            The state that :meth:`read` needs in addition to the files.
        """
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
        """Restore a state from :meth:`write`.

        Raises:
            UserError: layout or files do not fit. The ring is unusable then.
        """
        if state["layout"] != self._layout():
            raise UserError(
                f"the saved replay is laid out as {state['layout']}, not as {self._layout()}: "
                "resume with the original settings"
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
                f"{folder} was continued from an earlier checkpoint: it no longer contains the rows of this one"
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
        """A checksum of the last final rows. It differs between continuations of a run from an earlier checkpoint."""
        slots = np.arange(max(final - _FINGERPRINT_ROWS, self._records.oldest), final) % self._records.capacity
        frames = self._frames[torch.from_numpy(slots).to(self._frames.device)].cpu().numpy()
        return zlib.crc32(frames.tobytes(), zlib.crc32(self._records.table[slots].tobytes()))


def segments(first: int, stop: int, capacity: int) -> Iterator[tuple[int, int]]:
    """Split the ids from ``first`` to ``stop - 1`` at the ends of segments and of the ring.

    Yields:
        First id and stop of each part. Its rows are consecutive both in one file and in memory.
    """
    while first < stop:
        end = min(stop, first + SEGMENT_ROWS - first % SEGMENT_ROWS, first + capacity - first % capacity)
        yield first, end
        first = end


def append(folder: Path, column: str, first: int, rows: npt.NDArray[Any]) -> None:
    """Write consecutive rows ``[M, ...]`` of one segment, with ids from ``first`` on, and flush them to the disk."""
    path = _path(folder, column, first // SEGMENT_ROWS)
    with path.open("r+b" if path.exists() else "w+b") as file:
        file.seek(first % SEGMENT_ROWS * (rows.nbytes // len(rows)))
        file.write(np.ascontiguousarray(rows).view(np.uint8).data)
        file.flush()
        os.fsync(file.fileno())


def load(
    folder: Path, column: str, first: int, stop: int, dtype: np.dtype[Any], shape: tuple[int, ...] = ()
) -> npt.NDArray[Any]:
    """Read consecutive rows of one segment: ``[stop - first, *shape]``.

    Raises:
        UserError: the file is missing or too short.
    """
    path = _path(folder, column, first // SEGMENT_ROWS)
    size = int(np.prod(shape))
    try:
        values = np.fromfile(path, dtype, (stop - first) * size, offset=first % SEGMENT_ROWS * size * dtype.itemsize)
    except FileNotFoundError:
        raise UserError(f"{path} is missing: the replay of this checkpoint cannot be restored") from None
    if len(values) < (stop - first) * size:
        raise UserError(f"{path} is shorter than its checkpoint says: the replay of this checkpoint cannot be restored")
    return values.reshape(stop - first, *shape)


def truncate(folder: Path, first: int, row_bytes: dict[str, int]) -> None:
    """Delete all rows from id ``first`` on.

    Args:
        folder: of the files.
        first: rows with larger ids were written after the checkpoint that the run continues from.
        row_bytes: column -> bytes of a row.
    """
    for column, segment, path in _files(folder):
        end = max(0, first - segment * SEGMENT_ROWS) * row_bytes[column]
        if end == 0:
            path.unlink()
        elif path.stat().st_size > end:
            os.truncate(path, end)


def prune(folder: Path, keep_from: int) -> None:
    """Delete the segments that contain only ids below ``keep_from``.

    Args:
        folder: of the files.
        keep_from: ``oldest`` in the state of the oldest checkpoint to keep.
    """
    for _, segment, path in _files(folder):
        if (segment + 1) * SEGMENT_ROWS <= keep_from:
            path.unlink()


def sync_folder(folder: Path) -> None:
    """Flush the names of new files to the disk, on POSIX systems."""
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
    """Column, segment number and path of each segment file in the folder."""
    matches = [
        (re.fullmatch(rf"({'|'.join(COLUMNS)})-(\d{{5,}})\.bin", path.name), path) for path in sorted(folder.iterdir())
    ]
    return [(match[1], int(match[2]), path) for match, path in matches if match]
