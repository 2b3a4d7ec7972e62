"""Time an agent step of a training loop by others beside ours, in turn, after learning has started.

    git clone https://github.com/teslacool/m-curl peers/m-curl               # commit d6b48cf
    sed -i 's/q \\*= self.scaling/q = q * self.scaling/' peers/m-curl/ctmr_sac.py  # today's autograd refuses the former
    git clone https://github.com/MishaLaskin/curl peers/curl                 # commit 537ac39
    git clone https://github.com/aravindsrinivas/curl_rainbow peers/curl_rainbow  # commit 40bf738
    pip install kornia==0.9.0
    python tests/bench/peers.py mcurl-dmc --threads 2 peers

Their main programs run unchanged, with the arguments of their READMEs, but for evaluation. They count as `base`.
`compat.py` stands for packages that they need and that do not install today. Both sides act, step the environment,
store and update; ours runs as `mcurl train` does. --set is passed on to ours.
"""

from __future__ import annotations

import argparse
import builtins
import os
import runpy
import shutil
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from in_turn import add_options, report, run_in_turn

WARM_UP = 5
"""Steps with an update before the first repetition; as many repetitions are left out."""
CARTPOLE = "--domain_name cartpole --task_name swingup --seed 1 --num_train_steps 1000000"


class Loop(NamedTuple):
    """A training loop of others, and ours."""

    folder: str
    learning_starts: int
    """The first of their steps with an update."""
    steps: int
    """In a repetition."""
    arguments: str
    ours: tuple[str, str]
    """Task and method."""


LOOPS = {
    "mcurl-dmc": Loop(
        "m-curl",
        1000,
        4,
        f"{CARTPOLE} --agent ctmr_sac --mtm_ratio 0.5 --encoder_annealling --num_attn_layer 2 "
        "--adam_warmup_step 6e3 --dropout 0.1 --mtm_length 32 --mtm_bsz 16",
        ("dmc/cartpole-swingup", "mcurl"),
    ),
    "curl-dmc": Loop(
        "curl",
        1000,
        4,
        f"{CARTPOLE} --agent curl_sac --encoder_type pixel --action_repeat 8 --save_tb "
        "--pre_transform_image_size 100 --image_size 84 --frame_stack 3 --critic_lr 1e-3 --actor_lr 1e-3 "
        "--eval_freq 10000 --batch_size 128",
        ("dmc/cartpole-swingup", "curl"),
    ),
    "curl-atari": Loop("curl_rainbow", 1600, 10, "--game road_runner --seed 1", ("atari/RoadRunner", "curl")),
}


def main() -> None:
    """Command line of this script."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("loop", choices=LOOPS)
    parser.add_argument("folder", type=Path, help="folder of the three clones")
    add_options(parser)
    parser.add_argument("--set", nargs="+", default=[], metavar="KEY=VALUE", help="settings of ours")
    parser.add_argument("--worker", choices=["theirs", "ours"], help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        # What the programs print goes to standard error.
        answers = os.fdopen(os.dup(1), "w", buffering=1)
        os.dup2(2, 1)
        (run_theirs if options.worker == "theirs" else run_ours)(options, answers)
        return
    command = [sys.executable, __file__, options.loop, str(options.folder), "--threads", str(options.threads)]
    settings = ["--set", *options.set] if options.set else []
    commands = [[*command, "--worker", "theirs"], [*command, *settings, "--worker", "ours"]]
    threads = {"OMP_NUM_THREADS": str(options.threads), "MKL_NUM_THREADS": str(options.threads)}
    seconds = run_in_turn(commands, [threads, threads], options.repeats, warm_up=WARM_UP)
    report(f"{options.loop}, an agent step; base: the loop of {LOOPS[options.loop].folder}", options, seconds)


def run_theirs(options: Any, answers: Any) -> None:
    """Their main program, whose training loop waits for a line of standard input before each repetition."""
    loop, here, folder = LOOPS[options.loop], Path(__file__).parent, options.folder.resolve()
    scratch = tempfile.mkdtemp(prefix="peer-")
    os.environ.setdefault("MUJOCO_GL", "egl")
    sys.path[0:0] = [str(folder / loop.folder), str(here)]
    import compat
    import torch
    import torch._dynamo  # before OpenGL is loaded

    compat.install()
    torch.set_num_threads(options.threads)
    os.chdir(scratch)

    def steps(*arguments: Any, **_: Any) -> Iterable[int]:
        numbers = builtins.range(*arguments)
        return numbers if len(numbers) < 1000 else wait_before_repetitions(iter(numbers))

    def wait_before_repetitions(numbers: Iterator[int]) -> Iterator[int]:
        for step in numbers:
            yield step
            if step == loop.learning_starts + WARM_UP - 1:
                break
        print("ready", file=answers)
        for _ in sys.stdin:
            started = time.perf_counter()
            for _ in builtins.range(loop.steps):
                yield next(numbers)
            print((time.perf_counter() - started) / loop.steps, file=answers)
        _leave(scratch)

    if loop.folder == "curl_rainbow":
        import tqdm

        tqdm.trange = steps
        sys.argv = ["main.py", *loop.arguments.split()]
        runpy.run_path(str(folder / loop.folder / "main.py"), run_name="__main__")
    else:
        import train

        train.range, train.evaluate = steps, lambda *_: None
        sys.argv = ["train.py", *loop.arguments.split(), "--work_dir", scratch]
        train.main()


def run_ours(options: Any, answers: Any) -> None:
    """`mcurl train`, which waits for a line of standard input before each repetition."""
    from mcurl.runtime.threads import limit_openmp_spinning

    limit_openmp_spinning()  # before PyTorch is imported, as the mcurl command does
    from mcurl.cli import main as mcurl
    from mcurl.training.trainer import Trainer

    loop, step = LOOPS[options.loop], Trainer._step
    scratch, count, started = tempfile.mkdtemp(prefix="ours-"), None, 0.0

    def timed_step(trainer: Trainer) -> None:
        nonlocal count, started
        if trainer.updates >= WARM_UP:
            if count is None:
                print("ready", file=answers)
            elif count + 1 == loop.steps:
                print((time.perf_counter() - started) / loop.steps, file=answers)
            if count is None or count + 1 == loop.steps:
                if not sys.stdin.readline():
                    _leave(scratch)
                count, started = 0, time.perf_counter()
            else:
                count += 1
        step(trainer)

    Trainer._step = timed_step  # type: ignore[method-assign]
    task, method = loop.ours
    arguments = ["--method", method, "--threads", str(options.threads), "--seed", "1", "--out", scratch]
    without = ["evaluation.every=0", "evaluation.episodes=1", "checkpoint.every=0"]
    sys.exit(mcurl(["train", task, *arguments, "--set", *without, *options.set]))


def _leave(scratch: str) -> None:
    shutil.rmtree(scratch, ignore_errors=True)
    os._exit(0)


if __name__ == "__main__":
    main()
