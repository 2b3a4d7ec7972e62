#!/usr/bin/env bash
# metaworld 3.1.1: make_vec("Meta-World/ML1-train") makes the test environments, with the goals of the test set.
#
# Source:    metaworld 3.1.1 with gymnasium 1.4.0 and mujoco 3.3.0, reach-v3, seed 1. register_mw_envs() in
#            metaworld/__init__.py registers both names in a loop, with a lambda that reads the variable "split" only
#            when it is called. By then a later loop has left it at "test". The lambdas of ML10, ML25 and ML45 keep
#            their split in a default argument (_split=split) and are right.
# Expected:  ML1-train holds the 50 goals of ML1(...).train_tasks, ML1-test the 50 others of test_tasks. The README
#            makes both by these names: "training procedure use train_envs", "testing procedure use test_envs".
# Seen:      both names give the same 50 goals, those of the test set, and no goal of the training set. An agent trains
#            on the goals that it is then tested with, so the test shows no generalization at all. The training episodes
#            also end at the first success, as only test episodes should. No error and no warning.
#            Farama-Foundation/Metaworld#573 is an open pull request that corrects it.
# Way out:   metaworld.make_ml_envs_train("reach-v3", ...) and make_ml_envs_test, not the registered names.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check \
    metaworld==3.1.1 gymnasium==1.4.0 mujoco==3.3.0 numpy==2.4.6 scipy==1.17.1 imageio==2.38.1 packaging==26.4
cat > "$folder/goals.py" <<'PYTHON'
import pickle

import gymnasium
import metaworld


def goals(tasks) -> set[tuple[float, ...]]:
    return {tuple(pickle.loads(task.data)["rand_vec"]) for task in tasks}


benchmark = metaworld.ML1("reach-v3", seed=1)
train, test = goals(benchmark.train_tasks), goals(benchmark.test_tasks)
print(f"metaworld.ML1: {len(train)} goals to train, {len(test)} to test, {len(train & test)} in both")


def show(name: str, envs) -> None:
    seen = goals(envs.get_attr("tasks")[0])
    (ends,) = envs.get_attr("terminate_on_success")
    print(f"{name}: {len(seen & train)} goals to train, {len(seen & test)} to test, ends at success {ends}")


for name in ("Meta-World/ML1-train", "Meta-World/ML1-test"):
    show(name, gymnasium.make_vec(name, env_name="reach-v3", seed=1, meta_batch_size=1))
for make in (metaworld.make_ml_envs_train, metaworld.make_ml_envs_test):
    show(f"make_ml_envs_{make.keywords['split']}", make("reach-v3", seed=1, meta_batch_size=1))
PYTHON
MUJOCO_GL=disabled "$folder/venv/bin/python" "$folder/goals.py" | tee "$folder/seen"
diff "$folder/seen" - <<'SEEN'
metaworld.ML1: 50 goals to train, 50 to test, 0 in both
Meta-World/ML1-train: 0 goals to train, 50 to test, ends at success True
Meta-World/ML1-test: 0 goals to train, 50 to test, ends at success True
make_ml_envs_train: 50 goals to train, 0 to test, ends at success False
make_ml_envs_test: 0 goals to train, 50 to test, ends at success True
SEEN
