"""Augmentation as settings of an agent: each observation of a batch is one of the pictures that slow loops make of its
frames, and both arithmetics learn from it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch
from helpers import CPU, box, clock, discrete, episodes, patches
from torch import Tensor

from mcurl.agents.rainbow import Rainbow
from mcurl.agents.sac import SAC
from mcurl.batches import sample_batch
from mcurl.config import resolve as config
from mcurl.objectives.base import SequencePlan, Sequences
from mcurl.objectives.contrast import Curl, CurlSettings
from mcurl.objectives.masked import MCurl, MCurlSettings
from mcurl.replay.batch import Batch
from mcurl.runtime.seeding import Generators

LENGTH = 15
"""Rows of an episode."""
SMALL = {
    "sac": [
        *("sac.crop=20", "sac.batch_size=8", "sac.hidden=16", "sac.filters=4", "sac.layers=2", "sac.feature_dim=10"),
        "sac.shift_pad=3",
    ],
    "rainbow": ["rainbow.batch_size=8", "rainbow.n_step=1", "rainbow.hidden=16", "rainbow.atoms=11"],
}
FRAMES = {"sac": (3, 24, 24), "rainbow": (1, 28, 28)}
Pictures = Callable[[np.ndarray], Iterator[np.ndarray]]


class Masked(MCurl):
    """Keeps what it planned over, and the plan."""

    def plan(self, sequences: Sequences, generator: np.random.Generator) -> SequencePlan:
        self.seen, self.made = sequences, super().plan(sequences, generator)
        return self.made


def agent_of(kind: str, method: str, dtype: torch.dtype, *values: str) -> Any:
    """The agent that a run with these settings has, on small frames."""
    torch.manual_seed(0)
    task = {"sac": "toy/reach", "rainbow": "toy/catch"}[kind]
    overrides = [*SMALL[kind], *(f"{kind}.{value}" for value in values)]
    resolved = config.resolve(task, method, agent=kind, overrides=overrides)
    settings, cls = resolved.agent_settings, resolved.parts.agent
    channels, *side = FRAMES[kind]
    shape = (channels * (2 if kind == "sac" else 4), *side)
    width = cls.feature_dim(settings, shape)
    objective: Any = Curl(CurlSettings(), width)
    if method == "mcurl":
        objective = Masked(MCurlSettings(length=4, batch=2, zero_fraction=0.5, random_fraction=0.0), width)
    return cls(settings, shape, box(2) if kind == "sac" else discrete(3), objective, device=CPU, dtype=dtype)


def frame_of(kind: str, row: int) -> np.ndarray:
    """A frame that only this row has; -1 is blank."""
    if row < 0:
        return np.zeros(FRAMES[kind], np.uint8)
    return np.random.default_rng(row).integers(1, 256, FRAMES[kind], dtype=np.uint8)


def stack_of(kind: str, row: int) -> np.ndarray:
    """The frames of an observation: those before its episode repeat the first (SAC) or are blank (Rainbow)."""
    first, stack = row // LENGTH * LENGTH, 2 if kind == "sac" else 4
    before = first if kind == "sac" else -1
    return np.concatenate([frame_of(kind, k if k >= first else before) for k in range(row - stack + 1, row + 1)])


# The slow twins: every picture that an augmentation can make of a stack.


def crops(size: int) -> Pictures:
    def pictures(stack: np.ndarray) -> Iterator[np.ndarray]:
        for top in range(stack.shape[1] - size + 1):
            for left in range(stack.shape[2] - size + 1):
                yield stack[:, top : top + size, left : left + size]

    return pictures


def centre(size: int) -> Pictures:
    def pictures(stack: np.ndarray) -> Iterator[np.ndarray]:
        top, left = (stack.shape[1] - size) // 2, (stack.shape[2] - size) // 2
        yield stack[:, top : top + size, left : left + size]

    return pictures


def replicated(picture: np.ndarray, pad: int) -> np.ndarray:
    """The picture with its edges repeated outwards."""
    rows, columns = ([min(max(y - pad, 0), n - 1) for y in range(n + 2 * pad)] for n in picture.shape[1:])
    return np.stack([picture[:, y][:, columns] for y in rows], 1)


def shifts(size: int, pad: int) -> Pictures:
    def pictures(stack: np.ndarray) -> Iterator[np.ndarray]:
        (middle,) = centre(size)(stack)
        yield from crops(size)(replicated(middle, pad))

    return pictures


def padded_crops(crop: int, pad: int, size: int) -> Pictures:
    def pictures(stack: np.ndarray) -> Iterator[np.ndarray]:
        for first in crops(crop)(stack):
            yield from crops(size)(replicated(first, pad))

    return pictures


PICTURES: dict[str, dict[str, Pictures]] = {
    "sac": {"crop": crops(20), "shift": shifts(20, 3), "none": centre(20)},
    "rainbow": {"padded-crop": padded_crops(24, 4, 28), "shift": shifts(28, 4), "none": centre(28)},
}


def matches(pixels: Tensor, stack: np.ndarray, pictures: Pictures) -> tuple[int, float]:
    """Which picture of the stack the pixels are, and the factor on them; one factor for all pixels."""
    told = pixels.double().numpy()
    for number, picture in enumerate(pictures(stack)):
        expected = patches(torch.from_numpy(picture[None]))[0].numpy() if pixels.dim() == 2 else picture
        factor = float(told.sum() / expected.sum())
        tolerance = 2**-7 if pixels.dtype == torch.bfloat16 and abs(factor - 1) > 1e-6 else 1e-6
        if (abs(told - factor * expected) <= tolerance * told + 1e-4).all():
            return number, factor
    raise AssertionError("the pixels are no picture of their frames")


def check(
    pixels: Tensor, stacks: list[np.ndarray], pictures: Pictures, intensity: float = 0.0
) -> list[tuple[int, float]]:
    """Every observation is a picture of its own stack, under a factor within two scales of 1 where there is one."""
    found = [matches(one, stack, pictures) for one, stack in zip(pixels, stacks, strict=True)]
    factors = [factor for _, factor in found]
    if intensity == 0:
        assert factors == [1.0] * len(found)
        assert not pixels.is_floating_point() or pixels.dtype == torch.bfloat16
    else:
        slack = 2**-8 if pixels.dtype == torch.bfloat16 else 1e-5
        assert all(abs(factor - 1) <= 2 * intensity + slack for factor in factors)
        assert len(set(factors)) > len(found) // 2
    return found


def check_transitions(kind: str, batch: Batch, name: str, intensity: float) -> None:
    t, pictures = batch.transitions, PICTURES[kind][name]
    rows = t.rows.tolist()
    obs = check(t.obs, [stack_of(kind, row) for row in rows], pictures, intensity)
    goes_on = [i for i in range(len(rows)) if t.discount[i] > 0]
    following = check(t.next_obs[goes_on], [stack_of(kind, rows[i] + 1) for i in goes_on], pictures, intensity)
    several = len({number for number, _ in obs})
    assert several == 1 if name == "none" else several > 2
    if name != "none":
        assert sum(obs[i][0] == new[0] for i, new in zip(goes_on, following, strict=True)) < len(goes_on) / 2
    if intensity:
        assert all(obs[i][1] != new[1] for i, new in zip(goes_on, following, strict=True))


def check_contrast(kind: str, agent: Any, batch: Batch, name: str) -> None:
    """Views of the contrastive loss have their own augmentation and no factor, query and key apart."""
    views, pictures = batch.contrast, PICTURES[kind][name]
    assert views is not None
    if isinstance(agent.objective, Masked):
        frames = agent.objective.seen.frames.reshape(8, -1)
        keys = [np.concatenate([frame_of(kind, frame) for frame in stack]) for stack in frames]
        assert not views.query[0].any()
        seen = agent.objective.made.encoded.tolist()
        pairs = check(views.query[1:], [keys[i] for i in seen], pictures)
        others = check(views.key, keys, pictures)
        others = [others[i] for i in seen]
    else:
        stacks = [stack_of(kind, row) for row in batch.transitions.rows.tolist()]
        pairs, others = check(views.query, stacks, pictures), check(views.key, stacks, pictures)
    assert sum(a[0] == b[0] for a, b in zip(pairs, others, strict=True)) < max(len(pairs) / 2, 1)


def check_update(agent: Any, batch: Batch) -> None:
    update = agent.update(batch, clock(1))
    assert "contrast/loss" in update.metrics
    assert all(value.isfinite() for value in update.metrics.values())
    if update.priorities is not None:
        assert update.priorities.isfinite().all()


each_dtype = pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["fp32", "bf16"])
each_method = pytest.mark.parametrize("method", ["curl", "mcurl"])


@each_dtype
@each_method
@pytest.mark.parametrize(
    ("values", "name", "intensity", "contrast"),
    [
        ([], "crop", 0.0, "crop"),
        (["augmentation=shift"], "shift", 0.0, "crop"),
        (["augmentation=none"], "none", 0.0, "crop"),
        (["intensity=0.05"], "crop", 0.05, "crop"),
        (["contrast_augmentation=shift"], "crop", 0.0, "shift"),
        (["augmentation=shift", "contrast_augmentation=shift", "intensity=0.05"], "shift", 0.05, "shift"),
        (["augmentation=none", "intensity=0.1", "contrast_augmentation=shift"], "none", 0.1, "shift"),
    ],
)
def test_sac(values: list[str], name: str, intensity: float, contrast: str, method: str, dtype: torch.dtype) -> None:
    agent = agent_of("sac", method, dtype, *values)
    assert isinstance(agent, SAC)
    replay = episodes(agent, length=LENGTH, pixels=lambda row: frame_of("sac", row))
    batch = sample_batch(replay, agent.batch_spec, agent.objective, Generators(3))
    assert batch.transitions.obs.shape[1:] == (6, 20, 20)
    check_transitions("sac", batch, name, intensity)
    check_contrast("sac", agent, batch, contrast)
    if method == "curl":
        assert batch.contrast is not None
        same = name == contrast and not intensity
        assert (batch.contrast.query is batch.transitions.obs) == same  # the critic's own view is the anchor
    check_update(agent, batch)


@each_dtype
@each_method
@pytest.mark.parametrize(
    ("values", "name", "intensity", "contrast"),
    [
        ([], "none", 0.0, "padded-crop"),
        (["augmentation=padded-crop"], "padded-crop", 0.0, "padded-crop"),
        (["augmentation=shift"], "shift", 0.0, "padded-crop"),
        (["intensity=0.05"], "none", 0.05, "padded-crop"),
        (["contrast_augmentation=shift"], "none", 0.0, "shift"),
        (["augmentation=shift", "contrast_augmentation=shift", "intensity=0.05"], "shift", 0.05, "shift"),
    ],
)
def test_rainbow(
    values: list[str], name: str, intensity: float, contrast: str, method: str, dtype: torch.dtype
) -> None:
    agent = agent_of("rainbow", method, dtype, *values)
    assert isinstance(agent, Rainbow)
    replay = episodes(agent, length=LENGTH, pixels=lambda row: frame_of("rainbow", row))
    batch = sample_batch(replay, agent.batch_spec, agent.objective, Generators(3), beta=0.5)
    check_transitions("rainbow", batch, name, intensity)
    check_contrast("rainbow", agent, batch, contrast)
    check_update(agent, batch)
