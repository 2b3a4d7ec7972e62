"""The contrastive losses and their masks written as plainly as possible: loops over sequences, positions and frames, in
float64. What the fast path must equal."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor


def layer_norm(x: Tensor, gain: Tensor, offset: Tensor) -> Tensor:
    mean = x.sum() / len(x)
    variance = ((x - mean) ** 2).sum() / len(x)
    return (x - mean) / torch.sqrt(variance + 1e-5) * gain + offset


def block(hs: list[Tensor], visible: list[bool], p: dict[str, Tensor], scale: float) -> list[Tensor]:
    """Equation 9 for one sequence. It has no biases in the projections; the released code has."""
    d = len(hs[0])
    Wq, Wk, Wv = p["qkv.weight"][:d], p["qkv.weight"][d : 2 * d], p["qkv.weight"][2 * d :]
    biases = p.get("qkv.bias", torch.zeros(3 * d, dtype=torch.float64))
    bq, bk, bv = biases[:d], biases[d : 2 * d], biases[2 * d :]
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


def transform(
    hs: list[Tensor], visible: list[bool], blocks: list[dict[str, Tensor]], *, scaled: bool = True
) -> list[Tensor]:
    """Equations 8 and 9 for one sequence: positions, then the blocks. Eq. 9 does not scale the scores."""
    d = len(hs[0])
    hs = [h + position(t, d) for t, h in enumerate(hs)]
    for p in blocks:
        hs = block(hs, visible, p, d**-0.5 if scaled else 1.0)
    return hs


def project(x: Tensor, p: dict[str, Tensor]) -> Tensor:
    """The later release's projection of one feature vector."""
    hidden = torch.clamp(p["0.weight"] @ x + p["0.bias"], min=0)
    return layer_norm(p["2.weight"] @ hidden + p["2.bias"], p["3.weight"], p["3.bias"])


def masked_loss(
    shown: list[list[Tensor]],
    keys: list[list[Tensor]],
    selected: list[list[bool]],
    padded: list[list[bool]],
    blocks: list[dict[str, Tensor]],
    tau: float,
    *,
    own_sequence: bool = False,
    scaled: bool = True,
    key_blocks: list[dict[str, Tensor]] | None = None,
) -> Tensor:
    """Equation 4, as a mean over the selected positions.

    ``shown[b][t]``: features of what stands at position t of sequence b (the zero observation's where zeroed).
    ``keys[b][t]``: momentum features of the position's own observation; they pass positions and ``key_blocks`` where
    there are any (sym-CURL).
    """
    if key_blocks is not None:
        keys = [
            transform(ks, [not p for p in padded[b]], key_blocks) if not all(padded[b]) else ks
            for b, ks in enumerate(keys)
        ]
    terms = []
    for b, hs in enumerate(shown):
        visible = [not p for p in padded[b]]
        if not any(visible):
            continue
        for t, q in enumerate(transform(hs, visible, blocks, scaled=scaled)):
            if not selected[b][t]:
                continue
            total = torch.zeros((), dtype=torch.float64)
            for c, others in enumerate(keys):
                for u, k in enumerate(others):
                    if not padded[c][u] and (c == b or not own_sequence):
                        total = total + torch.exp(q @ k.detach() / tau)
            terms.append(-torch.log(torch.exp(q @ keys[b][t].detach() / tau) / total))
    return sum(terms, torch.zeros((), dtype=torch.float64)) / max(len(terms), 1)


def curl_loss(queries: list[Tensor], keys: list[Tensor], padded: list[bool], W: Tensor, scale: float) -> Tensor:
    """Equation 1 with CURL's similarity; what is padded is neither a query nor a key."""
    terms = []
    for i, q in enumerate(queries):
        if padded[i]:
            continue
        total = torch.zeros((), dtype=torch.float64)
        for j, k in enumerate(keys):
            if not padded[j]:
                total = total + torch.exp(scale * (q @ W @ k.detach()))
        terms.append(-torch.log(torch.exp(scale * (q @ W @ keys[i].detach())) / total))
    return sum(terms, torch.zeros((), dtype=torch.float64)) / max(len(terms), 1)


def runs(begin: list[float], kinds: list[float], rate: float, length: int) -> list[float | None]:
    """The number of the latest run that covers each position of one window, None where there is none.

    ``begin``, ``kinds``: a random number for each place where a run may begin, the first ``length - 1`` of them before
    the window.
    """
    begin_rate = 1 - (1 - rate) ** (1 / length)
    out: list[float | None] = []
    for position in range(length - 1, len(begin)):
        kind = None
        for start in range(position - length + 1, position + 1):
            if begin[start] < begin_rate:
                kind = kinds[start]
        out.append(kind)
    return out


def action(kind: float | None, zero: float, random: float) -> str:
    """What happens to a position or frame under a run of this number."""
    if kind is None:
        return "shown"
    if kind < zero:
        return "zeroed"
    return "replaced" if kind < zero + random else "kept"


def frame_actions(frames: list[list[int]], of_slot: list[str]) -> dict[int, str]:
    """What happens to each frame of one window, by its number; -1 is a blank frame.

    ``of_slot``: what happens to the oldest frame of the window, to the next, ...
    """
    oldest = min(frame for stack in frames for frame in stack if frame >= 0)
    return {frame: of_slot[frame - oldest] for stack in frames for frame in stack if frame >= 0}


def frame_selected(stack: list[int], actions: dict[int, str]) -> bool:
    """Whether a stack counts as selected: nothing of it is seen as it is without being chosen."""
    chosen = [actions[frame] != "shown" for frame in stack if frame >= 0]
    return all(chosen)


def blocks_of(transformer: Any) -> list[dict[str, Tensor]]:
    return [dict(block.named_parameters()) for block in transformer.blocks]
