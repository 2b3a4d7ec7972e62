"""What is written for scores and reports is whole, or not there: after a kill, on a full disk, beside torn files."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from report.examples import run as example

from mcurl.cli import main
from mcurl.errors import UserError
from mcurl.report import collect, store
from mcurl.report.export import rows, write_table
from mcurl.report.openrlbenchmark import write_offline
from mcurl.report.scores import RunScores


def runs(*seeds: int) -> list[RunScores]:
    return [example("walker-walk", "mcurl", seed, {0: 1.0, 100_000: 2.0 + seed}) for seed in seeds]


class Killed(BaseException):
    """Stands for the end of the process."""


def ends_at(monkeypatch: pytest.MonkeyPatch, name: str, call: int, error: Callable[[], BaseException]) -> None:
    """The process ends, or the disk is full, at this call of a function of ``os``."""
    original, calls = getattr(os, name), iter(range(1, 10**6))

    def ending(*arguments: object, **options: object) -> object:
        if next(calls) == call:
            raise error()
        return original(*arguments, **options)

    monkeypatch.setattr(os, name, ending)


ERRORS: list[Callable[[], BaseException]] = [Killed, lambda: OSError(28, "No space left on device")]


@pytest.mark.parametrize("error", ERRORS)
@pytest.mark.parametrize("call", range(1, 9))
@pytest.mark.parametrize("name", ["fsync", "replace", "open"])
def test_the_scores_of_other_seeds_stay(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, call: int, error: Callable[[], BaseException]
) -> None:
    collect.add(tmp_path, runs(1, 2))
    with monkeypatch.context() as patch:
        ends_at(patch, name, call, error)
        try:
            collect.add(tmp_path, runs(3))
        except (Killed, OSError, UserError):
            pass
        else:
            assert call > 2  # there are no more calls
    seeds = [run.seed for run in store.load(tmp_path)]
    assert seeds in ([1, 2], [1, 2, 3])
    collect.add(tmp_path, runs(3))
    assert [run.points[100_000] for run in store.load(tmp_path)] == [3.0, 4.0, 5.0]


@pytest.mark.parametrize("text", ["", "{", '{"seed 1": 5}', "null", '{"seed 1": {"settings": 7}}'])
def test_a_torn_note_does_not_stop_reports(tmp_path: Path, capsys: pytest.CaptureFixture[str], text: str) -> None:
    collect.add(tmp_path, runs(1, 2))
    note = tmp_path / "dmc" / "mcurl" / "walker-walk.json"
    note.write_text(text)
    assert main(["report", str(tmp_path)]) == 0
    out, error = capsys.readouterr()
    assert "walker-walk" in out
    assert error.startswith("mcurl: skipped: what is known of these runs beside their scores: ")
    assert error.count("\n") == 1
    with pytest.raises(UserError, match="is damaged"):  # nothing is added on top of it, so that it can be repaired
        collect.add(tmp_path, runs(3))
    assert note.read_text() == text


@pytest.mark.parametrize("depth", [0, 1])
def test_nothing_is_written_through_a_linked_folder_of_a_store(tmp_path: Path, depth: int) -> None:
    """A link to the store itself is fine."""
    [run] = runs(1)
    outside, real = tmp_path / "outside", tmp_path / "real"
    outside.mkdir()
    real.mkdir()
    (tmp_path / "store").symlink_to(real)
    folder = tmp_path / "store" / run.benchmark / (run.name if depth else "")
    folder.parent.mkdir(exist_ok=True)
    folder.symlink_to(outside)
    with pytest.raises(UserError, match=f"{run.benchmark}.* is a link, not a folder"):
        collect.add(tmp_path / "store", [run])
    assert not list(outside.iterdir())
    folder.unlink()
    collect.add(tmp_path / "store", [run])
    assert store.load(real)


def test_a_seed_whose_return_is_no_number_is_left_out_of_tables(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    collect.add(tmp_path, runs(1, 2))
    table = tmp_path / "dmc" / "mcurl" / "walker-walk.csv"
    table.write_text(table.read_text().replace("3.0", "nan"))
    assert main(["table", "dmc", "--results", str(tmp_path)]) == 0
    assert main(["report", str(tmp_path)]) == 0
    assert "seed 1 in" in capsys.readouterr().err
    assert [run.seed for run in store.load(tmp_path)] == [2]
    collect.add(tmp_path, runs(3))
    assert "nan" in table.read_text()  # it stays in the file


@pytest.mark.parametrize("error", ERRORS)
@pytest.mark.parametrize("kind", ["table", "offline"])
def test_an_export_is_whole_or_not_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, error: Callable[[], BaseException]
) -> None:
    target = tmp_path / "out.csv"

    def export() -> object:
        return write_table(rows(runs(1)), target) if kind == "table" else write_offline(runs(1), target)

    with monkeypatch.context() as patch:
        ends_at(patch, "fsync", 1, error)
        with pytest.raises((Killed, OSError)):
            export()
    assert list(tmp_path.iterdir()) == []
    assert export() == (2 if kind == "table" else 1)
