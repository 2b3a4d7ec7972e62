#!/usr/bin/env bash
# stable-baselines3 2.9.2: SAC's target_update_interval does nothing with its default of one update per call of train().
#
# Source:    stable-baselines3 2.9.2 with torch 2.13.0, SAC("MlpPolicy", "Pendulum-v1"), 150 updates.
# Expected:  target_update_interval=1_000_000 leaves the target critic nearly as it was; 2, CURL's value, moves it at
#            every second update.
# Seen:      the target's weights are bit for bit those of target_update_interval=1. The interval is compared with the
#            position in one call of train(), which is 0 where gradient_steps=1. With gradient_steps=2 it does count.
#            Asked in DLR-RM/stable-baselines3#2158.
# Way out:   a smaller tau (half of it for every second update), or train_freq and gradient_steps of the interval.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check \
    stable-baselines3==2.9.2 torch==2.13.0 gymnasium==1.4.0 numpy==2.4.6
cat > "$folder/targets.py" <<'PYTHON'
import torch
from stable_baselines3 import SAC


def target(interval: int, gradient_steps: int) -> torch.Tensor:
    """Weights of the target critic after 150 updates."""
    model = SAC(
        "MlpPolicy",
        "Pendulum-v1",
        target_update_interval=interval,
        gradient_steps=gradient_steps,
        train_freq=gradient_steps,
        learning_starts=50,
        policy_kwargs={"net_arch": [16]},
        seed=0,
        device="cpu",
    )
    model.learn(200)
    return torch.cat([weight.detach().flatten() for weight in model.critic_target.parameters()])


each, never = target(1, gradient_steps=1), target(1_000_000, gradient_steps=1)
print("one update per call:  interval 1 and interval 1,000,000 give equal targets:", torch.equal(each, never))
assert torch.equal(each, never)
each, second = target(1, gradient_steps=2), target(2, gradient_steps=2)
print("two updates per call: interval 1 and interval 2 give equal targets:", torch.equal(each, second))
assert not torch.equal(each, second)
PYTHON
"$folder/venv/bin/python" "$folder/targets.py" | tee "$folder/seen"
diff "$folder/seen" - <<'SEEN'
one update per call:  interval 1 and interval 1,000,000 give equal targets: True
two updates per call: interval 1 and interval 2 give equal targets: False
SEEN
