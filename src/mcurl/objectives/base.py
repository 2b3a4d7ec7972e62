"""The contract of a contrastive objective: what data it wants, its random choices on the host, a loss.

An objective sees neither the replay nor an optimizer nor the kind of agent, so each one works with SAC, with Rainbow
and with an agent of the user's.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from mcurl.registry import Pluggable

Encode = Callable[[Tensor], Tensor]
"""Pixels ``uint8 [N, K*C, h, w]`` -> features ``float32 [N, d]``."""
Augment = Callable[[Tensor], Tensor]
"""Pixels ``[N, K*C, H, W]`` -> pixels ``[N, K*C, h, w]``, drawn independently for each observation."""


@dataclass(frozen=True)
class ContrastSpec:
    """The data that an objective wants for one update.

    ``"rl"``: two augmented views of the observations in the RL batch. ``"sequences"``: ``batch`` windows of ``length``
    consecutive observations, each observation as a query and as a key with an augmentation of its own.
    """

    source: Literal["rl", "sequences"]
    batch: int = 0
    """B, sequences."""
    length: int = 0
    """T, positions in a sequence."""
    cross_episodes: bool = False
    """Windows may run across episode ends (the released code's way)."""
    head_init: Literal["standard", "uniform"] = "standard"
    """First weights of the head that Rainbow puts between encoder and objective: PyTorch's, or U[0, 1) (CURL's)."""


@dataclass(frozen=True)
class Sequences:
    """Sampled windows, as an objective plans over them (host)."""

    padded: npt.NDArray[np.bool_]
    """``bool [B, T]``: positions outside their episode."""
    frames: npt.NDArray[np.int64]
    """``int64 [B, T, K]``: the frame at each place of each stack, oldest first. One number is one frame; the frames of
    a window are consecutive numbers; -1 is a blank frame."""


@dataclass(frozen=True)
class FrameMask:
    """Single frames that the query encoder does not see as they are (host)."""

    slot: npt.NDArray[np.int64]
    """``int64 [B, T, K]``: which of the window's F = T + K - 1 frames stands at each place."""
    zeroed: npt.NDArray[np.bool_]
    """``bool [B, T, K]``: shown as zeros."""
    replaced: npt.NDArray[np.bool_]
    """``bool [B, T, K]``: shown as a random frame of the replay, the same one wherever the frame stands."""


@dataclass(frozen=True)
class SequenceTensors:
    """A plan on the device, for an objective without a mask."""

    padded: Tensor
    """``bool [B, T]``."""


@dataclass(frozen=True)
class SequencePlan:
    """The random choices of one update over sequences (host): which observations the query encoder sees, and how."""

    padded: npt.NDArray[np.bool_]
    """``bool [B, T]``: positions outside their episode."""
    encoded: npt.NDArray[np.int64]
    """``int64 [R]``: flat positions whose (own or replacing) observation passes the query encoder."""
    replaced: npt.NDArray[np.bool_] | None = None
    """``bool [B, T]``: positions shown as a random observation of the whole replay; None: the plan never replaces."""
    frame_mask: FrameMask | None = None
    """The mask over single frames, where there is one."""

    zero_first: ClassVar[bool] = False
    """Whether the query pixels begin with a zero observation."""

    def to(self, device: torch.device) -> Any:
        """What the loss reads, as tensors; nobody waits for the transfer."""
        return SequenceTensors(torch.from_numpy(self.padded).to(device, non_blocking=True))


class Loss(NamedTuple):
    value: Tensor
    """Scalar, float32."""
    metrics: dict[str, Tensor]
    """Named scalars, detached; they stay tensors until they are logged."""


class Objective(nn.Module, Pluggable, ABC):
    """A contrastive loss that trains the encoder beside the RL loss (eq. 6). Made as ``Class(settings, feature_dim)``.

    Parameters that require a gradient are optimised; momentum copies are parameters that do not.
    """

    contrast_spec: ContrastSpec

    @abstractmethod
    def loss(
        self, query_pixels: Tensor, key_pixels: Tensor, plan: Any, encode_query: Encode, encode_key: Encode
    ) -> Loss:
        """The loss of one update.

        Args:
            query_pixels: ``uint8 [R, K*C, h, w]``: the first view with ``source="rl"``; else what the plan shows.
            key_pixels: ``uint8 [N, K*C, h, w]``: the second view; else every position's own observation, N = B·T.
            plan: what ``plan(...).to(device)`` gave; None with ``source="rl"``.
            encode_query: the encoder that this loss trains.
            encode_key: its momentum copy; call it without gradient.
        """

    def plan(self, sequences: Sequences, generator: np.random.Generator) -> SequencePlan:
        """This update's random choices over sequences, sampled on the host. Default: every observation as it is."""
        return SequencePlan(sequences.padded, np.arange(sequences.padded.size))

    def learning_rate(self, env_steps: int) -> dict[str, float]:
        """Factors on the base learning rate: ``"encoder"``, through this loss (where the agent gives it an optimizer of
        its own), and ``"objective"``, its own parameters.

        Args:
            env_steps: simulator steps learned from, counted from the first update (its own steps included).
        """
        return {"encoder": 1.0, "objective": 1.0}

    def encoder_parameters(self) -> list[nn.Parameter]:
        """The objective's own parameters that learn as part of the encoder: at its rate, without a schedule."""
        return []

    def after_step(self) -> None:
        """Called once per update, after the optimizers stepped."""

    def ema_step(self, momentum: float) -> None:
        """Called whenever the key encoder moves, with its momentum: momentum copies follow here."""

    def set_compute(self, *, fixed_shapes: bool, dtype: torch.dtype) -> None:
        """Called once by the run, before the first update.

        Args:
            fixed_shapes: all updates must have the same shapes (CUDA graphs).
            dtype: the run's arithmetic for products that take time.
        """

    def prepare(
        self,
        observations: Tensor,
        padded: npt.NDArray[np.bool_] | None,
        generator: np.random.Generator,
        *,
        frame_stack: int = 1,
        augment: Augment | None = None,
    ) -> tuple[Tensor, Tensor, Any]:
        """Query pixels, key pixels and plan for :meth:`loss`, without a replay: what an agent of the user's needs.

        Args:
            observations: ``uint8 [B*T, K*C, H, W]``, sequence after sequence; ``[B, K*C, H, W]`` with ``source="rl"``.
            padded: ``bool [B, T]``, positions outside their episode; None with ``source="rl"``.
            generator: makes the plan, and picks random observations among the given ones.
            frame_stack: K, for masks over single frames.
            augment: is called for queries and for keys; None: pixels as they are.
        """
        augment = augment or (lambda pixels: pixels)
        if self.contrast_spec.source == "rl":
            return augment(observations), augment(observations), None
        assert padded is not None, "sequences need their padding"
        plan = self.plan(Sequences(padded, _consecutive_frames(padded.shape, frame_stack)), generator)
        query = augment(_shown(observations, plan, generator))
        if plan.zero_first:
            query = torch.cat([torch.zeros_like(query[:1]), query])
        return query, augment(observations), plan.to(observations.device)


def _consecutive_frames(shape: tuple[int, ...], frame_stack: int) -> npt.NDArray[np.int64]:
    """Frame numbers ``[B, T, K]`` of windows whose frames are all different."""
    batch, length = shape
    window = np.arange(length)[:, None] + np.arange(frame_stack)
    return np.arange(batch)[:, None, None] * (length + frame_stack - 1) + window


def _shown(observations: Tensor, plan: SequencePlan, generator: np.random.Generator) -> Tensor:
    """The observations at the plan's encoded positions, as the plan shows them, ``[R, K*C, H, W]``."""
    device, encoded = observations.device, plan.encoded
    rows = np.arange(len(observations))
    if plan.replaced is not None:
        rows = np.where(plan.replaced.ravel(), generator.integers(len(rows), size=len(rows)), rows)
    shown = observations[torch.from_numpy(rows[encoded]).to(device)]
    mask = plan.frame_mask
    if mask is None:
        return shown
    batch, length, stack = mask.slot.shape
    frames = shown.view(len(shown), stack, -1, *shown.shape[2:])  # [R, K, C, H, W]
    spares = generator.integers(len(observations), size=(batch, length + stack - 1))
    spare = np.take_along_axis(spares, mask.slot.reshape(batch, -1), 1).reshape(-1, stack)[encoded]
    newest = observations.view(len(observations), stack, -1, *shown.shape[2:])[:, -1]  # [N, C, H, W]
    replaced, zeroed = (torch.from_numpy(flags.reshape(-1, stack)[encoded]) for flags in (mask.replaced, mask.zeroed))
    shape = (*replaced.shape, 1, 1, 1)
    frames = torch.where(replaced.view(shape).to(device), newest[torch.from_numpy(spare).to(device)], frames)
    return frames.masked_fill(zeroed.view(shape).to(device), 0).view(shown.shape)
