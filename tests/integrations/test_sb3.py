"""M-CURL in the real Stable-Baselines3."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from bar import SIDE, Bar

from mcurl.errors import UserError

pytest.importorskip("stable_baselines3")
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.vec_env import VecNormalize

from mcurl.sb3 import CurlEncoder, MCurlDQN, MCurlSAC

SMALL = {"filters": 8, "layers": 1, "features_dim": 16}
ENCODER = {"features_extractor_class": CurlEncoder, "features_extractor_kwargs": SMALL}


def build(cls: type[Any], env: Any = None, **options: Any) -> Any:
    """A small agent that learns fast."""
    env = env or Bar(discrete=cls is MCurlDQN)
    defaults: dict[str, Any] = {
        "policy_kwargs": ENCODER | {"net_arch": [32]},
        "objective_settings": {"length": 4, "batch": 4, "warmup": 50},
        "buffer_size": 1000,
        "batch_size": 32,
        "learning_starts": 50,
        "learning_rate": 3e-3,
        "gamma": 0.0,
        "shift_pad": 0,
        "seed": 0,
        "device": "cpu",
        "train_freq": 1,
    }
    extra = {"exploration_fraction": 0.5} if cls is MCurlDQN else {"ent_coef": 0.01}
    return cls("CnnPolicy", env, **{**defaults, **extra, **options})


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"contrast_lr": -1.0}, "contrast_lr must be above 0"),
        ({"contrast_lr": "fast"}, "contrast_lr is a number"),
        ({"encoder_factor": -1}, "encoder_factor must be at least 0"),
        ({"key_momentum": 5.0}, "key_momentum must be from 0 to 1"),
        ({"shift_pad": 1.5}, "shift_pad is a whole number"),
        ({"frame_stack": 0}, "frame_stack must be at least 1"),
        ({"frame_stack": 2}, "frame_stack=2 does not divide the 1 channels"),
        ({"action_repeat": 0}, "action_repeat must be at least 1"),
        ({"objective": 3}, "an objective is a name or a subclass of Objective, not 3"),
        ({"objective_settings": ["length"]}, "settings are a dict"),
        ({"objective_settings": {"mcurl.lenght": 4}}, "there is no setting mcurl.lenght: did you mean length"),
        ({"objective_settings": {"mcurl.length": 4}}, "write 'length', without the section"),
    ],
)
def test_options_are_checked(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        build(MCurlSAC, **options)


def test_other_policies_and_observations_are_refused() -> None:
    for policy in ("MlpPolicy", "MultiInputPolicy", 3):
        with pytest.raises(UserError, match='the policy is "CnnPolicy" or a subclass of CurlSACPolicy'):
            MCurlSAC(policy, Bar())  # type: ignore[arg-type]
    env: Any = Bar()
    env.observation_space = gymnasium.spaces.Dict(image=env.observation_space)
    with pytest.raises(UserError, match="learns from one image"):
        MCurlSAC("CnnPolicy", env)


def test_a_loaded_model_keeps_its_options(tmp_path: Path) -> None:
    build(MCurlSAC, action_repeat=4).save(tmp_path / "model")
    with pytest.raises(UserError, match="objective cannot be changed by load"):
        MCurlSAC.load(tmp_path / "model", objective="curl")
    assert MCurlSAC.load(tmp_path / "model").contrast_options.action_repeat == 4


def test_windows_across_episodes_wait_for_enough_rows() -> None:
    settings = {"length": 16, "batch": 4, "cross_episodes": True}
    model = build(MCurlSAC, objective_settings=settings, learning_starts=2)
    updates, original = [], model.contrast.update

    def update(*args: Any, **kwargs: Any) -> Any:
        updates.append(model.num_timesteps)
        return original(*args, **kwargs)

    model.contrast.update = update
    model.learn(20)
    assert updates == list(range(16, 21))


def score(model: Any) -> float:
    """Mean reward over all columns."""
    env = Bar(discrete=isinstance(model, MCurlDQN))
    env.reset()
    rewards = []
    for column in range(SIDE):
        env.column = column
        action, _ = model.predict(env._image(), deterministic=True)
        rewards.append(env.step(action)[1])
    return float(np.mean(rewards))


def losses(model: Any, steps: int, **learn: Any) -> list[float]:
    """The contrastive losses of the next updates."""
    found: list[float] = []
    update = model.contrast.update

    def recorded(*args: Any, **kwargs: Any) -> Any:
        metrics = update(*args, **kwargs)
        found.append(metrics["contrast/loss"].item())
        return metrics

    model.contrast.update = recorded
    model.learn(steps, **learn)
    del model.contrast.update
    return found


@pytest.mark.parametrize(("cls", "enough"), [(MCurlSAC, -0.25), (MCurlDQN, 0.9)])
def test_the_loss_falls_and_the_agent_learns(cls: type[Any], enough: float) -> None:
    model = build(cls)
    found = losses(model, 350)
    assert len(found) == 300
    assert np.mean(found[-50:]) < 0.9 * np.mean(found[:50])
    assert score(model) > enough
    assert "train/contrast_loss" in model.logger.name_to_value


def test_sac_has_curls_arrangement() -> None:
    """Critic and contrast train one encoder; the actor reads it, and does not train it."""
    model = build(MCurlSAC)
    encoder = model.critic.features_extractor
    assert model.actor.features_extractor is encoder
    assert model.contrast.encoder.extractor is encoder
    encoder_ids = set(map(id, encoder.parameters()))

    def optimised(optimizer: torch.optim.Optimizer) -> set[int]:
        return {id(parameter) for group in optimizer.param_groups for parameter in group["params"]}

    assert encoder_ids <= optimised(model.critic.optimizer)
    assert encoder_ids <= optimised(model.contrast.optimizer)
    assert not encoder_ids & optimised(model.actor.optimizer)

    observations = torch.randint(0, 256, (5, 1, SIDE, SIDE), dtype=torch.uint8)
    actions, log_prob = model.actor.action_log_prob(observations)
    (torch.cat(model.critic(observations, actions), 1).sum() + log_prob.sum()).backward()
    assert all(parameter.grad is None for parameter in encoder.parameters())
    assert all(parameter.grad is not None for parameter in model.actor.mu.parameters())
    torch.cat(model.critic(observations, actions.detach()), 1).sum().backward()
    assert all(parameter.grad is not None for parameter in encoder.parameters())


def test_the_target_critic_has_an_encoder_of_its_own() -> None:
    model = build(MCurlSAC)
    online, target = (set(map(id, critic.parameters())) for critic in (model.critic, model.critic_target))
    assert not online & target


@pytest.mark.parametrize("cls", [MCurlSAC, MCurlDQN])
def test_saved_and_loaded_it_goes_on(cls: type[Any], tmp_path: Path) -> None:
    model = build(cls, action_repeat=3)
    model.learn(90)
    model.save(tmp_path / "model")
    model.save_replay_buffer(tmp_path / "buffer")
    loaded = cls.load(tmp_path / "model", env=Bar(discrete=cls is MCurlDQN))
    loaded.load_replay_buffer(tmp_path / "buffer")
    for name, value in model.contrast.state_dict().items():
        if isinstance(value, torch.Tensor):
            assert torch.equal(loaded.contrast.state_dict()[name], value), name
    moments = [m.contrast.optimizer.state_dict()["state"] for m in (model, loaded)]
    assert all(torch.equal(moments[0][key]["exp_avg"], moments[1][key]["exp_avg"]) for key in moments[0])
    assert loaded.contrast.generator.bit_generator.state == model.contrast.generator.bit_generator.state
    assert loaded.learned_env_steps == 40 * 3
    assert score(loaded) == score(model)
    loaded.learn(20, reset_num_timesteps=False)
    assert loaded.learned_env_steps == 60 * 3
    assert loaded.contrast.optimizer.state_dict()["state"][0]["step"] == 60


def test_the_schedule_goes_on_where_timesteps_start_again() -> None:
    model = build(MCurlSAC, objective_settings={"length": 4, "batch": 4, "warmup": 40})
    model.learn(70)
    model.learn(70)  # SB3 resets num_timesteps
    rates = {group["name"]: group["lr"] / group["base_lr"] for group in model.contrast.optimizer.param_groups}
    assert model.learned_env_steps == 40
    assert rates == {"encoder": 1.0, "objective": 1.0}


@pytest.mark.parametrize("optimize", [False, True])
def test_windows_show_one_episode(optimize: bool, tmp_path: Path) -> None:
    """In the buffer's images, the bar moves by one column per step; a window never jumps, also after a reset."""
    buffer = {"optimize_memory_usage": optimize}
    if optimize:
        buffer["replay_buffer_kwargs"] = {"handle_timeout_termination": False}
    model = build(MCurlSAC, make_vec_env(Bar, n_envs=2, seed=0), buffer_size=60, learning_starts=1000, **buffer)
    model.learn(44)
    windows = _columns(model)  # the ring is not full
    with pytest.warns(UserWarning, match="truncated") if optimize else nullcontext():
        model.learn(46)  # SB3 resets the environment in the middle of an episode
    windows += _columns(model)
    assert model.replay_buffer.full
    model.save(tmp_path / "model")
    model.save_replay_buffer(tmp_path / "buffer")
    again = MCurlSAC.load(tmp_path / "model", env=make_vec_env(Bar, n_envs=2, seed=0))
    again.load_replay_buffer(tmp_path / "buffer")
    again.learn(10, reset_num_timesteps=False)  # the environment is reset, too
    windows += _columns(again)
    for columns, padded in windows:
        steps = np.diff(columns) % SIDE
        np.testing.assert_array_equal(steps, np.where(padded[1:] | padded[:-1], steps, 1))
        assert set(steps) <= {0, 1}


def _columns(model: Any) -> list[tuple[np.ndarray, np.ndarray]]:
    """Columns of the bars and padding of the windows that the objective gets."""
    seen: list[Any] = []

    def look(observations: torch.Tensor, padded: np.ndarray, **_: Any) -> dict[str, Any]:
        seen.append((observations, padded))
        return {}

    model.contrast.update = look
    model.train(gradient_steps=50, batch_size=4)
    del model.contrast.update
    found = []
    for observations, padded in seen:
        columns = observations[:, 0, 0].numpy().argmax(1).reshape(padded.shape)
        found += list(zip(columns, padded, strict=True))
    return found


def test_a_reset_does_not_make_a_transition_terminal() -> None:
    model = build(MCurlSAC)
    model.learn(10)
    model.learn(10)
    buffer = model.replay_buffer
    assert buffer.dones[9] == 1
    assert buffer.timeouts[9] == 1  # so the value of its next observation counts


@pytest.mark.parametrize("objective", ["curl", "seq-curl", "sym-curl"])
def test_other_objectives(objective: str) -> None:
    settings = {"length": 4, "batch": 2} if objective != "curl" else None
    model = build(MCurlDQN, objective=objective, objective_settings=settings)
    assert np.isfinite(losses(model, 60)).all()


def test_n_step_returns_and_several_gradient_steps() -> None:
    model = build(MCurlSAC, n_steps=3, gradient_steps=2)
    assert len(losses(model, 60)) == 20


def test_crops_where_the_encoder_is_smaller_than_the_frames() -> None:
    small = ENCODER | {"features_extractor_kwargs": SMALL | {"side": 9}, "net_arch": [16]}
    model = build(MCurlSAC, policy_kwargs=small)
    model.learn(60)
    pixels = torch.randint(0, 256, (3, 1, SIDE, SIDE), dtype=torch.uint8)
    assert model.augment(pixels).shape == (3, 1, 9, 9)
    extractor = model.critic.features_extractor
    whole, centre = (model.critic.extract_features(p, extractor) for p in (pixels, pixels[..., 1:10, 1:10]))
    torch.testing.assert_close(whole, centre)


class States(Bar):
    def __init__(self) -> None:
        super().__init__()
        self.observation_space = gymnasium.spaces.Box(0, 1, (3,), np.float32)  # type: ignore[assignment]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: build(MCurlSAC, States()), "learns from images"),
        (lambda: build(MCurlSAC, VecNormalize(make_vec_env(Bar))), "norm_obs=False"),
        (lambda: MCurlSAC(MCurlDQN.policy_aliases["CnnPolicy"], Bar()), "is not a subclass of CurlSACPolicy"),
        (lambda: build(MCurlSAC, objective="mcrl"), "did you mean mcurl"),
        (lambda: build(MCurlSAC, policy_kwargs={"share_features_extractor": True}), "omit it"),
        (lambda: build(MCurlSAC, policy_kwargs=ENCODER | {"features_extractor_kwargs": {"side": 13}}), "side=13"),
        (lambda: build(MCurlSAC, policy_kwargs={"features_extractor_kwargs": {"layers": 9}}), "layers=9"),
    ],
)
def test_wrong_use_is_refused(call: Any, message: str) -> None:
    with pytest.raises(UserError, match=message):
        call()
