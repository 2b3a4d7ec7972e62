"""The optimizer of a contrastive loss: its parameter groups, and their learning rates as functions of env steps."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from mcurl.agents.optim import objective_parameters
from mcurl.config.fields import Meta, read_value
from mcurl.errors import UserError
from mcurl.objectives.base import Objective


def parameter_groups(
    objective: Objective, encoder: nn.Module, learning_rate: float, *, encoder_factor: float = 2.0
) -> list[dict[str, Any]]:
    """Parameter groups for any optimizer of PyTorch.

    Args:
        objective: its trainable parameters; those of ``encoder_parameters()`` learn with the encoder.
        encoder: trained by the contrastive loss and by the agent's own loss. The agent's optimizer may hold it too.
        learning_rate: base learning rate.
        encoder_factor: the encoder's learning rate as a multiple of ``learning_rate`` (2: CURL's code on DMControl).

    Returns:
        The groups ``"encoder"`` and ``"objective"`` (if it has parameters), each with ``params``, ``name``, ``lr`` and
        ``base_lr``, the rate that :func:`set_learning_rates` multiplies.

    Raises:
        UserError: ``learning_rate`` is not above 0, or ``encoder_factor`` is negative, or one is not a number.
    """
    learning_rate = float(read_value("learning_rate", float, learning_rate))
    encoder_factor = float(read_value("encoder_factor", float, encoder_factor))
    Meta(above=0).check("learning_rate", learning_rate)
    Meta(low=0).check("encoder_factor", encoder_factor)
    with_encoder, rest = objective_parameters(objective)
    encoder_parameters = [parameter for parameter in encoder.parameters() if parameter.requires_grad]
    rate = encoder_factor * learning_rate
    groups: list[dict[str, Any]] = [
        {"name": "encoder", "params": [*encoder_parameters, *with_encoder], "lr": rate, "base_lr": rate},
        {"name": "objective", "params": rest, "lr": learning_rate, "base_lr": learning_rate},
    ]
    return [group for group in groups if group["params"]]


def set_learning_rates(optimizer: torch.optim.Optimizer, objective: Objective, env_steps: int) -> None:
    """Set the learning rates of an update to the objective's schedule.

    Args:
        optimizer: of :func:`parameter_groups`.
        objective: see :meth:`Objective.learning_rate`.
        env_steps: simulator steps since the first update, action repeat included; at least 1 is assumed.

    Raises:
        UserError: ``env_steps`` is not a finite number.
    """
    if not isinstance(env_steps, int | float | np.integer | np.floating) or not math.isfinite(env_steps):
        raise UserError(f"env_steps is the number of simulator steps since the first update, not {env_steps!r}")
    factors = objective.learning_rate(max(env_steps, 1))
    for group in optimizer.param_groups:
        rate = group["base_lr"] * factors[group["name"]]
        if isinstance(group["lr"], Tensor):  # as captured CUDA graphs need it
            group["lr"].fill_(rate)
        else:
            group["lr"] = rate
