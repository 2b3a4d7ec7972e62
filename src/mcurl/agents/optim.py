"""Adam as the agents use it: learning rates from outside, and a state that survives memory formats."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


def adam(groups: list[dict[str, Any]], rate: float, device: torch.device, *, beta1: float = 0.9, eps: float = 1e-8) -> torch.optim.Adam:
    """Adam over named groups, in one kernel where the device has it. On a GPU the learning rate is a tensor, so that captured graphs see its changes."""
    groups = [group for group in groups if group["params"]]
    cuda = device.type == "cuda"
    for group in groups:
        group["lr"] = torch.tensor(rate, device=device) if cuda else rate
    return torch.optim.Adam(groups, lr=rate, betas=(beta1, 0.999), eps=eps, fused=True, capturable=cuda)


def set_learning_rates(optimizer: torch.optim.Optimizer, base: float, factors: dict[str, float]) -> None:
    """``base * factors[group name]`` for every group that has a factor."""
    for group in optimizer.param_groups:
        if group["name"] in factors:
            rate = base * factors[group["name"]]
            if isinstance(group["lr"], Tensor):
                group["lr"].fill_(rate)
            else:
                group["lr"] = rate


def load_optimizer(optimizer: torch.optim.Optimizer, state: dict[str, Any]) -> None:
    """Load a state whose tensors are in plain memory order: moments take their parameter's layout again, which the fused kernel counts on.

    Before the first update only: a captured graph would go on with the moments that it was recorded with.
    """
    own = [(group["lr"], group["capturable"]) for group in optimizer.param_groups]
    optimizer.load_state_dict(state)
    for group, (rate, capturable) in zip(optimizer.param_groups, own, strict=True):
        group["capturable"] = capturable  # this device's, not that of the machine that saved
        if isinstance(rate, Tensor):
            group["lr"] = rate.copy_(torch.as_tensor(group["lr"]))  # the captured tensor itself
        else:
            group["lr"] = float(group["lr"])
        for parameter in group["params"]:
            moments = optimizer.state.get(parameter, {})
            for name in ("exp_avg", "exp_avg_sq"):
                if name in moments:
                    moments[name] = torch.empty_like(parameter).copy_(moments[name])
