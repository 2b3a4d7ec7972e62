"""Published scores to stand beside ours, as CSV files, and readers for those that the code itself needs.

``atari100k_paper_table1.csv``          the M-CURL paper's Table 1, with the benchmark's random scores added
``atari100k_published_per_game.csv``    25 other methods; columns that end in ``_rliable100`` are means over 100 runs of
final scores ``atari100k_aggregates.csv``            their aggregates, with sources
``dmc_published_at_100k_500k.csv``      DMControl, read off the authors' own curves, with sources
``dmc_published_tables.csv``            DMControl, from printed tables, with sources
"""

from __future__ import annotations

import csv
from functools import cache
from pathlib import Path

from mcurl.errors import UserError, suggest

FOLDER = Path(__file__).parent


@cache
def _paper_table1() -> tuple[dict[str, str], ...]:
    with (FOLDER / "atari100k_paper_table1.csv").open(encoding="utf-8") as file:
        return tuple(csv.DictReader(file))


def atari_random_and_human() -> dict[str, tuple[float, float]]:
    """Game -> the scores of a random player and of a human, for the 26 games of the Atari-100k benchmark."""
    return {row["game"]: (float(row["random"]), float(row["human"])) for row in _paper_table1()}


def human_normalised(game: str, score: float) -> float:
    """0 for a random player's score, 1 for a human's. Raises ``UserError`` for a game outside the Atari-100k benchmark.

    >>> round(human_normalised("Pong", 14.6), 6)
    1.0
    """
    known = atari_random_and_human()
    if game not in known:
        raise UserError(f"no human score is known for {game!r}: {suggest(game, known)}")
    random, human = known[game]
    return (score - random) / (human - random)


def table1() -> dict[str, dict[str, float]]:
    """Game -> method -> score, as the paper's Table 1 has them. Methods: simple, otrainbow, efficient_rainbow, curl,
    m_curl."""
    return {
        row["game"]: {name: float(value) for name, value in row.items() if name not in {"game", "random", "human"}}
        for row in _paper_table1()
    }
