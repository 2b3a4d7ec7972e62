"""The pool: every run once, retries that end, failures alone, Ctrl-C, and other pools on the same folder."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from mcurl.suites.pool import Entry, Pool
from mcurl.suites.status import State, read_status
from mcurl.suites.suite import Suite, SuiteRun

REAL_PYTHON = sys.executable
WORKER = Path(__file__).with_name("worker.py")
OUT = Path("runs")
SUITE = """
tasks = ["toy/reach", "toy/catch"]
seeds = [1, 2]
env_steps = 1000
[arm.mcurl]
method = "mcurl"
"""


class Record:
    """A display that keeps what happened."""

    def __init__(self) -> None:
        self.events: list[tuple[SuiteRun, str]] = []
        self.messages: list[str] = []
        self.states: list[list[str]] = []
        self.on_update: Callable[[Sequence[Entry]], None] = lambda entries: None

    def update(self, entries: Sequence[Entry]) -> None:
        self.states.append([entry.state for entry in entries])
        self.on_update(entries)

    def event(self, entry: Entry, text: str) -> None:
        self.events.append((entry.run, text))

    def message(self, text: str) -> None:
        self.messages.append(text)

    def of(self, run: SuiteRun) -> list[str]:
        return [text for other, text in self.events if other == run]


class World:
    """Runs of a suite whose processes are stand-ins."""

    def __init__(self) -> None:
        Path("toys.toml").write_text(SUITE)
        self.runs = Suite.load("toys.toml").runs()
        self.entries: dict[str, dict[str, Any]] = {}
        self.plan(*[["finish"]] * 4)

    def plan(self, *actions: list[str], seconds: float = 0) -> None:
        """What each run's attempts do, in order; the last repeats."""
        for run, do in zip(self.runs, actions, strict=False):
            entry = {"settings": run.settings.to_json(), "do": do, "seconds": seconds}
            self.entries[str(run.folder(OUT))] = entry
        Path("plan").write_text(json.dumps(self.entries))

    def attempts(self, run: SuiteRun) -> list[str]:
        """How its processes were started: train or resume."""
        path = Path("plan." + str(run.folder(OUT)).replace("/", "-"))
        return path.read_text().split() if path.exists() else []

    def pool(self, **options: Any) -> tuple[Pool, Record]:
        record = Record()
        return Pool(self.runs, OUT, display=record, poll_seconds=0.02, **({"jobs": 2} | options)), record


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> World:
    monkeypatch.chdir(tmp_path)
    python = tmp_path / "python"
    python.write_text(f'#!/bin/sh\nexec {sys.executable} -S {WORKER} "$@"\n')
    python.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(python))
    monkeypatch.setenv("PLAN", "plan")
    return World()


def wait_until(condition: Callable[[], object]) -> None:
    end = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


def test_every_run_is_trained_once(world: World) -> None:
    world.plan(*[["finish"]] * 4, seconds=0.05)
    pool, record = world.pool()
    assert pool.run() == 0
    assert [world.attempts(run) for run in world.runs] == [["train"]] * 4
    assert max(states.count("running") for states in record.states) == 2
    assert record.states[-1] == ["finished"] * 4
    assert [record.of(run) for run in world.runs] == [["started", "finished, mean return 3.5"]] * 4
    pool, record = world.pool()
    assert pool.run() == 0
    assert [world.attempts(run) for run in world.runs] == [["train"]] * 4
    assert record.events == []


def test_a_killed_run_continues_from_its_checkpoint(world: World) -> None:
    world.plan(["advance"] * 4 + ["finish"])
    pool, record = world.pool(retries=1)
    assert pool.run() == 0
    assert world.attempts(world.runs[0]) == ["train"] + ["resume"] * 4
    assert record.of(world.runs[0])[:3] == ["started", "failed, attempt 1 of 2: signal 9", "resumed from 10 env steps"]


def test_a_run_that_was_killed_before_its_first_checkpoint_is_resumed_too(world: World) -> None:
    world.plan(["die", "finish"])
    pool, record = world.pool()
    assert pool.run() == 0
    assert world.attempts(world.runs[0]) == ["train", "resume"]
    assert "resumed from 0 env steps" in record.of(world.runs[0])


def test_a_run_that_never_advances_is_given_up_and_the_others_go_on(world: World) -> None:
    world.plan(["die"], ["mistake"], ["advance", "die"])
    pool, record = world.pool(retries=2)
    assert pool.run() == 1
    assert record.states[-1] == ["failed", "failed", "failed", "finished"]
    assert len(world.attempts(world.runs[0])) == 3
    assert record.of(world.runs[0])[-1] == "failed: signal 9"
    assert record.of(world.runs[1])[-1] == "failed: exit status 2: the frames do not fit"
    assert world.attempts(world.runs[2]) == ["train", "resume", "resume"]
    assert pool.entries[world.runs[0]].failure == "signal 9"
    # Started again, the pool tries again.
    world.plan(["finish"], ["finish"], ["finish"])
    assert world.pool()[0].run() == 0


def test_a_run_that_somebody_asked_to_stop_is_not_resumed(world: World) -> None:
    world.plan(["stop"])
    pool, record = world.pool()
    assert pool.run() == 1
    assert world.attempts(world.runs[0]) == ["train"]
    assert record.of(world.runs[0])[-1] == "failed: signal 15"


def test_a_run_with_other_settings_is_left_alone(world: World) -> None:
    world.plan(["advance"])
    folder = world.runs[0].folder(OUT)
    environment = os.environ | {"PLAN": "plan"}
    line = [sys.executable, "-m", "mcurl", *world.runs[0].arguments(OUT)]
    assert subprocess.run(line, env=environment, check=False).returncode == -signal.SIGKILL
    settings = json.loads((folder / "settings.json").read_text())
    settings["mcurl"]["mask_rate"] = 0.3
    (folder / "settings.json").write_text(json.dumps(settings))
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    pool, record = world.pool()
    assert pool.run() == 1
    assert record.states[-1] == ["failed", "finished", "finished", "finished"]
    reason = f"{folder} is another run: its mcurl.mask_rate is 0.3, not 0.5; use another --out"
    assert pool.entries[world.runs[0]].failure == reason
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*")} == before


def test_ctrl_c_saves_all_and_the_same_pool_goes_on(world: World) -> None:
    world.plan(["wait", "finish"], ["wait", "finish"])
    pool, record = world.pool()

    def interrupt(entries: Sequence[Entry]) -> None:
        if not pool._processes.signal_number and all(entry.output for entry in list(entries)[:2]):
            os.kill(os.getpid(), signal.SIGINT)

    record.on_update = interrupt
    assert pool.run() == 130
    assert record.messages == ["Saving all runs before exit. Press Ctrl-C again to quit without saving."]
    assert [read_status(run, OUT).state for run in world.runs] == [State.STOPPED] * 2 + [State.WAITING] * 2
    assert record.of(world.runs[0]) == ["started", "stopped at 10 env steps"]
    pool, record = world.pool(jobs=1)
    assert pool.run() == 0
    assert [world.attempts(run) for run in world.runs] == [["train", "resume"]] * 2 + [["train"]] * 2
    assert [run for run, text in record.events if "started" in text or "resumed" in text] == world.runs


def test_a_run_of_another_process_is_left_to_it_and_taken_over_if_it_dies(world: World) -> None:
    world.plan(["wait", "finish"], ["wait"])
    lines = [[sys.executable, "-m", "mcurl", *run.arguments(OUT)] for run in world.runs[:2]]
    with (
        subprocess.Popen(lines[0], stdout=subprocess.PIPE) as dies,
        subprocess.Popen(lines[1], stdout=subprocess.PIPE) as ends,
    ):
        for process in (dies, ends):
            assert process.stdout is not None
            process.stdout.readline()
        pool, record = world.pool()

        def act(entries: Sequence[Entry]) -> None:
            if [entry.state for entry in entries] == ["elsewhere", "elsewhere", "finished", "finished"]:
                # The second ends as if its process had finished it.
                folder = world.runs[1].folder(OUT)
                (folder / "checkpoints" / "000001000" / "policy").mkdir(parents=True, exist_ok=True)
                (folder / "checkpoints" / "000001000" / "state.json").write_text("{}")
                dies.kill()
                ends.kill()

        record.on_update = act
        assert pool.run() == 0
    assert world.attempts(world.runs[0]) == ["train", "resume"]
    assert world.attempts(world.runs[1]) == ["train"]
    assert record.of(world.runs[1]) == ["finished by another process"]


def test_two_pools_on_one_folder_share_the_runs(world: World) -> None:
    """The second pool in a process of its own. A run may be begun by both; one of them gets it."""
    world.plan(*[["finish"]] * 4, seconds=0.3)
    code = f"""
import sys
from pathlib import Path
sys.path.insert(0, {str(Path(__file__).parent)!r})
from test_pool import OUT, Pool, Record, Suite
runs = Suite.load("toys.toml").runs()
sys.executable = {sys.executable!r}
print("ready", flush=True)
input()
sys.exit(Pool(runs, OUT, display=Record(), poll_seconds=0.02, jobs=2, retries=0).run())
"""
    with subprocess.Popen([REAL_PYTHON, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout is not None
        assert other.stdin is not None
        assert other.stdout.readline() == "ready\n"
        other.stdin.write("\n")
        other.stdin.flush()
        pool, record = world.pool(retries=0)
        assert pool.run() == 0
        assert other.wait(60) == 0
    assert [read_status(run, OUT).state for run in world.runs] == [State.FINISHED] * 4
    for run in world.runs:
        assert (run.folder(OUT) / "evaluations.csv").read_text().count("1000,0") == 1
    assert record.states[-1] == ["finished"] * 4


def test_a_pool_that_breaks_stops_its_processes(world: World) -> None:
    world.plan(["wait"], ["wait"])
    pool, record = world.pool()

    def fail(entries: Sequence[Entry]) -> None:
        if all(entry.output for entry in list(entries)[:2]):
            raise RuntimeError("no display")

    record.on_update = fail
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(RuntimeError, match="no display"):
        pool.run()
    assert signal.getsignal(signal.SIGINT) == before
    assert [read_status(run, OUT).state for run in world.runs[:2]] == [State.STOPPED] * 2
    assert threading.active_count() < 10
