"""Suites: listed, shown, run; and the tasks."""

from __future__ import annotations

import argparse
import os
import sys
from typing import TYPE_CHECKING

from mcurl.commands.options import import_from_current_folder
from mcurl.errors import UserError

if TYPE_CHECKING:
    from rich.console import Console

    from mcurl.suites.ray import RayProcesses
    from mcurl.suites.suite import Suite, SuiteRun


def tasks(options: argparse.Namespace) -> int:
    """Print the tasks of a suite or of a list of tasks."""
    from mcurl.config.tasks import task_names, task_overview

    print("\n".join(task_names(options.suite) if options.suite else task_overview()))
    return 0


def suite(options: argparse.Namespace) -> int:
    """Print the help of the actions on suites."""
    options.print_help()
    return 0


def suite_list(options: argparse.Namespace) -> int:
    """Print the suites of the package."""
    from rich.console import Console

    from mcurl.suites.show import list_suites

    list_suites(_wide(Console(highlight=False)))
    return 0


def suite_show(options: argparse.Namespace) -> int:
    """Print the runs of a suite, the time that they take, and which of them exist."""
    from rich.console import Console

    from mcurl.run.status import StatusLine
    from mcurl.suites import hours
    from mcurl.suites.show import Overview

    suite, runs = _suite_runs(options)
    jobs = _jobs(options, len(runs))
    overview = Overview.read(suite, runs, options.out, jobs)
    if options.measure:
        for run in overview.unknown.values():
            with StatusLine(f"timing {run.task} {run.arm.name}"):
                hours.measure(run, jobs)
        overview = Overview.read(suite, runs, options.out, jobs)
    overview.print(_wide(Console(highlight=False)))
    return 0


def suite_run(options: argparse.Namespace) -> int:
    """Train the runs of a suite."""
    from mcurl.build import memory_needed
    from mcurl.files import make_writable
    from mcurl.runtime.memory import check_memory_of_runs
    from mcurl.suites.display import PoolDisplay
    from mcurl.suites.hours import threads
    from mcurl.suites.pool import Pool

    suite, runs = _suite_runs(options)
    cluster = _cluster(options)
    if cluster is None:
        jobs = at_once = _jobs(options, len(runs))
        cpus = threads(jobs)
    else:
        # By default all are started, so that a cluster that grows on demand sees the demand.
        jobs, cpus = options.jobs or len(runs), cluster.threads
        at_once = min(jobs, max(cluster.slots, 1))
    with PoolDisplay(f"{suite.name}: {len(runs)} runs", str(options.out), at_once) as display:
        if cluster is not None:
            display.message(cluster.description)
        pool = Pool(
            runs,
            options.out,
            jobs=jobs,
            processes=cluster,
            display=display,
            overrides=[f"compute.threads={cpus}"],
            retries=options.retries,
        )
        open_runs = [entry.run for entry in pool.entries.values() if entry.open]
        if cluster is None:
            check_memory_of_runs([memory_needed(run.settings) for run in open_runs], jobs, "--jobs")
        if open_runs:
            make_writable(options.out)
        status = pool.run()
    failed = [entry for entry in pool.entries.values() if entry.failure]
    for entry in failed:
        print(f"mcurl: {entry.run.name} failed: {entry.failure}", file=sys.stderr)
        for line in list(entry.output)[:-1]:
            print(f"  {line}", file=sys.stderr)
    if status > 1:
        print("stopped; the same command continues")
    return status


def _cluster(options: argparse.Namespace) -> RayProcesses | None:
    """The Ray cluster of ``--on ray``; None: this machine."""
    if options.on == "ray":
        from mcurl.suites.ray import RayProcesses

        return RayProcesses(
            options.out,
            address=options.address,
            threads=options.threads or 1,
            gpus=options.gpus,
            retries=options.retries,
        )
    for name in ("address", "threads", "gpus"):
        if getattr(options, name) is not None:
            raise UserError(f"--{name} has an effect only with --on ray")
    return None


def _suite_runs(options: argparse.Namespace) -> tuple[Suite, list[SuiteRun]]:
    """The suite and its chosen runs. All settings are checked."""
    from mcurl.suites.suite import Suite, check_runs

    import_from_current_folder()
    suite = Suite.load(options.name)
    runs = suite.runs(options.tasks, options.methods, options.seeds)
    check_runs(runs)
    return suite, runs


def _jobs(options: argparse.Namespace, runs: int) -> int:
    from mcurl.runtime.threads import available_cores

    return min(options.jobs or available_cores(), runs)


def _wide(console: Console) -> Console:
    """Complete rows, even if the output is not a terminal, unless the user says its width."""
    if not console.is_terminal and not os.environ.get("COLUMNS"):
        console.width = max(console.width, 120)
    return console
