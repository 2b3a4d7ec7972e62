"""The contract of an objective, with objectives that are defined here: each trains in SAC, in SAC with one Adam, and in
Rainbow, on batches out of a replay."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from helpers import CPU, LinearEncoder, box, clock, discrete, episodes, padding, random_pixels, snapshot
from torch import Tensor, nn

from mcurl.agents.rainbow import Rainbow, RainbowSettings
from mcurl.agents.sac import SAC, SacSettings
from mcurl.batches import sample_batch
from mcurl.networks.ema import ema_update, momentum_copy
from mcurl.objectives.base import ContrastSpec, Encode, Loss, Objective, PlanTensors
from mcurl.objectives.contrast import Curl, CurlSettings
from mcurl.objectives.masked import MCurl, MCurlSettings
from mcurl.objectives.sequence import SeqCurl, SeqCurlSettings, SymCurl
from mcurl.runtime.seeding import Generators

B, T = 3, 4
KINDS = ["sac", "sac-joint", "rainbow"]


@dataclass(frozen=True)
class OwnSettings:
    """None that matter."""


class Neighbours(Objective):
    """A plain objective on sequences without a mask: each observation must find its own key in its sequence."""

    Settings = OwnSettings

    def __init__(self, settings: OwnSettings, feature_dim: int) -> None:
        super().__init__()
        self.contrast_spec = ContrastSpec("sequences", B, T)
        self.matrix = nn.Parameter(torch.eye(feature_dim))
        self.constant = nn.Parameter(torch.rand(feature_dim), requires_grad=False)
        self.steps_after = 0
        self.momenta: list[float] = []

    def loss(
        self, query_pixels: Tensor, key_pixels: Tensor, plan: PlanTensors, encode_query: Encode, encode_key: Encode
    ) -> Loss:
        q = encode_query(query_pixels).view(B, T, -1) @ self.matrix + self.constant  # [B, T, d]
        with torch.no_grad():
            k = encode_key(key_pixels).view(B, T, -1)
        logits = q @ k.transpose(1, 2) - 1e9 * plan.padded[:, None, :]
        each = F.cross_entropy(logits.flatten(0, 1), torch.arange(T).repeat(B), reduction="none")
        real = ~plan.padded.flatten()
        value = (each * real).sum() / real.sum().clamp_min(1)
        return Loss(value, {"contrast/loss": value.detach()})

    def after_step(self) -> None:
        self.steps_after += 1

    def ema_step(self, momentum: float) -> None:
        self.momenta.append(momentum)


class Predictor(Neighbours):
    """The same, whose keys pass a momentum copy of a predictor of its own."""

    def __init__(self, settings: OwnSettings, feature_dim: int) -> None:
        super().__init__(settings, feature_dim)
        self.predictor = nn.Linear(feature_dim, feature_dim)
        self.key_predictor = momentum_copy(self.predictor)

    def loss(
        self, query_pixels: Tensor, key_pixels: Tensor, plan: PlanTensors, encode_query: Encode, encode_key: Encode
    ) -> Loss:
        return super().loss(
            query_pixels,
            key_pixels,
            plan,
            lambda pixels: self.predictor(encode_query(pixels)),
            lambda pixels: self.key_predictor(encode_key(pixels)),
        )

    def ema_step(self, momentum: float) -> None:
        super().ema_step(momentum)
        ema_update(self.key_predictor.parameters(), self.predictor.parameters(), momentum)


def agent_of(kind: str, cls: Callable[..., Any], *, dtype: torch.dtype = torch.float32, **settings: Any) -> Any:
    torch.manual_seed(0)
    if kind == "rainbow":
        rainbow = RainbowSettings(batch_size=8, n_step=2, atoms=11, hidden=16, learning_rate=1e-3, **settings)
        shape = (4, 28, 28)
        objective = cls(OwnSettings(), Rainbow.feature_dim(rainbow, shape))
        return Rainbow(rainbow, shape, discrete(3), objective, device=CPU, dtype=dtype)
    small: dict[str, Any] = {"crop": 20, "batch_size": 8, "hidden": 16, "filters": 4, "layers": 2, "feature_dim": 10}
    sac = SacSettings(**small, target_every=3, joint_optimizer=kind == "sac-joint", **settings)
    return SAC(sac, (6, 24, 24), box(2), cls(OwnSettings(), 10), device=CPU, dtype=dtype)


@pytest.mark.parametrize("cls", [Neighbours, Predictor])
@pytest.mark.parametrize("kind", KINDS)
def test_it_trains_and_what_is_frozen_stays(kind: str, cls: type[Neighbours]) -> None:
    agent = agent_of(kind, cls)
    objective: Any = agent.objective
    replay, generators = episodes(agent, length=12), Generators(0)
    frozen = {"constant"} | ({"key_predictor.weight", "key_predictor.bias"} if cls is Predictor else set())
    assert {name for name, p in objective.named_parameters() if not p.requires_grad} == frozen
    batch = sample_batch(replay, agent.batch_spec, objective, generators)
    assert batch.contrast is not None
    assert batch.contrast.plan.padded.shape == (B, T)
    losses, first = [], snapshot(objective)
    for update in range(30):
        if update % 5 == 4:  # another batch now and then; the loss is that of the same one
            agent.update(sample_batch(replay, agent.batch_spec, objective, generators), clock(update))
            continue
        before, moves = snapshot(objective), len(objective.momenta)
        losses.append(float(agent.update(batch, clock(update)).metrics["contrast/loss"]))
        assert objective.steps_after == update + 1  # once per update
        due = kind == "rainbow" or (update + 1) % 3 == 0
        assert len(objective.momenta) - moves == due
        after = snapshot(objective)
        assert torch.equal(after["constant"], first["constant"])
        for name in frozen - {"constant"}:
            if not due:
                assert torch.equal(after[name], before[name])
                continue
            source = name.removeprefix("key_")
            online = before[source] if kind == "sac" else after[source]  # SAC's targets move before this loss's step
            momentum = objective.momenta[-1]
            torch.testing.assert_close(after[name], (1 - momentum) * before[name] + momentum * online)
        assert all(p.grad is None for name, p in objective.named_parameters() if name in frozen)
    assert set(objective.momenta) == {0.001 if kind == "rainbow" else agent.settings.encoder_tau}
    last = snapshot(objective)
    assert all(not torch.equal(last[name], first[name]) for name in first if name not in frozen)
    assert losses[-1] < 0.9 * losses[0]


@pytest.mark.parametrize("kind", KINDS)
def test_after_step_is_called_without_a_sequence_too(kind: str) -> None:
    agent = agent_of(kind, Neighbours)
    batch = sample_batch(episodes(agent, length=12), agent.batch_spec, None, Generators(0))
    for update in range(4):
        assert "contrast/loss" not in agent.update(batch, clock(update)).metrics
    assert agent.objective.steps_after == 4


@pytest.mark.parametrize("kind", KINDS)
def test_its_state_is_saved_and_restored(kind: str) -> None:
    agent = agent_of(kind, Predictor)
    replay = episodes(agent, length=12)
    for update in range(4):
        agent.update(sample_batch(replay, agent.batch_spec, agent.objective, Generators(update)), clock(update))
    other = agent_of(kind, Predictor)
    other.load_state_dict(agent.state_dict())
    for name, parameter in snapshot(agent.objective).items():
        assert torch.equal(parameter, snapshot(other.objective)[name]), name


BUILT_IN: dict[str, tuple[type[Any], Any]] = {
    "curl": (Curl, CurlSettings()),
    "seq-curl": (SeqCurl, SeqCurlSettings(length=T, batch=B)),
    "sym-curl": (SymCurl, MCurlSettings(length=T, batch=B)),
    "iid": (MCurl, MCurlSettings(length=T, batch=B)),
    "block": (MCurl, MCurlSettings(length=T, batch=B, mask="block", block_length=2)),
    "frames": (MCurl, MCurlSettings(length=T, batch=B, mask="frames", block_length=2, projection=True)),
    "frames across episodes": (SymCurl, MCurlSettings(length=T, batch=B, mask="frames", cross_episodes=True)),
}


@pytest.mark.parametrize("name", BUILT_IN)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["fp32", "bf16"])
@pytest.mark.parametrize("kind", KINDS)
def test_every_objective_learns_in_every_agent(kind: str, dtype: torch.dtype, name: str) -> None:
    cls, settings = BUILT_IN[name]
    agent = agent_of(kind, lambda _, width: cls(settings, width), dtype=dtype)
    replay, generators = episodes(agent, length=6), Generators(0)
    before = snapshot(agent.objective)
    for update in range(6):
        batch = sample_batch(replay, agent.batch_spec, agent.objective, generators)
        metrics = agent.update(batch, clock(1000 + update)).metrics
        assert all(value.isfinite() for value in metrics.values())
        assert metrics["contrast/loss"] >= 0
    after = snapshot(agent.objective)
    trained = [key for key, parameter in agent.objective.named_parameters() if parameter.requires_grad]
    assert all(not torch.equal(before[key], after[key]) for key in trained)


# prepare


D, K, PIXELS = 6, 3, (6, 4, 4)
PADDED = padding("##....", "......", "...###")
LENGTH = PADDED.shape[1]


def built_in(name: str) -> Objective:
    masked = {"length": LENGTH, "batch": len(PADDED), "dropout": 0.0, "mask_rate": 0.7}
    if name == "curl":
        return Curl(CurlSettings(), D)
    if name == "seq-curl":
        return SeqCurl(SeqCurlSettings(length=LENGTH, batch=len(PADDED)), D)
    if name == "sym-curl":
        return SymCurl(MCurlSettings(**masked), D)  # type: ignore[arg-type]
    return MCurl(MCurlSettings(mask=name, projection=True, **masked), D)  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["curl", "iid", "block", "frames", "seq-curl", "sym-curl"])
def test_five_lines_train_a_strangers_encoder(name: str) -> None:
    torch.manual_seed(0)
    objective, encoder = built_in(name), LinearEncoder(PIXELS, D, torch.float32)
    key_encoder, generator = momentum_copy(encoder), np.random.default_rng(0)
    padded = None if name == "curl" else PADDED
    observations = random_pixels(7 if padded is None else PADDED.size, PIXELS)
    optimizer = torch.optim.Adam([*encoder.parameters(), *objective.parameters()], lr=1e-2)
    before = snapshot(encoder)
    # The five lines.
    query, key, plan = objective.prepare(observations, padded, generator, frame_stack=K)
    loss = objective.loss(query, key, plan, encoder, key_encoder)
    optimizer.zero_grad()
    loss.value.backward()
    optimizer.step()
    assert loss.value.isfinite()
    assert loss.value > 0
    assert loss.metrics["contrast/loss"] == loss.value
    assert all(not torch.equal(before[name], p) for name, p in encoder.named_parameters() if name.endswith("weight"))
    assert len(key) == len(observations)


@pytest.mark.parametrize("name", ["curl", "iid", "frames", "seq-curl"])
def test_queries_and_keys_are_augmented_apart_and_the_zero_observation_is_not(name: str) -> None:
    calls: list[Tensor] = []

    def augment(pixels: Tensor) -> Tensor:
        calls.append(pixels)
        return (pixels // 2 + len(calls))[..., 1:, 1:]

    objective, observations = built_in(name), random_pixels(18, PIXELS)
    padded = None if name == "curl" else PADDED
    query, key, _ = objective.prepare(observations, padded, np.random.default_rng(0), frame_stack=K, augment=augment)
    assert len(calls) == 2
    assert torch.equal(key, (observations // 2 + 2)[..., 1:, 1:])
    shown = query[1:] if name in ("iid", "frames") else query
    assert torch.equal(shown, (calls[0] // 2 + 1)[..., 1:, 1:])
    if name in ("iid", "frames"):
        assert not query[0].any()
    else:
        assert torch.equal(calls[0], observations)


@pytest.mark.parametrize("seed", range(3))
def test_prepared_stacks_show_what_the_plan_says(seed: int) -> None:
    """Frames tell their number: none that is hidden shows, and a replacement is one wherever its frame stands."""
    batch, frames = len(PADDED), LENGTH + K - 1
    numbers = 1 + np.arange(batch)[:, None, None] * frames + (np.arange(LENGTH)[:, None] + np.arange(K))  # [B, T, K]
    observations = torch.from_numpy(np.broadcast_to(numbers.reshape(-1, K, 1, 1), (batch * LENGTH, K, 4, 4)).copy())
    observations = observations.to(torch.uint8)
    objective = built_in("frames")
    generator = np.random.default_rng(seed)
    query, key, tensors = objective.prepare(observations, PADDED, generator, frame_stack=K)
    assert torch.equal(key, observations)
    told = query[:, :, 0, 0].numpy()[tensors.source.numpy()]  # [B, T, K]
    for b in range(batch):
        stands: dict[int, set[int]] = {}
        for t in np.flatnonzero(~PADDED[b]):
            for k in range(K):
                stands.setdefault(int(numbers[b, t, k]), set()).add(int(told[b, t, k]))
            if all(told[b, t] != numbers[b, t]):
                assert tensors.selected[b, t]
        assert all(len(shown) == 1 for shown in stands.values())


def test_prepared_observations_show_what_the_plan_says() -> None:
    observations = torch.arange(1, 19, dtype=torch.uint8).view(-1, 1, 1, 1).expand(-1, *PIXELS).clone()
    objective = MCurl(MCurlSettings(length=LENGTH, batch=3, mask_rate=0.7, zero_fraction=0.4, random_fraction=0.4), D)
    query, _, tensors = objective.prepare(observations, PADDED, np.random.default_rng(1))
    told = query[:, 0, 0, 0].numpy()[tensors.source.numpy()]
    own = np.arange(1, 19).reshape(PADDED.shape)
    selected = tensors.selected.numpy()
    assert not told[PADDED].any()
    assert (told == own)[~selected & ~PADDED].all()
    assert {bool(row) for row in told[selected] == 0} == {True, False}
    assert ((told != own) & (told != 0) & selected).any()
