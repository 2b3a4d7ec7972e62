"""One update, sampling from a replay included: as it is, and the textbook's way."""

from __future__ import annotations

from collections.abc import Callable, Sequence
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
from mcurl.bench.timing import Timing, measure, measure_in_turn
from mcurl.build import build_agent, build_replay
from mcurl.config import resolve as config
from mcurl.config.resolve import TrainSettings
from mcurl.errors import UserError, suggest
from mcurl.networks import encoders
from mcurl.objectives.masked import MCurl
from mcurl.replay.batch import Batch
from mcurl.replay.buffer import Replay
from mcurl.runtime.cuda_graphs import CudaGraphStep
from mcurl.runtime.device import Compute
from mcurl.runtime.seeding import Generators

TASKS = {"dmc": "dmc/cartpole-swingup", "atari": "atari/RoadRunner"}


class Shapes:
    """What an environment tells of its observations and actions, without one: nothing is simulated in these timings."""

    def __init__(self, suite: str) -> None:
        import gymnasium

        atari = suite == "atari"
        frame = (1, 84, 84) if atari else (3, 100, 100)
        stack = 4 if atari else 3
        self.attributes = {"frame_shape": frame, "frame_stack": stack, "stack_start": "blank" if atari else "repeat"}
        self.observation_space = gymnasium.spaces.Box(0, 255, (stack * frame[0], *frame[1:]), np.uint8)
        self.action_space = gymnasium.spaces.Discrete(18) if atari else gymnasium.spaces.Box(-1, 1, (1,), np.float32)

    def get_wrapper_attr(self, name: str) -> Any:
        return self.attributes[name]


def resolve(suite: str, method: str, overrides: Sequence[str]) -> TrainSettings:
    """The settings of what is timed. Raises UserError where an override is not a setting of it."""
    return config.resolve(TASKS[suite], method, overrides=["replay.capacity=6000", *overrides])


class Learner:
    """An agent and a replay of random episodes, as a run has them, without an environment.

    Args:
        plain: the textbook's update, see :func:`as_the_textbook`.
    """

    def __init__(
        self, suite: str, method: str, compute: Compute, *, overrides: Sequence[str] = (), plain: bool = False
    ) -> None:
        self.settings = resolve(suite, method, overrides)
        shapes: Any = Shapes(suite)
        torch.manual_seed(0)
        self.agent = build_agent(self.settings, shapes, compute)
        spec = self.agent.batch_spec
        if plain:
            spec = self.agent.batch_spec = replace(spec, layout="planes")
        self.replay = build_replay(self.settings, shapes, spec, compute)
        self.generators = Generators(0)
        self.updates = 0
        if plain:
            as_the_textbook(self.agent)
        elif compute.graphs and hasattr(self.agent, "step"):
            self.agent.step = CudaGraphStep(self.agent.step)
        fill(self.replay, continuous=suite == "dmc")

    @property
    def clock(self) -> Clock:
        """As in a run with one update per agent step."""
        first = self.agent.schedule.learning_starts
        return Clock(first + self.updates, self.updates, action_repeat=4, horizon=self.settings.env_steps)

    def sample(self) -> Batch:
        """The next update's data."""
        agent, beta = self.agent, self.agent.priority_beta(self.clock)
        return sample_batch(self.replay, agent.batch_spec, agent.objective, self.generators, beta=beta)

    def learn(self, batch: Batch) -> None:
        """One update."""
        self.agent.update(batch, self.clock)
        self.updates += 1


def fill(replay: Replay, *, continuous: bool, episodes: int = 40, length: int = 125) -> None:
    """Random frames in whole episodes."""
    rng = np.random.default_rng(0)
    frames = rng.integers(0, 256, (256, *replay.frame_shape), dtype=np.uint8)
    for episode in range(episodes):
        replay.begin(frames[episode])
        for step in range(length):
            action = rng.uniform(-1, 1, 1).astype(np.float32) if continuous else rng.integers(18)
            replay.append(action, float(rng.random()), frames[(7 * episode + step) % 256], False, step == length - 1)


def as_the_textbook(agent: Agent) -> None:
    """Undo what makes it fast, in place, for the rest of this process.

    Contiguous layouts, convolution and ReLU apart, every observation encoded wherever the algorithm names it, pixels
    gathered as bytes.
    """
    native.disable(native.ALL, "the textbook's update")
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
    """Two convolutions, as the paper writes them; `patches` only widens the pixels."""

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
    """Sample a batch and learn from it; the mean of two updates in a row, since SAC's actor learns at every second
    one."""
    two = _two_updates(suite, method, compute, overrides, plain=plain)
    # Four pairs to warm up: the fourth is where a GPU records its graphs.
    gflop = _gflop(two) if compute.device.type == "cpu" else 0.0
    name = " ".join([suite, method, *(overrides or []), *(["(textbook)"] if plain else [])])
    return _half(measure(name, two, warm_up=4, repeats=max(repeats // 2, 2), gflop=gflop))


def time_without(
    suite: str,
    method: str,
    compute: Compute,
    names: Sequence[str],
    *,
    overrides: list[str] | None = None,
    repeats: int = 20,
) -> list[Timing]:
    """What each accelerated operation gains alone: an update with all of them, and one without each of ``names``.

    The updates take turns, so that a machine that slows down meanwhile slows all of them.

    Args:
        names: operations of :data:`mcurl.native.ALL`, or groups of them; see :func:`operations`.

    Returns:
        The timing of the full set, then one for each name.
    """
    works: dict[str, Callable[[], None]] = {}
    for name in (None, *names):
        left_out = operations(name) if name else frozenset()
        with native.without_operations(left_out, "bench --without"):  # the replay's layout depends on it, too
            two = _two_updates(suite, method, compute, overrides)

        def work(two: Callable[[], None] = two, left_out: frozenset[str] = left_out) -> None:
            with native.without_operations(left_out, "bench --without"):
                two()

        title = " ".join([suite, method, *(overrides or [])])
        works[f"{title} without {name}" if name else f"{title} in turn"] = work
    return [_half(pair) for pair in measure_in_turn(works, warm_up=4, repeats=max(repeats // 2, 2))]


def operations(name: str) -> frozenset[str]:
    """The accelerated operations of a name: one of :data:`mcurl.native.ALL`, or a group's: ``amx``, ``onednn``,
    ``all``.

    Raises:
        UserError: there is no such operation.
    """
    groups = {"all": native.ALL, "amx": native.AMX, "onednn": native.ONEDNN}
    if name in native.ALL:
        return frozenset({name})
    if name not in groups:
        raise UserError(f"there is no native operation {name!r}: {suggest(name, sorted(native.ALL | set(groups)))}")
    return groups[name]


def _two_updates(
    suite: str, method: str, compute: Compute, overrides: list[str] | None, *, plain: bool = False
) -> Callable[[], None]:
    """A new agent's next two updates, data sampled."""
    learner = Learner(suite, method, compute, overrides=overrides or (), plain=plain)

    def two() -> None:
        for _ in range(2):
            learner.learn(learner.sample())

    return two


def _half(pair: Timing) -> Timing:
    return Timing(pair.name, pair.milliseconds / 2, pair.low / 2, pair.high / 2, 2 * pair.repeats, pair.gflop / 2)


def _gflop(work: Callable[[], None]) -> float:
    """Floating-point operations, in 1e9. The counter knows PyTorch's products and convolutions only, so while it counts
    nothing is fused."""
    with (
        native.without_operations(native.AMX | native.ONEDNN, "operations are counted"),
        FlopCounterMode(display=False) as counter,
    ):
        work()
    return float(counter.get_total_flops()) / 1e9
