#!/usr/bin/env bash
# sbx-rl 0.28.0: each load() of a DQN with several environments divides its target update interval again, down to 1.
#
# Source:    sbx-rl 0.28.0 with stable-baselines3 2.9.2, jax 0.10.2 and torch 2.13.0, DQN with four environments and
#            target_update_interval=1000. It is saved and loaded four times, as by a run that is stopped and resumed.
#            After each time, it takes 4000 steps, and each change of the target network is counted.
# Expected:  the target network is updated every 1000 steps, loaded or not: four times in 4000 steps. So it is with the
#            DQN of stable-baselines3, whose API SBX shares.
# Seen:      the new model updates it four times, the loaded ones 16, 67, 333 and 1000 times: every 248, 60, 12 and 4
#            steps. In the end, the target network is a copy of the network in every step. _setup_model() turns steps of
#            environments into steps of the vector (sbx/dqn/dqn.py, line 110), and writes the quotient to
#            target_update_interval, which is saved. load() puts that value in place and calls _setup_model(), which
#            divides it again. A model that was trained with four environments and is loaded for one updates the target
#            network every 250 steps, not every 1000. No error and no warning. stable-baselines3 had the same fault
#            until 2023 (DLR-RM/stable-baselines3#1373).
# Way out:   model.target_update_interval = 1000 // model.n_envs after each load().
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check sbx-rl==0.28.0 stable-baselines3==2.9.2 \
    torch==2.13.0 jax==0.10.2 jaxlib==0.10.2 flax==0.12.8 optax==0.2.8 numpy==2.4.6 gymnasium==1.3.0
cat > "$folder/interval.py" <<'PYTHON'
import tempfile
from pathlib import Path

import jax
import numpy as np
import sbx
import stable_baselines3
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.env_util import make_vec_env


def target(model) -> list[np.ndarray]:
    """A copy of the weights of the target network."""
    if isinstance(model, sbx.DQN):
        return [np.array(array) for array in jax.tree.leaves(model.policy.qf_state.target_params)]
    return [tensor.numpy().copy() for tensor in model.q_net_target.state_dict().values()]


class Count(BaseCallback):
    """Counts changes of the target network."""

    def _on_training_start(self) -> None:
        self.changes, self.weights = 0, target(self.model)

    def _on_step(self) -> bool:
        weights = target(self.model)
        same = all(np.array_equal(one, two) for one, two in zip(weights, self.weights, strict=True))
        self.changes += not same
        self.weights = weights
        return True

    def _on_training_end(self) -> None:
        self._on_step()


def show(name: str, model) -> None:
    count = Count()
    model.learn(4000, callback=count)
    print(f"    {name}: target_update_interval={model.target_update_interval}, {count.changes} updates in 4000 steps")


with tempfile.TemporaryDirectory() as directory:
    file = Path(directory, "model")
    for library in (stable_baselines3, sbx):
        print(f"{library.__name__}.DQN")
        options = {"policy_kwargs": {"net_arch": [4]}, "buffer_size": 1000, "batch_size": 4, "seed": 1}
        options |= {"target_update_interval": 1000, "learning_starts": 0, "train_freq": 1}
        model = library.DQN("MlpPolicy", make_vec_env("CartPole-v1", 4), **options)
        show("new", model)
        for times in range(1, 5):
            model.save(file)
            model = library.DQN.load(file, env=make_vec_env("CartPole-v1", 4))
            show(f"loaded {times} times" if times > 1 else "loaded once", model)
    model = sbx.DQN("MlpPolicy", make_vec_env("CartPole-v1", 4), **options)
    model.save(file)
    model = sbx.DQN.load(file, env=make_vec_env("CartPole-v1", 1))
    interval = model.target_update_interval
    print(f"sbx.DQN, saved with four environments, loaded with one: target_update_interval={interval}")
PYTHON
"$folder/venv/bin/python" -W ignore "$folder/interval.py" | tee "$folder/seen"
diff "$folder/seen" - <<'SEEN'
stable_baselines3.DQN
    new: target_update_interval=1000, 4 updates in 4000 steps
    loaded once: target_update_interval=1000, 4 updates in 4000 steps
    loaded 2 times: target_update_interval=1000, 4 updates in 4000 steps
    loaded 3 times: target_update_interval=1000, 4 updates in 4000 steps
    loaded 4 times: target_update_interval=1000, 4 updates in 4000 steps
sbx.DQN
    new: target_update_interval=250, 4 updates in 4000 steps
    loaded once: target_update_interval=62, 16 updates in 4000 steps
    loaded 2 times: target_update_interval=15, 67 updates in 4000 steps
    loaded 3 times: target_update_interval=3, 333 updates in 4000 steps
    loaded 4 times: target_update_interval=1, 1000 updates in 4000 steps
sbx.DQN, saved with four environments, loaded with one: target_update_interval=250
SEEN
