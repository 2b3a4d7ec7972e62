#!/usr/bin/env bash
# torchrl 0.14.0: a full replay buffer that was saved and loaded gives slices that join its newest to its oldest steps.
#
# Source:    torchrl 0.14.0 with tensordict 0.14.3 and torch 2.13.0, LazyTensorStorage and SliceSampler, whose episodes
#            end where ("next", "done") is true. 13 steps are written to a buffer of 10, with dumps() and loads(), and
#            with state_dict() and load_state_dict().
# Expected:  a loaded buffer gives the same slices as the buffer that was saved.
# Seen:      the saved buffer gives successive steps only. The loaded one also gives 11, 12, 3 and 12, 3, 4: step 12
#            was the last one written, step 3 is the oldest one left, and no done is between them. The writer's
#            position is saved, but the sampler goes by the storage's last written place, which is not. The next
#            write sets it again, but a buffer that is only read after loading keeps the seam.
# Way out:   store an episode number and give it as traj_key, or write to the loaded buffer before sampling.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check \
    torchrl==0.14.0 tensordict==0.14.3 torch==2.13.0 numpy==2.4.6
cat > "$folder/slices.py" <<'PYTHON'
import tempfile

import torch
from tensordict import TensorDict
from torchrl.data import LazyTensorStorage, ReplayBuffer, SliceSampler


def steps(start: int, stop: int) -> TensorDict:
    """Steps numbered from start, in episodes of seven steps each."""
    step = torch.arange(start, stop)
    return TensorDict({"step": step, "number": step // 7, "next": {"done": (step % 7 == 6).unsqueeze(-1)}}, [len(step)])


def empty(**key) -> ReplayBuffer:
    """Buffer of ten steps that gives slices of three."""
    return ReplayBuffer(storage=LazyTensorStorage(10), sampler=SliceSampler(slice_len=3, **key), batch_size=6000)


def show(name: str, buffer: ReplayBuffer) -> None:
    """Print the slices that are not three successive steps."""
    slices = buffer.sample()["step"].view(-1, 3)
    broken = slices[(slices.diff(dim=1) != 1).any(1)]
    print(f"{name}: broken slices {broken.unique(dim=0).tolist()}")


for key in ({"end_key": ("next", "done")}, {"traj_key": "number"}):
    print(key)
    saved = empty(**key)
    saved.extend(steps(0, 10))
    saved.extend(steps(10, 13))
    show("    saved buffer", saved)
    with tempfile.TemporaryDirectory() as path:
        saved.dumps(path)
        loaded = empty(**key)
        loaded.loads(path)
    show("    after loads()", loaded)
    copied = empty(**key)
    copied.load_state_dict(saved.state_dict())
    show("    after load_state_dict()", copied)
    loaded.extend(steps(13, 14))
    show("    after loads() and one more step", loaded)
PYTHON
RL_LOGGING_LEVEL=ERROR "$folder/venv/bin/python" "$folder/slices.py" | tee "$folder/seen"
diff "$folder/seen" - <<'SEEN'
{'end_key': ('next', 'done')}
    saved buffer: broken slices []
    after loads(): broken slices [[11, 12, 3], [12, 3, 4]]
    after load_state_dict(): broken slices [[11, 12, 3], [12, 3, 4]]
    after loads() and one more step: broken slices []
{'traj_key': 'number'}
    saved buffer: broken slices []
    after loads(): broken slices []
    after load_state_dict(): broken slices []
    after loads() and one more step: broken slices []
SEEN
