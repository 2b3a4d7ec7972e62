#!/usr/bin/env bash
# dopamine-rl 4.1.2: the JAX replay memory does not store an episode's last step, and calls the step before it terminal.
#
# Source:    dopamine-rl 4.1.2 with jax 0.10.2 and numpy 2.4.6, TransitionAccumulator(stack_size, update_horizon, 1.0),
#            which makes what ReplayBuffer stores. JaxDQNAgent gives it (observation, action, reward, terminal), in
#            step() and end_episode(), as here: six steps with observations and actions 1 to 6; each has reward 1, but
#            the last one, which ends the game, has reward 10.
# Expected:  action 6 is stored with reward 10 and terminal. Action 5 leads to observation 6 and is not terminal. Each
#            step is stored once, with the frames before it.
# Seen:      action 6 and its reward are not stored, and action 5 is stored as terminal. So an agent with one-step
#            targets sees nothing but zeros of a game whose only reward comes with its last step. With targets of three
#            steps, action 3 is stored as terminal, though the reward of 10 comes after its third step; only 4 and 5
#            have it. With four frames, action 5 is stored four times, three of them with zeros, that is black pictures,
#            in the place of frames that there were. _make_replay_element() takes "terminal" from the step whose
#            observation is the next one, and needs such a step; at the end, accumulate() drops the oldest frame and
#            stores once more for as long as two are left. The repeats are reported as google/dopamine#228, open.
# Way out:   stack_size=1, with frames stacked in the environment. Give the last step as not terminal, and after it one
#            more with reward 0 that is terminal.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check jax==0.10.2 jaxlib==0.10.2 flax==0.12.8 \
    orbax-checkpoint==0.12.8 msgpack==1.2.4 python-snappy==0.7.3 numpy==2.4.6
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check --no-deps dopamine-rl==4.1.2
cat > "$folder/episode.py" <<'PYTHON'
import numpy as np
from dopamine.jax.replay_memory.accumulator import TransitionAccumulator
from dopamine.jax.replay_memory.elements import TransitionElement

episode = [TransitionElement(np.array(n), n, 1.0, False) for n in range(1, 6)]
last = TransitionElement(np.array(6), 6, 10.0, True, True)
longer = [last._replace(is_terminal=False, episode_end=False), TransitionElement(np.array(6), 0, 0.0, True, True)]


def show(name: str, steps: list[TransitionElement], frames: int, horizon: int) -> None:
    """Print what is stored of the steps from action 3 on."""
    print(f"{name}, frames {frames}, steps of a target {horizon}")
    accumulator = TransitionAccumulator(frames, horizon, 1.0)
    for step in steps:
        for stored in accumulator.accumulate(step):
            if stored.action > 2:
                state, after = stored.state.tolist(), stored.next_state.tolist()
                print(f"    {state} action {stored.action} reward {stored.reward} next {after} {stored.is_terminal}")


for frames, horizon in ((1, 1), (1, 3), (4, 1)):
    show("six steps", [*episode, last], frames, horizon)
for horizon in (1, 3):
    show("one more step", [*episode, *longer], 1, horizon)
PYTHON
JAX_PLATFORMS=cpu "$folder/venv/bin/python" "$folder/episode.py" | tee "$folder/seen"
diff "$folder/seen" - <<'SEEN'
six steps, frames 1, steps of a target 1
    [3] action 3 reward 1.0 next [4] False
    [4] action 4 reward 1.0 next [5] False
    [5] action 5 reward 1.0 next [6] True
six steps, frames 1, steps of a target 3
    [3] action 3 reward 3.0 next [6] True
    [4] action 4 reward 12.0 next [6] True
    [5] action 5 reward 11.0 next [6] True
six steps, frames 4, steps of a target 1
    [0, 1, 2, 3] action 3 reward 1.0 next [1, 2, 3, 4] False
    [1, 2, 3, 4] action 4 reward 1.0 next [2, 3, 4, 5] False
    [2, 3, 4, 5] action 5 reward 1.0 next [3, 4, 5, 6] True
    [0, 3, 4, 5] action 5 reward 1.0 next [3, 4, 5, 6] True
    [0, 0, 4, 5] action 5 reward 1.0 next [0, 4, 5, 6] True
    [0, 0, 0, 5] action 5 reward 1.0 next [0, 0, 5, 6] True
one more step, frames 1, steps of a target 1
    [3] action 3 reward 1.0 next [4] False
    [4] action 4 reward 1.0 next [5] False
    [5] action 5 reward 1.0 next [6] False
    [6] action 6 reward 10.0 next [6] True
one more step, frames 1, steps of a target 3
    [3] action 3 reward 3.0 next [6] False
    [4] action 4 reward 12.0 next [6] True
    [5] action 5 reward 11.0 next [6] True
    [6] action 6 reward 10.0 next [6] True
SEEN
