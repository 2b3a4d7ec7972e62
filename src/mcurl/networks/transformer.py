"""The auxiliary model φ: a small Transformer encoder over a sequence of features (eq. 7 to 9). Thrown away when acting."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def sinusoids(length: int, width: int) -> Tensor:
    """Equation 7: ``float32 [length, width]``, sine at even and cosine at odd columns; not learned."""
    k = torch.arange(length, dtype=torch.float64)[:, None]
    column = torch.arange(width)
    angle = k / 10_000 ** ((column - column % 2).double() / width)
    return torch.where(column % 2 == 0, angle.sin(), angle.cos()).float()


class Block(nn.Module):
    """One block of eq. 9: self-attention and a feed-forward layer, each with a residual connection and LayerNorm after it (post-norm)."""

    def __init__(self, width: int, ffn_width: int, *, bias: bool, scale: bool, dropout: float) -> None:
        super().__init__()
        self.qkv = nn.Linear(width, 3 * width, bias=bias)
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.ffn1, self.ffn2 = nn.Linear(width, ffn_width), nn.Linear(ffn_width, width)
        self.scale = width**-0.5 if scale else 1.0
        self.dropout = dropout
        for matrix in (*self.qkv.weight.data.chunk(3), self.ffn1.weight, self.ffn2.weight):
            nn.init.xavier_uniform_(matrix)
        for offset in (self.qkv.bias, self.ffn1.bias, self.ffn2.bias):
            if offset is not None:
                nn.init.zeros_(offset)

    def forward(self, h: Tensor, bias: Tensor) -> Tensor:
        q, k, v = self.qkv(h).chunk(3, dim=-1)  # [B, T, d] each
        alpha = torch.softmax(q @ k.transpose(1, 2) * self.scale + bias, dim=-1)  # [B, T, T]
        h = self.norm1(h + F.dropout(alpha @ v, self.dropout, self.training))
        rebuilt: Tensor = self.norm2(h + F.dropout(self.ffn2(F.relu(self.ffn1(h))), self.dropout, self.training))
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
        self.dtype = dtype
        self.blocks = nn.ModuleList(Block(width, ffn_width, bias=bias, scale=scale, dropout=dropout) for _ in range(layers))

    def forward(self, h: Tensor, padded: Tensor) -> Tensor:
        """``h`` float32 [B, T, d], ``padded`` bool [B, T] -> float32 [B, T, d]."""
        # A large finite number, so that a sequence of nothing but padding gives no NaN.
        bias = padded[:, None, :] * -1e9  # [B, 1, T]
        out: Tensor = h
        with torch.autocast(h.device.type, self.dtype, enabled=self.dtype != torch.float32):
            for block in self.blocks:
                out = block(out, bias)
        return out
