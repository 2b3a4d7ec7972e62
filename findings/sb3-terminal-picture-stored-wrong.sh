#!/usr/bin/env bash
# stable-baselines3 2.9.2: DQN with VecNormalize and uint8 pictures stores a wrong last picture of each episode.
#
# Source:    stable-baselines3 2.9.2 with torch 2.13.0, DQN and VecNormalize, 30 steps; a time limit ends each episode.
# Expected:  the replay buffer's next_observations are the original pictures: at the end of each episode, the value 200.
# Seen:      the value is 142, 144 and 145. OffPolicyAlgorithm._store_transition writes the normalized terminal
#            observation into an array of uint8, which cuts it to a whole number of standard deviations, and only
#            then undoes the normalization. No error and no warning. The end by a time limit counts as "not done", so
#            the targets of the Q-values are made from that picture. With float32 pictures it is right.
# Way out:   float32 observations, or VecNormalize(norm_obs=False).
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check \
    stable-baselines3==2.9.2 torch==2.13.0 gymnasium==1.4.0 numpy==2.4.6
cat > "$folder/pictures.py" <<'PYTHON'
import gymnasium
import numpy as np
from gymnasium import spaces
from stable_baselines3 import DQN
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize


class Brighter(gymnasium.Env):
    """Every pixel is 20 times the step number. A time limit ends the episode after ten steps."""

    action_space = spaces.Discrete(2)

    def __init__(self, dtype):
        self.observation_space = spaces.Box(0, 255, (1, 36, 36), dtype)

    def observation(self):
        return np.full((1, 36, 36), 20 * self.number, self.observation_space.dtype)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.number = 0
        return self.observation(), {}

    def step(self, action):
        self.number += 1
        return self.observation(), 0.0, False, self.number == 10, {}


def report(dtype, **options):
    """Print the values of the last next observation of three episodes in the replay buffer."""
    env = VecNormalize(DummyVecEnv([lambda: Brighter(dtype)]), **options)
    model = DQN("CnnPolicy", env, buffer_size=30, policy_kwargs={"normalize_images": False}, device="cpu")
    model.learn(30)
    pictures = model.replay_buffer.next_observations
    values = [round(float(pictures[index].mean())) for index in (9, 19, 29)]
    done = model.replay_buffer.sample(1000).dones.any().item()
    print(f"{dtype.__name__}, {options}: last pictures {values}, any done: {done}")


report(np.uint8, norm_obs=False)
report(np.float32)
report(np.uint8)
PYTHON
"$folder/venv/bin/python" "$folder/pictures.py" | tee "$folder/seen"
diff "$folder/seen" - <<'SEEN'
uint8, {'norm_obs': False}: last pictures [200, 200, 200], any done: False
float32, {}: last pictures [200, 200, 200], any done: False
uint8, {}: last pictures [142, 144, 145], any done: False
SEEN
