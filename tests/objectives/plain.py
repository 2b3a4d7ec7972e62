"""M-CURL's loss written as plainly as possible: loops over sequences, positions and features, in float64. What the fast
path must equal."""

from __future__ import annotations

import math

import torch
from torch import Tensor


def layer_norm(x: Tensor, gain: Tensor, offset: Tensor) -> Tensor:
    mean = x.sum() / len(x)
    variance = ((x - mean) ** 2).sum() / len(x)
    return (x - mean) / torch.sqrt(variance + 1e-5) * gain + offset


def block(hs: list[Tensor], visible: list[bool], p: dict[str, Tensor], scale: float) -> list[Tensor]:
    """Equation 9 for one sequence."""
    d = len(hs[0])
    Wq, Wk, Wv = p["qkv.weight"][:d], p["qkv.weight"][d : 2 * d], p["qkv.weight"][2 * d :]
    bq, bk, bv = p["qkv.bias"][:d], p["qkv.bias"][d : 2 * d], p["qkv.bias"][2 * d :]
    out = []
    for h in hs:
        scores = [
            torch.exp((Wq @ h + bq) @ (Wk @ other + bk) * scale) if seen else None
            for other, seen in zip(hs, visible, strict=True)
        ]
        Z = sum(score for score in scores if score is not None)
        attended = sum(
            score / Z * (Wv @ other + bv) for score, other in zip(scores, hs, strict=True) if score is not None
        )
        h1 = layer_norm(h + attended, p["norm1.weight"], p["norm1.bias"])
        ffn = p["ffn2.weight"] @ torch.clamp(p["ffn1.weight"] @ h1 + p["ffn1.bias"], min=0) + p["ffn2.bias"]
        out.append(layer_norm(h1 + ffn, p["norm2.weight"], p["norm2.bias"]))
    return out


def position(k: int, d: int) -> Tensor:
    """Equation 7, rounded to float32 as the constant in the code is."""
    return torch.tensor(
        [math.sin(k / 10_000 ** (j / d)) if j % 2 == 0 else math.cos(k / 10_000 ** ((j - 1) / d)) for j in range(d)]
    ).double()


def masked_loss(
    shown: list[list[Tensor]],
    keys: list[list[Tensor]],
    selected: list[list[bool]],
    padded: list[list[bool]],
    blocks: list[dict[str, Tensor]],
    tau: float,
    *,
    own_sequence: bool = False,
) -> Tensor:
    """Equation 4, as a mean over the selected positions.

    ``shown[b][t]``: features of what stands at position t of sequence b (the zero observation's where zeroed).
    ``keys[b][t]``: momentum features of the position's own observation.
    """
    terms = []
    for b, hs in enumerate(shown):
        d = len(hs[0])
        visible = [not p for p in padded[b]]
        if not any(visible):
            continue
        hs = [h + position(t, d) for t, h in enumerate(hs)]
        for p in blocks:
            hs = block(hs, visible, p, d**-0.5)
        for t, q in enumerate(hs):
            if not selected[b][t]:
                continue
            total = torch.zeros((), dtype=torch.float64)
            for c, others in enumerate(keys):
                for u, k in enumerate(others):
                    if not padded[c][u] and (c == b or not own_sequence):
                        total = total + torch.exp(q @ k.detach() / tau)
            terms.append(-torch.log(torch.exp(q @ keys[b][t].detach() / tau) / total))
    return sum(terms, torch.zeros((), dtype=torch.float64)) / max(len(terms), 1)
