"""The error for bad user input, and suggestions for misspelt names."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class UserError(Exception):
    """Bad user input.

    The message is one line that says what is wrong and what was expected. The command line prints it and exits with
    status 2.
    """


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
    close = difflib.get_close_matches(name.lower(), [choice.lower() for choice in choices], n=1, cutoff=0.6)
    if close:
        return f"did you mean {next(choice for choice in choices if choice.lower() == close[0])}?"
    listed = ", ".join(choices[:max_choices])
    omitted = len(choices) - max_choices
    return f"choose from {listed}" + (f" and {omitted} more" if omitted > 0 else "")
