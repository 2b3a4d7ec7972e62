#!/usr/bin/env bash
# gymnasium 1.4.0: vector.VectorizeTransformAction writes the transformed actions into the caller's array.
#
# Source:    gymnasium 1.4.0, SyncVectorEnv of MountainCarContinuous-v0. A function that halves the action is given to
#            TransformAction in each environment, to vector.TransformAction, and to vector.VectorizeTransformAction.
# Expected:  the three do the same. An array of ones, given to four steps, is four times the force 0.5.
# Seen:      the last one halves the array of the caller at each step, so the forces are 0.5, 0.25, 0.125 and 0.0625.
#            It takes the caller's array as its output array where the wrapper leaves the action space as it was (in
#            actions(), the branch for same_out). What a learner stores after the step is the transformed action; with
#            tensor.numpy() the tensor of the policy is changed, too. No error and no warning.
# Way out:   envs.step(actions.copy()), or vector.TransformAction.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check gymnasium==1.4.0 numpy==2.4.6
cat > "$folder/actions.py" <<'PYTHON'
import gymnasium
import numpy as np
from gymnasium.wrappers import TransformAction, vector


def halve(action):
    return 0.5 * action


def make(wrappers=None):
    return gymnasium.make_vec("MountainCarContinuous-v0", num_envs=2, vectorization_mode="sync", wrappers=wrappers)


def vectorized(envs):
    space = envs.single_action_space
    return vector.VectorizeTransformAction(envs, TransformAction, func=halve, action_space=space)


for name, envs in (
    ("TransformAction in each environment", make([lambda env: TransformAction(env, halve, env.action_space)])),
    ("vector.TransformAction", vector.TransformAction(make(), halve)),
    ("vector.VectorizeTransformAction", vectorized(make())),
):
    actions = np.ones((2, 1), np.float32)
    observations = envs.reset(seed=0)[0]
    given = []
    for _ in range(4):
        given.append(actions[0, 0].item())
        observations = envs.step(actions)[0]
    print(f"{name}: actions given {given}, left {actions[0, 0]}, velocity {observations[0, 1]:.4f}")
PYTHON
"$folder/venv/bin/python" "$folder/actions.py" | tee "$folder/seen"
diff "$folder/seen" - <<'SEEN'
TransformAction in each environment: actions given [1.0, 1.0, 1.0, 1.0], left 1.0, velocity 0.0014
vector.TransformAction: actions given [1.0, 1.0, 1.0, 1.0], left 1.0, velocity 0.0014
vector.VectorizeTransformAction: actions given [1.0, 0.5, 0.25, 0.125], left 0.0625, velocity -0.0001
SEEN
