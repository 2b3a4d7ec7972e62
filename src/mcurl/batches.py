"""Rows of the replay -> the pixels that one update reads: the RL batch, and what the objective wants, by its plan."""

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
from mcurl.runtime.seeding import Generators

Rows = npt.NDArray[np.int64]


def sample_batch(
    replay: Replay, spec: BatchSpec, objective: Objective | None, generators: Generators, *, beta: float = 1.0
) -> Batch:
    """One update's data.

    Args:
        replay: holds at least one whole transition.
        spec: what the agent reads.
        objective: its ``contrast_spec`` says what the contrastive loss reads; None: nothing.
        generators: ``"replay"`` samples rows, ``"crops"`` augments, ``"plan"`` makes the objective's own choices.
        beta: exponent of the importance weights of a prioritised batch.
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
    """Observation and next observation are augmented independently."""
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
    """Two views of the RL batch: CURL's anchors and keys. The RL loss's own view is the anchor where it is such a
    view."""
    augmentation, frames = spec.contrast_augmentation, replay.frame_rows(rows)
    same = spec.augmentation == augmentation
    query = transitions.obs if same else _augmented(replay, frames, augmentation, generators)
    return Contrast(query, _augmented(replay, frames, augmentation, generators), None)


def _sample_sequences(
    replay: Replay, augmentation: Augmentation, objective: Objective, generators: Generators
) -> Contrast | None:
    """Sequences: queries as the plan shows them, keys as they are. None while no sequence can be sampled."""
    spec, rng = objective.contrast_spec, generators["replay"]
    windows = replay.sample_sequences(spec.batch, spec.length, rng, cross_episodes=spec.cross_episodes)
    if windows is None:
        return None
    rows, padded = windows
    frames = replay.frame_rows(rows.ravel()).reshape(*rows.shape, -1)  # [B, T, K]
    plan = objective.plan(Sequences(padded, frames), generators["plan"])
    shown = _shown_frames(replay, plan, frames, rng)
    query = _augmented(replay, shown, augmentation, generators, zero_first=plan.zero_first)
    key = _augmented(replay, frames.reshape(rows.size, -1), augmentation, generators)
    return Contrast(query, key, plan.to(query.device))


def _shown_frames(replay: Replay, plan: SequencePlan, frames: Rows, rng: np.random.Generator) -> Rows:
    """The frames ``[R, K]`` of the encoded positions, as the plan shows them; -1 is a blank one."""
    batch, length, stack = frames.shape
    mask = plan.frame_mask
    spares: Rows
    if plan.replaced is not None:
        spares = replay.frame_rows(replay.sample_observations(batch * length, rng)).reshape(frames.shape)
        frames = np.where(plan.replaced[..., None], spares, frames)
    if mask is not None:
        spares = replay.sample_observations(batch * (length + stack - 1), rng).reshape(batch, -1)
        spares = np.take_along_axis(spares, mask.slot.reshape(batch, -1), 1).reshape(frames.shape)
        frames = np.where(mask.zeroed, -1, np.where(mask.replaced, spares, frames))
    return frames.reshape(-1, stack)[plan.encoded]


def _augmented(
    replay: Replay, frames: Rows, augmentation: Augmentation, generators: Generators, *, zero_first: bool = False
) -> Tensor:
    """Stacks of the given frames ``[N, K]``, augmented independently, after a stack of zeros where ``zero_first``."""
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
    """Height and width of a frame; a state has none, and no augmentation looks at it."""
    return (replay.frame_shape[1], replay.frame_shape[2]) if len(replay.frame_shape) == 3 else (0, 0)
