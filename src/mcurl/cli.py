"""The commands. A mistake of the user is one line on standard error and exit status 2; nothing is written before
everything typed is known to be good.

Nothing heavy is imported before a command needs it: ``mcurl --help`` answers at once.
"""

from __future__ import annotations

import argparse
import os
import re
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from mcurl import __version__
from mcurl.errors import UserError, suggest

if TYPE_CHECKING:
    from mcurl.config.resolve import TrainSettings
    from mcurl.run.display import Display
    from mcurl.run.folder import Run

DESCRIPTION = "M-CURL: masked contrastive representation learning for reinforcement learning from pixels."
EXAMPLES = """\
examples:
  mcurl train dmc/cartpole-swingup                      M-CURL on SAC, 100k env steps, into runs/
  mcurl train atari/RoadRunner --method curl --seed 2   CURL on Rainbow, Atari 100k
  mcurl train dmc/walker-walk --set mcurl.mask_rate=0.5 sac.batch_size=512
  mcurl resume runs/dmc-cartpole-swingup/mcurl-seed1    go on exactly where it stopped
  mcurl evaluate runs/dmc-cartpole-swingup/mcurl-seed1 --episodes 100
  mcurl report runs --draw plots                        scores into results/, curves into plots/
  mcurl bench update --plain                            how fast an update is here, against the textbook's
  mcurl settings dmc/cartpole-swingup                   every setting, its value and what it does
"""
METHODS_HELP = "mcurl, curl, none (RL alone, with random crops on SAC), none-nocrop, or MODULE:CLASS, an Objective of your own; default mcurl"


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
        status = _complain(str(error))
    except KeyboardInterrupt:
        print("mcurl: stopped", file=sys.stderr)
        return 130
    except BrokenPipeError:  # `mcurl tasks dmc | head`: whoever read has enough.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except OSError as error:  # a full disk, a folder that may not be written
        status = _complain(str(error))
    return status


def _complain(message: str) -> int:
    print(f"mcurl: {message}", file=sys.stderr)
    return 2


def limit_openmp_spinning() -> None:
    """Let threads that wait for each other sleep soon. By default they spin for milliseconds, and an update beside
    other busy processes takes 20 times as long.

    OpenMP reads this once, when PyTorch is imported; what the user has set stays.
    """
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", "30000")


class _Parser(argparse.ArgumentParser):
    """Says what is wrong in one line, without the usage."""

    def error(self, message: str) -> NoReturn:
        command = self.prog.removeprefix("mcurl").strip()
        hint = "TASK comes before --set; " if message.endswith("required: TASK") else ""
        raise UserError(f"{command + ': ' if command else ''}{message} ({hint}see `{self.prog} --help`)")

    def options(self) -> list[str]:
        return re.findall(r"--[\w-]+", self.format_usage())


def _run(arguments: list[str]) -> int:
    parser, commands = _build_parsers()
    if not arguments:
        parser.print_help()
        return 0
    first = arguments[0]
    if not first.startswith("-") and first not in commands:
        raise UserError(f"unknown command {first!r}: {suggest(first, commands)}")
    given, unknown = parser.parse_known_args(arguments)
    if unknown:
        known = commands[first].options() if first in commands else parser.options()
        raise UserError(
            f"{first}: unexpected {unknown[0]}: {suggest(unknown[0], known)}"
            if unknown[0].startswith("-")
            else f"{first}: unexpected {unknown[0]!r}"
        )
    command: Callable[[argparse.Namespace], int] = given.run
    return command(given)


def _build_parsers() -> tuple[_Parser, dict[str, _Parser]]:
    parser = _Parser(
        "mcurl",
        description=DESCRIPTION,
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"mcurl {__version__}")
    commands = parser.add_subparsers(metavar="COMMAND")
    made: dict[str, _Parser] = {}

    def command(run: Callable[[argparse.Namespace], int], text: str, more: str = "") -> _Parser:
        name = run.__name__.lstrip("_")
        made[name] = commands.add_parser(
            name,
            help=text,
            description=f"{text[0].upper()}{text[1:]}. {more}".strip(),
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=False,
        )
        made[name].set_defaults(run=run)
        return made[name]

    train = command(_train, "train an agent", "Ctrl-C saves, and says how to go on; a second one quits at once.")
    _add_settings(train)
    train.add_argument(
        "--seed",
        type=_seeds,
        default=[1],
        metavar="N",
        help="all random numbers come from it; default 1. Several, as 1,2,3, train side by side",
    )
    train.add_argument(
        "--at-once",
        type=_count,
        metavar="N",
        help="of several seeds, how many at a time; default one for each core, and each has its share",
    )
    train.add_argument(
        "--out",
        type=Path,
        default=Path("runs"),
        metavar="DIR",
        help="folder of all runs; default runs. One that exists is never touched",
    )
    _add_log(train)

    resume = command(
        _resume,
        "go on with a run from its last checkpoint",
        "On a CPU it ends with the same bits as if it had never stopped.",
    )
    resume.add_argument(
        "path", type=Path, metavar="RUN", help="a run's folder, such as runs/dmc-cartpole-swingup/mcurl-seed1"
    )
    resume.add_argument(
        "--env-steps",
        metavar="N",
        help="a larger budget in simulator steps; schedules keep the horizon that the run began with",
    )
    _add_log(resume)

    evaluate = command(_evaluate, "play episodes with a run's newest policy", "Nothing in the run's folder is touched.")
    evaluate.add_argument("path", type=Path, metavar="RUN", help="a run's folder")
    evaluate.add_argument("--episodes", type=_count, default=100, metavar="N", help="default 100")
    evaluate.add_argument("--seed", type=_natural, metavar="N", help="of the episodes; default the run's own")

    settings = command(
        _settings,
        "show every setting of a run with its value, as TOML",
        "Save it, change it, and give it back with --preset.",
    )
    _add_settings(settings)

    report = command(
        _report,
        "gather the scores of runs and draw their curves",
        "Adds to results/<benchmark>/<method>/<task>.csv (dmc, atari100k, ...); a seed that is there already is replaced.",
    )
    report.add_argument(
        "places",
        nargs="*",
        type=Path,
        metavar="RUNS",
        help="run folders, or folders that hold some; none: draw what DIR has",
    )
    report.add_argument("--results", type=Path, default=Path("results"), metavar="DIR", help="default results")
    report.add_argument(
        "--draw",
        type=Path,
        metavar="DIR",
        help="draw each task's curves, with what was published, as DIR/<benchmark>-<task>.png",
    )
    report.add_argument(
        "--label",
        type=_label,
        metavar="NAME",
        help="file them under this name instead of their method's, such as mcurl-conv",
    )

    table = command(
        _table,
        "set scores of results/ beside published ones",
        "A Markdown table of the scores at the benchmark's budget: 100k env steps, 400k frames.",
    )
    table.add_argument("benchmark", metavar="BENCHMARK", help="dmc or atari100k")
    table.add_argument("--results", type=Path, default=Path("results"), metavar="DIR", help="default results")

    bench = command(
        _bench,
        "time the parts of a run",
        "On a machine that does nothing else. The ratio to the textbook's update is taken in one run.",
    )
    bench.add_argument(
        "what",
        nargs="*",
        metavar="PART",
        help="update, run, memory, replay, render, env, checkpoint, profile; default update",
    )
    bench.add_argument(
        "--plain",
        action="store_true",
        help="beside each update the textbook's: float32, contiguous, everything encoded wherever it is named",
    )
    bench.add_argument(
        "--suite", choices=("dmc", "atari"), action="append", metavar="NAME", help="dmc or atari; default both"
    )
    bench.add_argument(
        "--method",
        choices=("mcurl", "curl", "none"),
        action="append",
        metavar="NAME",
        help="mcurl, curl or none; default mcurl and curl",
    )
    bench.add_argument(
        "--set",
        dest="overrides",
        nargs="+",
        action="extend",
        default=[],
        metavar="KEY=VALUE",
        help="settings of what update and profile time",
    )
    bench.add_argument(
        "--precision",
        choices=("auto", "fp32", "tf32", "bf16"),
        default="auto",
        metavar="NAME",
        help="auto, fp32, tf32 or bf16",
    )
    bench.add_argument("--threads", type=_count, metavar="N", help="default all cores")
    bench.add_argument("--repeats", type=_count, default=20, metavar="N", help="default 20")
    bench.add_argument(
        "--draw", type=Path, default=Path("plots"), metavar="DIR", help="where profile draws; default plots"
    )
    bench.add_argument("--json", type=Path, metavar="FILE", help="write the numbers too")

    tasks = command(_tasks, "list tasks")
    tasks.add_argument(
        "suite",
        nargs="?",
        metavar="SUITE",
        help="a suite (dmc, atari, toy, gym) or a list of the paper's (dmc16, atari26, ...)",
    )
    return parser, made


def _add_settings(parser: _Parser) -> None:
    """What a run is made of, in all commands that name one."""
    parser.add_argument(
        "task",
        metavar="TASK",
        help="suite/name, such as dmc/cartpole-swingup, atari/Pong, toy/reach, gym/CartPole-v1, gym/my_module:MyEnv-v0; see `mcurl tasks`",
    )
    parser.add_argument("--method", default="mcurl", metavar="NAME", help=METHODS_HELP)
    parser.add_argument(
        "--env-steps", metavar="N", help="budget in simulator steps, action repeat included: 100k, 1e5, 400_000"
    )
    parser.add_argument(
        "--preset", metavar="FILE", help="a TOML file of settings, or the name of one that the suite has"
    )
    parser.add_argument(
        "--set",
        dest="overrides",
        nargs="+",
        action="extend",
        default=[],
        metavar="KEY=VALUE",
        help="single settings; see `mcurl settings TASK`",
    )
    parser.add_argument(
        "--threads", type=_count, metavar="N", help="threads of the processor; default all cores (compute.threads)"
    )


def _add_log(parser: _Parser) -> None:
    parser.add_argument(
        "--log",
        type=_log,
        action="append",
        default=[],
        metavar="NAME",
        help="log there too: tensorboard (into tensorboard/ in the run's folder). A resume goes on with it",
    )


def _log(text: str) -> str:
    from mcurl.run.logger import SINKS

    if text not in SINKS:
        raise argparse.ArgumentTypeError(f"unknown log {text!r}: {suggest(text, SINKS)}")
    return text


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


def _resolve(given: argparse.Namespace, seed: int = 1) -> TrainSettings:
    from mcurl.config import resolve as config

    # A module that the user names may lie here. One that a run's files name is not looked for here: a stranger's folder
    # must not run its code.
    if "" not in sys.path:
        sys.path.insert(0, "")
    overrides = given.overrides + ([f"compute.threads={given.threads}"] if given.threads else [])
    return config.resolve(
        given.task, given.method, seed=seed, env_steps=given.env_steps, preset=given.preset, overrides=overrides
    )


def _train(given: argparse.Namespace) -> int:
    if len(given.seed) > 1:
        return _train_side_by_side(given)
    settings = _resolve(given, given.seed[0])
    from mcurl import train
    from mcurl.run.folder import Run
    from mcurl.run.logger import check_sinks

    check_sinks(given.log)
    with Run.create(given.out, settings.to_json()) as run:
        run.add_sinks(given.log)
        return _watched(run, settings.env_steps, lambda display: train.train(settings, run, display))


def _train_side_by_side(given: argparse.Namespace) -> int:
    """Every seed's settings and folder are checked before any of them starts."""
    from mcurl.run.folder import Run, folder_of
    from mcurl.run.logger import check_sinks
    from mcurl.run.provenance import available_cores
    from mcurl.runtime.parallel import ParallelRuns

    for seed in given.seed:
        Run.refuse_existing(folder_of(given.out, _resolve(given, seed).to_json()))
    check_sinks(given.log)
    at_once = min(given.at_once or available_cores(), len(given.seed))
    threads = given.threads or max(available_cores() // at_once, 1)
    options = {
        "--method": given.method,
        "--env-steps": given.env_steps,
        "--preset": given.preset,
        "--out": str(given.out),
    }
    shared = [given.task, *(part for name, value in options.items() if value is not None for part in (name, value))]
    shared += [part for name in given.log for part in ("--log", name)]
    # What is set by name comes last.
    shared += ["--set", f"compute.threads={threads}", *given.overrides]
    return ParallelRuns({f"seed {seed}": ["train", *shared, "--seed", str(seed)] for seed in given.seed}, at_once).run()


def _resume(given: argparse.Namespace) -> int:
    from mcurl.config.fields import read_value
    from mcurl.run.folder import Run
    from mcurl.run.logger import check_sinks

    budget = None if given.env_steps is None else read_value("--env-steps", int, given.env_steps)
    with Run.open(given.path, train=True) as run:
        newest = run.latest_checkpoint()
        if budget is not None and (budget <= newest.env_steps or budget < run.env_steps):
            has = f"a budget of {run.env_steps:,}" if budget > newest.env_steps else f"{newest.env_steps:,}"
            raise UserError(f"{run.folder} has {has} env steps already: give a larger --env-steps than {budget:,}")
        if budget is None and newest.final and newest.env_steps >= run.env_steps:
            raise UserError(
                f"{run.folder} is complete with {newest.env_steps:,} env steps: give a larger --env-steps to go on"
            )
        from mcurl import train

        check_sinks([*run.sinks, *given.log])
        run.add_sinks(given.log)
        past = run.evaluations(until=newest.env_steps)
        return _watched(run, budget or run.env_steps, lambda display: train.resume(run, display, budget), past)


def _report(given: argparse.Namespace) -> int:
    from mcurl.report import collect, curves

    if not given.places and not given.draw:
        raise UserError("report: give run folders to gather, or --draw DIR to draw the results that are there")
    found = collect.read_runs(given.places, given.label)
    for path in dict.fromkeys(collect.save(found, given.results)):
        print(path)
    tasks = dict.fromkeys((curve.benchmark, curve.name) for curve in found) or collect.tasks(given.results)
    for benchmark, name in tasks if given.draw else ():
        target = given.draw / f"{benchmark}-{name}.png"
        curves.draw(given.results, benchmark, name, target)
        print(target)
    return 0


def _table(given: argparse.Namespace) -> int:
    from mcurl.report.table import markdown

    print(markdown(given.results, given.benchmark))
    return 0


def _bench(given: argparse.Namespace) -> int:
    from mcurl.bench.command import PARTS, run

    what = given.what or ["update"]
    for part in what:
        if part not in PARTS:
            raise UserError(f"bench: there is no part {part!r}: {suggest(part, PARTS)}")
    run(
        what,
        suites=given.suite or ["dmc", "atari"],
        methods=given.method or ["mcurl", "curl"],
        overrides=given.overrides,
        threads=given.threads or 0,
        precision=given.precision,
        repeats=given.repeats,
        plain=given.plain,
        target=given.json,
        draw=given.draw,
    )
    return 0


def _watched(
    run: Run, env_steps: int, work: Callable[[Display], None], past: dict[int, list[float]] | None = None
) -> int:
    """Train with the live display, and say how to go on where it was stopped."""
    from mcurl.run.display import Display
    from mcurl.runtime.signals import Interrupted, until_saved

    about = run.settings
    try:
        with (
            until_saved(),
            Display(
                env_steps, f"{about['method']} · {about['task']} · seed {about['seed']}", str(run.folder)
            ) as display,
        ):
            display.recall(past or {})
            work(display)
    except Interrupted as stopped:
        print(
            f"stopped at {run.latest_checkpoint().env_steps:,} env steps, everything saved; go on with: mcurl resume {run.folder}"
        )
        return 128 + stopped.signal_number
    except KeyboardInterrupt:
        saved = run.checkpoints()
        print(
            f"stopped without saving; go on from {saved[-1].env_steps:,} env steps with: mcurl resume {run.folder}"
            if saved
            else "stopped before the first checkpoint"
        )
        return 130
    except Exception:
        if saved := run.checkpoints():
            print(
                f"mcurl: saved up to {saved[-1].env_steps:,} env steps; go on with: mcurl resume {run.folder}",
                file=sys.stderr,
            )
        raise
    finally:
        run.discard_if_empty()
    print(f"finished; play more episodes with: mcurl evaluate {run.folder}")
    return 0


def _evaluate(given: argparse.Namespace) -> int:
    from mcurl.run.folder import Run

    with Run.open(given.path) as run:
        newest, about = run.latest_checkpoint(), run.settings
        from mcurl import train

        returns = train.evaluate_run(run, given.episodes, given.seed)
    print(f"{about['method']} on {about['task']}, seed {about['seed']}, after {newest.env_steps:,} env steps")
    print(
        f"{len(returns)} episodes: mean {returns.mean():.2f} ± {returns.std():.2f}, from {returns.min():.2f} to {returns.max():.2f}"
    )
    return 0


def _settings(given: argparse.Namespace) -> int:
    settings = _resolve(given)
    from mcurl.config import resolve as config
    from mcurl.config.fields import as_toml

    title = f"{settings.method} on {settings.task}. To change some: mcurl train {settings.task} --method {settings.method} --set KEY=VALUE"
    print(
        as_toml(f"{title}\nor save this, edit it, and give it with --preset FILE.", config.describe(settings)), end=""
    )
    return 0


def _tasks(given: argparse.Namespace) -> int:
    from mcurl.config import resolve as config

    print("\n".join(config.task_names(given.suite) if given.suite else config.task_overview()))
    return 0
