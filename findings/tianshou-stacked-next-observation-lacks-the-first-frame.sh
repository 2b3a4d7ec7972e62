#!/usr/bin/env bash
# tianshou 2.0.1: a replay buffer that stacks frames gives wrong next observations for the first steps of each episode.
#
# Source:    tianshou 2.0.1 with torch 2.13.0 and gymnasium 1.4.0, ReplayBuffer(stack_num=4, save_only_last_obs=True).
#            Frame n of an episode is the number n, stacked by gymnasium's FrameStackObservation, and given to the
#            buffer as it is. The buffer stores the last frame of obs and of obs_next, and stacks them when sampled.
# Expected:  obs and obs_next come back as they were given, and obs_next of a step is obs of the step after it.
# Seen:      obs does. obs_next of the first step is 1, 1, 1, 1 and not 0, 0, 0, 1: it has no frame of the state that
#            the action was taken in. The second and the third step have one copy of frame 1 in the place of frame 0.
#            get() stacks obs_next from the stored obs_next of the steps before, and at the start of the episode
#            repeats the first of these, which is frame 1. So the targets of the Q-values come from pictures that no
#            state has. Without save_only_last_obs, and with VectorReplayBuffer, it is the same.
# Way out:   ignore_obs_next=True, as in tianshou's Atari examples: obs_next is then made from obs and right, but for
#            the last step of an episode, where it is obs itself, though a time limit's last picture is needed. Right in
#            all steps: store whole stacks, with stack_num=1.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check \
    tianshou==2.0.1 torch==2.13.0 numpy==2.4.6 numba==0.68.1 gymnasium==1.4.0
cat > "$folder/stack.py" <<'PYTHON'
import gymnasium
import numpy as np
from tianshou.data import Batch, ReplayBuffer, VectorReplayBuffer


class Counter(gymnasium.Env):
    """Its observation is the number of the frame; after five steps an episode ends."""

    observation_space = gymnasium.spaces.Box(0, 9, (1,), np.uint8)
    action_space = gymnasium.spaces.Discrete(2)

    def reset(self, *, seed=None, options=None):
        self.frame = 0
        return np.array([0], np.uint8), {}

    def step(self, action):
        self.frame += 1
        return np.array([self.frame], np.uint8), 1.0, self.frame == 5, False, {}


given = []
kept = {
    "stack_num=4": ReplayBuffer(20, stack_num=4, save_only_last_obs=True),
    "stack_num=4, two environments": VectorReplayBuffer(40, buffer_num=2, stack_num=4, save_only_last_obs=True),
    "stack_num=4, ignore_obs_next=True": ReplayBuffer(20, stack_num=4, save_only_last_obs=True, ignore_obs_next=True),
    "whole stacks": ReplayBuffer(20),
}
env = gymnasium.wrappers.FrameStackObservation(Counter(), 4)
for _ in range(2):
    (obs, _), terminated = env.reset(), False
    while not terminated:
        after, reward, terminated, truncated, _ = env.step(0)
        given.append((obs, after))
        step = {"obs": obs, "act": 0, "rew": reward, "obs_next": after}
        for buffer in kept.values():
            several = isinstance(buffer, VectorReplayBuffer)
            one = Batch(**step, terminated=terminated, truncated=truncated)
            buffer.add(Batch.stack([one, one]) if several else one)
        obs = after


def show(frames: np.ndarray) -> str:
    return " ".join("".join(str(frame) for frame in stack) for stack in frames.reshape(-1, 4).tolist())


steps = np.arange(5, 10)
print("given obs:      ", show(np.array([obs for obs, _ in given])[steps]))
print("given obs_next: ", show(np.array([after for _, after in given])[steps]))
for name, buffer in kept.items():
    print(name)
    print("      obs:      ", show(buffer[steps].obs))
    print("      obs_next: ", show(buffer[steps].obs_next))
PYTHON
"$folder/venv/bin/python" "$folder/stack.py" | tee "$folder/seen"
diff "$folder/seen" - <<'SEEN'
given obs:       0000 0001 0012 0123 1234
given obs_next:  0001 0012 0123 1234 2345
stack_num=4
      obs:       0000 0001 0012 0123 1234
      obs_next:  1111 1112 1123 1234 2345
stack_num=4, two environments
      obs:       0000 0001 0012 0123 1234
      obs_next:  1111 1112 1123 1234 2345
stack_num=4, ignore_obs_next=True
      obs:       0000 0001 0012 0123 1234
      obs_next:  0001 0012 0123 1234 1234
whole stacks
      obs:       0000 0001 0012 0123 1234
      obs_next:  0001 0012 0123 1234 2345
SEEN
