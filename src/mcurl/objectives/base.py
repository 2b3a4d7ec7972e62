"""The interface of a contrastive objective: the data that it needs, its random choices on the host, and its loss.

An objective does not access the replay, the optimizers or the agent. So each objective works with SAC, with Rainbow
and with a user-defined agent.
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

from mcurl.errors import UserError
from mcurl.registry import Pluggable

Encode = Callable[[Tensor], Tensor]
"""N observations in the agent's layout, see :meth:`Objective.loss` -> features ``float32 [N, d]``."""
Augment = Callable[[Tensor], Tensor]
"""Pixels ``[N, K*C, H, W]`` -> pixels ``[N, K*C, h, w]``, sampled independently for each observation."""


@dataclass(frozen=True)
class ContrastSpec:
    """The data that an objective needs for one update."""

    source: Literal["rl", "sequences"]
    """``"rl"``: two augmented views of the observations in the RL batch. ``"sequences"``: ``batch`` sequences of
    ``length`` consecutive observations, with independent augmentations for queries and keys."""
    batch: int = 0
    """B, number of sequences."""
    length: int = 0
    """T, positions in a sequence."""
    cross_episodes: bool = False
    """Whether sequences run across episode ends, as in the released code."""
    head_init: Literal["standard", "uniform"] = "standard"
    """Initial weights of Rainbow's head between encoder and objective: PyTorch's default, or U[0, 1) as in CURL."""


@dataclass(frozen=True)
class Sequences:
    """Sampled sequences, on the host: the input of :meth:`Objective.plan`."""

    padded: npt.NDArray[np.bool_]
    """``bool [B, T]``: positions outside their episode."""
    frames: npt.NDArray[np.int64]
    """``int64 [B, T, K]``: number of each frame of each stack, oldest first. Equal numbers are equal frames. The frames
    of a sequence have consecutive numbers; -1 is a blank frame."""


@dataclass(frozen=True)
class FrameMask:
    """A mask over single frames before they are stacked, on the host."""

    slot: npt.NDArray[np.int64]
    """``int64 [B, T, K]``: index of each frame among the T + K - 1 frames of its sequence."""
    zeroed: npt.NDArray[np.bool_]
    """``bool [B, T, K]``: frames replaced with zeros."""
    replaced: npt.NDArray[np.bool_]
    """``bool [B, T, K]``: frames replaced with a random frame of the replay, the same in all stacks of a sequence."""


@dataclass(frozen=True)
class PlanTensors:
    """A plan without a mask, on the device."""

    padded: Tensor
    """``bool [B, T]``: positions outside their episode."""


@dataclass(frozen=True)
class SequencePlan:
    """The random choices of one update, on the host: the positions that are encoded as queries, and their masks."""

    padded: npt.NDArray[np.bool_]
    """``bool [B, T]``: positions outside their episode."""
    encoded: npt.NDArray[np.int64]
    """``int64 [R]``: flat indices of the positions that the query encoder encodes."""
    replaced: npt.NDArray[np.bool_] | None = None
    """``bool [B, T]``: positions replaced with a random observation of the replay; None: no position."""
    frame_mask: FrameMask | None = None
    """The mask over single frames, if any."""

    zero_first: ClassVar[bool] = False
    """Whether the query pixels start with a zero observation."""

    def to(self, device: torch.device) -> Any:
        """The arrays that the loss reads, as tensors on a device. The transfer is asynchronous."""
        return PlanTensors(torch.from_numpy(self.padded).to(device, non_blocking=True))


class Loss(NamedTuple):
    """The loss of one update and its metrics."""

    value: Tensor
    """``float32 []``."""
    metrics: dict[str, Tensor]
    """Name -> detached scalar; they stay on the device until they are logged."""


class Objective(nn.Module, Pluggable, ABC):
    """A contrastive loss that trains the encoder together with the RL loss (eq. 6).

    The constructor is ``Class(settings, feature_dim)``. Parameters that require a gradient are optimised; momentum
    copies do not require one.
    """

    contrast_spec: ContrastSpec

    @abstractmethod
    def loss(
        self, query_pixels: Tensor, key_pixels: Tensor, plan: Any, encode_query: Encode, encode_key: Encode
    ) -> Loss:
        """The loss of one update.

        Pixels are for the encoders alone: ``uint8 [N, K*C, h, w]``, patches of it (Rainbow, with compiled layers), or
        float32 (with intensity jitter). Only the first axis, one entry per observation, is part of this contract.

        Args:
            query_pixels: ``[R, ...]``. With ``source="rl"``, the first view. Else the plan's encoded positions, masked,
                after a zero observation if the plan has ``zero_first``.
            key_pixels: ``[N, ...]``. With ``source="rl"``, the second view. Else all N = B·T positions.
            plan: result of ``plan(...).to(device)``; None with ``source="rl"``.
            encode_query: the encoder that this loss trains.
            encode_key: its momentum copy; call it without gradients.
        """

    def plan(self, sequences: Sequences, generator: np.random.Generator) -> SequencePlan:
        """Sample the random choices of one update on the host. Default: all positions, without a mask."""
        return SequencePlan(sequences.padded, np.arange(sequences.padded.size))

    def learning_rate(self, env_steps: int) -> dict[str, float]:
        """Factors on the base learning rate.

        Args:
            env_steps: simulator steps since the first update, including those of the current update, at least 1.

        Returns:
            ``"objective"``, the factor for the objective's parameters, and ``"encoder"``, that for the encoder, which
            applies if the agent has a separate optimizer for the contrastive loss.
        """
        return {"encoder": 1.0, "objective": 1.0}

    def encoder_parameters(self) -> list[nn.Parameter]:
        """Those of the objective's parameters that learn at the encoder's rate, without the objective's schedule."""
        return []

    def after_step(self) -> None:
        """Hook that is called once per update, after the optimizer steps.

        With CUDA graphs its work on the device is captured, and replayed in each update; what it does on the host is
        not.
        """

    def ema_step(self, momentum: float) -> None:
        """Update the objective's momentum copies. Called with every update of the key encoder, with its momentum."""

    def set_compute(self, *, fixed_shapes: bool, dtype: torch.dtype) -> None:
        """Configure the computation. Called once, before the first update.

        Args:
            fixed_shapes: all updates must use tensors of the same shapes (CUDA graphs).
            dtype: dtype of expensive matrix products, float32 or bfloat16.
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
        """Query pixels, key pixels and plan for :meth:`loss`, from observations instead of the library's replay.

        Args:
            observations: ``uint8 [B*T, K*C, H, W]``, sequence by sequence; ``[B, K*C, H, W]`` with ``source="rl"``.
            padded: ``bool [B, T]``, positions outside their episode; None with ``source="rl"``.
            generator: samples the plan, and the random observations of the mask among ``observations``.
            frame_stack: K, for masks over single frames. Frames that a stack repeats, at the start of an episode, are
                masked one by one.
            augment: called once for the queries and once for the keys; None: no augmentation.

        Returns:
            ``query_pixels``, ``key_pixels`` and ``plan`` of :meth:`loss`.

        Raises:
            UserError: the padding is missing, or the shapes do not fit each other or the objective.
        """
        augment = augment or (lambda pixels: pixels)
        if self.contrast_spec.source == "rl":
            return augment(observations), augment(observations), None
        self._check_sequences(observations, padded, frame_stack)
        padded = np.asarray(padded, np.bool_)
        plan = self.plan(Sequences(padded, _consecutive_frames(padded.shape, frame_stack)), generator)
        query = augment(_masked_observations(observations, plan, generator))
        if plan.zero_first:
            query = torch.cat([torch.zeros_like(query[:1]), query])
        return query, augment(observations), plan.to(observations.device)

    def _check_sequences(self, observations: Tensor, padded: Any, frame_stack: int) -> None:
        """Raise UserError if observations and padding are not sequences of the objective's length."""
        length = self.contrast_spec.length
        shape = tuple(np.shape(padded)) if padded is not None else None
        if shape is None or len(shape) != 2 or shape[1] != length:
            found = "None" if shape is None else str(list(shape))
            raise UserError(f"padded is bool [B, {length}], the positions outside their episode, not {found}")
        if not np.isin(np.asarray(padded), (0, 1)).all():
            raise UserError("padded is bool: True for the positions outside their episode")
        if not isinstance(observations, Tensor) or observations.ndim != 4 or len(observations) != shape[0] * length:
            found = f"{type(observations).__name__} {list(np.shape(observations))}"
            raise UserError(f"observations are a tensor [{shape[0] * length}, C, H, W] for this padding, not {found}")
        if frame_stack < 1 or observations.shape[1] % frame_stack:
            channels = observations.shape[1]
            raise UserError(f"frame_stack={frame_stack} does not divide the {channels} channels of the observations")


def encoded(encode: Encode, pixels: Tensor, width: int, dtype: torch.dtype) -> Tensor:
    """The features of an encoder, ``[N, width]``, in the dtype of the objective's parameters.

    Raises:
        UserError: the encoder returns something else than floating numbers ``[N, width]``.
    """
    features = encode(pixels)
    if features.shape != (len(pixels), width) or not features.is_floating_point():
        found = f"{str(features.dtype).removeprefix('torch.')} {list(features.shape)}"
        raise UserError(f"the encoder's features are {found}; the objective expects float32 [{len(pixels)}, {width}]")
    return features.to(dtype)


def _consecutive_frames(shape: tuple[int, ...], frame_stack: int) -> npt.NDArray[np.int64]:
    """Frame numbers ``int64 [B, T, K]`` of sequences without common frames."""
    batch, length = shape
    positions = np.arange(length)[:, None] + np.arange(frame_stack)
    return np.arange(batch)[:, None, None] * (length + frame_stack - 1) + positions


def _masked_observations(observations: Tensor, plan: SequencePlan, generator: np.random.Generator) -> Tensor:
    """The observations at the plan's encoded positions, masked and replaced by the plan, ``[R, K*C, H, W]``."""
    device, encoded = observations.device, plan.encoded
    rows = np.arange(len(observations))
    if plan.replaced is not None:
        rows = np.where(plan.replaced.ravel(), generator.integers(len(rows), size=len(rows)), rows)
    stacks = observations[torch.from_numpy(rows[encoded]).to(device)]
    mask = plan.frame_mask
    if mask is None:
        return stacks
    batch, length, stack = mask.slot.shape
    frames = stacks.view(len(stacks), stack, -1, *stacks.shape[2:])  # [R, K, C, H, W]
    random_rows = generator.integers(len(observations), size=(batch, length + stack - 1))
    random_rows = np.take_along_axis(random_rows, mask.slot.reshape(batch, -1), 1).reshape(-1, stack)[encoded]
    newest = observations.view(len(observations), stack, -1, *stacks.shape[2:])[:, -1]  # [N, C, H, W]
    replaced, zeroed = (torch.from_numpy(flags.reshape(-1, stack)[encoded]) for flags in (mask.replaced, mask.zeroed))
    shape = (*replaced.shape, 1, 1, 1)
    frames = torch.where(replaced.view(shape).to(device), newest[torch.from_numpy(random_rows).to(device)], frames)
    return frames.masked_fill(zeroed.view(shape).to(device), 0).view(stacks.shape)
