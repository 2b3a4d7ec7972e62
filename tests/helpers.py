"""What the tests of agents, objectives and batches share: clocks, spaces, the smallest encoder, snapshots."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import gymnasium
import numpy as np
import torch
from torch import Tensor, nn

from mcurl import native
from mcurl.agents.base import Clock
from mcurl.agents.sac import SAC
from mcurl.objectives.base import Sequences
from mcurl.replay import Replay

CPU = torch.device("cpu")


def layers_run() -> bool:
    """Whether the layers of ``native.amx`` run on this processor, on matrix units or on AVX-512."""
    built = native.library("amx.features")
    return built is not None and bool(built.supported())


def clock(updates: int = 0, *, agent_steps: int | None = None, repeat: int = 4, horizon: int = 100_000) -> Clock:
    """The clock before update number ``updates + 1``; one update in each agent step unless said otherwise."""
    return Clock(updates + 1 if agent_steps is None else agent_steps, updates, action_repeat=repeat, horizon=horizon)


def box(actions: int) -> gymnasium.spaces.Box:
    return gymnasium.spaces.Box(-1, 1, (actions,), np.float32)


def discrete(actions: int) -> gymnasium.spaces.Discrete:
    return gymnasium.spaces.Discrete(actions)


def consecutive_frames(batch: int, length: int, stack: int = 1) -> np.ndarray:
    """``int64 [B, T, K]``: windows with frames of their own."""
    windows = [[[t + k for k in range(stack)] for t in range(length)] for _ in range(batch)]
    return np.array(windows) + 1000 * np.arange(batch)[:, None, None]


def sequences(padded: np.ndarray, stack: int = 1) -> Sequences:
    return Sequences(padded, consecutive_frames(*padded.shape, stack))


def whole(batch: int, length: int, stack: int = 1) -> Sequences:
    """Windows without padding."""
    return sequences(np.zeros((batch, length), bool), stack)


def padding(*rows: str) -> np.ndarray:
    """``bool [B, T]`` from one text for each sequence, in which # is padding."""
    return np.array([[c == "#" for c in row] for row in rows])


class LinearEncoder(nn.Module):
    """The smallest encoder: one matrix on the pixels."""

    def __init__(self, pixels: Sequence[int], width: int, dtype: torch.dtype = torch.float64) -> None:
        super().__init__()
        self.layer = nn.Linear(int(np.prod(pixels)), width, dtype=dtype)

    def forward(self, pixels: Tensor) -> Tensor:
        features: Tensor = self.layer(pixels.flatten(1).to(self.layer.weight.dtype) / 255)
        return features


def patches(pixels: Tensor) -> Tensor:
    """The patches of Rainbow's two convolutions, ``[N, P, C*25]``, as a gather may have cut them."""
    n, channels, height, width = pixels.shape
    Y, X = height // 25, width // 25
    seen = pixels[:, :, : 25 * Y, : 25 * X].reshape(n, channels, Y, 5, 5, X, 5, 5)
    return seen.permute(0, 2, 5, 3, 6, 1, 4, 7).reshape(n, Y * X * 25, channels * 25)


def random_pixels(n: int, shape: Sequence[int], generator: torch.Generator | None = None) -> Tensor:
    return torch.randint(0, 256, (n, *shape), dtype=torch.uint8, generator=generator)


def snapshot(module: nn.Module) -> dict[str, Tensor]:
    return {name: parameter.detach().clone() for name, parameter in module.named_parameters()}


def perturb(*modules: nn.Module) -> None:
    """Add noise to all parameters, so that copies of a network differ from it."""
    with torch.no_grad():
        for module in modules:
            for parameter in module.parameters():
                parameter.add_(0.1 * torch.randn_like(parameter))


def moved(before: dict[str, Tensor], module: nn.Module) -> set[str]:
    """Names of the parameters that differ from a snapshot."""
    return {name for name, parameter in module.named_parameters() if not torch.equal(before[name], parameter)}


def episodes(agent: Any, *, length: int, rows: int = 60, pixels: Callable[[int], np.ndarray] | None = None) -> Replay:
    """A replay for what an agent reads, with frames of one or three channels as its observations have them: whole
    episodes of ``length`` rows of random pixels, or of ``pixels(row)``.
    """
    continuous = isinstance(agent, SAC)
    frame = (3, 24, 24) if continuous else (1, 28, 28)
    rng = np.random.default_rng(0)
    pixels = pixels or (lambda row: rng.integers(0, 256, frame, dtype=np.uint8))
    spec = agent.batch_spec
    ring = Replay(
        capacity=2 * rows,
        frame_shape=frame,
        frame_dtype="uint8",
        frame_stack=2 if continuous else 4,
        stack_start="repeat" if continuous else "blank",
        action_shape=(2,) if continuous else (),
        action_dtype=np.float32 if continuous else np.int64,
        n_step=spec.n_step,
        discount=spec.discount,
        priority_alpha=spec.priority_alpha,
        layout=spec.layout,
    )
    for first in range(0, rows, length):
        ring.begin(pixels(first))
        for row in range(first + 1, first + length):
            action = rng.uniform(-1, 1, 2).astype(np.float32) if continuous else rng.integers(3)
            ring.append(action, float(rng.random()), pixels(row), row == first + length - 1, False)
    return ring
