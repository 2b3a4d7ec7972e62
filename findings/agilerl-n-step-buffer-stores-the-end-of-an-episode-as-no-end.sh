#!/usr/bin/env bash
# agilerl 2.58.0: MultiStepReplayBuffer stores the last step of each episode as "not done", with the next one's rewards.
#
# Source:    agilerl 2.58.0 with tensordict 0.13.0 and torch 2.13.0, MultiStepReplayBuffer(n_step=3, gamma=0.5).
#            Episodes have four steps with reward 1. A state is the number of its episode times ten, plus its step.
# Expected:  the last step, 13, is stored with reward 1 and done. So are 11 and 12, with the rewards up to the end.
# Seen:      11 and 12 are right. 13 is stored with reward 1.75, next state 22 and "not done". The loop in
#            _get_n_step_info() looks for the end in the second and third step of the window and not in the first, so it
#            adds the rewards of the next episode, and then takes that episode's next state and flag. With two
#            environments, the end of one cuts the other's return, too: 10 is stored with two rewards, while
#            RainbowDQN discounts its next state by gamma ** 3. train_off_policy() gives its steps to this buffer as
#            here, without a break between episodes.
# Way out:   n_step=1, or one environment and a subclass whose _get_n_step_info() looks at the first step's flag, too.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check torch==2.13.0 tensordict==0.13.0 numpy==2.4.6 \
    gymnasium==1.4.0 accelerate==1.15.0 pydantic==2.14.4 lazy-loader==0.6 packaging==26.4
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check --no-deps agilerl==2.58.0 agilerl-arena==1.29.0
cat > "$folder/steps.py" <<'PYTHON'
import torch
from agilerl.components import MultiStepReplayBuffer
from tensordict import TensorDict


def stored(*lengths: int) -> MultiStepReplayBuffer:
    """A buffer after 12 steps; each environment has episodes of its own length."""
    buffer = MultiStepReplayBuffer(100, n_step=3, gamma=0.5)
    episodes = [1] * len(lengths)
    numbers = [0] * len(lengths)
    for _ in range(12):
        states = [10.0 * episode + number for episode, number in zip(episodes, numbers, strict=True)]
        done = [number + 1 == length for number, length in zip(numbers, lengths, strict=True)]
        step = {
            "obs": torch.tensor(states),
            "action": torch.zeros(len(lengths)),
            "reward": torch.ones(len(lengths)),
            "next_obs": torch.tensor(states) + 1,
            "done": torch.tensor(done).float(),
        }
        step = {key: value.unsqueeze(1) for key, value in step.items()}
        buffer.add(TensorDict(step, [len(lengths)]))
        numbers = [0 if end else number + 1 for number, end in zip(numbers, done, strict=True)]
        episodes = [episode + end for episode, end in zip(episodes, done, strict=True)]
    return buffer


print("one environment")
for step in stored(4).storage[:5]:
    state, reward, after, done = (step[key].item() for key in ("obs", "reward", "next_obs", "done"))
    print(f"    state {state:.0f}: reward {reward}, next state {after:.0f}, done {bool(done)}")
print("environment with episodes of ten steps, beside one with episodes of two steps")
for step in stored(10, 2).storage[0:6:2]:
    state, reward, after, done = (step[key].item() for key in ("obs", "reward", "next_obs", "done"))
    print(f"    state {state:.0f}: reward {reward}, next state {after:.0f}, done {bool(done)}")
PYTHON
"$folder/venv/bin/python" "$folder/steps.py" | tee "$folder/seen"
diff "$folder/seen" - <<'SEEN'
one environment
    state 10: reward 1.75, next state 13, done False
    state 11: reward 1.75, next state 14, done True
    state 12: reward 1.5, next state 14, done True
    state 13: reward 1.75, next state 22, done False
    state 20: reward 1.75, next state 23, done False
environment with episodes of ten steps, beside one with episodes of two steps
    state 10: reward 1.5, next state 12, done False
    state 11: reward 1.75, next state 14, done False
    state 12: reward 1.5, next state 14, done False
SEEN
