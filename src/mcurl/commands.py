"""What each command does with its parsed options. Each returns the exit status, and imports what it needs itself."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from mcurl.errors import UserError, suggest

if TYPE_CHECKING:
    from mcurl.config.resolve import TrainSettings
    from mcurl.run.folder import Run
    from mcurl.run.logger import Sink


def train(options: argparse.Namespace) -> int:
    """Train one seed here, or several side by side."""
    from mcurl.run.logger import check_sinks

    check_sinks(options.log)
    if len(options.seed) > 1:
        return _train_parallel(options)
    settings = _resolve(options, options.seed[0])
    from mcurl.run.folder import Run
    from mcurl.train import train

    with Run.create(options.out, settings.to_json(), label=settings.label) as run:
        run.add_sinks(options.log)
        return _watch(run, settings.env_steps, lambda sinks: train(settings, run, sinks))


def _train_parallel(options: argparse.Namespace) -> int:
    """Every seed's settings and folder are checked before any of them starts."""
    from mcurl.run.folder import Run, run_folder
    from mcurl.runtime.parallel import ParallelRuns
    from mcurl.runtime.threads import available_cores

    for seed in options.seed:
        Run.refuse_existing(run_folder(options.out, _resolve(options, seed).to_json()))
    at_once = min(options.at_once or available_cores(), len(options.seed))
    threads = options.threads or max(available_cores() // at_once, 1)
    arguments = [options.task]
    for name in ("method", "agent", "env_steps", "preset", "out"):
        if getattr(options, name) is not None:
            arguments += [f"--{name.replace('_', '-')}", str(getattr(options, name))]
    arguments += [part for sink in options.log for part in ("--log", sink)]
    # The user's own overrides come last.
    arguments += ["--set", f"compute.threads={threads}", *options.overrides]
    lines = {f"seed {seed}": ["train", *arguments, "--seed", str(seed)] for seed in options.seed}
    return ParallelRuns(lines, at_once).run()


def resume(options: argparse.Namespace) -> int:
    """Go on with a run, or extend it."""
    from mcurl.config.fields import read_value
    from mcurl.run.folder import Run
    from mcurl.run.logger import check_sinks

    check_sinks(options.log)
    budget = None if options.env_steps is None else read_value("--env-steps", int, options.env_steps)
    with Run.open(options.path, train=True) as run:
        newest = run.latest_checkpoint()
        if budget is not None and (budget <= newest.env_steps or budget < run.env_steps):
            steps = f"a budget of {run.env_steps:,}" if budget > newest.env_steps else f"{newest.env_steps:,}"
            raise UserError(f"{run.folder} has {steps} env steps already: --env-steps must be above {budget:,}")
        if budget is None and newest.final and newest.env_steps >= run.env_steps:
            complete = f"{run.folder} is complete with {newest.env_steps:,} env steps"
            raise UserError(f"{complete}: use a larger --env-steps to go on")
        check_sinks(run.sinks)
        run.add_sinks(options.log)
        from mcurl.train import resume

        past = run.evaluations(until=newest.env_steps)
        return _watch(run, budget or run.env_steps, lambda sinks: resume(run, sinks, budget), past)


def _watch(
    run: Run,
    env_steps: int,
    work: Callable[[Sequence[Sink]], None],
    past: dict[int, list[float]] | None = None,
) -> int:
    """Train with the live display, and say how to go on where it was stopped."""
    from mcurl.run.display import Display
    from mcurl.run.logger import make_sinks
    from mcurl.runtime.signals import Interrupted, signals_as_keyboard_interrupt

    about = run.settings
    title = f"{about['method']} · {about['task']} · seed {about['seed']}"
    go_on = f"go on with: mcurl resume {run.folder}"
    try:
        with signals_as_keyboard_interrupt(), Display(env_steps, title, str(run.folder)) as display:
            display.load_evaluations(past or {})
            work(make_sinks(run, display, run.sinks))
    except Interrupted as stopped:
        print(f"stopped at {run.latest_checkpoint().env_steps:,} env steps, everything saved; {go_on}")
        return 128 + stopped.signal_number
    except KeyboardInterrupt:
        if saved := run.checkpoints():
            print(f"stopped without saving; saved up to {saved[-1].env_steps:,} env steps, {go_on}")
        else:
            print("stopped before the first checkpoint")
        return 130
    except Exception:
        if saved := run.checkpoints():
            print(f"mcurl: saved up to {saved[-1].env_steps:,} env steps; {go_on}", file=sys.stderr)
        raise
    finally:
        run.discard_if_empty()
    print(f"finished; play more episodes with: mcurl evaluate {run.folder}")
    return 0


def evaluate(options: argparse.Namespace) -> int:
    """Play episodes with a run's newest policy."""
    from mcurl.run.folder import Run

    with Run.open(options.path) as run:
        newest, about = run.latest_checkpoint(), run.settings
        from mcurl.evaluate import evaluate_run

        returns = evaluate_run(run, options.episodes, options.seed)
    print(f"{about['method']} on {about['task']}, seed {about['seed']}, after {newest.env_steps:,} env steps")
    spread = f"{returns.mean():.2f} ± {returns.std():.2f}, from {returns.min():.2f} to {returns.max():.2f}"
    print(f"{len(returns)} episodes: mean {spread}")
    return 0


def settings(options: argparse.Namespace) -> int:
    """Print every setting of a run as TOML."""
    resolved = _resolve(options)
    from mcurl.config.fields import as_toml
    from mcurl.config.resolve import describe

    command = f"mcurl train {resolved.task} --method {resolved.method} --set KEY=VALUE"
    title = f"{resolved.method} on {resolved.task}. To change some: {command}"
    print(as_toml(f"{title}\nor save this, edit it, and use it with --preset FILE.", describe(resolved)), end="")
    return 0


def report(options: argparse.Namespace) -> int:
    """Gather scores of run folders into results, and plot curves."""
    from mcurl.report import collect, curves

    if not options.places and not options.draw:
        raise UserError("report: name run folders to gather, or --plot DIR to plot the results that are there")
    runs = collect.read_runs(options.places, options.label)
    for path in dict.fromkeys(collect.save(runs, options.results)):
        print(path)
    tasks = dict.fromkeys((curve.benchmark, curve.name) for curve in runs) or collect.tasks(options.results)
    for benchmark, name in tasks if options.draw else ():
        target = options.draw / f"{benchmark}-{name}.png"
        curves.plot(options.results, benchmark, name, target)
        print(target)
    return 0


def table(options: argparse.Namespace) -> int:
    """Print our scores beside published ones."""
    from mcurl.report.table import markdown

    print(markdown(options.results, options.benchmark))
    return 0


def bench(options: argparse.Namespace) -> int:
    """Time parts of a run."""
    from mcurl.bench.command import PARTS, run

    parts = options.what or ["update"]
    for part in parts:
        if part not in PARTS:
            raise UserError(f"bench: there is no part {part!r}: {suggest(part, PARTS)}")
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
        draw=options.draw,
    )
    return 0


def tasks(options: argparse.Namespace) -> int:
    """Print the tasks of a suite, or of a list."""
    from mcurl.config.tasks import task_names, task_overview

    print("\n".join(task_names(options.suite) if options.suite else task_overview()))
    return 0


def _resolve(options: argparse.Namespace, seed: int = 1) -> TrainSettings:
    from mcurl.config.resolve import resolve

    # A module that the user names may lie in the current folder. One that a run's files name is not looked for there: a
    # stranger's folder must not run its code.
    if "" not in sys.path:
        sys.path.insert(0, "")
    threads = [f"compute.threads={options.threads}"] if options.threads else []
    return resolve(
        options.task,
        options.method,
        agent=options.agent,
        seed=seed,
        env_steps=options.env_steps,
        preset=options.preset,
        overrides=[*options.overrides, *threads],
    )
