#!/usr/bin/env bash
# dm_control 1.0.50: the seed of lqr_2_1 and lqr_6_2 decides on the springs and dampers of the system, once, when the
# environment is made. Two seeds are two systems, and reset() never changes them.
#
# Source:    dm_control 1.0.50 with mujoco 3.17.0, dm_control/suite/lqr.py, _make_body(): stiffness and damping are drawn
#            with the generator that task_kwargs={"random": seed} gives.
# Expected:  a task's name stands for one system, and the seed for where an episode begins, as in cartpole and walker.
# Seen:      the stiffness of the first joint is 19.2 for seed 1 and 19.4 for seed 2, also after resets, and the
#            controllers that are optimal (dm_control.suite.lqr_solver) differ by up to a half. Without a seed, each
#            environment is a system of its own. So returns of several seeds, of several environments in parallel, or of
#            a training and an evaluation environment are not returns in one system.
# Way out:   make all environments of an experiment with one seed, and draw where episodes begin otherwise.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check dm_control==1.0.50 mujoco==3.17.0 numpy==2.4.6
cat > "$folder/systems.py" <<'PYTHON'
from dm_control import suite
from dm_control.suite import lqr_solver


def springs(domain, task, seed, resets):
    env = suite.load(domain, task, task_kwargs={"random": seed})
    for _ in range(resets):
        env.reset()
    model = env.physics.model
    return env, model.jnt_stiffness.tolist(), model.dof_damping.tolist()


for domain, task in (("lqr", "lqr_2_1"), ("lqr", "lqr_6_2"), ("cartpole", "swingup"), ("walker", "walk")):
    (_, *first), (_, *later), (_, *other) = (springs(domain, task, *how) for how in ((1, 1), (1, 5), (2, 1)))
    print(f"{task}: equal after resets {first == later}, equal for another seed {first == other}")
for seed in (1, 2):
    env, stiffness, _ = springs("lqr", "lqr_2_1", seed, 1)
    policy = lqr_solver.solve(env)[1]
    print(f"lqr_2_1, seed {seed}: stiffness {stiffness[0]:.1f}, optimal gains {policy.round(3)}")
PYTHON
MUJOCO_GL=disabled "$folder/venv/bin/python" "$folder/systems.py" | tee "$folder/seen"
diff "$folder/seen" - <<'SEEN'
lqr_2_1: equal after resets True, equal for another seed False
lqr_6_2: equal after resets True, equal for another seed False
swingup: equal after resets True, equal for another seed True
walk: equal after resets True, equal for another seed True
lqr_2_1, seed 1: stiffness 19.2, optimal gains [[-0.11   0.203 -2.714 -0.586]]
lqr_2_1, seed 2: stiffness 19.4, optimal gains [[-0.117  0.104 -2.441 -0.461]]
SEEN
