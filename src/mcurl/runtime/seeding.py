"""One seed, many independent generators, each with a name."""

from __future__ import annotations

import zlib
from typing import Any

import numpy as np


def generator(seed: int, *name: str | int) -> np.random.Generator:
    """A generator that depends on the seed and on every part of its name, and on nothing else.

    ``generator(1, "replay")`` and ``generator(1, "evaluate", 20_000)`` never share a stream, whatever the order they
    are made in.
    """
    words = [zlib.crc32(part.encode()) if isinstance(part, str) else part for part in name]
    return np.random.Generator(np.random.PCG64(np.random.SeedSequence([seed, *words])))


def integer(seed: int, *name: str | int) -> int:
    """A 31-bit seed for libraries that want a number (simulators, torch)."""
    return int(generator(seed, *name).integers(2**31))


class Generators:
    """The named generators of one run: made on first use, saved and restored together."""

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self._made: dict[str, np.random.Generator] = {}

    def __getitem__(self, name: str) -> np.random.Generator:
        if name not in self._made:
            self._made[name] = generator(self.seed, name)
        return self._made[name]

    def state_dict(self) -> dict[str, Any]:
        return {name: made.bit_generator.state for name, made in self._made.items()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        for name, value in state.items():
            self[name].bit_generator.state = value
