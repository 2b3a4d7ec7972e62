"""CSV and Markdown."""

from __future__ import annotations

import csv
import io
import re

import pytest
from examples import HOSTILE, claims, figure, report, table

from mcurl.report.model import Cell, Column, Table
from mcurl.report.text import claims_csv, figure_csv, report_markdown, table_csv, table_markdown


def rows(text: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(text)))


def test_csv_holds_the_whole_numbers_and_what_is_known_of_them() -> None:
    first, second, third, median = rows(table_csv(table()))
    assert (first["task"], first["own"], first["own_std"], first["own_seeds"]) == ("a task", "1234.5", "10.2", "3")
    assert (second["own"], second["other"], second["other_low"], second["other_high"]) == ("", "0.5", "0.25", "0.75")
    assert third["other"] == ""
    assert (median["task"], median["own"]) == ("Median", "5")


def test_csv_of_a_figure_holds_means_seeds_and_marks() -> None:
    found = rows(figure_csv(figure()))
    assert [row["y"] for row in found if row["kind"] == "mean" and row["panel"] == "a task"] == ["1", "2"]
    assert {row["seed"] for row in found if row["kind"] == "seed"} == {"1", "2"}
    (mark,) = [row for row in found if row["kind"] == "published"]
    assert (mark["x"], mark["y"], mark["low"], mark["high"]) == ("1000", "1.5", "1", "2")


def test_hostile_names_stay_in_their_csv_field() -> None:
    assert rows(table_csv(table(HOSTILE)))[0]["task"] == HOSTILE
    assert rows(claims_csv(claims(HOSTILE)))[0]["claim"] == HOSTILE
    assert {len(row) for row in csv.reader(io.StringIO(figure_csv(figure(HOSTILE))))} == {8}


def test_markdown_shows_numbers_spread_seeds_and_notes() -> None:
    lines = table_markdown(table()).splitlines()
    assert lines[0] == "| Task | a task, This package | B, P [1] |"
    assert lines[2] == "| a task | 1234 ± 10, 3 seeds [1] | −2.2 |"
    assert lines[3] == "| second | – | **0.5** [0.2, 0.8] |"
    assert lines[4] == "| third | 20 (1 of 5 seeds) |  |"
    assert lines[-1] == "1. a task"


def test_hostile_names_make_no_markdown() -> None:
    text = report_markdown(report(HOSTILE))
    text = re.sub("`[^`]*`", "", text.replace("\\`", ""))  # code is shown as it is
    assert "<img" not in text
    assert not re.search(r"(?<!\\)\]\(javascript", text)
    body = table_markdown(table(HOSTILE)).splitlines()
    unescaped = [line.replace("\\|", "").count("|") for line in body if line.startswith("|")]
    assert set(unescaped) == {4}


def test_a_row_with_a_cell_too_few_is_refused() -> None:
    with pytest.raises(ValueError, match="1 cells, not 2"):
        Table("a", "", (Column("a", ""), Column("b", "")), ((Cell(),),))
