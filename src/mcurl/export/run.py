"""Exporting the policy of a run: weights, settings, scores, versions and a video, from its folder."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mcurl.config.resolve import resolve
from mcurl.config.settings import TrainSettings
from mcurl.config.tasks import flatten
from mcurl.errors import UserError
from mcurl.export.card import CardScore, model_card
from mcurl.export.folder import make_config, write
from mcurl.loading import load_agent
from mcurl.run.checkpoint import tree_hash
from mcurl.run.folder import Checkpoint, Run
from mcurl.runtime.program import command_line
from mcurl.watch import watch

LONGEST = 60.0
"""Longest video, in seconds."""


def export(
    run: Run, checkpoint: Checkpoint, folder: Path, *, others: Sequence[CardScore] = (), video: bool = True
) -> list[str]:
    """Write the policy of a checkpoint as a folder. The run folder is not changed.

    Args:
        run: a run folder.
        checkpoint: of this run.
        folder: a new or empty folder.
        others: scores of other runs, for the model card.
        video: try to make a video of an episode.

    Returns:
        What is to be said to the user, such as why there is no video.

    Raises:
        UserError: the run cannot be read, its environment is not installed, or ``folder`` is not empty.
    """
    settings = TrainSettings.from_json(run.settings)
    loaded = load_agent(run, settings, checkpoint)
    state = loaded.agent.policy_state()
    metadata = run.metadata
    config = make_config(
        settings.to_json(),
        loaded.clock,
        loaded.observation_shape,
        loaded.action_space,
        name=run.name,
        label=metadata.get("label") or settings.label,
        command=_command(metadata, settings),
        versions=_versions(metadata),
        policy=tree_hash(state),
    )
    notes: list[str] = []

    def film(path: Path) -> bool:
        try:
            watch([(run, checkpoint)], path, seconds=LONGEST)
        except UserError as error:
            notes.append(f"no video: {error}")
            return False
        return path.exists()

    scores = _scores(run, checkpoint.env_steps, config["policy"])
    if not scores:
        notes.append(f"no score: this checkpoint was not evaluated; {command_line('evaluate', run.folder)} does that")
    write(folder, config, state, lambda shown: model_card(config, scores, others, shown), film if video else None)
    return notes


def _scores(run: Run, env_steps: int, policy: str) -> list[CardScore]:
    """The evaluations of these weights: in training, and of `mcurl evaluate`."""
    settings = run.settings
    about = settings["task"], run.name, int(settings["seed"]), env_steps
    returns = run.checked_evaluations().get(env_steps)
    training = [CardScore(*about, tuple(returns), "evaluation in training")] if returns else []
    return training + [
        CardScore(*about, tuple(values["returns"]), f"mcurl evaluate, seed {values['seed']}")
        for values in run.results()
        if values.get("env_steps") == env_steps and values.get("policy") == policy
    ]


def _command(metadata: Mapping[str, Any], settings: TrainSettings) -> str:
    """The command line that made the run, without its folder of runs.

    A similar one, of a run from Python or with a preset, which is a file that others do not have.
    """
    words = list(metadata.get("command", []))
    while "--out" in words:
        at = words.index("--out")
        del words[at : at + 2]
    words = [word for word in words if not word.startswith("--out=")]
    if words[:2] != ["mcurl", "train"] or any(word.partition("=")[0] == "--preset" for word in words):
        words = ["mcurl", "train", settings.task, "--method", settings.method, "--agent", settings.agent]
        words += ["--env-steps", str(settings.env_steps), "--seed", str(settings.seed)]
        words += ["--set", *changes] if (changes := _changes(settings)) else []
    return shlex.join(words)


def _changes(settings: TrainSettings) -> list[str]:
    """``key=value`` of each setting that differs from what the task, method and agent have by default."""
    s = settings
    defaults = dict(flatten(resolve(s.task, s.method, agent=s.agent, seed=s.seed, env_steps=s.env_steps).to_json()))
    return [
        f"{key}={str(value).lower() if value is None or isinstance(value, bool) else value}"
        for key, value in flatten(s.to_json())
        if value != defaults.get(key)
    ]


def _versions(metadata: Mapping[str, Any]) -> dict[str, Any]:
    """Versions of mcurl and of the packages of the run, without what tells of its machine."""
    names = ("mcurl", "commit", "python", "torch")
    versions = {name: metadata.get(name) for name in names}
    return versions | dict(metadata.get("packages", {})) | dict(metadata.get("environment", {}))
