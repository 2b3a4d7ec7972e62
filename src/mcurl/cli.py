"""The command line: error messages, suggestions and exit status. The arguments of each command are in ``parsers.py``.

A user error is one line on standard error, with exit status 2. Arguments are checked before anything is written. Large
modules are imported when a command needs them, so that ``mcurl --help`` is fast.
"""

from __future__ import annotations

import io
import itertools
import os
import re
import sys
import traceback
from collections.abc import Sequence

from mcurl.errors import UserError, on_command_line, printable, suggest
from mcurl.parsers import DEBUG_OPTION, Command, build_parsers
from mcurl.runtime.threads import limit_openmp_spinning

DEBUG = "MCURL_DEBUG"
"""Environment variable: show the traceback of an error, as ``--debug`` does."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command line.

    Args:
        arguments: the arguments after the name of the program; None: those of ``sys.argv``.

    Returns:
        The exit status: 0; 2 after a user error; 128 + the signal's number if a signal stopped training.
    """
    limit_openmp_spinning()
    _replace_unknown_characters()
    status = 0
    words = sys.argv[1:] if arguments is None else list(arguments)
    if DEBUG_OPTION in words:
        os.environ[DEBUG] = "1"  # also for the processes that a command starts
    try:
        with on_command_line():
            status = _run([word for word in words if word != DEBUG_OPTION])
        sys.stdout.flush()
    except UserError as error:
        status = _fail(str(error))
    except KeyboardInterrupt:
        print("mcurl: stopped", file=sys.stderr)
        return 130
    except BrokenPipeError:  # the reader closed the pipe, as in `mcurl tasks dmc | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except (MemoryError, RuntimeError) as error:
        if not isinstance(error, MemoryError) and not re.search(r"out of memory|can't allocate", str(error)):
            raise
        status = _fail("there is not enough memory: choose a smaller replay.capacity, batch_size or network")
    except OSError as error:  # for example a full disk or a folder that is not writable
        known = error.strerror and error.filename is not None
        status = _fail(printable(f"{error.filename}: {error.strerror}" if known else str(error)))
    return status


def _replace_unknown_characters() -> None:
    """Let standard output replace the characters that its encoding does not have. Standard error escapes them."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")


def _fail(message: str) -> int:
    if os.environ.get(DEBUG):
        traceback.print_exc()
    print(f"mcurl: {message}", file=sys.stderr)
    return 2


_OPTIONS_ELSEWHERE = {
    "env-steps": "steps timesteps total-timesteps total-steps frames num-steps max-steps",
    "env": "env task env-id env-name environment game domain",
    "seed": "seeds",
    "preset": "config",
    "out": "outdir out-dir output logdir log-dir save-dir work-dir",
    "compute.device": "device",
    "compute.device=cuda": "gpu cuda gpus use-gpu",
    "compute.precision": "precision dtype",
    "learning_rate": "lr learning-rate",
    "batch_size": "batch-size bs",
    "discount": "gamma discount",
    "evaluation.every": "eval-every eval-freq eval-interval",
    "evaluation.episodes": "eval-episodes n-eval-episodes",
    "replay.capacity": "buffer-size replay-size capacity",
    "env.action_repeat": "action-repeat",
    "env.frame_stack": "frame-stack",
    "env.image_size": "image-size",
}
"""What other programs' options are here: an option, ``env`` for TASK, or a setting -> their names."""


def _run(arguments: list[str]) -> int:
    parser, parsers = build_parsers()
    if not arguments:
        parser.print_help()
        return 0
    first = arguments[0]
    if first == "help":
        raise UserError(f"unknown command 'help': did you mean `{' '.join(['mcurl', *arguments[1:2], '--help'])}`?")
    if not first.startswith("-") and first not in parsers:
        raise UserError(f"unknown command {first!r}: {suggest(first, parsers)}")
    if first == "suite" and len(arguments) > 1 and not arguments[1].startswith("-"):
        actions = [name.removeprefix("suite ") for name in parsers if name.startswith("suite ")]
        if arguments[1] not in actions:
            raise UserError(f"suite: unknown action {arguments[1]!r}: {suggest(arguments[1], actions)}")
        first = f"suite {arguments[1]}"
    options, rest = parser.parse_known_args(arguments)
    if len(seeds := _numbers_after("--seed", arguments)) > 1:
        raise UserError(f"{first}: several seeds are written with commas: did you mean --seed {','.join(seeds)}?")
    unknown = next((word for word in rest if word.startswith("-")), None)
    if unknown is not None:
        known = parsers[first].options() if first in parsers else parser.options()
        raise UserError(f"{first}: unknown option {unknown}: {_suggest_option(unknown, arguments, known)}")
    if rest:
        raise UserError(f"{first}: unexpected argument {rest[0]!r}")
    command: Command = options.run
    return command(options)


def _numbers_after(option: str, arguments: Sequence[str]) -> list[str]:
    """The numbers that follow an option, as in ``--seed 1 2 3``."""
    following = arguments[arguments.index(option) + 1 :] if option in arguments else []
    return [word.strip(",") for word in itertools.takewhile(lambda word: word.strip(",").isdecimal(), following)]


def _suggest_option(unknown: str, arguments: Sequence[str], known: Sequence[str]) -> str:
    """The nearest valid choice for an unknown option: an option of the command, an argument or a setting."""
    name, equals, value = unknown.lstrip("-").partition("=")
    names = {other: here for here, others in _OPTIONS_ELSEWHERE.items() for other in others.split()}
    here = names.get(name.lower().replace("_", "-"))
    if name == "import":
        if "--method" in known:
            return "a module of yours is part of a name: task gym/MODULE:ID, or --method and --agent MODULE:CLASS"
        return "it is an option of the commands that open a run whose code is a module of yours"
    if here is None or "--set" not in known:
        return suggest(f"--{name}", known)
    following = arguments[arguments.index(unknown) + 1 :]
    if not equals:
        value = following[0] if following and not following[0].startswith("-") else "VALUE"
    if f"--{here}" in known:
        return f"did you mean --{here} {'N' if value == 'VALUE' else value}?"
    if here == "env":
        return (
            f"the task is an argument of its own: did you mean {'dmc/cartpole-swingup' if value == 'VALUE' else value}?"
        )
    if "." not in here:  # a setting that each agent has
        agent = "rainbow" if any(word.lower().startswith("atari/") for word in arguments) else "sac"
        here = f"{agent}.{here}"
    return f"did you mean --set {here if '=' in here else f'{here}={value}'}?"
