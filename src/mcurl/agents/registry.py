"""The registry of agents, and the default agent for an action space."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import gymnasium

from mcurl.registry import Registry

if TYPE_CHECKING:
    from mcurl.agents.base import Agent

AGENTS: Registry[Agent] = Registry(
    "agent",
    "mcurl.agents.base:Agent",
    {
        "sac": "mcurl.agents.sac:SAC",
        "rainbow": "mcurl.agents.rainbow:Rainbow",
        "drqv2": "mcurl.agents.drqv2:DrQv2",
    },
)


def agent_for(actions: gymnasium.Space[Any]) -> str:
    """Name of the default agent for an action space: ``"rainbow"`` for Discrete, else ``"sac"``."""
    return "rainbow" if isinstance(actions, gymnasium.spaces.Discrete) else "sac"
