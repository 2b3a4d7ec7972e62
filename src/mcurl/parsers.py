"""The parsers of the command line: what each command takes, and its help."""

from __future__ import annotations

import argparse
import os
import re
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

from mcurl import __version__, commands
from mcurl.errors import UserError
from mcurl.files import kind
from mcurl.run.names import MAX_SEED, check_name

DESCRIPTION = "M-CURL: masked contrastive representation learning for reinforcement learning from pixels."
EXAMPLES = """\
examples (RUN is a run folder, such as runs/dmc-cartpole-swingup/mcurl-seed1):
  mcurl train dmc/cartpole-swingup         M-CURL with SAC, 100k env steps
  mcurl train atari/Krull --method curl    CURL with Rainbow on Atari 100k
  mcurl train dmc/walker-walk --set mcurl.mask_rate=0.5 sac.batch_size=512
  mcurl resume RUN                         continue a stopped run
  mcurl evaluate RUN --episodes 100        play episodes with its policy
  mcurl watch RUN                          a video of what the agent sees
  mcurl export RUN --to my-policy          its policy with a model card
  mcurl report runs --plot plots           print scores, plot learning curves
  mcurl suite run mini-dmc                 all runs of an experiment
  mcurl report runs --suite mini-dmc --out report    its tables and figures
  mcurl collect runs                       keep the scores in scores/
  mcurl verify scores                      play the episodes again
  mcurl bench update --plain               time an update, and a textbook one
  mcurl settings dmc/cartpole-swingup      all settings, and what they do
  mcurl doctor                             what works on this machine
"""
DEBUG_OPTION = "--debug"
TASK_HELP = (
    "suite/name, such as dmc/cartpole-swingup, atari/Pong, toy/reach, gym/CartPole-v1, gym/my_module:MyEnv-v0; "
    "see `mcurl tasks`"
)
METHOD_HELP = (
    "mcurl, curl, seq-curl, sym-curl, rl-only (random crops with SAC), rl-only-nocrop, sac-state, "
    "or MODULE:CLASS, a user-defined Objective; default mcurl"
)
AGENT_HELP = "sac, rainbow, drqv2, or MODULE:CLASS, a user-defined Agent; default sac or rainbow, by the task's actions"


class Parser(argparse.ArgumentParser):
    """Reports an error in one line, without the usage."""

    def error(self, message: str) -> NoReturn:
        command = self.prog.removeprefix("mcurl").strip()
        hint = "put TASK before --set; " if message.endswith("required: TASK") else ""
        raise UserError(f"{command + ': ' if command else ''}{message} ({hint}see `{self.prog} --help`)")

    def options(self) -> list[str]:
        """Names of all options, such as ``--seed``."""
        return re.findall(r"--[\w-]+", self.format_usage())


Command = Callable[[argparse.Namespace], int]


def _sentences(text: str, details: str) -> str:
    """The description of a command, in lines of at most 80 columns."""
    return textwrap.fill(f"{text[0].upper()}{text[1:]}. {details}".strip(), 80)


def build_parsers() -> tuple[Parser, dict[str, Parser]]:
    """The parser of ``mcurl``, and those of its commands by name, in the order of the help text."""
    layout: dict[str, Any] = {"formatter_class": argparse.RawDescriptionHelpFormatter, "allow_abbrev": False}
    parser = Parser("mcurl", description=DESCRIPTION, epilog=EXAMPLES, **layout)
    parser.add_argument("--version", action="version", version=f"mcurl {__version__}")
    parser.add_argument(DEBUG_OPTION, action="store_true", help="show the traceback of an error; for every command")
    subparsers = parser.add_subparsers(metavar="COMMAND")
    parsers: dict[str, Parser] = {}

    def add(command: Command, text: str, details: str = "") -> Parser:
        name = command.__name__
        description = _sentences(text, details)
        parsers[name] = subparsers.add_parser(name, help=text, description=description, **layout)
        parsers[name].set_defaults(run=command)
        return parsers[name]

    stop = "Ctrl-C saves the run and prints how to resume it. A second Ctrl-C quits without saving."
    _add_train(add(commands.train, "train an agent", stop))
    exact = "On a CPU the result is the same, bit for bit, as without the interruption."
    _add_resume(add(commands.resume, "resume a run from its latest checkpoint", exact))
    kept = "The result is kept in RUN/results. Nothing else in the run folder is changed, except by --final --record."
    _add_evaluate(add(commands.evaluate, "evaluate the policy of a run's latest checkpoint", kept))
    shown = "The episode is one of those of `mcurl evaluate`. Needs PyAV and Pillow (pip install 'mcurl[video]')."
    _add_watch(add(commands.watch, "write a video of what agents see, beside what a person sees", shown))
    acts = "The folder needs no environment to act: mcurl.load(FOLDER).act(observation). See docs/export.md."
    _add_export(add(commands.export, "export the policy of a run for other people, with a model card", acts))
    exact = "Exit status 1 if a score does not come out. Nothing in the paths is changed."
    _add_verify(add(commands.verify, "verify scores by playing their recorded episodes again", exact))
    preset = "The output is a preset: save it, edit it, and use it with --preset."
    _add_settings(add(commands.settings, "print all settings of a run as TOML", preset))
    kept = "The files are scores/<benchmark>/<name>/<task>.csv. A score is replaced only with --replace."
    _add_collect(add(commands.collect, "add the scores of runs to a folder of scores", kept))
    files = "Scores are only read. With --out or --suite, an earlier report in the folder is replaced; nothing else is."
    _add_report(add(commands.report, "print scores, write a report, and plot learning curves", files))
    budget = (
        "Prints a Markdown table of the scores at the benchmark's budgets (dmc: 100k and 500k env steps; atari100k: "
        "400k frames)."
    )
    _add_table(add(commands.table, "compare scores with published ones", budget))
    experiments = "A suite is an experiment of the paper, or the TOML file of your own (docs/suites.md)."
    _add_suite(add(commands.suite, "list, show or run the experiments of the paper", experiments), parsers, layout)
    idle = "Use an idle machine."
    _add_bench(add(commands.bench, "time the parts of a run", idle))
    works = "Exit status 1 if the default task cannot be trained here, with the reason."
    doctor = add(commands.doctor, "examine this machine: what works, what is missing, how to get it", works)
    doctor.add_argument("--json", action="store_true", help="print the report as JSON")
    lists = "a suite (dmc, atari, toy, gym) or a list of tasks from the paper (dmc16, atari26, ...)"
    add(commands.tasks, "list tasks").add_argument("suite", nargs="?", metavar="SUITE", help=lists)
    return parser, parsers


def _add_train(train: Parser) -> None:
    _add_settings(train)
    seeds = "random seed, or several seeds to train in parallel, such as 1,2,3; default 1"
    train.add_argument("--seed", type=_seeds, default=[1], metavar="N", help=seeds)
    share = "largest number of seeds that train in parallel; default one per core. They share the cores equally"
    train.add_argument("--max-parallel", type=_count, metavar="N", help=share)
    train.add_argument("--at-once", dest="max_parallel", type=_count, help=argparse.SUPPRESS)  # its former name
    out = "folder of all runs; default runs. An existing run is never overwritten"
    train.add_argument("--out", type=_folder, default=Path("runs"), metavar="DIR", help=out)
    name = "name of the run in its folder, in results and in plots; default the method and the changed settings"
    train.add_argument("--name", type=_name, metavar="NAME", help=name)
    _add_log(train)


def _add_resume(resume: Parser) -> None:
    run = "run folder, such as runs/dmc-cartpole-swingup/mcurl-seed1"
    resume.add_argument("path", type=Path, metavar="RUN", help=run)
    budget = "new, larger budget in simulator steps; schedules keep their original horizon"
    resume.add_argument("--env-steps", metavar="N", help=budget)
    checkpoint = "continue from this checkpoint, such as 100k; what came later is kept in *.aside; default the latest"
    resume.add_argument("--checkpoint", metavar="N", help=checkpoint)
    _add_import(resume)
    _add_log(resume)


def _add_log(parser: Parser) -> None:
    sinks = "additional output of metrics: tensorboard, in the run folder"
    parser.add_argument("--log", action="append", default=[], metavar="SINK", help=sinks)


def _add_evaluate(evaluate: Parser) -> None:
    evaluate.add_argument("path", type=Path, metavar="RUN", help="run folder")
    evaluate.add_argument("--episodes", type=_count, metavar="N", help="number of episodes; default 100")
    evaluate.add_argument("--seed", type=_natural, metavar="N", help="seed of the episodes; default the run's seed")
    final = "play the episodes of the final evaluation again, and check that they come out as in training"
    evaluate.add_argument("--final", action="store_true", help=final)
    record = (
        "record the episodes for `mcurl verify` in a new file; with --final and without FILE, in the run folder, "
        "as training does"
    )
    evaluate.add_argument("--record", nargs="?", const="", metavar="FILE", help=record)

    video = "write a video of the first episode, a new MP4 file; needs PyAV (pip install 'mcurl[video]')"
    evaluate.add_argument("--video", type=Path, metavar="FILE", help=video)
    evaluate.add_argument("--json", action="store_true", help="print the result as JSON")
    _add_import(evaluate)
    _add_checkpoint(evaluate)


def _add_checkpoint(parser: Parser) -> None:
    checkpoint = "env steps of the checkpoint, such as 100k; default the latest"
    parser.add_argument("--checkpoint", metavar="N", help=checkpoint)


def _add_watch(watch: Parser) -> None:
    watch.add_argument("paths", nargs="+", type=Path, metavar="RUN", help="run folders; they play side by side")
    out = "the video, a new MP4 file; default watch.mp4"
    watch.add_argument("--out", type=Path, default=Path("watch.mp4"), metavar="FILE", help=out)
    watch.add_argument("--episode", type=_natural, default=0, metavar="N", help="number of the episode; default 0")
    watch.add_argument("--seed", type=_natural, metavar="N", help="seed of the episodes; default the run's seed")
    seconds = "longest length of the video in seconds; default until all episodes have ended"
    watch.add_argument("--seconds", type=_count, metavar="N", help=seconds)
    _add_import(watch)
    _add_checkpoint(watch)


def _add_export(export: Parser) -> None:
    export.add_argument("path", type=Path, metavar="RUN", help="run folder")
    to = "the folder, new or empty; its layout is that of the Hugging Face hub"
    export.add_argument("--to", type=_folder, required=True, metavar="FOLDER", help=to)
    scores = "folders of scores or runs, whose other runs of this name the model card lists, each under its own name"
    export.add_argument("--scores", nargs="+", type=Path, metavar="PATH", help=scores)
    export.add_argument("--no-video", action="store_true", help="leave out the video of an episode")
    push = "also upload the folder to a new model repository of the hub; needs a login (pip install 'mcurl[hub]')"
    export.add_argument("--push", metavar="USER/NAME", help=push)
    export.add_argument("--private", action="store_true", help="with --push: only you see the repository")
    _add_import(export)
    _add_checkpoint(export)


def _add_verify(verify: Parser) -> None:
    paths = "results folders, run folders, folders that contain them, or *.episodes files"
    verify.add_argument("paths", nargs="+", type=Path, metavar="PATH", help=paths)
    verify.add_argument("--jobs", type=_count, metavar="N", help="number of processes; default all cores")
    verify.add_argument("--keep-going", action="store_true", help="do not stop at the first score that fails")
    verify.add_argument("--strict", action="store_true", help="a score without recorded episodes is a failure, too")
    picture = "also draw the best and the median episode of each score as DIR/*.png"
    verify.add_argument("--picture", type=_folder, metavar="DIR", help=picture)
    video = "also write videos of them as DIR/*.mp4; needs PyAV (pip install 'mcurl[video]')"
    verify.add_argument("--video", type=_folder, metavar="DIR", help=video)
    _add_import(verify, "environments of your own (gym/MODULE:ID)")


def _add_import(parser: Parser, content: str = "what a run uses of your own: MODULE:CLASS, or gym/MODULE:ID") -> None:
    text = f"import a module with {content}; its code runs"
    parser.add_argument("--import", dest="modules", action="append", default=[], metavar="MODULE", help=text)


def _add_settings(parser: Parser) -> None:
    """Add the options that determine the settings of a run."""
    parser.add_argument("task", metavar="TASK", help=TASK_HELP)
    parser.add_argument("--method", default="mcurl", metavar="NAME", help=METHOD_HELP)
    parser.add_argument("--agent", metavar="NAME", help=AGENT_HELP)
    budget = "budget in simulator steps, action repeat included: 100k, 1e5, 400_000"
    parser.add_argument("--env-steps", metavar="N", help=budget)
    preset = "TOML file of settings, or the name of a preset of the suite"
    parser.add_argument("--preset", metavar="FILE", help=preset)
    _add_overrides(parser, "values of settings; see `mcurl settings TASK`")
    threads = "CPU threads; default all cores (compute.threads)"
    parser.add_argument("--threads", type=_count, metavar="N", help=threads)


def _add_overrides(parser: Parser, text: str) -> None:
    parser.add_argument(
        "--set", dest="overrides", nargs="+", action="extend", default=[], metavar="KEY=VALUE", help=text
    )


def _add_collect(collect: Parser) -> None:
    paths = "run folders, or folders that contain them"
    collect.add_argument("paths", nargs="+", type=Path, metavar="RUNS", help=paths)
    results = "folder of the scores; default scores"
    collect.add_argument("--results", type=_folder, default=Path("scores"), metavar="DIR", help=results)
    replace = "replace the scores of other runs with the same name and seed, and say which"
    collect.add_argument("--replace", action="store_true", help=replace)
    name = "name of the runs in the scores, instead of their own, such as mcurl-conv"
    collect.add_argument("--name", type=_name, metavar="NAME", help=name)
    label = "name of the runs in tables and plots; default --name or their own"
    collect.add_argument("--label", metavar="TEXT", help=label)
    note = "what a reader must know of the runs; with the word chosen in it, statistics and claims leave them out"
    collect.add_argument("--note", default="", metavar="TEXT", help=note)


def _add_report(report: Parser) -> None:
    paths = "folders of scores, run folders, or folders that contain run folders"
    report.add_argument("paths", nargs="+", type=Path, metavar="PATHS", help=paths)
    out = "folder of a report: an HTML page, Markdown, CSV, SVG and PNG; default report with --suite, else none"
    report.add_argument("--out", type=_folder, metavar="DIR", help=out)
    suite = "report a suite, such as table1, or a TOML file; may be repeated. Missing runs are shown as missing"
    report.add_argument("--suite", action="append", default=[], metavar="NAME", help=suite)
    published = "published columns of the report, such as m-curl,curl,der-final (docs/report.md); default the main ones"
    report.add_argument("--published", type=_names, metavar="NAMES", help=published)
    report.add_argument("--no-png", action="store_true", help="leave out PNG files, which need matplotlib")
    plots = "plot the learning curves and published scores of each task as DIR/<benchmark>-<task>.png"
    report.add_argument("--plot", type=_folder, metavar="DIR", help=plots)
    table = "write all returns as one long table for other tools, a new file in .csv or .parquet (docs/statistics.md)"
    report.add_argument("--table", type=Path, metavar="FILE", help=table)
    offline = "write the runs for openrlbenchmark's offline mode, to a new folder (docs/statistics.md)"
    report.add_argument("--openrlbenchmark", type=_folder, metavar="DIR", help=offline)


def _add_table(table: Parser) -> None:
    table.add_argument("benchmark", metavar="BENCHMARK", help="dmc or atari100k")
    results = "folder of scores; default those that come with the package"
    table.add_argument("--results", type=_folder, metavar="DIR", help=results)


def _add_suite(suite: Parser, parsers: dict[str, Parser], layout: dict[str, Any]) -> None:
    """Add ``suite list``, ``suite show`` and ``suite run``."""
    suite.set_defaults(print_help=suite.print_help)
    subparsers = suite.add_subparsers(metavar="ACTION")

    def add(command: Command, name: str, text: str, details: str) -> Parser:
        description = _sentences(text, details)
        parsers[f"suite {name}"] = subparsers.add_parser(name, help=text, description=description, **layout)
        parsers[f"suite {name}"].set_defaults(run=command)
        return parsers[f"suite {name}"]

    add(commands.suite_list, "list", "list the suites", "Each is arms (methods with settings) × tasks × seeds.")
    show = add(
        commands.suite_show,
        "show",
        "show the runs of a suite: how many, how long they take, which exist",
        "Nothing is changed.",
    )
    _add_suite_runs(show)
    measure = "time each kind of run for a short time, and remember the result; use an idle machine"
    show.add_argument("--measure", action="store_true", help=measure)
    again = (
        "Ctrl-C saves all runs; the same command continues them. Finished runs are not made again. A run that another "
        "process trains is left to it. The exit status is 1 if a run failed."
    )
    run = add(commands.suite_run, "run", "train the runs of a suite, each in a process of its own", again)
    _add_suite_runs(run)
    retries = "how often a failed run is started again without a new checkpoint in between; default 2"
    run.add_argument("--retries", type=_natural, default=2, metavar="N", help=retries)
    on = "where the runs are trained: local (this machine, the default), or ray (a Ray cluster, see docs/clusters.md)"
    run.add_argument("--on", choices=("local", "ray"), default="local", metavar="WHERE", help=on)
    address = "of the Ray cluster: host:port, auto, or local for a new one; default RAY_ADDRESS, else local"
    run.add_argument("--address", metavar="HOST:PORT", help=address)
    run.add_argument("--threads", type=_count, metavar="N", help="CPUs of each run on Ray; default 1")
    gpus = "GPUs of each run on Ray, such as 0.25; default 1 if the cluster has any, else 0"
    run.add_argument("--gpus", type=_gpus, metavar="X", help=gpus)


def _add_suite_runs(parser: Parser) -> None:
    """Add the options that choose runs of a suite."""
    parser.add_argument("name", metavar="SUITE", help="name of a suite, see `mcurl suite list`, or path of a TOML file")
    parser.add_argument("--tasks", type=_names, metavar="A,B", help="only these tasks, such as Krull,Boxing")
    parser.add_argument("--methods", type=_names, metavar="A,B", help="only these arms, such as mcurl,curl")
    seeds = "these seeds instead of the suite's, such as 1,2"
    parser.add_argument("--seeds", type=_seeds, metavar="1,2", help=seeds)
    jobs = "runs at a time; default one per core (at most OMP_NUM_THREADS). They share the cores equally"
    parser.add_argument("--jobs", type=_count, metavar="N", help=jobs)
    out = "folder of all runs; default runs"
    parser.add_argument("--out", type=_folder, default=Path("runs"), metavar="DIR", help=out)


def _add_bench(bench: Parser) -> None:
    parts = "update, busy, act, run, memory, replay, render, env, checkpoint, profile; default update"
    bench.add_argument("what", nargs="*", metavar="PART", help=parts)
    plain = "also time the textbook version of each update: float32, contiguous tensors, no fused operations"
    bench.add_argument("--plain", action="store_true", help=plain)
    without = (
        "also time each update without this accelerated operation (amx.transformer, frames, ...) or group of "
        "operations (amx, onednn, all); may be repeated"
    )
    bench.add_argument("--without", action="append", default=[], metavar="NAME", help=without)
    suite = ("dmc", "atari")
    bench.add_argument("--suite", choices=suite, action="append", metavar="NAME", help="dmc or atari; default both")
    methods = "method, as for train; default mcurl and curl"
    bench.add_argument("--method", action="append", metavar="NAME", help=methods)
    _add_overrides(bench, "values of settings, for update, busy and profile")
    precision = ("auto", "fp32", "tf32", "bf16")
    text = "auto, fp32, tf32 or bf16; default auto"
    bench.add_argument("--precision", choices=precision, default="auto", metavar="NAME", help=text)
    bench.add_argument("--threads", type=_count, metavar="N", help="CPU threads; default all cores")
    bench.add_argument("--repeats", type=_count, default=20, metavar="N", help="number of repetitions; default 20")
    plot_dir = "folder of the figures of profile; default plots"
    bench.add_argument("--plot-dir", type=_folder, default=Path("plots"), metavar="DIR", help=plot_dir)
    bench.add_argument("--json", type=Path, metavar="FILE", help="also write the timings to a JSON file")


def _natural(text: str) -> int:
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"expected an integer from 0, not {text!r}")
    if len(text) > len(str(MAX_SEED)):
        raise argparse.ArgumentTypeError(f"expected an integer from 0 to {MAX_SEED}, not one of {len(text)} digits")
    return int(text)


def _names(text: str) -> list[str]:
    names = [name.strip() for name in text.split(",") if name.strip()]
    if not names:
        raise argparse.ArgumentTypeError("expected names, separated by commas")
    return names


def _seeds(text: str) -> list[int]:
    seeds = [_natural(part) for part in text.split(",")]
    if len(set(seeds)) < len(seeds):
        raise argparse.ArgumentTypeError(f"expected distinct seeds, not {text!r}")
    return seeds


def _name(text: str) -> str:
    try:
        return check_name(text)
    except UserError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def _gpus(text: str) -> float:
    try:
        number = float(text)
    except ValueError:
        number = -1
    if not 0 <= number < 1 and not (number >= 1 and number.is_integer()):
        raise argparse.ArgumentTypeError(f"expected a whole number, or a part of one GPU such as 0.25, not {text!r}")
    return number


def _folder(text: str) -> Path:
    """A folder, or the path of a new one."""
    path = Path(text)
    if os.path.lexists(path) and not path.is_dir():
        raise argparse.ArgumentTypeError(f"expected a folder, and {text!r} is {kind(path)}")
    return path


def _count(text: str) -> int:
    if not text.isdecimal() or int(text) == 0:
        raise argparse.ArgumentTypeError(f"expected an integer from 1, not {text!r}")
    return int(text)
