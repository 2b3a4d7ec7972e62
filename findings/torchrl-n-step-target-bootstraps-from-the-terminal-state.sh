#!/usr/bin/env bash
# torchrl 0.14.0: with n-step returns, the steps just before an episode's end bootstrap from its terminal state.
#
# Source:    torchrl 0.14.0 with tensordict 0.14.3 and torch 2.13.0, MultiStep and MultiStepTransform with 3 steps,
#            DQNLoss with gamma 0.5. Every state has the value 100, every reward is 1, the fourth step terminates.
# Expected:  a step whose next state is the terminal one has its rewards as target, with nothing of that state's value.
# Seen:      reward and next state are moved ahead to the end of the episode, "terminated" is not: it stays that of the
#            single step. So the last n - 1 steps before the final one get gamma^k times the value of the terminal
#            state added: 14.25 instead of 1.75, 26.5 instead of 1.5. "nonterminal", which is written beside, is not
#            read by any loss. MultiStepTransform's text says that done keys stay untouched, MultiStep's that
#            all keys in "next" are shifted; neither says that the losses of the library then get wrong targets.
# Way out:   MultiStepTransform(..., done_keys=[]): the flags are then moved with the next state.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check \
    torchrl==0.14.0 tensordict==0.14.3 torch==2.13.0 numpy==2.4.6
cat > "$folder/targets.py" <<'PYTHON'
import torch
from tensordict import TensorDict
from torchrl.data import LazyTensorStorage, MultiStep, ReplayBuffer
from torchrl.envs.transforms import MultiStepTransform
from torchrl.modules import QValueActor
from torchrl.objectives import DQNLoss


class Constant(torch.nn.Module):
    """In every state, action 0 has the value 100 and action 1 the value 0."""

    def __init__(self):
        super().__init__()
        self.values = torch.nn.Parameter(torch.tensor([100.0, 0.0]))

    def forward(self, observation):
        return self.values.expand(*observation.shape[:-1], 2)


def episode(length: int) -> TensorDict:
    """States 0, 1, ..., length, of which the last is terminal, with reward 1 at each step."""
    time = torch.arange(length).unsqueeze(-1)
    last = time == length - 1
    flags = {"done": last, "terminated": last, "truncated": torch.zeros_like(last)}
    after = {"observation": time + 1.0, "reward": torch.ones(length, 1), **flags}
    action = torch.tensor([1, 0]).repeat(length, 1)
    return TensorDict({"observation": time + 0.0, "action": action, "next": after}, [length])


def through_buffer(**options) -> TensorDict:
    """First of two equal episodes, as a replay buffer with the transform stores it."""
    transform = MultiStepTransform(n_steps=3, gamma=0.5, **options)
    buffer = ReplayBuffer(storage=LazyTensorStorage(100), transform=transform)
    buffer.extend(torch.cat([episode(4), episode(4)]))
    return buffer[:4]


actor = QValueActor(Constant(), in_keys=["observation"], action_space="one_hot")
loss = DQNLoss(actor, action_space="one_hot", delay_value=False)
loss.make_value_estimator(gamma=0.5)
for name, data in {
    "MultiStep, 1 step": MultiStep(n_steps=1, gamma=0.5)(episode(4)),
    "MultiStep, 3 steps": MultiStep(n_steps=3, gamma=0.5)(episode(4)),
    "MultiStepTransform, 3 steps": through_buffer(),
    "MultiStepTransform, 3 steps, done_keys=[]": through_buffer(done_keys=[]),
}.items():
    target = loss.value_estimator.value_estimate(data, target_params=loss.target_value_network_params)
    print(name)
    print("    next state:", data["next", "observation"].flatten().int().tolist())
    print("    reward:    ", data["next", "reward"].flatten().tolist())
    print("    terminated:", data["next", "terminated"].flatten().int().tolist())
    print("    target:    ", target.flatten().tolist())
PYTHON
RL_LOGGING_LEVEL=ERROR "$folder/venv/bin/python" "$folder/targets.py" | tee "$folder/seen"
diff "$folder/seen" - <<'SEEN'
MultiStep, 1 step
    next state: [1, 2, 3, 4]
    reward:     [1.0, 1.0, 1.0, 1.0]
    terminated: [0, 0, 0, 1]
    target:     [51.0, 51.0, 51.0, 1.0]
MultiStep, 3 steps
    next state: [3, 4, 4, 4]
    reward:     [1.75, 1.75, 1.5, 1.0]
    terminated: [0, 0, 0, 1]
    target:     [14.25, 14.25, 26.5, 1.0]
MultiStepTransform, 3 steps
    next state: [3, 4, 4, 4]
    reward:     [1.75, 1.75, 1.5, 1.0]
    terminated: [0, 0, 0, 1]
    target:     [14.25, 14.25, 26.5, 1.0]
MultiStepTransform, 3 steps, done_keys=[]
    next state: [3, 4, 4, 4]
    reward:     [1.75, 1.75, 1.5, 1.0]
    terminated: [0, 1, 1, 1]
    target:     [14.25, 1.75, 1.5, 1.0]
SEEN
