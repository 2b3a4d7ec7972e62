"""mcurl report on the command line."""

from __future__ import annotations

from pathlib import Path

import pytest

from mcurl import cli
from mcurl.report import contents
from mcurl.report.files import write
from mcurl.report.store import read

RESULTS = Path(__file__).parents[2] / "results"


def test_a_suite_is_reported_into_a_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "report"
    assert cli.main(["report", str(RESULTS), "--suite", "table1", "--out", str(out), "--no-png"]) == 0
    assert capsys.readouterr().out == f"{out / 'index.html'}\n"
    first = (out / "index.html").read_bytes()
    assert cli.main(["report", str(RESULTS), "--suite", "table1", "--out", str(out), "--no-png"]) == 0
    assert (out / "index.html").read_bytes() == first
    assert f"--suite table1 --no-png --out {out}" in first.decode()


def test_the_report_in_the_documentation_is_that_of_the_results(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If not: ``mcurl report results --out docs/report``."""
    monkeypatch.chdir(RESULTS.parent)
    command = "mcurl report results --out docs/report"
    names = write(contents.report(read([Path("results")]), command=command), tmp_path / "report", png=False)
    shown = Path("docs/report")
    pictures = {path.with_suffix(".png").name for path in names if path.suffix == ".svg"}
    assert {path.name for path in shown.iterdir()} == {path.name for path in names} | pictures | {"files.json"}
    for path in names:
        if path.name != "index.html":  # it links the PNG files
            assert path.read_text() == (shown / path.name).read_text(), path.name


def test_published_columns_are_those_that_were_asked_for(tmp_path: Path) -> None:
    options = ["--published", "bbf,m-curl", "--no-png", "--out", str(tmp_path / "report")]
    assert cli.main(["report", str(RESULTS), *options]) == 0
    header = (tmp_path / "report" / "atari100k-scores-400k.csv").read_text().splitlines()[0]
    assert header.endswith("published_bbf,published_m-curl")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--suite", "tabel1"], "did you mean table1"),
        (["--published", "crul", "--out", "report"], "did you mean curl"),
        (["--no-png"], "add --out DIR"),
        (["--out", "thesis"], "thesis is not empty and not a report"),
        (["--suite", "figure5a"], "no run belongs to figure5a: see `mcurl suite show`"),
    ],
)
def test_what_goes_wrong_is_one_line(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    options: list[str],
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter.tex").write_text("mine")
    assert cli.main(["report", str(RESULTS), *options]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == ["thesis"]
