"""Independent named random generators from one seed."""

from __future__ import annotations

import zlib
from typing import Any

import numpy as np


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
