"""This machine: timed and examined."""

from __future__ import annotations

import argparse
import json

from mcurl.errors import UserError, suggest


def bench(options: argparse.Namespace) -> int:
    """Time the parts of a run."""
    from mcurl.bench.command import PARTS, run
    from mcurl.run.status import StatusLine

    parts = options.what or ["update"]
    for part in parts:
        if part not in PARTS:
            raise UserError(f"bench: unknown part {part!r}: {suggest(part, PARTS)}")
    with StatusLine("timing"):
        run(
            parts,
            suites=options.suite or ["dmc", "atari"],
            methods=options.method or ["mcurl", "curl"],
            overrides=options.overrides,
            without=options.without,
            threads=options.threads or 0,
            precision=options.precision,
            repeats=options.repeats,
            plain=options.plain,
            target=options.json,
            plot_dir=options.plot_dir,
        )
    return 0


def doctor(options: argparse.Namespace) -> int:
    """Examine this machine. Exit status 1 if the default task cannot be trained on it."""
    from rich.console import Console

    from mcurl.doctor.report import examine

    with Console(stderr=True).status("examining") as status:
        report = examine(lambda what: status.update(f"examining {what}"))
    print(json.dumps(report.to_json(), indent=2) if options.json else report.to_text())
    return 0 if report.can_train else 1
