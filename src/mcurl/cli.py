"""The command line: parsers, and what becomes of errors. What each command does stands in ``commands.py``.

A mistake of the user is one line on standard error and exit status 2. Nothing is written before everything typed is
known to be good. Nothing heavy is imported before a command needs it: ``mcurl --help`` answers at once.
"""

from __future__ import annotations

import argparse
import os
import re
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NoReturn

from mcurl import __version__, commands
from mcurl.errors import UserError, suggest
from mcurl.runtime.threads import limit_openmp_spinning

DESCRIPTION = "M-CURL: masked contrastive representation learning for reinforcement learning from pixels."
EXAMPLES = """\
examples:
  mcurl train dmc/cartpole-swingup                      M-CURL on SAC, 100k env steps, into runs/
  mcurl train atari/RoadRunner --method curl --seed 2   CURL on Rainbow, Atari 100k
  mcurl train dmc/walker-walk --set mcurl.mask_rate=0.5 sac.batch_size=512
  mcurl resume runs/dmc-cartpole-swingup/mcurl-seed1    go on exactly where it stopped
  mcurl evaluate runs/dmc-cartpole-swingup/mcurl-seed1 --episodes 100
  mcurl report runs --plot plots                        scores into results/, curves into plots/
  mcurl bench update --plain                            the speed of an update, and of the textbook's
  mcurl settings dmc/cartpole-swingup                   every setting, its value and what it does
"""
TASK_HELP = (
    "suite/name, such as dmc/cartpole-swingup, atari/Pong, toy/reach, gym/CartPole-v1, gym/my_module:MyEnv-v0; "
    "see `mcurl tasks`"
)
METHOD_HELP = (
    "mcurl, curl, seq-curl, sym-curl, rl-only (with random crops on SAC), rl-only-nocrop, sac-state, "
    "or MODULE:CLASS, an Objective of your own; default mcurl"
)
AGENT_HELP = "sac, rainbow, or MODULE:CLASS, an Agent of your own; default the one that learns the task's actions"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command line; ``sys.argv`` if None.

    Returns:
        The exit status: 0, 2 after a mistake of the user, 128 + the signal's number where training was stopped.
    """
    limit_openmp_spinning()
    status = 0
    try:
        status = _run(sys.argv[1:] if arguments is None else list(arguments))
        sys.stdout.flush()
    except UserError as error:
        status = _fail(str(error))
    except KeyboardInterrupt:
        print("mcurl: stopped", file=sys.stderr)
        return 130
    except BrokenPipeError:  # `mcurl tasks dmc | head`: the reader has enough.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except OSError as error:  # a full disk, a folder that may not be written
        status = _fail(str(error))
    return status


def _fail(message: str) -> int:
    print(f"mcurl: {message}", file=sys.stderr)
    return 2


class _Parser(argparse.ArgumentParser):
    """Says what is wrong in one line, without the usage."""

    def error(self, message: str) -> NoReturn:
        command = self.prog.removeprefix("mcurl").strip()
        hint = "TASK comes before --set; " if message.endswith("required: TASK") else ""
        raise UserError(f"{command + ': ' if command else ''}{message} ({hint}see `{self.prog} --help`)")

    def options(self) -> list[str]:
        """Every option, as it is typed."""
        return re.findall(r"--[\w-]+", self.format_usage())


Command = Callable[[argparse.Namespace], int]


def _run(arguments: list[str]) -> int:
    parser, parsers = _build_parsers()
    if not arguments:
        parser.print_help()
        return 0
    first = arguments[0]
    if not first.startswith("-") and first not in parsers:
        raise UserError(f"unknown command {first!r}: {suggest(first, parsers)}")
    options, rest = parser.parse_known_args(arguments)
    if rest and rest[0].startswith("-"):
        known = parsers[first].options() if first in parsers else parser.options()
        raise UserError(f"{first}: unexpected {rest[0]}: {suggest(rest[0], known)}")
    if rest:
        raise UserError(f"{first}: unexpected {rest[0]!r}")
    command: Command = options.run
    return command(options)


def _build_parsers() -> tuple[_Parser, dict[str, _Parser]]:
    layout: dict[str, Any] = {"formatter_class": argparse.RawDescriptionHelpFormatter, "allow_abbrev": False}
    parser = _Parser("mcurl", description=DESCRIPTION, epilog=EXAMPLES, **layout)
    parser.add_argument("--version", action="version", version=f"mcurl {__version__}")
    subparsers = parser.add_subparsers(metavar="COMMAND")
    parsers: dict[str, _Parser] = {}

    def add(command: Command, text: str, more: str = "") -> _Parser:
        name = command.__name__
        description = f"{text[0].upper()}{text[1:]}. {more}".strip()
        parsers[name] = subparsers.add_parser(name, help=text, description=description, **layout)
        parsers[name].set_defaults(run=command)
        return parsers[name]

    stop = "Ctrl-C saves, and says how to go on; a second one quits at once."
    _add_train(add(commands.train, "train an agent", stop))
    exact = "On a CPU it ends with the same bits as if it had never stopped."
    _add_resume(add(commands.resume, "go on with a run from its last checkpoint", exact))
    untouched = "Nothing in the run's folder is touched."
    _add_evaluate(add(commands.evaluate, "play episodes with a run's newest policy", untouched))
    preset = "Save it, change it, and use it with --preset."
    _add_settings(add(commands.settings, "show every setting of a run with its value, as TOML", preset))
    places = "Adds to results/<benchmark>/<method>/<task>.csv (dmc, atari100k, ...); a seed that is there is replaced."
    _add_report(add(commands.report, "gather the scores of runs and plot their curves", places))
    budget = "A Markdown table of the scores at the benchmark's budget: 100k env steps, 400k frames."
    _add_table(add(commands.table, "set scores of results/ beside published ones", budget))
    quiet = "Use a machine that does nothing else. The ratio to the textbook's update is taken in one run."
    _add_bench(add(commands.bench, "time the parts of a run", quiet))
    lists = "a suite (dmc, atari, toy, gym) or a list of the paper's (dmc16, atari26, ...)"
    add(commands.tasks, "list tasks").add_argument("suite", nargs="?", metavar="SUITE", help=lists)
    return parser, parsers


def _add_train(train: _Parser) -> None:
    _add_settings(train)
    seeds = "all random numbers come from it; default 1. Several, as 1,2,3, train side by side"
    train.add_argument("--seed", type=_seeds, default=[1], metavar="N", help=seeds)
    share = "of several seeds, how many at a time; default one for each core, and each has its share"
    train.add_argument("--at-once", type=_count, metavar="N", help=share)
    out = "folder of all runs; default runs. One that exists is never touched"
    train.add_argument("--out", type=Path, default=Path("runs"), metavar="DIR", help=out)
    _add_log(train)


def _add_resume(resume: _Parser) -> None:
    run = "a run's folder, such as runs/dmc-cartpole-swingup/mcurl-seed1"
    resume.add_argument("path", type=Path, metavar="RUN", help=run)
    budget = "a larger budget in simulator steps; schedules keep the horizon that the run began with"
    resume.add_argument("--env-steps", metavar="N", help=budget)
    _add_log(resume)


def _add_log(parser: _Parser) -> None:
    sinks = "write metrics there too: tensorboard, into the run's folder"
    parser.add_argument("--log", action="append", default=[], metavar="SINK", help=sinks)


def _add_evaluate(evaluate: _Parser) -> None:
    evaluate.add_argument("path", type=Path, metavar="RUN", help="a run's folder")
    evaluate.add_argument("--episodes", type=_count, default=100, metavar="N", help="default 100")
    evaluate.add_argument("--seed", type=_natural, metavar="N", help="of the episodes; default the run's own")


def _add_settings(parser: _Parser) -> None:
    """What a run is made of, in all commands that name one."""
    parser.add_argument("task", metavar="TASK", help=TASK_HELP)
    parser.add_argument("--method", default="mcurl", metavar="NAME", help=METHOD_HELP)
    parser.add_argument("--agent", metavar="NAME", help=AGENT_HELP)
    budget = "budget in simulator steps, action repeat included: 100k, 1e5, 400_000"
    parser.add_argument("--env-steps", metavar="N", help=budget)
    preset = "a TOML file of settings, or the name of one that the suite has"
    parser.add_argument("--preset", metavar="FILE", help=preset)
    _add_overrides(parser, "single settings; see `mcurl settings TASK`")
    threads = "threads of the processor; default all cores (compute.threads)"
    parser.add_argument("--threads", type=_count, metavar="N", help=threads)


def _add_overrides(parser: _Parser, text: str) -> None:
    parser.add_argument(
        "--set", dest="overrides", nargs="+", action="extend", default=[], metavar="KEY=VALUE", help=text
    )


def _add_report(report: _Parser) -> None:
    places = "run folders, or folders that hold some; without any: plot what --results has"
    report.add_argument("places", nargs="*", type=Path, metavar="RUNS", help=places)
    report.add_argument("--results", type=Path, default=Path("results"), metavar="DIR", help="default results")
    plots = "plot each task's curves, with what was published, as DIR/<benchmark>-<task>.png"
    report.add_argument("--plot", type=Path, metavar="DIR", help=plots)
    label = "file them under this name instead of their method's, such as mcurl-conv"
    report.add_argument("--label", type=_label, metavar="NAME", help=label)


def _add_table(table: _Parser) -> None:
    table.add_argument("benchmark", metavar="BENCHMARK", help="dmc or atari100k")
    table.add_argument("--results", type=Path, default=Path("results"), metavar="DIR", help="default results")


def _add_bench(bench: _Parser) -> None:
    parts = "update, run, memory, replay, render, env, checkpoint, profile; default update"
    bench.add_argument("what", nargs="*", metavar="PART", help=parts)
    plain = "beside each update the textbook's: float32, contiguous, everything encoded wherever it is named"
    bench.add_argument("--plain", action="store_true", help=plain)
    without = (
        "beside each update one without this accelerated operation (amx.transformer, frames, ...) or group of them "
        "(amx, onednn, all); may be repeated"
    )
    bench.add_argument("--without", action="append", default=[], metavar="NAME", help=without)
    suite = ("dmc", "atari")
    bench.add_argument("--suite", choices=suite, action="append", metavar="NAME", help="dmc or atari; default both")
    methods = "as for train; default mcurl and curl"
    bench.add_argument("--method", action="append", metavar="NAME", help=methods)
    _add_overrides(bench, "settings of what update and profile time")
    precision = ("auto", "fp32", "tf32", "bf16")
    text = "auto, fp32, tf32 or bf16"
    bench.add_argument("--precision", choices=precision, default="auto", metavar="NAME", help=text)
    bench.add_argument("--threads", type=_count, metavar="N", help="default all cores")
    bench.add_argument("--repeats", type=_count, default=20, metavar="N", help="default 20")
    where = "where profile plots; default plots"
    bench.add_argument("--plot", type=Path, default=Path("plots"), metavar="DIR", help=where)
    bench.add_argument("--json", type=Path, metavar="FILE", help="write the numbers too")


def _natural(text: str) -> int:
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"a whole number from 0, not {text!r}")
    return int(text)


def _seeds(text: str) -> list[int]:
    seeds = [_natural(part) for part in text.split(",")]
    if len(set(seeds)) < len(seeds):
        raise argparse.ArgumentTypeError(f"each seed once, not {text!r}")
    return seeds


def _label(text: str) -> str:
    if not re.fullmatch(r"\w[\w.-]*", text):
        raise argparse.ArgumentTypeError(f"letters, digits, dots and dashes, not {text!r}")
    return text


def _count(text: str) -> int:
    if not text.isdecimal() or int(text) == 0:
        raise argparse.ArgumentTypeError(f"a whole number from 1, not {text!r}")
    return int(text)
