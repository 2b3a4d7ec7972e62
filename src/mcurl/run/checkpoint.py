"""Saves and loads trees of tensors and plain values, as ``state.safetensors`` and ``state.json``.

Loading never executes code from the files. ``state.json`` contains the tree and its plain values. A tensor or an array
is the name of an entry in ``state.safetensors``. A dict with string keys is a JSON object. Every other value that JSON
cannot represent exactly is a JSON array that begins with its kind:

    ["list", a, b]   ["tuple", a, b]   ["map", [key, value], ...]   ["int", "0x..."]   ["float", "inf"]
    ["tensor", name]   ["array", name, dtype, shape]   ["scalar", name, dtype, []]
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import re
import shutil
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load as load_tensors
from safetensors.torch import save_file as save_tensors

from mcurl.errors import UserError
from mcurl.files import check_depth, read_bytes, sync, sync_all, write_file
from mcurl.runtime.limits import process_memory

FORMAT = "mcurl-tree"
VERSION = 1
_PLAIN_INT = 2**53
"""Integers below this are exact in every JSON reader; larger ones are written as text."""
_ARRAY_KINDS = "biufcSU"
"""NumPy kinds with a fixed layout of bytes: no Python objects, no records."""
_DTYPE = re.compile(rf"[<>|=][{_ARRAY_KINDS}]\d{{1,9}}")
_DOCUMENT_BYTES = 256 * 2**20
"""Largest size of ``state.json``."""
WRONG_VALUES = (
    *(KeyError, IndexError, TypeError, ValueError, AttributeError, OverflowError, RuntimeError, RecursionError),
    *(MemoryError,),
)
"""What values of wrong types and sizes raise in Python, NumPy and PyTorch."""


def save_tree(folder: Path, tree: Any, name: str = "state") -> None:
    """Write a tree into a folder, and sync the files to disk.

    Args:
        folder: an existing folder.
        tree: nested dicts (string or int keys), lists and tuples. Leaves are dense tensors on any device and with any
            strides, NumPy arrays and scalars, int of any size, float, bool, str or None.
        name: of the two files, without their suffixes.

    Raises:
        TypeError: a leaf or a key has an unsupported type. The message contains its path in the tree.
        OSError: the files cannot be written, for example because the disk is full.
    """
    writer = _Writer()
    node = writer.node(tree, "")
    path = folder / f"{name}.safetensors"
    try:
        save_tensors(writer.tensors, path)
    except SafetensorError as error:
        raise _system_error(error, path) from error
    path.chmod(folder.stat().st_mode & 0o666)  # safetensors creates files that only their owner can read
    sync(path)
    document = {
        "format": FORMAT,
        "version": VERSION,
        "tensors": {"bytes": path.stat().st_size, "crc32": _crc32_of(path)},
        "tree_crc32": _crc32(node),
        "tree": node,
    }
    write_file(folder / f"{name}.json", json.dumps(document, indent=1))


def load_tree(folder: Path, name: str = "state", *, follow: bool = False) -> Any:
    """Load a tree that :func:`save_tree` wrote, with the same types. Tensors are on the CPU.

    Args:
        folder: the folder.
        name: of the two files, without their suffixes.
        follow: whether the files may be links, as in the cache of the Hugging Face hub.

    Raises:
        UserError: the files are missing, damaged, or of another format.
    """
    document = _read_document(folder / f"{name}.json", follow)
    tensors = _read_tensors(folder / f"{name}.safetensors", document["tensors"], follow)
    try:
        return _value(document["tree"], tensors)
    except WRONG_VALUES as error:
        raise UserError(f"{folder / name}.json is damaged: {_one_line(error)}") from error


def check_tree(tree: Any) -> None:
    """Raise TypeError if a leaf or a key of a tree has a type that :func:`save_tree` does not support."""
    try:
        _Writer().node(tree, "")
    except RecursionError as error:
        raise TypeError("a tree of so many levels cannot be saved") from error


def tree_hash(tree: Any) -> str:
    """SHA-256 of a tree: of its plain values, and of names, types, shapes and bytes of its tensors.

    A tree that was saved and loaded has the same hash. The arguments and errors are those of :func:`save_tree`.
    """
    writer = _Writer()
    digest = hashlib.sha256(json.dumps(writer.node(tree, "")).encode())
    for name, tensor in sorted(writer.tensors.items()):
        digest.update(f"{name} {tensor.dtype} {list(tensor.shape)}".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def write_atomically(final: Path, write: Callable[[Path], None]) -> None:
    """Write a folder atomically: if the process is killed, either the old or the new folder exists.

    Args:
        final: path of the folder. An existing folder is replaced.
        write: called with the path of an empty folder, and writes files into it. They are synced afterwards.
    """
    recover(final)
    new, old = _sibling(final, "new"), _sibling(final, "old")
    if new.exists():
        shutil.rmtree(new)
    new.mkdir(parents=True)
    try:
        write(new)
        sync_all(new)
    except BaseException:
        shutil.rmtree(new, ignore_errors=True)
        raise
    if final.exists():
        final.rename(old)  # Until the next line, `final` does not exist. recover() handles a kill at this point.
    new.rename(final)
    sync(final.parent)
    if old.exists():
        shutil.rmtree(old)


def recover(final: Path) -> None:
    """Clean up after a kill in :func:`write_atomically`: restore or remove the old folder."""
    old = _sibling(final, "old")
    if not old.exists():
        return
    if final.exists():
        shutil.rmtree(old)
    else:
        old.rename(final)


class _Writer:
    """Converts a tree to JSON values and collects its tensors."""

    def __init__(self) -> None:
        self.tensors: dict[str, torch.Tensor] = {}
        self._storages: set[int] = set()

    def node(self, value: Any, place: str) -> Any:
        kind = type(value)
        if value is None or kind in (bool, str):
            return value
        if kind is int:
            return value if abs(value) < _PLAIN_INT else ["int", hex(value)]
        if kind is float:
            return value if math.isfinite(value) else ["float", repr(value)]
        if isinstance(value, torch.Tensor):
            return ["tensor", self._add(place, self._contiguous(value, place))]
        if isinstance(value, np.ndarray | np.generic):
            return self._array(value, place)
        if isinstance(value, dict):
            return self._dict(value, place)
        if kind in (list, tuple):
            return [kind.__name__, *(self.node(item, f"{place}/{i}") for i, item in enumerate(value))]
        raise TypeError(f"a {kind.__name__} at {place or 'the root'} cannot be saved")

    def _dict(self, value: dict[Any, Any], place: str) -> Any:
        for key in value:
            if type(key) not in (str, int):
                raise TypeError(
                    f"the key {key!r} at {place or 'the root'} cannot be saved: keys are strings or integers"
                )
        nodes = [(key, self.node(item, f"{place}/{key}")) for key, item in value.items()]
        if all(type(key) is str for key in value):
            return dict(nodes)
        return ["map", *([self.node(key, place), node] for key, node in nodes)]

    def _array(self, value: Any, place: str) -> Any:
        if value.dtype.kind not in _ARRAY_KINDS:
            raise TypeError(f"an array of {value.dtype} at {place or 'the root'} cannot be saved")
        data = (
            torch.frombuffer(bytearray(value.tobytes()), dtype=torch.uint8)
            if value.nbytes
            else torch.zeros(0, dtype=torch.uint8)
        )
        kind = "array" if isinstance(value, np.ndarray) else "scalar"
        return [kind, self._add(place, data), value.dtype.str, list(value.shape)]

    def _contiguous(self, tensor: torch.Tensor, place: str) -> torch.Tensor:
        """The tensor, or a copy of it, contiguous and with its own storage, as safetensors requires."""
        if tensor.layout != torch.strided or tensor.is_quantized or tensor.dtype == torch.complex128:
            raise TypeError(f"a tensor of {tensor.dtype}, {tensor.layout} at {place or 'the root'} cannot be saved")
        tensor = tensor.detach().cpu().resolve_conj().resolve_neg()
        storage = tensor.untyped_storage()
        if not tensor.is_contiguous() or storage.nbytes() != tensor.nbytes or storage.data_ptr() in self._storages:
            return tensor.clone(memory_format=torch.contiguous_format)
        self._storages.add(storage.data_ptr())
        return tensor

    def _add(self, place: str, tensor: torch.Tensor) -> str:
        name = place.lstrip("/") or "root"
        while name in self.tensors:  # {"a/b": x, "a": {"b": y}} and {1: x, "1": y} are valid trees
            name += "'"
        self.tensors[name] = tensor
        return name


def _value(node: Any, tensors: dict[str, torch.Tensor]) -> Any:
    if isinstance(node, dict):
        return {key: _value(item, tensors) for key, item in node.items()}
    if not isinstance(node, list):
        return node
    kind, *rest = node
    match kind:
        case "list":
            return [_value(item, tensors) for item in rest]
        case "tuple":
            return tuple(_value(item, tensors) for item in rest)
        case "map":
            return {_value(key, tensors): _value(item, tensors) for key, item in rest}
        case "int":
            return int(rest[0], 16)
        case "float":
            return float(rest[0])
        case "tensor":
            return tensors[rest[0]]
        case "array" | "scalar":
            return _load_array(kind, tensors[rest[0]], rest[1], rest[2])
    raise ValueError(f"unknown kind {kind!r}")


def _load_array(kind: str, data: torch.Tensor, dtype: str, shape: list[int]) -> Any:
    if not _DTYPE.fullmatch(dtype):
        raise ValueError(f"unknown dtype {dtype}")
    array = np.frombuffer(data.numpy().tobytes(), np.dtype(dtype)).reshape(shape).copy()
    return array if kind == "array" else array[()]


def _read_document(path: Path, follow: bool) -> dict[str, Any]:
    try:
        document = json.loads(read_bytes(path, _DOCUMENT_BYTES, follow=follow))
        check_depth(document, path)
    except FileNotFoundError as error:
        raise UserError(f"{path} does not exist") from error
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{path} is damaged or not an mcurl checkpoint: {_one_line(error)}") from error
    if not isinstance(document, dict) or document.get("format") != FORMAT:
        raise UserError(f"{path} is not an mcurl checkpoint")
    if (version := document.get("version")) != VERSION:
        raise UserError(f"{path} was written by another version of mcurl (format {version}, this one reads {VERSION})")
    if (
        "tree" not in document
        or not isinstance(document.get("tensors"), dict)
        or _crc32(document["tree"]) != document.get("tree_crc32")
    ):
        raise UserError(f"{path} is damaged: its checksum does not match")
    return document


def _read_tensors(path: Path, expected: dict[str, Any], follow: bool) -> dict[str, torch.Tensor]:
    try:
        data = read_bytes(path, process_memory() // 2, follow=follow)
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}") from error
    if len(data) != expected.get("bytes") or zlib.crc32(data) != expected.get("crc32"):
        raise UserError(f"{path} is damaged or belongs to another state.json: its checksum does not match")
    try:
        tensors: dict[str, torch.Tensor] = load_tensors(data)
    except (SafetensorError, *WRONG_VALUES) as error:
        raise UserError(f"{path} is damaged: {_one_line(error)}") from error
    return tensors


def _crc32_of(path: Path) -> int:
    """Checksum of a large file, read in blocks."""
    checksum = 0
    with path.open("rb") as file:
        while block := file.read(2**20):
            checksum = zlib.crc32(block, checksum)
    return checksum


def _crc32(node: Any) -> int:
    return zlib.crc32(json.dumps(node).encode())


def first_line(error: BaseException) -> str:
    """The type of an exception, and the first line of its message."""
    return f"{type(error).__name__} {error}".partition("\n")[0][:300]


def _system_error(error: SafetensorError, path: Path) -> OSError:
    """The system's error in one of safetensors, which has its number in the text only."""
    if number := re.search(r"os error (\d+)", str(error)):
        return OSError(int(number[1]), os.strerror(int(number[1])), str(path))
    return OSError(f"{path} cannot be written: {_one_line(error)}")


def _one_line(error: BaseException) -> str:
    return " ".join(f"{type(error).__name__} {error}".split())[:300]


def _sibling(path: Path, word: str) -> Path:
    return path.with_name(f".{path.name}.{word}")
