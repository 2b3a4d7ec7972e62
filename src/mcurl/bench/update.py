"""Timings of one update, including sampling from the replay, and of its textbook version."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import replace
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch.utils.flop_counter import FlopCounterMode

from mcurl import native
from mcurl.agents.base import Agent, Clock
from mcurl.agents.rainbow import Rainbow
from mcurl.agents.sac import SAC
from mcurl.batches import sample_batch
from mcurl.bench.timing import Timing, measure, measure_interleaved
from mcurl.build import build_agent, build_replay
from mcurl.config import resolve as config
from mcurl.config.settings import TrainSettings
from mcurl.errors import UserError, suggest
from mcurl.networks import encoders
from mcurl.objectives.masked import MCurl
from mcurl.replay.batch import Batch
from mcurl.replay.buffer import Replay
from mcurl.runtime.cuda_graphs import use_cuda_graphs
from mcurl.runtime.device import Compute
from mcurl.runtime.seeding import Generators
from mcurl.runtime.waiting import AdaptiveWaiting

TASKS = {"dmc": "dmc/cartpole-swingup", "atari": "atari/RoadRunner"}
"""Suite -> task of the benchmarks."""


class EnvSpec:
    """Replaces an environment: the spaces and attributes that agent and replay need, without a simulator."""

    def __init__(self, suite: str) -> None:
        import gymnasium

        atari = suite == "atari"
        frame = (1, 84, 84) if atari else (3, 100, 100)
        stack = 4 if atari else 3
        self.attributes = {"frame_shape": frame, "frame_stack": stack, "stack_start": "blank" if atari else "repeat"}
        self.observation_space = gymnasium.spaces.Box(0, 255, (stack * frame[0], *frame[1:]), np.uint8)
        self.action_space = gymnasium.spaces.Discrete(18) if atari else gymnasium.spaces.Box(-1, 1, (1,), np.float32)

    def get_wrapper_attr(self, name: str) -> Any:
        """As in Gymnasium."""
        return self.attributes[name]


def resolve(suite: str, method: str, overrides: Sequence[str]) -> TrainSettings:
    """The settings of a benchmark. Raises UserError if an override does not apply."""
    return config.resolve(TASKS[suite], method, overrides=["replay.capacity=6000", *overrides])


class Learner:
    """The agent of a run and a replay of random episodes, without an environment.

    Args:
        suite: ``"dmc"`` or ``"atari"``.
        method: name of a method.
        compute: device and precision.
        overrides: ``section.name=value``.
        plain: whether updates are the textbook version, see :func:`use_textbook_version`.
    """

    def __init__(
        self, suite: str, method: str, compute: Compute, *, overrides: Sequence[str] = (), plain: bool = False
    ) -> None:
        self.settings = resolve(suite, method, overrides)
        env: Any = EnvSpec(suite)
        torch.manual_seed(0)
        self.agent = build_agent(self.settings, env, compute)
        spec = self.agent.batch_spec
        if plain:
            spec = self.agent.batch_spec = replace(spec, layout="planes")
        self.replay = build_replay(self.settings, env, spec, compute)
        self.generators = Generators(0)
        self.updates = 0
        if plain:
            use_textbook_version(self.agent)
        elif compute.graphs:
            use_cuda_graphs(self.agent)
        fill(self.replay, continuous=suite == "dmc")

    @property
    def clock(self) -> Clock:
        """The counters of a run with one update per agent step."""
        first = self.agent.schedule.learning_starts
        return Clock(first + self.updates, self.updates, action_repeat=4, horizon=self.settings.env_steps)

    def sample(self) -> Batch:
        """Sample the batch of the next update."""
        agent, beta = self.agent, self.agent.priority_beta(self.clock)
        return sample_batch(self.replay, agent.batch_spec, agent.objective, self.generators, beta=beta)

    def learn(self, batch: Batch) -> None:
        """Run one update."""
        self.agent.update(batch, self.clock)
        self.updates += 1


def fill(replay: Replay, *, continuous: bool, episodes: int = 40, length: int = 125) -> None:
    """Add episodes of random frames, actions and rewards to a replay."""
    rng = np.random.default_rng(0)
    frames = rng.integers(0, 256, (256, *replay.frame_shape), dtype=np.uint8)
    for episode in range(episodes):
        replay.begin(frames[episode])
        for step in range(length):
            action = rng.uniform(-1, 1, 1).astype(np.float32) if continuous else rng.integers(18)
            replay.append(action, float(rng.random()), frames[(7 * episode + step) % 256], False, step == length - 1)


def use_textbook_version(agent: Agent) -> None:
    """Replace the fast implementation of an agent's update with the textbook version, for the rest of the process.

    Tensors are contiguous, convolutions and ReLUs are separate operations, an observation is encoded at each use, and
    pixels are gathered as bytes. The agent is changed in place.
    """
    native.disable(native.ALL, "the textbook version")
    objective = agent.objective
    if isinstance(objective, MCurl):
        objective.compact = False
    if isinstance(agent, Rainbow):
        for network in (agent.online, agent.target):
            _plain_atari(network.encoder)
        if agent.query is not None and agent.key is not None:
            _plain_atari(agent.query.encoder)
            _plain_atari(agent.key.encoder)
        return
    assert isinstance(agent, SAC)
    for encoder in (agent.encoder, agent.target_encoder, agent.actor_features):
        for module in encoder.modules():
            if isinstance(module, encoders.Convolutions):
                module.memory_format = torch.contiguous_format
            if isinstance(module, encoders.FeatureHead):
                module.channels_last = False
        for parameter in encoder.parameters():
            parameter.data = parameter.data.contiguous()


def _plain_atari(encoder: Any) -> None:
    """Use two plain convolutions; ``patches`` only converts the pixels to float32."""

    def encode(pixels: torch.Tensor) -> torch.Tensor:
        return F.relu(encoder.conv2(F.relu(encoder.conv1(pixels)))).flatten(1)

    encoder.patches, encoder.encode = lambda pixels: pixels.float() / 255, encode


def time_update(
    suite: str,
    method: str,
    compute: Compute,
    *,
    overrides: list[str] | None = None,
    plain: bool = False,
    repeats: int = 20,
) -> Timing:
    """Time sampling a batch and updating.

    A repetition is the mean of two consecutive updates, because SAC updates its actor in every second one.

    Args:
        suite: ``"dmc"`` or ``"atari"``.
        method: name of a method.
        compute: device and precision.
        overrides: ``section.name=value``.
        plain: whether to time the textbook version, see :func:`use_textbook_version`.
        repeats: number of updates.
    """
    update_twice = _two_updates(suite, method, compute, overrides, plain=plain)
    # Four pairs of warm-up, because CUDA graphs are captured in the fourth.
    gflop = _gflop(update_twice) if compute.device.type == "cpu" else 0.0
    name = " ".join([suite, method, *(overrides or []), *(["(textbook)"] if plain else [])])
    return _half(measure(name, update_twice, warm_up=4, repeats=max(repeats // 2, 2), gflop=gflop))


def time_busy(
    suite: str, method: str, compute: Compute, *, overrides: Sequence[str] = (), repeats: int = 20
) -> list[Timing]:
    """Time updates alone, and beside another process that computes all the time.

    Args:
        suite, method, compute, overrides: as for :func:`time_update`.
        repeats: number of updates of each timing.

    Returns:
        The timing alone, and the one beside the other process.
    """
    learner, waiting = Learner(suite, method, compute, overrides=overrides), AdaptiveWaiting(torch.get_num_threads())

    def update() -> None:
        learner.learn(learner.sample())
        waiting.check()

    with closing(waiting):
        title = " ".join([suite, method, *overrides])
        # Long enough to notice the other process, and to compile everything before.
        alone = measure(f"{title}, alone", update, warm_up=10, repeats=repeats)
        with subprocess.Popen([sys.executable, "-c", "while True: pass"]) as other:
            try:
                busy = measure(f"{title}, beside a busy process", update, warm_up=10, repeats=repeats)
            finally:
                other.kill()
    return [alone, busy]


def time_ablations(
    suite: str,
    method: str,
    compute: Compute,
    names: Sequence[str],
    *,
    overrides: list[str] | None = None,
    repeats: int = 20,
) -> list[Timing]:
    """Time an update with all accelerated operations, and without some of them.

    The updates are interleaved, so that changes in the machine's speed affect all of them.

    Args:
        suite, method, compute, overrides, repeats: as for :func:`time_update`.
        names: names for :func:`operations`.

    Returns:
        The timing with all operations, then one for each name without its operations.
    """
    functions: dict[str, Callable[[], None]] = {}
    for name in (None, *names):
        excluded = operations(name) if name else frozenset()
        with native.without_operations(excluded, "bench --without"):  # also affects the layout of the replay
            update_twice = _two_updates(suite, method, compute, overrides)

        def function(update_twice: Callable[[], None] = update_twice, excluded: frozenset[str] = excluded) -> None:
            with native.without_operations(excluded, "bench --without"):
                update_twice()

        title = " ".join([suite, method, *(overrides or [])])
        functions[f"{title} without {name}" if name else f"{title}, interleaved"] = function
    return [_half(pair) for pair in measure_interleaved(functions, warm_up=4, repeats=max(repeats // 2, 2))]


def operations(name: str) -> frozenset[str]:
    """The accelerated operations that a name stands for.

    Args:
        name: an operation of :data:`mcurl.native.ALL`, or a group: ``"amx"``, ``"onednn"`` or ``"all"``.

    Raises:
        UserError: the name is unknown.
    """
    groups = {"all": native.ALL, "amx": native.AMX, "onednn": native.ONEDNN}
    if name in native.ALL:
        return frozenset({name})
    if name not in groups:
        raise UserError(f"unknown native operation {name!r}: {suggest(name, sorted(native.ALL | set(groups)))}")
    return groups[name]


def _two_updates(
    suite: str, method: str, compute: Compute, overrides: list[str] | None, *, plain: bool = False
) -> Callable[[], None]:
    """A function that runs two updates of a new agent, including sampling."""
    learner = Learner(suite, method, compute, overrides=overrides or (), plain=plain)

    def update_twice() -> None:
        for _ in range(2):
            learner.learn(learner.sample())

    return update_twice


def _half(pair: Timing) -> Timing:
    return Timing(pair.name, pair.milliseconds / 2, pair.low / 2, pair.high / 2, 2 * pair.repeats, pair.gflop / 2)


def _gflop(function: Callable[[], None]) -> float:
    """Floating-point operations of a function, in 1e9. Fused operations are disabled, as PyTorch cannot count them."""
    with (
        native.without_operations(native.AMX | native.ONEDNN | {"winograd"}, "operations are counted"),
        FlopCounterMode(display=False) as counter,
    ):
        function()
    return float(counter.get_total_flops()) / 1e9
