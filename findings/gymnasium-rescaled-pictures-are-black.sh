#!/usr/bin/env bash
# gymnasium 1.4.0: RescaleObservation makes every picture black.
#
# Source:    gymnasium 1.4.0 with ale-py 0.12.1, Breakout in grey, the brightest pixel of the first picture.
#            RescaleObservation(env, 0, high) and its vector version, for several values of high.
# Expected:  "Affinely (linearly) rescales a Box observation space of the environment to within the range of [min_obs,
#            max_obs]": a pixel of 255 becomes high, whatever type holds it. So it does with float32 pictures.
# Seen:      0 everywhere, for each high below 255; no error, no warning, and the observation space says [0, high].
#            rescale_box() in gymnasium/wrappers/utils.py keeps its factor in an array of the type of the space. For
#            uint8 the factor 1 / 255, or 254 / 255, becomes 0.
# Way out:   RescaleObservation(DtypeObservation(env, np.float32), 0, 1).
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check \
    ale-py==0.12.1 gymnasium==1.4.0 numpy==2.4.6
cat > "$folder/rescale.py" <<'PYTHON'
import ale_py
import gymnasium
import numpy as np
from ale_py.vector_env import AtariVectorEnv
from gymnasium.wrappers import vector

gymnasium.register_envs(ale_py)


def brightest(env) -> float:
    picture, _ = env.reset(seed=0)
    return picture.max().item()


def breakout():
    return gymnasium.make("ALE/Breakout-v5", obs_type="grayscale")


def breakouts():
    return AtariVectorEnv("breakout", num_envs=2, noop_max=0, use_fire_reset=False)


for name, make, wrappers in (("one environment", breakout, gymnasium.wrappers), ("two", breakouts, vector)):
    print(f"{name}: brightest pixel {brightest(make())}")
    for high in (1, 128, 254, 255):
        pictures = wrappers.RescaleObservation(make(), 0, high)
        floats = wrappers.RescaleObservation(wrappers.DtypeObservation(make(), np.float32), 0, high)
        space = pictures.observation_space.high.max()
        print(f"    to [0, {high}]: {brightest(pictures)}, with float32 {brightest(floats):.2f}, space up to {space}")
PYTHON
"$folder/venv/bin/python" "$folder/rescale.py" | tee "$folder/seen"
diff "$folder/seen" - <<'SEEN'
one environment: brightest pixel 148
    to [0, 1]: 0, with float32 0.58, space up to 1
    to [0, 128]: 0, with float32 74.29, space up to 128
    to [0, 254]: 0, with float32 147.42, space up to 254
    to [0, 255]: 148, with float32 148.00, space up to 255
two: brightest pixel 148
    to [0, 1]: 0, with float32 0.58, space up to 1
    to [0, 128]: 0, with float32 74.29, space up to 128
    to [0, 254]: 0, with float32 147.42, space up to 254
    to [0, 255]: 148, with float32 148.00, space up to 255
SEEN
