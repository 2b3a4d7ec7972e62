#!/usr/bin/env bash
# gymnasium 1.4.0: vector.ClipReward to half a point makes every reward of an Atari vector environment zero.
#
# Source:    gymnasium 1.4.0 with ale-py 0.12.1, make_vec("ALE/Pong-v5"), vector.ClipReward(envs, -0.5, 0.5) and
#            vector.VectorizeTransformReward with a function that multiplies by 0.1.
# Expected:  a lost point, -1, becomes -0.5 and -0.1. So it does with SyncVectorEnv, and with vector.TransformReward.
# Seen:      both are 0, without a warning. The rewards of AtariVectorEnv are an int32 array, and these two wrappers
#            write their results back into that array, which cuts off the fraction.
# Way out:   vector.TransformReward, whose function takes the whole array: TransformReward(envs, lambda r: 0.1 * r).
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check ale-py==0.12.1 gymnasium==1.4.0 numpy==2.4.6
cat > "$folder/reward.py" <<'PYTHON'
import ale_py
import gymnasium
import numpy as np
from gymnasium.wrappers import TransformReward, vector

gymnasium.register_envs(ale_py)


def tenth(reward):
    return 0.1 * reward


wrappers = {
    "no wrapper": lambda envs: envs,
    "ClipReward": lambda envs: vector.ClipReward(envs, -0.5, 0.5),
    "VectorizeTransformReward": lambda envs: vector.VectorizeTransformReward(envs, TransformReward, func=tenth),
    "TransformReward": lambda envs: vector.TransformReward(envs, tenth),
}
for mode in ("sync", "vector_entry_point"):
    for name, wrap in wrappers.items():
        envs = wrap(gymnasium.make_vec("ALE/Pong-v5", num_envs=1, vectorization_mode=mode))
        envs.reset(seed=0)
        rewards = {float(envs.step(np.array([0]))[1][0]) for _ in range(150)}
        print(f"{type(envs.unwrapped).__name__}, {name}: lowest reward {min(rewards)}")
PYTHON
"$folder/venv/bin/python" "$folder/reward.py" | tee "$folder/seen"
diff "$folder/seen" - <<'SEEN'
SyncVectorEnv, no wrapper: lowest reward -1.0
SyncVectorEnv, ClipReward: lowest reward -0.5
SyncVectorEnv, VectorizeTransformReward: lowest reward -0.1
SyncVectorEnv, TransformReward: lowest reward -0.1
AtariVectorEnv, no wrapper: lowest reward -1.0
AtariVectorEnv, ClipReward: lowest reward 0.0
AtariVectorEnv, VectorizeTransformReward: lowest reward 0.0
AtariVectorEnv, TransformReward: lowest reward -0.1
SEEN
