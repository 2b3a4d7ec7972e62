#!/usr/bin/env bash
# gymnasium 1.4.0: in a vector environment, a value of info is cut to a whole number, or not, by what another
# environment does in the same step.
#
# Source:    gymnasium 1.4.0, gymnasium/vector/vector_env.py, VectorEnv._add_info(). FrozenLake-v1, which slips: the
#            "prob" of a step is 1/3, that of a reset is 1. Two environments with other actions, so that one begins a
#            new episode while the other one moves.
# Expected:  "prob" of an environment that moves is 0.333, as in the environment alone.
# Seen:      it is 0 while environment 0 begins an episode, and 0.333 while environment 1 does: the first environment
#            that has a key decides on the type of the array for all. A reset's 1 is an int, so the array is one of
#            ints, and 1/3 becomes 0. The mask "_prob" says that the value is there. No error, no warning.
# Way out:   an environment whose info has values of one type at reset and step: 1.0 instead of 1.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check gymnasium==1.4.0 numpy==2.4.6
cat > "$folder/info.py" <<'PYTHON'
import gymnasium
import numpy as np

seen = {}
for kind in ("sync", "async"):
    envs = gymnasium.make_vec("FrozenLake-v1", num_envs=2, vectorization_mode=kind)
    envs.reset(seed=1)
    envs.action_space.seed(1)
    ended = np.zeros(2, bool)
    for _ in range(300):
        _, _, terminated, truncated, info = envs.step(envs.action_space.sample())
        moved = tuple(np.where(ended, "begins", "moves").tolist())
        found = seen.setdefault((kind, *moved), set())
        found.add(tuple(info["prob"].round(3).tolist()))
        assert info["_prob"].all()
        ended = terminated | truncated
    envs.close()
for (kind, first, second), found in sorted(seen.items(), reverse=True):
    print(f"{kind}: environment 0 {first}, environment 1 {second}: prob {sorted(found)}")
PYTHON
"$folder/venv/bin/python" "$folder/info.py" | tee "$folder/seen"
diff "$folder/seen" - <<'SEEN'
sync: environment 0 moves, environment 1 moves: prob [(0.333, 0.333)]
sync: environment 0 moves, environment 1 begins: prob [(0.333, 1.0)]
sync: environment 0 begins, environment 1 moves: prob [(1, 0)]
sync: environment 0 begins, environment 1 begins: prob [(1, 1)]
async: environment 0 moves, environment 1 moves: prob [(0.333, 0.333)]
async: environment 0 moves, environment 1 begins: prob [(0.333, 1.0)]
async: environment 0 begins, environment 1 moves: prob [(1, 0)]
async: environment 0 begins, environment 1 begins: prob [(1, 1)]
SEEN
