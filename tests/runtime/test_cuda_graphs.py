"""A step replayed as a graph does what the step does. Without a GPU, a recording of its operations stands in for CUDA's
graphs: replayed with the memory
and the Python numbers of the recording, it goes wrong wherever a real one would: where a step reads what has moved, or
    a number that should have changed."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from mcurl import native
from mcurl.agents import rainbow, sac
from mcurl.agents.base import Clock
from mcurl.batches import sample_batch
from mcurl.bench.update import Learner
from mcurl.objectives.base import PlanTensors
from mcurl.replay.batch import Batch, Contrast, Transitions
from mcurl.runtime import cuda_graphs as graphs
from mcurl.runtime.device import Compute

SMALL = {
    "dmc": ["sac.batch_size=8", "sac.hidden=16", "sac.filters=4"],
    "atari": ["rainbow.batch_size=8", "rainbow.hidden=16", "rainbow.target_every=500"],
}
SEQUENCES = {
    "mcurl": ["mcurl.batch=2", "mcurl.length=8"],
    "sym-curl": ["mcurl.batch=2", "mcurl.length=8"],
    "seq-curl": ["seq_curl.batch=2", "seq_curl.length=8"],
}


def leaves(tree: Any) -> list[Tensor]:
    return [leaf for leaf in tree_leaves(tree) if isinstance(leaf, Tensor)]


class Recording(TorchDispatchMode):
    """Notes every operation that makes or changes memory; views stay as they are."""

    def __init__(self, operations: list[Any]) -> None:
        super().__init__()
        self.operations = operations

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        result = func(*args, **kwargs)
        read = {t.untyped_storage().data_ptr() for t in leaves((args, kwargs))}
        made = leaves(result)
        if func._schema.is_mutable:
            self.operations.append((func, args, kwargs, []))
        elif not made or any(t.untyped_storage().data_ptr() not in read for t in made):
            self.operations.append((func, args, kwargs, made))
        return result


class Graph:
    """In place of torch.cuda.CUDAGraph. CUDA records without running, so the first replay is what ran while
    recording."""

    def __init__(self) -> None:
        self.operations: list[Any] = []
        self.ran = False

    @torch.no_grad()
    def replay(self) -> None:
        for func, args, kwargs, made in self.operations if self.ran else []:
            result = func(*args, **kwargs)
            for old, new in zip(made, leaves(result) if made else [], strict=True):
                old.copy_(new)
        self.ran = True


class Stream:
    def wait_stream(self, other: Any) -> None:
        pass


@contextmanager
def record(graph: Graph, stream: Stream) -> Iterator[None]:
    with Recording(graph.operations):
        yield


def gpu_adam(
    groups: list[dict[str, Any]], rate: float, device: torch.device, *, beta1: float = 0.9, eps: float = 1e-8
) -> torch.optim.Adam:
    """What `agents.optim.adam` makes on a GPU."""
    groups = [group | {"lr": torch.tensor(rate)} for group in groups if group["params"]]
    return torch.optim.Adam(groups, lr=rate, betas=(beta1, 0.999), eps=eps, fused=True, capturable=True)


@pytest.fixture
def no_gpu_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, stand_in in {
        "Stream": Stream,
        "current_stream": Stream,
        "synchronize": lambda: None,
        "CUDAGraph": Graph,
        "graph": record,
    }.items():
        monkeypatch.setattr(torch.cuda, name, stand_in)
    monkeypatch.setattr(torch.cuda, "stream", lambda stream: nullcontext())
    monkeypatch.setattr(graphs, "_on_gpu", lambda tensor: True)
    monkeypatch.setattr(sac, "adam", gpu_adam)
    monkeypatch.setattr(rainbow, "adam", gpu_adam)
    native.disable(native.ALL, "the plain twin")


def learned(
    suite: str, method: str, overrides: list[str], *, captured: bool
) -> tuple[list[dict[str, float]], list[Tensor], Any]:
    """Metrics of each of 14 updates, the agent's state after them, and the agent."""
    overrides = [*SMALL[suite], *SEQUENCES.get(method, []), *overrides]
    torch.manual_seed(0)
    learner = Learner(suite, method, Compute(torch.device("cpu"), torch.float32, graphs=False), overrides=overrides)
    agent: Any = learner.agent
    if agent.objective is not None:
        agent.objective.set_compute(fixed_shapes=True, dtype=torch.float32)
    if captured:
        graphs.use_cuda_graphs(agent)
    metrics = []
    for update in range(14):
        # Every schedule moves: learning rates, the exponent of the weights, copies of the target network.
        now = Clock(100 * (update + 1), update, action_repeat=4, horizon=8000)
        if suite == "atari":
            # Samples the noise that the update shares.
            agent.act(np.zeros((1, 4, 84, 84), np.uint8), explore=True, clock=now)
        batch = sample_batch(
            learner.replay, agent.batch_spec, agent.objective, learner.generators, beta=0.3 + update / 30
        )
        done = agent.update(batch, now)
        metrics.append({name: float(value) for name, value in done.metrics.items()})
        if done.priorities is not None:
            learner.replay.update_priorities(batch.transitions.rows, done.priorities)
    return metrics, leaves(agent.state_dict()), agent


@pytest.mark.parametrize(
    ("suite", "method", "overrides", "variants"),
    [
        ("dmc", "mcurl", [], 2),
        ("dmc", "mcurl", ["sac.joint_optimizer=true", "sac.actor_every=3"], 4),
        ("dmc", "curl", [], 2),
        ("dmc", "seq-curl", [], 2),
        ("dmc", "sym-curl", ["mcurl.mask=frames", "mcurl.projection=true"], 2),
        ("atari", "rl-only", [], 1),
        ("atari", "mcurl", [], 1),
        ("atari", "mcurl", ["rainbow.feature_source=conv"], 1),
        ("atari", "curl", ["rainbow.importance_weighted_contrast=true", "rainbow.contrast_in_priorities=true"], 1),
    ],
)
@pytest.mark.usefixtures("no_gpu_needed")
def test_a_replayed_step_is_the_step(suite: str, method: str, overrides: list[str], variants: int) -> None:
    expected, expected_state, _ = learned(suite, method, overrides, captured=False)
    metrics, state, agent = learned(suite, method, overrides, captured=True)
    assert len(agent.step._variants) == variants
    assert all(
        variant._graph is not None for variant in agent.step._variants.values() if variant._runs == graphs.WARM_UP
    )
    assert metrics == expected
    assert all(torch.equal(a, b) for a, b in zip(state, expected_state, strict=True))


class Named(NamedTuple):
    flags: Tensor
    rest: list[Tensor]


@pytest.mark.parametrize(
    "plan",
    [
        lambda x: x,
        lambda x: (x, 2 * x),
        lambda x: {"a": [x], "b": None},
        lambda x: Named(x, [x + 1]),
        lambda x: PlanTensors(x),
    ],
    ids=["tensor", "tuple", "dict", "named tuple", "dataclass"],
)
@pytest.mark.usefixtures("no_gpu_needed")
def test_a_plan_of_any_shape_is_read_anew(plan: Callable[[Tensor], Any]) -> None:
    """The plan of a user's objective may hold its tensors in any container."""

    def step(batch: Batch) -> Tensor:
        assert batch.contrast is not None
        assert type(batch.contrast.plan) is type(plan(torch.zeros(3)))
        return sum((leaf.sum() for leaf in leaves(contents(batch.contrast.plan))), torch.zeros(()))

    def contents(value: Any) -> Any:
        return value.padded if isinstance(value, PlanTensors) else value

    captured = graphs.CudaGraphStep(step)
    t = Transitions(*(torch.zeros(2) for _ in range(7)))
    for call in range(7):
        batch = Batch(t, Contrast(torch.zeros(1), torch.zeros(1), plan(torch.full((3,), float(call)))))
        assert captured(batch) == step(batch)


@pytest.mark.usefixtures("no_gpu_needed")
def test_the_recording_notices_a_number_that_changes(monkeypatch: pytest.MonkeyPatch) -> None:
    """A learning rate that is a Python number, as on a processor, is frozen into a graph."""
    monkeypatch.setattr(
        rainbow,
        "adam",
        lambda *a, **k: torch.optim.Adam([g | {"lr": 1e-4} for g in a[0] if g["params"]], eps=1.5e-4, fused=True),
    )
    expected = learned("atari", "mcurl", [], captured=False)[0]
    assert learned("atari", "mcurl", [], captured=True)[0] != expected
