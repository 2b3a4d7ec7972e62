"""Sample the data of one update: the RL batch, and the views or sequences of the contrastive loss."""

from __future__ import annotations

import dataclasses

import numpy as np
import numpy.typing as npt
from torch import Tensor

from mcurl.agents.base import BatchSpec
from mcurl.objectives.base import Objective, SequencePlan, Sequences
from mcurl.replay.augment import Augmentation, apply_intensity
from mcurl.replay.batch import Batch, Contrast, Transitions
from mcurl.replay.buffer import Replay
from mcurl.replay.gather import BLANK
from mcurl.runtime.seeding import Generators

Rows = npt.NDArray[np.int64]


def sample_batch(
    replay: Replay, spec: BatchSpec, objective: Objective | None, generators: Generators, *, beta: float = 1.0
) -> Batch:
    """Sample the data of one update.

    Args:
        replay: holds at least one transition that can be sampled.
        spec: the data that the agent reads.
        objective: its ``contrast_spec`` describes the data of the contrastive loss; None: no contrastive loss.
        generators: ``"replay"`` samples rows, ``"crops"`` augments, ``"plan"`` makes the objective's random choices.
        beta: β, exponent of the importance weights of a prioritised batch, 0 to 1.

    Returns:
        The batch. Its ``contrast`` is None without an objective, and while no sequence can be sampled.
    """
    rows, transitions = _sample_transitions(replay, spec, generators, beta)
    if objective is None:
        return Batch(transitions)
    if objective.contrast_spec.source == "rl":
        return Batch(transitions, _two_views(transitions, rows, replay, spec, generators))
    return Batch(transitions, _sample_sequences(replay, spec.contrast_augmentation, objective, generators))


def _sample_transitions(
    replay: Replay, spec: BatchSpec, generators: Generators, beta: float
) -> tuple[Rows, Transitions]:
    """The sampled rows and their transitions; observation and next observation are augmented independently."""
    rng = generators["replay"]
    if spec.priority_alpha is None:
        rows, weights = replay.sample_uniform(spec.size, rng), None
    else:
        rows, weights = replay.sample_prioritised(spec.size, rng, beta)
    crops, frame_hw = generators["crops"], _frame_hw(replay)
    window, next_window = (spec.augmentation.window(len(rows), frame_hw, crops) for _ in range(2))
    transitions = replay.gather_transitions(rows, window=window, next_window=next_window, weights=weights)
    factors = [spec.augmentation.intensity(len(rows), crops) for _ in range(2)]
    obs, next_obs = map(apply_intensity, (transitions.obs, transitions.next_obs), factors)
    return rows, dataclasses.replace(transitions, obs=obs, next_obs=next_obs)


def _two_views(
    transitions: Transitions, rows: Rows, replay: Replay, spec: BatchSpec, generators: Generators
) -> Contrast:
    """Two views of the RL batch: CURL's anchors and keys."""
    augmentation, frames = spec.contrast_augmentation, replay.frame_rows(rows)
    # As in CURL, the RL loss and the contrastive loss share a view where both use the same augmentation.
    shared = spec.augmentation == augmentation
    query = transitions.obs if shared else _gather_augmented(replay, frames, augmentation, generators)
    return Contrast(query, _gather_augmented(replay, frames, augmentation, generators), None)


def _sample_sequences(
    replay: Replay, augmentation: Augmentation, objective: Objective, generators: Generators
) -> Contrast | None:
    """Sequences: queries masked by the plan, keys unmasked. None while no sequence can be sampled."""
    spec, rng = objective.contrast_spec, generators["replay"]
    sequences = replay.sample_sequences(spec.batch, spec.length, rng, cross_episodes=spec.cross_episodes)
    if sequences is None:
        return None
    rows, padded = sequences
    frames = replay.frame_rows(rows.ravel()).reshape(*rows.shape, -1)  # [B, T, K]
    plan = objective.plan(Sequences(padded, frames), generators["plan"])
    query_frames = _query_frames(replay, plan, frames, rng)
    query = _gather_augmented(replay, query_frames, augmentation, generators, zero_first=plan.zero_first)
    key = _gather_augmented(replay, frames.reshape(rows.size, -1), augmentation, generators)
    return Contrast(query, key, plan.to(query.device))


def _query_frames(replay: Replay, plan: SequencePlan, frames: Rows, rng: np.random.Generator) -> Rows:
    """Frames ``int64 [R, K]`` of the encoded positions, masked and replaced by the plan; -1 is a blank frame."""
    batch, length, stack = frames.shape
    mask = plan.frame_mask
    random_frames: Rows
    if plan.replaced is not None:
        random_frames = replay.frame_rows(replay.sample_observations(batch * length, rng)).reshape(frames.shape)
        frames = np.where(plan.replaced[..., None], random_frames, frames)
    if mask is not None:
        random_frames = replay.sample_observations(batch * (length + stack - 1), rng).reshape(batch, -1)
        random_frames = np.take_along_axis(random_frames, mask.slot.reshape(batch, -1), 1).reshape(frames.shape)
        frames = np.where(mask.zeroed, BLANK, np.where(mask.replaced, random_frames, frames))
    return frames.reshape(-1, stack)[plan.encoded]


def _gather_augmented(
    replay: Replay, frames: Rows, augmentation: Augmentation, generators: Generators, *, zero_first: bool = False
) -> Tensor:
    """Stacks of frames ``int64 [N, K]``, each augmented independently; with ``zero_first``, after a stack of zeros."""
    n, frame_hw = len(frames), _frame_hw(replay)
    window = augmentation.window(n, frame_hw, generators["crops"])
    factor = augmentation.intensity(n, generators["crops"])
    if not zero_first:
        return apply_intensity(replay.gather_frames(frames, window), factor)
    out = replay.empty_stacks(1 + n, augmentation.output_size(frame_hw))
    out[0] = 0
    replay.gather_frames(frames, window, out=out[1:])
    return apply_intensity(out, None if factor is None else np.append(np.float32(1), factor))


def _frame_hw(replay: Replay) -> tuple[int, int]:
    """Height and width of a frame; (0, 0) for states, which no augmentation crops."""
    return (replay.frame_shape[1], replay.frame_shape[2]) if len(replay.frame_shape) == 3 else (0, 0)
