"""Plain files in folders that anyone may have made or changed.

A file is opened without following a link in its place, and checked before it is read: it is a plain file (a FIFO would
block, a device never ends), it is not too large, and a file that is changed in place has no second name elsewhere.
Files are replaced in one step: written beside their place, synced, renamed.

This module imports neither PyTorch nor NumPy.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import shutil
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from mcurl.errors import UserError

JSON_BYTES = 16 * 2**20
"""Largest size of a JSON file that people or programs describe something in: settings, metadata, provenance."""
TEXT_BYTES = 256 * 2**20
"""Largest size of a log or a table."""
MAX_DEPTH = 100
"""Deepest nesting of a JSON file."""
_FLAGS = {
    "rb": os.O_RDONLY,
    "r+b": os.O_RDWR | os.O_CREAT,
    "ab": os.O_WRONLY | os.O_APPEND | os.O_CREAT,
    "a+b": os.O_RDWR | os.O_APPEND | os.O_CREAT,
    "xb": os.O_WRONLY | os.O_CREAT | os.O_EXCL,
}
# Without O_NONBLOCK, opening a FIFO waits for its other end.
_SAFE = os.O_NONBLOCK | os.O_CLOEXEC | getattr(os, "O_NOCTTY", 0)


def open_plain(path: Path, mode: str = "rb", *, limit: int | None = None, follow: bool = False) -> IO[bytes]:
    """Open a plain file, unbuffered for the modes that write.

    Args:
        path: the file. Links in the path of its folder are followed, one in its own place is not.
        mode: rb; r+b, ab or a+b, which make a missing file; or xb, a new file.
        limit: largest size in bytes; None: any.
        follow: follow a link in the file's place, too. Only for reading.

    Raises:
        UserError: it is a link, no plain file or too large; or it would be changed, and has other names (hard links).
        OSError: it cannot be opened, for example because it does not exist.
    """
    flags = _FLAGS[mode] | _SAFE | (0 if follow and mode == "rb" else os.O_NOFOLLOW)
    try:
        descriptor = os.open(path, flags, 0o666)
    except OSError as error:
        if error.errno in (errno.ELOOP, errno.EMLINK) and path.is_symlink():
            raise UserError(f"{path} is a link, not a plain file: nothing is read or written through it") from error
        if error.errno in (errno.ENXIO, errno.EISDIR, errno.EOPNOTSUPP, errno.ENODEV):
            raise UserError(f"{path} is {kind(path)}, not a plain file") from error
        raise
    try:
        status = os.fstat(descriptor)
        _check(path, status, limit, changes=mode != "rb")
        # Opened by its path, the file knows its name.
        return open(path, mode, buffering=-1 if mode == "rb" else 0, opener=lambda *_: descriptor)
    except BaseException:
        os.close(descriptor)
        raise


def _check(path: Path, status: os.stat_result, limit: int | None, changes: bool) -> None:
    if not stat.S_ISREG(status.st_mode):
        raise UserError(f"{path} is {_kind(status.st_mode)}, not a plain file")
    if changes and status.st_nlink > 1:
        raise UserError(f"{path} is the same file as another one (hard link): replace it with a copy of itself")
    if limit is not None and status.st_size > limit:
        raise UserError(f"{path} has {status.st_size:,} bytes; at most {limit:,} are read")


def as_path(name: str, value: Any) -> Path:
    """A path that a caller passed as the argument ``name``. Raises UserError if it is no path or text, or empty."""
    if not isinstance(value, str | os.PathLike) or not isinstance(os.fspath(value), str):
        raise UserError(f"{name} is a path, not {value!r}")
    if not os.fspath(value):
        raise UserError(f"{name} is empty: write a path")
    return Path(value)


def kind(path: Path) -> str:
    """What is at a path, in words, without following a link."""
    try:
        return _kind(path.lstat().st_mode)
    except OSError:
        return "missing"


def _kind(mode: int) -> str:
    kinds = {
        stat.S_IFREG: "a plain file",
        stat.S_IFDIR: "a folder",
        stat.S_IFLNK: "a link",
        stat.S_IFIFO: "a FIFO",
        stat.S_IFSOCK: "a socket",
        stat.S_IFCHR: "a device",
        stat.S_IFBLK: "a device",
    }
    return kinds.get(stat.S_IFMT(mode), "something else")


def read_bytes(path: Path, limit: int, *, follow: bool = False) -> bytes:
    """The contents of a plain file. Raises UserError and OSError as :func:`open_plain`, and if it grows meanwhile."""
    with open_plain(path, limit=limit, follow=follow) as file:
        data = file.read(limit + 1)
    if len(data) > limit:
        raise UserError(f"{path} has more than {limit:,} bytes, which is the most that is read")
    return data


def read_text(path: Path, limit: int = TEXT_BYTES, *, follow: bool = False) -> str:
    """The text of a plain UTF-8 file.

    Raises:
        UserError: as :func:`read_bytes`, or the file is not UTF-8.
        OSError: it cannot be opened.
    """
    return _decode(read_bytes(path, limit, follow=follow), path)


def _decode(data: bytes, path: Path) -> str:
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is damaged: it is not text in UTF-8 from byte {error.start} on") from error


def complete_lines(data: bytes, path: Path) -> list[str]:
    """The complete lines of the content of a log, which may end in an incomplete one after a kill.

    Args:
        data: the content.
        path: of the log, for messages.

    Raises:
        UserError: it is not UTF-8.
    """
    text, newline, _ = _decode(data, path).rpartition("\n")
    return text.split("\n") if newline else []


def read_json(path: Path, limit: int = JSON_BYTES, *, follow: bool = False) -> Any:
    """The value in a plain JSON file.

    Raises:
        UserError: as :func:`read_text`, or the file is not JSON, or too deep.
        OSError: it cannot be opened.
    """
    return parse_json(read_text(path, limit, follow=follow), path)


def read_object(path: Path, limit: int = JSON_BYTES, *, follow: bool = False) -> dict[str, Any]:
    """The object in a plain JSON file. Raises UserError as :func:`read_json`, also if the file cannot be opened."""
    try:
        value = read_json(path, limit, follow=follow)
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}") from error
    if not isinstance(value, dict):
        raise UserError(f"{path} is damaged: it is not a JSON object")
    return value


def parse_json(text: str, path: Path) -> Any:
    """The value of a JSON text; ``path`` stands in messages. Raises UserError if it is damaged or too deep."""
    try:
        value = json.loads(text)
    except RecursionError:
        raise UserError(f"{path} is damaged: it is nested more than {MAX_DEPTH} levels deep") from None
    except ValueError as error:
        raise UserError(f"{path} is damaged: {error}") from error
    check_depth(value, path)
    return value


def check_depth(value: Any, path: Path) -> None:
    """Raise UserError if a JSON value is nested deeper than :data:`MAX_DEPTH`; functions that recurse may read it."""
    level = [value]
    for _ in range(MAX_DEPTH):
        level = [item for node in level for item in _children(node)]
        if not level:
            return
    raise UserError(f"{path} is damaged: it is nested more than {MAX_DEPTH} levels deep")


def _children(node: Any) -> Iterator[Any]:
    items = node.values() if isinstance(node, dict) else node if isinstance(node, list) else ()
    return (item for item in items if isinstance(item, dict | list))


# Writing


@contextlib.contextmanager
def naming(path: Path, aside: Path | None = None) -> Iterator[None]:
    """A context manager in which each OSError has the name of the file that the user asked for.

    Args:
        path: that file. Errors without a name, such as those of a full disk, get this one.
        aside: the temporary file or folder that is renamed to ``path`` at the end. Errors that name it, or a file in
            it, get the name ``path``.
    """
    try:
        yield
    except OSError as error:
        if error.errno is None or not _is_aside(error.filename, aside):
            raise
        raise OSError(error.errno, error.strerror, str(path)) from error


def _is_aside(name: Any, aside: Path | None) -> bool:
    if name is None:
        return True
    if aside is None or not isinstance(name, str | bytes):
        return False
    return Path(os.fsdecode(name)).is_relative_to(aside)


def write_file(path: Path, content: str | bytes) -> None:
    """Write a file atomically: if the process is killed, either the old or the new file exists.

    A link in its place is replaced, not followed.

    Raises:
        OSError: it cannot be written; the error has the name of this file.
    """
    new = path.with_name(f".{path.name}.new")
    with naming(path, new):
        new.unlink(missing_ok=True)  # of a killed process, or a link
        try:
            with open_plain(new, "xb") as file:
                write_all(file, content.encode() if isinstance(content, str) else content)
                os.fsync(file.fileno())
            os.replace(new, path)
        except OSError:
            new.unlink(missing_ok=True)
            raise
        sync(path.parent)


def write_new(path: Path, content: str | bytes) -> None:
    """Write a new file atomically: if the process is killed, the whole file exists, or none.

    Raises:
        FileExistsError: there is something at this path.
    """
    with new_file(path) as aside, open_plain(aside, "xb") as file:
        write_all(file, content.encode() if isinstance(content, str) else content)


@contextlib.contextmanager
def new_file(path: Path) -> Iterator[Path]:
    """A context manager with the path of a file that does not exist yet. At exit it is synced, and gets its name.

    Args:
        path: the name. The file aside has the same ending, so that other libraries write the same format.

    Raises:
        FileExistsError: there is something at this path.
    """
    aside = path.with_name(f".{path.stem}.{os.getpid()}.new{path.suffix}")
    with naming(path, aside):
        aside.unlink(missing_ok=True)
        try:
            yield aside
            sync(aside)
            claim(aside, path)
        finally:
            aside.unlink(missing_ok=True)
        sync(path.parent)


@contextlib.contextmanager
def new_folder(path: Path) -> Iterator[Path]:
    """A context manager with an empty folder. At exit it is synced, and gets its name.

    Raises:
        OSError: there is something else than an empty folder at this path.
    """
    with folder_aside(path) as aside:
        yield aside
        aside.chmod(0o755)
        sync_all(aside)
        aside.rename(path)
    sync(path.parent)


@contextlib.contextmanager
def folder_aside(path: Path) -> Iterator[Path]:
    """A context manager with an empty folder beside ``path``, which is removed at exit if it is still there.

    Raises:
        OSError: it cannot be made or written; the error has the name ``path``.
    """
    with naming(path, path.parent):
        aside = Path(tempfile.mkdtemp(prefix=f".{path.name}-", dir=path.parent))
    with naming(path, aside):
        try:
            yield aside
        finally:
            shutil.rmtree(aside, ignore_errors=True)


def cache_folder() -> Path:
    """The folder of this package's cache, which may not exist yet. Raises OSError if the user has no home."""
    try:
        return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "mcurl"
    except RuntimeError:
        raise OSError("this user has no home folder for the cache: set XDG_CACHE_HOME") from None


@contextlib.contextmanager
def locked_folder(folder: Path) -> Iterator[None]:
    """A context manager that waits until no other process is in it for this folder, where the file system has locks.

    The folder is created if it does not exist, and removed at exit if it was, and is empty.
    """
    missing = [path for path in (folder, *folder.parents) if not path.exists()]
    descriptor = _lock_folder(folder)
    try:
        yield
    finally:
        with contextlib.suppress(OSError):  # it is not empty
            for path in missing:
                path.rmdir()
        os.close(descriptor)


def _lock_folder(folder: Path) -> int:
    """A descriptor of a folder, locked. The folder may be removed while this waits: then it is made again."""
    while True:
        folder.mkdir(parents=True, exist_ok=True)
        with contextlib.suppress(FileNotFoundError):
            descriptor = os.open(folder, os.O_RDONLY)
            with contextlib.suppress(OSError):  # a file system without locks
                fcntl.flock(descriptor, fcntl.LOCK_EX)
            with contextlib.suppress(FileNotFoundError):
                if os.path.samestat(os.fstat(descriptor), os.stat(folder)):
                    return descriptor
            os.close(descriptor)


def claim(aside: Path, path: Path) -> None:
    """Give a file that was written aside its name. Raises FileExistsError if that is in use."""
    try:
        os.link(aside, path, follow_symlinks=False)  # in one step; a rename would replace what is there
    except FileExistsError:
        raise
    except OSError:  # a file system without hard links
        if os.path.lexists(path):
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(path)) from None
        aside.rename(path)


def write_all(file: IO[bytes], data: bytes | memoryview) -> None:
    """Write all bytes to an unbuffered file, which may take fewer at a time. Errors have its name."""
    view = memoryview(data).cast("B")
    with naming(Path(file.name)):
        while view:
            view = view[file.write(view) :]


def sync(path: Path) -> None:
    """Sync a file's content, or a folder's entries, to disk."""
    descriptor = os.open(path, os.O_RDONLY | _SAFE)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sync_all(folder: Path) -> None:
    """Sync a folder with all files and folders in it. Links are left alone."""
    for parent, _, names in os.walk(folder):
        for name in names:
            if not (path := Path(parent, name)).is_symlink():
                sync(path)
        sync(Path(parent))


# Folders


def real_folder(path: Path) -> bool:
    """Whether a path is a folder, and not a link to one."""
    try:
        return stat.S_ISDIR(path.lstat().st_mode)
    except OSError:
        return False


def make_writable(path: Path) -> None:
    """Make a folder with its parents, unless it exists, in which folders can be made.

    Raises:
        OSError: it cannot be made, or nothing can be made in it.
    """
    path.mkdir(parents=True, exist_ok=True)
    with folder_aside(path / "run"):
        pass


def own_folder(path: Path) -> Path:
    """Make a folder in another one, unless it exists, for files that are to be written there.

    Raises:
        UserError: a link or something else is in its place.
        OSError: it cannot be made, for example because the other folder was moved.
    """
    with contextlib.suppress(FileExistsError):
        path.mkdir()
    check_own_folder(path)
    return path


def check_own_folder(path: Path) -> None:
    """Raise UserError if a link or something else is in the place of a folder, which may be missing."""
    if os.path.lexists(path) and not real_folder(path):
        raise UserError(f"{path} is {kind(path)}, not a folder of its own: nothing is written or deleted there")


def check_changeable(path: Path) -> None:
    """Check that a file, if there is one, may be changed in place. Nothing is changed, and a FIFO is not opened.

    Raises:
        UserError: it is no plain file, or has other names (hard links).
    """
    try:
        status = path.lstat()
    except FileNotFoundError:
        return
    _check(path, status, None, changes=True)


def find_folders(root: Path, name: str) -> list[Path]:
    """The folders at or below ``root`` that contain a file of this name, sorted.

    A linked folder is found where it is linked, but folders below it are not, so that no link leads round in circles.
    """
    found, pending = [], [root]
    while pending:
        folder = pending.pop()
        try:
            entries = list(os.scandir(folder))
        except OSError:
            continue
        for entry in entries:
            try:
                if entry.name == name and not entry.is_dir():
                    found.append(folder)
                elif entry.is_dir(follow_symlinks=False):
                    pending.append(folder / entry.name)
                elif entry.is_symlink() and entry.is_dir() and os.path.lexists(Path(entry.path, name)):
                    found.append(folder / entry.name)
            except OSError:
                continue
    return sorted(found)
