#!/usr/bin/env bash
# tianshou 2.0.1: PrioritizedVectorReplayBuffer.set_beta() does nothing, so beta cannot be annealed.
#
# Source:    tianshou 2.0.1 with torch 2.13.0, PrioritizedReplayBuffer and PrioritizedVectorReplayBuffer with two
#            environments, both made with alpha=1 and beta=0.4. Four steps have the priorities 1, 2, 4 and 8.
# Expected:  after set_beta(1) the importance weights are the inverse of the priorities: 1, 0.5, 0.25 and 0.125.
# Seen:      so it is with PrioritizedReplayBuffer. The weights of the vectorized buffer stay those of beta=0.4. Its
#            set_beta() (vecbuf.py) sets beta in each of the inner buffers, which give no weights: get_weight() is that
#            of the outer buffer, with the outer buffer's own beta. The Atari Rainbow example of tianshou uses this
#            class, anneals beta from 0.4 to 1 with set_beta() as it trains, and writes that beta to its log.
# Way out:   PrioritizedReplayBuffer.set_beta(buffer, beta).
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check \
    tianshou==2.0.1 torch==2.13.0 numpy==2.4.6 numba==0.68.1 gymnasium==1.4.0
cat > "$folder/beta.py" <<'PYTHON'
import numpy as np
from tianshou.data import Batch, PrioritizedReplayBuffer, PrioritizedVectorReplayBuffer

one = PrioritizedReplayBuffer(8, alpha=1.0, beta=0.4)
two = PrioritizedVectorReplayBuffer(16, buffer_num=2, alpha=1.0, beta=0.4)
steps = np.arange(4)


def weights(buffer: PrioritizedReplayBuffer) -> list[float]:
    """Importance weights of the first four steps."""
    return [round(weight, 3) for weight in buffer[steps].weight.tolist()]


for buffer, environments in ((one, 1), (two, 2)):
    zeros = np.zeros(environments)
    for _ in steps:
        step = {"obs": zeros, "act": zeros, "rew": zeros, "obs_next": zeros}
        ends = {"terminated": zeros.astype(bool), "truncated": zeros.astype(bool)}
        buffer.add(Batch(**step, **ends), buffer_ids=range(environments))
    buffer.update_weight(steps, np.array([1.0, 2.0, 4.0, 8.0]))
    print(f"{type(buffer).__name__}, beta=0.4:  {weights(buffer)}")
    buffer.set_beta(1.0)
    print(f"{type(buffer).__name__}, set_beta(1): {weights(buffer)}")
PrioritizedReplayBuffer.set_beta(two, 1.0)
print(f"with set_beta() of the base class: {weights(two)}")
PYTHON
"$folder/venv/bin/python" "$folder/beta.py" | tee "$folder/seen"
diff "$folder/seen" - <<'SEEN'
PrioritizedReplayBuffer, beta=0.4:  [1.0, 0.758, 0.574, 0.435]
PrioritizedReplayBuffer, set_beta(1): [1.0, 0.5, 0.25, 0.125]
PrioritizedVectorReplayBuffer, beta=0.4:  [1.0, 0.758, 0.574, 0.435]
PrioritizedVectorReplayBuffer, set_beta(1): [1.0, 0.758, 0.574, 0.435]
with set_beta() of the base class: [1.0, 0.5, 0.25, 0.125]
SEEN
