"""DrQ-v2 against a plain version of its update, its shifts against the released code's, and who is trained by what."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from helpers import CPU, box, clock, discrete, moved, perturb, random_pixels, snapshot, whole
from test_sac import _assert_equal, _through_plain_order
from test_stays_on_device import Watch
from torch import Tensor, nn

from mcurl import native
from mcurl.agents.base import UpdateSchedule
from mcurl.agents.drqv2 import DrQv2, DrQv2Settings
from mcurl.config import resolve as config
from mcurl.errors import UserError
from mcurl.objectives.base import Objective
from mcurl.objectives.contrast import Curl, CurlSettings
from mcurl.objectives.masked import MCurl, MCurlSettings
from mcurl.replay import Replay
from mcurl.replay.augment import RandomShift
from mcurl.replay.batch import Batch, Contrast, Transitions
from mcurl.run.folder import Run
from mcurl.training import train

SHAPE, ACTIONS, STEPS = (9, 20, 20), 2, 100
SMALL: dict[str, Any] = {
    "batch_size": 8, "hidden": 32, "filters": 8, "layers": 2, "feature_dim": 10, "stddev_steps": STEPS, "shift_pad": 2,
}  # fmt: skip


def transitions(seed: int = 0, n: int = 8) -> Transitions:
    g = torch.Generator().manual_seed(seed)
    pixels = [random_pixels(n, SHAPE, g) for _ in range(2)]
    discount = torch.full((n,), 0.99**3)
    discount[0] = 0
    action = torch.rand(n, ACTIONS, generator=g) * 2 - 1
    return Transitions(
        pixels[0], action, torch.rand(n, generator=g), pixels[1], discount, torch.arange(n), torch.ones(n)
    )


def views(objective: MCurl, seed: int = 0) -> Contrast:
    g = torch.Generator().manual_seed(seed + 1)
    s = objective.settings
    plan = objective.plan(whole(s.batch, s.length), np.random.default_rng(seed))
    key, query = (random_pixels(n, SHAPE, g) for n in (s.batch * s.length, 1 + len(plan.encoded)))
    query[0] = 0
    return Contrast(query, key, plan.to(CPU))


def agent(method: str = "rl-only", *, seed: int = 0, dtype: torch.dtype = torch.float32, **changes: Any) -> DrQv2:
    torch.manual_seed(seed)
    settings = DrQv2Settings(**(SMALL | changes))
    objective: Objective | None = None
    if method == "mcurl":
        objective = MCurl(MCurlSettings(length=4, batch=3), settings.feature_dim)
    elif method == "curl":
        objective = Curl(CurlSettings(), settings.feature_dim)
    return DrQv2(settings, SHAPE, box(ACTIONS), objective, device=CPU, dtype=dtype)


def trunk_of(head: Any) -> nn.Sequential:
    """The parameters of a head in plain layers, which read the maps in the order of their channels."""
    linear, norm = nn.Linear(head.weight[0].numel(), len(head.weight)), nn.LayerNorm(len(head.weight))
    linear.weight.data.copy_(head.weight.detach().flatten(1))
    linear.bias.data.copy_(head.bias.detach())
    norm.load_state_dict(head.norm.state_dict())
    return nn.Sequential(nn.Flatten(), linear, norm, nn.Tanh())


class Plain:
    """The update in plain PyTorch, with the networks of an agent."""

    def __init__(self, drq: DrQv2) -> None:
        body = drq.encoder.convolutions
        layers: list[nn.Module] = []
        for i, (weight, bias) in enumerate(zip(body.weights, body.biases, strict=True)):
            layer = nn.Conv2d(weight.shape[1], len(weight), 3, stride=2 if i == 0 else 1)
            layer.weight.data.copy_(weight.detach())
            layer.bias.data.copy_(bias.detach())  # type: ignore[union-attr]
            layers += [layer, nn.ReLU()]
        self.encoder = nn.Sequential(*layers)
        self.trunk, self.actor_trunk = trunk_of(drq.encoder.features), trunk_of(drq.actor_features)
        self.q1, self.q2, self.actor = (
            copy.deepcopy(net) for net in (drq.critic.first, drq.critic.second, drq.actor.trunk)
        )
        self.online = [self.trunk, self.q1, self.q2]
        self.targets = copy.deepcopy(self.online)
        self.optimizers = [
            torch.optim.Adam([p for module in modules for p in module.parameters()], 1e-4)
            for modules in ([self.encoder], self.online, [self.actor_trunk, self.actor])
        ]

    def encode(self, pixels: Tensor) -> Tensor:
        return self.encoder(pixels.float() / 255 - 0.5)  # type: ignore[no-any-return]

    def action(self, maps: Tensor, std: float, clip: float) -> Tensor:
        mean = self.actor(self.actor_trunk(maps)).tanh()
        noise = torch.clamp(std * torch.randn_like(mean), -clip, clip)
        noisy = mean + noise
        return noisy + (noisy.clamp(-1 + 1e-6, 1 - 1e-6) - noisy).detach()

    @staticmethod
    def smaller(critic: list[nn.Sequential], maps: Tensor, action: Tensor) -> Tensor:
        x = torch.cat([critic[0](maps), action], 1)
        return torch.minimum(critic[1](x), critic[2](x))[:, 0]

    def update(self, t: Transitions, std: float, clip: float = 0.3) -> tuple[float, float]:
        maps = self.encode(t.obs)
        with torch.no_grad():
            next_maps = self.encode(t.next_obs)
            y = t.reward + t.discount * self.smaller(self.targets, next_maps, self.action(next_maps, std, clip))
        x = torch.cat([self.trunk(maps), t.action], 1)
        loss = ((self.q1(x)[:, 0] - y) ** 2 + (self.q2(x)[:, 0] - y) ** 2).mean()
        self.descend(loss, *self.optimizers[:2])
        actor_loss = -self.smaller(self.online, maps.detach(), self.action(maps.detach(), std, clip)).mean()
        self.descend(actor_loss, self.optimizers[2])
        with torch.no_grad():
            for target, online in zip(self.targets, self.online, strict=True):
                for p, q in zip(target.parameters(), online.parameters(), strict=True):
                    p.copy_(0.99 * p + 0.01 * q)
        return loss.item(), actor_loss.item()

    def descend(self, loss: Tensor, *optimizers: torch.optim.Optimizer) -> None:
        for optimizer in self.optimizers:
            optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        for optimizer in optimizers:
            optimizer.step()


def test_updates_are_the_plain_ones() -> None:
    drq = agent(stddev_clip=0.3)
    plain = Plain(drq)
    for i, step in enumerate((40, 80, 400)):
        std = {40: 0.64, 80: 0.28, 400: 0.1}[step]  # from 1 to 0.1 in 100 steps
        torch.manual_seed(i)
        metrics = drq.update(Batch(transitions(i)), clock(i, agent_steps=step)).metrics
        torch.manual_seed(i)
        losses = plain.update(transitions(i), std)
        assert (metrics["critic/loss"].item(), metrics["actor/loss"].item()) == pytest.approx(losses, rel=1e-4)
        assert metrics["actor/stddev"].item() == pytest.approx(std)
    for ours, theirs in (
        (drq.critic.first, plain.q1),
        (drq.critic.second, plain.q2),
        (drq.actor.trunk, plain.actor),
        (drq.target_critic.first, plain.targets[1]),
        (trunk_of(drq.encoder.features), plain.trunk),
        (trunk_of(drq.actor_features), plain.actor_trunk),
        (trunk_of(drq.target_features), plain.targets[0]),
    ):
        for p, q in zip(ours.parameters(), theirs.parameters(), strict=True):
            torch.testing.assert_close(p, q, rtol=1e-3, atol=2e-6)
    for i, weight in enumerate(drq.encoder.convolutions.weights):
        torch.testing.assert_close(weight, plain.encoder[2 * i].weight, rtol=1e-3, atol=2e-6)


def released_shift(x: Tensor, pad: int, shift: Tensor) -> Tensor:
    """Bilinear sampling of the padded frame at a grid that is shifted by whole pixels, as in the released code."""
    n, _, size, _ = x.shape
    x = F.pad(x, (pad,) * 4, "replicate")
    wide = size + 2 * pad
    places = torch.linspace(-1 + 1 / wide, 1 - 1 / wide, wide)[:size].repeat(size, 1)[..., None]
    grid = torch.cat([places, places.transpose(0, 1)], 2).repeat(n, 1, 1, 1)
    return F.grid_sample(x, grid + shift[:, None, None] * 2 / wide, padding_mode="zeros", align_corners=False)


def test_shifts_are_the_released_ones_up_to_rounding() -> None:
    """The released code interpolates at the centres of pixels, which gives the pixels themselves."""
    rng, size, pad, n = np.random.default_rng(0), 84, 4, 30
    frames = rng.integers(0, 256, (n, 3, size, size), dtype=np.uint8)
    ring = Replay(
        capacity=n + 10, frame_shape=(3, size, size), frame_dtype="uint8", frame_stack=1, stack_start="repeat",
        action_shape=(1,), action_dtype=np.float32, n_step=1, discount=0.99, layout="channels_last",
    )  # fmt: skip
    ring.begin(frames[0])
    for frame in frames[1:]:
        ring.append(np.zeros(1, np.float32), 0.0, frame, False, False)
    window = RandomShift(size, pad).window(n, (size, size), rng)
    shift = torch.from_numpy(np.stack([pad - window.right, pad - window.down], 1)).float()
    assert shift.unique().tolist() == list(range(2 * pad + 1))
    expected = released_shift(torch.from_numpy(frames).float(), pad, shift)
    found = ring.gather_stacks(np.arange(n), window).float()
    assert (found - expected).abs().max() < 0.02


def test_actor_loss_trains_neither_convolutions_nor_critic() -> None:
    drq = agent()
    before = {name: snapshot(module) for name, module in drq._modules().items()}
    drq.optimizers["critic"] = drq.optimizers["encoder"] = torch.optim.SGD(  # type: ignore[assignment]
        drq.critic.parameters(), 0.0
    )
    drq.update(Batch(transitions()), clock())
    changed = {name for name, module in drq._modules().items() if moved(before[name], module)}
    assert changed == {"actor", "actor_features"}


@pytest.mark.parametrize("method", ["curl", "mcurl"])
def test_contrastive_loss_trains_encoder_trunk_and_objective(method: str) -> None:
    drq = agent(method)
    t = transitions()
    contrast = views(drq.objective) if isinstance(drq.objective, MCurl) else Contrast(t.obs, t.next_obs, None)
    before = {name: snapshot(module) for name, module in drq._modules().items()}
    assert "contrast/loss" in drq._update_contrast(contrast)
    assert moved(before["encoder"], drq.encoder) == set(before["encoder"])
    changed = {name for name, module in drq._modules().items() if moved(before[name], module)}
    assert changed == {"encoder", "objective"}


def test_keys_are_of_the_key_encoder() -> None:
    drq = agent("curl")
    assert drq.key_encoder is not None
    assert drq.objective is not None
    perturb(drq.key_encoder)
    t = transitions()
    encoders = drq.key_encoder, drq.encoder
    expected, other = (drq.objective.loss(t.obs, t.next_obs, None, drq.encoder, key).value.item() for key in encoders)
    assert expected != pytest.approx(other, rel=1e-3)
    found = drq._update_contrast(Contrast(t.obs, t.next_obs, None))["contrast/loss"].item()
    assert found == pytest.approx(expected, rel=1e-5)


def test_keys_follow_with_their_own_momentum() -> None:
    drq = agent("curl")
    assert drq.key_encoder is not None
    t = transitions()
    drq._update_contrast(Contrast(t.obs, t.next_obs, None))
    old = snapshot(drq.key_encoder)
    drq._update_targets()
    for name, parameter in drq.key_encoder.named_parameters():
        expected = 0.95 * old[name] + 0.05 * dict(drq.encoder.named_parameters())[name]
        torch.testing.assert_close(parameter, expected, rtol=1e-5, atol=1e-7)


def test_rates_of_the_contrastive_optimizer_count_what_was_learned_from() -> None:
    """One update learns from two agent steps."""
    drq = agent("mcurl")
    assert isinstance(drq.objective, MCurl)
    drq.update(Batch(transitions(), views(drq.objective)), clock(1_499, repeat=2))
    rates = {group["name"]: group["lr"] for group in drq.optimizers["contrast"].param_groups}
    assert rates == pytest.approx({"encoder": 2e-4, "objective": 1e-4 * 6_000 / 24_000})


@pytest.mark.parametrize("method", ["rl-only", "mcurl"])
def test_state_goes_on_exactly(method: str) -> None:
    drq = agent(method)
    batches = [
        Batch(transitions(i), views(drq.objective, i) if isinstance(drq.objective, MCurl) else None) for i in range(4)
    ]
    for i in range(2):
        drq.update(batches[i], clock(i))
    saved, noise = copy.deepcopy(drq.state_dict()), torch.get_rng_state()
    other = agent(method, seed=9)
    other.load_state_dict(_through_plain_order(saved))
    results = []
    for one in (drq, other):
        torch.set_rng_state(noise)
        for i in (2, 3):
            one.update(batches[i], clock(i))
        results.append(one.state_dict())
    _assert_equal(*results)


def test_acting_has_scheduled_noise_and_evaluation_none() -> None:
    drq = agent(stddev_clip=0.01)  # which is for the losses alone
    frames = np.random.default_rng(0).integers(0, 256, (500, *SHAPE), dtype=np.uint8)
    state = torch.get_rng_state()
    mean = drq.act(frames, explore=False, clock=clock())
    assert torch.equal(state, torch.get_rng_state())
    for step, std in ((STEPS, 0.1), (10 * STEPS, 0.1)):
        noise = drq.act(frames, explore=True, clock=clock(agent_steps=step)) - mean
        assert noise.std() == pytest.approx(std, rel=0.1)
    wild = drq.act(frames, explore=True, clock=clock(agent_steps=0))
    assert np.abs(wild).max() == np.float32(1 - 1e-6)
    assert np.std(wild - mean) > 0.4


def test_a_step_waits_for_nothing() -> None:
    native.disable(native.ALL, "as on a GPU")
    drq = agent("mcurl")
    assert isinstance(drq.objective, MCurl)
    batch = Batch(transitions(), views(drq.objective))
    drq.update(batch, clock())
    with Watch() as watch:
        drq.step(batch)
    assert watch.operations > 100
    assert not watch.found


def test_convolutions_begin_orthogonal_over_the_whole_kernel() -> None:
    for weight in agent().encoder.convolutions.weights:
        rows = weight.detach().flatten(1)
        torch.testing.assert_close(rows @ rows.T, 2 * torch.eye(len(rows)), rtol=1e-4, atol=1e-4)  # gain √2
        assert rows.all()  # not in the centre alone, as SAC's


def test_bf16_is_close_to_fp32() -> None:
    exact, fast = (agent(dtype=dtype, filters=32, layers=4) for dtype in (torch.float32, torch.bfloat16))
    obs = transitions().obs
    torch.testing.assert_close(fast.encoder(obs), exact.encoder(obs), rtol=0.05, atol=0.05)


def test_what_it_cannot_learn_is_refused() -> None:
    for shape, space, text in (
        (SHAPE, discrete(3), "agent=.rainbow."),
        ((5,), box(2), "are states"),
        ((9, 7, 7), box(2), "too small for drqv2.layers=4"),
    ):
        with pytest.raises(UserError, match=text):
            DrQv2(DrQv2Settings(hidden=32), shape, space, device=CPU)


def test_settings_reach_the_batches_and_the_schedule() -> None:
    drq = agent(discount=0.9, learning_starts=7, random_steps=3, update_every=5)
    assert drq.batch_spec.discount == 0.9
    assert drq.schedule == UpdateSchedule(learning_starts=7, random_steps=3, update_every=5)


def test_the_released_values_of_a_task() -> None:
    def values(task: str, method: str = "rl-only") -> tuple[Any, ...]:
        run = config.resolve(task, method, agent="drqv2")
        s = run.agent_settings
        env = run.env.image_size, run.env.frame_stack, run.env.action_repeat
        return *env, s.n_step, s.batch_size, s.stddev_steps, s.learning_rate, s.feature_dim

    assert values("dmc/cartpole-swingup") == (84, 3, 2, 3, 256, 100_000, 1e-4, 50)
    assert values("dmc/cheetah-run", "mcurl") == (84, 3, 2, 3, 256, 500_000, 1e-4, 50)
    assert values("dmc/walker-walk", "curl") == (84, 3, 2, 1, 512, 100_000, 1e-4, 50)
    assert values("dmc/humanoid-walk") == (84, 3, 2, 3, 256, 2_000_000, 8e-5, 100)
    assert config.resolve("dmc/quadruped-run", "rl-only", agent="drqv2").replay.capacity == 100_000
    sac = config.resolve("dmc/cartpole-swingup", "rl-only")
    assert (sac.agent, sac.env.image_size, sac.env.action_repeat) == ("sac", 100, 8)


def test_its_runs_have_names_of_their_own() -> None:
    runs = [config.resolve("dmc/walker-walk", "curl", agent=name) for name in (None, "sac", "drqv2")]
    assert [(run.name, run.label) for run in runs] == [
        ("curl", "CURL"),
        ("curl", "CURL"),
        ("drqv2-curl", "DrQ-v2, CURL"),
    ]


def test_updates_fall_on_every_third_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen, update = [], DrQv2.update
    monkeypatch.setattr(DrQv2, "update", lambda self, batch, now: seen.append(now) or update(self, batch, now))
    values = ("env_steps=40", "drqv2.update_every=3", "drqv2.learning_starts=20", "drqv2.random_steps=30")
    small = ("drqv2.batch_size=4", "evaluation.every=0", "evaluation.episodes=1", "drqv2.hidden=32", "drqv2.filters=4")
    settings = config.resolve("toy/reach", "rl-only", agent="drqv2", overrides=(*values, *small))
    with Run.create(tmp_path, settings.to_json()) as run:
        train(settings, run, [])
    assert [(now.agent_steps, now.updates) for now in seen] == [(step, i) for i, step in enumerate(range(21, 40, 3))]
