"""Which positions and frames a mask chooses: the paper's mask to the bit, blocks and frames against slow loops."""

from __future__ import annotations

import hashlib
from itertools import groupby

import numpy as np
import plain
import pytest
import torch
from helpers import LinearEncoder, padding, random_pixels, sequences, whole

from mcurl.networks.ema import momentum_copy
from mcurl.objectives.base import Sequences
from mcurl.objectives.mask import MaskPlan, plan_frame_mask, plan_mask, sample_runs
from mcurl.objectives.masked import MCurl, MCurlSettings

PADDED = padding("##......", "........", ".....###", "########", "........")


def plan_of(mask: str, given: Sequences, generator: np.random.Generator, **settings: object) -> MaskPlan:
    """The plan that M-CURL makes with a mask's settings."""
    batch, length = given.padded.shape
    objective = MCurl(MCurlSettings(length=length, batch=batch, mask=mask, **settings), 4)  # type: ignore[arg-type]
    return objective.plan(given, generator)


def digest(plan: MaskPlan) -> str:
    total = hashlib.sha256()
    for flags in (plan.selected, plan.zeroed, plan.replaced, plan.padded):
        assert flags is not None
        total.update(flags.astype(np.uint8).tobytes())
    for numbers in (plan.encoded, plan.source):
        total.update(numbers.astype("<i8").tobytes())
    return total.hexdigest()[:16]


@pytest.mark.parametrize(
    ("seed", "rate", "zero", "random", "compact", "expected"),
    [
        (0, 0.5, 0.8, 0.1, True, ["32548bd12bbdec11", "414e1e6809fc8b14", "d50856e63ff91abe"]),
        (1, 0.6, 0.8, 0.1, True, ["d35ae2ed4553797b", "affad26e42914ae8", "3761210a192bec6d"]),
        (2, 0.5, 0.8, 0.1, False, ["8d639cfc2bc9d604", "482e4268cd2417aa", "ebec29da8e6bcae3"]),
        (3, 0.9, 0.3, 0.5, True, ["ca247112a6993ab6", "fb726dd41a3f02c0", "a1018d019fa56769"]),
    ],
)
def test_the_papers_mask_is_the_first_versions_to_the_bit(
    seed: int, rate: float, zero: float, random: float, compact: bool, expected: list[str]
) -> None:
    """Digests of three plans in a row, made by commit adccce6."""
    padded = np.zeros((16, 32), bool)
    padded[:4, :8] = padded[10:, -3:] = True
    settings = MCurlSettings(length=32, batch=16, mask_rate=rate, zero_fraction=zero, random_fraction=random)
    objective = MCurl(settings, 4)
    objective.set_compute(fixed_shapes=not compact, dtype=torch.float32)
    generator = np.random.default_rng(seed)
    assert [digest(objective.plan(sequences(padded), generator)) for _ in expected] == expected


# Blocks


@pytest.mark.parametrize(("rate", "length"), [(0.1, 4), (0.5, 1), (0.5, 4), (0.5, 7), (0.6, 3), (0.9, 4)])
def test_blocks_cover_the_rate_on_average(rate: float, length: int) -> None:
    """Within four standard deviations: over all positions, and at each position of the window, the first and last
    included."""
    B, T = 4000, 32
    selected = plan_of("block", whole(B, T), np.random.default_rng(1), mask_rate=rate, block_length=length).selected
    # Two positions at a distance are both left out when no run begins in a window of length + distance.
    both = [(1 - rate) ** ((length + min(abs(s - t), length)) / length) for s in range(T) for t in range(T)]
    variance = sum(both) - (T * (1 - rate)) ** 2
    assert abs(selected.sum() - B * T * rate) < 4 * np.sqrt(B * variance)
    deviation = np.abs(selected.sum(0) - B * rate) / np.sqrt(B * rate * (1 - rate))
    assert deviation.max() < 4.5


@pytest.mark.parametrize("length", [2, 4, 6])
def test_blocks_have_their_length_away_from_edges_and_padding(length: int) -> None:
    padded = np.tile(padding("#####...................########"), (800, 1))
    padded[400:] = False
    plan = plan_of("block", sequences(padded), np.random.default_rng(2), mask_rate=0.3, block_length=length)
    assert not (plan.selected & padded).any()
    lengths = []
    for row, pad in zip(plan.selected, padded, strict=True):
        at = 0
        for is_run, members in groupby(row.tolist()):
            end = at + len(list(members))
            touches = at == 0 or end == len(row) or pad[at - 1] or pad[end]
            lengths += [end - at] if is_run and not touches else []
            at = end
    assert min(lengths) == length
    assert max(lengths) > length  # runs overlap


def test_one_run_is_of_one_kind() -> None:
    """A run that no other overlaps is zeroed, replaced or kept as a whole, in the set fractions."""
    plan = plan_of("block", whole(3000, 32), np.random.default_rng(3), mask_rate=0.2, block_length=4)
    assert plan.replaced is not None
    kinds: list[str] = []
    for b in range(3000):
        for is_run, members in groupby(range(32), key=plan.selected[b].tolist().__getitem__):
            run = list(members)
            if not is_run or len(run) != 4 or run[0] == 0 or run[-1] == 31:
                continue
            found = {"zeroed" if plan.zeroed[b, t] else "replaced" if plan.replaced[b, t] else "kept" for t in run}
            assert len(found) == 1
            kinds += found
    for kind, share in (("zeroed", 0.8), ("replaced", 0.1), ("kept", 0.1)):
        assert abs(kinds.count(kind) - share * len(kinds)) < 4 * np.sqrt(len(kinds) * share * (1 - share))


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize(("rate", "length"), [(0.3, 2), (0.5, 4), (0.8, 5), (1.0, 3), (0.0, 3), (0.5, 12)])
def test_blocks_equal_the_slow_loop(rate: float, length: int, seed: int) -> None:
    B, T = PADDED.shape
    zero, random = 0.5, 0.3
    fractions = {"mask_rate": rate, "zero_fraction": zero, "random_fraction": random}
    plan = plan_of("block", sequences(PADDED), np.random.default_rng(seed), block_length=length, **fractions)
    assert plan.replaced is not None
    generator = np.random.default_rng(seed)
    begin, kinds = (generator.random((B, T + length - 1)).tolist() for _ in range(2))
    for b in range(B):
        for t, kind in enumerate(plain.runs(begin[b], kinds[b], rate, length)):
            action = "shown" if PADDED[b, t] else plain.action(kind, zero, random)
            assert plan.selected[b, t] == (action != "shown")
            assert plan.zeroed[b, t] == (action == "zeroed")
            assert plan.replaced[b, t] == (action == "replaced")


def test_a_run_of_one_position_is_the_papers_mask() -> None:
    plans = [
        plan_of(mask, sequences(PADDED), np.random.default_rng(4), block_length=length)
        for mask, length in (("iid", 9), ("block", 1))
    ]
    assert digest(plans[0]) == digest(plans[1])


# Frames


def windows_of(start: str, stack: int) -> Sequences:
    """The windows of PADDED: the first and the last begin with an episode. A padded position repeats the observation at
    the edge, as the replay has it."""
    firsts, episodes = [40, 50, 60, 70, 80], [40, 40, 40, 40, 80]
    frames = []
    for first, episode, padded in zip(firsts, episodes, PADDED, strict=True):
        inside = np.flatnonzero(~padded) if not padded.all() else np.array([0])
        window = []
        for t in range(len(padded)):
            newest = first + min(max(t - inside[0], 0), len(inside) - 1)
            before = episode if start == "repeat" else -1
            window.append([frame if frame >= episode else before for frame in range(newest - stack + 1, newest + 1)])
        frames.append(window)
    return Sequences(PADDED, np.array(frames))


@pytest.mark.parametrize("start", ["repeat", "blank"])
@pytest.mark.parametrize(("stack", "length"), [(1, 1), (3, 1), (3, 4), (4, 2)])
@pytest.mark.parametrize("seed", range(3))
def test_frame_masks_equal_the_slow_loop(start: str, stack: int, length: int, seed: int) -> None:
    given = windows_of(start, stack)
    B, T = PADDED.shape
    rate, zero, random = 0.7, 0.5, 0.3
    fractions = {"mask_rate": rate, "zero_fraction": zero, "random_fraction": random}
    plan = plan_of("frames", given, np.random.default_rng(seed), block_length=length, **fractions)
    assert plan.frame_mask is not None
    assert plan.replaced is None
    generator = np.random.default_rng(seed)
    begin, kinds = (generator.random((B, T + stack - 1 + length - 1)).tolist() for _ in range(2))
    for b in range(B):
        windows = given.frames[b].tolist()
        of_slot = [plain.action(kind, zero, random) for kind in plain.runs(begin[b], kinds[b], rate, length)]
        actions = plain.frame_actions(windows, of_slot)
        for t, frames in enumerate(windows):
            if PADDED[b, t]:
                assert not plan.selected[b, t]
                assert not plan.zeroed[b, t]
                continue
            assert plan.selected[b, t] == plain.frame_selected(frames, actions)
            nothing_shows = all(frame < 0 or actions[frame] == "zeroed" for frame in frames)
            assert plan.zeroed[b, t] == nothing_shows
            assert plan.source[b, t] == 0 if nothing_shows else plan.encoded[plan.source[b, t] - 1] == b * T + t
            for k, frame in enumerate(frames):
                if frame >= 0:
                    assert plan.frame_mask.zeroed[b, t, k] == (actions[frame] == "zeroed")
                    assert plan.frame_mask.replaced[b, t, k] == (actions[frame] == "replaced")


def test_a_frame_mask_hides_frames_at_its_rate() -> None:
    """And stacks of K frames at the rate to the power of K, where frames are chosen independently."""
    B, T, K, rate = 4000, 8, 3, 0.6
    plan = plan_of("frames", whole(B, T, K), np.random.default_rng(5), mask_rate=rate, block_length=1)
    assert plan.frame_mask is not None
    chosen = plan.selected.sum(0)
    share = rate**K
    assert (np.abs(chosen - B * share) < 4.5 * np.sqrt(B * share * (1 - share))).all()
    zeroed = plan.frame_mask.zeroed.reshape(B, -1).sum(0)
    share = rate * 0.8
    assert (np.abs(zeroed - B * share) < 4.5 * np.sqrt(B * share * (1 - share))).all()


def test_a_stack_of_one_frame_has_the_papers_mask() -> None:
    """With K = 1 a frame is an observation; only what replaces it is chosen elsewhere."""
    given = sequences(PADDED)
    frames = plan_frame_mask(given, 0.5, 0.8, 0.1, np.random.default_rng(6))
    positions = plan_mask(PADDED, 0.5, 0.8, 0.1, np.random.default_rng(6))
    for name in ("selected", "zeroed", "encoded", "source"):
        assert np.array_equal(getattr(frames, name), getattr(positions, name)), name
    assert frames.frame_mask is not None
    assert np.array_equal(frames.frame_mask.replaced[..., 0], positions.replaced)


# Compaction


@pytest.mark.parametrize("mask", ["iid", "block", "frames"])
@pytest.mark.parametrize("seed", range(3))
def test_what_is_left_out_does_not_change_the_loss(mask: str, seed: int) -> None:
    K, C, D = 3, 2, 6
    B, T = PADDED.shape
    torch.manual_seed(seed)
    observations = random_pixels(B * T, (K * C, 3, 3))
    online = LinearEncoder((K * C, 3, 3), D)
    momentum = momentum_copy(LinearEncoder((K * C, 3, 3), D))
    settings = MCurlSettings(length=T, batch=B, mask=mask, dropout=0.0, mask_rate=0.8)  # type: ignore[arg-type]
    objective = MCurl(settings, D).double()
    results = []
    for compact in (True, False):
        objective.set_compute(fixed_shapes=not compact, dtype=torch.float32)
        query, key, plan = objective.prepare(observations, PADDED, np.random.default_rng(seed), frame_stack=K)
        assert (len(query) < 1 + B * T) == compact
        assert plan.selected.any()
        loss = objective.loss(query, key, plan, online, momentum).value
        parameters = [*online.parameters(), *objective.transformer.parameters()]
        results.append([loss, *torch.autograd.grad(loss, parameters)])
    for a, b in zip(*results, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-12)


def test_runs_are_given_as_flags_and_numbers() -> None:
    covered, kind = sample_runs((3, 10), 0.5, 4, np.random.default_rng(0))
    assert covered.shape == kind.shape == (3, 10)
    assert covered.dtype == bool
    assert ((kind >= 0) & (kind < 1)).all()
