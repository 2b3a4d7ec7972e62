"""Runs on a real Ray cluster of two nodes on one machine: a node that dies, a worker that is killed and a stop lose
nothing, and the result is the same to the bit as that of an undisturbed run."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from mcurl.errors import UserError
from mcurl.suites.ray import STOPPED, RayProcesses, RayTask, train
from mcurl.suites.suite import Suite, SuiteRun

SUITE = """
title = "Small enough to be killed often"
tasks = ["toy/reach"]
seeds = [1]
env_steps = 600

[settings]
checkpoint.every = 100
evaluation.every = 300
evaluation.episodes = 1
compute.precision = "fp32"
compute.device = "cpu"
sac.learning_starts = 50
sac.batch_size = 4
sac.hidden = 16
sac.filters = 2
sac.layers = 2
sac.feature_dim = 8

[arm.mcurl-small]
method = "mcurl"
settings.mcurl.length = 2
settings.mcurl.batch = 2
settings.mcurl.layers = 1
"""
NODE = {"num_cpus": 1, "num_gpus": 2, "object_store_memory": 80 * 2**20}


class TwoNodes:
    """A cluster of two nodes, beside a head that trains nothing."""

    def __init__(self) -> None:
        from ray.cluster_utils import Cluster

        head = {**NODE, "num_cpus": 0, "num_gpus": 0, "include_dashboard": False}
        self.cluster = Cluster(initialize_head=True, head_node_args=head)
        self.address: str = self.cluster.address
        self.nodes = [self.cluster.add_node(**NODE, wait=False) for _ in range(2)]
        self.cluster.wait_for_nodes()

    def kill_node_of(self, process: int) -> None:
        """Kill a training process and all of its node at the same time, as a power failure does."""
        worker = parent(process)
        raylet = parent(worker)
        [node] = [node for node in self.nodes if node.all_processes["raylet"][0].process.pid == raylet]
        for each in (raylet, worker, process):
            os.kill(each, signal.SIGKILL)
        self.cluster.remove_node(node, allow_graceful=False)
        self.nodes.remove(node)


@pytest.fixture(scope="module")
def cluster() -> Iterator[TwoNodes]:
    pytest.importorskip("ray")
    with tempfile.TemporaryDirectory(prefix="ray-") as folder, pytest.MonkeyPatch.context() as patch:
        # Not pytest's folder: its path is too long for the sockets.
        patch.setenv("RAY_TMPDIR", folder)
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        # As a cluster that a script starts in the background.
        before = signal.signal(signal.SIGINT, signal.SIG_IGN)
        nodes = TwoNodes()
        signal.signal(signal.SIGINT, before)
        yield nodes
        nodes.cluster.shutdown()


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> SuiteRun:
    path = tmp_path_factory.mktemp("suite") / "small.toml"
    path.write_text(SUITE)
    [run] = Suite.load(path).runs()
    return run


@pytest.fixture(scope="module")
def undisturbed(run: SuiteRun, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    out = tmp_path_factory.mktemp("undisturbed")
    subprocess.run(mcurl(*run.arguments(out, ["compute.threads=1"])), check=True, stdout=subprocess.DEVNULL)
    return files(run.folder(out))


def mcurl(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "mcurl", *arguments]


def files(folder: Path) -> dict[str, bytes]:
    """All of a finished run that must repeat."""
    last = max((folder / "checkpoints").iterdir())
    assert (last / "policy").is_dir()
    paths = [path for path in sorted(last.rglob("*")) if path.is_file()]
    paths += [folder / name for name in ("metrics.jsonl", "evaluations.csv")]
    return {str(path.relative_to(folder)): path.read_bytes() for path in paths}


class Command:
    """``mcurl suite run`` on a cluster, as a user starts it."""

    def __init__(self, run: SuiteRun, address: str, out: Path) -> None:
        self.folder, self.output = run.folder(out), out / "output.txt"
        out.mkdir()
        suite = out / "small.toml"
        suite.write_text(SUITE)
        command = mcurl("suite", "run", str(suite), "--on", "ray", "--address", address, "--out", str(out))
        with self.output.open("w") as output:
            self.process = subprocess.Popen([*command, "--gpus", "0"], stdout=output, stderr=output)

    def wait_for(self, what: str, condition: Callable[[], Any], seconds: float = 180) -> None:
        end = time.monotonic() + seconds
        while not condition():
            assert self.process.poll() is None, f"ended before {what}: {self.output.read_text()}"
            assert time.monotonic() < end, f"no {what}: {self.output.read_text()}"
            time.sleep(0.05)

    def trains(self, checkpoints: int = 2) -> int:
        """Wait for so many checkpoints and for lines in the log after them; return the training process."""
        saved = self.folder / "checkpoints"
        self.wait_for("checkpoint", lambda: len(list(saved.glob("0*"))) >= checkpoints)
        log = self.folder / "metrics.jsonl"
        length = log.stat().st_size
        self.wait_for("progress", lambda: log.stat().st_size > length)
        assert not list(saved.glob("*/policy")), "finished too early"
        return int((self.folder / "lock").read_text().split()[1])

    def end(self) -> int:
        try:
            return self.process.wait(300)
        finally:
            self.process.kill()


def parent(process: int) -> int:
    return int(Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[1])


def resumes(folder: Path) -> int:
    return len(json.loads((folder / "run.json").read_text())["resumed"])


def test_a_node_dies_and_the_run_goes_on_elsewhere(
    cluster: TwoNodes, run: SuiteRun, undisturbed: dict[str, bytes], tmp_path: Path
) -> None:
    command = Command(run, cluster.address, tmp_path / "runs")
    cluster.kill_node_of(command.trains())
    assert command.end() == 0, command.output.read_text()
    assert resumes(command.folder) == 1
    assert "attempt" not in command.output.read_text(), "the pool started it again, not Ray"
    assert files(command.folder) == undisturbed
    assert "1 of 1 finished" in command.output.read_text()


@pytest.mark.slow
def test_a_killed_worker_stops_its_run_which_is_saved_and_continued(
    cluster: TwoNodes, run: SuiteRun, undisturbed: dict[str, bytes], tmp_path: Path
) -> None:
    command = Command(run, cluster.address, tmp_path / "runs")
    trains = command.trains()
    os.kill(parent(trains), signal.SIGKILL)
    command.wait_for("end of the first process", lambda: not Path(f"/proc/{trains}").exists())
    assert command.end() == 0, command.output.read_text()
    assert resumes(command.folder) == 1
    assert files(command.folder) == undisturbed


def test_ctrl_c_saves_all_runs(cluster: TwoNodes, run: SuiteRun, undisturbed: dict[str, bytes], tmp_path: Path) -> None:
    command = Command(run, cluster.address, tmp_path / "runs")
    command.trains()
    command.process.send_signal(signal.SIGINT)
    assert command.end() == 128 + signal.SIGINT, command.output.read_text()
    saved = max(int(path.name) for path in (command.folder / "checkpoints").iterdir())
    logged = [json.loads(line)["env_steps"] for line in (command.folder / "metrics.jsonl").read_text().splitlines()]
    assert logged[-1] <= saved, "steps after the last checkpoint are lost"
    assert "stopped; the same command continues" in command.output.read_text()
    assert not list((tmp_path / "runs").glob(".mcurl*"))
    subprocess.run(mcurl("resume", str(command.folder)), check=True, stdout=subprocess.DEVNULL)
    assert files(command.folder) == undisturbed


def test_runs_get_the_gpus_that_they_ask_for(cluster: TwoNodes, tmp_path: Path) -> None:
    with RayProcesses(tmp_path, address=cluster.address, gpus=None) as processes:
        nodes = len(cluster.nodes)  # one less after the test that kills one
        cpus, gpus = f"{nodes} CPU{'s' * (nodes > 1)}", f"{2 * nodes} GPUs"
        assert f"with {cpus} and {gpus}; 1 CPU and 1 GPU for each run" in processes.description
        assert processes.slots == nodes
        processes.gpus = 0.25
        processes.threads = 2
        assert processes.slots == 0
        assert processes.description.endswith("no node has that yet, so all runs wait")


def task(out: Path, *arguments: str, **changes: Any) -> RayTask:
    (out / "mark").touch()
    values = {"mark": out / "mark", "current_folder": out, "hide_gpus": True} | changes
    return RayTask(start=list(arguments), resume=["resume", "nothing"], folder=out / "run", **values)


def test_a_failure_comes_back_with_the_output(tmp_path: Path) -> None:
    status, lines = train(task(tmp_path, "train", "toy/reech"))
    assert status == 2
    assert "did you mean reach?" in lines[-1]


def test_a_machine_that_cannot_train_the_run_says_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    status, lines = train(task(tmp_path, "train", "toy/reach", version="0.0.1"))
    assert (status, len(lines)) == (2, 1)
    assert "install the same version" in lines[0]
    monkeypatch.setattr("mcurl.suites.ray.STORAGE_SECONDS", 0.0)
    status, lines = train(task(tmp_path, "train", "toy/reach", mark=tmp_path / "elsewhere" / "mark"))
    assert (status, len(lines)) == (2, 1)
    assert "must be on storage that all machines share" in lines[0]


def test_a_process_that_its_machine_stops_is_not_one_that_the_user_stopped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
    (tmp_path / "python").write_text("#!/bin/sh\nkill -TERM $$\n")
    (tmp_path / "python").chmod(0o700)
    assert train(task(tmp_path))[0] == STOPPED


@pytest.mark.parametrize(
    ("address", "message"),
    [
        ("127.0.0.1:1", "no Ray cluster answers at 127.0.0.1:1"),
        ("ray://127.0.0.1:10001", "must be host:port, auto or local"),
        ("somewhere", "must be host:port, auto or local"),
    ],
)
def test_an_address_without_a_cluster_is_refused_at_once(tmp_path: Path, address: str, message: str) -> None:
    pytest.importorskip("ray")
    with pytest.raises(UserError, match=message):
        RayProcesses(tmp_path, address=address)


def test_without_ray_the_message_says_how_to_install_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(UserError, match=r"pip install 'mcurl\[ray\]'"):
        RayProcesses(tmp_path)
