"""Rows of the replay -> the pixels that one update reads: the RL batch, and the views that the objective wants, by its
plan."""

from __future__ import annotations

import numpy as np
from torch import Tensor

from mcurl.agents.base import Views
from mcurl.objectives.base import Objective
from mcurl.replay.augment import CentreCrop, Window
from mcurl.replay.batch import Batch, Contrast, Transitions
from mcurl.replay.buffer import Replay
from mcurl.runtime.seeding import Generators


def draw(
    replay: Replay, views: Views, objective: Objective | None, generators: Generators, *, importance: float = 1.0
) -> Batch:
    """Sample one update's data.

    Args:
        replay: holds at least one whole transition.
        views: what the agent reads.
        objective: its ``views`` say what the contrastive loss reads; None: nothing.
        generators: ``"replay"`` draws rows, ``"crops"`` augments, ``"plan"`` makes the objective's own choices.
        importance: β, exponent of the importance weights of a prioritised batch.
    """
    rng = generators["replay"]
    if views.prioritised:
        rows, weights = replay.sample_prioritised(views.batch, rng, importance)
    else:
        rows, weights = replay.sample_uniform(views.batch, rng), None
    window, next_window = (_rl_window(views, replay, len(rows), generators) for _ in range(2))
    transitions = replay.gather_transitions(rows, window=window, next_window=next_window, weights=weights)
    if objective is None:
        return Batch(transitions)
    if objective.views.source == "rl":
        return Batch(transitions, _views_of(transitions, rows, replay, views, generators))
    return Batch(transitions, _sequences(replay, views, objective, generators))


def _rl_window(views: Views, replay: Replay, n: int, generators: Generators) -> Window | None:
    """Observation and next observation are cropped independently."""
    if views.rl is None:
        return None
    size = (replay.frame_shape[1], replay.frame_shape[2])
    augmentation = CentreCrop(views.rl.size) if views.centred else views.rl
    return augmentation.window(n, size, generators["crops"])


def _views_of(
    transitions: Transitions, rows: np.ndarray, replay: Replay, views: Views, generators: Generators
) -> Contrast:
    """Two views of the RL batch: CURL's anchors and keys."""
    query = transitions.obs if views.rl_is_a_view else _augmented(replay, rows, views, generators)
    return Contrast(query, _augmented(replay, rows, views, generators), None)


def _sequences(replay: Replay, views: Views, objective: Objective, generators: Generators) -> Contrast | None:
    """Sequences with their mask: queries as the plan shows them, keys as they are. None while no sequence can be
    drawn."""
    spec = objective.views
    drawn = replay.sample_sequences(spec.batch, spec.length, generators["replay"], cross_episodes=spec.cross_episodes)
    if drawn is None:
        return None
    rows, padded = drawn
    plan = objective.plan(padded, generators["plan"])
    spares = replay.sample_observations(rows.size, generators["replay"]).reshape(rows.shape)
    shown = np.where(plan.replaced, spares, rows).ravel()[plan.encoded]
    # Row 0 is the zero observation: zeroing comes before the crop, so one encoding serves every zeroed position.
    query = _augmented(replay, shown, views, generators, zero_first=True)
    return Contrast(query, _augmented(replay, rows.ravel(), views, generators), plan.on(query.device))


def _augmented(
    replay: Replay, rows: np.ndarray, views: Views, generators: Generators, *, zero_first: bool = False
) -> Tensor:
    """Stacks with an independent random window each, after a stack of zeros where ``zero_first``."""
    height, width = replay.frame_shape[1:]
    window = views.contrast.window(len(rows), (height, width), generators["crops"]) if views.contrast else None
    if not zero_first:
        return replay.gather_stacks(rows, window)
    out = replay.empty_stacks(1 + len(rows), height if window is None else window.size)
    out[0] = 0
    replay.gather_stacks(rows, window, out=out[1:])
    return out
