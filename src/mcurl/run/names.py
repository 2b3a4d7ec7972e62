"""Names of runs, from their settings as JSON values."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any


def run_name(settings: Mapping[str, Any]) -> str:
    """The method's name, after the name of a user-defined agent, with only the characters of file names.

    >>> run_name({"method": "mcurl", "agent": "sac"}), run_name({"method": "rl-only", "agent": "mine:Toy"})
    ('mcurl', 'mine-Toy-rl-only')
    """
    agent, method = settings.get("agent", ""), settings["method"]
    return re.sub(r"[^\w.-]+", "-", f"{agent}-{method}" if ":" in agent else method)
