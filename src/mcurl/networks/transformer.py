"""The auxiliary model φ: a small Transformer encoder over a sequence of features (eq. 7 to 9). Thrown away when acting."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def sinusoids(length: int, width: int) -> Tensor:
    """Equation 7: ``float32 [length, width]``, sine at even and cosine at odd columns; not learned."""
    k = torch.arange(length, dtype=torch.float64)[:, None]
    column = torch.arange(width)
    angle = k / 10_000 ** ((column - column % 2).double() / width)
    return torch.where(column % 2 == 0, angle.sin(), angle.cos()).float()


def dropout_scales(shape: tuple[int, ...], p: float, device: torch.device | str = "cpu") -> Tensor:
    """What dropout multiplies by: ``float32``, 0 with probability p (in 65536ths), else 1 / (1 − p).

    Four draws from one random word: PyTorch's dropout takes one of its own for each, and on a processor three times as long.
    """
    dropped, size = round(p * 2**16), math.prod(shape)
    if dropped == 2**16:
        return torch.zeros(shape, device=device)
    words = torch.empty(-(-size // 4), dtype=torch.int64, device=device).random_(-(2**63), None)
    kept = words.view(torch.int16)[:size].view(shape) >= dropped - 2**15
    return kept * (1 / (1 - dropped / 2**16))


class Block(nn.Module):
    """One block of eq. 9: self-attention and a feed-forward layer, each with a residual connection and LayerNorm after it (post-norm)."""

    def __init__(self, width: int, ffn_width: int, *, bias: bool, scale: bool) -> None:
        super().__init__()
        self.qkv = nn.Linear(width, 3 * width, bias=bias)
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.ffn1, self.ffn2 = nn.Linear(width, ffn_width), nn.Linear(ffn_width, width)
        self.scale = width**-0.5 if scale else 1.0
        for matrix in (*self.qkv.weight.data.chunk(3), self.ffn1.weight, self.ffn2.weight):
            nn.init.xavier_uniform_(matrix)
        for offset in (self.qkv.bias, self.ffn1.bias, self.ffn2.bias):
            if offset is not None:
                nn.init.zeros_(offset)

    def forward(self, h: Tensor, bias: Tensor, scales: Tensor | tuple[float, float]) -> Tensor:
        """``scales`` are those of the two branches: :func:`dropout_scales` ``[2, B, T, d]``, or ones."""
        q, k, v = self.qkv(h).chunk(3, dim=-1)  # [B, T, d] each
        alpha = torch.softmax(q @ k.transpose(1, 2) * self.scale + bias, dim=-1)  # [B, T, T]
        h = self.norm1(h + scales[0] * (alpha @ v))
        rebuilt: Tensor = self.norm2(h + scales[1] * self.ffn2(F.relu(self.ffn1(h))))
        return rebuilt


class Transformer(nn.Module):
    """L blocks over ``float32 [B, T, d]`` features. Padded positions are not attended to; what comes out at them means nothing.

    Args:
        width: d.
        layers: L.
        ffn_width: of the feed-forward layers.
        bias, scale, dropout: see :class:`mcurl.objectives.masked.MaskedSettings`.
        dtype: of the matrix products; softmax, residuals and norms are float32.
    """

    def __init__(
        self, width: int, layers: int, ffn_width: int, *, bias: bool = True, scale: bool = True, dropout: float = 0.1, dtype: torch.dtype = torch.float32
    ) -> None:
        super().__init__()
        self.dtype, self.dropout = dtype, dropout
        self.blocks = nn.ModuleList(Block(width, ffn_width, bias=bias, scale=scale) for _ in range(layers))

    def forward(self, h: Tensor, padded: Tensor) -> Tensor:
        """``h`` float32 [B, T, d], ``padded`` bool [B, T] -> float32 [B, T, d]."""
        # A large finite number, so that a sequence of nothing but padding gives no NaN.
        bias = padded[:, None, :] * -1e9  # [B, 1, T]
        out: Tensor = h
        drops = self.training and self.dropout > 0
        scales = dropout_scales((len(self.blocks), 2, *h.shape), self.dropout, h.device) if drops else [(1.0, 1.0)] * len(self.blocks)
        with torch.autocast(h.device.type, self.dtype, enabled=self.dtype != torch.float32):
            for block, of_block in zip(self.blocks, scales, strict=True):
                out = block(out, bias, of_block)
        return out
