"""What an update reads: which rows stand where, and how each is cropped. Frames tell their row in one channel and their
pixel's place in the other."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from helpers import CPU, LinearEncoder

from mcurl.agents.base import BatchSpec
from mcurl.batches import sample_batch
from mcurl.networks.ema import momentum_copy
from mcurl.objectives.base import SequencePlan, Sequences
from mcurl.objectives.contrast import Curl, CurlSettings
from mcurl.objectives.masked import MCurl, MCurlSettings
from mcurl.objectives.sequence import SeqCurl, SeqCurlSettings
from mcurl.replay import Replay
from mcurl.replay.augment import CentreCrop, Intensity, RandomCrop, WholeFrame
from mcurl.replay.batch import Batch
from mcurl.runtime.seeding import Generators

SIDE, CROP, B, T = 20, 16, 6, 8
OFFSETS = (SIDE - CROP + 1) ** 2
ROW, PLACE = -2, -1
"""Channels of the newest frame of a stack."""
SPEC = BatchSpec(12, augmentation=RandomCrop(CROP), contrast_augmentation=RandomCrop(CROP))


def frame(row: int) -> np.ndarray:
    place = 10 * np.arange(SIDE)[:, None] + np.arange(SIDE)
    return np.stack([np.full((SIDE, SIDE), row), place]).astype(np.uint8)


def replay(*, stack: int = 2, start: str = "repeat", episode: int = 30, **keywords: Any) -> Replay:
    """Episodes of 30 rows: rows 1 to 180, as their frames tell them (0 is the zero observation)."""
    shapes: dict[str, Any] = {
        "frame_shape": (2, SIDE, SIDE),
        "frame_dtype": "uint8",
        "action_shape": (),
        "action_dtype": np.int64,
    }
    start_of: Any = start
    ring = Replay(capacity=400, frame_stack=stack, stack_start=start_of, **shapes, **keywords)
    for first in range(1, 181, episode):
        ring.begin(frame(first))
        for row in range(first + 1, first + episode):
            ring.append(np.int64(0), 0.0, frame(row), row == first + episode - 1, False)
    return ring


class Masked(MCurl):
    """Keeps what it planned over, and the plan that it made."""

    def plan(self, sequences: Sequences, generator: np.random.Generator) -> Any:
        self.seen, self.made = sequences, super().plan(sequences, generator)
        return self.made


class Consecutive(SeqCurl):
    """Likewise."""

    def plan(self, sequences: Sequences, generator: np.random.Generator) -> SequencePlan:
        self.made = super().plan(sequences, generator)
        return self.made


def rows(pixels: torch.Tensor) -> np.ndarray:
    """The row that each stack's newest frame tells; one row for all its pixels."""
    channel = pixels[:, ROW].numpy()
    assert (channel == channel[:, :1, :1]).all()
    return channel[:, 0, 0].astype(int)


def offsets(pixels: torch.Tensor) -> np.ndarray:
    """Where each crop begins."""
    return pixels[:, PLACE, 0, 0].numpy().astype(int)


def sampled(objective: Any, seed: int = 0, *, spec: BatchSpec = SPEC, **keywords: Any) -> Batch:
    return sample_batch(replay(**keywords), spec, objective, Generators(seed))


def masked(**settings: Any) -> Masked:
    return Masked(MCurlSettings(batch=B, length=T, **settings), 10)


def test_queries_are_what_the_plan_shows_and_keys_are_what_is_there() -> None:
    objective = masked(random_fraction=0.5, zero_fraction=0.3)
    batch = sampled(objective)
    plan, views = objective.made, batch.contrast
    assert views is not None
    own = rows(views.key)
    consecutive = own.reshape(B, T)
    inside = ~plan.padded
    assert inside.any(1).all()
    assert (np.diff(consecutive)[inside[:, 1:] & inside[:, :-1]] == 1).all()
    assert not views.query[0].any()
    shown, every, own = rows(views.query[1:]), set(own.tolist()), own[plan.encoded]
    replaced, real = (
        plan.replaced.ravel()[plan.encoded],
        ~(plan.replaced | plan.zeroed | plan.padded).ravel()[plan.encoded],
    )
    assert (shown[~replaced] == own[~replaced])[real[~replaced]].all()
    assert replaced.sum() > 5
    assert (shown[replaced] != own[replaced]).mean() > 0.8
    assert (shown[replaced] >= 1).all()
    assert len(np.unique((shown[replaced] - 1) // 30)) > 1  # of the whole replay
    assert set(shown[replaced].tolist()) - every  # and not of the batch alone


def test_every_position_has_a_crop_of_its_own_and_keys_have_theirs() -> None:
    objective = masked()
    seen: dict[str, list[np.ndarray]] = {"query": [], "key": [], "obs": [], "next": []}
    for seed in range(8):
        batch = sampled(objective, seed)
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


def test_every_query_after_the_zero_observation_has_its_own_intensity() -> None:
    objective, jitter = masked(), Intensity(WholeFrame(), 0.2)
    views = sampled(objective, 4, spec=BatchSpec(12, contrast_augmentation=jitter)).contrast
    assert views is not None
    corners = views.query[1:, PLACE, -1, -1].numpy() / frame(0)[PLACE, -1, -1]
    assert not views.query[0].any()
    assert corners == pytest.approx(jitter.intensity(len(corners), Generators(4)["crops"]))


def test_curl_sees_the_rl_batch_twice() -> None:
    objective = Curl(CurlSettings(), 10)
    batch = sampled(objective)
    t, views = batch.transitions, batch.contrast
    assert views is not None
    assert views.query is t.obs  # the critic's own crop is the anchor
    assert np.array_equal(rows(views.key), rows(t.obs))
    assert (offsets(views.key) == offsets(t.obs)).mean() < 0.5
    whole = sampled(objective, spec=BatchSpec(12, contrast_augmentation=RandomCrop(CROP)))
    assert whole.contrast is not None
    assert whole.transitions.obs.shape[-1] == SIDE  # Rainbow's RL loss sees the plain observation
    assert whole.contrast.query.shape[-1] == CROP
    assert np.array_equal(rows(whole.contrast.query), rows(whole.transitions.obs))


def test_the_next_observation_is_the_next_row() -> None:
    t = sampled(None).transitions
    assert np.array_equal(rows(t.next_obs), rows(t.obs) + 1)


def test_a_centred_rl_loss_sees_the_middle() -> None:
    t = sampled(None, spec=BatchSpec(12, augmentation=CentreCrop(CROP))).transitions
    middle = (SIDE - CROP) // 2
    assert (offsets(t.obs) == 11 * middle).all()


@pytest.mark.parametrize("beta", [0.0, 0.4, 1.0])
def test_importance_weights_have_their_exponent(beta: float) -> None:
    ring = replay(priority_alpha=0.5)
    ring.update_priorities(np.arange(20), np.full(20, 16.0))  # four times as likely as the rest
    weights = sample_batch(ring, BatchSpec(32, priority_alpha=0.5), None, Generators(0), beta=beta).transitions.weights
    assert sorted(set(weights.tolist())) == pytest.approx(sorted({1.0, 4**-beta}), rel=1e-3)


# seq-CURL


def consecutive(**settings: Any) -> Consecutive:
    return Consecutive(SeqCurlSettings(batch=B, length=T, **settings), 10)


@pytest.mark.parametrize("cross", [False, True])
def test_seq_curl_sees_consecutive_rows_twice_with_a_crop_of_its_own_each_time(cross: bool) -> None:
    objective = consecutive(cross_episodes=cross)
    seen: dict[str, list[np.ndarray]] = {"query": [], "key": []}
    crossed = padding = 0
    for seed in range(12):
        batch = sampled(objective, seed, episode=10)
        views = batch.contrast
        assert views is not None
        own, inside = rows(views.query).reshape(B, T), ~objective.made.padded
        assert np.array_equal(own, rows(views.key).reshape(B, T))
        assert (np.diff(own)[inside[:, 1:] & inside[:, :-1]] == 1).all()
        for sequence, real in zip((own - 1) // 10, inside, strict=True):
            crossed += len(np.unique(sequence[real])) > 1
        padding += (~inside).sum()
        assert np.array_equal(views.plan.padded.numpy(), objective.made.padded)
        crops = {"query": offsets(views.query), "key": offsets(views.key)}
        assert (crops["query"] == crops["key"]).mean() < 0.3  # by chance one in 25
        for name, places in crops.items():
            assert all(len(np.unique(sequence)) > 2 for sequence in places.reshape(B, T))
            seen[name].append(places)
    assert (crossed > 0, padding > 0) == (cross, not cross)
    for places in map(np.concatenate, seen.values()):
        assert len(np.unique(places)) == OFFSETS
    for before, after in ((seen["query"], seen["query"]), (seen["query"], seen["key"])):
        pairs = [(a.reshape(B, T)[:, :-1], b.reshape(B, T)[:, 1:]) for a, b in zip(before, after, strict=True)]
        one, other = (np.concatenate([pair[side].ravel() for pair in pairs]) // 10 for side in (0, 1))
        assert abs(np.corrcoef(one, other)[0, 1]) < 0.2  # steps do not tell each other's crop


def test_seq_curls_loss_on_sampled_windows_is_the_plain_twins() -> None:
    torch.manual_seed(0)
    objective = consecutive(scale=0.5)
    views = sampled(objective, 3, episode=10).contrast
    assert views is not None
    objective = objective.double()
    shape = tuple(views.query.shape[1:])
    online, momentum = LinearEncoder(shape, 10), momentum_copy(LinearEncoder(shape, 10))
    loss = objective.loss(views.query, views.key, views.plan, online, momentum).value
    padded = objective.made.padded.ravel()
    terms = []
    for i in np.flatnonzero(~padded):
        q = online(views.query[i][None])[0]
        logits = [0.5 * (q @ objective.W @ momentum(views.key[j][None])[0]) for j in np.flatnonzero(~padded)]
        own = 0.5 * (q @ objective.W @ momentum(views.key[i][None])[0])
        terms.append(torch.logsumexp(torch.stack(logits), 0) - own)
    assert padded.any()
    assert loss.item() == pytest.approx(torch.stack(terms).mean().item(), rel=1e-10)


# Masks over single frames

K = 3


def shown_rows(objective: Masked, query: torch.Tensor) -> np.ndarray:
    """``int64 [B, T, K]``: the row that each place of each position's stack tells; -1 where the position is padding."""
    plan = objective.made
    told = query.view(len(query), K, 2, *query.shape[2:])[:, :, 0].numpy().astype(int)  # [1 + R, K, h, w]
    assert (told == told[:, :, :1, :1]).all()
    told = told[:, :, 0, 0]
    assert not told[0].any()
    return np.where(plan.padded[..., None], -1, told[plan.source])


def own_rows(objective: Masked) -> np.ndarray:
    """``int64 [B, T, K]``: the row of the frame at each place; 0 is blank."""
    return objective.seen.frames + 1


def frame_masked(seed: int, start: str, **settings: Any) -> tuple[Masked, np.ndarray, np.ndarray]:
    objective = masked(mask="frames", **settings)
    views = sampled(objective, seed, stack=K, start=start, episode=10).contrast
    assert views is not None
    shown, own = shown_rows(objective, views.query), own_rows(objective)
    told = views.key.view(B, T, K, 2, CROP, CROP)[:, :, :, 0, 0, 0].numpy()
    assert np.array_equal(told, own)  # keys are unmasked, and blank frames are zeros
    return objective, shown, own


@pytest.mark.parametrize("start", ["repeat", "blank"])
@pytest.mark.parametrize(("length", "cross"), [(1, False), (4, False), (4, True)])
def test_a_hidden_frame_shows_in_no_stack_of_its_window(start: str, length: int, cross: bool) -> None:
    """Zeroed, it is zeros wherever it stands; a position is selected exactly when nothing of it shows."""
    hidden = selected = first = 0
    for seed in range(8):
        settings = {"zero_fraction": 1.0, "random_fraction": 0.0, "mask_rate": 0.7, "block_length": length}
        objective, shown, own = frame_masked(seed, start, cross_episodes=cross, **settings)
        plan = objective.made
        for b in range(B):
            inside = np.flatnonzero(~plan.padded[b])
            zeroed = {own[b, t, k] for t in inside for k in range(K) if own[b, t, k] > 0 and shown[b, t, k] == 0}
            for t in inside:
                for k in range(K):
                    frame = own[b, t, k]
                    assert shown[b, t, k] == (0 if frame in zeroed else frame)
                assert plan.selected[b, t] == all(frame in zeroed or frame == 0 for frame in own[b, t])
                assert plan.selected[b, t] == (not shown[b, t].any())
                first += bool(own[b, t, -1] % 10 == 1 and plan.selected[b, t])
            hidden, selected = hidden + len(zeroed), selected + plan.selected[b].sum()
        assert not (plan.selected & plan.padded).any()
    assert hidden > 50
    assert selected > 20
    assert first > 0  # an episode's first observation, whose frames are one frame, or one and blanks


@pytest.mark.parametrize("start", ["repeat", "blank"])
def test_a_replaced_frame_has_the_same_replacement_wherever_it_stands(start: str) -> None:
    shares, other_episodes = [], set[int]()
    for seed in range(8):
        settings = {"zero_fraction": 0.4, "random_fraction": 0.4, "mask_rate": 0.7, "block_length": 2}
        objective, shown, own = frame_masked(seed, start, **settings)
        plan = objective.made
        for b in range(B):
            inside = np.flatnonzero(~plan.padded[b])
            stands: dict[int, set[int]] = {}
            for t in inside:
                for k in range(K):
                    stands.setdefault(int(own[b, t, k]), set()).add(int(shown[b, t, k]))
            assert all(len(told) == 1 for told in stands.values())
            assert stands.get(0, {0}) == {0}  # a blank frame stays blank
            replaced = {frame: told.pop() for frame, told in stands.items() if frame > 0 and told not in ({0}, {frame})}
            shares.append(len(replaced) / max(len(stands), 1))
            assert all(1 <= row <= 180 for row in replaced.values())
            other_episodes |= {(row - 1) // 10 - (frame - 1) // 10 for frame, row in replaced.items()}
            for t in inside:
                if any(own[b, t, k] > 0 and shown[b, t, k] not in (0, own[b, t, k]) for k in range(K)):
                    assert plan.source[b, t] > 0  # it is encoded
    assert np.mean(shares) == pytest.approx(0.7 * 0.4, abs=0.08)
    assert len(other_episodes) > 5  # from the whole replay


@pytest.mark.parametrize("mask", ["iid", "block", "frames"])
def test_masks_leave_keys_and_their_rows_alone(mask: str) -> None:
    objective = masked(mask=mask, mask_rate=1.0, zero_fraction=1.0, random_fraction=0.0)
    batch = sampled(objective)
    views = batch.contrast
    assert views is not None
    assert not views.query[:1].any()
    inside = ~objective.made.padded
    assert objective.made.selected[inside].all()
    assert (np.diff(rows(views.key).reshape(B, T))[inside[:, 1:] & inside[:, :-1]] == 1).all()
    tensors = views.plan
    assert tensors.source.device == CPU
    assert not tensors.source[torch.from_numpy(inside)].any()


def test_states_have_no_crop_and_whole_frames_stay_whole() -> None:
    t = sampled(None, spec=BatchSpec(12)).transitions
    assert t.obs.shape == (12, 4, SIDE, SIDE)
    assert BatchSpec(12).augmentation == WholeFrame()
    ring = Replay(
        capacity=50, frame_shape=(3,), frame_dtype="float32", frame_stack=1, stack_start="repeat", action_shape=(1,),
        action_dtype=np.float32,
    )  # fmt: skip
    ring.begin(np.zeros(3, np.float32))
    for row in range(1, 21):
        ring.append(np.zeros(1, np.float32), 0.0, np.full(3, row, np.float32), False, False)
    states = sample_batch(ring, BatchSpec(5), None, Generators(0)).transitions
    assert torch.equal(states.next_obs, states.obs + 1)
