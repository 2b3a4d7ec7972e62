"""The Transformer's matrix products in bfloat16 against those in float32. Its formula is tested with the objective, against loops."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from mcurl.networks.transformer import Transformer


def test_bfloat16_is_close_and_gives_float32() -> None:
    torch.manual_seed(0)
    exact = Transformer(96, 2, 192, dropout=0.0)
    rounded = Transformer(96, 2, 192, dropout=0.0, dtype=torch.bfloat16)
    rounded.load_state_dict(exact.state_dict())
    h, padded = torch.randn(4, 8, 96), torch.zeros(4, 8, dtype=torch.bool)
    padded[1, 5:], padded[2] = True, True
    direction = torch.randn(4, 8, 96) * ~padded[..., None]
    a, b = exact(h, padded), rounded(h, padded)
    assert b.dtype == torch.float32
    assert not torch.equal(a, b)
    assert (a - b).norm() < 0.02 * a.norm()
    (a * direction).sum().backward()
    (b * direction).sum().backward()
    for p, q in zip(exact.parameters(), rounded.parameters(), strict=True):
        assert p.grad is not None
        assert q.grad is not None
        assert q.grad.dtype == torch.float32
        assert F.cosine_similarity(p.grad.flatten(), q.grad.flatten(), 0) > 0.99
