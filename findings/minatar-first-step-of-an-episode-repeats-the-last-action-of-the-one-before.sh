#!/usr/bin/env bash
# MinAtar 1.0.15: the first step of an episode may repeat the last action of the one before, whatever seed reset() gets.
#
# Source:    MinAtar 1.0.15 with numpy 2.4.6 and gymnasium 1.4.0, sticky actions as in a new environment (probability
#            0.1). An environment plays two steps of one episode, both to the left or both to the right. Then it plays
#            up to 100 steps of an episode with reset(seed=s), with actions that are made from s, too. This is done for
#            the seeds 0 to 199, and for each game but Freeway, in which left and right do nothing.
# Expected:  the seed and the actions decide on the second episode. What the first one was makes no difference.
# Seen:      in 17 of 200 Breakout episodes, it does, from the first step on; the score is another in 12. With seed 31,
#            the episode after steps to the left ends after 6 steps with score 0, the one after steps to the right after
#            38 steps with score 3. Environment.last_action (minatar/environment.py, line 35) is set to 0 once, when
#            the environment is made. Neither reset() nor seed() sets it back, so that one in ten episodes begins with
#            an action that was chosen for the last state of another one. The scores of an evaluation with fixed seeds
#            depend on the order of its episodes and on the number of environments that play them.
# Way out:   env.unwrapped.game.last_action = 0 before each reset(), as the second half of the output shows.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check \
    minatar==1.0.15 numpy==2.4.6 gymnasium==1.4.0 matplotlib==3.11.2 seaborn==0.13.2 pandas==3.1.1 scipy==1.17.1
cat > "$folder/sticky.py" <<'PYTHON'
import numpy as np
from minatar.gym import BaseEnv

LEFT, RIGHT = 1, 3


def second_episode(game: str, before: int, seed: int, mended: bool) -> list[tuple]:
    """The steps of an episode that comes after two steps of another one."""
    env = BaseEnv(game)
    env.reset(seed=1000)
    for _ in range(2):
        env.step(before)
    if mended:
        env.unwrapped.game.last_action = 0
    env.reset(seed=seed)
    actions, steps, done = np.random.RandomState(seed), [], False
    while not done and len(steps) < 100:
        picture, reward, done, _, _ = env.step(actions.randint(6))
        steps.append((picture.tobytes(), reward, done))
    return steps


def score(steps: list[tuple]) -> int:
    return sum(reward for _, reward, _ in steps)


for mended in (False, True):
    print("last_action set to 0 by hand" if mended else "as it is")
    for game in ("breakout", "asterix", "seaquest", "space_invaders"):
        pairs = [[second_episode(game, before, seed, mended) for before in (LEFT, RIGHT)] for seed in range(200)]
        other = [seed for seed, (left, right) in enumerate(pairs) if left != right]
        first = sum(pairs[seed][0][0] != pairs[seed][1][0] for seed in other)
        scores = sum(score(left) != score(right) for left, right in pairs)
        print(f"    {game}: of 200 episodes, {len(other)} differ, {first} in the first step, {scores} in the score")
        if game == "breakout" and not mended:
            for name, steps in zip(("left", "right"), pairs[31], strict=True):
                print(f"        seed 31 after steps to the {name}: {len(steps)} steps, score {score(steps)}")
PYTHON
"$folder/venv/bin/python" "$folder/sticky.py" | tee "$folder/seen"
diff "$folder/seen" - <<'SEEN'
as it is
    breakout: of 200 episodes, 17 differ, 17 in the first step, 12 in the score
        seed 31 after steps to the left: 6 steps, score 0
        seed 31 after steps to the right: 38 steps, score 3
    asterix: of 200 episodes, 18 differ, 18 in the first step, 5 in the score
    seaquest: of 200 episodes, 18 differ, 18 in the first step, 0 in the score
    space_invaders: of 200 episodes, 18 differ, 18 in the first step, 12 in the score
last_action set to 0 by hand
    breakout: of 200 episodes, 0 differ, 0 in the first step, 0 in the score
    asterix: of 200 episodes, 0 differ, 0 in the first step, 0 in the score
    seaquest: of 200 episodes, 0 differ, 0 in the first step, 0 in the score
    space_invaders: of 200 episodes, 0 differ, 0 in the first step, 0 in the score
SEEN
