"""Runs on a Ray cluster: one Ray task per run, which starts ``mcurl`` as a process on some machine of the cluster.

Everything about a run is in its folder, so all machines must share the storage. If a machine dies, Ray starts the task
again on another one, where the run continues from its latest checkpoint. docs/clusters.md describes what is needed.
"""

from __future__ import annotations

import contextlib
import ctypes
import logging
import os
import platform
import secrets
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any, Self

import mcurl
from mcurl.errors import UserError
from mcurl.runtime.parallel import ENVIRONMENT, pass_on_nice
from mcurl.runtime.program import module_command
from mcurl.runtime.signals import stop_signals
from mcurl.runtime.threads import available_cores
from mcurl.suites.suite import SuiteRun

OUTPUT_LINES = 30
"""Number of last lines of a process's output that come back from a machine."""
STORAGE_SECONDS = 60.0
"""How long a machine waits for a new file of another one: network file systems cache that a file is missing."""
STOPPED = 75
"""Exit status of a process that somebody else than :class:`RayProcesses` stopped: its machine is taken away."""
_CONNECT_SECONDS = 10.0
_OBJECT_STORE_BYTES = 80 * 2**20
"""The least that Ray accepts. Tasks return a few lines of text."""
_PR_SET_PDEATHSIG = 1


@dataclass(frozen=True)
class RayTask:
    """What a machine must know to train a run."""

    start: list[str]
    """The arguments of ``mcurl`` that start the run."""
    resume: list[str]
    """The arguments of ``mcurl`` that continue it, once its folder exists."""
    folder: Path
    """Absolute path of the run folder."""
    mark: Path
    """A file that exists in the folder of all runs."""
    current_folder: Path
    """Of the command that started the suite: modules of the user may lie there."""
    hide_gpus: bool
    """Whether the run must not use a GPU."""
    version: str = mcurl.__version__
    """Of mcurl."""


class RayProcesses:
    """Processes of ``mcurl`` on a Ray cluster, with the interface of :class:`mcurl.runtime.parallel.ProcessPool`.

    A context manager, to be used in the main thread. A stop signal stops and saves all runs; the second one stops them
    without saving.

    Args:
        out: folder of all runs, on storage that all machines share.
        address: ``host:port`` of a cluster, ``"auto"`` (the cluster of this machine), ``"local"`` (a new one, of this
            machine only), or None: RAY_ADDRESS if that is set, else ``"local"``.
        threads: CPUs of each run.
        gpus: GPUs of each run, also a part of one such as 0.25; None: 1 if the cluster has GPUs, else 0.
        retries: how often Ray starts a task again whose machine or worker process died.

    Raises:
        UserError: Ray is not installed, or there is no such cluster.
    """

    queues = True
    """Started runs wait until a machine is free."""

    def __init__(
        self, out: Path, *, address: str | None = None, threads: int = 1, gpus: float | None = None, retries: int = 2
    ) -> None:
        self.out, self.threads, self.retries = out.resolve(), threads, retries
        self.signal_number = 0
        self._signals = self._cancelled = 0
        self._tasks: dict[Any, tuple[SuiteRun, Callable[[str], None]]] = {}
        self._handlers: dict[int, Any] = {}
        self._mark = self.out / f".mcurl-ray-{secrets.token_hex(8)}"
        self._ray = _connect(address)
        self.gpus = float(any(node.get("GPU") for node in self._nodes())) if gpus is None else gpus

    def __enter__(self) -> Self:
        self.out.mkdir(parents=True, exist_ok=True)
        self._mark.touch()
        self._handlers = {number: signal.signal(number, self._request_stop) for number in stop_signals()}
        return self

    def __exit__(self, *error: object) -> None:
        try:
            if self._tasks and not self._signals:
                self._request_stop(signal.SIGINT, None)
            while self._tasks:
                self.wait(1.0)
        finally:
            self._mark.unlink(missing_ok=True)
            self._ray.shutdown()
            for number, handler in self._handlers.items():
                signal.signal(number, handler)

    @property
    def slots(self) -> int:
        """How many runs the machines of the cluster can train at a time; 0 as long as none is large enough."""
        return sum(_fitting(node, {"CPU": self.threads, "GPU": self.gpus}) for node in self._nodes())

    @property
    def description(self) -> str:
        """The cluster and what each run gets of it, on one line."""
        nodes = self._nodes()
        cpus, gpus = (sum(node.get(name, 0) for node in nodes) for name in ("CPU", "GPU"))
        cluster = f"{_count(len(nodes), 'node')} with {_count(cpus, 'CPU')} and {_count(gpus, 'GPU')}"
        each = f"{_count(self.threads, 'CPU')} and {_count(self.gpus, 'GPU')} for each run"
        return f"Ray: {cluster}; {each}" + ("" if self.slots else "; no node has that yet, so all runs wait")

    @property
    def running(self) -> list[SuiteRun]:
        """Runs that have not ended."""
        return [run for run, _ in self._tasks.values()]

    def start(self, run: SuiteRun, arguments: list[str], on_line: Callable[[str], None]) -> None:
        """Start a run as soon as a machine is free.

        Args:
            run: its name in :meth:`wait`.
            arguments: of ``mcurl``, as long as the run has no folder.
            on_line: receives the last lines of the output when the run ends.
        """
        task = RayTask(
            start=arguments,
            resume=run.resume_arguments(self.out),
            folder=run.folder(self.out),
            mark=self._mark,
            current_folder=Path.cwd(),
            hide_gpus=self.gpus == 0,
        )
        options = {"num_cpus": self.threads, "num_gpus": self.gpus, "max_retries": self.retries, "name": run.name}
        self._tasks[self._ray.remote(**options)(train).remote(task)] = run, on_line

    def wait(self, timeout: float) -> dict[SuiteRun, int]:
        """Wait until a run ends, at most ``timeout`` seconds.

        Returns:
            Run -> exit status of its process, :data:`STOPPED`, or 1 if no machine could start it.
        """
        self._cancel()
        if not self._tasks:
            time.sleep(timeout)
            return {}
        self._ray.wait(list(self._tasks), timeout=timeout)
        ready, _ = self._ray.wait(list(self._tasks), num_returns=len(self._tasks), timeout=0)
        ended = {}
        for reference in ready:
            run, on_line = self._tasks.pop(reference)
            ended[run], lines = self._result(reference)
            for line in lines:
                on_line(line)
        return ended

    def _nodes(self) -> list[dict[str, float]]:
        """The resources of each node that is alive and has any."""
        nodes = [node["Resources"] for node in self._ray.nodes() if node["Alive"]]
        return [node for node in nodes if node.get("CPU") or node.get("GPU")]

    def _request_stop(self, number: int, frame: FrameType | None) -> None:
        # Ray is not called here: the signal may have interrupted a call of Ray.
        self.signal_number = self.signal_number or number
        self._signals += 1

    def _cancel(self) -> None:
        """Cancel all tasks after a signal: they stop their processes and wait for them. At the second one, at once."""
        if self._signals > self._cancelled:
            self._cancelled = self._signals
            for reference in self._tasks:
                self._ray.cancel(reference, force=self._signals > 1)

    def _result(self, reference: Any) -> tuple[int, list[str]]:
        exceptions = self._ray.exceptions
        try:
            status, lines = self._ray.get(reference)
        except exceptions.TaskCancelledError:
            return 128 + signal.SIGINT, []
        except exceptions.RayError as error:
            if self.signal_number:
                return 128 + signal.SIGINT, []
            return 1, [line for line in str(error).splitlines() if line.strip()][-1:]
        return int(status), list(lines)


def train(task: RayTask) -> tuple[int, list[str]]:
    """Train a run in a process of its own, on the machine of the cluster where this is called.

    Cancelling the Ray task stops the process, which saves its run.

    Returns:
        The exit status, 128 + the signal's number after a kill, and the last lines of the output.
    """
    if problem := _problem(task):
        return 2, [problem]
    # Ray cancels by SIGINT, which workers ignore where the cluster was started in the background of a script.
    if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    lines = deque([f"on {platform.node()}"], maxlen=OUTPUT_LINES)
    with _process(task) as process:
        reader = threading.Thread(target=_read, args=(process, lines), daemon=True)
        reader.start()
        status, cancelled = _wait(process)
        reader.join()
    status = status if status >= 0 else 128 - status
    if not cancelled and status in [128 + number for number in stop_signals()]:
        status = STOPPED
    return status, list(lines)


def _problem(task: RayTask) -> str:
    """Why this machine cannot train the run, on one line; empty if it can."""
    node = platform.node()
    if task.version != mcurl.__version__:
        return f"{node} has mcurl {mcurl.__version__}, not {task.version}: install the same version on all machines"
    end = time.monotonic() + STORAGE_SECONDS
    while not task.mark.exists():
        if time.monotonic() > end:
            return f"{node} does not see {task.mark.parent}: --out must be on storage that all machines share"
        with contextlib.suppress(OSError):
            os.listdir(task.mark.parent)  # lets NFS look again
        time.sleep(0.5)
    return ""


@contextmanager
def _process(task: RayTask) -> Iterator[subprocess.Popen[str]]:
    """The process of the run. It is stopped, and saves, if this worker dies."""
    arguments = task.resume if task.folder.exists() else task.start
    process = subprocess.Popen(
        [*module_command(), *arguments],
        env=os.environ | ENVIRONMENT | ({"CUDA_VISIBLE_DEVICES": ""} if task.hide_gpus else {}),
        cwd=task.current_folder if task.current_folder.is_dir() else None,
        start_new_session=True,
        preexec_fn=_follow_parent if sys.platform == "linux" else None,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
    )
    with process:
        try:
            pass_on_nice(process)
            yield process
        finally:
            if process.poll() is None:
                process.kill()


def _follow_parent() -> None:
    """Let the kernel send SIGTERM to this process when its parent dies.

    Ray kills the children of a worker that exits, not those of one that is killed, for example for lack of memory.
    """
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)


def _wait(process: subprocess.Popen[str]) -> tuple[int, bool]:
    """Wait for a process: its exit status, and whether the task was cancelled meanwhile."""
    try:
        # Ray cancels with a KeyboardInterrupt, which does not interrupt a system call.
        while process.poll() is None:
            time.sleep(0.2)
        return process.returncode, False
    except KeyboardInterrupt:
        process.terminate()  # not SIGINT: Ray's workers block it, and so do their children
        return process.wait(), True


def _read(process: subprocess.Popen[str], lines: deque[str]) -> None:
    assert process.stdout is not None
    for line in process.stdout:
        lines.append(line.rstrip())


def _connect(address: str | None) -> Any:
    """Connect to a cluster or start one; return the module ``ray``."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    # When a node dies, Ray prints its log and more. One message suffices: that the task is started again.
    noise = "Raylet is terminated|A worker died or was killed|has been marked dead"
    os.environ.setdefault("RAY_DEDUP_LOGS_SKIP_REGEX", noise)
    try:
        import ray
    except ImportError as error:
        raise UserError("--on ray needs Ray: pip install 'mcurl[ray]'") from error
    address = address or os.environ.get("RAY_ADDRESS") or "local"
    options: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
    if address == "local":
        options |= {
            "num_cpus": available_cores(),
            "include_dashboard": False,
            "object_store_memory": _OBJECT_STORE_BYTES,
        }
    elif address != "auto":
        _check_address(address)
    try:
        ray.init(address, **options)
    except (ConnectionError, RuntimeError, ValueError) as error:
        reason = str(error).strip().partition("\n")[0]
        raise UserError(f"cannot connect to the Ray cluster {address}: {reason}") from error
    return ray


def _check_address(address: str) -> None:
    """Raise UserError if nothing listens at an address. Ray itself would try for two minutes, and then exit."""
    host, _, port = address.rpartition(":")
    if not host or not port.isdecimal() or "/" in address:
        raise UserError(f"--address must be host:port, auto or local, not {address!r}")
    try:
        socket.create_connection((host.strip("[]"), int(port)), _CONNECT_SECONDS).close()
    except (OSError, OverflowError) as error:
        raise UserError(f"no Ray cluster answers at {address}: {error}") from error


def _fitting(node: Mapping[str, float], run: Mapping[str, float]) -> int:
    """How many runs a node can train at a time."""
    return int(min(node.get(name, 0) / amount for name, amount in run.items() if amount))


def _count(number: float, unit: str) -> str:
    """
    >>> _count(1, "GPU"), _count(0.25, "GPU"), _count(8.0, "CPU")
    ('1 GPU', '0.25 GPUs', '8 CPUs')
    """
    return f"{number:g} {unit}{'' if number == 1 else 's'}"
