"""The commands of the command line.

Each function takes the parsed options and returns the exit status. It imports large modules itself, so that the command
line starts fast.
"""

from __future__ import annotations

import argparse
import json
import math
import shlex
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mcurl.errors import UserError, printable, suggest
from mcurl.runtime.program import command_line

if TYPE_CHECKING:
    from rich.console import Console

    from mcurl.config.resolve import TrainSettings
    from mcurl.evaluate import Camera
    from mcurl.export.card import Score
    from mcurl.recording import Recording
    from mcurl.report.scores import RunScores
    from mcurl.run.folder import Checkpoint, Run
    from mcurl.run.logger import Sink
    from mcurl.suites.ray import RayProcesses
    from mcurl.suites.suite import Suite, SuiteRun


def train(options: argparse.Namespace) -> int:
    """Train one seed in this process, or several seeds in parallel processes."""
    from mcurl.run.logger import check_sinks

    check_sinks(options.log)
    if len(options.seed) > 1:
        return _train_parallel(options)
    settings = _resolve(options, options.seed[0])
    from mcurl.run.folder import Run
    from mcurl.training import train

    name = options.name or settings.name
    label = settings.label if name == settings.name else name
    with Run.create(options.out, settings.to_json(), name=name, label=label) as run:
        run.add_sinks(options.log)
        return _run_with_display(run, settings.env_steps, lambda sinks: train(settings, run, sinks))


def _train_parallel(options: argparse.Namespace) -> int:
    """Train several seeds in parallel. All settings and folders are checked before the first seed starts."""
    from mcurl import envs
    from mcurl.run.folder import Run, run_folder
    from mcurl.runtime.parallel import run_parallel
    from mcurl.runtime.threads import available_cores

    for seed in options.seed:
        settings = _resolve(options, seed)
        values = settings.to_json()
        Run.refuse_existing(run_folder(options.out, values, options.name or settings.name), values)
    envs.release()
    max_parallel = min(options.max_parallel or available_cores(), len(options.seed))
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
    from mcurl.config.resolve import TrainSettings
    from mcurl.run.folder import Run
    from mcurl.run.logger import check_sinks

    check_sinks(options.log)
    env_steps = None if options.env_steps is None else read_value("--env-steps", int, options.env_steps)
    at = None if options.checkpoint is None else read_value("--checkpoint", int, options.checkpoint)
    _import_modules(options.modules)
    with Run.open(options.path, train=True) as run:
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
    from mcurl.run.eta import Evaluations
    from mcurl.run.logger import make_sinks
    from mcurl.runtime.signals import Interrupted, signals_as_keyboard_interrupt

    settings = run.settings
    title = f"{run.name} · {settings['task']} · seed {settings['seed']}"
    hint = f"resume with: {run.command('resume')}"
    try:
        with (
            signals_as_keyboard_interrupt(),
            Display(
                env_steps, title, printable(str(run.folder)), evaluations=Evaluations.of(settings["evaluation"])
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
    except Exception:
        # Not after a refused resume: the same command would be refused again.
        if run.reached is not None and run.reached.folder.exists():
            latest = f"the latest checkpoint is at {run.reached.env_steps:,} env steps"
            print(f"mcurl: {latest}; {hint}", file=sys.stderr)
        raise
    finally:
        run.discard_if_empty()
    print(f"finished; evaluate more episodes with: {run.command('evaluate')}")
    return 0


def evaluate(options: argparse.Namespace) -> int:
    """Evaluate the policy of a checkpoint, keep the result, and record and show the episodes on request."""
    from mcurl.run.folder import Run

    _check_evaluate(options)
    _import_modules(options.modules)
    with Run.open(options.path) as run:
        checkpoint = _checkpoint(run, options.checkpoint)
        if options.final and checkpoint.env_steps < run.env_steps:
            steps = f"{checkpoint.env_steps:,} of {run.env_steps:,} env steps"
            raise UserError(f"{run.folder} is not finished: it has {steps}")
        from mcurl.run.display import Status

        messages: list[str] = []
        with Status("evaluating") as status, _first_episode(options.video) as camera:
            from mcurl.evaluate import evaluate_run, result  # takes seconds

            episodes = None if options.final else options.episodes or 100
            recording = evaluate_run(
                run,
                episodes,
                options.seed,
                status.update,
                messages.append,
                checkpoint=checkpoint,
                camera=camera,
            )
        for message in messages:
            print(f"mcurl: {printable(message)}", file=sys.stderr)
        files = {"video": options.video, "recorded": _save_episodes(options, run, recording)}
        values = result(run, recording)
        files["kept"] = None if options.final else _keep(run, values)
    if options.json:
        paths = {name: str(path) for name, path in files.items() if path is not None}
        print(json.dumps({"run": str(options.path), **values, "files": paths}, indent=2))
        return 0
    steps = f"{values['env_steps']:,} env steps"
    print(f"{values['name']} on {values['task']}, seed {values['run_seed']}, after {steps}")
    statistics = "{mean:.2f} ± {std:.2f}, from {min:.2f} to {max:.2f}".format_map(values)
    print(f"{values['episodes']} episodes: mean return {statistics}")
    if files["recorded"]:
        again = command_line("verify", files["recorded"])
        print(f"recorded in {files['recorded']}; play the episodes again with: {again}")
    if files["video"]:
        print(f"video of the first episode, with return {values['returns'][0]:.2f}: {files['video']}")
    if files["kept"]:
        print(printable(f"kept in {files['kept']}"))
    return 0


def _checkpoint(run: Run, env_steps: str | None) -> Checkpoint:
    """The checkpoint of --checkpoint; the latest one without it."""
    from mcurl.config.fields import read_value

    if env_steps is None:
        return run.latest_checkpoint()
    return run.checkpoint_at(read_value("--checkpoint", int, env_steps))


@contextmanager
def _first_episode(target: Path | None) -> Iterator[Camera | None]:
    """What writes a video of the first episode of an evaluation; None without a file."""
    if target is None:
        yield None
        return
    from mcurl.pictures import Video

    with Video(target) as video:
        yield lambda episode, env: video.step(env) if episode == 0 else None


def _keep(run: Run, values: dict[str, Any]) -> Path | None:
    """Keep the result of an evaluation in the run folder. None, with a message, if that cannot be written."""
    try:
        return run.keep_result(values["env_steps"], values["seed"], values)
    except OSError as error:
        print(f"mcurl: the result is not kept in {run.folder}: {error.strerror}", file=sys.stderr)
        return None


def _check_evaluate(options: argparse.Namespace) -> None:
    """Raise UserError if options of `evaluate` exclude each other, or a file exists."""
    if options.final and (options.episodes or options.checkpoint or options.seed is not None):
        names = "--episodes, --checkpoint and --seed"
        raise UserError(f"--final plays the episodes of the run's final evaluation: omit {names}")
    if options.record == "" and not options.final:
        raise UserError("--record needs the name of a file; without one, --final is needed")
    if options.record and Path(options.record).exists():
        raise UserError(f"{options.record} exists already: use another name for --record")
    if options.video:
        from mcurl.pictures import check_video

        check_video(options.video, "--video")


def _save_episodes(options: argparse.Namespace, run: Run, recording: Recording) -> Path | None:
    """Write a recording to a file or, without a name, to the run folder. Returns the file; None without --record.

    Raises:
        UserError: the final evaluation did not come out as in training, or the file exists.
    """
    logged = run.evaluations().get(recording.env_steps, []) if options.final else list(recording.returns)
    if list(recording.returns) != logged:
        different = sum(a != b for a, b in zip(logged, recording.returns, strict=False))
        raise UserError(
            f"{different} of {len(logged)} returns differ from the final evaluation in {run.folder}/evaluations.csv: "
            "this needs the machine, the versions and the code of the run"
        )
    if options.record is None:
        return None
    from mcurl.recording import recording_path

    target = Path(options.record) if options.record else recording_path(run.folder, recording.env_steps)
    data = recording.to_bytes()
    if target.exists() and (options.record or target.read_bytes() != data):
        raise UserError(f"{target} exists already: use --record FILE to write to another file")
    if options.record:
        with target.open("xb") as file:
            file.write(data)
    else:
        run.save_recording(recording.env_steps, data)
    return target


def watch(options: argparse.Namespace) -> int:
    """Write a video of what trained agents see, beside what a person sees."""
    from mcurl.pictures import check_video
    from mcurl.run.display import Status
    from mcurl.run.folder import Run

    check_video(options.out, "--out")
    _import_modules(options.modules)
    with ExitStack() as stack:
        runs = [stack.enter_context(Run.open(path)) for path in options.paths]
        chosen = [(run, _checkpoint(run, options.checkpoint)) for run in runs]
        with Status("playing"):
            from mcurl.watch import watch  # takes seconds

            watched = watch(
                chosen,
                options.out,
                episode=options.episode,
                seed=options.seed,
                seconds=options.seconds or math.inf,
            )
    for name, total, steps, over in watched:
        print(f"{name}: return {total:.2f} in {steps:,} agent steps{'' if over else ', not to its end'}")
    print(options.out)
    return 0


def export(options: argparse.Namespace) -> int:
    """Write the policy of a checkpoint as a folder for other people, and upload it on request."""
    from mcurl.export.folder import check_target
    from mcurl.run.display import Status
    from mcurl.run.folder import Run

    check_target(options.to)
    hub = None
    if options.push:
        from mcurl.export.hub import Hub

        hub = Hub(options.push)
    elif options.private:
        raise UserError("--private has an effect only with --push")
    with Run.open(options.path) as run:
        checkpoint = _checkpoint(run, options.checkpoint)
        with Status("exporting"):
            from mcurl.export.run import export  # takes seconds

            others = _scores_of(options.scores, run) if options.scores else []
            notes = export(run, checkpoint, options.to, others=others, video=not options.no_video)
    for note in notes:
        print(f"mcurl: {note}", file=sys.stderr)
    print(options.to)
    if hub is not None:
        with Status("uploading"):
            address = hub.push(options.to, options.private)
        print(address)
    return 0


def _scores_of(paths: Sequence[Path], run: Run) -> list[Score]:
    """The last evaluation of each other run of the same name, from run folders and folders of scores."""
    from mcurl.export.card import Score
    from mcurl.report.store import read

    suites = {"atari100k": "atari"}
    scores = []
    for other in read(paths):
        task = f"{suites.get(other.benchmark, other.benchmark)}/{other.task}"
        if other.name != run.name or (task, other.seed) == (run.settings["task"], run.settings["seed"]):
            continue
        origin = "last evaluation" if other.finished else "last evaluation, unfinished"
        returns = tuple(other.episodes[other.env_steps])
        scores.append(Score(task, other.name, other.seed, other.env_steps, returns, origin))
    return scores


def verify(options: argparse.Namespace) -> int:
    """Play recorded episodes again, and compare their returns with the scores."""
    from mcurl.runtime.threads import available_cores
    from mcurl.verify.command import Show, verify

    _import_modules(options.modules)
    show = Show(options.picture, options.video)
    jobs = options.jobs or available_cores()
    return verify(options.paths, jobs=jobs, modules=options.modules, show=show, keep_going=options.keep_going)


def settings(options: argparse.Namespace) -> int:
    """Print all settings of a run as TOML."""
    resolved = _resolve(options)
    from mcurl.config.fields import as_toml
    from mcurl.config.resolve import describe

    command = f"mcurl train {resolved.task} --method {resolved.method} --set KEY=VALUE"
    title = f"{resolved.method} on {resolved.task}. Change settings with: {command}"
    print(as_toml(f"{title}\nOr save this file, edit it, and use it with --preset FILE.", describe(resolved)), end="")
    return 0


def collect(options: argparse.Namespace) -> int:
    """Add the scores of run folders to a store."""
    from mcurl.report.scores import read_runs
    from mcurl.report.store import add

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
        _import_from_current_folder()
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


def bench(options: argparse.Namespace) -> int:
    """Time the parts of a run."""
    from mcurl.bench.command import PARTS, run
    from mcurl.run.display import Status

    parts = options.what or ["update"]
    for part in parts:
        if part not in PARTS:
            raise UserError(f"bench: unknown part {part!r}: {suggest(part, PARTS)}")
    with Status("timing"):
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

    from mcurl.run.display import Status
    from mcurl.suites import hours
    from mcurl.suites.show import Overview

    suite, runs = _suite_runs(options)
    jobs = _jobs(options, len(runs))
    overview = Overview.read(suite, runs, options.out, jobs)
    if options.measure:
        for run in overview.unknown.values():
            with Status(f"timing {run.task} {run.arm.name}"):
                hours.measure(run, jobs)
        overview = Overview.read(suite, runs, options.out, jobs)
    overview.print(_wide(Console(highlight=False)))
    return 0


def suite_run(options: argparse.Namespace) -> int:
    """Train the runs of a suite."""
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

    _import_from_current_folder()
    suite = Suite.load(options.name)
    runs = suite.runs(options.tasks, options.methods, options.seeds)
    check_runs(runs)
    return suite, runs


def _jobs(options: argparse.Namespace, runs: int) -> int:
    from mcurl.runtime.threads import available_cores

    return min(options.jobs or available_cores(), runs)


def _wide(console: Console) -> Console:
    """Complete rows, even if the output is not a terminal."""
    if not console.is_terminal:
        console.width = max(console.width, 120)
    return console


def _import_from_current_folder() -> None:
    """Let modules that the user names on the command line lie in the current folder.

    Modules in the settings of a run are not searched there, because a run folder of unknown origin must not execute its
    code.
    """
    if "" not in sys.path:
        sys.path.insert(0, "")


def _import_modules(modules: Sequence[str]) -> None:
    """Import the modules of --import, which may lie in the current folder. Raises UserError if one cannot be."""
    if modules:
        from mcurl.registry import import_user_module

        _import_from_current_folder()
        for module in modules:
            import_user_module(module)


def _resolve(options: argparse.Namespace, seed: int = 1) -> TrainSettings:
    from mcurl.config.resolve import resolve

    _import_from_current_folder()
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
