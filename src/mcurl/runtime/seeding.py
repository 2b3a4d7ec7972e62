"""Independent named random generators from one seed."""

from __future__ import annotations

import random
import zlib
from typing import Any

import numpy as np

from mcurl.runtime.threads import TRAINING


def generator(seed: int, *name: str | int) -> np.random.Generator:
    """Make a generator from a seed and a name.

    Its numbers depend on the seed and on every part of the name, not on other generators or on the order of their
    construction. For example, ``generator(1, "replay")`` and ``generator(1, "evaluate", 20_000)`` are independent.

    Args:
        seed: seed of the run, at least 0.
        name: strings and non-negative integers.
    """
    words = [zlib.crc32(part.encode()) if isinstance(part, str) else part for part in name]
    return np.random.Generator(np.random.PCG64(np.random.SeedSequence([seed, *words])))


def integer(seed: int, *name: str | int) -> int:
    """An integer seed in [0, 2^31), for simulators and PyTorch. The arguments are those of :func:`generator`."""
    return int(generator(seed, *name).integers(2**31))


class Generators:
    """The named generators of one run. They are created on first use, and saved and restored together."""

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self._generators: dict[str, np.random.Generator] = {}

    def __getitem__(self, name: str) -> np.random.Generator:
        if name not in self._generators:
            self._generators[name] = generator(self.seed, name)
        return self._generators[name]

    def state_dict(self) -> dict[str, Any]:
        """Name -> state of the NumPy bit generator."""
        return {name: generator.bit_generator.state for name, generator in self._generators.items()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore a state from :meth:`state_dict`. Generators that it does not contain keep their state."""
        for name, value in state.items():
            self[name].bit_generator.state = value


def seed_globals(seed: int, *name: str | int) -> None:
    """Seed the global generators of ``random`` and ``numpy.random``, which some environments draw from."""
    number = integer(seed, "globals", *name)
    random.seed(number)
    np.random.seed(number)


def global_state() -> dict[str, Any]:
    """The state of the global generators, as a tree of plain values and arrays."""
    version, words, gauss = random.getstate()
    numpy_state: dict[str, Any] = np.random.get_state(legacy=False)  # type: ignore[assignment]
    inner = numpy_state["state"]
    return {
        "random": {"version": version, "words": np.array(words, np.int64), "gauss": gauss},
        "numpy": {**numpy_state, "state": {**inner, "key": np.asarray(inner["key"], np.int64)}},
    }


def load_global_state(state: dict[str, Any]) -> None:
    """Restore a state of :func:`global_state`."""
    values, numpy_state = state["random"], state["numpy"]
    random.setstate((values["version"], tuple(int(word) for word in values["words"]), values["gauss"]))
    key = np.asarray(numpy_state["state"]["key"], np.uint32)
    np.random.set_state({**numpy_state, "state": {**numpy_state["state"], "key": key}})


class SeparateGlobals:
    """A context manager that replaces the global generators by others, seeded once, and restores them at exit.

    It may be entered again, and continues then. It has no effect while a run trains in another thread, which draws
    from the global generators, too.
    """

    def __init__(self, seed: int, *name: str | int) -> None:
        self._seed, self._name = seed, name
        self._own: dict[str, Any] | None = None
        self._outer: dict[str, Any] | None = None

    def __enter__(self) -> None:
        if TRAINING.elsewhere:
            return
        self._outer = global_state()
        if self._own is None:
            seed_globals(self._seed, *self._name)
        else:
            load_global_state(self._own)

    def __exit__(self, *error: object) -> None:
        if self._outer is None:
            return
        self._own = global_state()
        load_global_state(self._outer)
        self._outer = None
