#!/usr/bin/env bash
# cpprb 11.0.0: with Nstep, the last steps before a time limit get ones as next observation, and an end is not "done".
#
# Source:    cpprb 11.0.0 with numpy 2.4.6, ReplayBuffer and PrioritizedReplayBuffer with Nstep of size 3 and gamma 0.5,
#            and on_episode_end() after the episode, as the documentation asks for. Observations are the numbers 10 to
#            15, or pictures of such pixels. Each of the five steps has reward 1. The last one is done, or a time limit
#            cuts the episode off, so that no step is done. Targets are made with the value 100 for every state.
# Expected:  "next_obs" of a step is the observation three steps on, or the last one, 15. "done", which is replaced by
#            its version for N steps, is 1 where one of the three steps is done: for 12, 13 and 14.
# Seen:      at the time limit, 13 and 14 have next_obs 1, which is no observation of the episode; a picture is 1 in
#            all pixels. They are not done, so a learner bootstraps from it. NstepBuffer does not keep "next" values,
#            and on_episode_end() hands out what its memory was made with. At a real end this does no harm, since 13
#            and 14 are done. But 12, whose three steps reach the end, is not: its target is 14.25 instead of 1.75.
#            add() joins the flags of N - 1 steps only; with size 2, that is the flag of the first step alone. The
#            source of NstepBuffer that was read is of an older commit; the wheel has none.
# Way out:   no Nstep: join the steps of an episode before add().
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check cpprb==11.0.0 numpy==2.4.6
cat > "$folder/nstep.py" <<'PYTHON'
import numpy as np
from cpprb import PrioritizedReplayBuffer, ReplayBuffer


def show(name: str, kind: type, end: int, size: int = 3, shape: tuple[int, ...] = (1,)) -> None:
    """Print what is stored of an episode."""
    print(name)
    observation = {"shape": shape, "dtype": np.uint8}
    keys = {"obs": observation, "rew": {}, "next_obs": observation, "done": {}}
    buffer = kind(100, keys, Nstep={"size": size, "gamma": 0.5, "rew": "rew", "next": "next_obs"})
    for step in range(10, 15):
        now, after = np.full(shape, step), np.full(shape, step + 1)
        buffer.add(obs=now, rew=1.0, next_obs=after, done=end if step == 14 else 0)
    buffer.on_episode_end()
    stored = buffer.get_all_transitions()
    for now, reward, after, done in zip(*[stored[key] for key in keys], strict=True):
        target = reward.item() + 0.5**size * (1 - done.item()) * 100
        (after,) = np.unique(after)
        print(f"    {now.flat[0]} reward {reward.item():g} next {after} done {done.item():g} target {target:g}")


show("time limit", ReplayBuffer, 0)
show("time limit, prioritized, pictures", PrioritizedReplayBuffer, 0, shape=(84, 84, 3))
show("end", ReplayBuffer, 1)
show("end, size 2", ReplayBuffer, 1, size=2)
PYTHON
"$folder/venv/bin/python" "$folder/nstep.py" | tee "$folder/seen"
diff "$folder/seen" - <<'SEEN'
time limit
    10 reward 1.75 next 13 done 0 target 14.25
    11 reward 1.75 next 14 done 0 target 14.25
    12 reward 1.75 next 15 done 0 target 14.25
    13 reward 1.5 next 1 done 0 target 14
    14 reward 1 next 1 done 0 target 13.5
time limit, prioritized, pictures
    10 reward 1.75 next 13 done 0 target 14.25
    11 reward 1.75 next 14 done 0 target 14.25
    12 reward 1.75 next 15 done 0 target 14.25
    13 reward 1.5 next 1 done 0 target 14
    14 reward 1 next 1 done 0 target 13.5
end
    10 reward 1.75 next 13 done 0 target 14.25
    11 reward 1.75 next 14 done 0 target 14.25
    12 reward 1.75 next 15 done 0 target 14.25
    13 reward 1.5 next 1 done 1 target 1.5
    14 reward 1 next 1 done 1 target 1
end, size 2
    10 reward 1.5 next 12 done 0 target 26.5
    11 reward 1.5 next 13 done 0 target 26.5
    12 reward 1.5 next 14 done 0 target 26.5
    13 reward 1.5 next 15 done 0 target 26.5
    14 reward 1 next 1 done 1 target 1
SEEN
