"""The auxiliary model φ: a small Transformer encoder over sequences of features (eq. 7 to 9). Not used in acting."""

from __future__ import annotations

import math
from typing import NamedTuple, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mcurl.native import amx


class Dropout(NamedTuple):
    """Random words for dropout: a value is dropped if its word is below ``drop_below``, else scaled by ``scale``."""

    words: Tensor
    """Uniform ``int16 [L, 2, B, T, d]``, for both residual branches of each block."""
    drop_below: int
    """Threshold, -2^15 to 2^15."""
    scale: float
    """1 / (1 − p)."""


def sinusoids(length: int, width: int) -> Tensor:
    """Position encodings of eq. 7, ``float32 [length, width]``: sine in even columns, cosine in odd ones."""
    k = torch.arange(length, dtype=torch.float64)[:, None]
    column = torch.arange(width)
    angle = k / 10_000 ** ((column - column % 2).double() / width)
    return torch.where(column % 2 == 0, angle.sin(), angle.cos()).float()


def sample_dropout(shape: tuple[int, ...], p: float, device: torch.device | str = "cpu") -> Dropout:
    """Sample random words for :func:`dropout_scales`, one for each value of ``shape``.

    One random 64-bit word serves four values. PyTorch's dropout samples a word per value and takes three times as long
    on a CPU.

    Args:
        shape: shape of the values.
        p: probability that a value is dropped, rounded to a multiple of 2^-16.
        device: device of the words.
    """
    threshold, size = round(p * 2**16), math.prod(shape)
    words = (
        torch.empty(-(-size // 4), dtype=torch.int64, device=device)
        .random_(-(2**63), None)
        .view(torch.int16)[:size]
        .view(shape)
    )
    return Dropout(words, threshold - 2**15, 0.0 if threshold == 2**16 else 1 / (1 - threshold / 2**16))


def dropout_scales(dropout: Dropout) -> Tensor:
    """The dropout factors, ``float32``: 0 or 1 / (1 − p)."""
    return (dropout.words >= dropout.drop_below) * dropout.scale


class Block(nn.Module):
    """A post-norm block of eq. 9: self-attention and feed-forward layer, each with residual connection and norm."""

    def __init__(self, width: int, ffn_width: int, *, bias: bool, scale: float, xavier: bool = True) -> None:
        super().__init__()
        self.qkv = nn.Linear(width, 3 * width, bias=bias)
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.ffn1, self.ffn2 = nn.Linear(width, ffn_width), nn.Linear(ffn_width, width)
        self.scale = scale
        if not xavier:
            return  # PyTorch's default
        for matrix in (*self.qkv.weight.data.chunk(3), self.ffn1.weight, self.ffn2.weight):
            nn.init.xavier_uniform_(matrix)
        for offset in (self.qkv.bias, self.ffn1.bias, self.ffn2.bias):
            if offset is not None:
                nn.init.zeros_(offset)

    def parameters_in_order(self) -> list[Tensor | None]:
        """Weight and bias of each layer, in the order of :mod:`mcurl.native.amx.transformer`."""
        return [
            tensor
            for layer in (self.qkv, self.norm1, self.norm2, self.ffn1, self.ffn2)
            for tensor in (layer.weight, layer.bias)
        ]

    def forward(self, h: Tensor, bias: Tensor, scales: Tensor | tuple[float, float]) -> Tensor:
        """``[B, T, d]`` -> ``[B, T, d]``.

        Args:
            h: ``float32 [B, T, d]``.
            bias: ``[B, 1, T]``, added to the attention scores.
            scales: dropout factors of the two branches, ``[2, B, T, d]``, or two ones.
        """
        q, k, v = self.qkv(h).chunk(3, dim=-1)  # [B, T, d] each
        alpha = torch.softmax(q @ k.transpose(1, 2) * self.scale + bias, dim=-1)  # [B, T, T]
        h = self.norm1(h + scales[0] * (alpha @ v))
        out: Tensor = self.norm2(h + scales[1] * self.ffn2(F.relu(self.ffn1(h))))
        return out


class Transformer(nn.Module):
    """L blocks over features ``float32 [B, T, d]``. Padded positions are not attended to; their outputs are undefined.

    Args:
        width: d, number of features.
        layers: L, number of blocks.
        ffn_width: width of the feed-forward layers.
        bias: whether the query, key and value projections have biases.
        scale: whether attention scores are scaled by d^-1/2.
        dropout: dropout probability on the residual branches.
        xavier: whether weights begin in Xavier's uniform distribution, biases at 0. Otherwise both begin in PyTorch's
            default for linear layers, U(±1/√inputs).
        dtype: dtype of the matrix products, float32 or bfloat16; softmax, residuals and norms are float32.
    """

    def __init__(
        self,
        width: int,
        layers: int,
        ffn_width: int,
        *,
        bias: bool = True,
        scale: bool = True,
        dropout: float = 0.1,
        xavier: bool = True,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        super().__init__()
        self.dtype, self.dropout = dtype, dropout
        self.scale = width**-0.5 if scale else 1.0
        self.blocks = nn.ModuleList(
            Block(width, ffn_width, bias=bias, scale=self.scale, xavier=xavier) for _ in range(layers)
        )

    def forward(self, h: Tensor, padded: Tensor) -> Tensor:
        """Features ``float32 [B, T, d]`` and padding ``bool [B, T]`` -> ``float32 [B, T, d]``."""
        use_dropout = self.training and self.dropout > 0
        dropout = sample_dropout((len(self.blocks), 2, *h.shape), self.dropout, h.device) if use_dropout else None
        parameters = [parameter for block in self.blocks for parameter in cast(Block, block).parameters_in_order()]
        reduced = self.dtype != torch.float32
        if amx.transformer.supports(h, parameters):
            return amx.transformer.apply(h, padded, dropout, parameters, self.scale, rounded=reduced)
        with torch.autocast(h.device.type, self.dtype, enabled=reduced):
            return self._blocks(h, padded, None if dropout is None else dropout_scales(dropout))

    def _blocks(self, h: Tensor, padded: Tensor, scales: Tensor | None) -> Tensor:
        # Finite, so that the softmax of an all-padding sequence is not NaN.
        bias = padded[:, None, :] * -1e9  # [B, 1, T]
        for i, block in enumerate(self.blocks):
            h = block(h, bias, (1.0, 1.0) if scales is None else scales[i])
        return h
