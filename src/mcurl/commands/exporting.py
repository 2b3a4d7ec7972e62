"""Policies for other people."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from mcurl.commands.options import chosen_checkpoint, import_modules, open_run
from mcurl.errors import UserError

if TYPE_CHECKING:
    from mcurl.export.card import CardScore
    from mcurl.run.folder import Run


def export(options: argparse.Namespace) -> int:
    """Write the policy of a checkpoint as a folder for other people, and upload it on request."""
    from mcurl.export.folder import check_target
    from mcurl.run.status import StatusLine

    import_modules(options.modules)
    check_target(options.to)
    hub = None
    if options.push:
        from mcurl.export.hub import Hub

        hub = Hub(options.push)
    elif options.private:
        raise UserError("--private has an effect only with --push")
    with open_run(options.path) as run:
        checkpoint = chosen_checkpoint(run, options.checkpoint)
        with StatusLine("exporting"):
            from mcurl.export.run import export  # takes seconds

            others = _scores_of(options.scores, run) if options.scores else []
            notes = export(run, checkpoint, options.to, others=others, video=not options.no_video)
    for note in notes:
        print(f"mcurl: {note}", file=sys.stderr)
    print(options.to)
    if hub is not None:
        with StatusLine("uploading"):
            address = hub.push(options.to, options.private)
        print(address)
    return 0


def _scores_of(paths: Sequence[Path], run: Run) -> list[CardScore]:
    """The last evaluation of each other run of the same name, from run folders and folders of scores."""
    from mcurl.export.card import CardScore
    from mcurl.report.store import read

    suites = {"atari100k": "atari"}
    scores = []
    for other in read(paths):
        task = f"{suites.get(other.benchmark, other.benchmark)}/{other.task}"
        if other.name != run.name or (task, other.seed) == (run.settings["task"], run.settings["seed"]):
            continue
        origin = "last evaluation" if other.finished else "last evaluation, unfinished"
        returns = tuple(other.episodes[other.env_steps])
        scores.append(CardScore(task, other.name, other.seed, other.env_steps, returns, origin))
    return scores
