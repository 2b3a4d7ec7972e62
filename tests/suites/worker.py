"""A stand-in for `python -m mcurl train` and `resume`, which makes run folders without training.

PLAN in the environment is a JSON file: run folder -> {"settings": ..., "do": what each attempt does}. An attempt
`finish`es; saves a checkpoint and is killed (`advance`); is killed at once (`die`); reports a mistake (`mistake`); or
waits for Ctrl-C, then saves a checkpoint (`wait`).
"""

import fcntl
import json
import os
import signal
import sys
import time
from pathlib import Path

arguments = sys.argv[sys.argv.index("mcurl") + 1 :]  # after -P -m mcurl
plan = json.loads(Path(os.environ["PLAN"]).read_text())


def option(name: str) -> str:
    return arguments[arguments.index(name) + 1]


if arguments[0] == "resume":
    folder = Path(arguments[1])
else:
    folder = Path(option("--out")) / arguments[1].replace("/", "-") / f"{option('--name')}-seed{option('--seed')}"
entry = plan[str(folder)]
log = Path(os.environ["PLAN"] + "." + str(folder).replace("/", "-"))
with log.open("a") as file:
    file.write(arguments[0] + "\n")
attempt = len(log.read_text().splitlines()) - 1
action = entry["do"][min(attempt, len(entry["do"]) - 1)]
asked: list[int] = []
signal.signal(signal.SIGINT, lambda number, frame: asked.append(number))

if action == "mistake":
    print("mcurl: the frames do not fit", file=sys.stderr)
    sys.exit(2)
if action == "stop":
    sys.exit(128 + signal.SIGTERM)
if arguments[0] == "train":
    draft = folder.parent / f".{folder.name}.{os.getpid()}"
    (draft / "checkpoints").mkdir(parents=True)
    (draft / "metrics.jsonl").touch()
    (draft / "evaluations.csv").write_text("env_steps,episode,return\n")
    (draft / "settings.json").write_text(json.dumps(entry["settings"]))
    (draft / "run.json").write_text(json.dumps({"format": "mcurl-run"}))
    lock = (draft / "lock").open("a+")
    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    try:
        draft.rename(folder)
    except OSError:
        print(f"mcurl: {folder} exists already", file=sys.stderr)
        sys.exit(2)
else:
    lock = (folder / "lock").open("a+")
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        sys.exit(2)
if action == "die":
    os.kill(os.getpid(), signal.SIGKILL)


def save(env_steps: int, final: bool = False) -> None:
    with (folder / "metrics.jsonl").open("a") as file:
        file.write(json.dumps({"env_steps": env_steps, "episode/return": 7.5}) + "\n")
    checkpoint = folder / "checkpoints" / f"{env_steps:09d}"
    (checkpoint / "policy" if final else checkpoint).mkdir(parents=True)
    (checkpoint / "state.json").write_text("{}")


done = max((int(path.name) for path in (folder / "checkpoints").iterdir()), default=0)
if action == "advance":
    save(done + 10)
    print("evaluation 3.5", flush=True)
    os.kill(os.getpid(), signal.SIGKILL)
if action == "wait":
    print("waiting", flush=True)
    while not asked:
        time.sleep(0.01)
    time.sleep(0.5)  # longer than the pool waits before it says that runs are saved
    save(done + 10)
    sys.exit(130)
time.sleep(float(entry.get("seconds", 0)))
with (folder / "evaluations.csv").open("a") as file:
    file.write("1000,0,3.0\n1000,1,4.0\n")
save(1000, final=True)
