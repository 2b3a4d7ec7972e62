"""SAC with a contrastive objective: the order of Algorithm 1, who is trained by what, and a state that goes on
exactly."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from helpers import CPU, box, clock, discrete, moved, perturb, random_pixels, snapshot, whole
from torch import Tensor

from mcurl.agents.sac import SAC, SacSettings
from mcurl.config import resolve as config
from mcurl.errors import UserError
from mcurl.networks.heads import squashed_sample
from mcurl.objectives.base import Objective
from mcurl.objectives.contrast import Curl, CurlSettings
from mcurl.objectives.masked import MCurl, MCurlSettings
from mcurl.replay.batch import Batch, Contrast, Transitions

SHAPE, CROP, ACTIONS = (9, 24, 24), 20, 2
SMALL: dict[str, Any] = {"crop": CROP, "batch_size": 8, "hidden": 32, "filters": 8, "layers": 2, "feature_dim": 10}


def transitions(seed: int = 0, n: int = 8) -> Transitions:
    g = torch.Generator().manual_seed(seed)
    pixels = [random_pixels(n, (9, CROP, CROP), g) for _ in range(2)]
    discount = torch.full((n,), 0.99)
    discount[0] = 0
    return Transitions(
        pixels[0],
        torch.rand(n, ACTIONS, generator=g) * 2 - 1,
        torch.rand(n, generator=g),
        pixels[1],
        discount,
        torch.arange(n),
        torch.ones(n),
    )


def views(objective: MCurl, seed: int = 0) -> Contrast:
    g = torch.Generator().manual_seed(seed + 1)
    s = objective.settings
    plan = objective.plan(whole(s.batch, s.length), np.random.default_rng(seed))
    key, query = (random_pixels(n, (9, CROP, CROP), g) for n in (s.batch * s.length, 1 + len(plan.encoded)))
    query[0] = 0
    return Contrast(query, key, plan.to(CPU))


def agent(method: str = "mcurl", *, seed: int = 0, dtype: torch.dtype = torch.float32, **changes: Any) -> SAC:
    torch.manual_seed(seed)
    objective: Objective | None = None
    settings = SacSettings(**(SMALL | changes))
    if method == "mcurl":
        objective = MCurl(MCurlSettings(length=4, batch=3), settings.feature_dim)
    elif method == "curl":
        objective = Curl(CurlSettings(), settings.feature_dim)
    return SAC(settings, SHAPE, box(ACTIONS), objective, device=CPU, dtype=dtype)


def test_critic_loss_is_the_plain_one() -> None:
    sac = agent("rl-only")
    perturb(sac.target_encoder, sac.target_critic)
    t = transitions()
    torch.manual_seed(5)
    loss, _ = sac._critic_loss(t)
    torch.manual_seed(5)
    with torch.no_grad():
        mean, log_std = sac.actor(sac.actor_features(sac.encoder.convolutions(t.next_obs)))
        action, log_pi = squashed_sample(mean, log_std, torch.randn_like(mean))
        q1, q2 = sac.target_critic(sac.target_encoder(t.next_obs), action)
    total = 0.0
    r1, r2 = sac.critic(sac.encoder(t.obs), t.action)
    for i in range(len(t)):
        y = t.reward[i] + t.discount[i] * (min(q1[i], q2[i]) - 0.1 * log_pi[i])
        total += ((r1[i] - y) ** 2 + (r2[i] - y) ** 2).item() / len(t)
    assert loss.item() == pytest.approx(total, rel=1e-5)


def test_log_probability_is_that_of_a_squashed_gaussian() -> None:
    mean, log_std, noise = (
        torch.tensor([[0.3, -2.0]], dtype=torch.float64),
        torch.tensor([[-0.5, 0.7]], dtype=torch.float64),
        torch.tensor([[0.9, -1.1]], dtype=torch.float64),
    )
    action, log_pi = squashed_sample(mean, log_std, noise)
    normal = torch.distributions.Normal(mean, log_std.exp())
    squashed = torch.distributions.TransformedDistribution(normal, torch.distributions.TanhTransform())
    torch.testing.assert_close(log_pi, squashed.log_prob(action).sum(1), rtol=1e-9, atol=1e-9)


def test_actor_loss_trains_neither_convolutions_nor_critic() -> None:
    sac = agent("rl-only")
    encoder, critic, actor, own = (
        snapshot(sac.encoder),
        snapshot(sac.critic),
        snapshot(sac.actor),
        snapshot(sac.actor_features),
    )
    sac._update_actor(transitions())
    assert not moved(encoder, sac.encoder)
    assert not moved(critic, sac.critic)
    assert moved(actor, sac.actor) == set(actor)
    assert {"weight", "bias"} <= moved(own, sac.actor_features)


def test_actor_descends_the_plain_loss() -> None:
    sac = agent("rl-only")
    perturb(sac.target_encoder, sac.target_critic)
    plain, t = copy.deepcopy(sac), transitions()
    torch.manual_seed(6)
    loss = sac._update_actor(t)["actor/loss"]
    torch.manual_seed(6)
    mean, log_std = plain.actor(plain.actor_features(plain.encoder.convolutions(t.obs)))
    action, log_pi = squashed_sample(mean, log_std, torch.randn_like(mean))
    expected = (0.1 * log_pi - torch.minimum(*plain.critic(plain.encoder(t.obs), action))).mean()
    assert loss.item() == pytest.approx(expected.item(), rel=1e-5)
    for before, after in zip(plain.actor.trunk[-1].parameters(), sac.actor.trunk[-1].parameters(), strict=True):
        gradient = torch.autograd.grad(expected, before, retain_graph=True)[0]
        assert ((after - before) * gradient <= 0).all()


def with_log_std(value: float) -> SAC:
    """An agent whose policy, before squashing, has mean 0 and this log standard deviation for every observation."""
    sac = agent("rl-only")
    with torch.no_grad():
        last: Any = sac.actor.trunk[-1]
        last.weight.zero_()
        last.bias[ACTIONS:] = float(np.arctanh((value + 10) / 6 - 1))
    return sac


@pytest.mark.parametrize(("log_std", "sign"), [(-1.0, -1), (-4.0, 1)])
def test_the_temperature_moves_the_entropy_towards_minus_the_number_of_actions(log_std: float, sign: int) -> None:
    sac = with_log_std(log_std)  # entropies of about 0.6 and -5.2
    before = sac.log_alpha.item()
    sac._update_actor(transitions(n=64))
    assert sac.log_alpha.item() - before == pytest.approx(sign * 1e-4, rel=1e-2)  # one step of Adam
    assert sac.optimizers["temperature"].param_groups[0]["betas"] == (0.5, 0.999)


def test_exploration_has_the_spread_of_the_policy() -> None:
    actions = with_log_std(-1.0).act(np.zeros((2000, *SHAPE), np.uint8), explore=True)
    assert np.arctanh(actions).std() == pytest.approx(np.exp(-1), rel=0.05)


def test_contrastive_loss_trains_encoder_and_transformer_but_no_policy() -> None:
    sac = agent()
    assert isinstance(sac.objective, MCurl)
    parts = {
        "encoder": sac.encoder,
        "objective": sac.objective,
        "critic": sac.critic,
        "actor": sac.actor,
        "target": sac.target_encoder,
    }
    before = {name: snapshot(part) for name, part in parts.items()}
    sac._update_contrast(views(sac.objective))
    assert moved(before["encoder"], sac.encoder) == set(before["encoder"])
    assert moved(before["objective"], sac.objective) >= {
        "transformer.blocks.0.qkv.weight",
        "transformer.blocks.1.ffn2.weight",
    }
    assert not any(moved(before[name], parts[name]) for name in ("critic", "actor", "target"))


def test_order_and_clocks_are_algorithm_1() -> None:
    """Critic, then (every second update) actor and targets, then the contrastive loss."""
    sac = agent()
    assert isinstance(sac.objective, MCurl)
    calls: list[str] = []
    for name in ("_update_critic", "_update_actor", "_update_targets", "_update_contrast"):
        original = getattr(sac, name)
        setattr(sac, name, lambda *args, original=original, name=name: calls.append(name) or original(*args))
    batch = Batch(transitions(), views(sac.objective))
    sac.update(batch, clock(0))
    assert calls == ["_update_critic", "_update_contrast"]
    calls.clear()
    sac.update(batch, clock(1))
    assert calls == ["_update_critic", "_update_actor", "_update_targets", "_update_contrast"]


def test_targets_follow_with_their_own_momentum() -> None:
    sac = agent("rl-only")
    sac._update_critic(Batch(transitions()))
    old_q, old_e = snapshot(sac.target_critic), snapshot(sac.target_encoder)
    sac._update_targets()
    for old, online, target, tau in (
        (old_q, sac.critic, sac.target_critic, 0.01),
        (old_e, sac.encoder, sac.target_encoder, 0.05),
    ):
        for name, p in target.named_parameters():
            torch.testing.assert_close(
                p, (1 - tau) * old[name] + tau * dict(online.named_parameters())[name], rtol=1e-5, atol=1e-7
            )


def test_learning_rates_of_the_contrastive_optimizer() -> None:
    sac = agent()
    assert isinstance(sac.objective, MCurl)
    sac.update(Batch(transitions(), views(sac.objective)), clock(23_999))
    assert {g["name"]: g["lr"] for g in sac.optimizers["contrast"].param_groups} == pytest.approx(
        {"encoder": 1e-3, "objective": 0.5e-3}
    )
    assert sac.optimizers["critic"].param_groups[0]["lr"] == 1e-3


def test_schedules_count_what_was_learned_from() -> None:
    """Not the steps before learning began; two updates in an agent step learn from one."""
    sac = agent(updates_per_step=2)
    assert isinstance(sac.objective, MCurl)
    for updates, learned in ((0, 4), (1, 4), (2, 8), (11_999, 24_000)):
        sac.update(Batch(transitions(), views(sac.objective)), clock(updates, agent_steps=1000 + updates // 2))
        rates = {g["name"]: g["lr"] for g in sac.optimizers["contrast"].param_groups}
        assert rates == pytest.approx({"encoder": 2e-3, "objective": 1e-3 * learned / 24_000})


def test_curl_anchor_passes_the_critics_encoder_and_key_the_target() -> None:
    sac = agent("curl")
    perturb(sac.target_encoder)
    t = transitions()
    key = torch.randint(0, 256, t.obs.shape, dtype=torch.uint8)
    q, k = sac.encoder(t.obs), sac.target_encoder(key)
    expected = F.cross_entropy(q @ sac.objective.W @ k.T, torch.arange(len(q)))  # type: ignore[union-attr, operator]
    loss, _ = sac._contrast_loss(Contrast(t.obs, key, None))
    assert loss.item() == pytest.approx(expected.item(), rel=1e-5)


def test_the_joint_loss_is_equation_6(monkeypatch: pytest.MonkeyPatch) -> None:
    sac = agent(joint_optimizer=True, contrast_weight=0.3)
    assert isinstance(sac.objective, MCurl)
    losses: list[Tensor] = []
    monkeypatch.setattr(sac, "_optimize", lambda loss, name: losses.append(loss.detach()))
    metrics = sac._update_critic(Batch(transitions(), views(sac.objective)))
    torch.testing.assert_close(losses, [metrics["critic/loss"] + 0.3 * metrics["contrast/loss"]])


def test_without_a_sequence_the_rest_still_learns() -> None:
    sac = agent()
    assert set(sac.update(Batch(transitions()), clock()).metrics) >= {"critic/loss"}


@pytest.mark.parametrize("joint", [False, True])
def test_state_goes_on_exactly(joint: bool) -> None:
    sac = agent(joint_optimizer=joint)
    assert isinstance(sac.objective, MCurl)
    batches = [Batch(transitions(i), views(sac.objective, i)) for i in range(4)]
    for i in range(2):
        sac.update(batches[i], clock(i))
    saved, noise = copy.deepcopy(sac.state_dict()), torch.get_rng_state()
    other = agent(seed=9, joint_optimizer=joint)
    other.load_state_dict(_through_plain_order(saved))
    results = []
    for one in (sac, other):
        torch.set_rng_state(noise)
        for i in (2, 3):
            one.update(batches[i], clock(i))
        results.append(one.state_dict())
    _assert_equal(*results)


def _through_plain_order(value: Any) -> Any:
    """As a file gives it back: every tensor contiguous."""
    if isinstance(value, Tensor):
        return value.clone(memory_format=torch.contiguous_format)
    if isinstance(value, dict):
        return {key: _through_plain_order(item) for key, item in value.items()}
    return [_through_plain_order(item) for item in value] if isinstance(value, list) else value


def _assert_equal(a: Any, b: Any) -> None:
    if isinstance(a, Tensor):
        assert torch.equal(a, b)
    elif isinstance(a, dict):
        assert a.keys() == b.keys()
        for key in a:
            _assert_equal(a[key], b[key])
    elif isinstance(a, list):
        for x, y in zip(a, b, strict=True):
            _assert_equal(x, y)
    else:
        assert a == b


def test_acting_sees_the_centre_and_evaluates_without_noise() -> None:
    sac = agent("rl-only")
    frames = np.random.default_rng(0).integers(0, 256, (1, *SHAPE), dtype=np.uint8)
    state = torch.get_rng_state()
    mean = sac.act(frames, explore=False)
    assert torch.equal(state, torch.get_rng_state())
    border = frames.copy()
    border[:, :, :2] = 255 - border[:, :, :2]
    assert np.array_equal(mean, sac.act(border, explore=False))
    assert not np.array_equal(sac.act(frames, explore=True), sac.act(frames, explore=True))


def test_states_need_no_encoder() -> None:
    torch.manual_seed(0)
    sac = SAC(SacSettings(hidden=32), (5,), box(ACTIONS), device=CPU)
    g = torch.Generator().manual_seed(0)
    t = Transitions(
        torch.randn(8, 5, generator=g),
        torch.rand(8, ACTIONS, generator=g),
        torch.rand(8, generator=g),
        torch.randn(8, 5, generator=g),
        torch.full((8,), 0.99),
        torch.arange(8),
        torch.ones(8),
    )
    losses = [sac.update(Batch(t), clock(i)).metrics["critic/loss"].item() for i in range(60)]
    assert losses[-1] < 0.5 * losses[0]
    assert sac.act(np.zeros((1, 5), np.float32), explore=False).shape == (1, ACTIONS)


def test_the_discount_reaches_the_batches() -> None:
    of_states = SAC(SacSettings(hidden=32, discount=0.9), (5,), box(ACTIONS), device=CPU)
    assert of_states.batch_spec.discount == agent("rl-only", discount=0.9).batch_spec.discount == 0.9


def test_a_setting_without_effect_is_refused() -> None:
    for joint, key in (
        ("false", "contrast_weight"),
        ("true", "contrast_max_grad_norm"),
        ("true", "contrast_encoder_lr"),
    ):
        values = [f"sac.{key}=0.5", f"sac.joint_optimizer={joint}"]
        with pytest.raises(UserError, match="joint_optimizer"):
            config.resolve("toy/reach", "curl", overrides=values)
        values[1] = f"sac.joint_optimizer={'true' if joint == 'false' else 'false'}"
        assert getattr(config.resolve("toy/reach", "curl", overrides=values).agent_settings, key) == 0.5


def test_actions_must_be_continuous() -> None:
    with pytest.raises(UserError, match=r"agent=.rainbow."):
        SAC(SacSettings(**SMALL), SHAPE, discrete(3), device=CPU)


def test_bf16_is_close_to_fp32() -> None:
    exact, fast = agent("rl-only"), agent("rl-only", dtype=torch.bfloat16)
    obs = transitions().obs
    torch.testing.assert_close(fast.encoder(obs), exact.encoder(obs), rtol=0.05, atol=0.05)
