"""The agents by name, and which one learns which actions."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import gymnasium

from mcurl.registry import Registry

if TYPE_CHECKING:
    from mcurl.agents.base import Agent

AGENTS: Registry[Agent] = Registry(
    "agent", "mcurl.agents.base:Agent", {"sac": "mcurl.agents.sac:SAC", "rainbow": "mcurl.agents.rainbow:Rainbow"}
)


def agent_for(actions: gymnasium.Space[Any]) -> str:
    """The registered agent that learns such actions: SAC continuous ones, Rainbow discrete ones."""
    return "rainbow" if isinstance(actions, gymnasium.spaces.Discrete) else "sac"
