"""The replay on disk, as append-only files.

Rows are stored by id in segments of ``SEGMENT_ROWS``, one file per column and segment: ``frames-00000.bin``,
``rows-00000.bin``, raw little-endian bytes without a header. A row is written once, when it can no longer change. Data
that can change (the newest row, the priorities) is part of the checkpoint's state. So every checkpoint stays readable
while later rows are appended. A killed process leaves at worst rows that belong to no checkpoint.

The state has a running checksum of the rows in each segment, so that reading notices any damage. It does not depend on
when checkpoints were made. Format 1 had only a fingerprint of the last rows; it is still read.
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

from mcurl.errors import NotResumableError, UserError
from mcurl.files import open_plain, own_folder, write_all
from mcurl.replay.sampling import Records

SEGMENT_ROWS = 4096
COLUMNS = ("frames", "rows")
VERSION = 2
"""Format of the files and of the state that :meth:`Journal.write` returns."""
_FINGERPRINT_ROWS = 16
Block = tuple[int, int, int, int]
"""First id, stop, and the checksums of the columns, of consecutive rows in one segment."""


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
        self._blocks: list[Block] = []  # of the rows in the files that the ring still has

    def write(self, folder: Path) -> dict[str, Any]:
        """Append the rows that became final since the last call to the files in ``folder``.

        Returns:
            The state that :meth:`read` needs in addition to the files.

        Raises:
            UserError: rows that were written before are not in the files any more.
        """
        records = self._records
        final = records.written - records.open
        if folder.resolve() != self._folder:
            self._folder, self._persisted, self._blocks = folder.resolve(), 0, []
        self._check_files(folder)
        own_folder(folder)
        if final > self._persisted:
            first = max(self._persisted, records.oldest)
            truncate(folder, first, self._row_bytes)
            for start, stop in segments(first, final, records.capacity):
                slot = start % records.capacity
                frames = self._frames[slot : slot + stop - start].cpu().numpy()
                rows = records.table[slot : slot + stop - start]
                append(folder, "frames", start, frames)
                append(folder, "rows", start, rows)
                self._add_block(start, stop, frames, rows)
            sync_folder(folder)
        self._persisted = final
        self._blocks = [block for block in self._blocks if block[1] > records.oldest]
        newest = (records.written - 1) % records.capacity
        return {
            "version": VERSION,
            "layout": self._layout(),
            "written": records.written,
            "oldest": records.oldest,
            "blocks": np.array(self._blocks, np.int64).reshape(-1, 4),
            "open_frame": self._frames[newest].cpu().numpy().copy() if records.open else None,
            "open_step": int(records.table["step"][newest]) if records.open else None,
        }

    def read(self, folder: Path, state: dict[str, Any]) -> None:
        """Restore a state from :meth:`write`.

        Raises:
            UserError: layout or files do not fit, or are damaged. The ring is unusable then.
        """
        if (version := state.get("version", 1)) > VERSION:
            raise UserError(
                f"the replay in {folder} was written by a newer version of mcurl (format {version}, "
                f"this one reads up to {VERSION})"
            )
        if state["layout"] != self._layout():
            raise UserError(
                f"the saved replay is laid out as {state['layout']}, not as {self._layout()}: "
                "resume with the original settings"
            )
        records, is_open = self._records, state["open_frame"] is not None
        oldest, final = int(state["oldest"]), int(state["written"]) - is_open
        if version == 1:
            blocks = [self._read_block(folder, *part) for part in segments(oldest, final, SEGMENT_ROWS)]
        else:
            blocks = [(int(a), int(b), int(c), int(d)) for a, b, c, d in state["blocks"]]
            _check_blocks(blocks, oldest, final, folder)
            for block in blocks:
                self._verify(folder, block, self._read_block(folder, block[0], block[1], oldest))
        records.written, records.open = int(state["written"]), is_open
        if version == 1 and self._fingerprint(final) != state["fingerprint"]:
            raise UserError(
                f"{folder} was continued from an earlier checkpoint: it no longer contains the rows of this one"
            )
        if is_open:
            newest = final % records.capacity
            self._frames[newest] = torch.as_tensor(state["open_frame"])
            records.table[newest] = np.zeros((), records.table.dtype)
            records.table[newest]["step"] = state["open_step"]
        records.find_starts()
        self._folder, self._persisted, self._blocks = folder.resolve(), final, blocks

    def _add_block(self, start: int, stop: int, frames: npt.NDArray[Any], rows: npt.NDArray[Any]) -> None:
        """Add appended rows to the checksums of their segment."""
        block = (start, start, 0, 0)
        if self._blocks and self._blocks[-1][1] == start and start % SEGMENT_ROWS:
            block = self._blocks.pop()
        self._blocks.append((block[0], stop, checksum(frames, block[2]), checksum(rows, block[3])))

    def _read_block(self, folder: Path, start: int, stop: int, oldest: int = 0) -> Block:
        """Read the rows of a block into the ring, except rows before ``oldest``. Returns it with its checksums."""
        records, frames = self._records, self._frames
        dtype = np.dtype(str(frames.dtype).removeprefix("torch.")).newbyteorder("<")
        read_frames = load(folder, "frames", start, stop, dtype, tuple(frames.shape[1:]))
        read_rows = load(folder, "rows", start, stop, records.table.dtype)
        for first, end in segments(max(start, oldest), stop, records.capacity):
            slots = slice(first % records.capacity, first % records.capacity + end - first)
            frames[slots] = torch.from_numpy(read_frames[first - start : end - start])
            records.table[slots] = read_rows[first - start : end - start]
        return start, stop, checksum(read_frames), checksum(read_rows)

    def _verify(self, folder: Path, expected: Block, found: Block) -> None:
        """Raise UserError if the rows of a block in the files are not those that were written."""
        for column, a, b in zip(COLUMNS, expected[2:], found[2:], strict=True):
            if a != b:
                path = _path(folder, column, expected[0] // SEGMENT_ROWS)
                raise UserError(
                    f"{path} does not match its checksum in rows {expected[0]} to {expected[1] - 1}: it is damaged, or "
                    "the run was continued from an earlier checkpoint"
                )

    @property
    def _row_bytes(self) -> dict[str, int]:
        return {"frames": self._frames[0].nbytes, "rows": self._records.table.itemsize}

    def _check_files(self, folder: Path) -> None:
        """Raise NotResumableError unless the files are as long as this object or its predecessor wrote them."""
        stops = {start // SEGMENT_ROWS: stop for start, stop, *_ in self._blocks}  # of the last block in each segment
        for segment, stop in stops.items():
            for column, size in self._row_bytes.items():
                path = _path(folder, column, segment)
                if not path.is_file() or path.stat().st_size < (stop - segment * SEGMENT_ROWS) * size:
                    raise NotResumableError(f"{path} was deleted or cut off by another program while the run trained")

    def _layout(self) -> dict[str, Any]:
        return {
            "capacity": self._records.capacity,
            "frame_shape": list(self._frames.shape[1:]),
            "frame_dtype": str(self._frames.dtype),
            "row": str(self._records.table.dtype.descr),
            "segment_rows": SEGMENT_ROWS,
        }

    def _fingerprint(self, final: int) -> int:
        """The checksum of the last final rows, as format 1 has it."""
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


def checksum(rows: npt.NDArray[Any], before: int = 0) -> int:
    """CRC-32 of the bytes of rows, after others with the checksum ``before``."""
    return zlib.crc32(np.ascontiguousarray(rows).view(np.uint8).data, before)


def append(folder: Path, column: str, first: int, rows: npt.NDArray[Any]) -> None:
    """Write consecutive rows ``[M, ...]`` of one segment, with ids from ``first`` on, and flush them to the disk."""
    path = _path(folder, column, first // SEGMENT_ROWS)
    with open_plain(path, "r+b") as file:
        file.seek(first % SEGMENT_ROWS * (rows.nbytes // len(rows)))
        write_all(file, np.ascontiguousarray(rows).view(np.uint8).data)
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
        with open_plain(path) as file:
            start = first % SEGMENT_ROWS * size * dtype.itemsize
            values = np.fromfile(file, dtype, (stop - first) * size, offset=start)
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
            with open_plain(path, "r+b") as file:
                file.truncate(end)


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


def _check_blocks(blocks: list[Block], oldest: int, final: int, folder: Path) -> None:
    """Raise UserError unless the blocks have all rows from ``oldest`` to ``final - 1``, each in one segment."""
    stops = [blocks[0][0] if blocks else final, *(block[1] for block in blocks)]
    whole = all(
        start == before < stop and start // SEGMENT_ROWS == (stop - 1) // SEGMENT_ROWS
        for before, (start, stop, *_) in zip(stops, blocks, strict=False)
    )
    if not whole or stops[0] < 0 or stops[0] > oldest or stops[-1] != final:
        raise UserError(f"the checkpoint does not say which rows of {folder} it needs: it is damaged")


def _path(folder: Path, column: str, segment: int) -> Path:
    return folder / f"{column}-{segment:05d}.bin"


def _files(folder: Path) -> list[tuple[str, int, Path]]:
    """Column, segment number and path of each segment file in the folder."""
    matches = [
        (re.fullmatch(rf"({'|'.join(COLUMNS)})-(\d{{5,}})\.bin", path.name), path) for path in sorted(folder.iterdir())
    ]
    return [(match[1], int(match[2]), path) for match, path in matches if match]
