"""A step never waits for the device: it reads no value of a tensor on the host and makes no shape depend on one. So it
can be recorded as a CUDA graph."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from mcurl import native
from mcurl.bench.update import Learner
from mcurl.replay.batch import Batch
from mcurl.runtime.device import Compute

WAITS = {
    *("_local_scalar_dense", "is_nonzero", "equal", "lift_fresh"),
    *("nonzero", "nonzero_numpy", "masked_select", "_unique2", "unique_dim", "unique_consecutive", "bincount"),
}
"""Operations that bring a value to the host, size their result by one, or upload one. A boolean index is a nonzero in
disguise."""


class Watch(TorchDispatchMode):
    """Collects what would make the host wait on a GPU."""

    def __init__(self) -> None:
        super().__init__()
        self.operations, self.found = 0, set[str]()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.overloadpacket.__name__
        self.operations += 1
        indices = args[1] if name in {"index", "index_put", "index_put_", "_index_put_impl_"} else ()
        if name in WAITS or any(i is not None and i.dtype == torch.bool for i in indices):
            self.found.add(name)
        return func(*args, **(kwargs or {}))


def shapes(batch: Batch) -> list[torch.Size]:
    tensors = [getattr(batch.transitions, name) for name in batch.transitions.__dataclass_fields__]
    return [t.shape for t in tensors] + (
        [] if batch.contrast is None else [batch.contrast.query.shape, batch.contrast.key.shape]
    )


@pytest.mark.parametrize("method", ["mcurl", "curl", "seq-curl", "sym-curl", "rl-only"])
@pytest.mark.parametrize("suite", ["dmc", "atari"])
def test_a_step_waits_for_nothing_and_shapes_stay(suite: str, method: str) -> None:
    native.disable(native.ALL, "as on a GPU")
    size = {"dmc": "sac.batch_size=8", "atari": "rainbow.batch_size=8"}[suite]
    section = {"mcurl": "mcurl", "sym-curl": "mcurl", "seq-curl": "seq_curl"}.get(method)
    small = [size] + ([f"{section}.batch=2"] if section else [])
    learner = Learner(suite, method, Compute(torch.device("cpu"), torch.float32, graphs=False), overrides=small)
    agent: Any = learner.agent
    if agent.objective is not None:
        agent.objective.set_compute(fixed_shapes=True, dtype=torch.float32)
    step, watch = agent.step, Watch()

    def watched(batch: Batch, **keywords: bool) -> Any:
        with watch:
            return step(batch, **keywords)

    agent.step = watched
    seen = []
    for _ in range(3):  # the actor's and the targets' turns, and the first state of the optimizers
        batch = learner.sample()
        assert (batch.contrast is None) == (method == "rl-only")
        seen.append(shapes(batch))
        learner.learn(batch)
    assert watch.operations > 300
    assert watch.found == set()
    assert seen[0] == seen[1] == seen[2]


def test_the_watch_sees_what_waits() -> None:
    x = torch.tensor([1.0, 2.0])
    for wait in (lambda: float(x[0]), lambda: x[x > 1], lambda: torch.tensor(np.float32(1)), lambda: x.nonzero()):
        with Watch() as watch:
            wait()
        assert watch.found
