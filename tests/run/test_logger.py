"""Means of what is logged, and where it goes: the run folder, the display, TensorBoard, a user's own sink."""

from __future__ import annotations

import io
import json
import math
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from rich.console import Console
from torch._subclasses.fake_tensor import FakeTensorMode

from mcurl import training
from mcurl.cli import main
from mcurl.config import resolve as config
from mcurl.errors import UserError
from mcurl.run.display import Display
from mcurl.run.folder import Run
from mcurl.run.logger import (
    DisplaySink,
    Logger,
    NotFinite,
    RunFolderSink,
    Sink,
    SpeedMeter,
    TensorBoardSink,
    check_sinks,
    make_sinks,
)

SETTINGS = {"task": "toy/reach", "method": "mcurl", "seed": 1, "env_steps": 100}
TINY = [
    *(
        "--name",
        "mcurl",
        "--threads",
        "1",
        "--set",
        "compute.precision=fp32",
        "evaluation.episodes=2",
        "evaluation.every=30",
    ),
    *("checkpoint.every=30", "sac.batch_size=4", "sac.hidden=16", "sac.filters=4", "sac.learning_starts=20"),
    *("mcurl.batch=2", "mcurl.length=4"),
]
Points = dict[str, list[tuple[int, float]]]


class Recorder(Sink):
    """Notes every call in a list that several may share."""

    def __init__(self, calls: list[tuple[Any, ...]], name: str = "own") -> None:
        self.calls, self.name = calls, name

    def metrics(self, env_steps: int, values: Mapping[str, float]) -> None:
        self.calls.append((self.name, "metrics", env_steps, dict(values)))

    def episode(self, env_steps: int, return_: float, length: int) -> None:
        self.calls.append((self.name, "episode", env_steps, return_, length))

    def evaluation(self, env_steps: int, returns: Sequence[float]) -> None:
        self.calls.append((self.name, "evaluation", env_steps, returns))

    def speed(self, env_steps: int, values: Mapping[str, float]) -> None:
        self.calls.append((self.name, "speed", env_steps, dict(values)))

    def progress(self, env_steps: int, updates: int) -> None:
        self.calls.append((self.name, "progress", env_steps, updates))

    def message(self, text: str) -> None:
        self.calls.append((self.name, "message", text))

    def rewind(self, env_steps: int) -> None:
        self.calls.append((self.name, "rewind", env_steps))

    def flush(self) -> None:
        self.calls.append((self.name, "flush"))

    def close(self) -> None:
        self.calls.append((self.name, "close"))


class RecordedRun(Recorder, RunFolderSink):
    pass


class RecordedDisplay(Recorder, DisplaySink):
    pass


def call_all(logger: Logger) -> None:
    logger.add({"loss": torch.tensor(2.0)}, 1, 4)
    logger.episode(8, 1.5, 2)
    logger.evaluation(8, np.array([1 / 3, 2.0]))
    logger.speed(8, {"seconds": 1.5})
    logger.progress(8, 1)
    logger.message("hello")
    logger.rewind(4)
    logger.flush()
    logger.close()


# Means


def test_means_go_on_after_a_checkpoint() -> None:
    logger = Logger([])
    value = torch.tensor(1.0)
    logger.add({"a": value}, 1, 1)
    value.fill_(100.0)  # as the next replay of a graph does
    state = logger.state_dict()
    logger.add({"a": torch.tensor(5.0)}, 2, 2)
    again = Logger([])
    again.load_state_dict(state)
    again.add({"a": torch.tensor(3.0)}, 2, 2)
    assert logger.pop_means() == {"a": 3.0}
    assert again.pop_means() == {"a": 2.0}
    assert again.pop_means() == {}


def test_a_checkpoint_of_the_host_goes_on_on_a_gpu() -> None:
    with FakeTensorMode():
        logger = Logger([])
        logger.load_state_dict({"sums": {"a": torch.zeros(())}, "counts": {"a": 1}})
        logger.add({"a": torch.ones((), device="cuda")}, 1, 1)
        assert logger.state_dict()["sums"]["a"].device.type == "cuda"


def test_means_are_float32_sums_over_counts_bit_for_bit() -> None:
    values = np.random.default_rng(0).normal(size=(100, 2)).astype(np.float32)
    calls: list[tuple[Any, ...]] = []
    logger = Logger([Recorder(calls)])
    for update, (a, b) in enumerate(values, 1):
        # b is not in every update, and comes in another precision; both carry a gradient.
        metrics = {"a": torch.tensor(a, requires_grad=True)}
        if update % 3 == 0:
            metrics["b"] = torch.tensor(b, dtype=torch.float64, requires_grad=True)
        logger.add(metrics, update, 4 * update)
    sums = [np.float32(0), np.float32(0)]
    for update, (a, b) in enumerate(values, 1):
        sums[0] = sums[0] + a
        sums[1] = sums[1] + b if update % 3 == 0 else sums[1]
    assert calls == [("own", "metrics", 400, {"a": float(sums[0]) / 100, "b": float(sums[1]) / 33})]


def test_means_come_every_so_many_updates_since_the_run_began() -> None:
    calls: list[tuple[Any, ...]] = []
    logger = Logger([Recorder(calls)], every=4)
    for update in range(3, 13):
        logger.add({"a": torch.tensor(float(update))}, update, 10 * update)
    assert calls == [
        ("own", "metrics", env_steps, {"a": mean}) for env_steps, mean in [(40, 3.5), (80, 6.5), (120, 10.5)]
    ]


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_what_is_not_finite_is_refused_before_any_sink_sees_it(value: float) -> None:
    calls: list[tuple[Any, ...]] = []
    logger = Logger([Recorder(calls)], every=2)
    logger.add({"fine": torch.tensor(1.0), "loss": torch.tensor(value)}, 1, 1)
    with pytest.raises(NotFinite, match=f"^loss is {value}$") as raised:
        logger.add({"fine": torch.tensor(1.0), "loss": torch.tensor(1.0)}, 2, 2)
    assert raised.value.name == "loss"
    assert raised.value.value == pytest.approx(value, nan_ok=True)
    assert calls == []


# Sinks


def test_a_sink_may_override_what_it_wants() -> None:
    call_all(Logger([Sink()], every=1))


def test_the_run_folder_comes_first_then_the_display_then_the_others() -> None:
    calls: list[tuple[Any, ...]] = []
    sinks = [Recorder(calls, "a"), RecordedDisplay(calls, "display"), Recorder(calls, "b"), RecordedRun(calls, "run")]
    call_all(Logger(sinks, every=1))
    heard = [
        ("metrics", 4, {"loss": 2.0}),
        ("episode", 8, 1.5, 2),
        ("evaluation", 8, [1 / 3, 2.0]),
        ("speed", 8, {"seconds": 1.5}),
        ("progress", 8, 1),
        ("message", "hello"),
        ("rewind", 4),
        ("flush",),
        ("close",),
    ]
    assert calls == [(name, *call) for call in heard for name in ("run", "display", "a", "b")]


def test_a_sink_that_raises_is_heard_after_the_run_folder_has_its_line(tmp_path: Path) -> None:
    class Broken(Sink):
        def metrics(self, env_steps: int, values: Mapping[str, float]) -> None:
            raise ZeroDivisionError

        def close(self) -> None:
            raise ZeroDivisionError

    calls: list[tuple[Any, ...]] = []
    with Run.create(tmp_path, SETTINGS) as run:
        logger = Logger([Broken(), Recorder(calls), RunFolderSink(run)], every=1)
        with pytest.raises(ZeroDivisionError):
            logger.add({"loss": torch.tensor(2.0)}, 1, 4)
        assert run.metrics() == [(4, {"loss": 2.0})]
        with pytest.raises(ZeroDivisionError):
            logger.close()
    assert calls == [("own", "close")]


def test_the_run_folder_gets_the_lines_that_it_always_had(tmp_path: Path) -> None:
    with Run.create(tmp_path, SETTINGS) as run:
        call_all(Logger(make_sinks(run, None), every=1))
        assert (run.folder / "metrics.jsonl").read_text() == (
            '{"env_steps": 4, "loss": 2.0}\n{"env_steps": 8, "episode/return": 1.5, "episode/length": 2}\n'
        )
        assert (run.folder / "evaluations.csv").read_text() == (
            "env_steps,episode,return\n8,0,0.3333333333333333\n8,1,2.0\n"
        )
        assert (run.folder / "speed.jsonl").read_text() == '{"env_steps": 8, "seconds": 1.5}\n'
        run.log(9, {"x": 1.0})  # closing the logger leaves the run open


def test_the_display_shows_everything_but_speed() -> None:
    out = io.StringIO()
    display = Display(100, "title", console=Console(file=out, width=80))
    with display:
        call_all(Logger([DisplaySink(display)], every=1))
    assert (display.env_steps, display.metrics, list(display.returns)) == (8, {"loss": 2.0}, [1.5])
    assert display.evaluations == [(8, pytest.approx(7 / 6), pytest.approx(5 / 6))]
    assert display._updates.newest[1] == 1
    assert "hello\n" in out.getvalue()


def test_sinks_by_name(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    with Run.create(tmp_path, SETTINGS) as run, Display(100, "title") as display:
        sinks = make_sinks(run, display, ["tensorboard", "tensorboard"])
        assert [type(sink) for sink in sinks] == [RunFolderSink, DisplaySink, TensorBoardSink]
        Logger(sinks).close()
        with pytest.raises(UserError, match="unknown log 'tensorbord': did you mean tensorboard"):
            make_sinks(run, display, ["tensorbord"])


def test_a_missing_package_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    for attempt in (lambda: check_sinks(["tensorboard"]), lambda: TensorBoardSink(tmp_path)):
        with pytest.raises(UserError, match=r"pip install 'mcurl\[tensorboard\]'") as raised:
            attempt()
        assert "\n" not in str(raised.value)
    assert not (tmp_path / "tensorboard").exists()


# TensorBoard


def points(folder: Path) -> Points:
    """What TensorBoard would draw: tag -> (step, value), by its own reader."""
    module = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    everything = {"size_guidance": {"scalars": 0}, "purge_orphaned_data": False}
    reader = module.EventAccumulator(str(folder / "tensorboard"), **everything)
    reader.Reload()
    return {tag: sorted((event.step, event.value) for event in reader.Scalars(tag)) for tag in reader.Tags()["scalars"]}


def logged(run: Run) -> Points:
    """The same of the run's logs, in the precision of an event file."""
    found: Points = {}
    for env_steps, values in run.metrics():
        for name, value in values.items():
            found.setdefault(name, []).append((env_steps, float(np.float32(value))))
    for env_steps, returns in run.evaluations().items():
        for name, value in (("return", np.mean(returns)), ("return_std", np.std(returns))):
            found.setdefault(f"evaluation/{name}", []).append((env_steps, pytest.approx(float(value), rel=1e-6)))
    return found


def log_steps(logger: Logger, steps: range, slope: float = 1 / 3) -> None:
    for step in steps:
        logger.add({"loss": torch.tensor(step * slope), "contrast/accuracy": torch.tensor(slope)}, step, 4 * step)
        if step % 5 == 0:
            logger.episode(4 * step, step * slope, 5)
        if step % 10 == 0:
            logger.evaluation(4 * step, [step * slope, step + 1.0])


def test_tensorboard_has_the_points_of_the_logs(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    with Run.create(tmp_path, SETTINGS) as run:
        logger = Logger(make_sinks(run, None, ["tensorboard"]), every=2)
        log_steps(logger, range(1, 31))
        logger.flush()
        expected = logged(run)
        assert points(run.folder) == expected
        assert set(expected) == {
            *("loss", "contrast/accuracy", "episode/return", "episode/length"),
            *("evaluation/return", "evaluation/return_std"),
        }
        assert [step for step, _ in expected["evaluation/return"]] == [40, 80, 120]
        logger.close()


@pytest.mark.parametrize("before", [True, False], ids=["from the beginning", "added at the resume"])
def test_tensorboard_after_a_resume_has_no_point_twice_or_from_another_branch(tmp_path: Path, before: bool) -> None:
    pytest.importorskip("tensorboard")
    with Run.create(tmp_path, SETTINGS) as run:
        folder = run.folder
        logger = Logger(make_sinks(run, None, ["tensorboard"] if before else []), every=2)
        log_steps(logger, range(1, 13))
        checkpoint = run.checkpoint(48, {"a": 1})
        log_steps(logger, range(13, 31), slope=-1.0)  # taken back
        logger.close()
    with (folder / "metrics.jsonl").open("a") as file:
        file.write('{"env_steps": 1')  # as a kill leaves it
    for _ in range(2):
        with Run.open(folder, train=True) as run:
            logger = Logger(make_sinks(run, None, ["tensorboard"]), every=2)
            run.rewind(checkpoint)
            logger.rewind(48)
            log_steps(logger, range(13, 21))
            logger.close()
            found = points(folder)
            assert found == logged(run)
        assert len(list((folder / "tensorboard").iterdir())) == 1
        assert [step for step, _ in found["loss"]] == list(range(8, 84, 8))
        assert all(value > 0 for _, value in found["loss"])


def test_tensorboard_leaves_files_of_others(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    folder = tmp_path / "tensorboard"
    names = ("notes.txt", "events.out.tfevents.1.host.2.0", "sub/events.out.tfevents.1.host.2.0.mcurl")
    foreign = [folder / name for name in names]
    (folder / "sub").mkdir(parents=True)
    for path in foreign:
        path.write_text("mine")
    for _ in range(2):
        sink = TensorBoardSink(tmp_path)  # of a folder without logs
        sink.rewind(0)
        sink.close()
        sink.close()
    assert [path.read_text() for path in foreign] == ["mine"] * 3
    assert len([path for path in folder.iterdir() if path.is_file()]) == 3


def test_a_damaged_log_leaves_the_old_event_files(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    settings = {"task": "toy/reach", "method": "mcurl", "seed": 1, "env_steps": 10}
    with Run.create(tmp_path, settings) as run:
        run.log(1, {"a": 2})
        run.log(2, {"a": 3})
        run.checkpoint(2, {})
        TensorBoardSink(run.folder).close()
        before = list((run.folder / "tensorboard").iterdir())
        path = run.folder / "metrics.jsonl"
        path.write_text(path.read_text().replace('{"env_steps": 2', "nonsense"))
        with pytest.raises(UserError, match=r"metrics.jsonl is damaged in line 2"):
            TensorBoardSink(run.folder)
        assert list((run.folder / "tensorboard").iterdir()) == before


def test_returns_that_are_no_numbers_are_points_all_the_same(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    sink = TensorBoardSink(tmp_path)
    sink.evaluation(4, [math.inf, 1.0])
    sink.close()
    found = points(tmp_path)
    assert found["evaluation/return"] == [(4, math.inf)]
    assert math.isnan(found["evaluation/return_std"][0][1])


# Speed


def test_speed_is_that_of_a_lap() -> None:
    now = 100.0
    meter = SpeedMeter(lambda: now)
    now = 200.0
    meter.start(1000)
    now = 210.0
    assert meter.lap(1500) == {"seconds": 10.0, "env_steps_per_second": 50.0, "hours_per_100k_env_steps": 2000 / 3600}
    now = 211.0
    assert meter.lap(1500) == {}
    now = 213.0
    assert meter.lap(1501)["seconds"] == 2.0


# The run and the command line


def test_a_run_remembers_its_sinks(tmp_path: Path) -> None:
    with Run.create(tmp_path, SETTINGS) as run:
        before = (run.folder / "run.json").read_bytes()
        run.add_sinks([])
        assert (run.folder / "run.json").read_bytes() == before
        assert run.sinks == []
        run.add_sinks(["tensorboard"])
        run.record_resume()
        run.add_sinks(["tensorboard"])
        assert run.sinks == ["tensorboard"]
        assert run.metadata["log"] == ["tensorboard"]
        assert len(run.metadata["resumed"]) == 1


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.usefixtures("here")
@pytest.mark.parametrize("command", ["train toy/reach", "train toy/reach --seed 1,2", "resume runs/x"])
def test_an_unknown_log_is_one_line(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*command.split(), "--log", "tensorbord"]) == 2
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    assert "mcurl: unknown log 'tensorbord': did you mean tensorboard?" in err
    assert list(Path().iterdir()) == []


@pytest.mark.usefixtures("here")
@pytest.mark.parametrize("seeds", ["1", "1,2"])
def test_without_the_package_nothing_is_written(
    seeds: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    assert main(["train", "toy/reach", "--seed", seeds, "--log", "tensorboard"]) == 2
    assert "pip install 'mcurl[tensorboard]'" in capsys.readouterr().err
    assert list(Path().iterdir()) == []


def test_names_of_sinks_are_known_without_torch() -> None:
    code = "import sys, mcurl.run.logger; "
    code += "heavy = {'torch', 'numpy', 'rich', 'tensorboard'} & set(sys.modules); assert not heavy, heavy"
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.usefixtures("here")
@pytest.mark.parametrize("where", ["train", "resume"])
def test_trained_and_resumed_with_tensorboard(where: str, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("tensorboard")
    monkeypatch.setattr("mcurl.training.start.Logger", partial(Logger, every=5))
    option = ["--log", "tensorboard"]
    assert main(["train", "toy/reach", "--env-steps", "60", *(option if where == "train" else []), *TINY]) == 0
    folder = Path("runs/toy-reach/mcurl-seed1")
    assert (folder / "tensorboard").exists() == (where == "train")
    assert main(["resume", str(folder), "--env-steps", "90", *(option if where == "resume" else [])]) == 0
    run = Run.open(folder)
    assert run.sinks == ["tensorboard"]
    assert points(folder) == logged(run)
    assert [step for step, _ in points(folder)["evaluation/return"]] == [0, 30, 60, 90]
    assert {"critic/loss", "episode/return"} <= points(folder).keys()
    assert len(json.loads((folder / "run.json").read_text())["resumed"]) == 1


def wait_for(condition: Callable[[], object], process: subprocess.Popen[bytes], seconds: float = 120) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert process.poll() is None, "the run ended before it could be stopped"
        assert time.monotonic() < end
        time.sleep(0.02)


@pytest.mark.usefixtures("here")
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
def test_after_a_stop_and_a_resume_every_point_is_there_once(number: signal.Signals) -> None:
    """Killed some way beyond a checkpoint, with points that the resumed run takes back and writes again."""
    pytest.importorskip("tensorboard")
    line = ["train", "toy/reach", "--env-steps", "300", "--log", "tensorboard", *TINY, "checkpoint.every=150"]
    folder = Path("runs/toy-reach/mcurl-seed1")
    command = [sys.executable, "-m", "mcurl", *line, "evaluation.every=50"]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        wait_for(lambda: list(folder.glob("checkpoints/0*")), process)
        saved = (folder / "metrics.jsonl").stat().st_size
        wait_for(lambda: Run.open(folder).evaluations().keys() > {150, 200}, process)
        process.send_signal(number)
    assert (folder / "metrics.jsonl").stat().st_size > saved
    run = Run.open(folder)
    abandoned = max(step for step, _ in run.metrics())
    assert (run.latest_checkpoint().env_steps < abandoned) == (number == signal.SIGKILL)
    assert main(["resume", str(folder)]) == 0
    drawn = points(folder)
    assert drawn == logged(run)
    assert [step for step, _ in drawn["evaluation/return"]] == list(range(0, 301, 50))
    assert all(len({step for step, _ in curve}) == len(curve) for curve in drawn.values())
    assert {"critic/loss", "contrast/loss", "episode/return", "evaluation/return_std"} <= drawn.keys()


@pytest.mark.usefixtures("here")
def test_a_users_sink_gets_what_the_run_folder_gets(monkeypatch: pytest.MonkeyPatch) -> None:
    """From Python, without a display."""
    monkeypatch.setattr("mcurl.training.start.Logger", partial(Logger, every=5))
    settings = config.resolve("toy/reach", "mcurl", overrides=["env_steps=90", "compute.threads=1", *TINY[5:]])
    calls: list[tuple[Any, ...]] = []
    with Run.create(Path("runs"), settings.to_json(), label=settings.label) as run:
        training.train(settings, run, [*make_sinks(run, None), Recorder(calls)])
    means = [(step, values) for _, kind, step, values in (c for c in calls if c[1] == "metrics")]
    episodes = [
        (step, {"episode/return": total, "episode/length": length})
        for _, _, step, total, length in (call for call in calls if call[1] == "episode")
    ]
    assert sorted(means + episodes, key=lambda line: line[0]) == sorted(run.metrics(), key=lambda line: line[0])
    assert {call[2]: call[3] for call in calls if call[1] == "evaluation"} == run.evaluations()
    assert [call[2] for call in calls if call[1] == "progress"] == list(range(1, 91))
    speeds = [json.loads(line) for line in (run.folder / "speed.jsonl").read_text().splitlines()]
    assert [{"env_steps": call[2], **call[3]} for call in calls if call[1] == "speed"] == speeds
    assert any(call[2].startswith("toy/reach, mcurl, seed 1: ") for call in calls if call[1] == "message")
    assert [call[1] for call in calls].count("flush") == len(speeds) == 3
    assert calls[-1] == ("own", "close")


@pytest.mark.usefixtures("here")
def test_several_seeds_have_the_option_too() -> None:
    pytest.importorskip("tensorboard")
    line = ["toy/reach", "--env-steps", "40", "--log", "tensorboard", *TINY]
    assert main(["train", *line, "--seed", "1,2"]) == 0
    for seed in (1, 2):
        run = Run.open(Path(f"runs/toy-reach/mcurl-seed{seed}"))
        assert points(run.folder) == logged(run) != {}


@pytest.mark.usefixtures("here")
def test_a_users_sink_that_raises_leaves_a_run_that_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mcurl.training.start.Logger", partial(Logger, every=5))

    class Broken(Recorder):
        def metrics(self, env_steps: int, values: Mapping[str, float]) -> None:
            super().metrics(env_steps, values)
            if env_steps > 50:
                raise ZeroDivisionError

    settings = config.resolve("toy/reach", "mcurl", overrides=["env_steps=90", "compute.threads=1", *TINY[5:]])
    logs, recorded = [], []
    for out in ("whole", "broken"):
        calls: list[tuple[Any, ...]] = []
        with Run.create(Path(out), settings.to_json()) as run, Display(90, "title") as display:
            if out == "whole":
                training.train(settings, run, [*make_sinks(run, display), Recorder(calls)])
            else:
                with pytest.raises(ZeroDivisionError):
                    training.train(settings, run, [*make_sinks(run, display), Broken(calls)])
        assert calls[-1] == ("own", "close")
        if out == "broken":
            with Run.open(run.folder, train=True) as run, Display(90, "title") as display:
                training.resume(run, [*make_sinks(run, display), Recorder(calls)])
        logs.append([(run.folder / name).read_bytes() for name in ("metrics.jsonl", "evaluations.csv")])
        recorded.append(calls)
    assert logs[0] == logs[1]
    whole, broken = recorded
    assert {kind for _, kind, *_ in whole} == {
        *("metrics", "episode", "evaluation", "speed", "progress", "message", "flush", "close")
    }
    repeated = ("metrics", "episode", "evaluation", "progress")
    after = [call for call in broken[broken.index(("own", "rewind", 30)) :] if call[1] in repeated]
    assert after == [call for call in whole if call[1] in repeated and call[2] > 30]
