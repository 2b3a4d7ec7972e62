"""Training and resuming runs."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from mcurl.commands.options import import_modules, open_run, resolve_settings
from mcurl.errors import NotResumableError, printable

if TYPE_CHECKING:
    from mcurl.run.folder import Run
    from mcurl.run.logger import Sink


def train(options: argparse.Namespace) -> int:
    """Train one seed in this process, or several seeds in parallel processes."""
    from mcurl.run.logger import check_sinks

    check_sinks(options.log)
    if len(options.seed) > 1:
        return _train_parallel(options)
    settings = resolve_settings(options, options.seed[0])
    from mcurl.run.folder import Run
    from mcurl.training import train

    name, label = settings.named(options.name)
    with Run.create(options.out, settings.to_json(), name=name, label=label) as run:
        run.add_sinks(options.log)
        return _run_with_display(run, settings.env_steps, lambda sinks: train(settings, run, sinks))


def _train_parallel(options: argparse.Namespace) -> int:
    """Train several seeds in parallel. All settings and folders are checked before the first seed starts."""
    from mcurl import envs
    from mcurl.build import memory_needed
    from mcurl.run.folder import Run, run_folder
    from mcurl.runtime.memory import check_memory_of_runs
    from mcurl.runtime.parallel import run_parallel
    from mcurl.runtime.threads import available_cores

    sizes = []
    for seed in options.seed:
        settings = resolve_settings(options, seed)
        sizes.append(memory_needed(settings))
        values = settings.to_json()
        Run.refuse_existing(run_folder(options.out, values, settings.named(options.name)[0]), values)
    envs.release()
    max_parallel = min(options.max_parallel or available_cores(), len(options.seed))
    check_memory_of_runs(sizes, max_parallel, "--max-parallel")
    threads = options.threads or max(available_cores() // max_parallel, 1)
    arguments = [options.task]
    for name in ("method", "agent", "env_steps", "preset", "out", "name"):
        if getattr(options, name) is not None:
            arguments += [f"--{name.replace('_', '-')}", str(getattr(options, name))]
    arguments += [part for sink in options.log for part in ("--log", sink)]
    # The user's overrides come last, so that they take precedence.
    arguments += ["--set", f"compute.threads={threads}", *options.overrides]
    commands = {f"seed {seed}": ["train", *arguments, "--seed", str(seed)] for seed in options.seed}
    return run_parallel(commands, max_parallel)


def resume(options: argparse.Namespace) -> int:
    """Resume a run, from its latest checkpoint or an earlier one, or extend it."""
    from mcurl.config.fields import read_value
    from mcurl.config.settings import TrainSettings
    from mcurl.run.logger import check_sinks

    check_sinks(options.log)
    env_steps = None if options.env_steps is None else read_value("--env-steps", int, options.env_steps)
    at = None if options.checkpoint is None else read_value("--checkpoint", int, options.checkpoint)
    import_modules(options.modules)
    with open_run(options.path, train=True) as run:
        TrainSettings.from_json(run.settings)  # before anything is changed
        checkpoint = run.check_budget(env_steps, at)
        check_sinks(run.sinks)
        run.add_sinks(options.log)
        from mcurl.training import resume

        evaluations = run.evaluations(until=checkpoint.env_steps) if checkpoint else {}
        return _run_with_display(
            run, env_steps or run.env_steps, lambda sinks: resume(run, sinks, env_steps, at=at), evaluations
        )


def _run_with_display(
    run: Run,
    env_steps: int,
    training: Callable[[Sequence[Sink]], None],
    evaluations: dict[int, list[float]] | None = None,
) -> int:
    """Train with the progress display, and print how to resume if training stops early.

    Args:
        run: the run folder.
        env_steps: budget in simulator steps.
        training: trains, with the sinks that it receives.
        evaluations: env steps -> returns of the evaluations before a resume.

    Returns:
        The exit status.
    """
    from mcurl.run.display import Display
    from mcurl.run.eta import EvaluationSchedule
    from mcurl.run.logger import make_sinks
    from mcurl.runtime.signals import Interrupted, signals_as_keyboard_interrupt

    settings = run.settings
    title = f"{run.name} · {settings['task']} · seed {settings['seed']}"
    hint = f"resume with: {run.command('resume')}"
    try:
        with (
            signals_as_keyboard_interrupt(),
            Display(
                env_steps, title, printable(str(run.folder)), evaluations=EvaluationSchedule.of(settings["evaluation"])
            ) as display,
        ):
            display.load_evaluations(evaluations or {})
            training(make_sinks(run, display, run.sinks))
    except Interrupted as interrupt:
        print(f"stopped and saved at {run.latest_checkpoint().env_steps:,} env steps; {hint}")
        return 128 + interrupt.signal_number
    except KeyboardInterrupt:
        if checkpoints := run.checkpoints():
            latest = f"the latest checkpoint is at {checkpoints[-1].env_steps:,} env steps"
            print(f"stopped without saving; {latest}; {hint}")
        else:
            print("stopped before the first checkpoint")
        return 130
    except NotResumableError:
        raise
    except Exception as error:
        # Not after a refused resume: the same command would be refused again.
        if run.reached is not None and run.reached.folder.exists():
            latest = f"the latest checkpoint is at {run.reached.env_steps:,} env steps"
            print(f"mcurl: {latest}; {hint}", file=sys.stderr)
        elif isinstance(error, OSError) and not run.checkpoints():  # for example a full disk
            print("mcurl: there is no checkpoint yet: the same command begins this run anew", file=sys.stderr)
        raise
    finally:
        run.discard_if_empty()
    print(f"finished; evaluate more episodes with: {run.command('evaluate')}")
    return 0


def settings(options: argparse.Namespace) -> int:
    """Print all settings of a run as TOML."""
    resolved = resolve_settings(options)
    from mcurl.config.fields import as_toml
    from mcurl.config.settings import describe

    command = f"mcurl train {resolved.task} --method {resolved.method} --set KEY=VALUE"
    title = f"{resolved.method} on {resolved.task}. Change settings with: {command}"
    print(as_toml(f"{title}\nOr save this file, edit it, and use it with --preset FILE.", describe(resolved)), end="")
    return 0
