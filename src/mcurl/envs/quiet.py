"""Silence what the environments' libraries print about themselves; warnings and errors remain."""

from __future__ import annotations

import logging
import os
import re
import sys


def silence_libraries() -> None:
    """Leave out dm_control's, PyOpenGL's, pygame's and SDL's notes on their versions, back ends and missing screens.

    Call it before the libraries are imported. What the user has set is kept.
    """
    os.environ.setdefault("PYGAME_HIDE_SUPPORT_PROMPT", "1")
    for name in ("absl", "OpenGL"):
        if logging.getLogger(name).level == logging.NOTSET:
            logging.getLogger(name).setLevel(logging.WARNING)
    logging.getLogger("absl").addFilter(_concerns_the_user)
    if sys.platform == "linux" and not (os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")):
        # Else SDL, which only draws into memory here, looks for a screen, and prints that there is none. Its driver
        # `dummy` has no renderer: some games stay black.
        os.environ.setdefault("SDL_VIDEODRIVER", "offscreen")


def _concerns_the_user(record: logging.LogRecord) -> bool:
    """Whether it is anything but MuJoCo's note on an old attribute in a model of dm_control, such as cheetah's."""
    return not re.match(r"compiler attribute '\w+' is deprecated", record.getMessage())
