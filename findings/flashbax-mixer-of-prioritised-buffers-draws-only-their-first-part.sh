#!/usr/bin/env bash
# flashbax 0.1.3: a mixer of prioritised buffers draws only the first part of each buffer, whatever the priorities are.
#
# Source:    flashbax 0.1.3 with jax 0.10.2, make_mixer() of two buffers with the steps 0 to 7 and 100 to 107, each made
#            with sample_batch_size=8. The mixer gives batches of 8, 400 times. In flashbax's own test of a mixer of
#            prioritised buffers, the buffers and the mixer have the same batch size, too.
# Expected:  each buffer's share of the batch is drawn by its priorities. With equal priorities, each step is an eighth
#            of the share; with priority 7 for the last step and 1 for the others, the last step is half of it.
# Seen:      so it is with buffers that are not prioritised, and with sample() of a prioritised buffer alone. The mixer
#            with half of the batch from each never draws the steps 4 to 7, and with a quarter from the first buffer,
#            only 0 and 1 of it. The last step is never drawn, though it has half of all priority. sample() of a
#            prioritised buffer is stratified: one draw from each of eight equal parts of the priorities, in the order
#            of the places. sample_mixer_fn() takes the first ones of that batch (_batch_slicer() from 0), which are all
#            from the first places. Until a buffer is full, its newest steps are left out in this way. The probabilities
#            that come with a sample are those of the whole buffer. No error and no warning.
# Way out:   make each buffer with its own share as sample_batch_size, here 4 and 4: the mixer then cuts nothing off.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check \
    flashbax==0.1.3 jax==0.10.2 jaxlib==0.10.2 flax==0.12.8 chex==0.1.92 tensorstore==0.1.86 numpy==2.4.6
cat > "$folder/mixer.py" <<'PYTHON'
import flashbax
import jax
import jax.numpy as jnp
import numpy as np


def filled(make, size: int, first: int, last: float):
    """A buffer with eight steps, and its state; the last one has this priority, the others 1."""
    buffer = make(max_length=8, min_length=1, sample_batch_size=size)
    state = buffer.init(jnp.array(0))
    for step in range(8):
        state = buffer.add(state, jnp.array(first + step))
    if last != 1:
        # The buffer takes it to the power of 0.6.
        state = buffer.set_priorities(state, jnp.array([7]), jnp.array([last ** (1 / 0.6)]))
    return buffer, state


def show(name: str, sample, states) -> None:
    """Print how much of each buffer's share of 400 batches every step is."""
    sample = jax.jit(sample)
    drawn = np.concatenate([np.array(sample(states, jax.random.key(n)).experience) for n in range(400)])
    print(name)
    for first in (0, 100):
        counts = np.array([(drawn == first + step).sum() for step in range(8)])
        if counts.any():
            print(f"    {first:3} to {first + 7:3}:", *[f"{part:.2f}" for part in counts / counts.sum()])


uniform, prioritised = flashbax.make_item_buffer, flashbax.make_prioritised_item_buffer
for name, make, sizes, last, parts in (
    ("not prioritised", uniform, (8, 8), 1, (1, 1)),
    ("prioritised", prioritised, (8, 8), 1, (1, 1)),
    ("prioritised, last step 7", prioritised, (8, 8), 7, (1, 1)),
    ("prioritised, a quarter from the first", prioritised, (8, 8), 1, (1, 3)),
    ("prioritised, last step 7, batches of 4", prioritised, (4, 4), 7, (1, 1)),
):
    (one, state_one), (two, state_two) = filled(make, sizes[0], 0, last), filled(make, sizes[1], 100, last)
    if name == "prioritised, last step 7":
        show("prioritised, last step 7, without a mixer", one.sample, state_one)
    show(name, flashbax.make_mixer([one, two], 8, parts).sample, [state_one, state_two])
PYTHON
JAX_PLATFORMS=cpu "$folder/venv/bin/python" "$folder/mixer.py" | tee "$folder/seen"
diff "$folder/seen" - <<'SEEN'
not prioritised
      0 to   7: 0.12 0.13 0.13 0.11 0.12 0.13 0.13 0.13
    100 to 107: 0.12 0.13 0.13 0.12 0.11 0.12 0.13 0.14
prioritised
      0 to   7: 0.25 0.25 0.25 0.25 0.00 0.00 0.00 0.00
    100 to 107: 0.25 0.25 0.25 0.25 0.00 0.00 0.00 0.00
prioritised, last step 7, without a mixer
      0 to   7: 0.08 0.07 0.07 0.07 0.07 0.08 0.07 0.50
prioritised, last step 7
      0 to   7: 0.15 0.14 0.14 0.15 0.14 0.15 0.13 0.00
    100 to 107: 0.14 0.15 0.14 0.14 0.14 0.14 0.15 0.00
prioritised, a quarter from the first
      0 to   7: 0.50 0.50 0.00 0.00 0.00 0.00 0.00 0.00
    100 to 107: 0.17 0.17 0.17 0.17 0.17 0.17 0.00 0.00
prioritised, last step 7, batches of 4
      0 to   7: 0.07 0.07 0.07 0.07 0.08 0.07 0.07 0.50
    100 to 107: 0.07 0.07 0.07 0.08 0.08 0.06 0.06 0.50
SEEN
