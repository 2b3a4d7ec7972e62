"""Transitions, updates and games of CURL's Atari release are the same as ours.

    git clone https://github.com/aravindsrinivas/curl_rainbow peers/curl_rainbow
    git -C peers/curl_rainbow checkout 40bf738
    PYTHONPATH=src python tests/oracles/released_curl_rainbow.py peers/curl_rainbow

Both replays store the same games. Both agents read the same transitions, weights, crops and noise; what is sampled is
not compared. All is float32, without native operations. A stand-in replaces kornia; `tests/bench/compat.py` stands for
atari_py, and needs ale-py. docs/deviations.md has the differences that are left out here.
"""

from __future__ import annotations

import copy
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any, ClassVar

import gymnasium
import numpy as np
import torch
from released_mcurl import Pairs, difference, report
from torch import Tensor, nn

from mcurl import native
from mcurl.agents.rainbow import Rainbow, RainbowSettings
from mcurl.envs.atari import AtariEnv, AtariSettings
from mcurl.objectives.contrast import Curl, CurlSettings
from mcurl.replay.batch import Batch, Contrast, Transitions
from mcurl.replay.buffer import Replay

CPU, ACTIONS, CAPACITY, UPDATES = torch.device("cpu"), 6, 400, 3
LENGTHS = (45, 60, 30, 40)
"""Of the games in the replays."""
ARGUMENTS: dict[str, Any] = {
    "device": CPU, "game": "krull", "architecture": "data-efficient", "history_length": 4, "hidden_size": 256,
    "noisy_std": 0.1, "atoms": 51, "V_min": -10, "V_max": 10, "model": None, "priority_exponent": 0.5,
    "priority_weight": 0.4, "multi_step": 20, "discount": 0.99, "learning_rate": 1e-4, "adam_eps": 1.5e-4,
    "batch_size": 32, "norm_clip": 10, "max_episode_length": 108_000, "seed": 1,
}  # fmt: skip
"""The defaults of the released main program."""
TOLERANCE = 5e-6
"""Rounding, where an update moves weights by up to 1e-4. As in `released_mcurl.py`, other seeds exceed it, rarely."""
PRIORITY_TOLERANCE = 1e-4
"""Rounding of the contrastive loss, whose logits are some hundreds."""
Found = dict[str, tuple[float, float]]
"""Name -> largest difference and tolerance."""


class RandomCrop(nn.Module):
    """Stands for kornia's: the corners of the coming crops are given."""

    corners: ClassVar[list[tuple[np.ndarray, np.ndarray]]] = []

    def __init__(self, size: tuple[int, int]) -> None:
        super().__init__()
        self.side = size[0]

    def forward(self, x: Tensor) -> Tensor:
        stacks = zip(x, *self.corners.pop(0), strict=True)
        return torch.stack([stack[:, top : top + self.side, left : left + self.side] for stack, top, left in stacks])


def main(folder: Path) -> None:
    sys.path[0:0] = [str(folder), str(Path(__file__).parents[1] / "bench")]
    import compat

    compat.install()
    sys.modules["kornia"] = kornia = ModuleType("kornia")
    sys.modules["kornia.augmentation"] = kornia.augmentation = ModuleType("kornia.augmentation")
    kornia.augmentation.RandomCrop = RandomCrop
    import agent
    import env
    import memory

    native.disable(native.ALL, "compared in plain float32")
    torch.set_num_threads(1)
    torch.manual_seed(1)
    args, rng = SimpleNamespace(**ARGUMENTS), np.random.default_rng(1)
    replay = Replay(
        capacity=CAPACITY, frame_shape=(1, 84, 84), frame_dtype="uint8", frame_stack=4, stack_start="blank",
        action_shape=(), action_dtype=np.int64, n_step=20, discount=0.99, priority_alpha=0.5,
    )  # fmt: skip
    rows, found = compare_replays(memory.ReplayMemory(args, CAPACITY), replay, rng)
    theirs = agent.Agent(args, SimpleNamespace(action_space=lambda: ACTIONS))
    found |= compare_updates(theirs, replay, rows, rng)
    for game, steps in {"boxing": 100, "breakout": 250}.items():  # Breakout is over before
        found[f"{game}: frames, rewards, ends"] = compare_games(env, game, steps, rng), 0.0
    report(found)


def compare_replays(theirs: Any, ours: Replay, rng: np.random.Generator) -> tuple[np.ndarray, Found]:
    """Store games in both replays. Returns the rows of the compared transitions in ours, too."""
    rows, over = [], []
    for length in LENGTHS:
        frames = rng.integers(0, 256, (length + 1, 1, 84, 84), np.uint8)
        ours.begin(frames[0])
        for step in range(length):
            action, reward, end = int(rng.integers(ACTIONS)), float(rng.integers(-1, 2)), step == length - 1
            theirs.append(scaled(torch.from_numpy(frames[step])), action, reward, end)
            rows.append(ours.written - 1)
            over.append(end)
            ours.append(action, reward, frames[step + 1], end, False)
    # The release does not bootstrap from a state whose action ends the game, a slip: left out.
    whole = [i for i in range(len(rows) - 20) if not over[i + 20]]
    t = ours.gather_transitions(np.array(rows)[whole])
    obs, action, reward, next_obs, bootstraps = (torch.cat(x) for x in zip(*only(theirs, whole), strict=True))
    on = bootstraps[:, 0] > 0
    fields = {
        "observations": (obs, scaled(t.obs)),
        "actions": (action, t.action),
        "returns": (reward, t.reward),
        "discounts": (0.99**20 * on, t.discount),
        "next observations": (next_obs[on], scaled(t.next_obs)[on]),
    }
    return t.rows.numpy(), {f"replay: {field}": (difference([pair]), TOLERANCE) for field, pair in fields.items()}


def only(memory: Any, rows: list[int]) -> list[tuple[Tensor, ...]]:
    """Transitions of the released replay, each sampled while no other has a priority."""
    memory.transitions.sum_tree[:] = 0
    found = []
    for leaf in (CAPACITY - 1 + row for row in rows):
        memory.transitions.update(leaf, 1)
        found.append(memory.sample(1)[1:-1])
        memory.transitions.update(leaf, 0)
    return found


def scaled(pixels: Tensor) -> Tensor:
    return pixels.float() / 255


def compare_updates(theirs: Any, replay: Replay, rows: np.ndarray, rng: np.random.Generator) -> Found:
    """Update both agents with the same batches, copy the target network, and act."""
    settings = RainbowSettings(importance_weighted_contrast=True, contrast_in_priorities=True)
    space, objective = gymnasium.spaces.Discrete(ACTIONS), Curl(CurlSettings(scale=0.1), 128)
    ours = Rainbow(settings, (4, 84, 84), space, objective, device=CPU)
    for weight in (*theirs.target_net.parameters(), *theirs.momentum_net.parameters()):
        weight.data += 0.01 * torch.randn_like(weight)  # they differ from the online network
    parts = parts_of(theirs, ours)
    for their, our in (pair for pairs in parts.values() for pair in pairs):
        our.copy_(their)
    priorities = []
    for _ in range(UPDATES):
        weights = rng.uniform(0.2, 1, 32).astype(np.float32)
        t = replay.gather_transitions(rng.choice(rows, 32), weights=weights)
        priorities.append(update(theirs, ours, t, replay, rng))
    theirs.update_target_net()
    ours.copy_target()
    theirs.eval()
    actions = torch.tensor([theirs.act(x) for x in scaled(t.obs)]), torch.tensor(ours.act(t.obs.numpy(), explore=False))
    found = {f"agent: {part}": (difference(pairs), TOLERANCE) for part, pairs in parts.items()}
    found["agent: priorities"] = difference(priorities), PRIORITY_TOLERANCE
    return found | {"agent: greedy actions": (difference([actions]), 0.0)}


def update(
    theirs: Any, ours: Rainbow, t: Transitions, replay: Replay, rng: np.random.Generator
) -> tuple[Tensor, Tensor]:
    """One update of both. Returns the new priorities."""
    ours.reset_noise()
    target_noise = ours.online.head.sample_noise()
    ours.target.head.sample_noise = lambda: target_noise
    set_noise(theirs.online_net, ours.noise, ours.online.head.noise_sizes)
    theirs.target_net.reset_noise = lambda: set_noise(theirs.target_net, target_noise, ours.online.head.noise_sizes)
    windows = [ours.batch_spec.contrast_augmentation.window(32, (84, 84), rng) for _ in range(2)]
    RandomCrop.corners = [x for w in windows for x in ((w.top, w.left), (4 - w.down, 4 - w.right))]
    query, key = (replay.gather_stacks(t.rows.numpy(), window) for window in windows)
    written: list[np.ndarray] = []
    batch = (None, scaled(t.obs), t.action, t.reward, scaled(t.next_obs), (t.discount > 0).float()[:, None], t.weights)
    theirs.learn(SimpleNamespace(sample=lambda _: batch, update_priorities=lambda _, values: written.append(values)))
    theirs.update_momentum_net()
    return torch.from_numpy(written[0]), ours.step(Batch(t, Contrast(query, key, None))).priorities


def noisy(network: Any) -> list[Any]:
    """The noisy layers of a released network, in our order."""
    return [network.fc_h_v, network.fc_z_v, network.fc_h_a, network.fc_z_a]


def set_noise(network: Any, noise: Tensor, sizes: list[int]) -> None:
    for layer, part in zip(noisy(network), torch.split(noise, sizes), strict=True):
        noise_in, noise_out = part[: layer.in_features], part[layer.in_features :]
        layer.weight_epsilon.copy_(noise_out[:, None] * noise_in)
        layer.bias_epsilon.copy_(noise_out)


def parts_of(theirs: Any, ours: Rainbow) -> dict[str, Pairs]:
    """The weights of both sides, by part of the agents."""
    online, target, key = theirs.online_net, theirs.target_net, theirs.momentum_net
    parts = {
        "Q-network": ([*online.convs.parameters(), *dueling(online)], ours.online.parameters()),
        "contrastive head": (head(online), ours.query.head.parameters()),
        "W": ([online.W], [ours.objective.W]),
        "key network": ([*key.convs.parameters(), *head(key)], ours.key.parameters()),
        "target network": ([*target.convs.parameters(), *dueling(target)], ours.target.parameters()),
    }
    return {part: [(a.data, b.data) for a, b in zip(*sides, strict=True)] for part, sides in parts.items()}


def dueling(network: Any) -> list[Tensor]:
    return [weight for layer in noisy(network) for weight in layer.parameters()]


def head(network: Any) -> list[Tensor]:
    return [network.W_h.T, network.b_h, network.W_c.T, network.b_c]


def compare_games(env: Any, game: str, steps: int, rng: np.random.Generator) -> float:
    """Play the same actions from the same number of no-ops; 1 if an observation, a reward or an end differs."""
    ours = AtariEnv(AtariSettings(game), seed=1)
    theirs = env.Env(SimpleNamespace(**ARGUMENTS | {"game": game}))
    noops = int(copy.deepcopy(ours.np_random).integers(30))
    env.random = SimpleNamespace(randrange=lambda _: noops)
    same = torch.equal(theirs.reset(), scaled(torch.tensor(ours.reset()[0])))
    for _ in range(steps):
        action = int(rng.integers(ours.action_space.n))
        obs, reward, terminated, truncated, info = ours.step(action)
        their_obs, their_reward, their_end = theirs.step(action)
        over = terminated or truncated  # a black frame in the release, if it is over early in the step
        same &= over or torch.equal(their_obs, scaled(torch.tensor(obs)))
        same &= their_reward == reward and their_end == (over or info["life_lost"])
        if over:
            break
    return float(not same)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
