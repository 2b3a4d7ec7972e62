"""The published scores say what the paper's text says of them, as far as they do."""

from __future__ import annotations

import csv
from importlib.resources import files
from statistics import median

import pytest

from mcurl import published
from mcurl.envs.atari import ATARI_26
from mcurl.errors import UserError


def test_the_table_has_the_games_of_the_benchmark() -> None:
    assert sorted(published.table1()) == sorted(published.atari_random_and_human()) == sorted(ATARI_26)


@pytest.mark.parametrize(
    ("method", "percent"),
    [("m_curl", 24.2), ("curl", 17.5), ("efficient_rainbow", 16.1), ("simple", 14.4), ("otrainbow", 20.4)],
)
def test_the_papers_medians_come_out(method: str, percent: float) -> None:
    scores = [published.human_normalised(game, row[method]) for game, row in published.table1().items()]
    assert round(100 * median(scores), 1) == percent


def test_in_how_many_games_m_curl_leads() -> None:
    rows = published.table1().values()
    assert sum(row["m_curl"] > row["curl"] for row in rows) == 20  # the paper's text says 21
    assert sum(row["m_curl"] == max(row.values()) for row in rows) == 11  # it says 10
    assert sum(row["m_curl"] > row["efficient_rainbow"] for row in rows) == 24
    above = [game for game, row in published.table1().items() if published.human_normalised(game, row["m_curl"]) > 1]
    assert above == ["Jamesbond", "Krull", "RoadRunner"]


def test_scores_are_measured_between_random_and_human() -> None:
    random, human = published.atari_random_and_human()["RoadRunner"]
    assert (random, human) == (11.5, 7845.0)
    assert [published.human_normalised("RoadRunner", score) for score in (random, (random + human) / 2, human)] == [
        0.0,
        0.5,
        1.0,
    ]
    with pytest.raises(UserError, match="did you mean RoadRunner"):
        published.human_normalised("RoadRuner", 1.0)


def test_every_file_is_a_whole_table() -> None:
    tables = [entry for entry in files(published).iterdir() if entry.name.endswith(".csv")]
    assert len(tables) == 6
    for table in tables:
        with table.open(encoding="utf-8") as file:
            header, *rows = csv.reader(file)
        assert rows
        assert {len(row) for row in rows} == {len(header)}, table.name
