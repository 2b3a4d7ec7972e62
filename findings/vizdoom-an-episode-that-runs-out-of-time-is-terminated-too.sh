#!/usr/bin/env bash
# vizdoom 1.3.2: the step at the time limit is truncated and terminated, so that a learner takes it for a real end.
#
# Source:    vizdoom 1.3.2 with gymnasium 1.4.0 and numpy 2.4.6, VizdoomBasic-v1 and VizdoomHealthGathering-v1 with
#            frame_skip=4. In the first, nothing happens until the time limit of 300 frames; in the second, the player
#            dies. treat_episode_timeout_as_truncation is True, as by default, or False, as before vizdoom 1.3.0.
# Expected:  at the time limit, terminated=False and truncated=True, as gymnasium's TimeLimit gives it. A learner does
#            not bootstrap from a terminated step, and does from a truncated one: with the value 100, gamma 0.99 and
#            reward -4, the target is 95, and -4 with False.
# Seen:      terminated=True and truncated=True; the target is -4 with both settings. step() takes "terminated" from
#            is_episode_finished(), which is true at the time limit, too (base_gymnasium_env.py, line 234). So the
#            setting changes "truncated" alone, and such a learner does not look at that. One who bootstraps wherever
#            "truncated" is set gets the value of a black picture: no other observation comes with a last step.
# Way out:   max_episode_steps=74 for gymnasium.make(), one step less than the game has: then TimeLimit comes first,
#            with terminated=False and a real picture, as the last line of the output shows.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check \
    vizdoom==1.3.2 gymnasium==1.4.0 numpy==2.4.6 pygame-ce==2.5.8
cat > "$folder/limit.py" <<'PYTHON'
import os

os.environ["PYGAME_HIDE_SUPPORT_PROMPT"] = "1"

import gymnasium
from vizdoom import gymnasium_wrapper  # noqa: F401 registers the environments


def show(task: str, **options) -> None:
    """Print the last step of an episode in which the player does nothing."""
    env = gymnasium.make(task, frame_skip=4, **options)
    env.reset(seed=1)
    steps, terminated, truncated = 0, False, False
    while not (terminated or truncated):
        observation, reward, terminated, truncated, _ = env.step(0)
        steps += 1
    env.close()
    picture = "black" if observation["screen"].max() == 0 else "real"
    target = reward + 0.99 * 100 * (not terminated)
    flags = f"terminated={terminated}, truncated={truncated}"
    (setting,) = options.items()
    print(f"    {setting[0]}={setting[1]}: {steps} steps")
    print(f"        {flags}, reward {reward:g}, target {target:g}, {picture} picture")


for task in ("VizdoomBasic-v1", "VizdoomHealthGathering-v1"):
    print(task)
    for truncation in (True, False):
        show(task, treat_episode_timeout_as_truncation=truncation)
print("VizdoomBasic-v1 with the time limit of gymnasium")
for limit in (75, 74):
    show("VizdoomBasic-v1", max_episode_steps=limit)
PYTHON
cd "$folder" # where vizdoom writes its settings
"$folder/venv/bin/python" -W ignore "$folder/limit.py" | tee "$folder/seen"
diff "$folder/seen" - <<'SEEN'
VizdoomBasic-v1
    treat_episode_timeout_as_truncation=True: 75 steps
        terminated=True, truncated=True, reward -4, target -4, black picture
    treat_episode_timeout_as_truncation=False: 75 steps
        terminated=True, truncated=False, reward -4, target -4, black picture
VizdoomHealthGathering-v1
    treat_episode_timeout_as_truncation=True: 96 steps
        terminated=True, truncated=False, reward -96, target -96, black picture
    treat_episode_timeout_as_truncation=False: 96 steps
        terminated=True, truncated=False, reward -96, target -96, black picture
VizdoomBasic-v1 with the time limit of gymnasium
    max_episode_steps=75: 75 steps
        terminated=True, truncated=True, reward -4, target -4, black picture
    max_episode_steps=74: 74 steps
        terminated=False, truncated=True, reward -4, target 95, real picture
SEEN
