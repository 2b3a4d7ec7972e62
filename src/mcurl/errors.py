"""What a user did wrong, said in one line."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class UserError(Exception):
    """Bad input: the message is one line that says what is wrong and what was expected. The command line prints it and
    exits with status 2."""


def suggest(name: str, choices: Iterable[str], *, most: int = 12) -> str:
    """'did you mean X?' where a choice is close, else the choices themselves.

    >>> suggest("mcrl", ["mcurl", "curl"])
    'did you mean mcurl?'
    """
    choices = sorted(choices)
    close = difflib.get_close_matches(name.lower(), [choice.lower() for choice in choices], n=1, cutoff=0.6)
    if close:
        return f"did you mean {next(choice for choice in choices if choice.lower() == close[0])}?"
    shown = ", ".join(choices[:most])
    return f"choose from {shown}" + (f" and {len(choices) - most} more" if len(choices) > most else "")
