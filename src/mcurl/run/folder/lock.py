"""The lock of a run folder: one process trains, and the file names it."""

from __future__ import annotations

import contextlib
import fcntl
import os
import platform
import secrets
import time
from pathlib import Path
from typing import Any

from mcurl.errors import UserError
from mcurl.files import open_plain, read_bytes, write_all

_ATTEMPTS = 4
_MAX_BYTES = 1000
_HELD = (BlockingIOError, PermissionError)
"""What flock raises if another process holds the lock: EWOULDBLOCK, or EACCES. Anything else: there are no locks."""


class Lock:
    """The lock of a run folder, and this process's hold on it.

    Args:
        folder: the run folder.

    Attributes:
        note: what to tell the user; not empty if the file system has no locks, so that the folder is not locked.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.note = ""
        self._file: Any = None
        self._owner = ""

    def acquire(self) -> None:
        """Lock the folder for training, if its file system has locks; else :attr:`note` says so.

        Raises UserError if another process holds the lock.
        """
        self._file = open_plain(self.folder / "lock", "a+b")
        try:
            self._try()
        except _HELD as error:
            self.release()
            raise UserError(f"{self.folder} is being trained by {_another(self._holder())}") from error
        except OSError as error:
            reason = f"{error.strerror or error}"
            self.note = (
                f"the file system of the run folder has no locks ({reason}): do not train this run twice at once"
            )
        self._owner = f"process {os.getpid()} on {platform.node()}, {secrets.token_hex(8)}"
        self._file.truncate(0)
        write_all(self._file, self._owner.encode())
        os.fsync(self._file.fileno())

    def release(self) -> None:
        """Release the lock, if this process holds it."""
        if self._file is not None:
            self._file.close()
        self._file = None

    @property
    def held_by_another(self) -> bool:
        """Whether another process, or another object of this one, trains the run. Nothing is changed."""
        try:
            file = open_plain(self.folder / "lock")
        except FileNotFoundError:
            return False
        with file:
            try:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except _HELD:
                return True
            except OSError:  # the file system has no locks
                return False
        return False

    @property
    def is_last_owner(self) -> bool:
        """Whether this object was the last one that acquired the lock."""
        return self._holder() == self._owner

    def check(self) -> None:
        """Raise UserError if the folder was moved or deleted, or another process took over the training of this run.

        The latter happens only on a file system whose locks do not hold across machines, after a scheduler has given up
        a machine that still computes. This process must not write to the folder any more.
        """
        if self._file is None or (holder := self._holder()) == self._owner:
            return
        if not (self.folder / "lock").exists():
            raise UserError(
                f"{self.folder / 'lock'} is gone: the run folder was moved or deleted while the run trained; "
                "this process stops without saving"
            )
        raise UserError(f"{self.folder} is trained by {_another(holder)} now: this process stops without saving")

    def _holder(self) -> str:
        """What the last process that locked the folder wrote into ``lock``."""
        # Opened anew: NFS compares a file with the server's when it is opened.
        with contextlib.suppress(OSError):
            return read_bytes(self.folder / "lock", _MAX_BYTES).decode("utf-8", "replace")
        return ""

    def _try(self) -> None:
        """Lock the file. Tries again for a moment, because :attr:`held_by_another` of other processes locks it too."""
        for attempt in range(_ATTEMPTS):
            try:
                fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return
            except _HELD:
                if attempt == _ATTEMPTS - 1:
                    raise
                time.sleep(0.05)


def _another(holder: str) -> str:
    return f"another process ({holder.partition(',')[0]})" if holder else "another process"
