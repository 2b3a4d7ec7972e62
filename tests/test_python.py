"""``import mcurl``: training, callbacks, policies and environments from Python."""

from __future__ import annotations

import ast
import os
import random
import re
import signal
import subprocess
import sys
import threading
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch

import mcurl
import mcurl.gymnasium
from mcurl import native, policy
from mcurl.config.resolve import resolve, resolve_env
from mcurl.run.display import Display
from mcurl.runtime.device import ComputeSettings, prepare
from mcurl.runtime.signals import Interrupted
from mcurl.training import evaluations

SMALL: dict[str, Any] = {
    "sac": {"batch_size": 4, "hidden": 16, "filters": 4, "learning_starts": 20},
    "evaluation": {"every": 20, "episodes": 2},
    "checkpoint.every": 40,
    "compute.precision": "fp32",
    "compute.threads": 1,
}
STEPS = 60
DOCS = Path(__file__).parents[1] / "docs"


def small(task: str = "toy/reach", **changes: Any) -> mcurl.RunResult:
    """A run of 60 steps in the current folder."""
    arguments: dict[str, Any] = {"method": "rl-only", "env_steps": STEPS, "settings": SMALL, "progress": False}
    return mcurl.train(task, **{**arguments, "name": "run", **changes})


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


class Recorder(mcurl.Callback):
    def __init__(self, stop_at: int = -1, exception: Exception | None = None) -> None:
        self.stop_at, self.exception = stop_at, exception
        self.calls: list[tuple[str, int]] = []
        self.means: list[float] = []

    def on_evaluation(self, progress: mcurl.Progress) -> None:
        self.calls.append(("evaluation", progress.env_steps))
        self.means.append(progress.mean_return)
        if progress.env_steps == self.stop_at:
            if self.exception:
                raise self.exception
            progress.stop("not promising")

    def on_checkpoint(self, progress: mcurl.Progress) -> None:
        self.calls.append(("checkpoint", progress.env_steps))
        assert (progress.folder / "checkpoints" / f"{progress.env_steps:09d}" / "state.json").exists()


class Do(mcurl.Callback):
    """Calls a function after the evaluation at a step."""

    def __init__(self, env_steps: int, function: Callable[[], object]) -> None:
        self.env_steps, self.function = env_steps, function

    def on_evaluation(self, progress: mcurl.Progress) -> None:
        if progress.env_steps == self.env_steps:
            self.function()


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture(scope="module")
def recorder() -> Recorder:
    return Recorder()


@pytest.fixture(scope="module")
def finished(recorder: Recorder, tmp_path_factory: pytest.TempPathFactory) -> mcurl.RunResult:
    return small(out=tmp_path_factory.mktemp("finished"), callbacks=[recorder])


# The package


def test_importing_the_package_imports_no_library() -> None:
    code = (
        "import sys, mcurl; assert not {'torch', 'numpy', 'gymnasium', 'rich'} & set(sys.modules); "
        "assert set(mcurl.__all__) <= set(dir(mcurl)); mcurl.Callback; assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_type_checkers_see_the_names_that_there_are() -> None:
    tree = ast.parse(Path(mcurl.__file__).read_text())
    (checking,) = (node for node in tree.body if isinstance(node, ast.If))
    seen = {alias.name: node.module for node in checking.body for alias in node.names}  # type: ignore[attr-defined]
    assert seen == mcurl._HOMES  # type: ignore[attr-defined]
    assert sorted(seen) == sorted(mcurl.__all__)
    for name in mcurl.__all__:
        assert getattr(mcurl, name).__name__ == name
        assert getattr(mcurl, name).__doc__


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'trian'"):
        mcurl.trian  # type: ignore[attr-defined] # noqa: B018


# Training


def test_a_result_says_what_the_folder_holds(finished: mcurl.RunResult) -> None:
    assert (finished.name, finished.env_steps, finished.budget, finished.stopped) == ("run", STEPS, STEPS, "")
    assert finished.settings["task"] == "toy/reach"
    assert list(finished.evaluations) == [0, 20, 40, 60]
    assert finished.score == pytest.approx(np.mean(finished.evaluations[STEPS]))
    assert mcurl.RunResult(finished.folder) == finished
    with pytest.raises(mcurl.UserError, match="is not a run folder"):
        mcurl.RunResult(Path("nowhere")).score  # noqa: B018


def test_callbacks_are_called_at_evaluations_and_checkpoints(finished: mcurl.RunResult, recorder: Recorder) -> None:
    assert recorder.calls == [
        *(("evaluation", 0), ("evaluation", 20), ("evaluation", 40)),
        *(("checkpoint", 40), ("evaluation", 60), ("checkpoint", 60)),
    ]
    assert recorder.means == [pytest.approx(np.mean(returns)) for returns in finished.evaluations.values()]


def test_a_stopped_run_goes_on_exactly(finished: mcurl.RunResult) -> None:
    recorder, later = Recorder(stop_at=20), Recorder()
    stopped = small(callbacks=[recorder])
    assert (stopped.stopped, stopped.env_steps) == ("not promising", 20)
    assert recorder.calls == [("evaluation", 0), ("evaluation", 20), ("checkpoint", 20)]
    resumed = mcurl.resume(stopped, callbacks=[later], progress=False)
    assert (resumed.stopped, resumed.env_steps) == ("", STEPS)
    assert later.calls[0] == ("evaluation", 40)
    assert resumed.evaluations == finished.evaluations
    with pytest.raises(mcurl.UserError, match="is complete with 60 env steps"):
        mcurl.resume(resumed)


def test_a_stop_at_a_checkpoint_saves_once(monkeypatch: pytest.MonkeyPatch) -> None:
    class StopThere(Recorder):
        def on_checkpoint(self, progress: mcurl.Progress) -> None:
            super().on_checkpoint(progress)
            progress.stop()

    recorder = StopThere()
    result = small(callbacks=[recorder])
    assert (result.stopped, result.env_steps) == ("stopped by a callback", 40)
    assert [call for call in recorder.calls if call[0] == "checkpoint"] == [("checkpoint", 40)]


def test_an_exception_of_a_callback_reaches_the_caller_and_the_run_can_go_on() -> None:
    with pytest.raises(ZeroDivisionError):
        small(callbacks=[Recorder(stop_at=20, exception=ZeroDivisionError())])
    result = mcurl.resume("runs/toy-reach/run-seed1", progress=False)
    assert result.env_steps == STEPS


@pytest.mark.parametrize(
    "settings",
    [
        {"mcurl.mask_rate": 0.3, "mcurl.length": 4},
        {"mcurl": {"mask_rate": 0.3, "length": "4"}},
        {"mcurl": {"mask_rate": np.float32(0.3).astype(np.float64).round(3)}, "mcurl.length": np.int64(4)},
    ],
)
def test_settings_are_flat_or_nested(settings: dict[str, Any]) -> None:
    resolved = resolve("toy/reach", values=settings)
    assert (resolved.objective_settings.mask_rate, resolved.objective_settings.length) == (0.3, 4)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"settings": {"sac": {"batchsize": 4}}}, "did you mean sac.batch_size?"),
        ({"settings": {"sac.batch_size": "big"}}, "sac.batch_size is a whole number"),
        ({"settings": {"seed": 2}}, "seed is not a setting: pass it as seed="),
        ({"settings": {1: 2}}, "the name of a setting is text, not 1"),
        ({"settings": ["sac.batch_size=4"]}, "settings are a dict"),
        ({"method": "crul"}, "did you mean curl?"),
        ({"callbacks": [Recorder]}, "a class: make an object of it"),
        ({"callbacks": [print]}, "callbacks are objects of subclasses of mcurl.Callback"),
        ({"callbacks": Recorder()}, "callbacks are a list of objects"),
        ({"callbacks": None}, "callbacks are a list of objects"),
        ({"log": ["tensorbord"]}, "did you mean tensorboard?"),
        ({"log": "tensorboard"}, 'log is a list such as ["tensorboard"], not '),
        ({"log": [3]}, "log is a list"),
        ({"task": None}, "task is text, not None"),
        ({"method": mcurl.MCurl}, "method is text, not <class"),
        ({"agent": 3}, "agent is text, not 3"),
        ({"name": 3}, "name is text, not 3"),
        ({"seed": None}, "seed is a whole number"),
        ({"seed": [1, 2]}, "seed is a whole number"),
        ({"seed": 1.5}, "seed is a whole number"),
        ({"seed": True}, "the seed must be an integer from 0"),
        ({"seed": "1"}, "the seed must be an integer from 0"),
        ({"out": None}, "out is a path, not None"),
        ({"out": ""}, "out is empty: write a path"),
        ({"preset": {"a": 1}}, "preset is a path, not {'a': 1}"),
        ({"preset": Path("no.toml")}, "there is no preset 'no.toml'"),
        ({"name": "a/b"}, "a name has letters"),
        ({"env_steps": "many"}, "env_steps is a whole number"),
    ],
)
def test_mistakes_are_user_errors_and_leave_nothing(here: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(mcurl.UserError) as error:
        small(**changes)
    assert message in str(error.value)
    assert "\n" not in str(error.value)
    assert list(here.iterdir()) == []


def test_progress_is_plain_lines_or_nothing(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")  # as some notebooks have it
    small(progress=True, env_steps=5)
    out = capsys.readouterr().out
    assert "evaluation  " in out
    assert "\x1b" not in out
    small(seed=2, env_steps=5)
    assert capsys.readouterr().out == ""


# The process


def process_state() -> dict[str, Any]:
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    names = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "OMP_NUM_THREADS")
    return {
        "handlers": handlers,
        "threads": torch.get_num_threads(),
        "torch": torch.get_rng_state().tolist(),
        "numpy": np.random.get_state()[1].tolist(),  # type: ignore[index,union-attr]
        "random": random.getstate(),
        "native": native.disabled(),
        "environment": {name: os.environ.get(name) for name in names},
        "running": [thread.name for thread in threading.enumerate()],
    }


def in_thread(function: Callable[[], object]) -> list[Any]:
    """What a function returned or raised in a thread of its own."""
    outcome: list[Any] = []

    def work() -> None:
        try:
            outcome.append(function())
        except BaseException as error:
            outcome.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    return outcome


@pytest.mark.parametrize("run", [lambda function: [function()], in_thread], ids=["main thread", "other thread"])
def test_a_run_leaves_the_process_as_it_was(run: Callable[[Any], list[Any]], finished: mcurl.RunResult) -> None:
    torch.manual_seed(7)
    before = process_state()
    [result] = run(lambda: small(env_steps=25, settings={**SMALL, "compute.native": "off", "compute.threads": 2}))
    assert isinstance(result, mcurl.RunResult), result
    assert process_state() == before
    [returns] = run(lambda: mcurl.load(finished).evaluate(1))
    assert len(returns) == 1
    assert process_state() == before


def test_one_run_at_a_time_in_a_process() -> None:
    outcomes: list[Any] = []
    small(callbacks=[Do(20, lambda: outcomes.extend(in_thread(lambda: small(seed=2))))])
    [error] = outcomes
    assert isinstance(error, mcurl.UserError)
    assert "another run trains in this process" in str(error)
    assert small(seed=2, env_steps=5).env_steps == 5


def test_an_interrupt_saves_the_run_first() -> None:
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        small(callbacks=[Do(20, lambda: os.kill(os.getpid(), signal.SIGINT))])
    assert signal.getsignal(signal.SIGINT) == before
    stopped = mcurl.RunResult(Path("runs/toy-reach/run-seed1"))
    assert stopped.env_steps == 20
    assert mcurl.resume(stopped, progress=False).env_steps == STEPS


def test_a_stop_after_an_evaluation_is_saved_also_right_after_a_resume(monkeypatch: pytest.MonkeyPatch) -> None:
    """Else a run that each evaluation stops makes the same evaluation for ever."""
    evaluate = evaluations.evaluate_policy

    def interrupted(*arguments: Any, **options: Any) -> Any:
        if arguments[2].env_steps == 20:
            monkeypatch.setattr(evaluations, "evaluate_policy", evaluate)
            raise Interrupted(0, "asked")  # as by a stop in the middle of an evaluation
        return evaluate(*arguments, **options)

    monkeypatch.setattr(evaluations, "evaluate_policy", interrupted)
    result = small()
    assert (result.env_steps, list(result.evaluations)) == (20, [0])
    seen = []
    for _ in range(3):
        result = mcurl.resume(result, callbacks=[StopAtOnce()], progress=False)
        seen.append(max(result.evaluations))
    assert seen == [20, 40, 60]


class StopAtOnce(mcurl.Callback):
    def on_evaluation(self, progress: mcurl.Progress) -> None:
        progress.stop("enough")


def test_a_signal_reaches_the_handler_of_the_program() -> None:
    seen: list[int] = []
    before = signal.signal(signal.SIGTERM, lambda number, frame: seen.append(number))
    try:
        result = small(callbacks=[Do(20, lambda: os.kill(os.getpid(), signal.SIGTERM))])
    finally:
        signal.signal(signal.SIGTERM, before)
    assert seen == [signal.SIGTERM]
    assert (result.stopped, result.env_steps) == (f"stopped by signal {signal.SIGTERM:d}", 20)


class TerminateAtTheEnd(mcurl.Callback):
    def on_checkpoint(self, progress: mcurl.Progress) -> None:
        if progress.env_steps == STEPS:
            signal.raise_signal(signal.SIGTERM)


def test_a_signal_while_the_end_is_saved_reaches_the_handler_too() -> None:
    seen: list[int] = []
    before = signal.signal(signal.SIGTERM, lambda number, frame: seen.append(number))
    try:
        result = small(callbacks=[TerminateAtTheEnd()])
    finally:
        signal.signal(signal.SIGTERM, before)
    assert seen == [signal.SIGTERM]
    assert (result.stopped, result.env_steps) == ("", STEPS)


def test_after_an_earlier_checkpoint_progress_leaves_out_what_came_later(monkeypatch: pytest.MonkeyPatch) -> None:
    result = small(settings=SMALL | {"checkpoint.every": 20})
    seen: list[list[int]] = []
    load = Display.load_evaluations
    monkeypatch.setattr(Display, "load_evaluations", lambda self, e: (seen.append(list(e)), load(self, e))[1])
    mcurl.resume(result, checkpoint=40, env_steps=80)
    assert seen == [[0, 20, 40]]


def test_a_run_that_is_refused_leaves_no_thread() -> None:
    before = set(threading.enumerate())
    for _ in range(2):
        with pytest.raises(mcurl.UserError):
            small(settings=SMALL | {"replay.capacity": 3})
    assert set(threading.enumerate()) == before


# Policies


def test_a_policy_plays_the_final_evaluation_and_changes_nothing(finished: mcurl.RunResult) -> None:
    before = contents(finished.folder)
    loaded = mcurl.load(str(finished.folder))
    assert loaded.evaluate().tolist() == finished.evaluations[STEPS]
    assert loaded.evaluate(3, seed=5).shape == (3,)
    assert (loaded.task, loaded.env_steps, loaded.settings) == ("toy/reach", STEPS, finished.settings)
    assert contents(finished.folder) == before
    with pytest.raises(mcurl.UserError, match="episodes must be at least 1"):
        loaded.evaluate(0)


@pytest.mark.parametrize(("task", "shape"), [("toy/reach", (2,)), ("toy/catch", ())])
def test_it_acts_on_one_observation_or_many(task: str, shape: tuple[int, ...], finished: mcurl.RunResult) -> None:
    rainbow = {"rainbow": {"batch_size": 4, "hidden": 8}, "compute.precision": "fp32", "evaluation.episodes": 1}
    result = finished if task == "toy/reach" else small(task, env_steps=5, settings=rainbow)
    loaded = mcurl.load(result)
    with loaded.env(seed=3) as env:
        assert env.observation_space.shape == loaded.observation_shape
        assert env.action_space == loaded.action_space
        observation, _ = env.reset()
        action = loaded.act(observation)
        assert action.shape == shape
        assert env.action_space.contains(action)
        env.step(action)
    batch = loaded.act(np.stack([observation, observation[::-1]]))
    assert batch.shape == (2, *shape)
    assert np.allclose(batch[0], action)


@pytest.mark.parametrize(
    ("observation", "message"),
    [
        (np.zeros((28, 28, 9), np.uint8), r"is uint8 \[9, 28, 28\], or \[N, ...\] of them, not uint8 \[28, 28, 9\]"),
        (np.zeros((9, 28, 28), np.float32), r"is uint8 \[9, 28, 28\], not float32"),
        (np.zeros((1, 1, 9, 28, 28), np.uint8), "of them, not uint8"),
        ([1, 2], "of them, not int64"),
    ],
)
def test_an_observation_of_another_kind_is_refused(observation: Any, message: str, finished: mcurl.RunResult) -> None:
    with pytest.raises(mcurl.UserError, match=message):
        mcurl.load(finished).act(observation)


def test_a_policy_keeps_the_precision_that_it_was_loaded_with(
    finished: mcurl.RunResult, monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded = mcurl.load(finished)
    seen = []
    act = type(loaded._agent).act

    def spy(*arguments: Any, **options: Any) -> Any:
        seen.append(set(native.disabled()))
        return act(*arguments, **options)

    monkeypatch.setattr(type(loaded._agent), "act", spy)
    prepare(ComputeSettings(precision="bf16", threads=1))
    loaded.act(np.zeros((9, 28, 28), np.uint8))
    assert seen == [set(native.AMX)]
    assert not native.disabled()


def test_what_can_be_loaded(finished: mcurl.RunResult, here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    loaded = mcurl.load(finished)

    class Exported:
        kind = "an exported folder"

        def recognises(self, folder: Path) -> bool:
            return (folder / "exported").exists()

        def load(self, folder: Path, device: policy.Device) -> mcurl.Policy:
            return loaded

    class Other:
        def load_policy(self, device: policy.Device = "auto") -> mcurl.Policy:
            return loaded

    assert mcurl.load(Other()) is loaded
    (here / "exported").touch()
    with pytest.raises(mcurl.UserError, match="is not a run folder"):
        mcurl.load(here)
    monkeypatch.setattr(policy, "LOADERS", [*policy.LOADERS, Exported()])
    assert mcurl.load(here) is loaded
    for source in (None, 3, b"runs", [here], mcurl.RunResult):
        with pytest.raises(mcurl.UserError, match="what is loaded is a path, not"):
            mcurl.load(source)  # type: ignore[arg-type]
    with pytest.raises(mcurl.UserError, match=r"did you mean cuda\?"):
        mcurl.load(finished, device="cudda")  # type: ignore[arg-type]


def test_numpy_integers_are_integers(finished: mcurl.RunResult) -> None:
    result = small(env_steps=np.int64(20), seed=np.int64(7), name="numpy")
    assert (result.settings["seed"], result.env_steps) == (7, 20)
    assert len(mcurl.load(finished).evaluate(np.int64(1))) == 1  # type: ignore[arg-type]
    assert mcurl.make_env("toy/reach", seed=np.int64(7)).reset()[0].dtype == np.uint8  # type: ignore[arg-type]
    with pytest.raises(mcurl.UserError, match="episodes is a whole number"):
        mcurl.load(finished).evaluate(1.5)  # type: ignore[arg-type]
    with pytest.raises(mcurl.UserError, match="run is a path, not None"):
        mcurl.resume(None)  # type: ignore[arg-type]
    for seed in ("a", None, -1):
        with pytest.raises(mcurl.UserError, match="seed"):
            mcurl.make_env("toy/reach", seed=seed)  # type: ignore[arg-type]


@pytest.mark.parametrize("seed", ["x", -1, 1.5, [1]])
def test_a_seed_of_a_policy_is_checked(seed: Any, finished: mcurl.RunResult) -> None:
    policy = mcurl.load(finished)
    for use in (lambda: policy.env(seed=seed), lambda: policy.evaluate(1, seed=seed)):
        with pytest.raises(mcurl.UserError, match="seed"):
            use()


def test_no_observations_have_no_actions_and_lists_of_unequal_lengths_are_refused(finished: mcurl.RunResult) -> None:
    policy = mcurl.load(finished)
    assert policy.act(np.zeros((0, *policy.observation_shape), np.uint8)).shape == (0, 2)
    with pytest.raises(mcurl.UserError, match="is one array"):
        policy.act([[1], [1, 2]])  # type: ignore[arg-type]


def test_messages_name_the_arguments_of_python(finished: mcurl.RunResult, here: Path) -> None:
    with pytest.raises(mcurl.UserError, match="use a larger env_steps= to continue"):
        mcurl.resume(finished)
    (here / "runs" / "toy-reach" / "taken-seed1").mkdir(parents=True)
    with pytest.raises(mcurl.UserError, match="another seed=, name= or out="):
        mcurl.train("toy/reach", name="taken", out=here / "runs")


def test_a_run_without_a_checkpoint_has_no_policy(finished: mcurl.RunResult, here: Path) -> None:
    with pytest.raises(ZeroDivisionError):
        small(callbacks=[Recorder(stop_at=0, exception=ZeroDivisionError())])
    with pytest.raises(mcurl.UserError, match="has no checkpoint yet"):
        mcurl.load("runs/toy-reach/run-seed1")


# Environments


@pytest.mark.parametrize(
    "task", ["dmc/cartpole-swingup", "dmc/finger-spin", "dmc/quadruped-run", "atari/Pong", "toy/catch"]
)
def test_an_environment_is_that_of_a_run(task: str) -> None:
    assert resolve_env(task, {}) == resolve(task).env


def test_make_env_takes_the_settings_of_the_environment() -> None:
    with mcurl.make_env("toy/reach", seed=5, action_repeat="3", frame_stack=np.int64(2)) as env:
        assert (env.get_wrapper_attr("action_repeat"), env.observation_space.shape) == (3, (6, 28, 28))
        first, _ = env.reset()
    with mcurl.make_env("toy/reach", seed=5, frame_stack=2) as env:
        assert np.array_equal(first, env.reset()[0])
    with pytest.raises(mcurl.UserError, match=r"toy has no setting env.image_sise: did you mean image_size\?"):
        mcurl.make_env("toy/reach", image_sise=3)
    with pytest.raises(mcurl.UserError, match=r"env.image_size must be at least 14, not 3"):
        mcurl.make_env("toy/reach", image_size=3)


def test_gymnasium_makes_the_tasks() -> None:
    env = gymnasium.make("mcurl/toy-reach-v0", render_mode="rgb_array", image_size=20)
    observation, _ = env.reset(seed=1)
    assert (observation.shape, observation.dtype) == ((9, 20, 20), np.uint8)
    assert env.render().shape == (20, 20, 3)  # type: ignore[union-attr]
    env.close()
    with pytest.raises(gymnasium.error.Error, match="render_mode is rgb_array, not 'human'"):
        gymnasium.make("mcurl/toy-reach-v0", render_mode="human")
    vector = gymnasium.make_vec("mcurl/toy-reach-v0", num_envs=4, vectorization_mode="sync", image_size=20)
    first, _ = vector.reset()
    assert first.shape == (4, 9, 20, 20)
    assert not all(np.array_equal(first[0], other) for other in first[1:])
    vector.close()


def test_gymnasium_has_all_tasks_of_the_benchmarks() -> None:
    ids = [mcurl.gymnasium.environment_id(task) for task in mcurl.gymnasium.TASKS]
    assert {"mcurl/dmc-cartpole-swingup-v0", "mcurl/atari-Pong-v0", "mcurl/toy-reach-v0"} <= set(ids)
    assert all(gymnasium.spec(id_).kwargs["task"] == task for id_, task in zip(ids, mcurl.gymnasium.TASKS, strict=True))


def test_they_are_no_tasks_of_the_suite_gym() -> None:
    with pytest.raises(mcurl.UserError, match="there is no Gymnasium environment"):
        mcurl.make_env("gym/mcurl/toy-reach-v0")


def test_gymnasium_imports_the_module_by_its_name() -> None:
    code = (
        "import gymnasium, sys; gymnasium.make('mcurl.gymnasium:mcurl/toy-reach-v0').reset(seed=1); "
        "assert not {'torch', 'dm_control', 'ale_py'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


# The pages


def blocks(page: str) -> list[str]:
    return re.findall(r"```python\n(.*?)```", (DOCS / page).read_text(), re.S)


def test_the_pages_use_names_that_there_are() -> None:
    used = {
        node.attr
        for page in ("python.md", "tune.md")
        for block in blocks(page)
        for node in ast.walk(ast.parse(block))
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "mcurl"
    }
    assert used <= {*mcurl.__all__, "gymnasium"}
    assert {"train", "load", "make_env", "Callback"} <= used


@pytest.mark.parametrize("prune_at", [None, 20])
def test_the_optuna_page_prunes(prune_at: int | None, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a stand-in for the one trial; the page was tried with Optuna itself."""

    class Pruned(Exception):  # noqa: N818
        pass

    class Trial:
        number, reported = 7, dict[int, float]()

        def suggest_float(self, name: str, low: float, high: float, *, log: bool = False) -> float:
            return low

        def report(self, value: float, step: int) -> None:
            self.reported[step] = value

        def should_prune(self) -> bool:
            return prune_at in self.reported

    optuna = types.ModuleType("optuna")
    optuna.TrialPruned = Pruned  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "optuna", optuna)
    names: dict[str, Any] = {"__name__": "tune"}
    [code] = blocks("tune.md")
    exec(code, names)
    trial, settings = Trial(), {**SMALL, "mcurl.batch": 2, "mcurl.length": 4}
    if prune_at is None:
        score = names["objective"](trial, env_steps=STEPS, settings=settings)
        assert score == trial.reported[STEPS]
    else:
        with pytest.raises(Pruned):
            names["objective"](trial, env_steps=STEPS, settings=settings)
    assert mcurl.RunResult(Path("tuning/toy-reach/trial7-seed1")).env_steps == (prune_at or STEPS)
