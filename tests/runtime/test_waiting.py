"""OpenMP threads sleep while other processes use the cores, and wait awake again afterwards."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import pytest

from mcurl import native
from mcurl.native import teams
from mcurl.runtime import waiting
from mcurl.runtime.waiting import BUSY, FREE, INTERVAL, AdaptiveWaiting


class Machine:
    """A clock, and the time that threads have waited for a core."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = self.waited = 0.0
        self.open: list[int] = []
        monkeypatch.setattr(waiting.time, "monotonic", lambda: self.now)
        monkeypatch.setattr(waiting, "_waited", lambda: self.waited)
        monkeypatch.setattr(teams, "available", lambda: True)
        monkeypatch.setattr(teams, "open_team", self.open.append)

    def after(self, seconds: float, share: float) -> None:
        self.now += seconds
        self.waited += share * seconds


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Machine:
    return Machine(monkeypatch)


def test_sleeps_while_others_use_the_cores(machine: Machine) -> None:
    adaptive = AdaptiveWaiting(2)
    states = []
    for share in (0.05, BUSY - 0.01, 0.8, 0.5, FREE + 0.01, 0.03, 0.03, 0.9):
        machine.after(INTERVAL, share)
        adaptive.check()
        states.append(adaptive.asleep)
    assert states == [False, False, True, True, True, False, False, True]
    adaptive.close()
    assert not adaptive.asleep
    cores = len(os.sched_getaffinity(0))
    assert machine.open == [max(cores - 2, 0) + 2] * 2


def test_measures_over_an_interval(machine: Machine) -> None:
    adaptive = AdaptiveWaiting(2)
    for _ in range(4):
        machine.after(INTERVAL / 5, 1.0)
        adaptive.check()
        assert not adaptive.asleep
    machine.after(INTERVAL, 1.0)
    adaptive.check()
    assert adaptive.asleep
    adaptive.close()


def test_one_thread_waits_for_none(machine: Machine) -> None:
    adaptive = AdaptiveWaiting(1)
    machine.after(1.0, 1.0)
    adaptive.check()
    assert not adaptive.asleep


def test_switched_off_it_has_no_effect() -> None:
    with native.without_operations({"teams"}, "off"):
        adaptive = AdaptiveWaiting(2)
    adaptive._since = adaptive._since and (0.0, -1e9)
    adaptive.check()
    assert not adaptive.asleep


@pytest.mark.skipif(not teams.available(), reason="no compiler")
def test_the_team_ends_with_its_thread() -> None:
    def tasks() -> set[str]:
        return {path.name for path in Path("/proc/self/task").iterdir()}

    before = tasks()  # other threads of the tests may end meanwhile: only new ones count
    adaptive = AdaptiveWaiting(2)
    adaptive._sleep()
    team = tasks() - before
    assert len(team) >= 2
    adaptive.close()
    for _ in range(500):
        if not team & tasks():
            return
        threading.Event().wait(0.01)
    pytest.fail(f"{len(team & tasks())} threads did not end")


def test_waiting_for_a_core_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(waiting, "TASKS", tmp_path)
    assert waiting._waited() == 0
    for task, waited in (("1", 1_500_000_000), ("2", 250_000_000)):
        (tmp_path / task).mkdir()
        (tmp_path / task / "schedstat").write_text(f"123 {waited} 7\n")
    assert waiting._waited() == 1.75
