"""Evaluation of a fixed policy: full episodes in parallel environments, each with its own seed."""

from __future__ import annotations

import math
from collections.abc import Callable, Generator
from contextlib import ExitStack
from functools import partial
from typing import Any, NamedTuple

import gymnasium
import numpy as np
import numpy.typing as npt

from mcurl.agents.base import Agent, Clock
from mcurl.build import build_env, check_episodes
from mcurl.config.settings import TrainSettings
from mcurl.envs.foreign import EnvironmentFailure
from mcurl.errors import UserError
from mcurl.loading import LoadedAgent, load_agent
from mcurl.published import atari_random_and_human, human_normalised
from mcurl.recording import MAX_EPISODE_STEPS, Recorder, Recording, build, episode_seed
from mcurl.run.checkpoint import tree_hash
from mcurl.run.folder import Checkpoint, Run
from mcurl.runtime import seeding

Act = Callable[[npt.NDArray[Any]], npt.NDArray[Any]]
"""A policy without memory: observations ``[N, ...]`` -> actions ``[N, ...]``."""
MakeEnv = Callable[[int], "gymnasium.Env[Any, Any]"]
"""Seed -> a new environment."""
Camera = Callable[[int, "gymnasium.Env[Any, Any]"], None]
"""Called with the number of an episode and its environment, after its reset and after each step."""


def evaluate_run(
    run: Run,
    episodes: int | None,
    seed: int | None = None,
    callback: Callable[[int, int], None] | None = None,
    message: Callable[[str], None] | None = None,
    *,
    checkpoint: Checkpoint | None = None,
    camera: Camera | None = None,
) -> Recording:
    """Evaluate the policy of a checkpoint of a run. The run folder is not changed.

    Args:
        run: a run folder.
        episodes: number of episodes, at least 1; None: as many as in the run's final evaluation.
        seed: seed of the episodes; None: the run's seed.
        callback: called after every step with the numbers of finished and of all episodes.
        message: receives what is to be said of the episodes, see :func:`evaluate`.
        checkpoint: of this run; None: the latest.
        camera: sees each step of each episode.

    Returns:
        The episodes. With the run's number of episodes and seed, and after the last step, those of its final
        evaluation.

    Raises:
        UserError: the run has no checkpoint, or the checkpoint or the settings cannot be read.
    """
    settings = TrainSettings.from_json(run.settings)
    loaded = load_agent(run, settings, checkpoint)
    if loaded.note and message is not None:
        message(loaded.note)
    episodes = episodes or settings.evaluation.final_episodes or settings.evaluation.episodes
    watch = None if callback is None else partial(_watch, callback, episodes)
    seed = settings.seed if seed is None else seed
    return record_policy(settings, loaded.agent, loaded.clock, episodes, seed, watch, message, camera)


def _watch(callback: Callable[[int, int], None], episodes: int, finished: int) -> None:
    callback(finished, episodes)


class Moment(NamedTuple):
    """The state of an episode that is played step by step."""

    env: gymnasium.Env[Any, Any]
    observation: npt.NDArray[Any]
    """The newest observation."""
    total: float
    """Sum of rewards so far."""
    steps: int
    """Agent steps so far."""
    over: bool
    """Whether the episode has ended."""


def play_episode(
    settings: TrainSettings, loaded: LoadedAgent, episode: int, seed: int
) -> Generator[Moment, None, None]:
    """Play an episode of an evaluation step by step. It is the one with this number in :func:`evaluate_policy`.

    Exception: an environment that draws from the global generators of ``random`` or ``numpy.random``, which the
    episodes of an evaluation share.

    Args:
        settings: of the run.
        loaded: the agent, which plays with ``explore=False`` and its ``evaluation_epsilon``.
        episode: number of the episode, from 0.
        seed: seed of the evaluation.

    Yields:
        The moment after the reset, and after each step. The environment is closed at the end.
    """
    agent, clock, evaluation = loaded.agent, loaded.clock, settings.evaluation
    # The batch and its row are those of an evaluation, because rounding may depend on them.
    rows = min(evaluation.parallel, max(evaluation.final_episodes or evaluation.episodes, episode + 1))
    own_globals = seeding.SeparateGlobals(seed, "evaluate", clock.env_steps)
    slot = _Slot(
        lambda env_seed: build_env(settings, env_seed),
        episode % rows,
        seed,
        clock.env_steps,
        agent.evaluation_epsilon,
        episode_limit(settings.env),
        None,
        None,
    )
    over = False
    try:
        with own_globals:
            slot.begin(episode, episode + 1)
        assert slot.env is not None
        yield Moment(slot.env, slot.observation, slot.total, slot.steps, over)
        while not over:
            batch = np.repeat(slot.observation[None], rows, axis=0)
            action = agent.act(batch, explore=False, clock=clock)[episode % rows]
            with own_globals:
                over = slot.step(action)
            yield Moment(slot.env, slot.observation, slot.total, slot.steps, over)
    finally:
        slot.close()


def result(run: Run, recording: Recording) -> dict[str, Any]:
    """The returns of an evaluation and their statistics, as JSON values.

    Args:
        run: the run that was evaluated.
        recording: its episodes.

    Returns:
        What was evaluated (``name``, ``task``, ``method``, ``run_seed``, ``env_steps``, ``policy``), the ``episodes``
        (their ``seed``, ``returns``, ``lengths`` in agent steps), ``mean``, ``std`` (of the population), ``min``,
        ``max``, ``human_normalised`` (games of Atari 100k; else None), and ``versions`` of the packages.
    """
    returns = np.asarray(recording.returns)
    suite, _, game = recording.task.partition("/")
    known = suite == "atari" and game in atari_random_and_human()
    return {
        "name": run.name,
        "task": recording.task,
        "method": recording.method,
        "run_seed": run.settings["seed"],
        "env_steps": recording.env_steps,
        "policy": recording.policy,
        "seed": recording.seed,
        "episodes": recording.episodes,
        "mean": float(returns.mean()),
        "std": float(returns.std()),
        "min": float(returns.min()),
        "max": float(returns.max()),
        "human_normalised": human_normalised(game, float(returns.mean())) if known else None,
        "returns": list(recording.returns),
        "lengths": list(recording.lengths),
        "versions": dict(recording.build),
    }


def record_policy(
    settings: TrainSettings,
    agent: Agent,
    clock: Clock,
    episodes: int,
    seed: int,
    callback: Callable[[int], None] | None = None,
    message: Callable[[str], None] | None = None,
    camera: Camera | None = None,
) -> Recording:
    """As :func:`evaluate_policy`, but return what is needed to play the episodes again. The returns are the same."""
    recorder = Recorder()
    returns = evaluate_policy(settings, agent, clock, episodes, seed, callback, recorder, message, camera)
    values = settings.to_json()
    return recorder.recording(
        returns.tolist(),
        task=settings.task,
        method=settings.method,
        env=values["env"],
        seed=seed,
        env_steps=clock.env_steps,
        parallel=settings.evaluation.parallel,
        max_episode_steps=episode_limit(settings.env),
        policy=tree_hash(agent.policy_state()),
        build=build(),
    )


def evaluate_policy(
    settings: TrainSettings,
    agent: Agent,
    clock: Clock,
    episodes: int,
    seed: int,
    callback: Callable[[int], None] | None = None,
    recorder: Recorder | None = None,
    message: Callable[[str], None] | None = None,
    camera: Camera | None = None,
) -> npt.NDArray[np.float64]:
    """Evaluate an agent, without exploration, in new environments. The random state of training is not changed.

    Args:
        settings: of the run.
        agent: plays the episodes with ``explore=False`` and its ``evaluation_epsilon``.
        clock: counters of the run.
        episodes: number of episodes, at least 1.
        seed: seed of the episodes.
        callback: called after every step with the number of finished episodes; it may raise an exception to stop.
        recorder: collects the actions.
        message: receives what is to be said of the episodes, see :func:`evaluate`.
        camera: sees each step of each episode.

    Returns:
        Sums of rewards, ``float64 [episodes]``.
    """
    return evaluate(
        lambda observations: agent.act(observations, explore=False, clock=clock),
        lambda env_seed: build_env(settings, env_seed),
        episodes,
        seed,
        env_steps=clock.env_steps,
        parallel=settings.evaluation.parallel,
        epsilon=agent.evaluation_epsilon,
        max_episode_steps=episode_limit(settings.env),
        callback=callback,
        recorder=recorder,
        message=message,
        camera=camera,
    )


def episode_limit(env: Any) -> int:
    """Agent steps after which an evaluation cuts off an episode.

    Args:
        env: settings of the environment.
    """
    return int(getattr(env, "evaluation_limit", MAX_EPISODE_STEPS))


def score_line(task: str, returns: npt.NDArray[np.float64]) -> str:
    """The mean score in words; for games of the Atari 100k benchmark, the human-normalised score too."""
    line = f"score {returns.mean():.1f} ± {returns.std():.1f} over {len(returns)} episodes"
    suite, _, game = task.partition("/")
    if suite != "atari" or game not in atari_random_and_human():
        return line
    return f"{line}, human-normalised {human_normalised(game, float(returns.mean())):.3f}"


def evaluate(
    act: Act,
    make_env: MakeEnv,
    episodes: int,
    seed: int,
    *,
    env_steps: int = 0,
    parallel: int = 10,
    epsilon: float = 0.0,
    max_episode_steps: int = MAX_EPISODE_STEPS,
    callback: Callable[[int], None] | None = None,
    recorder: Recorder | None = None,
    message: Callable[[str], None] | None = None,
    camera: Camera | None = None,
) -> npt.NDArray[np.float64]:
    """Play episodes with a policy.

    Each episode has its own seed, so it does not depend on ``parallel``. Exception: an environment whose reset does
    not sample everything anew, such as ``dmc/lqr-*``, which draw their springs once for each environment.

    The policy always receives a full batch: a finished environment keeps its last observation in the batch. So all
    batches have the same shape, and the action of one environment does not depend on the others.

    Args:
        act: the policy.
        make_env: makes the environments; they are closed at the end, also after an exception.
        episodes: number of episodes, at least 1.
        seed: seed of the run. An episode's seed is derived from it, ``env_steps`` and the episode's number.
        env_steps: simulator steps trained so far, so that each evaluation of a run plays different episodes.
        parallel: number of environments, at least 1.
        epsilon: probability of a random action instead of the policy's, in [0, 1].
        max_episode_steps: agent steps after which an episode is truncated, for environments without a time limit. Its
            return counts.
        callback: called after every step with the number of finished episodes; it may raise an exception to stop.
        recorder: collects the actions.
        message: receives a line if episodes were truncated after ``max_episode_steps``, or the simulator diverged.
        camera: sees each step of each episode.

    Returns:
        Sums of rewards, ``float64 [episodes]``, in the order of the episodes.
    """
    check_episodes(episodes, "episodes")
    slots = [
        _Slot(make_env, first, seed, env_steps, epsilon, max_episode_steps, recorder, camera)
        for first in range(min(episodes, parallel))
    ]
    returns = np.full(episodes, np.nan)
    finished = 0
    with ExitStack() as stack:
        stack.enter_context(seeding.SeparateGlobals(seed, "evaluate", env_steps))
        for slot in slots:
            stack.callback(slot.close, message)
        for slot in slots:
            slot.begin(slot.episode, episodes)
        observations = np.stack([slot.observation for slot in slots])
        while finished < episodes:
            actions = act(observations)
            if not np.isfinite(actions).all():
                raise UserError("the policy has diverged: an action is not a number")
            for row, slot in enumerate(slots):
                if slot.episode >= episodes:
                    continue
                if slot.step(actions[row]):
                    returns[slot.episode] = slot.total
                    finished += 1
                    slot.begin(slot.episode + len(slots), episodes)
                observations[row] = slot.observation
            if callback is not None:
                callback(finished)
    if message is not None and (cut := sum(slot.cut for slot in slots)):
        message(f"{cut} of {episodes} episodes had not ended, and were cut off after {max_episode_steps:,} agent steps")
    if message is not None and (diverged := sum(slot.diverged for slot in slots)):
        message(f"{diverged} of {episodes} episodes ended because the simulator diverged; returns up to there count")
    return returns


class _Slot:
    """One of N parallel environments. Number i plays the episodes i, i + N, i + 2 N, ..."""

    def __init__(
        self,
        make_env: MakeEnv,
        first: int,
        seed: int,
        env_steps: int,
        epsilon: float,
        max_episode_steps: int,
        recorder: Recorder | None,
        camera: Camera | None,
    ) -> None:
        self.seed, self.env_steps, self.epsilon, self.max_episode_steps = seed, env_steps, epsilon, max_episode_steps
        self.make_env, self.episode, self.recorder, self.camera = make_env, first, recorder, camera
        self.first = first
        self.env: gymnasium.Env[Any, Any] | None = None
        self.observation: Any = None
        self.total, self.steps = 0.0, 0
        self.cut = self.diverged = 0

    def begin(self, episode: int, episodes: int) -> None:
        """Reset for an episode, unless its number is beyond the last of ``episodes``."""
        self.episode, self.total, self.steps = episode, 0.0, 0
        if episode >= episodes:
            return
        number = episode_seed(self.seed, self.env_steps, episode)
        if self.env is None:
            self.env = self.make_env(episode_seed(self.seed, self.env_steps, self.first))
        self.random = seeding.generator(self.seed, "evaluate-random", self.env_steps, episode)
        self.observation, _ = self.env.reset(seed=number)
        if self.recorder is not None:
            self.recorder.begin(episode, number)
        if self.camera is not None:
            self.camera(self.episode, self.env)

    def step(self, action: Any) -> bool:
        """Take one step; return whether the episode ended."""
        assert self.env is not None
        if self.random.random() < self.epsilon:
            self.env.action_space.seed(int(self.random.integers(2**31)))
            action = self.env.action_space.sample()
        self.observation, reward, terminated, truncated, info = self.env.step(action)
        if not math.isfinite(reward):
            where = f"step {self.steps + 1:,} of episode {self.episode} of an evaluation"
            raise EnvironmentFailure(
                f"the environment returned the reward {float(reward)}, not a finite number: {where}"
            )
        self.total += float(reward)
        self.steps += 1
        ended = bool(terminated or truncated)
        over = ended or self.steps >= self.max_episode_steps
        self.cut += over and not ended
        self.diverged += bool(info.get("diverged"))
        if self.recorder is not None:
            self.recorder.step(self.episode, action, self.env, over)
        if self.camera is not None:
            self.camera(self.episode, self.env)
        return over

    def close(self, message: Callable[[str], None] | None = None) -> None:
        """Close the environment. The episodes count even if that fails; ``message`` receives the failure."""
        if self.env is None:
            return
        try:
            self.env.close()
        except EnvironmentFailure as error:
            if message is not None and self.first == 0:
                message(str(error))
