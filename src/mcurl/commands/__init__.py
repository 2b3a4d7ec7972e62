"""The commands of the command line.

Each function takes the parsed options and returns the exit status. It imports large modules itself, so that the command
line starts fast.
"""

from __future__ import annotations

from mcurl.commands.exporting import export
from mcurl.commands.machine import bench, doctor
from mcurl.commands.policies import evaluate, watch
from mcurl.commands.scores import collect, report, table, verify
from mcurl.commands.suites import suite, suite_list, suite_run, suite_show, tasks
from mcurl.commands.training import resume, settings, train

__all__ = [
    "bench",
    "collect",
    "doctor",
    "evaluate",
    "export",
    "report",
    "resume",
    "settings",
    "suite",
    "suite_list",
    "suite_run",
    "suite_show",
    "table",
    "tasks",
    "train",
    "verify",
    "watch",
]
