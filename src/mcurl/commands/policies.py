"""Trained policies: evaluated and watched."""

from __future__ import annotations

import argparse
import json
import math
import os
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mcurl.commands.options import chosen_checkpoint, import_modules, open_run
from mcurl.errors import UserError, printable
from mcurl.files import read_bytes
from mcurl.runtime.program import command_line

if TYPE_CHECKING:
    from mcurl.episodes import Camera
    from mcurl.recording import Recording
    from mcurl.run.folder import Run


def evaluate(options: argparse.Namespace) -> int:
    """Evaluate the policy of a checkpoint, keep the result, and record and show the episodes on request."""
    from mcurl.config.resolve import read_seed

    _check_evaluate(options)
    import_modules(options.modules)
    seed = None if options.seed is None else read_seed(options.seed)
    with open_run(options.path) as run:
        checkpoint = chosen_checkpoint(run, options.checkpoint)
        if options.final and checkpoint.env_steps < run.env_steps:
            steps = f"{checkpoint.env_steps:,} of {run.env_steps:,} env steps"
            raise UserError(f"{run.folder} is not finished: it has {steps}")
        from mcurl.run.status import StatusLine

        messages: list[str] = []
        with StatusLine("evaluating") as status, _first_episode(options.video) as camera:
            from mcurl.evaluate import evaluate_run, result  # takes seconds

            episodes = None if options.final else options.episodes or 100
            recording = evaluate_run(
                run,
                episodes,
                seed,
                status.update,
                messages.append,
                checkpoint=checkpoint,
                camera=camera,
            )
        for message in messages:
            print(f"mcurl: {printable(message)}", file=sys.stderr)
        values = result(run, recording)
        kept = None if options.final else _keep(run, values)  # first: nothing that fails later loses it
        files = {"video": options.video, "recorded": _save_episodes(options, run, recording), "kept": kept}
    if options.json:
        paths = {name: str(path) for name, path in files.items() if path is not None}
        print(json.dumps({"run": str(options.path), **values, "files": paths}, indent=2))
        return 0
    steps = f"{values['env_steps']:,} env steps"
    print(f"{values['name']} on {values['task']}, seed {values['run_seed']}, after {steps}")
    statistics = "{mean:.2f} ± {std:.2f}, from {min:.2f} to {max:.2f}".format_map(values)
    print(f"{values['episodes']} episodes: mean return {statistics}")
    if options.final:
        print("each return is that of the final evaluation in training, exactly")
    if files["recorded"]:
        again = command_line("verify", files["recorded"])
        print(f"recorded in {files['recorded']}; play the episodes again with: {again}")
    if files["video"]:
        print(f"video of the first episode, with return {values['returns'][0]:.2f}: {files['video']}")
    if files["kept"]:
        print(printable(f"kept in {files['kept']}"))
    return 0


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
    except (OSError, UserError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        print(printable(f"mcurl: the result is not kept in {run.folder}: {reason}"), file=sys.stderr)
        return None


def _check_evaluate(options: argparse.Namespace) -> None:
    """Raise UserError if options of `evaluate` exclude each other, or a file exists."""
    if options.final and (options.episodes or options.checkpoint or options.seed is not None):
        names = "--episodes, --checkpoint and --seed"
        raise UserError(f"--final plays the episodes of the run's final evaluation: omit {names}")
    if options.record == "" and not options.final:
        raise UserError("--record needs the name of a file; without one, --final is needed")
    if options.record and os.path.lexists(options.record):
        raise UserError(f"{options.record} exists already: use another name for --record")
    if options.record and not (folder := Path(options.record).parent).is_dir():
        raise UserError(f"--record {options.record}: there is no folder {folder}")
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
    if os.path.lexists(target) and (options.record or not _holds(target, data)):
        raise UserError(f"{target} exists already: use --record FILE to write to another file")
    if options.record:
        with target.open("xb") as file:
            file.write(data)
    else:
        run.save_recording(recording.env_steps, data)
    return target


def _holds(path: Path, data: bytes) -> bool:
    """Whether a plain file has this content."""
    try:
        return read_bytes(path, len(data)) == data
    except (OSError, UserError):
        return False


def watch(options: argparse.Namespace) -> int:
    """Write a video of what trained agents see, beside what a person sees."""
    from mcurl.config.resolve import read_seed
    from mcurl.pictures import check_video
    from mcurl.run.status import StatusLine

    check_video(options.out, "--out")
    seed = None if options.seed is None else read_seed(options.seed)
    import_modules(options.modules)
    with ExitStack() as stack:
        runs = [stack.enter_context(open_run(path)) for path in options.paths]
        chosen = [(run, chosen_checkpoint(run, options.checkpoint)) for run in runs]
        with StatusLine("playing"):
            from mcurl.watch import watch  # takes seconds

            watched = watch(
                chosen,
                options.out,
                episode=options.episode,
                seed=seed,
                seconds=options.seconds or math.inf,
            )
    for name, total, steps, over in watched:
        print(f"{name}: return {total:.2f} in {steps:,} agent steps{'' if over else ', not to its end'}")
    print(options.out)
    return 0
