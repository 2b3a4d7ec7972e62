"""Rainbow: its loss against a slow twin, what its gradient reaches, its noise, its clocks, its state, and that it
learns."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import plain_c51
import pytest
import torch
from helpers import CPU, box, clock, discrete, perturb, random_pixels, whole
from torch import Tensor

from mcurl.agents.base import Agent, UpdateSchedule
from mcurl.agents.rainbow import FeatureSource, Rainbow, RainbowSettings
from mcurl.errors import UserError
from mcurl.networks.noisy import DuelingHead, HeadWeights
from mcurl.objectives.base import Objective
from mcurl.objectives.contrast import Curl, CurlSettings
from mcurl.objectives.masked import MCurl, MCurlSettings
from mcurl.replay.augment import PaddedCrop, WholeFrame
from mcurl.replay.batch import Batch, Contrast, Transitions

SHAPE, ACTIONS = (2, 28, 28), 3
SMALL = RainbowSettings(batch_size=8, atoms=11, hidden=16)


def pixels(n: int, shape: tuple[int, int, int] = SHAPE) -> Tensor:
    return random_pixels(n, shape)


def transitions(n: int = 8) -> Transitions:
    return Transitions(
        obs=pixels(n),
        action=torch.randint(0, ACTIONS, (n,)),
        reward=3 * torch.randn(n),
        next_obs=pixels(n),
        discount=0.99**20 * (torch.rand(n) > 0.3).float(),
        rows=torch.arange(n),
        weights=0.2 + 0.8 * torch.rand(n),
    )


def width(source: FeatureSource = "head") -> int:
    return Rainbow.feature_dim(replace(SMALL, feature_source=source), SHAPE)


def masked(source: FeatureSource = "head", **settings: Any) -> MCurl:
    return MCurl(MCurlSettings(length=4, batch=3, **settings), width(source))


def masked_views(objective: MCurl) -> Contrast:
    plan = objective.plan(whole(3, 4), np.random.default_rng(0))
    shown = pixels(1 + len(plan.encoded))
    shown[0] = 0
    return Contrast(shown, pixels(12), plan.to(CPU))


def build(objective: Objective | None = None, *, dtype: torch.dtype = torch.float32, **settings: Any) -> Rainbow:
    torch.manual_seed(0)
    agent = Rainbow(replace(SMALL, **settings), SHAPE, discrete(ACTIONS), objective, device=CPU, dtype=dtype)
    with torch.no_grad():  # so that the target differs from the online network, and every σ from its neighbour
        for parameter in agent.target.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
        for layer in (agent.online.head.value_hidden, agent.online.head.advantage):
            layer.weight_sigma.add_(0.05 * torch.randn_like(layer.weight_sigma))
    return agent


def frozen(agent: Rainbow) -> dict[str, Any]:
    return copy.deepcopy(agent.state_dict())


def test_rl_loss_equals_the_plain_twin() -> None:
    agent = build()
    t = transitions()
    noise, target_noise = agent.online.head.sample_noise(), agent.online.head.sample_noise()
    each, _ = agent._rl_loss(t, noise, target_noise)
    online, target = agent.online.state_dict(), agent.target.state_dict()
    for i in range(8):
        sample = (t.obs[i], int(t.action[i]), float(t.reward[i]), t.next_obs[i], float(t.discount[i]))
        plain = plain_c51.rl_loss(online, target, noise, target_noise, sample, ACTIONS, agent.support.tolist())
        assert each[i].item() == pytest.approx(plain, rel=1e-4)


def test_total_is_the_weighted_mean_plus_lambda_times_the_contrastive_loss() -> None:
    objective = masked(dropout=0.0)
    agent = build(objective, contrast_weight=0.3)
    batch = Batch(transitions(), masked_views(objective))
    noise = agent.online.head.sample_noise()
    loss, priority, metrics = agent._losses(batch, noise, noise)
    each, _ = agent._rl_loss(batch.transitions, noise, noise)
    torch.testing.assert_close(priority, each)
    torch.testing.assert_close(loss, (batch.transitions.weights * each).mean() + 0.3 * metrics["contrast/loss"])
    assert not priority.requires_grad
    assert not any(metric.requires_grad for metric in metrics.values())


def test_curls_released_weighting_of_the_contrastive_loss() -> None:
    objective = masked(dropout=0.0)
    agent = build(objective, importance_weighted_contrast=True, contrast_in_priorities=True, contrast_weight=0.3)
    batch = Batch(transitions(), masked_views(objective))
    noise = agent.online.head.sample_noise()
    loss, priority, metrics = agent._losses(batch, noise, noise)
    each, _ = agent._rl_loss(batch.transitions, noise, noise)
    torch.testing.assert_close(priority, each + 0.3 * metrics["contrast/loss"])
    torch.testing.assert_close(loss, (batch.transitions.weights * (each + 0.3 * metrics["contrast/loss"])).mean())


def trained(agent: Rainbow) -> list[Tensor]:
    return [parameter for group in agent.optimizer.param_groups for parameter in group["params"]]


@pytest.mark.parametrize("source", ["head", "conv"])
def test_the_gradient_reaches_everything_online_and_no_copy(source: FeatureSource) -> None:
    objective = masked(source)
    agent = build(objective, feature_source=source)
    batch = Batch(transitions(), masked_views(objective))
    loss, _, _ = agent._losses(batch, agent.noise, agent.noise)
    loss.backward()
    assert all(parameter.grad is not None and parameter.grad.any() for parameter in trained(agent))
    assert agent.key is not None
    for module in (agent.target, agent.key):
        assert not any(parameter.requires_grad or parameter.grad is not None for parameter in module.parameters())


def test_one_adam_steps_every_online_parameter_once() -> None:
    objective = masked()
    agent = build(objective)
    owned = {id(parameter) for group in agent.optimizer.param_groups for parameter in group["params"]}
    assert agent.query is not None
    wanted = [*agent.online.parameters(), *agent.query.head.parameters(), *objective.parameters()]
    assert owned == {id(parameter) for parameter in wanted}
    assert len(owned) == len(trained(agent))


def heard(head: DuelingHead) -> list[Tensor]:
    """The noise of all weights that a dueling head makes from now on, copied."""
    calls: list[Tensor] = []
    made = head.weights

    def weights(noise: Tensor) -> HeadWeights:
        calls.append(noise.clone())
        return made(noise)

    head.weights = weights  # type: ignore[method-assign, assignment]
    return calls


def test_acting_and_both_online_passes_share_one_draw_and_the_target_has_its_own() -> None:
    agent = build()
    online, target = heard(agent.online.head), heard(agent.target.head)
    agent.act(pixels(1).numpy(), explore=True)
    agent.update(Batch(transitions()), clock())
    assert len(online) == 2  # acting; the next observation and the observation
    assert torch.equal(online[0], online[1])
    assert len(target) == 1
    assert not torch.equal(target[0], online[0])


def test_every_update_and_every_step_has_a_new_draw() -> None:
    agent = build()
    online = heard(agent.online.head)
    agent.act(pixels(1).numpy(), explore=True)
    agent.update(Batch(transitions()), clock())
    agent.update(Batch(transitions()), clock())
    agent.act(pixels(1).numpy(), explore=True)
    assert torch.equal(online[0], online[1])
    assert not torch.equal(online[1], online[2])
    assert not torch.equal(online[2], online[3])


def test_evaluation_is_greedy_on_the_mean_network_and_leaves_the_noise_alone() -> None:
    agent = build()
    stacks = pixels(16)
    state, noise = torch.get_rng_state(), agent.noise.clone()
    first = agent.act(stacks.numpy(), explore=False)
    assert first.dtype == np.int64
    assert first.shape == (16,)
    assert np.array_equal(first, agent.act(stacks.numpy(), explore=False))
    q = (
        torch.softmax(agent.online(agent.online.encoder.patches(stacks), agent.online.head.weights(None)), -1)
        * agent.support
    ).sum(-1)
    assert np.array_equal(first, q.argmax(1).numpy())
    assert torch.equal(state, torch.get_rng_state())
    assert torch.equal(noise, agent.noise)


def test_is_an_agent() -> None:
    agent: Agent = build()  # what mypy holds it to
    assert not agent.update_before_step
    assert agent.schedule == UpdateSchedule(learning_starts=1600, updates_per_step=1, random_steps=0)
    assert (agent.batch_spec.reward_clip, agent.batch_spec.n_step, agent.evaluation_epsilon) == (1.0, 20, 0.001)


def test_settings_other_than_the_defaults_have_an_effect() -> None:
    agent = build(discount=0.9, adam_eps=1e-3, sigma=0.4, v_min=-3.0, v_max=5.0)
    assert agent.batch_spec.discount == 0.9
    assert agent.optimizer.param_groups[0]["eps"] == 1e-3
    assert agent.support[[0, -1]].tolist() == [-3, 5]
    assert (agent.online.head.value.weight_sigma == torch.tensor(0.4 / SMALL.hidden**0.5)).all()


def test_the_exponent_of_the_importance_weights_rises_linearly() -> None:
    agent = build()
    beta = {step: agent.priority_beta(clock(agent_steps=step, horizon=400_000)) for step in (0, 1600, 50_800, 100_000)}
    assert beta == pytest.approx({0: 0.4, 1600: 0.4, 50_800: 0.7, 100_000: 1.0})


def test_the_policys_state_is_all_that_acting_needs() -> None:
    agent, other = build(), build()
    with torch.no_grad():
        for parameter in agent.online.parameters():
            parameter.mul_(1.5)
    other.online.load_state_dict(agent.policy_state()["online"])
    stacks = pixels(32).numpy()
    assert np.array_equal(agent.act(stacks, explore=False), other.act(stacks, explore=False))


def test_target_is_copied_on_agent_steps() -> None:
    agent = build(learning_starts=6, target_every=4, updates_per_step=2)
    batch = Batch(transitions())
    copies = []
    for update in range(1, 17):
        agent.update(batch, clock(update - 1, agent_steps=6 + (update - 1) // 2))
        if all(torch.equal(a, b) for a, b in zip(agent.target.parameters(), agent.online.parameters(), strict=True)):
            copies.append(update)
    assert copies == [6, 14]  # agent steps 8 and 12: the first two updates are those of step 6


def test_keys_follow_by_their_momentum_after_the_step() -> None:
    objective = masked()
    agent = build(objective)
    assert agent.key is not None
    assert agent.query is not None
    before = [parameter.clone() for parameter in agent.key.parameters()]
    agent.update(Batch(transitions(), masked_views(objective)), clock())
    for old, key, online in zip(before, agent.key.parameters(), agent.query.parameters(), strict=True):
        torch.testing.assert_close(key, 0.999 * old + 0.001 * online)
        assert not torch.equal(key, online)


def test_keys_are_of_the_key_encoder() -> None:
    agent = build(Curl(CurlSettings(scale=0.1), width()))
    assert agent.objective is not None
    assert agent.query is not None
    assert agent.key is not None
    perturb(agent.key)
    query, key, encoders = pixels(8), pixels(8), (agent.key, agent.query)
    expected, other = (agent.objective.loss(query, key, None, agent.query, of).value.item() for of in encoders)
    assert expected != pytest.approx(other, rel=1e-3)
    metrics = agent.update(Batch(transitions(), Contrast(query, key, None)), clock()).metrics
    assert metrics["contrast/loss"].item() == pytest.approx(expected, rel=1e-5)


def test_the_schedule_is_the_transformers_alone() -> None:
    objective = masked(warmup=1000)
    agent = build(objective)
    agent.update(Batch(transitions(), masked_views(objective)), clock(24))
    rates = {group["name"]: float(group["lr"]) for group in agent.optimizer.param_groups}
    assert rates.pop("objective") == pytest.approx(0.1 * SMALL.learning_rate)
    assert set(rates.values()) == {SMALL.learning_rate}


def test_the_gradient_is_clipped_over_all_parameters(monkeypatch: pytest.MonkeyPatch) -> None:
    agent = build(max_grad_norm=1e-3)
    seen: list[Tensor] = []

    def record() -> None:
        seen.extend(parameter.grad.clone().flatten() for parameter in trained(agent) if parameter.grad is not None)

    monkeypatch.setattr(agent.optimizer, "step", record)
    metrics = agent.update(Batch(transitions()), clock()).metrics
    assert metrics["gradient/norm"] > 1e-3
    assert torch.cat(seen).norm().item() == pytest.approx(1e-3, rel=1e-2)


def test_no_sequence_yet_is_no_contrastive_loss() -> None:
    objective = masked()
    agent = build(objective)
    before = [parameter.clone() for parameter in objective.parameters()]
    metrics = agent.update(Batch(transitions()), clock()).metrics
    assert "contrast/loss" not in metrics
    assert all(torch.equal(a, b) for a, b in zip(before, objective.parameters(), strict=True))


def test_curl_runs_with_its_own_head() -> None:
    agent = build(Curl(CurlSettings(scale=0.1), width()))
    assert agent.query is not None
    assert agent.query.head.hidden.weight.min() >= 0  # type: ignore[union-attr, operator]
    metrics = agent.update(Batch(transitions(), Contrast(pixels(8), pixels(8), None)), clock()).metrics
    assert metrics["contrast/loss"].isfinite()


def test_views_are_data_efficient_curls() -> None:
    spec = Rainbow(RainbowSettings(), (4, 84, 84), discrete(4), device=CPU).batch_spec
    assert (spec.size, spec.priority_alpha) == (32, 0.5)
    assert (spec.augmentation, spec.contrast_augmentation) == (WholeFrame(), PaddedCrop(80, 4, 84))


def test_actions_must_be_discrete_and_observations_pixels() -> None:
    with pytest.raises(UserError, match=r"agent=.sac."):
        Rainbow(SMALL, SHAPE, box(2), device=CPU)
    with pytest.raises(UserError, match="states"):
        Rainbow(SMALL, (5,), discrete(2), device=CPU)


def test_bfloat16_is_close_to_float32() -> None:
    results = []
    for dtype in (torch.float32, torch.bfloat16):
        objective = masked(dropout=0.0)
        agent = build(objective, dtype=dtype)
        torch.manual_seed(1)
        batch = Batch(transitions(), masked_views(objective))
        if results:
            agent.load_state_dict(results[0][0])
        state = frozen(agent)
        loss, _, metrics = agent._losses(batch, agent.noise, agent.noise)
        loss.backward()
        results.append(
            (
                state,
                loss.item(),
                metrics["contrast/loss"].item(),
                torch.cat([p.grad.flatten() for p in trained(agent) if p.grad is not None]),
            )
        )
    (_, loss, contrast, gradient), (_, rounded, rounded_contrast, rounded_gradient) = results
    assert rounded == pytest.approx(loss, rel=2e-2)
    assert rounded_contrast == pytest.approx(contrast, rel=2e-2)
    assert torch.cosine_similarity(gradient, rounded_gradient, 0) > 0.99


def test_a_loaded_state_gives_the_same_next_updates() -> None:
    def fresh() -> tuple[Rainbow, Callable[[], Contrast]]:
        objective = masked()
        agent = build(objective, learning_starts=0, target_every=3)
        return agent, lambda: masked_views(objective)

    def go_on(agent: Rainbow, views: Callable[[], Contrast]) -> list[Tensor]:
        torch.manual_seed(5)
        for step in range(3):
            agent.act(pixels(1).numpy(), explore=True)
            update = agent.update(Batch(transitions(), views()), clock(step))
        assert update.priorities is not None
        return [update.priorities, *trained(agent), *agent.target.parameters(), agent.noise]

    first, views = fresh()
    go_on(first, views)
    state = frozen(first)
    second, other_views = fresh()
    second.load_state_dict(copy.deepcopy(state))
    for a, b in zip(go_on(first, views), go_on(second, other_views), strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_learns_which_action_an_image_rewards(dtype: torch.dtype) -> None:
    """A one-step problem: the brighter half of the image says which of two actions is worth 1; the other is worth
    -1."""
    torch.manual_seed(0)
    settings = replace(RainbowSettings(), learning_rate=1e-3, hidden=64, learning_starts=0, target_every=20)
    agent = Rainbow(settings, (1, 28, 28), discrete(2), device=CPU, dtype=dtype)

    def images(n: int) -> tuple[Tensor, Tensor]:
        brighter = torch.randint(0, 2, (n,))
        image = torch.randint(0, 160, (n, 1, 28, 28))
        for i, side in enumerate(brighter.tolist()):
            image[i, :, :, 12 * side : 12 * side + 12] += 90
        return image.to(torch.uint8), brighter

    for step in range(150):
        obs, brighter = images(32)
        action = torch.from_numpy(agent.act(obs.numpy(), explore=True))
        reward = (action == brighter).float() * 2 - 1
        agent.update(
            Batch(Transitions(obs, action, reward, obs, torch.zeros(32), torch.arange(32), torch.ones(32))),
            clock(step),
        )
    test_images, answers = images(200)
    assert np.mean(agent.act(test_images.numpy(), explore=False) == answers.numpy()) > 0.95
    logits = agent.online(agent.online.encoder.patches(test_images), agent.online.head.weights(None))
    q = (torch.softmax(logits, -1) @ agent.support).gather(1, answers[:, None])
    assert q.mean().item() == pytest.approx(1, abs=0.3)


@pytest.mark.parametrize("objective", [masked, lambda: Curl(CurlSettings(), width())], ids=["standard", "uniform"])
def test_only_the_convolutions_are_rounded(objective: Callable[[], Objective]) -> None:
    """What the head's outputs share is many times what tells observations apart: bfloat16 would round that away."""
    agents = [build(objective(), dtype=dtype) for dtype in (torch.float32, torch.bfloat16)]
    features = torch.rand(8, agents[0].online.encoder.width)
    heads = [agent.query.head for agent in agents if agent.query is not None]
    assert torch.equal(heads[0](features), heads[1](features))
    assert torch.equal(*(agent.online.head(features, agent.online.head.weights(None)) for agent in agents))
