#!/usr/bin/env bash
# gymnasium 1.4.0: a vector environment's reset(options={"reset_mask": mask}) empties the caller's dictionary.
#
# Source:    gymnasium 1.4.0, SyncVectorEnv with AutoresetMode.DISABLED, CartPole-v1.
# Expected:  the options are read. The same dictionary, used at the next partial reset, resets the same environments.
# Seen:      after the first reset the dictionary is empty. Used again, it resets every environment, episodes in
#            progress included, without an error.
# Way out:   make a new dictionary for each reset.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check gymnasium==1.4.0 numpy==2.4.6
cat > "$folder/reset.py" <<'PYTHON'
import gymnasium
import numpy as np
from gymnasium.vector import AutoresetMode

mode = {"autoreset_mode": AutoresetMode.DISABLED}
envs = gymnasium.make_vec("CartPole-v1", num_envs=2, vectorization_mode="sync", vector_kwargs=mode)
envs.reset(seed=0)
options = {"reset_mask": np.array([True, False])}
for number in ("first", "second"):
    before = envs.step(np.array([1, 1]))[0].copy()
    after = envs.reset(options=options)[0]
    changed = [not np.array_equal(a, b) for a, b in zip(before, after, strict=True)]
    print(f"{number} reset: environments reset {changed}, options left {list(options)}")
PYTHON
"$folder/venv/bin/python" "$folder/reset.py" | tee "$folder/seen"
diff "$folder/seen" - <<'SEEN'
first reset: environments reset [True, False], options left []
second reset: environments reset [True, True], options left []
SEEN
