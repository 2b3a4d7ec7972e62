"""What an update reads: which rows stand where, and how each is cropped. Frames tell their row in one channel and their
pixel's place in the other."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from mcurl.agents.base import Views
from mcurl.batches import draw
from mcurl.objectives.contrast import Curl, CurlSettings
from mcurl.objectives.mask import Plan
from mcurl.objectives.masked import MCurl, MCurlSettings
from mcurl.replay import Replay
from mcurl.replay.augment import RandomCrop
from mcurl.replay.batch import Batch
from mcurl.runtime.seeding import Generators

SIDE, CROP, B, T = 20, 16, 6, 8
OFFSETS = (SIDE - CROP + 1) ** 2
ROW, PLACE = -2, -1
"""Channels of the newest frame of a stack."""
VIEWS = Views(12, rl=RandomCrop(CROP), contrast=RandomCrop(CROP))


def frame(row: int) -> np.ndarray:
    place = 10 * np.arange(SIDE)[:, None] + np.arange(SIDE)
    return np.stack([np.full((SIDE, SIDE), row), place]).astype(np.uint8)


def replay(**keywords: Any) -> Replay:
    """Six episodes of 30 rows: rows 1 to 180, as their frames tell them (0 is the zero observation)."""
    shapes: dict[str, Any] = {
        "frame_shape": (2, SIDE, SIDE),
        "frame_dtype": "uint8",
        "action_shape": (),
        "action_dtype": np.int64,
    }
    ring = Replay(capacity=400, frame_stack=2, stack_start="repeat", n_step=1, discount=0.99, **shapes, **keywords)
    for first in range(1, 181, 30):
        ring.begin(frame(first))
        for row in range(first + 1, first + 30):
            ring.append(np.int64(0), 0.0, frame(row), row == first + 29, False)
    return ring


class Masked(MCurl):
    """Keeps the plans that it made."""

    def plan(self, padded: np.ndarray | None, generator: np.random.Generator) -> Plan:
        self.made = super().plan(padded, generator)
        return self.made


def rows(pixels: torch.Tensor) -> np.ndarray:
    """The row that each stack's newest frame tells; one row for all its pixels."""
    channel = pixels[:, ROW].numpy()
    assert (channel == channel[:, :1, :1]).all()
    return channel[:, 0, 0].astype(int)


def offsets(pixels: torch.Tensor) -> np.ndarray:
    """Where each crop begins."""
    return pixels[:, PLACE, 0, 0].numpy().astype(int)


def drawn(objective: Any, seed: int = 0, *, views: Views = VIEWS, importance: float = 1.0, **keywords: Any) -> Batch:
    return draw(replay(**keywords), views, objective, Generators(seed), importance=importance)


def masked(**settings: Any) -> Masked:
    return Masked(MCurlSettings(batch=B, length=T, **settings), 10)


def test_queries_are_what_the_plan_shows_and_keys_are_what_is_there() -> None:
    objective = masked(random_fraction=0.5, zero_fraction=0.3)
    batch = drawn(objective)
    plan, views = objective.made, batch.contrast
    assert views is not None
    own = rows(views.key)
    consecutive = own.reshape(B, T)
    inside = ~plan.padded
    assert inside.any(1).all()
    assert (np.diff(consecutive)[inside[:, 1:] & inside[:, :-1]] == 1).all()
    assert not views.query[0].any()
    shown, own = rows(views.query[1:]), own[plan.encoded]
    replaced, real = (
        plan.replaced.ravel()[plan.encoded],
        ~(plan.replaced | plan.zeroed | plan.padded).ravel()[plan.encoded],
    )
    assert (shown[~replaced] == own[~replaced])[real[~replaced]].all()
    assert replaced.sum() > 5
    assert (shown[replaced] != own[replaced]).mean() > 0.8
    assert (shown[replaced] >= 1).all()
    assert len(np.unique((shown[replaced] - 1) // 30)) > 1  # of the whole replay


def test_every_position_has_a_crop_of_its_own_and_keys_have_theirs() -> None:
    objective = masked()
    seen: dict[str, list[np.ndarray]] = {"query": [], "key": [], "obs": [], "next": []}
    for seed in range(8):
        batch = drawn(objective, seed)
        assert batch.contrast is not None
        key, query = offsets(batch.contrast.key), offsets(batch.contrast.query[1:])
        assert (key[objective.made.encoded] == query).mean() < 0.3  # by chance one in 25
        assert all(len(np.unique(sequence)) > 2 for sequence in key.reshape(B, T))
        for name, found in {
            "query": query,
            "key": key,
            "obs": offsets(batch.transitions.obs),
            "next": offsets(batch.transitions.next_obs),
        }.items():
            seen[name].append(found)
    assert all(len(np.unique(np.concatenate(found))) == OFFSETS for found in seen.values())
    assert (np.concatenate(seen["obs"]) == np.concatenate(seen["next"])).mean() < 0.3


def test_curl_sees_the_rl_batch_twice() -> None:
    objective = Curl(CurlSettings(), 10)
    batch = drawn(objective)
    t, views = batch.transitions, batch.contrast
    assert views is not None
    assert views.query is t.obs  # the critic's own crop is the anchor
    assert np.array_equal(rows(views.key), rows(t.obs))
    assert (offsets(views.key) == offsets(t.obs)).mean() < 0.5
    whole = drawn(objective, views=Views(12, contrast=RandomCrop(CROP)))
    assert whole.contrast is not None
    assert whole.transitions.obs.shape[-1] == SIDE  # Rainbow's RL loss sees the plain observation
    assert whole.contrast.query.shape[-1] == CROP
    assert np.array_equal(rows(whole.contrast.query), rows(whole.transitions.obs))


def test_the_next_observation_is_the_next_row() -> None:
    t = drawn(None).transitions
    assert np.array_equal(rows(t.next_obs), rows(t.obs) + 1)


def test_a_centred_rl_loss_sees_the_middle() -> None:
    t = drawn(None, views=Views(12, rl=RandomCrop(CROP), centred=True)).transitions
    middle = (SIDE - CROP) // 2
    assert (offsets(t.obs) == 11 * middle).all()


@pytest.mark.parametrize("importance", [0.0, 0.4, 1.0])
def test_importance_weights_have_their_exponent(importance: float) -> None:
    ring = replay(priority_alpha=0.5)
    ring.update_priorities(np.arange(20), np.full(20, 16.0))  # four times as likely as the rest
    weights = draw(ring, Views(32, prioritised=True), None, Generators(0), importance=importance).transitions.weights
    assert sorted(set(weights.tolist())) == pytest.approx(sorted({1.0, 4**-importance}), rel=1e-3)
