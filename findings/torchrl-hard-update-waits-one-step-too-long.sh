#!/usr/bin/env bash
# torchrl 0.14.1: HardUpdate copies the weights to the target network at every (N + 1)th step, not at every Nth.
#
# Source:    torchrl 0.14.1 with tensordict 0.14.3 and torch 2.13.0, DQNLoss and HardUpdate with
#            value_network_update_interval=N, "how often the target network should be updated". Twelve steps, and the
#            weight of the network is set to the number of the step before each.
# Expected:  N=1 updates the target at every step, N=2 at every second and N=3 at every third.
# Seen:      N=1 updates it at every second step, N=2 at every third and N=3 at every fourth. HardUpdate.step() compares
#            its counter with N before it counts the step, and goes back to 0 after an update.
# Way out:   give N - 1. To update at every step, give 0.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check \
    torchrl==0.14.1 tensordict==0.14.3 torch==2.13.0 numpy==2.4.6
cat > "$folder/updates.py" <<'PYTHON'
import torch
from torchrl.modules import QValueActor
from torchrl.objectives import DQNLoss, HardUpdate

for interval in (0, 1, 2, 3):
    network = torch.nn.Linear(1, 2)
    actor = QValueActor(network, in_keys=["observation"], action_space="categorical")
    loss = DQNLoss(actor, action_space="categorical", delay_value=True)
    updater = HardUpdate(loss, value_network_update_interval=interval)
    target = loss.target_value_network_params["module", "0", "module", "weight"]
    source = loss.value_network_params["module", "0", "module", "weight"]
    updated = []
    for step in range(1, 13):
        source.data.fill_(step)
        updater.step()
        if (target == step).all():
            updated.append(step)
    print(f"interval {interval}: target updated at steps {updated}")
PYTHON
RL_LOGGING_LEVEL=ERROR "$folder/venv/bin/python" "$folder/updates.py" | tee "$folder/seen"
diff "$folder/seen" - <<'SEEN'
interval 0: target updated at steps [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12]
interval 1: target updated at steps [2, 4, 6, 8, 10, 12]
interval 2: target updated at steps [3, 6, 9, 12]
interval 3: target updated at steps [4, 8, 12]
SEEN
