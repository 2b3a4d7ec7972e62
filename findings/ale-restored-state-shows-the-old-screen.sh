#!/usr/bin/env bash
# ale-py 0.12.1: after restoreState() the screen is still that of the state before it; the RAM is right.
#
# Source:    ALEInterface.cloneState(include_rng=True) / restoreState(state), Breakout, no sticky actions.
# Expected:  a restored state shows the screen that it had when it was saved. Planners and checkpoints read that screen.
# Seen:      getRAM() equals the saved RAM. getScreenRGB() equals the last screen before the restore, not the saved one.
#            The next act() draws the restored game, so one frame of the old game gets into an agent's stack.
# Way out:   save the screen (or the frame stack) beside the state.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check ale-py==0.12.1 numpy==2.4.6
cat > "$folder/restore.py" <<'PYTHON'
import numpy as np
from ale_py import ALEInterface, LoggerMode, roms

ALEInterface.setLoggerMode(LoggerMode.Error)
ale = ALEInterface()
ale.setInt("random_seed", 0)
ale.setFloat("repeat_action_probability", 0.0)
ale.loadROM(roms.get_rom_path("breakout"))
noop, fire, right, left = ale.getMinimalActionSet()
for step in range(60):
    ale.act(fire if step % 2 else right)
state, screen, ram = ale.cloneState(include_rng=True), ale.getScreenRGB().copy(), ale.getRAM().copy()
for _ in range(60):
    ale.act(left)
later = ale.getScreenRGB().copy()
assert not np.array_equal(later, screen)
ale.restoreState(state)
print("RAM of the saved state:", np.array_equal(ale.getRAM(), ram))
print("screen of the saved state:", np.array_equal(ale.getScreenRGB(), screen))
print("screen from before the restore:", np.array_equal(ale.getScreenRGB(), later))
PYTHON
"$folder/venv/bin/python" "$folder/restore.py" | tee "$folder/seen"
diff "$folder/seen" - <<'SEEN'
RAM of the saved state: True
screen of the saved state: False
screen from before the restore: True
SEEN
