"""One object with everything that a contrastive loss needs beside an agent."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from mcurl.config.fields import Meta
from mcurl.integrations.objective import mask_generator
from mcurl.integrations.optim import parameter_groups, set_learning_rates
from mcurl.networks.ema import ema_update, momentum_copy
from mcurl.objectives.base import Augment, Objective


class ContrastiveLearner(nn.Module):
    """Trains an agent's encoder with a contrastive objective: one call of :meth:`update` per update of the agent.

    It has the momentum copy of the encoder, Adam, the learning-rate schedule and the random choices of the masks.
    ``state_dict()`` holds all of them, but not the encoder, which is the agent's. It is plain: tensors, numbers, text.

    Args:
        objective: e.g. ``make_objective("mcurl", feature_dim)``. It and the key encoder move with ``.to(device)``, so
            call that before the first update.
        encoder: the agent's encoder, pixels ``[N, C, h, w]`` -> features ``float32 [N, feature_dim]``. It receives the
            dtype of the observations given to :meth:`update`, and zeros at masked positions.
        learning_rate: base rate of Adam.
        encoder_factor: the encoder's rate as a multiple of it.
        momentum: m of the key encoder, per update.
        augment: augmentation of queries and of keys, e.g. ``functools.partial(random_crop, size=84)``; None: none.
        frame_stack: K, frames in an observation; needed for masks over single frames.
        max_grad_norm: gradient norm above which the gradient is clipped; 0: no clipping.
        seed: of the masks.

    Raises:
        UserError: a number is out of its range.
    """

    encoder: nn.Module
    objective: Objective
    key_encoder: nn.Module

    def __init__(
        self,
        objective: Objective,
        encoder: nn.Module,
        *,
        learning_rate: float = 1e-3,
        encoder_factor: float = 2.0,
        momentum: float = 0.025,
        augment: Augment | None = None,
        frame_stack: int = 1,
        max_grad_norm: float = 0.0,
        seed: int = 0,
    ) -> None:
        super().__init__()
        Meta(low=0, high=1).check("momentum", momentum)
        Meta(low=0).check("max_grad_norm", max_grad_norm)
        Meta(low=1).check("frame_stack", frame_stack)
        self.__dict__["encoder"] = encoder  # not a submodule: it is saved with the agent
        self.objective, self.key_encoder = objective, momentum_copy(encoder)
        self.augment, self.frame_stack = augment, frame_stack
        self.momentum, self.max_grad_norm = momentum, max_grad_norm
        self.generator = mask_generator(seed)
        groups = parameter_groups(objective, encoder, learning_rate, encoder_factor=encoder_factor)
        self.optimizer = torch.optim.Adam(groups)

    def update(
        self, observations: Tensor, padded: npt.NDArray[np.bool_] | None = None, *, env_steps: int
    ) -> dict[str, Tensor]:
        """Take a step on the contrastive loss, and move the key encoder.

        Args:
            observations: ``[B*T, C, H, W]``, sequence after sequence, on the encoder's device; ``[B, C, H, W]`` if
                ``objective.contrast_spec.source == "rl"``.
            padded: ``bool [B, T]``, positions outside their episode; None with ``source == "rl"``.
            env_steps: simulator steps since the first update, for the learning rates.

        Returns:
            Name -> detached scalar, ``"contrast/loss"`` among them.
        """
        set_learning_rates(self.optimizer, self.objective, env_steps)
        query, key, plan = self.objective.prepare(
            observations, padded, self.generator, frame_stack=self.frame_stack, augment=self.augment
        )
        loss = self.objective.loss(query, key, plan, self.encoder, self.key_encoder)
        self._step(loss.value)
        self.objective.after_step()
        self._move_keys()
        return loss.metrics

    def _step(self, loss: Tensor) -> None:
        """A step of Adam. Gradients that the agent left in the encoder are dropped."""
        parameters = [p for group in self.optimizer.param_groups for p in group["params"]]
        gradients = torch.autograd.grad(loss, parameters, allow_unused=True)
        for parameter, gradient in zip(parameters, gradients, strict=True):
            parameter.grad = gradient
        if self.max_grad_norm > 0:
            nn.utils.clip_grad_norm_(parameters, self.max_grad_norm)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)

    def _move_keys(self) -> None:
        ema_update(self.key_encoder.parameters(), self.encoder.parameters(), self.momentum)
        for copy, online in zip(self.key_encoder.buffers(), self.encoder.buffers(), strict=True):
            copy.copy_(online)
        self.objective.ema_step(self.momentum)

    def get_extra_state(self) -> dict[str, Any]:
        """The optimizer and the generator, for ``state_dict``."""
        return {"optimizer": self.optimizer.state_dict(), "generator": json.dumps(self.generator.bit_generator.state)}

    def set_extra_state(self, state: dict[str, Any]) -> None:
        self.optimizer.load_state_dict(state["optimizer"])
        self.generator.bit_generator.state = json.loads(state["generator"])
