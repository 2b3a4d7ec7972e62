#!/usr/bin/env bash
# gymnasium 1.4.0: with AddWhiteNoise or ObstructView, each render() changes what happens in the game afterwards.
#
# Source:    gymnasium 1.4.0, gymnasium/wrappers/rendering.py, AddWhiteNoise.render() and ObstructView.render().
#            FrozenLake-v1 with one seed and one list of actions, and no, one or two calls of render() before each step.
# Expected:  noise is only in the picture. Seed and actions decide on the states, as they do without the wrapper.
# Seen:      the states differ with the number of pictures taken: self.np_random of a wrapper is the generator of the
#            environment itself, so each picture uses up random numbers that the next step or reset would have drawn.
#            With AddRenderObservation, which takes a picture in every step, an agent plays other games with noise than
#            without on the same seeds; so the two returns cannot be compared seed by seed, and a video of a run is a
#            video of another run. CartPole-v1 shows it from the second episode on: it begins in another state.
# Way out:   add noise in TransformObservation, with a generator of its own.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check gymnasium==1.4.0 pygame==2.6.1 numpy==2.4.6
cat > "$folder/noise.py" <<'PYTHON'
import gymnasium
from gymnasium.wrappers import AddRenderObservation, AddWhiteNoise, ObstructView


def states(env, pictures: int = 0) -> list[int]:
    """The states after each step. The action is always "right"; an ended episode is followed by the next one."""
    env.reset(seed=1)
    seen = []
    for _ in range(9):
        for _ in range(pictures):
            env.render()
        _, _, terminated, _, _ = env.step(2)
        seen.append(int(env.unwrapped.s))
        if terminated:
            env.reset()
    return seen


def lake():
    return gymnasium.make("FrozenLake-v1", render_mode="rgb_array")


wrappers = {
    "no wrapper": lambda env: env,
    "AddWhiteNoise": lambda env: AddWhiteNoise(env, probability_of_noise_per_pixel=0.05),
    "ObstructView": lambda env: ObstructView(env, obstructed_pixels_ratio=0.1, obstruction_width=10),
}
for name, wrapper in wrappers.items():
    for pictures in range(3):
        print(f"{name}, pictures a step {pictures}: {states(wrapper(lake()), pictures)}")
for name, wrapper in wrappers.items():
    print(f"{name}, pictures as observations: {states(AddRenderObservation(wrapper(lake())))}")
for name, wrapper in wrappers.items():
    env = wrapper(gymnasium.make("CartPole-v1", render_mode="rgb_array"))
    starts = []
    for pictures in range(3):
        env.reset(seed=1)
        for _ in range(pictures):
            env.render()
        starts.append(env.reset()[0].round(3).tolist())
    print(f"{name}, CartPole, start of the second episode: equal {starts[0] == starts[1] == starts[2]}")
PYTHON
SDL_VIDEODRIVER=dummy "$folder/venv/bin/python" "$folder/noise.py" | tee "$folder/seen"
diff "$folder/seen" - <<'SEEN'
no wrapper, pictures a step 0: [0, 4, 0, 4, 5, 1, 2, 6, 2]
no wrapper, pictures a step 1: [0, 4, 0, 4, 5, 1, 2, 6, 2]
no wrapper, pictures a step 2: [0, 4, 0, 4, 5, 1, 2, 6, 2]
AddWhiteNoise, pictures a step 0: [0, 4, 0, 4, 5, 1, 2, 6, 2]
AddWhiteNoise, pictures a step 1: [0, 1, 5, 0, 1, 2, 2, 3, 3]
AddWhiteNoise, pictures a step 2: [1, 2, 2, 3, 3, 3, 3, 7, 4]
ObstructView, pictures a step 0: [0, 4, 0, 4, 5, 1, 2, 6, 2]
ObstructView, pictures a step 1: [0, 1, 2, 2, 6, 7, 4, 0, 0]
ObstructView, pictures a step 2: [0, 4, 8, 12, 0, 0, 1, 1, 2]
no wrapper, pictures as observations: [0, 4, 0, 4, 5, 1, 2, 6, 2]
AddWhiteNoise, pictures as observations: [0, 1, 5, 1, 1, 2, 2, 3, 7]
ObstructView, pictures as observations: [0, 1, 2, 2, 6, 7, 1, 1, 5]
no wrapper, CartPole, start of the second episode: equal True
AddWhiteNoise, CartPole, start of the second episode: equal False
ObstructView, CartPole, start of the second episode: equal False
SEEN
