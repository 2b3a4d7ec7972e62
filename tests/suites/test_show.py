"""What a suite's folders say, how long the rest takes, and how it is shown."""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console

from mcurl.bench import runs as bench_runs
from mcurl.cli import main
from mcurl.run.folder import Run
from mcurl.run.provenance import machine_metadata
from mcurl.suites import hours
from mcurl.suites.display import PoolDisplay
from mcurl.suites.pool import Entry
from mcurl.suites.status import RunStatus, State, read_status
from mcurl.suites.suite import Suite, SuiteRun

Capture = pytest.CaptureFixture[str]
SUITE = """
title = "A toy"
source = "nowhere"
tasks = ["toy/reach", "toy/catch"]
seeds = [1, 2]
env_steps = 1000
[arm.mcurl]
label = "M-CURL"
method = "mcurl"
[arm.little]
method = "mcurl"
settings.mcurl.mask_rate = 0.1
"""


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    Path("toy.toml").write_text(SUITE)
    return tmp_path


@pytest.fixture
def runs() -> list[SuiteRun]:
    return Suite.load("toy.toml").runs()


def make(run: SuiteRun, env_steps: int, *, final: bool = False, every: int = 500) -> Run:
    """A run folder without training; open, and so locked."""
    folder = Run.create(Path("runs"), run.settings.to_json(), name=run.arm.name)
    for steps in range(every, env_steps + 1, every):
        folder.log(steps, {"rl/loss": 1.0})
        folder.log(steps, {"episode/return": steps / 100, "episode/length": 25})
        folder.log_evaluation(steps, [steps / 100, steps / 100 + 1])
        folder.checkpoint(steps, {}, policy={} if final and steps + every > env_steps else None)
        folder.log_speed(steps, {"env_steps_per_second": 20.0})
    return folder


def test_states(runs: list[SuiteRun]) -> None:
    run, out = runs[0], Path("runs")
    assert read_status(run, out) == RunStatus(State.WAITING)
    opened = make(run, 500)
    assert read_status(run, out) == RunStatus(State.RUNNING, 500, 500, 5.5, 5.0)
    opened.log(600, {"rl/loss": 1.0})
    with (opened.folder / "metrics.jsonl").open("a") as file:
        file.write('{"env_steps": 700, "half')
    assert read_status(run, out).env_steps == 600
    opened.close()
    assert read_status(run, out) == RunStatus(State.STOPPED, 600, 500, 5.5, 5.0)
    finished = make(runs[1], 1000, final=True)
    finished.close()
    assert read_status(runs[1], out) == RunStatus(State.FINISHED, 1000, 1000, 10.5)
    for checkpoint in finished.checkpoints():  # their files may be deleted; the scores remain
        (checkpoint.folder / "state.json").unlink()
    assert read_status(runs[1], out) == RunStatus(State.FINISHED, 1000, None, 10.5)


def test_a_run_that_was_killed_in_its_last_save_is_not_finished(runs: list[SuiteRun]) -> None:
    """Its score is there, but no checkpoint is or was."""
    with make(runs[0], 0) as run:
        run.log_evaluation(1000, [10.5])
        assert run.resumable
    assert read_status(runs[0], Path("runs")).state is State.STOPPED


def test_a_run_that_was_extended_is_finished_with_its_first_score(runs: list[SuiteRun]) -> None:
    with make(runs[0], 1000, final=True) as run:
        run.log_evaluation(2000, [99.0])
        run.checkpoint(2000, {})
        assert read_status(runs[0], Path("runs")) == RunStatus(State.FINISHED, 1000, 2000, 10.5)


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"env_steps": 500}, "is another run: its env_steps is 500, not 1000; use another --out"),
        ({"method": "evil:Class"}, "is another run: its method is evil:Class, not mcurl"),
        ({"sac": {"batch_size": 7}}, "is another run: its sac.batch_size is 7, not 32"),
        ({"evaluation": {"episodes": 1}}, "is another run: its evaluation.episodes is 1, not 10"),
        ({"sac": {"no_such": 7}}, "there is no setting sac.no_such"),
        ({"compute": {"threads": 3}, "checkpoint": {"every": 7}}, ""),
        (None, "settings.json cannot be read: No such file or directory; a copy is in"),
    ],
)
def test_a_folder_of_another_run(runs: list[SuiteRun], change: dict[str, object] | None, expected: str) -> None:
    with make(runs[0], 500) as run:
        path = run.folder / "settings.json"
        if change is None:
            path.unlink()
        else:
            values = json.loads(path.read_text())
            for key, value in change.items():
                values[key] = values[key] | value if isinstance(value, dict) else value
            path.write_text(json.dumps(values))
    status = read_status(runs[0], Path("runs"))
    assert status.state is (State.FAILED if expected else State.STOPPED)
    assert expected in status.reason


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("evaluations.csv", "env_steps,episode,return\n100,0\n"),
        ("evaluations.csv", "env_steps,episode,return\nmuch,0,1\n"),
        ("evaluations.csv", b"\xff\xfe\n\n"),
        ("run.json", "[1]"),
        ("settings.json", "{"),
    ],
)
def test_a_damaged_folder_is_reported_and_stops_nothing(runs: list[SuiteRun], name: str, text: str | bytes) -> None:
    with make(runs[0], 500) as run:
        path = run.folder / name
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    status = read_status(runs[0], Path("runs"))
    assert status.state is State.FAILED
    assert str(run.folder) in status.reason
    assert "\n" not in status.reason


@pytest.mark.parametrize("text", ['{"env_steps": null}\n', "[1]\n", "{", "[" * 10_000 + "\n"])
def test_progress_that_cannot_be_read_is_that_of_the_checkpoint(runs: list[SuiteRun], text: str) -> None:
    with make(runs[0], 500) as run:
        (run.folder / "metrics.jsonl").write_text(text)
    status = read_status(runs[0], Path("runs"))
    assert (status.state, status.env_steps) == (State.STOPPED, 500)


def test_list_counts_the_suites(capsys: Capture) -> None:
    assert main(["suite", "list"]) == 0
    out = capsys.readouterr().out
    assert [line.split()[:6] for line in out.splitlines() if line.startswith("table1 ")] == [
        ["table1", "3", "26", "5", "400k", "390"]
    ]


def test_show_says_what_is_there(capsys: Capture, runs: list[SuiteRun]) -> None:
    assert main(["suite", "show", "toy.toml", "--jobs", "1"]) == 0
    out = capsys.readouterr().out
    assert "2 arms × 2 tasks × 2 seeds = 8 runs, 8,000 env steps" in out
    assert "in runs: 8 not begun" in out
    assert "unknown time left, 1 at a time on this machine; --measure times 4 kinds of run" in out
    assert not Path("runs").exists()
    make(runs[0], 1000, final=True).close()
    make(runs[1], 500).close()
    assert main(["suite", "show", "toy.toml"]) == 0
    out = capsys.readouterr().out
    assert "in runs: 6 not begun, 1 stopped, 1 finished" in out
    lines = {line.split()[0]: line.split() for line in out.splitlines() if line}
    assert lines["mcurl"] == ["mcurl", "1/4", "M-CURL", "mcurl"]
    assert lines["little"] == ["little", "0/4", "+1", "begun", "little", "mcurl", "mcurl.mask_rate=0.1"]
    assert lines["toy/reach"] == ["toy/reach", "1/2", "0/2", "+1", "begun"]
    assert main(["suite", "show", "toy.toml", "--tasks", "reach", "--methods", "mcurl", "--seeds", "1"]) == 0
    assert "nothing is left to do" in capsys.readouterr().out


def test_show_names_the_folders_that_cannot_be_used(capsys: Capture, runs: list[SuiteRun]) -> None:
    with make(runs[0], 500) as run:
        (run.folder / "settings.json").write_text("{}")
    assert main(["suite", "show", "toy.toml"]) == 0
    out = capsys.readouterr().out
    assert "1 cannot be used" in out
    assert "settings.json is damaged: env_steps is missing" in out
    assert main(["suite", "show", "toy.toml", "--tasks", "reach", "--methods", "mcurl", "--seeds", "1"]) == 0
    assert "nothing can be done in this folder, see below" in capsys.readouterr().out


def test_a_pipe_has_complete_rows_unless_its_width_is_given(capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    for width, longest in ((None, 120), ("80", 80)):
        monkeypatch.setenv("COLUMNS", width) if width else monkeypatch.delenv("COLUMNS", raising=False)
        assert main(["suite", "list"]) == 0
        lengths = [len(line.rstrip()) for line in capsys.readouterr().out.splitlines()]
        assert 70 < max(lengths) <= longest


def test_hours_come_from_runs_on_this_machine(runs: list[SuiteRun], monkeypatch: pytest.MonkeyPatch) -> None:
    with make(runs[0], 500) as run:
        threads = {"threads": hours.threads(2)}
        run.record_compute(threads)
        assert hours.speeds(runs, Path("runs"), 2) == {hours.kind(runs[0]): 0.05}
        assert hours.kind(runs[0]) == hours.kind(replace(runs[0], seed=7)) != hours.kind(runs[1])
        with monkeypatch.context() as patch:
            patch.setattr(hours, "available_cores", lambda: 64)  # other threads, another speed
            assert hours.speeds(runs, Path("runs"), 2) == {}
        values = json.loads((run.folder / "run.json").read_text())
        (run.folder / "run.json").write_text(json.dumps(values | {"cpu": "another"}))
        assert machine_metadata()["cpu"] != "another"
        assert hours.speeds(runs, Path("runs"), 2) == {}


def test_a_measurement_is_remembered(capsys: Capture, runs: list[SuiteRun], monkeypatch: pytest.MonkeyPatch) -> None:
    lines: list[tuple[Sequence[str], int]] = []

    def time_intervals(arguments: Sequence[str], seeds: int, intervals: int) -> list[float]:
        lines.append((arguments, seeds))
        return [30.0, 60.0]

    monkeypatch.setattr(bench_runs, "time_intervals", time_intervals)
    line = ["suite", "show", "toy.toml", "--jobs", "2", "--tasks", "reach", "--methods", "mcurl"]
    assert main([*line, "--measure"]) == 0
    [(arguments, seeds)] = lines
    assert seeds == 2
    assert arguments[0] == "toy/reach"
    assert f"checkpoint.every={hours.OTHER_AGENT_STEPS}" in arguments
    # 45 s for 300 steps; 2 runs of 1000 steps, 2 at a time.
    expected = f"about {round(45 / hours.OTHER_AGENT_STEPS * 1000 / 60)} min left, 2 at a time"
    assert expected in capsys.readouterr().out
    assert main(line) == 0
    assert expected in capsys.readouterr().out
    assert main([*line, "--seeds", "1,2,3"]) == 0  # the third waits for one of the others
    assert f"about {round(2 * 45 / hours.OTHER_AGENT_STEPS * 1000 / 60)} min left" in capsys.readouterr().out
    assert main([*line, "--jobs", "1"]) == 0
    assert "unknown time left" in capsys.readouterr().out
    Path("cache/mcurl/speed.json").write_text("[1]")
    assert main(line) == 0
    assert "unknown time left" in capsys.readouterr().out


def test_a_measurement_on_atari_counts_frames(runs: list[SuiteRun], monkeypatch: pytest.MonkeyPatch) -> None:
    """The second interval, which is timed, has an update at each agent step."""
    arguments: list[str] = []
    monkeypatch.setattr(bench_runs, "time_intervals", lambda line, seeds, intervals: [arguments.extend(line), 12.0][1:])
    run = Suite.load("mini-atari").runs(["Krull"], ["mcurl"], [1])[0]
    assert hours.measure(run, 1) == 12.0 / (4 * hours.AGENT_STEPS["atari"])
    values = dict(word.split("=") for word in arguments if "=" in word)
    interval = int(values["checkpoint.every"])
    assert int(values["rainbow.learning_starts"]) * 4 < interval == 4 * hours.AGENT_STEPS["atari"]


def test_a_measurement_that_fails_is_one_line(capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    def time_intervals(arguments: Sequence[str], seeds: int, intervals: int) -> list[float]:
        raise RuntimeError("a run ended early with exit status 2")

    monkeypatch.setattr(bench_runs, "time_intervals", time_intervals)
    assert main(["suite", "show", "toy.toml", "--measure"]) == 2
    assert "toy/reach mcurl seed 2 cannot be timed: a run ended early" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("show", "SUITE"),
        ("run", "SUITE"),
        ("rum", "suite: unknown action 'rum': did you mean run?"),
        ("show tabel1", "there is no suite 'tabel1': did you mean table1?"),
        ("show toy.toml --task reach", "unknown option --task: did you mean --tasks?"),
        ("run toy.toml --tasks reech", "toy has no task 'reech': did you mean reach?"),
        ("run toy.toml --methods littl", "toy has no arm 'littl': did you mean little?"),
        ("run toy.toml --seeds 1,x", "expected an integer from 0, not 'x'"),
        ("run toy.toml --seeds 9223372036854775808", "the seed must be an integer from 0 to"),
        ("run toy.toml --jobs 0", "expected an integer from 1, not '0'"),
    ],
)
def test_a_mistake_is_one_line(capsys: Capture, line: str, expected: str) -> None:
    assert main(["suite", *line.split()]) == 2
    err = capsys.readouterr().err
    assert expected in err
    assert err.count("\n") == 1
    assert not Path("runs").exists()


def entries(name: str = "figure3") -> list[Entry]:
    """Runs in all states."""
    statuses = [
        RunStatus(State.FINISHED, 500_000, 500_000, 823.4, None),
        RunStatus(State.STOPPED, 120_000, 120_000, 312.0, 2.0),
        RunStatus(State.RUNNING, 123_456, 120_000, 12_345.6, 3.0),
        RunStatus(State.WAITING),
    ]
    runs = Suite.load(name).runs()
    found = [Entry(run, statuses[number % 4]) for number, run in enumerate(runs)]
    for entry in found[2::8]:
        entry.own = True
    found[3].failure = "signal 9"
    return found


def text_of(display: PoolDisplay, width: int, height: int) -> str:
    console = Console(width=width, height=height, file=io.StringIO(), highlight=False)
    display.console = console
    console.print(display.table())
    file = console.file
    assert isinstance(file, io.StringIO)
    return file.getvalue()


@pytest.mark.parametrize(("width", "height"), [(80, 24), (60, 24), (100, 40), (160, 50)])
def test_the_table_fits_the_terminal(width: int, height: int) -> None:
    display = PoolDisplay("figure3: 240 runs", "runs", 2, console=Console(file=io.StringIO()))
    display.entries = entries()
    text = text_of(display, width, height)
    lines = text.splitlines()
    assert len(lines) < height
    assert max(map(len, lines)) <= width
    for word in ("running", "failed", "60 of 240 finished", "and "):
        assert word in text
    if width >= 80:
        assert "12346" in text
        assert "123k" in text
    assert ("episode" in text) == (width >= 100)


def test_a_small_suite_is_shown_whole_and_in_order() -> None:
    display = PoolDisplay("figure4b", "runs", 2, console=Console(file=io.StringIO()))
    display.entries = entries("figure4b-small")
    text = text_of(display, 80, 30)
    rows = [line.split()[:3] for line in text.splitlines() if "-50k" in line]
    assert rows[:4] == [
        ["mcurl-50k", "1", "finished"],
        ["sym-curl-50k", "1", "stopped"],
        ["seq-curl-50k", "1", "running"],
        ["curl-50k", "1", "failed"],
    ]
    assert len(rows) == 12
    assert rows[6] == ["seq-curl-50k", "2", "elsewhere"]
    assert "task" not in text


def test_without_a_terminal_there_are_plain_lines() -> None:
    now, file = [0.0], io.StringIO()
    console = Console(file=file, width=80)
    shown = entries("figure4b-small")[:4]
    with PoolDisplay("small", "runs", 2, console=console, every=60, clock=lambda: now[0]) as display:
        display.event(shown[0], "started")
        display.update(shown)
        now[0] = 61
        display.update(shown)
        display.update(shown)
    assert file.getvalue().splitlines() == [
        "small: 2 at a time, in runs",
        "dmc/cartpole-swingup mcurl-50k seed 1: started",
        "dmc/cartpole-swingup seq-curl-50k seed 1: running · 123,456/50,000 env steps · evaluation 12346",
        "1 of 4 finished · 1 running · 1 failed · 1 stopped",
        "1 of 4 finished · 1 running · 1 failed · 1 stopped",
    ]


def test_on_a_terminal_events_stand_above_the_table() -> None:
    file = io.StringIO()
    console = Console(file=file, force_terminal=True, width=80, height=24, _environ={"TERM": "xterm"})
    shown = entries("figure4b-small")
    with PoolDisplay("small", "runs", 2, console=console) as display:
        display.update(shown)
        display.event(shown[0], "finished, mean return 823.4")
        display.message("Saving all runs")
        display.update(shown)
    text = file.getvalue()
    assert text.index("mcurl-50k seed 1: finished, mean return 823.4") < text.index("Saving all runs")
    assert "sym-curl-50k" in text.rpartition("Saving all runs")[2]
    assert "3 of 12 finished" in text
