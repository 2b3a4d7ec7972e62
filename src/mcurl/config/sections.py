"""The sections of settings that all runs share."""

from __future__ import annotations

from dataclasses import dataclass

from mcurl.config.fields import setting


@dataclass(frozen=True)
class ReplaySettings:
    """The replay buffer."""

    capacity: int = setting(100_000, low=1)
    """Capacity in frames; the oldest frames are overwritten."""


@dataclass(frozen=True)
class EvaluationSettings:
    """Evaluation schedule."""

    every: int = setting(20_000, low=0, unit="env steps")
    """Interval between evaluations; 0: only at the start and at the end."""
    episodes: int = setting(10, low=1)
    """Episodes in an evaluation."""
    final_episodes: int = setting(0, low=0)
    """Episodes in the last evaluation, whose mean is the score; 0: as many as in the others."""
    parallel: int = setting(10, low=1)
    """Environments that are played in parallel, with one batch of observations for the policy."""


@dataclass(frozen=True)
class CheckpointSettings:
    """Checkpoint schedule."""

    every: int = setting(20_000, low=0, unit="env steps")
    """Interval between checkpoints; 0: only at the end and after Ctrl-C."""
