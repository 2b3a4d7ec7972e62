"""The model card of an exported policy: README.md with the header that the Hugging Face hub reads."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, pstdev
from typing import Any

from mcurl.export.folder import VIDEO

PAPER = "https://arxiv.org/abs/2010.07470"


@dataclass(frozen=True)
class CardScore:
    """The returns of one evaluation of one run."""

    task: str
    """``suite/name``."""
    name: str
    """Name of the run."""
    seed: int
    """Seed of the run."""
    env_steps: int
    """Simulator steps of training before the evaluation."""
    returns: tuple[float, ...]
    """Undiscounted return of each episode."""
    origin: str = "final evaluation"
    """Which evaluation it is."""

    @property
    def model(self) -> str:
        """Name of the policy: each task and each seed has its own."""
        return f"{self.name}-{re.sub(r'[^A-Za-z0-9.]+', '-', self.task)}-seed{self.seed}"

    @property
    def value(self) -> str:
        """Mean and population standard deviation over episodes."""
        return f"{fmean(self.returns):.2f} +/- {pstdev(self.returns):.2f}"


def model_card(
    config: Mapping[str, Any], scores: Sequence[CardScore], others: Sequence[CardScore] = (), video: bool = False
) -> str:
    """The text of the card.

    Args:
        config: see :func:`mcurl.export.folder.make_config`, with ``name``, ``label`` and ``versions``.
        scores: evaluations of this policy.
        others: evaluations of other runs of the same name: other seeds, other tasks.
        video: whether the folder has a video.
    """
    settings = config["settings"]
    task, label = settings["task"], config["label"]
    shape, action = config["observation"]["shape"], config["action"]
    observation = f"`{config['observation']['dtype']} {shape}`"
    order = ", oldest frame first" if len(shape) == 3 else ""
    actions = f"{action['n']} discrete actions" if "n" in action else f"`float32 {action['shape']}` in [-1, 1]"
    env_steps = config["clock"]["agent_steps"] * config["clock"]["action_repeat"]
    parts = [
        _header(settings, [*scores, *others]),
        f"# {label} on {task}",
        f"A policy that mcurl trained on `{task}` from seed {settings['seed']}, for "
        f"{env_steps:,} env steps (simulator steps, action repeat included). Method `{settings['method']}`, agent "
        f"`{settings['agent']}`. M-CURL is [masked contrastive representation learning]({PAPER}); its Transformer is "
        "for training only, and is not part of these weights.",
        f"A video of an episode: [{VIDEO}]({VIDEO})." if video else "",
        "## Use",
        "```python\n"
        "import mcurl\n\n"
        'policy = mcurl.load("path/of/this/folder")\n'
        "action = policy.act(observation)  # needs no environment\n"
        "```",
        f"`observation` is {observation}{order}; the action is {actions}. `policy.env()` makes the "
        "environment with the settings of training, if its package is installed.",
        "## Scores",
        "Undiscounted returns, mean ± standard deviation over the episodes of one evaluation.",
        _table(scores) if scores else "This policy was not evaluated.",
        *(
            ["## Other runs", "Their policies are not in this folder. Each is a seed of its own.", _table(others)]
            if others
            else []
        ),
        "## How it was made",
        _versions(config["versions"]),
        "All settings are in `config.json`. Train it again with:",
        f"```sh\n{config['command']}\n```",
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _header(settings: Mapping[str, Any], scores: Iterable[CardScore]) -> str:
    """The YAML header. Its values are JSON, which YAML contains."""
    suite, _, name = settings["task"].partition("/")
    tags = ["reinforcement-learning", "deep-reinforcement-learning", "mcurl", settings["task"], suite, name]
    tags += [settings["agent"], settings["method"]]
    entries: dict[str, Any] = {
        "library_name": "mcurl",
        "pipeline_tag": "reinforcement-learning",
        "tags": list(dict.fromkeys(tags)),
    }
    if models := _model_index(scores):
        entries["model-index"] = models
    lines = [f"{key}: {_yaml(value)}" for key, value in entries.items()]
    return "\n".join(["---", *lines, "---"])


def _yaml(value: Any) -> str:
    text = json.dumps(value, indent=1, ensure_ascii=False)
    return text.replace("\n", "\n  ")


def _model_index(scores: Iterable[CardScore]) -> list[dict[str, Any]]:
    """One entry for each policy, so that no score counts for another task or seed than its own."""
    results: dict[str, list[dict[str, Any]]] = {}
    for score in scores:
        metric = {
            "type": "mean_reward",
            "name": f"mean return of {len(score.returns)} episodes after {score.env_steps} env steps, "
            f"seed {score.seed}, {score.origin}",
            "value": score.value,
            "verified": False,
        }
        results.setdefault(score.model, []).append(
            {
                "task": {"type": "reinforcement-learning", "name": "reinforcement-learning"},
                "dataset": {"name": score.task, "type": score.task},
                "metrics": [metric],
            }
        )
    return [{"name": name, "results": entries} for name, entries in results.items()]


def _table(scores: Iterable[CardScore]) -> str:
    lines = ["| task | seed | env steps | evaluation | episodes | return |", "|---|---:|---:|---|---:|---:|"]
    for score in scores:
        mean, deviation = fmean(score.returns), pstdev(score.returns)
        cells = [score.task, str(score.seed), f"{score.env_steps:,}", score.origin, str(len(score.returns))]
        lines.append(f"| {' | '.join([*cells, f'{mean:.2f} ± {deviation:.2f}'])} |")
    return "\n".join(lines)


def _versions(versions: Mapping[str, Any]) -> str:
    lines = ["| | |", "|---|---|", *(f"| {name} | {value} |" for name, value in versions.items() if value is not None)]
    return "\n".join(lines)
