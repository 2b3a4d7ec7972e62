"""Adam's state moves between machines."""

from __future__ import annotations

import torch

from mcurl.agents.optim import adam, load_optimizer, set_learning_rates


def test_a_state_from_a_processor_leaves_a_gpus_optimizer_capturable() -> None:
    weight = torch.nn.Parameter(torch.ones(3))
    saved = adam([{"params": [weight], "name": "all"}], 1e-3, torch.device("cpu"))
    weight.grad = torch.ones(3)
    saved.step()
    set_learning_rates(saved, 1e-3, {"all": 0.5})
    on_gpu = torch.optim.Adam([{"params": [weight], "name": "all", "lr": torch.tensor(1e-3)}], fused=True, capturable=True)
    rate = on_gpu.param_groups[0]["lr"]
    load_optimizer(on_gpu, saved.state_dict())
    assert on_gpu.param_groups[0]["capturable"]
    assert on_gpu.param_groups[0]["lr"] is rate  # the tensor that a graph reads
    assert float(rate) == torch.tensor(5e-4).item()
    assert torch.equal(on_gpu.state[weight]["exp_avg"], torch.full((3,), 0.1))
