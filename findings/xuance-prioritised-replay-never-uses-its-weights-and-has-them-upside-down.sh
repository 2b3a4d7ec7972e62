#!/usr/bin/env bash
# xuance 1.4.4: the weights of prioritised replay are upside down, and PerDQN does not use them; beta does nothing.
#
# Source:    xuance 1.4.4 with torch 2.13.0 and numpy 1.26.4, PerOffPolicyBuffer and PerDQN_Learner. First, four steps
#            have the priorities 1, 2, 4 and 8, with alpha=1. Then ten steps that are each an episode of one state and
#            one action have the rewards 11, 1, 1, ..., 1, with the alpha=0.5 of xuance's own settings for PerDQN.
# Expected:  Schaul et al. (2016): step i has the weight (p_i / p_min) ** -beta, and its loss is multiplied by it. With
#            beta=1 the weights are 1, 0.5, 0.25 and 0.125, and the value becomes the mean reward, 2.
# Seen:      the weights are 1, 2, 4 and 8 for any beta: sample() (xuance/common/memory_tools.py) raises only the size
#            of the buffer to the power of -beta, not the priority, and then the size cancels. And no learner reads
#            them: the loss is the same with weights of 0. Seldom rewards count too often, so the value becomes 2.9, not
#            2. PerDQN_Agent anneals beta from PER_beta0 to 1 and gives it to its callbacks, with no effect. No error
#            and no warning. The learners for TensorFlow and MindSpore do not read the weights either.
# Way out:   samples["weights"] ** -beta are the right weights; a learner whose loss is multiplied by them, as below.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check torch==2.13.0 numpy==1.26.4 gymnasium==1.2.3 \
    scipy==1.15.3 pyyaml==6.0.4 tqdm==4.70.1 tensorboard==2.21.0 wandb==0.31.0 opencv-python-headless==4.11.0.86 \
    pyglet==1.5.15
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check --no-deps xuance==1.4.4
cat > "$folder/weights.py" <<'PYTHON'
import random
from argparse import Namespace

import numpy as np
import torch
from gymnasium.spaces import Box, Discrete
from xuance.common import BaseCallback, PerOffPolicyBuffer
from xuance.torch.learners import PerDQN_Learner

BATCH = 100


class Value(torch.nn.Module):
    """A policy with one number: the value of the only action in the only state."""

    action_dim = 1

    def __init__(self) -> None:
        super().__init__()
        self.value = torch.nn.Parameter(torch.zeros(1, 1))

    def forward(self, states: torch.Tensor) -> tuple:
        return None, None, self.value.expand(len(states), 1)

    def target(self, states: torch.Tensor) -> tuple:
        return None, None, self.value.detach().expand(len(states), 1)

    def copy_target(self) -> None:
        pass


def filled(rewards: list[float], alpha: float) -> PerOffPolicyBuffer:
    """A buffer with an episode of one step for each reward, and one more, since the last place is never drawn."""
    state, action = Box(0, 1, (1,), np.float32), Discrete(1)
    buffer = PerOffPolicyBuffer(state, action, {}, 1, len(rewards) + 1, BATCH, alpha)
    for reward in [*rewards, 1.0]:
        buffer.store(np.ones((1, 1)), np.zeros(1), np.array([reward]), np.ones(1), np.ones((1, 1)))
    return buffer


def new_learner() -> PerDQN_Learner:
    settings = {"distributed_training": False, "episode_length": 1, "device": "cpu", "model_dir": ""}
    settings |= {"use_grad_clip": False, "grad_clip_norm": 0.5, "running_steps": 10**9, "parallels": 1}
    settings |= {"learning_rate": 0.05, "gamma": 0.99, "sync_frequency": 100}
    return PerDQN_Learner(Namespace(**settings), Value(), BaseCallback())


def learned(beta: float, mended: bool) -> float:
    """The value after 1000 updates, as the mean over the last 200."""
    random.seed(0)
    buffer, learner, values = filled([11.0] + [1.0] * 9, alpha=0.5), new_learner(), []
    for _ in range(1000):
        samples = buffer.sample(beta)
        if mended:
            weights = torch.as_tensor(samples["weights"][0] ** -beta)
            learner.mse_loss = lambda value, target, weights=weights: (weights * (value - target) ** 2).mean()
        errors, _ = learner.update(**samples)
        buffer.update_priorities(samples["step_choices"], errors)
        values.append(learner.policy.value.item())
    return np.mean(values[-200:]).item()


random.seed(0)
buffer = filled([1.0] * 4, alpha=1.0)
buffer.update_priorities(np.arange(4).repeat(BATCH // 4)[None], np.array([1.0, 2.0, 4.0, 8.0]).repeat(BATCH // 4))
for beta in (0.4, 1.0):
    samples = buffer.sample(beta)
    weights = dict(zip(samples["step_choices"][0].tolist(), samples["weights"][0].tolist(), strict=True))
    print(f"beta={beta}: weights of priorities 1, 2, 4 and 8:", *[f"{weights[step]:g}" for step in range(4)])
samples = filled([10.0] * 10, alpha=0.5).sample(1.0)
for weight in (1.0, 0.0):
    learner = new_learner()
    _, numbers = learner.update(**samples | {"weights": np.full((1, BATCH), weight)})
    value = learner.policy.value.item()
    print(f"all weights {weight:g}: loss {numbers['Qloss']:g}, value after the update {value:.2f}")
for mended, beta in ((False, 0.4), (False, 1.0), (True, 1.0)):
    name = "with the way out" if mended else "as it is"
    print(f"rewards 11, 1, 1, ..., 1 {name}, beta={beta}: value {learned(beta, mended):.1f}")
PYTHON
"$folder/venv/bin/python" -W ignore "$folder/weights.py" | tee "$folder/seen"
diff "$folder/seen" - <<'SEEN'
beta=0.4: weights of priorities 1, 2, 4 and 8: 1 2 4 8
beta=1.0: weights of priorities 1, 2, 4 and 8: 1 2 4 8
all weights 1: loss 100, value after the update 0.05
all weights 0: loss 100, value after the update 0.05
rewards 11, 1, 1, ..., 1 as it is, beta=0.4: value 2.9
rewards 11, 1, 1, ..., 1 as it is, beta=1.0: value 2.9
rewards 11, 1, 1, ..., 1 with the way out, beta=1.0: value 2.0
SEEN
