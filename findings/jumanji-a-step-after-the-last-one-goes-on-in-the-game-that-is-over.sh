#!/usr/bin/env bash
# jumanji 1.1.2: a step after the last one of an episode goes on in the game that is over, and may earn rewards in it.
#
# Source:    jumanji 1.1.2 with jax 0.10.2, dm-env 1.6 and numpy 2.4.6, JumanjiToDMEnvWrapper of four registered games,
#            1000 steps with random actions after one reset().
# Expected:  the contract of dm_env, which the docstring of the wrapper's step() repeats: the step after a LAST starts
#            a new episode and ignores its action. So each LAST is followed by a FIRST.
# Seen:      no LAST is ever followed by a FIRST. Maze and Game2048 give LAST for all the steps that are left: a replay
#            buffer fills up with copies of the end. Minesweeper and PacMan go on with MID in a game that is over, and
#            earn rewards: PacMan 80 until its end and 810 after it. step() calls the step of the game and nothing else
#            (jumanji/wrappers.py, line 200). The subclass below does as the contract says, and the games are played
#            again and again. dm_control's environments do so, too; a loop that was written for them, with one reset()
#            and then step() only, sees one game and then its remains. No error and no warning.
# Way out:   the subclass Mended below, or reset() by hand after each LAST.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check \
    jumanji==1.1.2 jax==0.10.2 jaxlib==0.10.2 numpy==2.4.6 dm-env==1.6 chex==0.1.92 gymnasium==1.4.0
cat > "$folder/last.py" <<'PYTHON'
import jax
import jumanji
import numpy as np
from jumanji.wrappers import JumanjiToDMEnvWrapper


class Mended(JumanjiToDMEnvWrapper):
    """Starts a new episode with the step after the last one."""

    over = True

    def reset(self):
        self.over = False
        return super().reset()

    def step(self, action):
        if self.over:
            return self.reset()
        timestep = super().step(action)
        self.over = bool(timestep.last())
        return timestep


def played(kind: type[JumanjiToDMEnvWrapper], game: str) -> list:
    """The time steps of 1000 random actions."""
    env = kind(jumanji.make(game), jax.random.PRNGKey(0))
    actions, spec = np.random.RandomState(0), env.action_spec()
    high = np.broadcast_to(spec.maximum, spec.shape) + 1
    return [env.reset()] + [env.step(actions.randint(0, high, dtype=spec.dtype)) for _ in range(1000)]


for kind in (JumanjiToDMEnvWrapper, Mended):
    print(kind.__name__)
    for game in ("Maze-v0", "Game2048-v1", "Minesweeper-v0", "PacMan-v1"):
        steps = played(kind, game)
        after = [two for one, two in zip(steps[:-1], steps[1:], strict=True) if one.last()]
        end = next(number for number, step in enumerate(steps) if step.last())
        counts = [sum(int(step.step_type) == number for step in after) for number in range(3)]
        print(f"    {game}: first LAST at step {end}; after a LAST come {counts} FIRST, MID and LAST")
        if kind is JumanjiToDMEnvWrapper:
            rewards = [sum(float(step.reward) for step in part) for part in (steps[1 : end + 1], steps[end + 1 :])]
            print(f"        rewards {rewards[0]:g} until then, {rewards[1]:g} after it")
PYTHON
"$folder/venv/bin/python" -W ignore "$folder/last.py" | tee "$folder/seen"
diff "$folder/seen" - <<'SEEN'
JumanjiToDMEnvWrapper
    Maze-v0: first LAST at step 100; after a LAST come [0, 0, 900] FIRST, MID and LAST
        rewards 0 until then, 0 after it
    Game2048-v1: first LAST at step 134; after a LAST come [0, 0, 866] FIRST, MID and LAST
        rewards 1076 until then, 0 after it
    Minesweeper-v0: first LAST at step 7; after a LAST come [0, 57, 853] FIRST, MID and LAST
        rewards 6 until then, 84 after it
    PacMan-v1: first LAST at step 23; after a LAST come [0, 93, 78] FIRST, MID and LAST
        rewards 80 until then, 810 after it
Mended
    Maze-v0: first LAST at step 100; after a LAST come [11, 0, 0] FIRST, MID and LAST
    Game2048-v1: first LAST at step 134; after a LAST come [8, 0, 0] FIRST, MID and LAST
    Minesweeper-v0: first LAST at step 7; after a LAST come [125, 0, 0] FIRST, MID and LAST
    PacMan-v1: first LAST at step 23; after a LAST come [37, 0, 0] FIRST, MID and LAST
SEEN
