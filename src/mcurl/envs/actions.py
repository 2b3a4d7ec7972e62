"""Actions of Gymnasium environments, as agents use them: Discrete from 0, or Box in [-1, 1]."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import gymnasium
import numpy as np
from gymnasium.spaces import Box, Discrete, MultiBinary, MultiDiscrete

from mcurl.envs.stack import Rescaling
from mcurl.errors import UserError, one_line

MAX_COMBINATIONS = 4096
"""Largest number of actions that a MultiDiscrete or MultiBinary space is flattened to."""
UNBOUNDED = 1e10
"""Bounds of this size are none: libraries write the largest number for infinity."""


def convert_actions(space: gymnasium.Space[Any], task: str) -> tuple[Callable[[Any], Any], Discrete | Box]:
    """A function from the agent's actions to the environment's, and the agent's action space.

    MultiDiscrete and MultiBinary become one Discrete action for each combination, counted with the last one fastest.

    Args:
        space: of the environment.
        task: for error messages.

    Raises:
        UserError: no agent supports these actions.
    """
    if isinstance(space, Discrete):
        start = int(space.start)
        return (lambda action: int(action) + start), Discrete(int(space.n))
    if isinstance(space, MultiDiscrete | MultiBinary):
        return _flatten(space, task)
    if not isinstance(space, Box) or not np.issubdtype(space.dtype, np.floating):
        supported = "Discrete, MultiDiscrete, MultiBinary and bounded Box of floats"
        raise UserError(f"{task} has actions of {one_line(space)}: only {supported} are supported")
    if space.low.size == 0 or not (np.abs(space.low) < UNBOUNDED).all() or not (np.abs(space.high) < UNBOUNDED).all():
        raise UserError(
            f"{task} has actions without bounds ({one_line(space)}): they cannot be rescaled to [-1, 1]; "
            "wrap it in gymnasium.wrappers.RescaleAction or give its Box finite bounds"
        )
    rescaling, dtype = Rescaling(space.low, space.high), space.dtype
    return (lambda action: rescaling(action).astype(dtype)), rescaling.space


def _flatten(space: MultiDiscrete | MultiBinary, task: str) -> tuple[Callable[[Any], Any], Discrete]:
    """One Discrete action for each combination."""
    shape, dtype = space.shape, space.dtype
    counts = np.full(shape, 2) if isinstance(space, MultiBinary) else np.asarray(space.nvec)
    start = np.asarray(getattr(space, "start", 0))
    sizes = tuple(int(count) for count in counts.flat)
    combinations = 1
    for size in sizes:
        combinations *= size
    if combinations > MAX_COMBINATIONS:
        limit = f"{combinations:,} combinations; at most {MAX_COMBINATIONS:,} are flattened"
        raise UserError(f"{task} has actions of {one_line(space)}: {limit}")

    def to_inner(action: Any) -> Any:
        return (np.array(np.unravel_index(int(action), sizes)).reshape(shape) + start).astype(dtype)

    return to_inner, Discrete(combinations)
