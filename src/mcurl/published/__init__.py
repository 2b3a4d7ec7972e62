"""Published scores as CSV files, and readers of the files that the package uses.

``atari100k_paper_table1.csv``          Table 1 of the M-CURL paper, and the benchmark's scores of a random policy
``atari100k_published_per_game.csv``    25 other methods (``*_rliable100``: final scores, means over 100 runs)
``atari100k_aggregates.csv``            aggregate scores of these methods, with sources
``dmc_published_at_100k_500k.csv``      DMControl, from learning curves that the authors published, with sources
``dmc_published_curves.csv``            the same at other env steps, where runs of this package are compared with them
``dmc_published_tables.csv``            DMControl, from tables in papers, with sources
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
    """Game -> scores of a random policy and of a human, for the 26 games of the Atari 100k benchmark."""
    return {row["game"]: (float(row["random"]), float(row["human"])) for row in _paper_table1()}


def human_normalised(game: str, score: float) -> float:
    """The human-normalised score: 0 is a random policy, 1 is a human.

    Raises:
        UserError: the game is not in the Atari 100k benchmark.

    >>> round(human_normalised("Pong", 14.6), 6)
    1.0
    """
    scores = atari_random_and_human()
    if game not in scores:
        raise UserError(f"there is no human score for {game!r}: {suggest(game, scores)}")
    random, human = scores[game]
    return (score - random) / (human - random)


def table1() -> dict[str, dict[str, float]]:
    """Table 1 of the M-CURL paper: game -> method -> score.

    The methods are simple, otrainbow, efficient_rainbow, curl and m_curl.
    """
    return {
        row["game"]: {name: float(value) for name, value in row.items() if name not in {"game", "random", "human"}}
        for row in _paper_table1()
    }
