"""The error for bad user input, suggestions for misspelt names, and text that a terminal can show.

Messages name arguments as the user writes them: see :func:`argument`.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager

_on_command_line = False
_LONGEST = 4000
"""Longest message in characters. A file of unknown origin may bring in more."""


class UserError(Exception):
    """Bad user input.

    The message is one line that says what is wrong and what was expected. The command line prints it and exits with
    status 2. What a file or a name brings into it is printable: see :func:`printable`.
    """

    def __str__(self) -> str:
        text = super().__str__()
        return printable(text if len(text) <= _LONGEST else f"{text[:_LONGEST]}...")


class NotResumableError(UserError):
    """What a resume needs is gone from the run folder."""


@contextmanager
def on_command_line() -> Iterator[None]:
    """A context manager in which :func:`argument` and :func:`settings_argument` name options, not Python arguments."""
    global _on_command_line
    previous, _on_command_line = _on_command_line, True
    try:
        yield
    finally:
        _on_command_line = previous


def argument(name: str, value: object = None) -> str:
    """How the user writes an argument: as an option of the command line, or as a keyword argument in Python.

    Args:
        name: in Python, such as ``"env_steps"``.
        value: None: the name alone.

    >>> argument("env_steps"), argument("agent", "rainbow")
    ('env_steps=', "agent='rainbow'")
    >>> with on_command_line(): argument("env_steps"), argument("agent", "rainbow")
    ('--env-steps', '--agent rainbow')
    """
    if _on_command_line:
        return f"--{name.replace('_', '-')}" + ("" if value is None else f" {value}")
    return f"{name}=" + ("" if value is None else repr(value))


def call_or_command(call: str, command: str) -> str:
    """What the user may do next: a call in Python, or a command on the command line.

    >>> call_or_command("mcurl.resume('runs/x')", "mcurl resume runs/x")
    "mcurl.resume('runs/x')"
    """
    return command if _on_command_line else call


def settings_argument(values: Mapping[str, object]) -> str:
    """How the user writes settings: after ``--set``, or as an argument in Python.

    >>> settings_argument({"sac.crop": 84})
    "settings={'sac.crop': 84}"
    >>> with on_command_line(): settings_argument({"sac.crop": 84, "env.render": True})
    '--set sac.crop=84 env.render=true'
    """
    if not _on_command_line:
        return f"settings={dict(values)}"
    words = (f"{key}={str(value).lower() if isinstance(value, bool) else value}" for key, value in values.items())
    return f"--set {' '.join(words)}"


def one_line(value: object, length: int = 200) -> str:
    r"""A value in a message: on one line, without runs of spaces, cut off after ``length`` characters.

    >>> one_line("Box([0.\n   1.])"), one_line("abcdef", 3)
    ('Box([0. 1.])', 'abc...')
    """
    text = " ".join(str(value).split())
    return text if len(text) <= length else f"{text[:length]}..."


def printable(text: str) -> str:
    r"""Text on one line, with escapes in place of the characters that a terminal would obey or not show.

    >>> printable("red: \x1b[31m")
    'red: \\x1b[31m'
    """
    return text if text.isprintable() else "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)


def suggest(name: str, choices: Iterable[str], *, max_choices: int = 12) -> str:
    """Return ``"did you mean X?"`` if a choice is close to ``name``, else a list of the choices.

    Args:
        name: the unknown name.
        choices: the valid names.
        max_choices: list at most this many of them.

    >>> suggest("mcrl", ["mcurl", "curl"])
    'did you mean mcurl?'
    """
    choices = sorted(choices)
    if close := closest(name, choices):
        return f"did you mean {close}?"
    return list_choices(choices, max_choices)


def closest(name: str, choices: Iterable[str]) -> str | None:
    """The choice that is close to a name; None if none is."""
    choices, name = sorted(choices), name[:100]  # the time grows with the square of the length
    close = difflib.get_close_matches(name.lower(), [choice.lower() for choice in choices], n=1, cutoff=0.6)
    return next(choice for choice in choices if choice.lower() == close[0]) if close else None


def list_choices(choices: Iterable[str], max_choices: int) -> str:
    """Return ``"choose from X, Y and 2 more"``."""
    choices = sorted(choices)
    omitted = len(choices) - max_choices
    return f"choose from {', '.join(choices[:max_choices])}" + (f" and {omitted} more" if omitted > 0 else "")
