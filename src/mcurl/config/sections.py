"""The sections that every run has, beside its environment's, its agent's and its objective's."""

from __future__ import annotations

from dataclasses import dataclass

from mcurl.config.fields import setting


@dataclass(frozen=True)
class ReplaySettings:
    """The replay buffer."""

    capacity: int = setting(100_000, low=1)
    """Frames kept; the oldest are overwritten."""


@dataclass(frozen=True)
class EvaluationSettings:
    """Evaluation schedule."""

    every: int = setting(20_000, low=0, unit="env steps")
    """Interval between evaluations; 0: only at the end."""
    episodes: int = setting(10, low=1)
    """Episodes in an evaluation."""
    final_episodes: int = setting(0, low=0)
    """Episodes in the last evaluation, whose mean is the score; 0: as many as in the others."""
    parallel: int = setting(10, low=1)
    """Episodes played side by side, by a policy that sees them as one batch."""


@dataclass(frozen=True)
class CheckpointSettings:
    """Checkpoint schedule."""

    every: int = setting(20_000, low=0, unit="env steps")
    """Interval between checkpoints; 0: only at the end and at Ctrl-C."""
