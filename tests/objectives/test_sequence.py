"""seq-CURL and sym-CURL against plain twins, and how sym-CURL's momentum copy moves in both agents."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import plain
import pytest
import torch
from helpers import CPU, LinearEncoder, box, clock, discrete, moved, padding, random_pixels, sequences, snapshot, whole
from torch import Tensor

from mcurl.agents.rainbow import Rainbow, RainbowSettings
from mcurl.agents.sac import SAC, SacSettings
from mcurl.networks.ema import momentum_copy
from mcurl.objectives.base import Objective
from mcurl.objectives.masked import MCurl, MCurlSettings
from mcurl.objectives.sequence import SeqCurl, SeqCurlSettings, SymCurl
from mcurl.replay.batch import Batch, Contrast, Transitions

B, T, D = 3, 5, 6
PIXELS = (2, 4, 4)
PADDINGS = {
    "whole": padding(".....", ".....", "....."),
    "ends": padding("##...", ".....", "...##"),
    "a sequence of nothing": padding("#####", ".....", "#...#"),
}
each_padding = pytest.mark.parametrize("padded", PADDINGS.values(), ids=PADDINGS.keys())

# seq-CURL


def seq_curl(scale: float = 0.3) -> SeqCurl:
    return SeqCurl(SeqCurlSettings(scale=scale, length=T, batch=B), D).double()


@each_padding
def test_seq_curl_equals_the_plain_twin(padded: np.ndarray) -> None:
    torch.manual_seed(1)
    objective, online, momentum = seq_curl(), LinearEncoder(PIXELS, D), momentum_copy(LinearEncoder(PIXELS, D))
    queries, keys = random_pixels(B * T, PIXELS), random_pixels(B * T, PIXELS)
    plan = objective.plan(sequences(padded), np.random.default_rng(0)).to(CPU)
    loss = objective.loss(queries, keys, plan, online, momentum).value
    twin = plain.curl_loss(
        [online(q[None])[0] for q in queries],
        [momentum(k[None])[0] for k in keys],
        padded.ravel().tolist(),
        objective.W,
        0.3,
    )
    assert loss.item() == pytest.approx(twin.item(), rel=1e-10)
    parameters = [*online.parameters(), objective.W]
    for fast, slow in zip(torch.autograd.grad(loss, parameters), torch.autograd.grad(twin, parameters), strict=True):
        torch.testing.assert_close(fast, slow, rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("change", ["padded query", "padded key"])
def test_padding_is_neither_query_nor_key(change: str) -> None:
    torch.manual_seed(2)
    padded = PADDINGS["ends"]
    objective, online, momentum = seq_curl(), LinearEncoder(PIXELS, D), momentum_copy(LinearEncoder(PIXELS, D))
    views = {"padded query": random_pixels(B * T, PIXELS), "padded key": random_pixels(B * T, PIXELS)}
    plan = objective.plan(sequences(padded), np.random.default_rng(0)).to(CPU)
    before = objective.loss(*views.values(), plan, online, momentum)
    where = torch.from_numpy(padded).view(-1, 1, 1, 1)
    views[change] = torch.where(where, 255 - views[change], views[change])
    after = objective.loss(*views.values(), plan, online, momentum)
    assert torch.equal(before.value, after.value)
    assert torch.equal(before.metrics["contrast/accuracy"], after.metrics["contrast/accuracy"])


def test_negatives_are_the_keys_of_all_sequences() -> None:
    torch.manual_seed(3)
    objective, online, momentum = seq_curl(), LinearEncoder(PIXELS, D), momentum_copy(LinearEncoder(PIXELS, D))
    queries, keys = random_pixels(B * T, PIXELS), random_pixels(B * T, PIXELS)
    plan = objective.plan(whole(B, T), np.random.default_rng(0)).to(CPU)
    value = objective.loss(queries, keys, plan, online, momentum).value
    for i in range(B * T):
        other = keys.clone()
        other[i] = 255 - other[i]
        assert objective.loss(queries, other, plan, online, momentum).value != value


def test_nothing_but_padding_is_zero_and_no_nan() -> None:
    objective, online, momentum = seq_curl(), LinearEncoder(PIXELS, D), momentum_copy(LinearEncoder(PIXELS, D))
    plan = objective.plan(sequences(np.ones((B, T), bool)), np.random.default_rng(0)).to(CPU)
    loss = objective.loss(random_pixels(B * T, PIXELS), random_pixels(B * T, PIXELS), plan, online, momentum)
    assert loss.value == 0
    assert all((g == 0).all() for g in torch.autograd.grad(loss.value, [*online.parameters(), objective.W]))


def test_seq_curl_wants_windows_and_learns_as_curl_does() -> None:
    objective = SeqCurl(SeqCurlSettings(length=7, batch=2, cross_episodes=True), D)
    spec = objective.contrast_spec
    assert (spec.source, spec.batch, spec.length, spec.cross_episodes) == ("sequences", 2, 7, True)
    assert spec.head_init == "uniform"
    assert objective.learning_rate(1) == objective.learning_rate(10**6) == {"encoder": 1.0, "objective": 1.0}
    assert [name for name, _ in objective.named_parameters()] == ["W"]


# sym-CURL


def sym_curl(**settings: Any) -> SymCurl:
    """Its momentum copies differ from what they follow."""
    objective = SymCurl(MCurlSettings(length=T, batch=B, **({"dropout": 0.0} | settings)), D).double()
    with torch.no_grad():
        for parameter in objective.parameters():
            if not parameter.requires_grad:
                parameter.add_(0.1 * torch.randn_like(parameter))
    return objective


@each_padding
@pytest.mark.parametrize("cls", [SymCurl, MCurl])
@pytest.mark.parametrize("projected", [False, True], ids=["plain", "projection"])
def test_keys_and_projection_equal_the_plain_twin(cls: type[MCurl], projected: bool, padded: np.ndarray) -> None:
    """Queries: encoder, projection, positions, Transformer. Keys: momentum encoder, momentum projection; with sym-CURL
    positions and the momentum Transformer too."""
    torch.manual_seed(4)
    symmetric = cls is SymCurl
    objective: MCurl = sym_curl(projection=projected, temperature=0.7)
    if not symmetric:
        other = MCurl(objective.settings, D).double()
        other.load_state_dict(objective.state_dict(), strict=False)
        objective = other
    online, momentum = LinearEncoder(PIXELS, D), momentum_copy(LinearEncoder(PIXELS, D))
    observations = random_pixels(B * T, PIXELS)
    plan = objective.plan(sequences(padded), np.random.default_rng(2))
    query = torch.cat([torch.zeros(1, *PIXELS, dtype=torch.uint8), observations[torch.from_numpy(plan.encoded)]])
    loss = objective.loss(query, observations, plan.to(CPU), online, momentum).value
    ours = [p for p in objective.parameters() if p.requires_grad]

    def project(x: Tensor, module: torch.nn.Module) -> Tensor:
        return plain.project(x, dict(module.named_parameters())) if projected else x

    zero = torch.zeros(1, *PIXELS, dtype=torch.uint8)
    shown = [
        [
            project(online(zero if plan.zeroed[b, t] else observations[b * T + t][None])[0], objective.projection)
            for t in range(T)
        ]
        for b in range(B)
    ]
    keys = [
        [project(momentum(observations[b * T + t][None])[0], objective.key_projection) for t in range(T)]
        for b in range(B)
    ]
    twin = plain.masked_loss(
        shown,
        keys,
        plan.selected.tolist(),
        padded.tolist(),
        plain.blocks_of(objective.transformer),
        0.7,
        key_blocks=plain.blocks_of(objective.key_transformer) if symmetric else None,
    )
    assert plan.selected.any()
    assert loss.item() == pytest.approx(twin.item(), rel=1e-10)
    parameters = [*online.parameters(), *ours]
    for fast, slow in zip(torch.autograd.grad(loss, parameters), torch.autograd.grad(twin, parameters), strict=True):
        torch.testing.assert_close(fast, slow, rtol=1e-7, atol=1e-9)


def test_keys_have_no_dropout_in_training() -> None:
    torch.manual_seed(5)
    objective = sym_curl(dropout=0.5)
    features, padded = torch.randn(B, T, D, dtype=torch.float64), torch.from_numpy(PADDINGS["ends"])
    expected = objective.eval().keys(features, padded)
    objective.train()
    assert not torch.equal(*(objective.transformer(features, padded) for _ in range(2)))  # queries have it
    for _ in range(3):
        assert torch.equal(objective.keys(features, padded), expected)
    before = torch.get_rng_state()
    objective.keys(features, padded)
    assert torch.equal(before, torch.get_rng_state())


def test_no_gradient_reaches_the_copies() -> None:
    torch.manual_seed(6)
    objective, online, key = sym_curl(projection=True), LinearEncoder(PIXELS, D), LinearEncoder(PIXELS, D)
    query, keys, plan = objective.prepare(random_pixels(B * T, PIXELS), PADDINGS["ends"], np.random.default_rng(0))
    objective.loss(query, keys, plan, online, key).value.backward()
    copies = [*objective.key_transformer.parameters(), *objective.key_projection.parameters()]
    assert len(copies) > 10
    assert all(not p.requires_grad and p.grad is None for p in copies)
    assert all(p.grad is None for p in key.parameters())
    trained = [*objective.transformer.parameters(), *objective.projection.parameters(), *online.parameters()]
    assert all(p.grad is not None for p in trained)


# In the agents

SAC_SHAPE, SAC_CROP = (9, 24, 24), 20
RAINBOW_SHAPE = (2, 28, 28)


def agent_of(kind: str, objective_class: type[MCurl] = SymCurl, *, seed: int = 0, **settings: Any) -> Any:
    """SAC, SAC with one Adam, or Rainbow, with an M-CURL that has a projection."""
    torch.manual_seed(seed)
    ours = MCurlSettings(length=4, batch=3, projection=True)
    if kind == "rainbow":
        rainbow = RainbowSettings(**({"batch_size": 8, "atoms": 11, "hidden": 16, "key_momentum": 0.3} | settings))
        objective: Objective = objective_class(ours, Rainbow.feature_dim(rainbow, RAINBOW_SHAPE))
        return Rainbow(rainbow, RAINBOW_SHAPE, discrete(3), objective, device=CPU)
    small = {"crop": SAC_CROP, "batch_size": 8, "hidden": 16, "filters": 4, "layers": 2, "feature_dim": 10}
    sac = SacSettings(
        **(small | {"target_every": 3, "encoder_tau": 0.2, "joint_optimizer": kind == "sac-joint"} | settings)
    )
    return SAC(sac, SAC_SHAPE, box(2), objective_class(ours, 10), device=CPU)


def batch_for(agent: Any, seed: int) -> Batch:
    g = torch.Generator().manual_seed(seed)
    continuous = isinstance(agent, SAC)
    shape = (9, SAC_CROP, SAC_CROP) if continuous else RAINBOW_SHAPE
    action = torch.rand(8, 2, generator=g) * 2 - 1 if continuous else torch.randint(0, 3, (8,), generator=g)
    t = Transitions(
        random_pixels(8, shape, g),
        action,
        torch.rand(8, generator=g),
        random_pixels(8, shape, g),
        torch.full((8,), 0.9),
        torch.arange(8),
        torch.ones(8),
    )
    plan = agent.objective.plan(whole(3, 4), np.random.default_rng(seed))
    query = random_pixels(1 + len(plan.encoded), shape, g)
    query[0] = 0
    return Batch(t, Contrast(query, random_pixels(12, shape, g), plan.to(CPU)))


PAIRS = {"key_transformer": "transformer", "key_projection": "projection"}
"""Momentum copies and what they follow."""


@pytest.mark.parametrize("kind", ["sac", "sac-joint", "rainbow"])
def test_copies_move_with_the_key_encoder_and_at_no_other_time(kind: str) -> None:
    agent = agent_of(kind)
    key_encoder = agent.key if kind == "rainbow" else agent.target_encoder
    momentum, every = (0.3, 1) if kind == "rainbow" else (agent.settings.encoder_tau, 3)
    steps = 0
    for update in range(7):
        before = {name: snapshot(getattr(agent.objective, name)) for pair in PAIRS.items() for name in pair}
        keys = snapshot(key_encoder)
        agent.update(batch_for(agent, update), clock(update))
        due = (update + 1) % every == 0
        steps += due
        assert bool(moved(keys, key_encoder)) == due
        for name, source in PAIRS.items():
            module = getattr(agent.objective, name)
            if not due:
                assert not moved(before[name], module)
                continue
            # SAC's targets move before the contrastive step of the same update; with one Adam, and on Rainbow, after.
            online = before[source] if kind == "sac" else snapshot(getattr(agent.objective, source))
            for key, parameter in module.named_parameters():
                expected = (1 - momentum) * before[name][key] + momentum * online[key]
                torch.testing.assert_close(parameter, expected, rtol=1e-5, atol=1e-7)
            assert moved(before[name], module) or steps == 1  # at first both are the same
    assert steps == 7 // every
    assert all(p.grad is None for name in PAIRS for p in getattr(agent.objective, name).parameters())


@pytest.mark.parametrize("kind", ["sac", "sac-joint", "rainbow"])
def test_no_optimizer_has_a_copy_and_each_trained_parameter_is_in_one(kind: str) -> None:
    agent = agent_of(kind)
    optimizers = {"all": agent.optimizer} if kind == "rainbow" else agent.optimizers
    members = [id(p) for o in optimizers.values() for group in o.param_groups for p in group["params"]]
    for parameter in agent.objective.parameters():
        assert members.count(id(parameter)) == int(parameter.requires_grad)


@pytest.mark.parametrize("kind", ["sac", "rainbow"])
def test_copies_are_saved_and_restored(kind: str) -> None:
    agent = agent_of(kind)
    for update in range(4):
        agent.update(batch_for(agent, update), clock(update))
    state, noise = copy.deepcopy(agent.state_dict()), torch.get_rng_state()
    for name in PAIRS:
        assert any(key.startswith(f"{name}.") for key in state["objective"])
    other = agent_of(kind, seed=9)
    other.load_state_dict(copy.deepcopy(state))
    results = []
    for one in (agent, other):
        torch.set_rng_state(noise)
        for update in (4, 5):
            one.update(batch_for(one, update), clock(update))
        results.append(one.objective.state_dict())
    assert results[0].keys() == results[1].keys()
    assert all(torch.equal(results[0][key], results[1][key]) for key in results[0])
    assert not torch.equal(
        results[0]["key_transformer.blocks.0.qkv.weight"], state["objective"]["key_transformer.blocks.0.qkv.weight"]
    )


# The projection


def test_the_projection_is_the_later_releases() -> None:
    layers = list(MCurl(MCurlSettings(projection=True), D).projection.children())
    assert [type(layer).__name__ for layer in layers] == ["Linear", "ReLU", "Linear", "LayerNorm"]
    assert layers[0].weight.shape == (2 * D, D)
    assert layers[2].weight.shape == (D, 2 * D)
    # Its encoder's initialisation reaches the projection, too.
    torch.testing.assert_close(layers[0].weight.T @ layers[0].weight, torch.eye(D))
    torch.testing.assert_close(layers[2].weight @ layers[2].weight.T, torch.eye(D))
    assert not layers[0].bias.any()
    assert not layers[2].bias.any()
    assert not list(MCurl(MCurlSettings(), D).projection.parameters())


def rate_of(agent: Any, parameter: Tensor) -> list[float]:
    optimizers = [agent.optimizer] if isinstance(agent, Rainbow) else agent.optimizers.values()
    groups = [group for optimizer in optimizers for group in optimizer.param_groups]
    return [float(group["lr"]) for group in groups if any(parameter is member for member in group["params"])]


@pytest.mark.parametrize(
    ("kind", "encoder", "own"), [("sac", 2e-3, 0.25e-3), ("sac-joint", 1e-3, 0.25e-3), ("rainbow", 1e-4, 0.25e-4)]
)
def test_the_projection_learns_at_the_encoders_rate_without_the_transformers_schedule(
    kind: str, encoder: float, own: float
) -> None:
    agent = agent_of(kind, MCurl)
    agent.update(batch_for(agent, 0), clock(1499))  # a quarter of the warm-up
    assert rate_of(agent, agent.objective.projection[0].weight) == pytest.approx([encoder])
    assert rate_of(agent, agent.objective.transformer.blocks[0].qkv.weight) == pytest.approx([own])
    before = snapshot(agent.objective.projection)
    agent.update(batch_for(agent, 1), clock(23_999))  # long after it
    assert moved(before, agent.objective.projection) == set(before)
    assert rate_of(agent, agent.objective.projection[0].weight) == pytest.approx(
        [encoder / 2 if kind == "sac" else encoder]
    )


@pytest.mark.parametrize("kind", ["sac", "sac-joint", "rainbow"])
def test_the_projection_has_the_gradient_of_its_loss(kind: str) -> None:
    """It is part of what the loss trains, in whichever optimizer."""
    agent = agent_of(kind, MCurl)
    before = snapshot(agent.objective.projection)
    agent.update(batch_for(agent, 0), clock(0))
    assert moved(before, agent.objective.projection) == set(before)


@pytest.mark.parametrize("limit", [1e-3, 0.0])
def test_one_norm_clips_encoder_projection_and_transformer(limit: float, monkeypatch: pytest.MonkeyPatch) -> None:
    agent = agent_of("sac", MCurl, contrast_max_grad_norm=limit)
    optimizer = agent.optimizers["contrast"]
    seen: list[dict[str, Tensor]] = []

    def record() -> None:
        seen.append(
            {group["name"]: torch.cat([p.grad.flatten() for p in group["params"]]) for group in optimizer.param_groups}
        )

    monkeypatch.setattr(optimizer, "step", record)
    agent.update(batch_for(agent, 0), clock(0))
    (gradients,) = seen
    own = [*agent.objective.projection.parameters(), *agent.objective.transformer.parameters()]
    everything = [*agent.encoder.parameters(), *own]
    assert sum(g.numel() for g in gradients.values()) == sum(p.numel() for p in everything)
    norm = torch.cat(list(gradients.values())).norm().item()
    if limit == 0:
        assert norm > 1e-2
    else:
        assert norm == pytest.approx(limit, rel=1e-2)
        assert all(gradient.norm() < limit for gradient in gradients.values())  # none of them has it alone
