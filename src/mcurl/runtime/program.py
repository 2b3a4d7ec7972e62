"""The command line that a user can type, as printed, to call this program again."""

from __future__ import annotations

import os
import shlex
import shutil
import sys
import sysconfig
from pathlib import Path

NAME = "mcurl"


def command_line(*words: object) -> str:
    """A command of this program, with its path where the shell does not find it, and quotes where they are needed.

    Args:
        words: the arguments of the program.

    Returns:
        Such as ``mcurl resume runs/x``; without an activated environment ``.venv/bin/mcurl resume runs/x``.
    """
    return " ".join([_program(), *(shlex.quote(str(word)) for word in words)])


def module_command() -> list[str]:
    """The words that start this program in another process. Nothing in the current folder is imported instead of it."""
    return [sys.executable, "-P", "-m", NAME]


def _program() -> str:
    """What calls this program: its name, its path, or the interpreter with ``-m``."""
    own = [script for script in _own_scripts() if script.is_file()]
    found = shutil.which(NAME)
    if found and any(os.path.samefile(found, script) for script in own):
        return NAME
    return shlex.quote(_short(own[0])) if own else f"{shlex.quote(_short(Path(sys.executable)))} -m {NAME}"


def _own_scripts() -> list[Path]:
    """Where the script of this installation may lie: as it was called, and beside the interpreter."""
    called = Path(sys.argv[0])
    return [
        *([called] if called.name == NAME else []),
        Path(sysconfig.get_path("scripts")) / NAME,
        Path(sys.executable).parent / NAME,
    ]


def _short(path: Path) -> str:
    """A path relative to the current folder if it lies below, else an absolute path. Links are not followed."""
    absolute = Path(os.path.abspath(path))  # keeps the link of a virtual environment's python
    here = Path.cwd()
    return str(absolute.relative_to(here)) if absolute.is_relative_to(here) else str(absolute)
