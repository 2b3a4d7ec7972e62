#!/usr/bin/env bash
# ale-py 0.12.1: a second Atari vector environment changes the autoreset mode in the metadata of the first one.
#
# Source:    ale-py 0.12.1 with gymnasium 1.4.0, make_vec("ALE/Breakout-v5") and vector.RecordEpisodeStatistics. The
#            constructor of AtariVectorEnv writes to self.metadata, which is the one dictionary of the class VectorEnv.
# Expected:  each environment says its own mode. Training environments made with SAME_STEP count episodes of ten steps
#            as ten, whatever other environments a program makes for evaluation.
# Seen:      the environments made last, for evaluation, with the default NEXT_STEP, set the mode that all of them say.
#            The training ones still reset in the same step, but a wrapper that is added now takes them for NEXT_STEP:
#            it leaves the first step of every episode but the first, and its reward, out of the statistics. Making
#            the second environment is enough; it is never used.
# Way out:   set envs.metadata = {"autoreset_mode": envs.autoreset_mode} right after make_vec(), for each of them.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check ale-py==0.12.1 gymnasium==1.4.0 numpy==2.4.6
cat > "$folder/mode.py" <<'PYTHON'
import ale_py
import gymnasium
import numpy as np
from gymnasium.vector import AutoresetMode
from gymnasium.wrappers.vector import RecordEpisodeStatistics

gymnasium.register_envs(ale_py)


def make(**options):
    return gymnasium.make_vec("ALE/Breakout-v5", num_envs=1, num_threads=1, **options)


def show(name, envs):
    envs.reset(seed=0)
    for _ in range(42):
        envs.step(np.array([0]))
    own, metadata = envs.unwrapped.autoreset_mode.name, envs.metadata["autoreset_mode"].name
    print(f"{name}: mode {own}, in the metadata {metadata}, lengths {[int(n) for n in envs.length_queue]}")


# Ten steps of four frames are an episode.
training = {"autoreset_mode": AutoresetMode.SAME_STEP, "max_num_frames_per_episode": 40}
show("alone", RecordEpisodeStatistics(make(**training)))

train, evaluate = make(**training), make()
show("with a second one", RecordEpisodeStatistics(train))

train = make(**training)
train.metadata = {"autoreset_mode": train.autoreset_mode}
evaluate = make()
show("with a second one, own metadata", RecordEpisodeStatistics(train))
PYTHON
"$folder/venv/bin/python" "$folder/mode.py" | tee "$folder/seen"
diff "$folder/seen" - <<'SEEN'
alone: mode SAME_STEP, in the metadata SAME_STEP, lengths [10, 10, 10, 10]
with a second one: mode SAME_STEP, in the metadata NEXT_STEP, lengths [10, 9, 9, 9]
with a second one, own metadata: mode SAME_STEP, in the metadata SAME_STEP, lengths [10, 10, 10, 10]
SEEN
