#!/usr/bin/env bash
# tianshou 2.0.1: DQN with huber_loss_delta ignores the importance weights of a prioritized buffer: beta does nothing.
#
# Source:    tianshou 2.0.1 with torch 2.13.0 and gymnasium 1.4.0, DQN and PrioritizedReplayBuffer(alpha=1), twenty
#            updates with Adam of a table of values for four states. Each state ends the game, with rewards 1, 2, 4, 8.
# Expected:  beta=0 (no correction) and beta=1 (full correction) learn other values. A delta of a million makes the
#            Huber loss half the squared error, and Adam goes the same way with half a loss: the values of the MSE.
# Seen:      so it is with the MSE. With Huber loss, beta=0 and beta=1 learn the same values to the last bit, and with a
#            delta of a million, those of the MSE with beta=0. _update_with_batch() takes the weights out of the batch,
#            multiplies the squared errors by them, and leaves them out of the branch for the Huber loss. Steps are
#            still drawn by their priority, so the bias that the weights are there for remains in full. QRDQN, IQN and
#            FQF multiply their Huber losses by the weights, by their source.
# Way out:   huber_loss_delta=None.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check \
    tianshou==2.0.1 torch==2.13.0 numpy==2.4.6 numba==0.68.1 gymnasium==1.4.0
cat > "$folder/huber.py" <<'PYTHON'
import gymnasium
import numpy as np
import torch
from tianshou.algorithm import DQN
from tianshou.algorithm.modelfree.dqn import DiscreteQLearningPolicy
from tianshou.algorithm.optim import AdamOptimizerFactory
from tianshou.data import Batch, PrioritizedReplayBuffer
from tianshou.utils.torch_utils import policy_within_training_step


class Table(torch.nn.Module):
    """Values of four states, with one action."""

    def __init__(self) -> None:
        super().__init__()
        self.values = torch.nn.Parameter(torch.zeros(4, 1))

    def forward(self, obs, state=None, info=None):
        return self.values[torch.as_tensor(obs)], state


def learned(delta: float | None, beta: float) -> list[float]:
    np.random.seed(0)
    buffer = PrioritizedReplayBuffer(4, alpha=1.0, beta=beta)
    for state in range(4):
        step = {"obs": state, "act": 0, "rew": 2.0**state, "terminated": True, "truncated": False, "obs_next": state}
        buffer.add(Batch(**step))
    table = Table()
    policy = DiscreteQLearningPolicy(model=table, action_space=gymnasium.spaces.Discrete(1))
    algorithm = DQN(policy=policy, optim=AdamOptimizerFactory(lr=0.1), is_double=False, huber_loss_delta=delta)
    with policy_within_training_step(policy):
        for _ in range(20):
            algorithm.update(buffer, sample_size=8)
    return table.values.flatten().tolist()


for delta in (None, 1.0, 1e6):
    without, full = learned(delta, 0.0), learned(delta, 1.0)
    print(f"huber_loss_delta={delta}, same values: {without == full}")
    for beta, values in ((0, without), (1, full)):
        print(f"    beta={beta}:", *[f"{value:.2f}" for value in values])
PYTHON
"$folder/venv/bin/python" "$folder/huber.py" | tee "$folder/seen"
diff "$folder/seen" - <<'SEEN'
huber_loss_delta=None, same values: False
    beta=0: 0.99 1.46 1.56 1.86
    beta=1: 0.99 1.42 1.22 1.81
huber_loss_delta=1.0, same values: True
    beta=0: 0.99 1.53 1.62 1.90
    beta=1: 0.99 1.53 1.62 1.90
huber_loss_delta=1000000.0, same values: True
    beta=0: 0.99 1.46 1.56 1.86
    beta=1: 0.99 1.46 1.56 1.86
SEEN
