"""Adam for the agents: learning rates that schedules set, gradient clipping, and portable optimizer states."""

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
    """A fused Adam over named parameter groups; groups without parameters are dropped.

    On a GPU the learning rate is a tensor, so that captured CUDA graphs read its current value.

    Args:
        groups: each with ``"params"`` and ``"name"``.
        rate: initial learning rate of all groups.
        device: device of the parameters.
        beta1, eps: of Adam; β2 is 0.999.
    """
    groups = [group for group in groups if group["params"]]
    cuda = device.type == "cuda"
    for group in groups:
        group["lr"] = torch.tensor(rate, device=device) if cuda else rate
    return torch.optim.Adam(groups, lr=rate, betas=(beta1, 0.999), eps=eps, fused=True, capturable=cuda)


def objective_parameters(objective: Objective | None) -> tuple[list[nn.Parameter], list[nn.Parameter]]:
    """The trainable parameters of an objective: those with the encoder's learning rate, and all others."""
    if objective is None:
        return [], []
    encoder = [parameter for parameter in objective.encoder_parameters() if parameter.requires_grad]
    encoder_ids = set(map(id, encoder))
    rest = [p for p in objective.parameters() if p.requires_grad and id(p) not in encoder_ids]
    return encoder, rest


def set_learning_rates(optimizer: torch.optim.Optimizer, base: float, factors: dict[str, float]) -> None:
    """Set the learning rate of each group with a factor to ``base * factors[group name]``."""
    for group in optimizer.param_groups:
        if group["name"] in factors:
            rate = base * factors[group["name"]]
            if isinstance(group["lr"], Tensor):
                group["lr"].fill_(rate)
            else:
                group["lr"] = rate


def clip_and_step(optimizer: torch.optim.Adam, max_norm: float) -> Tensor:
    """Clip the global gradient norm, take a step of Adam, and delete the gradients.

    Returns:
        The gradient norm before clipping, ``float32 []``.
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
    """``optimizer.step()``, in C if possible."""
    if _native_step(optimizer, math.inf) is None:
        optimizer.step()


def descend(loss: Tensor, *optimizers: torch.optim.Adam, max_norm: float = 0.0) -> None:
    """Take a step of each optimizer on one loss, with gradients of the optimizers' parameters only.

    Args:
        loss: a scalar.
        optimizers: with parameters of their own.
        max_norm: global gradient norm above which the gradients are clipped; 0: no clipping.
    """
    parameters = [p for optimizer in optimizers for group in optimizer.param_groups for p in group["params"]]
    gradients = torch.autograd.grad(loss, parameters, allow_unused=True)
    for parameter, gradient in zip(parameters, gradients, strict=True):
        parameter.grad = gradient
    if max_norm > 0:
        nn.utils.clip_grad_norm_(parameters, max_norm)
    for optimizer in optimizers:
        step(optimizer)
    for parameter in parameters:
        parameter.grad = None


def _native_step(optimizer: torch.optim.Adam, max_norm: float) -> Tensor | None:
    """Clip and step in C, and return the gradient norm; None if C does not support the parameters."""
    parameters = _native_parameters(optimizer)
    if parameters is None:
        return None
    group = optimizer.param_groups[0]
    beta1, beta2 = group["betas"]
    return native_adam.step(parameters, beta1=beta1, beta2=beta2, eps=group["eps"], max_norm=max_norm)


def _native_parameters(optimizer: torch.optim.Adam) -> list[native_adam.Parameter] | None:
    """The parameters with a gradient; None if one of them is not on the CPU in float32, or has no moments yet."""
    if not native_adam.available():
        return None
    parameters = []
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
            moments = state["exp_avg"], state["exp_avg_sq"]
            parameters.append(native_adam.Parameter(value, gradient, *moments, state["step"], group["lr"]))
    return parameters


def load_optimizer(optimizer: torch.optim.Optimizer, state: dict[str, Any]) -> None:
    """Load an optimizer state whose tensors are contiguous, and convert the moments to their parameters' layouts.

    Call it before the first update only: a captured CUDA graph would keep the moments that it was captured with.
    """
    device_options = [(group["lr"], group["capturable"]) for group in optimizer.param_groups]
    optimizer.load_state_dict(state)
    for group, (rate, capturable) in zip(optimizer.param_groups, device_options, strict=True):
        group["capturable"] = capturable  # of this device; the state may come from another one
        if isinstance(rate, Tensor):
            group["lr"] = rate.copy_(torch.as_tensor(group["lr"]))  # in place: CUDA graphs read this tensor
        else:
            group["lr"] = float(group["lr"])
        for parameter in group["params"]:
            moments = optimizer.state.get(parameter, {})
            for name in ("exp_avg", "exp_avg_sq"):
                if name in moments:
                    moments[name] = torch.empty_like(parameter).copy_(moments[name])
