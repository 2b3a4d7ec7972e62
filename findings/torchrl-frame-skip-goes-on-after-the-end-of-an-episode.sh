#!/usr/bin/env bash
# torchrl 0.14.1: FrameSkipTransform goes on after the end of an episode, and joins two dm_control episodes to one.
#
# Source:    torchrl 0.14.1 with tensordict 0.14.3, torch 2.13.0, dm_control 1.0.50 and mujoco 3.17.0. cartpole-swingup
#            has 1000 frames and is stepped by 3, with DMControlEnv(frame_skip=3) and with FrameSkipTransform(3).
# Expected:  both end the episode at step 334, in which frame 1000 is the first of three.
# Seen:      with the transform the episode has 667 steps. It repeats the step of the inner environment without a look
#            at "done", and keeps the last of the three results only. dm_control starts a new episode when it is
#            stepped after the end, so step 334 holds the end of one episode and the start of the next, and no flag
#            tells. A truncated or terminated frame of any environment is lost in this way if a later frame is not.
#            In an environment whose state is in the tensordict (PendulumEnv, Brax), each repetition starts from the
#            same state: the game moves on by one frame, and the reward is multiplied by the number of frames.
# Way out:   frame_skip=... of the environment (GymEnv, DMControlEnv), which stops at the end.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check \
    torchrl==0.14.1 tensordict==0.14.3 torch==2.13.0 dm_control==1.0.50 mujoco==3.17.0 numpy==2.4.6
cat > "$folder/skip.py" <<'PYTHON'
import torch
from torchrl.envs import DMControlEnv, PendulumEnv, TransformedEnv
from torchrl.envs.transforms import FrameSkipTransform

for name, env in (
    ("DMControlEnv(frame_skip=3)", DMControlEnv("cartpole", "swingup", frame_skip=3)),
    ("FrameSkipTransform(3)", TransformedEnv(DMControlEnv("cartpole", "swingup"), FrameSkipTransform(3))),
):
    seconds = []
    rollout = env.rollout(1200, callback=lambda env, _: seconds.append(round(float(env.physics.time()), 2)))
    print(f"cartpole, {name}: done at step {len(rollout)}, seconds played at steps 333 to 335: {seconds[332:335]}")

for frames in (1, 4):
    env = TransformedEnv(PendulumEnv(), FrameSkipTransform(frames))
    env.set_seed(0)
    rollout = env.rollout(3, policy=lambda tensordict: tensordict.set("action", torch.ones(1)))
    angles = [round(angle, 3) for angle in rollout["next", "th"].flatten().tolist()]
    rewards = [round(reward, 3) for reward in rollout["next", "reward"].flatten().tolist()]
    print(f"pendulum, FrameSkipTransform({frames}): angles {angles}, rewards {rewards}")
PYTHON
MUJOCO_GL=disabled RL_LOGGING_LEVEL=ERROR "$folder/venv/bin/python" "$folder/skip.py" | tee "$folder/seen"
diff "$folder/seen" - <<'SEEN'
cartpole, DMControlEnv(frame_skip=3): done at step 334, seconds played at steps 333 to 335: [9.99]
cartpole, FrameSkipTransform(3): done at step 667, seconds played at steps 333 to 335: [9.99, 0.01, 0.04]
pendulum, FrameSkipTransform(1): angles [0.01, 0.051, 0.102], rewards [-0.03, -0.046, -0.072]
pendulum, FrameSkipTransform(4): angles [0.01, 0.051, 0.102], rewards [-0.121, -0.183, -0.288]
SEEN
