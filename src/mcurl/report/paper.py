"""The paper's claims, and what its own Table 1 and scores of this package say of them.

The paper prints numbers for Atari only: its results on DMControl are curves in pictures.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from itertools import combinations
from typing import TYPE_CHECKING

from mcurl.config.tasks import task_names
from mcurl.published import atari_random_and_human
from mcurl.report.claims import (
    PAPER,
    PAPER_COLUMNS,
    Above,
    Alike,
    Best,
    Check,
    Claim,
    Evidence,
    Finding,
    Median,
    Scores,
    Superhuman,
    Wins,
    label,
    paper_scores,
)

if TYPE_CHECKING:
    from mcurl.report.scores import RunScores

CHOSEN = re.compile(r"\bchosen\b", re.IGNORECASE)
"""A word in the note of a run that was selected for its results: it is no fair sample of the seeds."""
OURS = "our scores"
LENGTHS = ((16, 34), (32, 18), (64, 10), (128, 6), (256, 4))
"""T and B of the arms of Figure 5a."""


@dataclass(frozen=True)
class Statement:
    """A claim beside what some scores say of it."""

    claim: Claim
    basis: str
    """``PAPER``, ``OURS``, or the place in the paper of results without numbers."""
    finding: Finding

    def __str__(self) -> str:
        finding = self.finding
        verb = {"holds": "holds in", "differs": "differs in", "not enough data": "not enough data in"}[finding.verdict]
        details = f" ({finding.details})" if finding.details else ""
        return f"{self.claim.name}: the paper says {self.claim.said}; {verb} {self.basis}: {finding.found}{details}"


def final_scores(runs: Iterable[RunScores], benchmark: str, env_steps: int) -> dict[str, dict[str, list[float]]]:
    """Scores at a budget: name of the run -> task -> scores of its seeds, in the order of seeds.

    Left out: runs without an evaluation at the budget, and runs whose note has the word ``chosen``.
    """
    scores: dict[str, dict[str, list[float]]] = {}
    for run in sorted(runs, key=lambda run: run.seed):
        score = run.score(env_steps)
        if run.benchmark == benchmark and not CHOSEN.search(run.note) and score is not None:
            scores.setdefault(run.name, {}).setdefault(run.task, []).append(score)
    return scores


def evaluate(scores_at: Callable[[str, int], Scores] | None = None) -> list[Statement]:
    """Check all claims in the paper's own table and in scores of this package.

    Args:
        scores_at: benchmark, env steps -> the scores of runs of this package at that budget; None: the paper's table
            alone. :func:`final_scores` gives them.

    Returns:
        A statement about the paper's table for each claim whose numbers are printed, and one about our scores for each
        claim about methods of this package.
    """
    table = Evidence(paper_scores(), published=True)
    statements = []
    for claim in claims():
        if claim.printed:
            statements.append(Statement(claim, PAPER, claim.check(table)))
        else:
            nothing = Finding("not enough data", "no numbers", "the results are in a picture only")
            statements.append(Statement(claim, claim.place, nothing))
        if scores_at is not None and not (isinstance(claim.check, Median) and claim.check.method not in PAPER_COLUMNS):
            ours = Evidence(scores_at(claim.benchmark, claim.env_steps), published=False)
            statements.append(Statement(claim, OURS, claim.check(ours)))
    return statements


def claims() -> list[Claim]:
    """The paper's claims that can be counted, in the order of the paper."""
    return [*_dmc_claims(), *_atari_claims(), *_ablation_claims()]


def _dmc_claims() -> list[Claim]:
    tasks = tuple(task.removeprefix("dmc/") for task in task_names("dmc16"))
    above_state = ("cheetah-run", "finger-spin", "hopper-hop", "pendulum-swingup")
    return [
        *(
            Claim(
                f"better than CURL on DMControl, {env_steps // 1000}k",
                "our method outperforms the standard CURL on 14 out of 16 experiments",
                "section 4.4, Figure 3",
                "14 of 16",
                "dmc",
                env_steps,
                Wins("mcurl", "curl", 14, tasks),
                printed=False,
            )
            for env_steps in (100_000, 500_000)
        ),
        Claim(
            "better than state-SAC on four tasks",
            "in Cheetah-Run, Finger-Spin, Hopper-Hop and Pendulum-Swingup tasks, our method achieves higher scores "
            "than state-SAC",
            "section 4.4 (2), Figure 3",
            "4 of 4",
            "dmc",
            500_000,
            Above((("mcurl", "sac-state"),), above_state),
            printed=False,
        ),
        Claim(
            "worse than CURL on two tasks",
            "slightly worse than CURL on the remaining two (Cartpole-Balance-Sparse and Walker-Stand)",
            "section 4.4, Figure 3",
            "2 of 2",
            "dmc",
            500_000,
            Above((("curl", "mcurl"),), ("cartpole-balance_sparse", "walker-stand")),
            printed=False,
        ),
    ]


def _atari_claims() -> list[Claim]:
    games = tuple(atari_random_and_human())
    caption = "Table 1, caption"

    def claim(name: str, words: str, place: str, said: str, check: Check) -> Claim:
        return Claim(name, words, place, said, "atari100k", 400_000, check)

    medians = {"mcurl": 24.2, "curl": 17.5, "simple": 14.4, "rl-only": 16.1, "otrainbow": 20.4}
    return [
        claim(
            "better than CURL on Atari",
            "outperforms CURL on 21 out of 26 environments",
            caption,
            "21 of 26",
            Wins("mcurl", "curl", 21, games),
        ),
        claim(
            "better than Efficient Rainbow on Atari",
            "implemented on top of Eff. Rainbow (van Hasselt et al., 2019), improves its performance on 24 out of 26 "
            "environments",
            caption,
            "24 of 26",
            Wins("mcurl", "rl-only", 24, games),
        ),
        claim(
            "best of all methods on Atari",
            "Our method achieves state-of-the-art performance on 10 out of 26 environments",
            caption,
            "10 of 26",
            Best("mcurl", ("curl", "rl-only", "simple", "otrainbow"), 10, games),
        ),
        claim(
            "above human",
            "M-CURL achieves super-human performances on JamesBond, Krull and Road Runner by 24%, 25% and 13% "
            "improvements",
            "section 4.4 (1)",
            "Jamesbond by 24 %, Krull by 25 %, RoadRunner by 13 %",
            Superhuman("mcurl", {"Jamesbond": 24, "Krull": 25, "RoadRunner": 13}, games),
        ),
        *(
            claim(
                f"median human-normalised score of {label(method)}",
                f"Median HNS {percent}%",
                "Table 1, last row",
                f"{percent} %",
                Median(method, percent, games),
            )
            for method, percent in medians.items()
        ),
    ]


def _ablation_claims() -> list[Claim]:
    """Figures 4 and 5, on hopper-stand. Methods are the names of the arms in the suites of these figures."""

    def claim(name: str, words: str, place: str, *pairs: tuple[str, str], kind: type[Above | Alike] = Above) -> Claim:
        check = kind(pairs, ("hopper-stand",))
        return Claim(name, words, place, f"{len(pairs)} of {len(pairs)}", "dmc", 500_000, check, printed=False)

    rates = [f"mcurl-mask_rate={rate}" for rate in (0.1, 0.3, 0.7, 0.9)]
    layers = [f"mcurl-layers={count}" for count in (1, 3, 4)]
    lengths = [f"mcurl-length={length}-batch={batch}" for length, batch in LENGTHS]
    return [
        claim(
            "better than CURL with every masking probability",
            "Our method achieves better results than standard CURL w.r.t. different ρ_m",
            "section 5.1, Figure 4a",
            *((name, "curl") for name in ("mcurl", *rates)),
        ),
        claim(
            "masking probability 0.5 is best at 500k",
            "With 500k interactions, setting ρ_m as 0.5 achieves the best performance",
            "section 5.1, Figure 4a",
            *(("mcurl", name) for name in rates),
        ),
        claim(
            "a small and a large masking probability hurt",
            "Setting a too large ρ_m (i.e., 0.9) will not lead to good results [...] a too small ρ_m (i.e., 0.1) will "
            "hurt the performance too",
            "section 5.1, Figure 4a",
            *(("mcurl", f"mcurl-mask_rate={rate}") for rate in (0.1, 0.9)),
        ),
        claim(
            "consecutive inputs alone do not help CURL",
            "Compared to standard CURL, the results become even worse",
            "section 5.2 (1), Figure 4b",
            ("curl", "seq-curl"),
        ),
        claim(
            "a Transformer on the keys hurts",
            "using a symmetric architecture hurts the performance too",
            "section 5.2 (2), Figure 4b",
            ("mcurl", "sym-curl"),
        ),
        claim(
            "the length of sequences matters little",
            "there is no much difference between the scores achieved by different sequence lengths",
            "appendix B.1, Figure 5a",
            *combinations(lengths, 2),
            kind=Alike,
        ),
        claim(
            "one to three layers are alike",
            "when the layer numbers are set as {1, 2, 3}, there is not significant difference",
            "appendix B.2, Figure 5b",
            *combinations((layers[0], "mcurl", layers[1]), 2),
            kind=Alike,
        ),
        claim(
            "four layers are worse",
            "When the number of layer is increased to four, the performance slightly drops",
            "appendix B.2, Figure 5b",
            *((name, layers[2]) for name in (layers[0], "mcurl", layers[1])),
        ),
        claim(
            "better than CURL with every number of layers",
            "all the four settings outperform the standard CURL baseline",
            "appendix B.2, Figure 5b",
            *((name, "curl") for name in ("mcurl", *layers)),
        ),
    ]
