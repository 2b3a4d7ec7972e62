"""One long table of scores: written, read back, and by the command."""

from __future__ import annotations

import csv
import json
import sqlite3
import sys
from contextlib import closing
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mcurl import cli
from mcurl.errors import UserError
from mcurl.report.export import COLUMNS, Row, read_table, rows, write_table
from mcurl.report.scores import RunScores
from mcurl.report.store import read, shipped_results

TEXT = st.text(st.characters(blacklist_categories=("Cs", "Cc")), min_size=1, max_size=8)
ROWS = st.lists(
    st.builds(
        Row,
        *(TEXT, TEXT, TEXT),
        *(st.integers(0, 2**31), st.integers(0, 2**53), st.none() | st.integers(0, 200)),
        st.floats(allow_nan=False, allow_infinity=False),
    ),
    min_size=1,
    max_size=8,
    unique_by=lambda row: row[:6],
)


def formats() -> list[str]:
    try:
        import pyarrow  # noqa: F401
    except ImportError:
        return ["csv"]
    return ["csv", "parquet"]


@pytest.mark.parametrize("ending", formats())
@given(table=ROWS)
@settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_what_was_written_is_read(ending: str, tmp_path: Path, table: list[Row]) -> None:
    path = tmp_path / f"scores.{ending}"
    path.unlink(missing_ok=True)
    assert write_table(table, path) == len(table)
    back = read_table(path)
    assert sorted(back, key=repr) == sorted(table, key=repr)
    assert [row[:5] for row in back] == sorted(row[:5] for row in back)


def test_episodes_and_means_of_runs_become_rows() -> None:
    run = RunScores(
        "dmc", "walker-walk", "mcurl", "M-CURL", 2, {0: [7.5], 1000: [1.0, 2.0]}, budget=1000, averaged={0: 10}
    )
    assert list(rows([run])) == [
        Row("dmc", "walker-walk", "mcurl", 2, 0, None, 7.5),
        Row("dmc", "walker-walk", "mcurl", 2, 1000, 0, 1.0),
        Row("dmc", "walker-walk", "mcurl", 2, 1000, 1, 2.0),
    ]


@pytest.mark.parametrize("ending", formats())
def test_the_command_writes_the_scores_that_come_with_the_package(
    ending: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    target = tmp_path / "new" / f"scores.{ending}"
    assert cli.main(["report", str(shipped_results()), "--table", str(target)]) == 0
    table = read_table(target)
    assert f"{target}: {len(table):,} rows" in capsys.readouterr().out
    for run in read([shipped_results()]):
        for env_steps, mean in run.points.items():
            returns = [row.return_ for row in table if row[:5] == (*run.cell, run.seed, env_steps)]
            assert sum(returns) / len(returns) == pytest.approx(mean)
    before = target.read_bytes()
    assert cli.main(["report", str(shipped_results()), "--table", str(target)]) == 2
    assert capsys.readouterr().err == f"mcurl: {target} exists already: choose another name, or remove it first\n"
    assert target.read_bytes() == before


def test_the_columns_are_those_of_the_documentation(tmp_path: Path) -> None:
    assert COLUMNS == ("suite", "task", "method", "seed", "env_steps", "episode", "return")
    write_table([Row("dmc", "walker-walk", "mcurl", 1, 1000, None, 0.1)], tmp_path / "a.csv")
    with (tmp_path / "a.csv").open(newline="") as file:
        assert list(csv.reader(file)) == [list(COLUMNS), ["dmc", "walker-walk", "mcurl", "1", "1000", "", "0.1"]]


def test_what_cannot_be_written_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    row = Row("dmc", "walker-walk", "mcurl", 1, 1000, 0, 1.0)
    with pytest.raises(UserError, match=r"ends in .csv or .parquet: did you mean .parquet\?"):
        write_table([row], tmp_path / "a.parqet")
    with pytest.raises(UserError, match="no scores to write"):
        write_table([], tmp_path / "a.csv")
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(UserError, match=r"pip install 'mcurl\[parquet\]'"):
        write_table([row], tmp_path / "a.parquet")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a,b\n1,2\n", "its columns are a, b, not suite"),
        ("", "its columns are , not suite"),
        (f"{','.join(COLUMNS)}\ndmc,a,b,1,2\n", "not enough values"),
        (f"{','.join(COLUMNS)}\ndmc,a,b,x,2,0,1.0\n", "invalid literal"),
        (f"{','.join(COLUMNS)}\ndmc,a,b,1,2,0,nan\n", "expected a finite return"),
    ],
)
def test_a_file_of_a_stranger_is_refused(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "a.csv"
    path.write_text(text)
    with pytest.raises(UserError, match=f"is not a table of scores: .*{message}"):
        read_table(path)


def test_a_damaged_or_foreign_parquet_file_is_refused(tmp_path: Path) -> None:
    pa = pytest.importorskip("pyarrow")
    pq = pytest.importorskip("pyarrow.parquet")
    path = tmp_path / "a.parquet"
    path.write_bytes(b"PAR1nonsense")
    with pytest.raises(UserError, match="is not a table of scores"):
        read_table(path)
    pq.write_table(pa.table({name: ["1"] for name in COLUMNS}), path)
    with pytest.raises(UserError, match="its columns are"):
        read_table(path)


def test_openrlbenchmark_gets_every_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "offline"
    arguments = ["report", str(shipped_results()), "--openrlbenchmark", str(folder)]
    assert cli.main(arguments) == 0
    runs = read([shipped_results()])
    assert f"{folder}: {len(runs)} runs" in capsys.readouterr().out
    listed = {}
    for path in folder.glob("*/offline.sqlite"):
        with closing(sqlite3.connect(path)) as database:
            database.row_factory = sqlite3.Row
            for row in database.execute("SELECT * FROM offlinerun"):
                config = json.loads(row["config"])
                assert (row["entity"], row["project"]) == ("mcurl", path.parent.name)
                listed[row["project"], config["env_id"], config["exp_name"], config["seed"]] = path.parent / row["id"]
    assert set(listed) == {(*run.cell, run.seed) for run in runs}
    for run in runs:
        target = listed[*run.cell, run.seed]
        about = json.loads((target / "run.json").read_text())
        assert about["path"] == ["mcurl", run.benchmark, target.name]
        with (target / "run_df.csv").open(newline="") as file:
            written = [(int(row["global_step"]), float(row["charts/episodic_return"])) for row in csv.DictReader(file)]
        assert written == [(step, value) for step, values in sorted(run.episodes.items()) for value in values]
    assert cli.main(arguments) == 2
    assert "exists already" in capsys.readouterr().err
