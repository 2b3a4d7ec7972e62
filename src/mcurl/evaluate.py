"""Evaluation of an agent: of a run's checkpoint, or while it trains."""

from __future__ import annotations

from collections.abc import Callable, Generator
from functools import partial
from typing import Any, NamedTuple

import gymnasium
import numpy as np
import numpy.typing as npt

from mcurl.agents.base import Agent, Clock
from mcurl.build import build_env
from mcurl.config.settings import TrainSettings
from mcurl.episodes import Camera, Slot, evaluate
from mcurl.loading import LoadedAgent, load_agent
from mcurl.published import atari_random_and_human, human_normalised
from mcurl.recording import MAX_EPISODE_STEPS, Recorder, Recording, build
from mcurl.run.checkpoint import tree_hash
from mcurl.run.folder import Checkpoint, Run
from mcurl.runtime import seeding


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
    slot = Slot(
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
