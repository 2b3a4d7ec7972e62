"""The error for bad user input, suggestions for misspelt names, and text that a terminal can show."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

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
    choices, name = sorted(choices), name[:100]  # the time grows with the square of the length
    close = difflib.get_close_matches(name.lower(), [choice.lower() for choice in choices], n=1, cutoff=0.6)
    if close:
        return f"did you mean {next(choice for choice in choices if choice.lower() == close[0])}?"
    listed = ", ".join(choices[:max_choices])
    omitted = len(choices) - max_choices
    return f"choose from {listed}" + (f" and {omitted} more" if omitted > 0 else "")
