"""Writing a report: all of it or nothing, and never over anything else."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from examples import figure, report, table

from mcurl.errors import UserError
from mcurl.report import files, plot
from mcurl.report.model import Report


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_a_report_is_a_page_and_the_files_that_it_links_to(tmp_path: Path) -> None:
    folder = tmp_path / "a" / "report"
    paths = files.write(report(), folder, png=False)
    assert paths[0] == folder / "index.html"
    assert {path.name for path in folder.iterdir()} == {path.name for path in paths} | {"files.json"}
    assert {"report.md", "scores.csv", "curves.csv", "curves.svg", "claims.csv"} <= {path.name for path in paths}
    for path in paths[2:]:
        assert f'href="{path.name}"' in paths[0].read_text()
    assert [path.name for path in (tmp_path / "a").iterdir()] == ["report"]


def test_the_same_report_is_the_same_files_with_pictures(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    files.write(report(), tmp_path / "a")
    files.write(report(), tmp_path / "b")
    assert contents(tmp_path / "a") == contents(tmp_path / "b")
    assert contents(tmp_path / "a")["curves.png"].startswith(b"\x89PNG")


def test_a_report_replaces_an_earlier_one_and_its_files(tmp_path: Path) -> None:
    folder = tmp_path / "report"
    files.write(report(), folder, png=False)
    smaller = replace(report(), sections=(replace(report().sections[0], blocks=(table(key="new"),)),))
    files.write(smaller, folder, png=False)
    assert "new.csv" in contents(folder)
    assert "curves.svg" not in contents(folder)
    assert [path.name for path in tmp_path.iterdir()] == ["report"]


@pytest.mark.parametrize("manifest", [None, "{}", "[1]", "not JSON", '{"format": "other", "files": {}}'])
def test_a_folder_that_is_not_a_report_is_left_alone(tmp_path: Path, manifest: str | None) -> None:
    folder = tmp_path / "thesis"
    folder.mkdir()
    (folder / "index.html").write_text("mine")
    if manifest is not None:
        (folder / "files.json").write_text(manifest)
    before = contents(folder)
    with pytest.raises(UserError, match="--out"):
        files.write(report(), folder, png=False)
    assert contents(folder) == before


def test_a_file_of_the_user_in_a_report_is_left_alone(tmp_path: Path) -> None:
    folder = tmp_path / "report"
    files.write(report(), folder, png=False)
    (folder / "notes.txt").write_text("mine")
    with pytest.raises(UserError, match=r"notes\.txt is not part of the report"):
        files.write(report(), folder, png=False)
    (folder / "notes.txt").unlink()
    with (folder / "report.md").open("a") as file:
        file.write("my words")
    with pytest.raises(UserError, match=r"report\.md was changed by hand"):
        files.write(report(), folder, png=False)
    assert (folder / "report.md").read_text().endswith("my words")
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="is a file"):
        files.write(report(), tmp_path / "file", png=False)


def test_a_report_that_fails_leaves_the_earlier_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "report"
    files.write(report(), folder, png=False)
    before = contents(folder)

    def full(*_: object) -> str:
        raise OSError("no space left")

    monkeypatch.setattr(files, "page", full)
    with pytest.raises(OSError, match="no space"):
        files.write(report("another"), folder, png=False)
    assert contents(folder) == before
    assert [path.name for path in tmp_path.iterdir()] == ["report"]
    monkeypatch.undo()
    monkeypatch.setattr(files, "MANIFEST", "files.json")
    twice = Report("a", (), (replace(report().sections[0], blocks=(table(), table())),))
    with pytest.raises(UserError, match="two parts of the report are called scores"):
        files.write(twice, folder, png=False)
    assert contents(folder) == before


def test_a_link_to_a_folder_stays_a_link(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    files.write(report(), tmp_path / "link", png=False)
    assert (tmp_path / "link").is_symlink()
    assert json.loads((tmp_path / "real" / "files.json").read_text())["format"] == files.FORMAT


def test_without_matplotlib_one_line_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "matplotlib", None)
    with pytest.raises(UserError, match=r"mcurl\[report\]"):
        files.write(report(), tmp_path / "report")
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(UserError, match=r"mcurl\[report\]"):
        plot.save(figure(), tmp_path / "a.png")
    files.write(report(), tmp_path / "report", png=False)


def test_the_report_in_the_documentation_is_whole() -> None:
    folder = Path(__file__).parents[2] / "docs" / "report"
    files.check_replaceable(folder)
    assert "mcurl report results --out docs/report" in (folder / "index.html").read_text()
    assert sum(path.stat().st_size for path in folder.iterdir()) < 1_000_000
