"""M-CURL in TorchRL: a loss module beside the agent's own."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from tensordict import TensorDict, TensorDictBase
from tensordict.nn import TensorDictParams
from torch import Tensor, nn
from torch.func import functional_call
from torchrl.objectives import LossModule

from mcurl.errors import UserError
from mcurl.integrations.objective import make_objective, mask_generator
from mcurl.objectives.base import Augment, Objective

__all__ = ["MCurlLoss"]


class MCurlLoss(LossModule):  # type: ignore[misc]
    """The contrastive loss on the encoder of an agent.

    It reads slices of a ``TensorDictReplayBuffer`` with ``SliceSampler(slice_len=T, strict_length=False,
    pad_output=True)`` and a batch size of ``B*T``, and returns ``loss_mcurl`` and the detached metrics. TorchRL's
    ``SoftUpdate(loss, tau=...)`` moves the key encoder. Objectives with momentum copies of their own (``projection``,
    sym-CURL) need ``loss.objective.ema_step(tau)`` beside it. ``state_dict`` holds the generator of the masks, too.

    Args:
        encoder: pixels ``[N, C, h, w]``, 0 to 255 -> features ``float32 [N, feature_dim]``. It shares its parameters
            with the agent's losses.
        feature_dim: d.
        objective: an :class:`Objective`, a class, or a name, see :func:`~mcurl.integrations.make_objective`.
        settings: of an objective that is given by its name or class.
        augment: augmentation of queries and of keys, pixels ``[N, C, H, W]`` -> ``[N, C, h, w]``; None: none.
        frame_stack: K, frames in an observation; for masks over single frames.
        seed: of the masks.
    """

    @dataclass
    class _AcceptedKeys:
        pixels: Any = "pixels"
        mask: Any = ("collector", "mask")

    out_keys: ClassVar[list[str]] = ["loss_mcurl"]
    tensor_keys: _AcceptedKeys
    default_keys = _AcceptedKeys
    encoder: nn.Module
    encoder_params: TensorDictParams
    target_encoder_params: TensorDictParams
    objective: Objective

    def __init__(
        self,
        encoder: nn.Module,
        feature_dim: int,
        objective: str | type[Objective] | Objective = "mcurl",
        settings: Mapping[str, Any] | None = None,
        *,
        augment: Augment | None = None,
        frame_stack: int = 1,
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.convert_to_functional(encoder, "encoder", create_target_params=True)
        if not isinstance(objective, Objective):
            objective = make_objective(objective, feature_dim, settings)
        self.objective = objective
        self.augment, self.frame_stack = augment, frame_stack
        self.generator = mask_generator(seed)

    @property
    def in_keys(self) -> list[Any]:
        """The keys that it reads from a sample. The mask may be missing."""
        keys = self.tensor_keys
        return [keys.pixels] if self.objective.contrast_spec.source == "rl" else [keys.pixels, keys.mask]

    def _forward_value_estimator_keys(self, **kwargs: Any) -> None:
        """There is no value estimator."""

    def forward(self, tensordict: TensorDictBase) -> TensorDict:
        """The loss of ``B*T`` steps, slice after slice: ``pixels [B*T, C, H, W]`` and ``mask bool [B*T, 1]``.

        Without a mask, all steps are real.

        Raises:
            UserError: pixels are missing, the number of steps is no multiple of T, or, without a mask, the steps of a
                slice do not follow each other.
        """
        pixels = tensordict.get(self.tensor_keys.pixels, default=None)
        if pixels is None:
            keys = ", ".join(map(repr, tensordict.keys(True, True)))
            raise UserError(
                f"no {self.tensor_keys.pixels!r} in the sample: loss.set_keys(pixels=...) names one of {keys}"
            )
        pixels = pixels.flatten(0, tensordict.ndim - 1)
        query, key, plan = self.objective.prepare(
            pixels, self._padded(tensordict), self.generator, frame_stack=self.frame_stack, augment=self.augment
        )
        loss = self.objective.loss(query, key, plan, self._encode(self.encoder_params), self._encode_key)
        return TensorDict({"loss_mcurl": loss.value, **loss.metrics}, [])

    def _padded(self, tensordict: TensorDictBase) -> Any:
        spec, steps = self.objective.contrast_spec, tensordict.numel()
        if spec.source == "rl":
            return None
        if steps % spec.length:
            raise UserError(f"{steps} steps are no whole slices: expected a multiple of length={spec.length}")
        mask = tensordict.get(self.tensor_keys.mask, default=None)
        if mask is None:  # slices of SliceSampler(strict_length=True) are whole
            _check_slices(tensordict.get("index", default=None), spec.length)
            return np.zeros((steps // spec.length, spec.length), np.bool_)
        return ~mask.reshape(-1, spec.length).cpu().numpy()

    def _encode(self, parameters: TensorDictParams) -> Any:
        def encode(pixels: Tensor) -> Tensor:
            # Not parameters.to_module(): with tensordict 0.14.3 it left trainable Parameters among the targets.
            named = {".".join(key) if isinstance(key, tuple) else key: p for key, p in parameters.items(True, True)}
            features: Tensor = functional_call(self.encoder, named, (pixels,))
            return features

        return encode

    def _encode_key(self, pixels: Tensor) -> Tensor:
        features: Tensor = self._encode(self.target_encoder_params)(pixels)
        return features

    def get_extra_state(self) -> dict[str, Any]:
        """The generator, for ``state_dict``."""
        return {"generator": json.dumps(self.generator.bit_generator.state)}

    def set_extra_state(self, state: dict[str, Any]) -> None:
        self.generator.bit_generator.state = json.loads(state["generator"])


def _check_slices(index: Tensor | None, length: int) -> None:
    """Raise UserError if rows ``int64 [B*T]`` or ``[B*T, 1]`` of a storage are not B slices of T consecutive rows."""
    if index is None or index.shape[1:].numel() > 1:  # of a storage with several dimensions
        return
    rows = index.reshape(-1, length)
    if not ((rows.diff() == 1) | (rows[:, 1:] == 0)).all():  # the first row follows the last one
        raise UserError(
            f"the steps of the sample are no slices of {length} consecutive steps: sample with "
            f"SliceSampler(slice_len={length}), with pad_output=True if slices may be shorter (strict_length=False)"
        )
