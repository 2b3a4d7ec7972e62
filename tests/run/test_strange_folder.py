"""A run folder from a stranger: nothing outside is written or deleted, no code of it runs, no name escapes."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from mcurl.cli import main
from mcurl.report.runs import read_run
from mcurl.run.folder import Run
from mcurl.run.folder.documents import Span, seal
from mcurl.run.format import settings_crc32

TINY = [
    *("--env-steps", "40", "--threads", "1", "--set", "env.image_size=28", "sac.crop=24", "sac.batch_size=16"),
    *("sac.hidden=32", "sac.filters=4", "sac.learning_starts=20", "replay.capacity=500", "evaluation.episodes=1"),
    *("evaluation.every=0", "checkpoint.every=20", "compute.device=cpu"),
]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs")
    assert main(["train", "toy/reach", "--method", "rl-only", "--name", "x", "--out", str(folder), *TINY]) == 0
    return folder / "toy-reach" / "x-seed1"


@pytest.fixture
def run(trained: Path, tmp_path: Path) -> Path:
    return shutil.copytree(trained, tmp_path / "run")


@pytest.fixture
def outside(tmp_path: Path) -> Path:
    folder = tmp_path / "outside"
    (folder / "000000020").mkdir(parents=True)
    for name in ("file", "000000020/state.json", "frames-00000.bin", "000000040.episodes", "other.txt"):
        (folder / name).write_text("mine\n")
    return folder


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def put_link(path: Path, target: Path, make: Callable[[Path, Path], None]) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
    make(target, path)


SYMBOLIC: Callable[[Path, Path], None] = os.symlink
HARD: Callable[[Path, Path], None] = os.link


@pytest.mark.parametrize("command", ["resume", "evaluate"])
@pytest.mark.parametrize(
    ("name", "target", "make"),
    [
        *((name, "file", SYMBOLIC) for name in ("lock", "metrics.jsonl", "evaluations.csv", "speed.jsonl", "run.json")),
        *((name, "file", HARD) for name in ("lock", "metrics.jsonl", "evaluations.csv", "replay/frames-00000.bin")),
        *((name, "", SYMBOLIC) for name in ("checkpoints", "replay", "episodes", "results", "checkpoints/000000020")),
        *((name, "file", SYMBOLIC) for name in ("replay/rows-00000.bin", "checkpoints/000000040/state.json")),
        ("checkpoints/.000000040.new", "", SYMBOLIC),
        ("checkpoints/.000000060.old", "", SYMBOLIC),
    ],
)
def test_nothing_is_written_or_deleted_through_a_link(
    run: Path,
    outside: Path,
    capsys: pytest.CaptureFixture[str],
    name: str,
    target: str,
    make: Callable[[Path, Path], None],
    command: str,
) -> None:
    put_link(run / name, outside / target, make)
    before = contents(outside)
    status = main([command, str(run), *(["--env-steps", "60"] if command == "resume" else ["--episodes", "1"])])
    error = capsys.readouterr().err
    assert contents(outside) == before
    if command == "resume":
        assert (status, error.count("\n")) == (2, 1)
        assert name.rpartition("/")[2] in error
        assert "link" in error or "not a run folder" in error


def test_a_run_folder_that_is_a_link_is_trained_and_reported(run: Path, tmp_path: Path) -> None:
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "linked").symlink_to(run)
    assert main(["resume", str(tmp_path / "runs" / "linked"), "--env-steps", "60"]) == 0
    assert (tmp_path / "runs" / "linked").is_symlink()
    assert Run.open(run).latest_checkpoint().env_steps == 60
    assert main(["collect", str(tmp_path / "runs"), "--results", str(tmp_path / "scores")]) == 0


def test_a_result_that_cannot_be_kept_is_shown(run: Path, outside: Path, capsys: pytest.CaptureFixture[str]) -> None:
    put_link(run / "results", outside, SYMBOLIC)
    assert main(["evaluate", str(run), "--episodes", "1"]) == 0
    out, error = capsys.readouterr()
    assert "1 episodes: mean return" in out
    assert error.startswith(f"mcurl: the result is not kept in {run}: ")
    assert error.count("\n") == 1


def readers(run: Path, tmp_path: Path) -> list[list[str]]:
    """Commands that say something of a run, without training it."""
    return [
        ["report", str(run)],
        ["collect", str(run), "--results", str(tmp_path / "scores")],
        ["verify", str(run)],
        ["evaluate", str(run), "--episodes", "1"],
        ["watch", str(run), "--out", str(tmp_path / "video.mp4")],
        ["export", str(run), "--to", str(tmp_path / "policy"), "--no-video"],
    ]


def test_changed_settings_are_named_by_what_only_reads(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = run / "settings.json"
    before = json.loads(path.read_text())
    path.write_text(json.dumps(before | {"seed": 7}))
    for command in readers(run, tmp_path):
        assert main(command) == (1 if command[0] == "verify" else 2), command
        error = capsys.readouterr().err
        named = "settings.json was changed since the checkpoint at 40 env steps: seed is 7, was 1. To put the settings"
        read = command[0] in ("report", "collect", "verify")
        assert (f"{path} was changed since the run began" if read else named) in error
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["run"]
    # A checkpoint of another run, whose settings are its own.
    metadata = json.loads((run / "run.json").read_text())
    (run / "run.json").write_text(seal(metadata | {"settings_crc32": settings_crc32(before | {"seed": 7})}))
    assert main(["evaluate", str(run), "--episodes", "1"]) == 2
    assert "seed is 7, was 1" in capsys.readouterr().err
    # Another number of threads changes no result of these, and the policy of a damaged checkpoint is of use.
    path.write_text(json.dumps(before | {"compute": before["compute"] | {"threads": 2}}))
    (run / "run.json").write_text(seal(metadata))
    (run / "checkpoints" / "000000040" / "settings.json").write_text("{")
    (run / "checkpoints" / "000000040" / "state.safetensors").write_text("")
    assert main(["evaluate", str(run), "--episodes", "1"]) == 0
    assert main(["report", str(run)]) == 0


def test_changed_scores_are_not_reported(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = run / "evaluations.csv"
    before = path.read_bytes()
    for damaged in (before.replace(b".", b".1", 1), before[: before.index(b"\n") + 1], before[:-1]):
        path.write_bytes(damaged)
        for command in readers(run, tmp_path):
            if command[0] in ("report", "collect", "verify", "export"):
                assert main(command) == (1 if command[0] == "verify" else 2), command
                error = capsys.readouterr().err
                assert f"{path} is not as at the checkpoint of 40 env steps: it is damaged" in error
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["run"]
    path.write_bytes(before + b"48,0,1.5\n48")  # of a run that goes on
    assert read_run(run).episodes[48] == [1.5]
    path.write_bytes(before)
    newest = run / "checkpoints" / "000000040" / "manifest.json"
    newest.write_text(newest.read_text().replace("crc32", "crc33"))  # does not vouch for anything any more
    assert main(["report", str(run)]) == 0
    shutil.rmtree(run / "checkpoints")
    assert main(["report", str(run)]) == 0


def test_only_folders_that_a_run_wrote_are_removed(run: Path) -> None:
    for name in ("7", "000000001x", "notes"):
        (run / "checkpoints" / name).mkdir()
        (run / "checkpoints" / name / "kept").write_text("mine")
    (run / "checkpoints" / "000000020").mkdir(exist_ok=True)
    (run / "checkpoints" / "000000020" / "kept").write_text("mine")
    assert main(["resume", str(run), "--env-steps", "100"]) == 0
    assert sorted(path.parent.name for path in run.glob("checkpoints/*/kept")) == [
        *("000000001x", "000000020", "7", "notes"),
    ]


def test_a_checkpoint_cannot_name_other_files_as_its_logs(run: Path, outside: Path) -> None:
    checkpoint = run / "checkpoints" / "000000040"
    manifest = json.loads((checkpoint / "manifest.json").read_text())
    before = contents(outside)
    (checkpoint / "manifest.json").write_text(seal(manifest | {"logs": {"../outside/file": Span().to_json()}}))
    assert main(["resume", str(run), "--env-steps", "60"]) == 2
    (checkpoint / "manifest.json").unlink()  # as older versions wrote it
    (checkpoint / "logs.json").write_text(json.dumps({"../outside/file": 0}))
    assert main(["resume", str(run), "--env-steps", "60"]) == 2
    assert contents(outside) == before


@pytest.mark.parametrize(
    ("file", "key", "value"),
    [
        ("settings.json", "task", "dmc/../../x"),
        ("settings.json", "task", "/etc/x"),
        ("settings.json", "task", "../x/reach"),
        ("settings.json", "method", ".."),
        ("settings.json", "method", "../../x"),
        ("settings.json", "seed", "../../x"),
        ("run.json", "name", "../../x"),
        ("run.json", "name", "/tmp/x"),
    ],
)
def test_a_name_that_is_none_is_refused_before_it_becomes_a_path(
    run: Path, tmp_path: Path, file: str, key: str, value: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (run / file).write_text(json.dumps(json.loads((run / file).read_text()) | {key: value}))
    before = sorted(tmp_path.rglob("*"))
    for command in (
        ["collect", str(run), "--results", str(tmp_path / "scores")],
        ["report", str(run), "--out", str(tmp_path / "report"), "--no-png"],
    ):
        assert main(command) == 2
        assert capsys.readouterr().err.count("\n") == 1
    if file == "settings.json":  # a folder whose scores fail, as a damaged one
        assert main(["verify", str(run)]) == 1
        capsys.readouterr()
    assert sorted(tmp_path.rglob("*")) == before


def test_one_bad_run_does_not_stop_the_report_of_the_others(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bad = [
        ("settings.json", "{" * 5000),
        ("settings.json", json.dumps({"task": "dmc/../../x", "method": "m", "seed": 1, "env_steps": 5})),
        ("evaluations.csv", "env_steps,episode,return\n0,0,nan\n"),
        ("evaluations.csv", "env_steps,episode,return\n0,0,1e300\n"),
        ("run.json", '{"format": "mcurl-run", "packages": 5}'),
    ]
    for number, (file, text) in enumerate(bad):
        shutil.copytree(run, tmp_path / f"bad{number}")
        (tmp_path / f"bad{number}" / file).write_text(text)
    blocking = shutil.copytree(run, tmp_path / "bad-fifo") / "evaluations.csv"
    blocking.unlink()
    os.mkfifo(blocking)
    assert main(["report", str(tmp_path)]) == 0
    out, error = capsys.readouterr()
    assert "reach" in out
    assert error.count("mcurl: skipped:") == error.count("\n") == len(bad) + 1


def test_escape_codes_are_shown(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    evil = "\x1b]0;owned\x07\x1b[31m"
    metadata = json.loads((run / "run.json").read_text()) | {"label": f"M{evil}", "cpu": evil}
    (run / "run.json").write_text(json.dumps(metadata))
    named = tmp_path / f"run{evil}"
    run.rename(named)
    for command in (
        ["report", str(named)],
        ["collect", str(named), "--results", str(tmp_path / "scores"), "--note", evil],
        ["resume", str(named)],
        ["table", "dmc", "--results", str(tmp_path / "scores")],
    ):
        main(command)
    out, error = capsys.readouterr()
    assert "\x1b" not in out + error
    assert "\x07" not in out + error
    assert r"\x1b" in out + error


EVIL = (
    {"method": "evil_code:Loss"},
    {"agent": "evil_code:Agent"},
    {"task": "gym/evil_code:Maze-v0"},
    {"task": "gym/CartPole-v1", "env": {"kwargs": {"inner": {"id": "evil_code:Maze-v0"}}}},
)


@pytest.mark.parametrize("change", EVIL)
def test_no_module_runs_because_a_run_names_it(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], change: object
) -> None:
    name_evil_code(run, tmp_path, change)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.chdir(tmp_path)
    for command in ("resume", "evaluate", "report"):
        status = main([command, "run"])
        assert not (tmp_path / "ran").exists()
        error = capsys.readouterr().err
        if command != "report":
            assert (status, error.count("\n")) == (2, 1)
            assert "needs the module evil_code, whose code would run: if you trust it, add --import evil_code" in error


def test_nor_as_python_m_mcurl_which_searches_the_current_folder_first(run: Path, tmp_path: Path) -> None:
    name_evil_code(run, tmp_path, EVIL[0])
    line = [sys.executable, "-m", "mcurl", "evaluate", "run"]
    done = subprocess.run(line, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "--import evil_code" in done.stderr
    assert not (tmp_path / "ran").exists()
    subprocess.run([*line, "--import", "evil_code"], cwd=tmp_path, capture_output=True, check=False)
    assert (tmp_path / "ran").exists()  # the user has named it, too


@pytest.mark.parametrize("name", ["torch", "numpy", "json", "mcurl"])
def test_no_file_in_the_current_folder_is_imported_instead_of_an_installed_module(run: Path, name: str) -> None:
    (run / f"{name}.py").write_text("open('ran', 'w')\n")
    # Python itself finds mcurl.py with -m; processes that mcurl starts do not.
    start = ["-c", "import sys; del sys.path[0]; import mcurl.cli; sys.exit(mcurl.cli.main(sys.argv[1:]))"]
    start = start if name == "mcurl" else ["-m", "mcurl"]
    commands = [["evaluate", ".", "--episodes", "1"]]
    if name == "mcurl":
        commands.append(["train", "toy/reach", "--seed", "1,2", "--out", "runs", *TINY])
    for words in commands:
        line = [sys.executable, *start, *words]
        done = subprocess.run(line, cwd=run, capture_output=True, text=True, check=False)
        assert (done.returncode, (run / "ran").exists()) == (0, False), done.stdout + done.stderr


def name_evil_code(run: Path, folder: Path, change: object) -> None:
    (folder / "evil_code.py").write_text("open('ran', 'w')\n")
    assert isinstance(change, dict)
    (run / "settings.json").write_text(json.dumps(json.loads((run / "settings.json").read_text()) | change))


@pytest.mark.parametrize("damage", ["link", "link to a recording", "FIFO", "other bytes"])
def test_a_recording_that_cannot_be_read_is_not_copied_into_the_scores(
    run: Path, tmp_path: Path, damage: str, capsys: pytest.CaptureFixture[str]
) -> None:
    recording = next((run / "episodes").glob("*.episodes"))
    assert main(["collect", str(run), "--results", str(tmp_path / "before")]) == 0
    stored = next((tmp_path / "before").rglob("*.episodes"))
    (other := tmp_path / "other").write_bytes(recording.read_bytes() if damage.endswith("recording") else b"secret")
    if damage == "other bytes":
        recording.write_bytes(other.read_bytes())
    else:
        put_link(recording, other, SYMBOLIC if damage.startswith("link") else lambda target, path: os.mkfifo(path))
    capsys.readouterr()
    assert main(["collect", str(run), "--results", str(tmp_path / "scores")]) == 0
    assert capsys.readouterr().err.count("mcurl: skipped: the recorded episodes at 40 env steps: ") == 1
    assert list((tmp_path / "scores").rglob("*.csv"))
    assert not list((tmp_path / "scores").rglob("*.episodes"))
    # The store keeps what it has of this run.
    intact = stored.read_bytes()
    assert main(["collect", str(run), "--results", str(tmp_path / "before"), "--note", "later"]) == 0
    assert stored.read_bytes() == intact
