"""The contrastive loss beside an agent of somebody else, without a library."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from mcurl.errors import UserError
from mcurl.integrations import (
    ContrastiveLearner,
    Episodes,
    make_objective,
    parameter_groups,
    random_shift,
    set_learning_rates,
)

D = 8


class Encoder(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer, self.norm = nn.Linear(36, D), nn.LayerNorm(D)
        self.register_buffer("scale", torch.tensor(1 / 255))

    def forward(self, pixels: Tensor) -> Tensor:
        return self.norm(self.layer(pixels.flatten(1) * self.scale))  # type: ignore[no-any-return]


def build(name: str = "mcurl", *, visible: bool = False, **options: object) -> ContrastiveLearner:
    """With ``visible``, the selected positions are shown as they are."""
    torch.manual_seed(0)
    settings: dict[str, object] = {} if name == "curl" else {"length": 6, "batch": 4}
    if name in ("mcurl", "sym-curl"):
        settings |= {"warmup": 20, "dropout": 0.0, "projection": True}
        settings |= {"zero_fraction": 0.0, "random_fraction": 0.0} if visible else {}
    return ContrastiveLearner(make_objective(name, D, settings), Encoder(), **options)  # type: ignore[arg-type]


def observations() -> Tensor:
    """Twenty images ``[20, 1, 6, 6]``; two episodes."""
    return torch.from_numpy(np.random.default_rng(0).integers(0, 256, (20, 1, 6, 6), dtype=np.uint8))


EPISODES = Episodes.from_ends([11, 19], 20)


def learn(learner: ContrastiveLearner, updates: int, start: int = 0) -> list[float]:
    losses, pixels = [], observations()
    for update in range(start, start + updates):
        if learner.objective.contrast_spec.source == "rl":
            metrics = learner.update(pixels, env_steps=update + 1)
        else:
            rows, padded = EPISODES.sample(4, 6, learner.generator)
            metrics = learner.update(pixels[rows.ravel()], padded, env_steps=update + 1)
        losses.append(metrics["contrast/loss"].item())
    return losses


@pytest.mark.parametrize("name", ["mcurl", "sym-curl", "seq-curl", "curl"])
def test_the_loss_falls_and_trains_the_encoder(name: str) -> None:
    # The images are noise: hidden ones are not learned from their neighbours, M-CURL's loss stays at chance, log 15.
    learner = build(name, visible=True, learning_rate=3e-3)
    before = copy.deepcopy(learner.encoder.state_dict())
    losses = learn(learner, 300)
    assert np.mean(losses[-20:]) < 0.5 * np.mean(losses[:10])
    assert not torch.equal(learner.encoder.layer.weight, before["layer.weight"])


def test_queries_and_keys_are_augmented_apart() -> None:
    calls: list[int] = []

    def augment(pixels: Tensor) -> Tensor:
        calls.append(len(pixels))
        return random_shift(pixels, 1)

    learn(build("seq-curl", augment=augment), 1)
    assert calls == [24, 24]


@pytest.mark.parametrize("name", ["mcurl", "sym-curl"])
def test_saved_and_loaded_it_goes_on_with_the_same_bits(name: str, tmp_path) -> None:  # type: ignore[no-untyped-def]
    whole = build(name)
    expected = learn(whole, 10)
    first = build(name)
    learn(first, 4)
    torch.save({"encoder": first.encoder.state_dict(), "contrast": first.state_dict()}, tmp_path / "state.pt")
    second = build(name, seed=7)
    state = torch.load(tmp_path / "state.pt", weights_only=True)  # nothing executable
    second.encoder.load_state_dict(state["encoder"])
    second.load_state_dict(state["contrast"])
    assert learn(second, 6, start=4) == expected[4:]


def test_the_encoder_is_not_saved_twice() -> None:
    assert not any(name.startswith("encoder.") for name in build().state_dict())


def test_keys_move_with_the_momentum_and_copy_buffers() -> None:
    learner = build(momentum=0.25)
    before = learner.key_encoder.layer.weight.clone()
    learner.encoder.scale.fill_(0.5)
    learn(learner, 1)
    torch.testing.assert_close(learner.key_encoder.layer.weight, torch.lerp(before, learner.encoder.layer.weight, 0.25))
    assert learner.key_encoder.scale == 0.5


def test_a_gradient_of_the_agent_is_not_used() -> None:
    clean, stale = build(), build()
    for parameter in stale.encoder.parameters():
        parameter.grad = torch.full_like(parameter, 100.0)
    learn(clean, 1)
    learn(stale, 1)
    assert torch.equal(clean.encoder.layer.weight, stale.encoder.layer.weight)


def test_a_small_gradient_norm_is_enforced() -> None:
    free, clipped = build(), build(max_grad_norm=1e-12)
    start = free.encoder.layer.weight.clone()
    learn(free, 1)
    learn(clipped, 1)
    moved = [(learner.encoder.layer.weight - start).abs().max().item() for learner in (free, clipped)]
    assert moved[1] < 0.1 * moved[0]


def test_groups_and_their_schedule() -> None:
    objective, encoder = make_objective("mcurl", D, {"warmup": 100, "projection": True}), Encoder()
    optimizer = torch.optim.SGD(parameter_groups(objective, encoder, 0.1, encoder_factor=3))
    groups = {group["name"]: group for group in optimizer.param_groups}
    parameters = sum(len(group["params"]) for group in groups.values())
    assert parameters == len([p for p in (*objective.parameters(), *encoder.parameters()) if p.requires_grad])
    assert len(groups["encoder"]["params"]) == 4 + 6  # the encoder's, and the projection's
    for env_steps, expected in ((0, 0.001), (50, 0.05), (100, 0.1), (400, 0.05)):
        set_learning_rates(optimizer, objective, env_steps)
        assert groups["objective"]["lr"] == pytest.approx(expected)
        assert groups["encoder"]["lr"] == pytest.approx(0.3 * min(1, (100 / max(env_steps, 1)) ** 0.5))


@pytest.mark.parametrize(
    ("name", "settings", "message"),
    [
        ("mcrl", {}, "did you mean mcurl"),
        ("mcurl", {"lenght": 3}, "there is no setting mcurl.lenght: did you mean length"),
        ("mcurl", {"mask_rate": 2}, "mcurl.mask_rate must be from 0 to 1, not 2"),
        ("mcurl", {"mask": "all"}, "mcurl.mask"),
    ],
)
def test_wrong_settings_are_refused(name: str, settings: dict[str, object], message: str) -> None:
    with pytest.raises(UserError, match=message):
        make_objective(name, D, settings)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"learning_rate": 0.0}, "learning_rate must be above 0, not 0.0"),
        ({"learning_rate": float("nan")}, "learning_rate must be above 0, not nan"),
        ({"encoder_factor": -1.0}, "encoder_factor must be at least 0, not -1.0"),
        ({"momentum": 1.5}, "momentum must be from 0 to 1, not 1.5"),
        ({"max_grad_norm": -1.0}, "max_grad_norm must be at least 0, not -1.0"),
        ({"frame_stack": 0}, "frame_stack must be at least 1, not 0"),
        ({"learning_rate": None}, "learning_rate"),
        ({"seed": -1}, "seed is a whole number from 0, not -1"),
        ({"seed": 1.5}, "seed is a whole number from 0, not 1.5"),
    ],
)
def test_numbers_out_of_range_are_refused(options: dict[str, object], message: str) -> None:
    with pytest.raises(UserError, match=message):
        build(**options)


@pytest.mark.parametrize("env_steps", [float("nan"), float("inf"), "a", None])
def test_env_steps_that_are_no_number_change_nothing(env_steps: Any) -> None:
    encoder, objective = nn.Linear(3, D), make_objective("curl", D)
    optimizer = torch.optim.Adam(parameter_groups(objective, encoder, 1e-3))
    before = [group["lr"] for group in optimizer.param_groups]
    with pytest.raises(UserError, match="env_steps is the number of simulator steps since the first update, not"):
        set_learning_rates(optimizer, objective, env_steps)
    assert [group["lr"] for group in optimizer.param_groups] == before


@pytest.mark.parametrize("name", ["mcurl", "curl", "seq-curl", "sym-curl"])
def test_features_of_any_precision_are_float32(name: str) -> None:
    objective = make_objective(name, 6, {"length": 4, "batch": 2} if name != "curl" else {}).eval()
    pixels, rng = torch.rand(8, 2, 6, 6), np.random.default_rng(0)
    padded = None if name == "curl" else np.zeros((2, 4), np.bool_)
    query, key, plan = objective.prepare(pixels, padded, rng)
    features = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(72, 6))
    exact = objective.loss(query, key, plan, features, features).value
    double = objective.loss(query, key, plan, lambda x: features(x).double(), features).value
    torch.testing.assert_close(double, exact)
    half = objective.loss(query, key, plan, lambda x: features(x).bfloat16(), lambda x: features(x).bfloat16()).value
    torch.testing.assert_close(half, exact, rtol=0.1, atol=0.1)
    with pytest.raises(UserError, match=r"features are float32 \[\d+, 5\]; the objective expects float32 \[\d+, 6\]"):
        objective.loss(query, key, plan, lambda x: features(x)[:, :5], features)


def test_padding_is_yes_or_no() -> None:
    objective = make_objective("mcurl", 8, {"length": 4, "batch": 2})
    with pytest.raises(UserError, match="padded is bool"):
        objective.prepare(torch.zeros(8, 2, 6, 6), np.full((2, 4), 0.5), np.random.default_rng(0))


@pytest.mark.parametrize(
    ("observations", "padded", "options", "message"),
    [
        ((8, 2, 6, 6), None, {}, r"padded is bool \[B, 4\], the positions outside their episode, not None"),
        ((8, 2, 6, 6), (2, 5), {}, r"not \[2, 5\]"),
        ((8, 2, 6, 6), (8,), {}, r"not \[8\]"),
        ((7, 2, 6, 6), (2, 4), {}, r"observations are a tensor \[8, C, H, W\] for this padding, not Tensor \[7, 2"),
        ((2, 4, 2, 6, 6), (2, 4), {}, r"observations are a tensor \[8, C, H, W\]"),
        ((8, 2, 6, 6), (2, 4), {"frame_stack": 0}, "frame_stack=0 does not divide the 2 channels"),
        ((8, 2, 6, 6), (2, 4), {"frame_stack": 3}, "frame_stack=3 does not divide the 2 channels"),
    ],
)
def test_sequences_of_the_wrong_shape_are_refused(
    observations: tuple[int, ...], padded: tuple[int, ...] | None, options: dict[str, Any], message: str
) -> None:
    objective = make_objective("mcurl", 8, {"length": 4, "batch": 2})
    padding = None if padded is None else np.zeros(padded, np.bool_)
    with pytest.raises(UserError, match=message):
        objective.prepare(torch.zeros(observations), padding, np.random.default_rng(0), **options)


@pytest.mark.parametrize("feature_dim", [0, -1, 2.5, "50"])
def test_a_number_of_features_is_a_whole_number(feature_dim: Any) -> None:
    with pytest.raises(UserError, match="feature_dim is a whole number, at least 1"):
        make_objective("curl", feature_dim)
