#!/usr/bin/env bash
# supersuit 3.11.0: frame_stack_v2 with stack_dim=0 stacks a grey picture with copies of itself and a black picture.
#
# Source:    supersuit 3.11.0 with gymnasium 1.4.0, frame_stack_v2(env, 4, stack_dim=0) of pictures of shape (8, 8).
#            Every pixel has the number of the step. The observation space is right: (4, 8, 8).
# Expected:  the last four pictures, oldest first: 3, 4, 5, 6 after the fifth step. So it is with stack_dim=-1, and with
#            pictures of shape (1, 8, 8).
# Seen:      6, 6, 6, 0. stack_obs() writes the new picture to all places but the last (agent_fs[:-1] instead of
#            agent_fs[-1]), so the stack has no past, and its newest picture is black. frame_stack_v1 does the same.
#            In all shapes, each step returns the same array and writes into it: without a copy, an observation is
#            equal to the next observation by the time a learner stores both.
# Way out:   a channel of its own, (1, 8, 8), and a copy of each observation; or gymnasium's FrameStackObservation.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check \
    supersuit==3.11.0 pettingzoo==1.27.0 gymnasium==1.4.0 numpy==2.4.6
cat > "$folder/stack.py" <<'PYTHON'
import gymnasium
import numpy as np
from gymnasium import spaces
from supersuit import frame_stack_v1, frame_stack_v2


class Counter(gymnasium.Env):
    """Every pixel has the number of the step, from 1."""

    action_space = spaces.Discrete(2)

    def __init__(self, shape):
        self.observation_space = spaces.Box(0, 255, shape, np.uint8)

    def observation(self):
        return np.full(self.observation_space.shape, self.number, np.uint8)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.number = 1
        return self.observation(), {}

    def step(self, action):
        self.number += 1
        return self.observation(), 0.0, False, False, {}


for stack in (frame_stack_v1, frame_stack_v2):
    for shape, stack_dim in (((8, 8), -1), ((1, 8, 8), 0), ((8, 8), 0)):
        env = stack(Counter(shape), 4, stack_dim=stack_dim)
        observations = [env.reset()[0]] + [env.step(0)[0] for _ in range(5)]
        pictures = np.moveaxis(observations[-1], stack_dim, 0)[:, 0, 0].tolist()
        one_array = all(observation is observations[0] for observation in observations)
        print(f"{stack.__name__}, {shape}, stack_dim={stack_dim}: {pictures}, all steps return one array: {one_array}")
PYTHON
"$folder/venv/bin/python" "$folder/stack.py" | tee "$folder/seen"
diff "$folder/seen" - <<'SEEN'
frame_stack_v1, (8, 8), stack_dim=-1: [3, 4, 5, 6], all steps return one array: True
frame_stack_v1, (1, 8, 8), stack_dim=0: [3, 4, 5, 6], all steps return one array: True
frame_stack_v1, (8, 8), stack_dim=0: [6, 6, 6, 0], all steps return one array: True
frame_stack_v2, (8, 8), stack_dim=-1: [3, 4, 5, 6], all steps return one array: True
frame_stack_v2, (1, 8, 8), stack_dim=0: [3, 4, 5, 6], all steps return one array: True
frame_stack_v2, (8, 8), stack_dim=0: [6, 6, 6, 0], all steps return one array: True
SEEN
