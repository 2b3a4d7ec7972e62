#!/usr/bin/env bash
# ray 2.60.0: a process that a task starts cannot be interrupted: SIGINT is blocked in it, and waits for ever.
#
# Source:    ray 2.60.0, a local cluster with one CPU; the child is a Python program with a SIGINT handler of its own.
#            Also reported as ray-project/ray#31805.
# Expected:  a child that a task starts gets SIGINT as a child of any other process does: its handler runs at once.
# Seen:      Ray blocks signal 2 in the thread that runs a task. The child inherits the mask through exec, so its
#            handler never runs. The child goes on to its end (here 4 s) and exits with 0. A trainer that saves and stops on
#            SIGINT does not save. The signal is blocked, not ignored: no handler or exit code shows it.
# Way out:   stop such a process with SIGTERM, or unblock the signal in the child (signal.pthread_sigmask).
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check ray==2.60.0
cat > "$folder/interrupt.py" <<'PYTHON'
import signal
import subprocess
import sys
import time

import ray

CHILD = """
import signal, sys, time
signal.signal(signal.SIGINT, lambda *_: sys.exit(3))
print("ready", flush=True)
time.sleep(4)
"""


def interrupt(number):
    child = subprocess.Popen([sys.executable, "-c", CHILD], stdout=subprocess.PIPE, text=True)
    child.stdout.readline()
    start = time.monotonic()
    child.send_signal(number)
    status = child.wait()
    return f"exit status {status}, {'at once' if time.monotonic() - start < 2 else 'after its own end'}"


def blocked():
    return sorted(map(int, signal.pthread_sigmask(signal.SIG_BLOCK, [])))


ray.init(address="local", num_cpus=1, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
ways = {"outside Ray": lambda f, *a: f(*a), "in a task": lambda f, *a: ray.get(ray.remote(f).remote(*a))}
for where, call in ways.items():
    print(f"{where}: SIGINT: {call(interrupt, signal.SIGINT)}; blocked signals {call(blocked)}")
print(f"in a task: SIGTERM: {ray.get(ray.remote(interrupt).remote(signal.SIGTERM))}")
PYTHON
RAY_USAGE_STATS_ENABLED=0 RAY_AUTH_MODE=disabled RAY_TMPDIR="$folder" "$folder/venv/bin/python" "$folder/interrupt.py" \
    2> "$folder/errors" | tee "$folder/seen"
diff "$folder/seen" - <<'SEEN'
outside Ray: SIGINT: exit status 3, at once; blocked signals []
in a task: SIGINT: exit status 0, after its own end; blocked signals [2]
in a task: SIGTERM: exit status -15, at once
SEEN
