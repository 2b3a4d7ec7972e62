"""The folder of an exported policy.

    README.md           the model card
    config.json         what the policy is: all settings of its run, shapes, counters, versions
    model.safetensors   the weights that acting needs
    model.json          their names and checksums
    replay.mp4          a video of an episode, if one was made

Reading it executes nothing: a class of the user's is used only if its module is imported already.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np

from mcurl.agents.base import Clock
from mcurl.errors import UserError
from mcurl.files import folder_aside, read_object
from mcurl.run.checkpoint import load_tree, save_tree

FORMAT, VERSION = "mcurl-policy", 1
CARD, CONFIG, WEIGHTS, VIDEO = "README.md", "config.json", "model", "replay.mp4"
"""Names of the files; those of the weights have the suffixes ``.safetensors`` and ``.json``."""


@dataclass(frozen=True)
class Exported:
    """An exported policy."""

    config: Mapping[str, Any]
    """The contents of ``config.json``."""
    state: Mapping[str, Any]
    """The weights, as :meth:`mcurl.agents.base.Agent.policy_state` returned them."""

    @property
    def clock(self) -> Clock:
        """The counters of the run at these weights."""
        return Clock(**self.config["clock"])

    @property
    def observation_shape(self) -> tuple[int, ...]:
        """``(K*C, H, W)`` of stacked pixels or ``(D,)`` of states."""
        return tuple(self.config["observation"]["shape"])

    @property
    def action_space(self) -> gymnasium.Space[Any]:
        """Box in [-1, 1], or Discrete."""
        action = self.config["action"]
        if "n" in action:
            return gymnasium.spaces.Discrete(action["n"])
        return gymnasium.spaces.Box(-1, 1, tuple(action["shape"]), np.float32)


def make_config(
    settings: Mapping[str, Any],
    clock: Clock,
    observation_shape: tuple[int, ...],
    action_space: gymnasium.Space[Any],
    **other: Any,
) -> dict[str, Any]:
    """The contents of ``config.json``.

    Args:
        settings: all settings of the run, as JSON values.
        clock: the counters of the run at the weights.
        observation_shape: ``(K*C, H, W)`` or ``(D,)``.
        action_space: Box in [-1, 1], or Discrete.
        other: more JSON values, such as versions.
    """
    action: dict[str, Any] = {"shape": list(action_space.shape or ())}
    if isinstance(action_space, gymnasium.spaces.Discrete):
        action = {"n": int(action_space.n)}
    return {
        "format": FORMAT,
        "version": VERSION,
        "library_name": "mcurl",
        "clock": {name: getattr(clock, name) for name in ("agent_steps", "updates", "action_repeat", "horizon")},
        "observation": {
            "shape": list(observation_shape),
            "dtype": "uint8" if len(observation_shape) == 3 else "float32",
        },
        "action": action,
        **other,
        "settings": dict(settings),
    }


def check_target(folder: Path) -> None:
    """Check that a folder can be written. Raises UserError if it is not empty or not a folder, or has no parent."""
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UserError(f"{folder} exists already and is not an empty folder: use another name for --to")
    if not folder.exists() and not folder.absolute().parent.is_dir():
        raise UserError(f"{folder.absolute().parent} is not a folder: create it, or use another name for --to")


def write(
    folder: Path,
    config: Mapping[str, Any],
    state: Mapping[str, Any],
    card: Callable[[bool], str],
    video: Callable[[Path], bool] | None = None,
) -> None:
    """Write an exported policy. Its files have their names when all of them are complete.

    Args:
        folder: a new or empty folder.
        config: see :func:`make_config`.
        state: the weights that acting needs.
        card: whether there is a video -> the model card.
        video: writes a video to a path, and returns whether it did; None: no video.

    Raises:
        UserError: the folder is not empty.
    """
    check_target(folder)
    with folder_aside(folder.absolute()) as aside:
        draft = aside / "policy"
        draft.mkdir()  # with the user's permissions, which a temporary folder has not
        save_tree(draft, dict(state), WEIGHTS)
        (draft / CONFIG).write_text(json.dumps(config, indent=2) + "\n")
        shown = video is not None and video(draft / VIDEO)
        (draft / CARD).write_text(card(shown), encoding="utf-8")
        folder.mkdir(exist_ok=True)
        check_target(folder)
        for path in sorted(draft.iterdir()):
            os.replace(path, folder / path.name)


def is_export(folder: Path) -> bool:
    """Whether a path is the folder of an exported policy, which may be damaged."""
    try:
        return bool(_read_config(folder).get("format") == FORMAT)
    except UserError:
        return (folder / f"{WEIGHTS}.json").exists()


def foreign_code(task: str, env: Mapping[str, Any]) -> str:
    """What of an environment's settings would run code that their folder chooses; empty: nothing.

    Args:
        task: ``suite/name``.
        env: the section ``env`` of the settings.
    """
    suite, _, name = task.partition("/")
    module, colon, _ = name.rpartition(":")
    if suite != "gym":
        return ""
    if colon and module not in sys.modules:
        return f"the module {module}"
    return f"arguments for {name}, {dict(env['kwargs'])}" if env.get("kwargs") else ""


def read(folder: Path) -> Exported:
    """Read an exported policy. Nothing is executed or imported.

    Raises:
        UserError: the folder is damaged or of a newer version, or the policy needs a class of a module that is not
            imported yet.
    """
    config = _read_config(folder)
    if config.get("version") != VERSION:
        found = config.get("version")
        raise UserError(f"{folder} was written by another version of mcurl (format {found}, this one reads {VERSION})")
    exported = Exported(config, load_tree(folder, WEIGHTS, follow=True))
    try:
        _ = exported.clock.env_steps, exported.observation_shape, exported.action_space
        names = [str(config["settings"][key]) for key in ("method", "agent")]
    except (KeyError, TypeError, ValueError, AssertionError) as error:
        raise UserError(f"{folder / CONFIG} is damaged: {type(error).__name__} {error}") from error
    for name in names:
        module = name.partition(":")[0]
        if ":" in name and module not in sys.modules:
            raise UserError(
                f"{folder} needs {name}, which is not part of mcurl: if you trust that code, import {module} first"
            )
    return exported


def _read_config(folder: Path) -> dict[str, Any]:
    # The cache of the Hugging Face hub consists of links.
    return read_object(folder / CONFIG, follow=True)
