#!/usr/bin/env bash
# sbx-rl 0.28.0: set_parameters() sets nothing, and the model keeps its untrained weights; get_parameters() is empty.
#
# Source:    sbx-rl 0.28.0 with stable-baselines3 2.9.2, jax 0.10.2 and torch 2.13.0, SAC, TD3 and PPO. A model takes
#            200 steps and is saved. A new model with another seed gets its weights by set_parameters(file), with
#            exact_match=True.
# Expected:  the new model has the weights of the saved one and acts as it does; exact_match=True makes sure that each
#            parameter was set. So it is with stable-baselines3, whose documentation sets parameters in this way.
# Seen:      set_parameters() returns, and the new model acts as before, with its own weights. get_parameters() is {}.
#            Both are inherited and go by the names that _get_torch_save_params() gives, which in sbx are none
#            (sbx/common/off_policy_algorithm.py, line 102; on_policy_algorithm.py, line 76): the weights are jax's and
#            are saved with the policy. No parameter is asked for and none is there, which counts as an exact match.
#            What is then evaluated or trained on is a fresh network. The static load() is right. No error and no
#            warning.
# Way out:   SAC.load(file, env=env).
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check sbx-rl==0.28.0 stable-baselines3==2.9.2 \
    torch==2.13.0 jax==0.10.2 jaxlib==0.10.2 flax==0.12.8 optax==0.2.8 numpy==2.4.6 gymnasium==1.3.0
cat > "$folder/parameters.py" <<'PYTHON'
import tempfile
from pathlib import Path

import gymnasium
import numpy as np
import sbx
import stable_baselines3


def actions(model) -> np.ndarray:
    """What the model does in 200 states, without noise."""
    space = gymnasium.spaces.Box(-1, 1, model.observation_space.shape)
    space.seed(0)
    return model.predict(np.stack([space.sample() for _ in range(200)]), deterministic=True)[0]


with tempfile.TemporaryDirectory() as directory:
    file = Path(directory, "model.zip")
    for library in (stable_baselines3, sbx):
        for name, options in (
            ("SAC", {"learning_starts": 50}),
            ("TD3", {"learning_starts": 50}),
            ("PPO", {"n_steps": 100, "batch_size": 50}),
        ):
            algorithm = getattr(library, name)
            saved = algorithm("MlpPolicy", "Pendulum-v1", seed=1, **options)
            saved.learn(200)
            saved.save(file)
            new = algorithm("MlpPolicy", "Pendulum-v1", seed=2, **options)
            before = actions(new)
            new.set_parameters(file, exact_match=True)
            after, loaded = actions(new), actions(algorithm.load(file))
            equal = np.array_equal(after, actions(saved)), np.array_equal(after, before)
            print(f"{library.__name__}.{name}: parameters {sorted(saved.get_parameters())}")
            print(f"    set_parameters(): acts as the saved model {equal[0]}, as before {equal[1]}")
            print(f"    load(): acts as the saved model {np.array_equal(loaded, actions(saved))}")
PYTHON
"$folder/venv/bin/python" -W ignore "$folder/parameters.py" | tee "$folder/seen"
diff "$folder/seen" - <<'SEEN'
stable_baselines3.SAC: parameters ['actor.optimizer', 'critic.optimizer', 'ent_coef_optimizer', 'policy']
    set_parameters(): acts as the saved model True, as before False
    load(): acts as the saved model True
stable_baselines3.TD3: parameters ['actor.optimizer', 'critic.optimizer', 'policy']
    set_parameters(): acts as the saved model True, as before False
    load(): acts as the saved model True
stable_baselines3.PPO: parameters ['policy', 'policy.optimizer']
    set_parameters(): acts as the saved model True, as before False
    load(): acts as the saved model True
sbx.SAC: parameters []
    set_parameters(): acts as the saved model False, as before True
    load(): acts as the saved model True
sbx.TD3: parameters []
    set_parameters(): acts as the saved model False, as before True
    load(): acts as the saved model True
sbx.PPO: parameters []
    set_parameters(): acts as the saved model False, as before True
    load(): acts as the saved model True
SEEN
