"""Whatever stands in settings, files and command lines: it works, or there is one line that says what is wrong.

``make fuzz`` gives these tests random inputs, ``tests/attacks/guided.py`` those of a coverage-guided fuzzer, and
``MCURL_FUZZ_EXAMPLES=5000`` more of Hypothesis's own.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from attacks.inputs import changed_bytes, changed_trees, json_bytes, texts, values
from gymnasium.spaces import Box
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import mcurl
from mcurl import cli
from mcurl.agents.base import Clock
from mcurl.config.resolve import resolve
from mcurl.config.settings import TrainSettings, known_settings
from mcurl.config.tasks import read_toml
from mcurl.errors import UserError
from mcurl.export.folder import make_config
from mcurl.recording import Recording
from mcurl.recording import read as read_recording
from mcurl.report import collect, contents, store
from mcurl.report.runs import read_run, read_runs
from mcurl.report.table import overview
from mcurl.report.text import report_markdown
from mcurl.run.checkpoint import load_tree, save_tree
from mcurl.run.folder import Run
from mcurl.suites.suite import Suite
from mcurl.verify import scores as verify_scores

EXAMPLES = int(os.environ.get("MCURL_FUZZ_EXAMPLES", "25"))
fuzz = settings(deadline=None, suppress_health_check=list(HealthCheck), max_examples=EXAMPLES)
LONGEST = 5000
"""Longest message in characters."""
SETTINGS = resolve("toy/reach").to_json()
KEYS = sorted(known_settings(resolve("toy/reach").parts))
METADATA = {
    "format": "mcurl-run",
    "name": "mcurl",
    "label": "M-CURL",
    "mcurl": "0.1.0",
    "commit": "abc",
    "dirty": False,
    "torch": "2.13",
    "python": "3.11",
    "packages": {"torch": "2.13"},
    "cpu": "x",
    "gpu": None,
    "cores": 2,
    "command": ["mcurl", "train"],
    "started_at": "2026-01-01T00:00:00+00:00",
    "resumed": [{"commit": "d", "packages": {"torch": "2.14"}}],
    "compute": {"threads": 2, "device": "cpu"},
    "environment": {},
}
EVALUATIONS = b"env_steps,episode,return\n0,0,1.5\n0,1,2.5\n100000,0,3.5\n100000,1,4.25\n"
METRICS = b'{"env_steps": 10, "loss": 0.5}\n{"env_steps": 20, "episode/return": 1.5, "episode/length": 10.0}\n'
SPEED = b'{"env_steps": 10, "seconds": 1.0, "env_steps_per_second": 10.0}\n'
TABLE = b"seed,env_steps,episode,return,episodes\n1,0,0,1.5,1\n1,100000,0,2.5,1\n2,0,,1.5,10\n2,100000,,2.5,10\n"
NOTE = {f"seed {seed}": {"settings": SETTINGS, "note": "n", "budget": 100000, "label": "M-CURL"} for seed in (1, 2)}
_, RECORDING, ACTIONS = (
    Recording(
        task="toy/reach",
        method="mcurl",
        env=SETTINGS["env"],
        seed=1,
        env_steps=100,
        parallel=1,
        max_episode_steps=9,
        policy="0",
        build={"python": "3"},
        seeds=(5, 6),
        lengths=(2, 1),
        returns=(1.0, 2.0),
        actions=np.zeros((3, 2), np.float32),
        states=None,
    )
    .to_bytes()
    .split(b"\n", 2)
)
CONFIG = make_config(SETTINGS, Clock(10, 5, 1, 100), (9, 24, 24), Box(-1, 1, (2,), np.float32), mcurl="0.1.0")
PRESET = b"""
[sac]
hidden = 32
layers = 4
[mcurl]
mask_rate = 0.5
mask = "block"
[env]
image_size = 50
"""
SUITE = b"""
title = "t"
source = "s"
tasks = ["toy/reach"]
seeds = [1, 2]
env_steps = 1000
score_at = [500, 1000]
[settings]
sac.hidden = 32
[arm.mcurl-x]
method = "mcurl"
label = "x"
settings.mcurl.mask_rate = 0.3
"""


def one_line(function: Callable[[], object]) -> None:
    """Call a function. It returns, or raises a UserError of one line that a terminal can show."""
    with contextlib.redirect_stderr(io.StringIO()) as stderr, contextlib.redirect_stdout(io.StringIO()):
        try:
            function()
        except UserError as error:
            message = str(error)
            assert message.isprintable(), message
            assert 0 < len(message) <= LONGEST
    assert all(line.isprintable() for line in stderr.getvalue().splitlines())


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))


@contextlib.contextmanager
def folder() -> Iterator[Path]:
    """A new folder, in which nothing outside is written."""
    with tempfile.TemporaryDirectory(dir=".") as name:
        yield Path(name, "inside")
        assert [path.name for path in Path(name).iterdir()] in ([], ["inside"])


# Settings

keys = st.one_of(st.sampled_from(KEYS), st.sampled_from(KEYS).map(lambda key: f"{key}.x"), texts)


@fuzz
@given(st.lists(st.builds("{}={}".format, keys, texts) | texts, max_size=3))
def test_overrides(overrides: list[str]) -> None:
    one_line(lambda: resolve("toy/reach", overrides=overrides))


@fuzz
@given(st.dictionaries(keys, values, max_size=3))
def test_values_from_python(changed: dict[str, Any]) -> None:
    one_line(lambda: resolve("toy/reach", values=changed))


@fuzz
@given(texts, texts, texts | st.none(), st.integers(), texts | st.none())
def test_arguments(task: str, method: str, agent: str | None, seed: int, env_steps: str | None) -> None:
    one_line(lambda: resolve(task, "mcurl"))
    one_line(lambda: resolve("toy/reach", method, agent=agent, seed=seed, env_steps=env_steps))


@fuzz
@given(changed_bytes(PRESET))
def test_presets(data: bytes) -> None:
    with folder() as path:
        path.write_bytes(data)
        one_line(lambda: resolve("toy/reach", preset=str(path)))


@fuzz
@given(changed_trees(SETTINGS))
def test_settings_of_runs(tree: Any) -> None:
    """Nothing is imported because of them, either."""
    before = set(sys.modules)
    one_line(lambda: TrainSettings.from_json(tree) if isinstance(tree, dict) else None)
    assert not any("no_such" in name or name.startswith("evil") for name in set(sys.modules) - before)


@fuzz
@given(changed_bytes(SUITE))
def test_suites(data: bytes) -> None:
    with folder() as path:
        path.mkdir()
        (path / "mine.toml").write_bytes(data)

        def use() -> None:
            read_toml(path / "mine.toml")
            for run in Suite.load(path / "mine.toml").runs()[:3]:
                str(run.settings.name), run.folder(path), run.arguments(path), run.resume_arguments(path)

        one_line(use)


# Run folders

FILES: dict[str, bytes] = {
    "settings.json": json.dumps(SETTINGS).encode(),
    "run.json": json.dumps(METADATA).encode(),
    "evaluations.csv": EVALUATIONS,
    "metrics.jsonl": METRICS,
    "speed.jsonl": SPEED,
    "lock": b"process 1 on x, 00",
}


def write_run(path: Path, **changed: bytes) -> Path:
    for name, data in (FILES | {key.replace("_", ".", 1): value for key, value in changed.items()}).items():
        path.mkdir(parents=True, exist_ok=True)
        (path / name).write_bytes(data)
    return path


def read_everything(run: Path) -> None:
    one_line(lambda: read_run(run))
    for use in (
        lambda opened: opened.settings,
        lambda opened: (opened.name, opened.env_steps, opened.sinks, opened.resumable, opened.locked),
        lambda opened: opened.command("resume"),
        lambda opened: opened.metrics(),
        lambda opened: opened.evaluations(),
        lambda opened: opened.latest_checkpoint(),
        lambda opened: opened.check_budget(None),
    ):
        one_line(lambda use=use: use(Run.open(run)))  # type: ignore[misc]
    one_line(lambda: verify_scores.find([run]))


@fuzz
@given(changed_trees(SETTINGS), changed_trees(METADATA))
def test_run_folders_with_other_settings(changed: Any, metadata: Any) -> None:
    with folder() as path:
        read_everything(write_run(path, settings_json=json_bytes(changed)))
        read_everything(write_run(path, settings_json=FILES["settings.json"], run_json=json_bytes(metadata)))


@fuzz
@given(st.sampled_from(sorted(FILES)), st.data())
def test_run_folders_with_damaged_files(name: str, data: st.DataObject) -> None:
    with folder() as path:
        write_run(path)
        (path / name).write_bytes(data.draw(changed_bytes(FILES[name])))
        read_everything(path)


@fuzz
@given(changed_trees(SETTINGS), changed_trees(METADATA), changed_bytes(EVALUATIONS))
def test_a_bad_run_does_not_stop_the_report_of_a_good_one(changed: Any, metadata: Any, evaluations: bytes) -> None:
    with folder() as path:
        write_run(path / "good")
        write_run(path / "bad1", settings_json=json_bytes(changed))
        write_run(path / "bad2", run_json=json_bytes(metadata), settings_json=json_bytes(SETTINGS | {"seed": 2}))
        write_run(path / "bad3", evaluations_csv=evaluations, settings_json=json_bytes(SETTINGS | {"seed": 3}))
        with contextlib.redirect_stderr(io.StringIO()):
            assert any(run.seed == 1 and run.source == path / "good" for run in read_runs([path]))
        one_line(lambda: report_of(store.read([path])))


def report_of(runs: Any) -> None:
    overview(runs)
    report_markdown(contents.report(runs, [], None, "mcurl report"))


# Results


@fuzz
@given(changed_bytes(TABLE), changed_trees(NOTE))
def test_stores(table: bytes, note: Any) -> None:
    with folder() as path:
        cell = path / "toy" / "mcurl"
        cell.mkdir(parents=True)
        for data, about in ((table, NOTE), (TABLE, note)):
            (cell / "reach.csv").write_bytes(data)
            (cell / "reach.json").write_bytes(json_bytes(about))
            one_line(lambda: report_of(store.read([path])))
            one_line(lambda: verify_scores.find([path]))
        one_line(lambda: collect.add(path, [read_run(write_run(path.with_name("inside") / "run"))]))
        assert all(path in found.parents or found == path for found in path.parent.rglob("*"))


@fuzz
@given(changed_bytes(b"mcurl-episodes 1 " + b"0" * 64 + b"\n{}\n"))
def test_recordings(data: bytes) -> None:
    with folder() as path:
        path.write_bytes(data)
        one_line(lambda: read_recording(path))


@fuzz
@given(changed_trees(json.loads(RECORDING)), changed_bytes(ACTIONS))
def test_recordings_with_a_right_checksum(header: Any, blocks: bytes) -> None:
    for rest in (json_bytes(header) + b"\n" + ACTIONS, RECORDING + b"\n" + blocks):
        with folder() as path:
            path.write_bytes(b"mcurl-episodes 1 %s\n%s" % (hashlib.sha256(rest).hexdigest().encode(), rest))
            one_line(lambda path=path: read_recording(path))  # type: ignore[misc]


# Checkpoints and exported policies


@fuzz
@given(st.data())
def test_checkpoints(data: st.DataObject) -> None:
    import torch

    tree = {"agent": {"w": torch.ones(2, 3)}, 1: [np.arange(3), (True, None, 2**70, float("inf"))], "n": np.float32(1)}
    with folder() as path:
        path.mkdir()
        save_tree(path, tree)
        document = json.loads((path / "state.json").read_bytes())
        changed = data.draw(changed_trees(document["tree"]))
        with contextlib.suppress(ValueError):
            import zlib

            document |= {"tree": changed, "tree_crc32": zlib.crc32(json.dumps(changed).encode())}
            (path / "state.json").write_bytes(json.dumps(document).encode())
            one_line(lambda: load_tree(path))


@fuzz
@given(changed_trees(CONFIG))
def test_exported_policies(config: Any) -> None:
    with folder() as path:
        path.mkdir()
        save_tree(path, {"actor": {}}, "model")
        (path / "config.json").write_bytes(json_bytes(config))
        one_line(lambda: mcurl.load(path))


# Command lines

WORDS = (
    *("resume", "evaluate", "watch", "report", "collect", "verify", "table", "settings", "tasks", "suite", "bench"),
    *("show", "--out", "--set", "--seed", "--method", "--agent", "--env-steps", "--import", "--suite", "--results"),
    *("--json", "--checkpoint", "--episodes", "--preset", "--table", "--name", "toy/reach", "dmc", "run", "x.csv"),
)
SAFE = ("resume", "evaluate", "report", "collect", "verify", "table", "settings", "tasks", ":", "", "help", "x")
"""Commands that neither train nor measure without a run."""


def is_word(text: str) -> bool:
    """Whether a text can be a word of a command line: bytes without 0, decoded as Python does."""
    try:
        return b"\0" not in os.fsencode(text)
    except UnicodeEncodeError:
        return False


@fuzz
@given(st.sampled_from(SAFE), st.lists(st.sampled_from(WORDS) | texts.filter(is_word), max_size=5))
def test_command_lines(command: str, words: list[str]) -> None:
    with folder() as path:
        write_run(path / "run")
        out, err = io.StringIO(), io.StringIO()
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err), contextlib.chdir(path):
            try:
                status = cli.main([command, *words])
            except SystemExit as end:  # of --help and --version
                status = end.code or 0
        lines = err.getvalue().splitlines()
        assert status in (0, 1, 2)
        assert all(line.isprintable() for line in lines)
        assert status != 2 or len([line for line in lines if not line.startswith("mcurl: skipped")]) == 1, lines
        for name in os.listdir(path):
            if name != "run":
                shutil.rmtree(path / name, ignore_errors=True)
