"""What a run is called, from its settings as JSON values."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any


def run_name(settings: Mapping[str, Any]) -> str:
    """The method, after the agent where it is the user's own, in characters that a file name takes.

    >>> run_name({"method": "mcurl", "agent": "sac"}), run_name({"method": "rl-only", "agent": "mine:Toy"})
    ('mcurl', 'mine-Toy-rl-only')
    """
    agent, method = settings.get("agent", ""), settings["method"]
    return re.sub(r"[^\w.-]+", "-", f"{agent}-{method}" if ":" in agent else method)
