#!/usr/bin/env bash
# skrl 2.1.1: PPO_RNN with time_limit_bootstrap=True counts the value at a time limit twice, PPO counts it once.
#
# Source:    skrl 2.1.1 with torch 2.13.0 and gymnasium 1.4.0, PPO and PPO_RNN with SequentialTrainer, one update after
#            six steps, discount factor 0.5 and lambda 1. Each step has reward 1, every state has the value 100, and a
#            TimeLimit of three steps ends an episode.
# Expected:  with time_limit_bootstrap=True, "whether to bootstrap at timeout termination", the return of an episode's
#            last step is 1 + 0.5 * 100 = 51, and those before are 26.5 and 14.25. PPO has them.
# Seen:      the last step of PPO_RNN's rollout has 101: record_transition() adds 0.5 * 100 to the reward, and
#            compute_gae(), which looks at "terminated" only, adds 0.5 * 100 once more. The first episode's last step
#            has 64.375, since the rewards of the next episode are added, too. The recurrent state is reset there, so
#            PPO_RNN does know that the episode is over. With "terminated" instead of the time limit, both are right.
#            compute_gae() of ppo.py looks at "truncated", too. A2C_RNN, RPO_RNN and TRPO_RNN are as PPO_RNN by their
#            source. With time_limit_bootstrap=False, PPO runs on into the next episode, too: see Toni-SM/skrl#449.
# Way out:   an environment that ends with "terminated", or one whose episodes have no time limit.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check \
    skrl==2.1.1 torch==2.13.0 numpy==2.4.6 gymnasium==1.4.0
cat > "$folder/limit.py" <<'PYTHON'
import gymnasium
import numpy as np
import torch
from skrl.agents.torch.ppo import PPO, PPO_CFG, PPO_RNN
from skrl.envs.wrappers.torch import wrap_env
from skrl.memories.torch import RandomMemory
from skrl.models.torch import CategoricalMixin, DeterministicMixin, Model
from skrl.trainers.torch import SequentialTrainer, SequentialTrainerCfg

SPECIFICATION = {"rnn": {"sequence_length": 3, "sizes": [(1, 1, 1)]}}


class Same(gymnasium.Env):
    """All states are the same, and each step has reward 1."""

    observation_space = gymnasium.spaces.Box(0, 1, (1,))
    action_space = gymnasium.spaces.Discrete(2)

    def __init__(self, terminates):
        self.terminates = terminates

    def reset(self, *, seed=None, options=None):
        self.steps = 0
        return np.zeros(1, np.float32), {}

    def step(self, action):
        self.steps += 1
        return np.zeros(1, np.float32), 1.0, self.terminates and self.steps == 3, False, {}


class Policy(CategoricalMixin, Model):
    def __init__(self, env):
        Model.__init__(self, observation_space=env.observation_space, action_space=env.action_space, device="cpu")
        CategoricalMixin.__init__(self)
        self.logits = torch.nn.Parameter(torch.zeros(2))

    def get_specification(self):
        return SPECIFICATION

    def compute(self, inputs, role=""):
        return self.logits.expand(len(inputs["observations"]), 2), {"rnn": inputs.get("rnn")}


class Value(DeterministicMixin, Model):
    def __init__(self, env):
        Model.__init__(self, observation_space=env.observation_space, action_space=env.action_space, device="cpu")
        DeterministicMixin.__init__(self)
        self.value = torch.nn.Parameter(torch.tensor([100.0]))

    def get_specification(self):
        return SPECIFICATION

    def compute(self, inputs, role=""):
        return self.value.expand(len(inputs["observations"]), 1), {"rnn": inputs.get("rnn")}


def returns(kind: type, *, terminates: bool) -> list[float]:
    """Returns that the agent's update computes for two episodes of three steps."""
    env = Same(terminates) if terminates else gymnasium.wrappers.TimeLimit(Same(terminates), 3)
    env = wrap_env(env, verbose=False)
    memory = RandomMemory(memory_size=6, num_envs=1, device="cpu")
    cfg = PPO_CFG(
        rollouts=6,
        learning_epochs=1,
        mini_batches=1,
        discount_factor=0.5,
        gae_lambda=1.0,
        time_limit_bootstrap=True,
    )
    cfg.experiment.write_interval = cfg.experiment.checkpoint_interval = 0
    agent = kind(
        models={"policy": Policy(env), "value": Value(env)},
        memory=memory,
        observation_space=env.observation_space,
        action_space=env.action_space,
        device="cpu",
        cfg=cfg,
    )
    trainer_cfg = SequentialTrainerCfg(timesteps=6, headless=True, disable_progressbar=True)
    SequentialTrainer(env=env, agents=agent, cfg=trainer_cfg).train()
    return memory.get_tensor_by_name("returns").flatten().tolist()


for terminates, end in ((True, "terminated"), (False, "time limit")):
    for kind in (PPO, PPO_RNN):
        print(f"{end}, {kind.__name__}: {returns(kind, terminates=terminates)}")
PYTHON
(cd "$folder" && "$folder/venv/bin/python" "$folder/limit.py" 2> "$folder/log") | grep -v "skrl:" | tee "$folder/seen"
diff "$folder/seen" - <<'SEEN'
terminated, PPO: [1.75, 1.5, 1.0, 1.75, 1.5, 1.0]
terminated, PPO_RNN: [1.75, 1.5, 1.0, 1.75, 1.5, 1.0]
time limit, PPO: [14.25, 26.5, 51.0, 14.25, 26.5, 51.0]
time limit, PPO_RNN: [17.59375, 33.1875, 64.375, 26.75, 51.5, 101.0]
SEEN
