"""Recorded episodes of an evaluation: what is needed to play them again, as one small file.

A file has a line with format, version and SHA-256 of the rest, a line of JSON, and two compressed arrays: the executed
actions, and (DMControl) the states of the simulator every ``STATE_INTERVAL`` agent steps. It contains no times, so the
same evaluation gives the same bytes. Reading it executes nothing, and checks all sizes before memory is allocated.

This module imports neither PyTorch nor a simulator.
"""

from __future__ import annotations

import functools
import hashlib
import json
import lzma
import math
import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mcurl import __version__, files
from mcurl.errors import UserError
from mcurl.run.provenance import package_versions, processor
from mcurl.runtime import seeding

FORMAT = "mcurl-episodes"
VERSION = 1
SUFFIX = ".episodes"
MAX_EPISODE_STEPS = 100_000
"""Agent steps after which an evaluation cuts off an episode, where the environment's settings have no limit."""
FOLDER = "episodes"
"""Folder of the recordings in a run folder; a file is named after its env steps."""
STATE_INTERVAL = 25
"""Agent steps between two recorded states of the simulator."""
MAX_FILE_BYTES = 64 * 2**20
MAX_ARRAY_BYTES = 512 * 2**20
"""Largest size of an array, uncompressed."""
_BUILD = {
    "dmc": ("mujoco", "dm_control", "numpy", "machine", "libc", "cpu"),
    "atari": ("ale-py",),
}
"""Suite -> entries of :func:`build` on which the simulator's arithmetic depends."""
_OTHER_BUILD = ("gymnasium", "numpy", "machine")
_DTYPES = frozenset({"bool", *(f"{sign}int{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64))})
_ACTION_DTYPES = _DTYPES | {"float32", "float64"}
_FIRST_LINE_BYTES = 128
_MEMORY_LIMIT = 256 * 2**20
"""Memory of the decompressor beside its output."""
_FILTERS = [{"id": lzma.FILTER_LZMA2, "preset": 9, "dict_size": 2**22}]


class DamagedError(UserError):
    """A recording is damaged, or was changed after it was written."""


@dataclass(frozen=True)
class Recording:
    """The episodes of one evaluation, in the order of their numbers.

    Environment i of ``parallel`` played the episodes i, i + parallel, ... It was made with the seed of the first of
    them, and reset with the seed of each.
    """

    task: str
    """``suite/name``."""
    method: str
    """Name of the method."""
    env: Mapping[str, Any]
    """Settings of the environment, as JSON values."""
    seed: int
    """Seed of the evaluation; in training, the run's seed."""
    env_steps: int
    """Simulator steps of training before the evaluation."""
    parallel: int
    """Number of environments."""
    max_episode_steps: int
    """Agent steps after which an episode is truncated."""
    policy: str
    """SHA-256 of the policy's weights, see :func:`mcurl.run.checkpoint.tree_hash`."""
    build: Mapping[str, str]
    """Versions and machine, see :func:`build`."""
    seeds: tuple[int, ...]
    """Seed of each episode."""
    lengths: tuple[int, ...]
    """Agent steps of each episode."""
    returns: tuple[float, ...]
    """Sum of rewards of each episode."""
    actions: NDArray[Any] = field(repr=False)
    """``[sum(lengths), *action_shape]``, the actions that were executed, random ones included."""
    states: NDArray[np.float64] | None = field(repr=False)
    """``float64 [sum((length - 1) // STATE_INTERVAL), D]``, the simulator's state after each ``STATE_INTERVAL`` agent
    steps of an episode, except at its end; None if the environment has no such state."""

    @property
    def episodes(self) -> int:
        """Number of episodes."""
        return len(self.returns)

    @property
    def score(self) -> float:
        """Mean return."""
        return math.fsum(self.returns) / len(self.returns)

    @property
    def environments(self) -> int:
        """Number of environments that played at least one episode."""
        return min(self.parallel, self.episodes)

    def episode_actions(self, episode: int) -> NDArray[Any]:
        """``[length, *action_shape]``, the actions of an episode."""
        first = sum(self.lengths[:episode])
        return self.actions[first : first + self.lengths[episode]]

    def episode_states(self, episode: int) -> NDArray[np.float64] | None:
        """``float64 [(length - 1) // STATE_INTERVAL, D]``, the states of an episode; None if there are none."""
        if self.states is None:
            return None
        counts = [(length - 1) // STATE_INTERVAL for length in self.lengths]
        first = sum(counts[:episode])
        return self.states[first : first + counts[episode]]

    def best_and_median(self) -> dict[str, int]:
        """The numbers of the ``"best"`` episode, and of the ``"median"`` one (the lower of two)."""
        order = sorted(range(self.episodes), key=lambda episode: (self.returns[episode], -episode))
        return {"best": order[-1], "median": order[(self.episodes - 1) // 2]}

    def to_bytes(self) -> bytes:
        """The contents of a file.

        Raises:
            UserError: the episodes are too long for a file, or the actions are not numbers.
        """
        if str(self.actions.dtype) not in _ACTION_DTYPES:
            raise UserError(f"actions of {self.actions.dtype} cannot be recorded")
        arrays = [("actions", self.actions), *([] if self.states is None else [("states", self.states)])]
        for name, array in arrays:
            if array.nbytes > MAX_ARRAY_BYTES:
                raise UserError(f"the {name} of these episodes are too large to be recorded: {array.nbytes:,} bytes")
        blocks = {name: _compress(array) for name, array in arrays}
        header = {
            **{name: getattr(self, name) for name in _TEXTS + _NUMBERS + _LISTS},
            "env": dict(self.env),
            "build": dict(self.build),
            "arrays": [
                {"name": name, "dtype": str(array.dtype), "shape": array.shape, "bytes": len(blocks[name])}
                for name, array in arrays
            ],
        }
        rest = b"\n".join([json.dumps(header, sort_keys=True).encode(), b"".join(blocks.values())])
        data = f"{FORMAT} {VERSION} {hashlib.sha256(rest).hexdigest()}\n".encode() + rest
        if len(data) > MAX_FILE_BYTES:
            raise UserError(f"these episodes are too long to be recorded: {len(data):,} bytes")
        return data


_TEXTS = ("task", "method", "policy")
_NUMBERS = ("seed", "env_steps", "parallel", "max_episode_steps")
_LISTS = ("seeds", "lengths", "returns")


class Recorder:
    """Collects the actions of an evaluation while it is played."""

    def __init__(self) -> None:
        self._seeds: dict[int, int] = {}
        self._lengths: dict[int, int] = {}
        self._actions: dict[int, list[NDArray[Any]]] = {}
        self._newest: dict[int, list[NDArray[Any]]] = {}
        self._states: dict[int, list[NDArray[np.float64]]] = {}
        self._has_states = False

    def begin(self, episode: int, seed: int) -> None:
        """An episode begins, with the seed of its reset."""
        self._seeds[episode], self._lengths[episode] = seed, 0
        self._actions[episode], self._newest[episode], self._states[episode] = [], [], []

    def step(self, episode: int, action: Any, env: Any, over: bool) -> None:
        """The environment ``env`` has executed an action; ``over``: the episode has ended."""
        newest = self._newest[episode]
        newest.append(np.array(action))
        self._lengths[episode] += 1
        if over or len(newest) == 1000:  # one array takes less memory than many small ones
            self._actions[episode].append(np.stack(newest))
            newest.clear()
        state = getattr(env.unwrapped, "physics_state", None)
        self._has_states |= state is not None
        if state is not None and not over and self._lengths[episode] % STATE_INTERVAL == 0:
            self._states[episode].append(state())

    def recording(self, returns: Sequence[float], **fields: Any) -> Recording:
        """The recording of all episodes. ``fields`` are those of :class:`Recording` that are not recorded here."""
        order = range(len(returns))
        states = [state for episode in order for state in self._states[episode]]
        return Recording(
            seeds=tuple(self._seeds[episode] for episode in order),
            lengths=tuple(self._lengths[episode] for episode in order),
            returns=tuple(float(value) for value in returns),
            actions=np.concatenate([actions for episode in order for actions in self._actions[episode]]),
            states=(np.stack(states) if states else np.zeros((0, 0))) if self._has_states else None,
            **fields,
        )


def episode_seed(seed: int, env_steps: int, episode: int) -> int:
    """The seed of an episode: from the seed of the evaluation, its env steps and the episode's number."""
    return seeding.integer(seed, "evaluate", env_steps, episode)


@functools.cache
def build() -> dict[str, str]:
    """Versions of packages, Python and the C library, and the machine: what a simulator's arithmetic depends on."""
    versions = {"mcurl": __version__, "python": platform.python_version()} | package_versions()
    machine = f"{platform.system()} {platform.machine()}"
    libc = " ".join(platform.libc_ver()).strip()
    return versions | {"machine": machine, "libc": libc, "cpu": processor() or "unknown"}


def differences(recording: Recording) -> list[str]:
    """What the arithmetic of the simulator depends on, and differs between a recording and this process, in words."""
    here = build()
    return [
        f"{key} {recording.build.get(key, 'unknown')}, here {here.get(key, 'not installed')}"
        for key in _BUILD.get(recording.task.partition("/")[0], _OTHER_BUILD)
        if recording.build.get(key) != here.get(key)
    ]


def recording_path(run_folder: Path, env_steps: int) -> Path:
    """Path of the recording of an evaluation in a run folder."""
    return run_folder / FOLDER / f"{env_steps:09d}{SUFFIX}"


def find_recordings(run_folder: Path) -> dict[int, Path]:
    """The recordings in a run folder: env steps -> path, in ascending order."""
    paths = sorted((run_folder / FOLDER).glob(f"*{SUFFIX}"))
    return {int(path.stem): path for path in paths if path.stem.isdecimal()}


def read(path: Path) -> Recording:
    """Read a recording.

    Raises:
        DamagedError: the file is damaged, or was changed.
        UserError: the file cannot be read, is too large, of another version, or not a recording.
    """
    try:
        data = files.read_bytes(path, MAX_FILE_BYTES, follow=True)
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}") from error
    return parse(data, path)


def parse(data: bytes, path: Path) -> Recording:
    """Read a recording from the contents of a file; ``path`` stands in messages. Raises UserError as :func:`read`."""
    first, _, rest = data.partition(b"\n")
    words = first.decode("ascii", "replace").split()
    if len(first) > _FIRST_LINE_BYTES or len(words) != 3 or words[0] != FORMAT:
        raise UserError(f"{path} is not a recording of episodes")
    if words[1] != str(VERSION):
        raise UserError(f"{path} has version {words[1]} of the format; this mcurl reads version {VERSION}")
    if hashlib.sha256(rest).hexdigest() != words[2]:
        raise DamagedError(f"{path} is damaged or was changed: its checksum does not match")
    header, _, blocks = rest.partition(b"\n")
    try:
        return _from_header(json.loads(header), blocks)
    except (ValueError, KeyError, TypeError, RecursionError, OverflowError, lzma.LZMAError, MemoryError) as error:
        reason = " ".join(f"{type(error).__name__} {error}".split())[:200]
        raise DamagedError(f"{path} is damaged: {reason}") from error


def _from_header(header: dict[str, Any], blocks: bytes) -> Recording:
    """Check the header and read the arrays. Raises ValueError, KeyError or TypeError if something is wrong."""
    texts: dict[str, Any] = {name: _typed(header, name, str) for name in _TEXTS}
    numbers = {name: _count(header[name], name, low=int(name in _NUMBERS[2:])) for name in _NUMBERS}
    env, versions = _typed(header, "env", dict), _typed(header, "build", dict)
    if not all(isinstance(value, str) for value in versions.values()):
        raise ValueError("build contains something else than text")
    seeds, lengths, returns = (_typed(header, name, list) for name in _LISTS)
    if not len(seeds) == len(lengths) == len(returns) > 0:
        raise ValueError("the numbers of seeds, lengths and returns differ, or are zero")
    lengths = tuple(_count(length, "a length", low=1) for length in lengths)
    if not all(isinstance(value, float) for value in returns):
        raise ValueError("a return is not a number")
    arrays = _arrays(header, blocks, lengths)
    return Recording(
        **(texts | numbers),
        env=env,
        build=versions,
        seeds=tuple(_count(seed, "a seed") for seed in seeds),
        lengths=lengths,
        returns=tuple(returns),
        actions=arrays["actions"],
        states=arrays.get("states"),
    )


def _arrays(header: dict[str, Any], blocks: bytes, lengths: Sequence[int]) -> dict[str, NDArray[Any]]:
    expected = {"actions": sum(lengths), "states": sum((length - 1) // STATE_INTERVAL for length in lengths)}
    dtypes = {"actions": _ACTION_DTYPES, "states": {"float64"}}
    entries = _typed(header, "arrays", list)
    if [entry["name"] for entry in entries] not in (["actions"], ["actions", "states"]):
        raise ValueError("other arrays than actions and states")
    if sum(_count(entry["bytes"], "the size of a block") for entry in entries) != len(blocks):
        raise ValueError("the sizes of the blocks do not fit the file")
    arrays, start = {}, 0
    for entry in entries:
        name, shape = entry["name"], [_count(size, "a size") for size in _typed(entry, "shape", list)]
        if entry["dtype"] not in dtypes[name] or not shape or shape[0] != expected[name] or len(shape) > 8:
            raise ValueError(f"{name} have another type or shape than expected")
        arrays[name] = _decompress(blocks[start : start + entry["bytes"]], np.dtype(entry["dtype"]), shape)
        start += entry["bytes"]
    return arrays


def _typed(values: dict[str, Any], name: str, cls: type[Any]) -> Any:
    if not isinstance(values[name], cls):
        raise ValueError(f"{name} is not a {cls.__name__}")
    return values[name]


def _count(value: Any, name: str, low: int = 0) -> int:
    if type(value) is not int or not low <= value < 2**62:
        raise ValueError(f"{name} is not a whole number from {low}: {str(value)[:40]}")
    return value


def _compress(array: NDArray[Any]) -> bytes:
    """Compress an array, with the bytes of equal significance side by side."""
    planes = np.ascontiguousarray(array).reshape(-1).view(np.uint8).reshape(-1, array.dtype.itemsize).T
    return lzma.compress(planes.tobytes(), lzma.FORMAT_XZ, lzma.CHECK_NONE, filters=_FILTERS)


def _decompress(data: bytes, dtype: np.dtype[Any], shape: Sequence[int]) -> NDArray[Any]:
    """Inverse of :func:`_compress`. Raises ValueError if the array would be too large, or does not fit the data."""
    size = math.prod(shape) * dtype.itemsize
    if size > MAX_ARRAY_BYTES:
        raise ValueError(f"an array of {size:,} bytes is larger than {MAX_ARRAY_BYTES:,}")
    decompressor = lzma.LZMADecompressor(lzma.FORMAT_XZ, memlimit=_MEMORY_LIMIT)
    raw = decompressor.decompress(data, max_length=size + 1)
    if len(raw) != size or not (decompressor.eof or size == 0):
        raise ValueError("the compressed data has another size than its header says")
    planes = np.frombuffer(raw, np.uint8).reshape(dtype.itemsize, -1)
    return np.ascontiguousarray(planes.T).reshape(-1).view(dtype).reshape(shape)
