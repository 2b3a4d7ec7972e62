"""Every published column by a name of its own, for the tables and figures of a report."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass, field
from functools import cache

from mcurl.errors import UserError, suggest
from mcurl.published import atari_random_and_human, table1
from mcurl.published.scores import BUDGET, CURL_SEEDS, DRQV2_AUTHORS, Score, read_rows

MAXIMA = "The highest of ten evaluations during training, not the score at its end: not to be compared with the others."
FINAL = "Final scores, means over 100 runs (Agarwal et al., 2021)."
PAPER = "Table 1 of the M-CURL paper, five seeds; it states no spread."
PAPER_CURL = (
    f"{PAPER} CURL's column is from CURL's paper, where it holds maxima over evaluations. On Boxing, Freeway, Pong and "
    "PrivateEye its loss has a weight of 0.05 there, 0.01 in its code; here it is 1."
)


@dataclass(frozen=True)
class PublishedColumn:
    """The scores of one method in one publication."""

    name: str
    """Its name for ``mcurl report --published``."""
    method_label: str
    """Name of the method."""
    source: str
    """Short name of the publication."""
    method: str | None
    """Name of the method in this package, if it has it; with the agent, as in ``run.names``."""
    note: str
    """Source, and what a reader must know."""
    scores: dict[int, dict[str, Score]] = field(repr=False)
    """Env steps -> task, with underscores between words -> score."""
    default: bool = False
    """True: shown unless others are asked for."""
    beside_own: bool = False
    """True: shown unless others are asked for, where its method is compared."""
    maxima: bool = False
    """True: each score is the highest of a run's evaluations, not the last."""

    @property
    def label(self) -> str:
        """Method and source, and whether the scores are maxima."""
        maxima = "maxima" if self.maxima and "maxima" not in self.source else ""
        return ", ".join(filter(None, (self.method_label, self.source, maxima)))

    def score(self, task: str, env_steps: int) -> Score | None:
        """The score of a task without its suite; None if there is none."""
        return self.scores.get(env_steps, {}).get(task.replace("-", "_"))

    def env_steps(self, task: str) -> list[int]:
        """The env steps, ascending, at which the task has a score."""
        return [env_steps for env_steps in sorted(self.scores) if self.score(task, env_steps)]


@cache
def catalogue(benchmark: str) -> dict[str, PublishedColumn]:
    """Name -> column of a benchmark, ``"atari100k"`` or ``"dmc"``; empty for others."""
    columns = {"atari100k": _atari, "dmc": _dmc}.get(benchmark, list)()
    return {column.name: column for column in columns}


def choose(benchmark: str, names: Iterable[str] | None, methods: Collection[str] = ()) -> list[PublishedColumn]:
    """The columns of these names, in their order; names of other benchmarks are left out.

    Args:
        benchmark: as for :func:`catalogue`.
        names: of columns; None: the default ones.
        methods: that are compared, as ``Column.method``.

    Raises:
        UserError: no benchmark has a column of this name.
    """
    columns = catalogue(benchmark)
    if names is None:
        return [
            column for column in columns.values() if column.default or (column.beside_own and column.method in methods)
        ]
    names = list(names)
    known = {name for other in BUDGET for name in catalogue(other)}
    for name in names:
        if name not in known:
            raise UserError(f"there is no published column {name!r}: {suggest(name, known)}")
    return [columns[name] for name in names if name in columns]


def _atari() -> list[PublishedColumn]:
    budget = BUDGET["atari100k"]

    def paper(name: str, label: str, method: str | None, column: str, note: str = PAPER) -> PublishedColumn:
        scores = {game: Score(row[column]) for game, row in table1().items()}
        return PublishedColumn(
            name, label, "M-CURL paper", method, note, {budget: scores}, True, maxima=note == PAPER_CURL
        )

    def human_or_random(name: str, label: str, note: str, index: int) -> PublishedColumn:
        scores = {game: Score(pair[index]) for game, pair in atari_random_and_human().items()}
        return PublishedColumn(name, label, "", None, note, {budget: scores}, True)

    columns = [
        paper("m-curl", "M-CURL", "mcurl", "m_curl"),
        paper("curl", "CURL", "curl", "curl", PAPER_CURL),
        paper("efficient-rainbow", "Efficient Rainbow", "rl-only", "efficient_rainbow"),
        paper("otrainbow", "OTRainbow", None, "otrainbow"),
        paper("simple", "SimPLe", None, "simple"),
    ]
    # The file has rows of aggregates, too, and the paper's columns.
    rows = [row for row in read_rows("atari100k_published_per_game.csv") if row["game"] in table1()]
    done = {"game", "Random", "Human", "CURL_pub", "DER_pub", "OTR_pub", "SimPLe_pub"}
    columns += [_per_game(key, rows) for key in rows[0] if key not in done]
    columns.append(human_or_random("random", "Random", "A policy that acts at random.", 0))
    columns.append(human_or_random("human", "Human", "A human tester.", 1))
    return columns


def _per_game(key: str, rows: list[dict[str, str]]) -> PublishedColumn:
    """A column of the file of other methods, which has the source in its name."""
    scores = {BUDGET["atari100k"]: {row["game"]: Score(float(row[key])) for row in rows if row[key]}}
    name = key.removesuffix("_rliable100").removesuffix("_pub").removesuffix("_max_protocol")
    label = {"DER": "Efficient Rainbow", "OTR": "OTRainbow"}.get(name, name.replace("_", " "))
    method = {"CURL": "curl", "DER": "rl-only"}.get(name)
    if "max_protocol" in key:
        return PublishedColumn("curl-maxima", label, "maxima of 100 runs", None, MAXIMA, scores, maxima=True)
    if key.endswith("_rliable100"):
        return PublishedColumn(
            f"{_slug(name)}-final", label, "final of 100 runs", method, FINAL, scores, method is not None
        )
    return PublishedColumn(_slug(name), label, "as published", None, "Means as published by its authors.", scores)


def _dmc() -> list[PublishedColumn]:
    """Means and standard deviations over seeds."""
    columns: dict[str, PublishedColumn] = {}
    for row in read_rows("dmc_published_tables.csv"):
        curl_paper = "CURL paper" in row["source"]
        source, seeds = ("CURL paper", CURL_SEEDS) if curl_paper else ("table", None)
        known = {"CURL": "curl", "State SAC": "sac-state", "Pixel SAC": "rl-only-nocrop"} if curl_paper else {}
        method, default = known.get(row["method"]), row["method"] == "CURL"
        name = f"{_slug(row['method'])}-table"
        score = Score(float(row["mean"]), float(row["std"]) if row["std"] else None, seeds)
        _add(
            columns, PublishedColumn(name, row["method"], source, method, f"{row['source']}.", {}, default), row, score
        )
    read = {
        "curl": ("CURL", "curl"),
        "sac": ("Pixel SAC", "rl-only-nocrop"),
        "SAC(state, tdmpc2 repo)": ("State SAC", "sac-state"),
        DRQV2_AUTHORS: ("DrQ-v2", "drqv2-rl-only"),
    }
    for row in read_rows("dmc_published_at_100k_500k.csv") + read_rows("dmc_published_curves.csv"):
        label, method = read.get(row["method"], (row["method"], None))
        score = Score(float(row["mean"]), float(row["std_over_seeds"]), int(row["n_seeds"]))
        repository = "/".join(row["source"].split()[0].split("/")[:2])
        note = f"Read off the learning curves in {repository}; {row['note']}."
        own = row["method"] == DRQV2_AUTHORS
        source = "its authors' curves" if own else "curves of others"
        default = row["method"] in read and not own
        _add(columns, PublishedColumn(_slug(row["method"]), label, source, method, note, {}, default, own), row, score)
    return list(columns.values())


def _add(columns: dict[str, PublishedColumn], column: PublishedColumn, row: dict[str, str], score: Score) -> None:
    scores = columns.setdefault(column.name, column).scores
    scores.setdefault(int(row["env_steps"]), {})[row["task"]] = score


def _slug(text: str) -> str:
    return "-".join("".join(character if character.isalnum() else " " for character in text.lower()).split())
