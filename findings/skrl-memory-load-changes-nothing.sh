#!/usr/bin/env bash
# skrl 2.1.1: Memory.load() changes nothing that a memory gives back; the loaded steps are never sampled.
#
# Source:    skrl 2.1.1 with torch 2.13.0, RandomMemory with one environment, save() and load() in both formats that
#            load() supports, "pt" and "npz". The saved memory is full and holds the rewards 1, 2, 3 and 4.
# Expected:  after load() of the file, a memory holds the four saved steps and gives the rewards 1, 2, 3 and 4.
# Seen:      an empty memory stays empty, and its tensor is still the NaN of a new one. A memory that holds 101 to 104
#            still gives 101 to 104, by sample(), sample_all() and get_tensor_by_name(). load() puts the tensors in
#            attributes (_tensor_rewards), but all reading and writing goes through the dictionaries "tensors" and
#            "tensors_view", which keep the old ones. It sets neither "filled" nor the position. So a run that goes on
#            from a saved replay memory learns from new steps only, without an error or a warning.
# Way out:   set_tensor_by_name() for each tensor of the file, and then "filled" and "memory_index" by hand.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check \
    skrl==2.1.1 torch==2.13.0 numpy==2.4.6 gymnasium==1.4.0
cat > "$folder/load.py" <<'PYTHON'
import tempfile
from pathlib import Path

import torch
from skrl.memories.torch import RandomMemory


def memory(*rewards: float) -> RandomMemory:
    """A memory for four steps that holds these."""
    steps = RandomMemory(memory_size=4, device="cpu")
    steps.create_tensor("rewards", size=1)
    for reward in rewards:
        steps.add_samples(rewards=torch.tensor([[reward]]))
    return steps


def show(name: str, steps: RandomMemory) -> None:
    """Print what the memory gives."""
    given = [steps.get_tensor_by_name("rewards"), steps.sample_all(["rewards"])[0][0]]
    if len(steps):
        given.append(steps.sample(["rewards"], batch_size=4)[0][0].sort(dim=0).values)
    values = [" ".join(f"{value:g}" for value in tensor.flatten().tolist()) for tensor in given]
    print(f"{name}: {len(steps)} steps; {'; '.join(values)}")


saved = memory(1, 2, 3, 4)
show("saved", saved)
for kind in ("pt", "npz"):
    with tempfile.TemporaryDirectory() as directory:
        saved.save(directory, format=kind)
        (file,) = Path(directory, "memories").iterdir()
        for name, loaded in (("empty", memory()), ("other steps", memory(101, 102, 103, 104))):
            loaded.load(str(file))
            show(f"{name}, after load() of {kind}", loaded)
        if kind == "pt":
            by_hand = memory()
            for name, tensor in torch.load(file).items():
                by_hand.set_tensor_by_name(name, tensor)
            by_hand.filled = True
            show("empty, set_tensor_by_name() and filled", by_hand)
PYTHON
"$folder/venv/bin/python" "$folder/load.py" | tee "$folder/seen"
diff "$folder/seen" - <<'SEEN'
saved: 4 steps; 1 2 3 4; 1 2 3 4; 1 2 3 4
empty, after load() of pt: 0 steps; nan nan nan nan; nan nan nan nan
other steps, after load() of pt: 4 steps; 101 102 103 104; 101 102 103 104; 101 102 103 104
empty, set_tensor_by_name() and filled: 4 steps; 1 2 3 4; 1 2 3 4; 1 2 3 4
empty, after load() of npz: 0 steps; nan nan nan nan; nan nan nan nan
other steps, after load() of npz: 4 steps; 101 102 103 104; 101 102 103 104; 101 102 103 104
SEEN
