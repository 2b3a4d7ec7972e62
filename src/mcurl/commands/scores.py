"""Scores: verified, collected, reported."""

from __future__ import annotations

import argparse
import shlex
from pathlib import Path
from typing import TYPE_CHECKING

from mcurl.commands.options import import_from_current_folder, import_modules
from mcurl.errors import UserError

if TYPE_CHECKING:
    from mcurl.report.scores import RunScores


def verify(options: argparse.Namespace) -> int:
    """Play recorded episodes again, and compare their returns with the scores."""
    from mcurl.runtime.threads import available_cores
    from mcurl.verify.command import Show, verify

    import_modules(options.modules)
    show = Show(options.picture, options.video)
    jobs = options.jobs or available_cores()
    return verify(
        options.paths,
        jobs=jobs,
        modules=options.modules,
        show=show,
        keep_going=options.keep_going,
        strict=options.strict,
    )


def collect(options: argparse.Namespace) -> int:
    """Add the scores of run folders to a store."""
    from mcurl.report.collect import add
    from mcurl.report.runs import read_runs

    runs = read_runs(options.paths, options.name, options.label, options.note)
    for change in add(options.results, runs, options.replace):
        print(change)
    return 0


def report(options: argparse.Namespace) -> int:
    """Print the scores of stores and run folders, write a report, and plot learning curves."""
    from mcurl.report import export, openrlbenchmark, plot, table
    from mcurl.report.curves import task_figure
    from mcurl.report.model import count
    from mcurl.report.store import file_name, read

    if options.table:
        export.check_target(options.table)
    if options.openrlbenchmark:
        openrlbenchmark.check_folder(options.openrlbenchmark)
    runs = read(options.paths)
    if options.suite or options.out:
        print(_write_report(runs, options))
    elif options.published or options.no_png:
        raise UserError("report: --published and --no-png are for a report: add --out DIR")
    else:
        print(table.overview(runs))
    if options.table:
        rows = export.write_table(export.rows(runs), options.table)
        print(f"{options.table}: {count(rows, 'row')}")
    if options.openrlbenchmark:
        written = openrlbenchmark.write_offline(runs, options.openrlbenchmark)
        print(f"{options.openrlbenchmark}: {count(written, 'run')}")
    for benchmark, task in dict.fromkeys((run.benchmark, run.task) for run in runs) if options.plot else ():
        target = options.plot / f"{benchmark}-{file_name(task)}.png"
        plot.save(task_figure(runs, benchmark, task), target)
        print(target)
    return 0


def _write_report(runs: list[RunScores], options: argparse.Namespace) -> Path:
    """Write a report into a folder. Returns its page."""
    from mcurl.report import contents, files
    from mcurl.suites.suite import Suite

    out = options.out or Path("report")
    files.check_replaceable(out)
    if options.suite:  # a class of the user's in an arm may lie in the current folder, as for `suite run`
        import_from_current_folder()
    suites = [Suite.load(name) for name in dict.fromkeys(options.suite)]
    words = ["mcurl", "report", *map(str, options.paths)]
    words += [word for name in options.suite for word in ("--suite", name)]
    words += ["--published", ",".join(options.published)] if options.published else []
    command = shlex.join([*words, *(["--no-png"] if options.no_png else []), "--out", str(out)])
    report = contents.report(runs, suites, options.published, command)
    return files.write(report, out, png=not options.no_png)[0]


def table(options: argparse.Namespace) -> int:
    """Print a table of scores and published scores."""
    from mcurl.report.store import load, shipped_results
    from mcurl.report.table import markdown

    print(markdown(load(options.results or shipped_results()), options.benchmark))
    return 0
