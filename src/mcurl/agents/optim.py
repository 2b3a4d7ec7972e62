"""Adam as the agents use it: learning rates from outside, and a state that survives memory formats."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from mcurl.native import adam as native_adam
from mcurl.objectives.base import Objective


def adam(
    groups: list[dict[str, Any]], rate: float, device: torch.device, *, beta1: float = 0.9, eps: float = 1e-8
) -> torch.optim.Adam:
    """Adam over named groups, in one kernel where the device has it. On a GPU the learning rate is a tensor, so that
    captured graphs see its changes."""
    groups = [group for group in groups if group["params"]]
    cuda = device.type == "cuda"
    for group in groups:
        group["lr"] = torch.tensor(rate, device=device) if cuda else rate
    return torch.optim.Adam(groups, lr=rate, betas=(beta1, 0.999), eps=eps, fused=True, capturable=cuda)


def objective_parameters(objective: Objective | None) -> tuple[list[nn.Parameter], list[nn.Parameter]]:
    """The parameters of an objective that require a gradient: those that learn with the encoder, and its own."""
    if objective is None:
        return [], []
    as_encoder = [parameter for parameter in objective.encoder_parameters() if parameter.requires_grad]
    known = set(map(id, as_encoder))
    own = [parameter for parameter in objective.parameters() if parameter.requires_grad and id(parameter) not in known]
    return as_encoder, own


def set_learning_rates(optimizer: torch.optim.Optimizer, base: float, factors: dict[str, float]) -> None:
    """``base * factors[group name]`` for every group that has a factor."""
    for group in optimizer.param_groups:
        if group["name"] in factors:
            rate = base * factors[group["name"]]
            if isinstance(group["lr"], Tensor):
                group["lr"].fill_(rate)
            else:
                group["lr"] = rate


def clip_and_step(optimizer: torch.optim.Adam, max_norm: float) -> Tensor:
    """Clip the gradient of all parameters together to a norm, step, and drop the gradients.

    Returns:
        The norm before it was clipped, ``float32 []``.
    """
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    norm = _native_step(optimizer, max_norm)
    if norm is None:
        norm = nn.utils.clip_grad_norm_(parameters, max_norm)
        optimizer.step()
    for parameter in parameters:
        parameter.grad = None
    return norm


def step(optimizer: torch.optim.Adam) -> None:
    """``optimizer.step()``, compiled where that can be."""
    if _native_step(optimizer, math.inf) is None:
        optimizer.step()


def _native_step(optimizer: torch.optim.Adam, max_norm: float) -> Tensor | None:
    """The gradient's norm, or None: not possible, and nothing is done."""
    given = _for_native(optimizer)
    if given is None:
        return None
    group = optimizer.param_groups[0]
    return native_adam.step(
        given, beta1=group["betas"][0], beta2=group["betas"][1], eps=group["eps"], max_norm=max_norm
    )


def _for_native(optimizer: torch.optim.Adam) -> list[native_adam.Parameter] | None:
    """What the compiled step takes: parameters with a gradient, on the CPU; None if there are others, or before the
    first step, which makes the moments."""
    if not native_adam.available():
        return None
    given = []
    for group in optimizer.param_groups:
        for value in group["params"]:
            state, gradient = optimizer.state.get(value), value.grad
            if gradient is None:
                continue
            if (
                not state
                or value.device.type != "cpu"
                or value.dtype != torch.float32
                or gradient.stride() != value.stride()
            ):
                return None
            given.append(
                native_adam.Parameter(
                    value, gradient, state["exp_avg"], state["exp_avg_sq"], state["step"], group["lr"]
                )
            )
    return given


def load_optimizer(optimizer: torch.optim.Optimizer, state: dict[str, Any]) -> None:
    """Load a state whose tensors are in plain memory order: moments take their parameter's layout again, which the
    fused kernel counts on.

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
