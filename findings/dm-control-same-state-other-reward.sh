#!/usr/bin/env bash
# dm_control 1.0.50: physics.set_state() of a saved physics.get_state() brings back an equal state vector, and
# finger-turn_easy then gives reward 1 instead of 0.
#
# Source:    dm_control 1.0.50 with mujoco 3.17.0, suite.load("finger", "turn_easy") and ("reacher", "easy").
# Expected:  get_state() is the state of a task: after set_state() and forward(), observation and reward are as before.
# Seen:      the state vector is equal, the observation is not, and the reward of finger-turn_easy is 1.0 instead of 0.0.
#            These tasks keep their target as a position in the model, which reset() changes and get_state() does not
#            hold. Of ten tasks tried, finger-turn, reacher, manipulator, swimmer and fish differ;
#            cartpole, walker, hopper, ball_in_cup and point_mass do not.
# Way out:   save the arrays of the model that differ from a freshly loaded model, too.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check dm_control==1.0.50 mujoco==3.17.0 numpy==2.4.6
cat > "$folder/restore.py" <<'PYTHON'
import numpy as np
from dm_control import suite


def observe(env):
    values = env.task.get_observation(env.physics).values()
    return np.concatenate([np.ravel(value) for value in values]), float(env.task.get_reward(env.physics))


for domain, task in (("finger", "turn_easy"), ("reacher", "easy"), ("cartpole", "swingup")):
    env = suite.load(domain, task, task_kwargs={"random": 0})
    env.reset()
    for _ in range(5):
        env.step(np.zeros(env.action_spec().shape))
    state, (observation, reward) = env.physics.get_state(), observe(env)
    env.reset()
    env.physics.set_state(state)
    env.physics.forward()
    again, reward_again = observe(env)
    same = np.array_equal(env.physics.get_state(), state), np.allclose(observation, again)
    equal = f"state equal {same[0]}, observation equal {same[1]}"
    print(f"{domain}-{task}: {equal}, reward {reward:.1f} -> {reward_again:.1f}")
PYTHON
MUJOCO_GL=disabled "$folder/venv/bin/python" "$folder/restore.py" | tee "$folder/seen"
diff "$folder/seen" - <<'SEEN'
finger-turn_easy: state equal True, observation equal False, reward 0.0 -> 1.0
reacher-easy: state equal True, observation equal False, reward 0.0 -> 0.0
cartpole-swingup: state equal True, observation equal True, reward 0.0 -> 0.0
SEEN
