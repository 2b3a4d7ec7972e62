"""The run folder: settings, logs and checkpoints of a run. A run is never overwritten or deleted.

<out>/<suite>-<task>/<name>-seed<k>/      the name: the method and changed settings, or --name
    settings.json       all resolved settings
    run.json            format, name, label, versions, commit, machine, command line; one more entry for each resume
    metrics.jsonl       one JSON object per line, without times: the same seed gives the same file
    evaluations.csv     env_steps,episode,return
    episodes/<env_steps>.episodes   the episodes of the evaluations that give a score, to play them again
    results/<env_steps>-seed<k>-<n>episodes.json   what `mcurl evaluate` found, one file for each result
    speed.jsonl         wall-clock times
    tensorboard/        TensorBoard event files, with --log tensorboard
    checkpoints/<env_steps>/   the two latest checkpoints and all final ones
    replay/             files of the replay, to which new frames are appended
    lock                locked by the process that trains, and naming it
"""

from mcurl.run.folder.checkpoints import RECENT_CHECKPOINTS, Checkpoint, earlier_hint
from mcurl.run.folder.paths import is_run, run_folder, suggest_runs
from mcurl.run.folder.run import Run, SettingsChangedError

__all__ = [
    "RECENT_CHECKPOINTS",
    "Checkpoint",
    "Run",
    "SettingsChangedError",
    "earlier_hint",
    "is_run",
    "run_folder",
    "suggest_runs",
]
