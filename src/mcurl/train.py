"""The loop: act, store, sample, update. The only place where all rooms meet, and where agent steps become env steps."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import closing
from typing import Any, Self

import gymnasium
import numpy as np
import torch
from torch import Tensor

from mcurl.agents.base import Update
from mcurl.batches import draw
from mcurl.build import build_agent, build_env, build_replay, newest_frame, restore_torch_state, torch_state
from mcurl.config.resolve import TrainSettings
from mcurl.envs import CannotSave
from mcurl.envs.threaded import ThreadedEnv
from mcurl.errors import UserError
from mcurl.evaluate import evaluate
from mcurl.published import atari_random_and_human, human_normalised
from mcurl.replay import prune
from mcurl.replay.batch import Batch
from mcurl.run.display import Display
from mcurl.run.folder import KEPT, Run
from mcurl.run.logger import Logger, NotFinite, Sink, SpeedMeter, make_sinks
from mcurl.runtime import seeding
from mcurl.runtime.cuda_graphs import CudaGraphStep
from mcurl.runtime.device import prepare
from mcurl.runtime.signals import Interrupted, Stop, stop_on_signal

LOG_EVERY = 100
"""Updates between two lines of metrics."""
RANDOM_START = "rainbow.random_start=true rainbow.learning_starts=5000"
"""Met a reward in RoadRunner with twelve seeds of twelve, where the noise alone often does not."""


def train(settings: TrainSettings, run: Run, display: Display, sinks: Iterable[Sink] = ()) -> None:
    """Train from the beginning.

    Args:
        sinks: of the caller's own; the run closes them.

    Raises:
        Interrupted: the user asked to stop; everything is saved.
        UserError: the environment or the settings do not fit the method or the machine.
    """
    with Trainer(settings, run, display, sinks) as trainer:
        trainer.learn(settings.env_steps)


def resume(run: Run, display: Display, env_steps: int | None = None, sinks: Iterable[Sink] = ()) -> None:
    """Go on from the latest checkpoint, exactly as if the run had never stopped.

    Args:
        env_steps: extend the budget to so many simulator steps; schedules keep the horizon that they began with.
        sinks: of the caller's own; the run closes them.
    """
    settings = TrainSettings.from_json(run.settings)
    checkpoint = run.latest_checkpoint()
    with Trainer(settings, run, display, sinks) as trainer:
        try:
            trainer.load_state_dict(checkpoint.load())
        except (RuntimeError, KeyError) as error:
            why = str(error).partition("\n")[0]
            raise UserError(
                f"{checkpoint.folder} does not fit {run.folder / 'settings.json'}, which was changed since: {why}"
            ) from error
        run.rewind(checkpoint)
        trainer.logger.rewind(trainer.env_steps)
        run.note_resume(env_steps)
        trainer.logger.message(f"resumed at {trainer.env_steps:,} env steps")
        if run.env_steps != settings.env_steps:
            trainer.logger.message(
                f"extended to {run.env_steps:,} env steps; schedules keep the horizon of {settings.env_steps:,} that the run began with"
            )
        trainer.learn(run.env_steps)


def evaluate_run(run: Run, episodes: int, seed: int | None = None) -> np.ndarray:
    """Returns ``float64 [episodes]`` of the latest checkpoint's policy. Nothing in the run folder is touched."""
    settings = TrainSettings.from_json(run.settings)
    checkpoint = run.latest_checkpoint()
    compute = prepare(settings.compute)
    with closing(build_env(settings, 0)) as env:
        agent = build_agent(settings, env, compute)
    agent.load_state_dict(checkpoint.load()["agent"])
    return _evaluate_policy(settings, agent, episodes, settings.seed if seed is None else seed, checkpoint.env_steps)


class Trainer:
    """One run: its parts, its clock, and what is due when."""

    def __init__(self, settings: TrainSettings, run: Run, display: Display, sinks: Iterable[Sink] = ()) -> None:
        self.settings, self.run = settings, run
        self.compute = prepare(settings.compute)
        torch.manual_seed(seeding.integer(settings.seed, "torch"))
        self.generators = seeding.Generators(settings.seed)
        self.beside = ThreadedEnv(lambda: build_env(settings, seeding.integer(settings.seed, "env")))
        self.env = self.beside.env
        self.action_repeat = int(self.env.get_wrapper_attr("action_repeat"))
        self.agent = build_agent(settings, self.env, self.compute)
        if self.compute.graphs:
            self.agent.step = CudaGraphStep(self.agent.step)  # type: ignore[method-assign]
        self.replay = build_replay(settings, self.env, self.compute)
        self.agent_steps = 0
        self.episode_return, self.episode_length = 0.0, 0
        self.observation: np.ndarray | None = None
        self._pending: tuple[Tensor, Tensor] | None = None
        self._evaluated = -1
        self._warned = False
        self._stop = Stop()
        self._kept: list[int] = []
        self._speed = SpeedMeter()
        # Last: what it opens is closed by __exit__ alone.
        self.logger = Logger([*make_sinks(run, display, run.sinks), *sinks], every=LOG_EVERY)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        try:
            self.logger.close()
        finally:
            self.beside.close()

    @property
    def env_steps(self) -> int:
        """The clock: simulator steps, action repeat included."""
        return self.agent_steps * self.action_repeat

    # The loop

    def learn(self, env_steps: int) -> None:
        """Run until the clock shows ``env_steps``, evaluating and saving when due."""
        with stop_on_signal() as self._stop:
            self.logger.message(
                f"{self.settings.task}, {self.settings.method}, seed {self.settings.seed}: {self.compute.name}; {self.run.folder}"
            )
            if self.observation is None:
                self._begin_episode()
            self._speed.start(self.env_steps)
            try:
                self._evaluate_if_due(env_steps)
                while self.env_steps < env_steps:
                    self._step()
                    self._stop.check()
                    self._evaluate_if_due(env_steps)
                    if self._due(self.settings.checkpoint.every) and self.env_steps < env_steps:
                        self._save()
                self._finish()
            except Interrupted:  # between two steps, or in an evaluation, which is played again
                self._save()
                raise

    def _step(self) -> None:
        """One agent step. SAC's update does not see the new transition, so the environment steps beside it; Rainbow's
        comes last."""
        action = self._act()
        asked = self.beside.ask(action)
        if self.agent.learns_before_step:
            if not self.settings.compute.overlap:
                asked.exception()  # waits
            self._learn()
        self.observation, reward, terminated, truncated, info = asked.result()
        stored = (
            float(np.clip(reward, -self.agent.clip_reward, self.agent.clip_reward))
            if self.agent.clip_reward
            else float(reward)
        )
        self.replay.append(
            action,
            stored,
            newest_frame(self.observation, self.env),
            terminated,
            truncated,
            life_lost=info.get("life_lost", False),
        )
        self.agent_steps += 1
        self.episode_return += float(reward)
        self.episode_length += 1
        if not self.agent.learns_before_step:
            self._learn()
        if terminated or truncated:
            self._end_episode()
        self.logger.progress(self.env_steps, self.agent.updates)

    def _act(self) -> Any:
        if self.agent.explores_at_random and self.agent_steps < self.agent.learning_starts:
            return self._random_action()
        assert self.observation is not None
        action = self.agent.act(self.observation[None], explore=True)[0]
        self._reprioritise()  # acting has waited for the device: the last update's errors are there
        return action

    def _random_action(self) -> Any:
        rng, space = self.generators["actions"], self.env.action_space
        if isinstance(space, gymnasium.spaces.Discrete):
            return rng.integers(space.n)
        return rng.uniform(-1, 1, space.shape or ()).astype(np.float32)

    def _learn(self) -> None:
        """The updates of one agent step, once there is enough to learn from."""
        if self.agent_steps < self.agent.learning_starts or self.replay.drawable == 0:
            return
        for _ in range(self.agent.updates_per_step):
            self._reprioritise()
            batch = draw(
                self.replay, self.agent.views, self.agent.objective, self.generators, importance=self._importance()
            )
            self._note(batch, self.agent.update(batch, self._learned_env_steps()))

    def _note(self, batch: Batch, update: Update) -> None:
        if update.priorities is not None:
            self._pending = batch.transitions.rows, update.priorities
        try:
            self.logger.add(update.metrics, self.agent.updates, self.env_steps)
        except NotFinite as error:  # What is not finite never becomes finite again.
            raise self._diverged(str(error)) from error

    def _diverged(self, what: str) -> UserError:
        return UserError(
            f"training broke down: {what} at {self.env_steps:,} env steps; a learning rate too high, or a reward that is no number?"
        )

    def _reprioritise(self) -> None:
        """Give the last batch its new priorities. Kept back until acting waits for the device anyway."""
        if self._pending is not None:
            try:
                self.replay.reprioritise(*self._pending)
            except ValueError as error:
                raise self._diverged(str(error)) from error
            self._pending = None

    def _learned_env_steps(self) -> int:
        """The clock of the learning-rate schedules: env steps learned from, counted from the first update."""
        return (self.agent.updates // self.agent.updates_per_step + 1) * self.action_repeat

    def _importance(self) -> float:
        """β of the importance weights: to 1 over the horizon that the run began with."""
        horizon = self.settings.env_steps / self.action_repeat - self.agent.learning_starts
        passed = min(max((self.agent_steps - self.agent.learning_starts) / max(horizon, 1), 0.0), 1.0)
        return self.agent.priority_beta_start + (1 - self.agent.priority_beta_start) * passed

    # Episodes

    def _begin_episode(self) -> None:
        self.observation, _ = self.beside.reset()
        self.replay.begin(newest_frame(self.observation, self.env))
        self.episode_return, self.episode_length = 0.0, 0

    def _end_episode(self) -> None:
        self.logger.episode(self.env_steps, self.episode_return, self.episode_length)
        self._begin_episode()

    # What is due

    def _due(self, every: int) -> bool:
        """Whether the last agent step reached or passed a multiple of ``every`` env steps."""
        return every > 0 and self.env_steps // every > (self.env_steps - self.action_repeat) // every

    def _evaluate_if_due(self, budget: int) -> None:
        """At the beginning and at every multiple of ``evaluation.every``, unless it was done before a stop or the final
        one takes its place."""
        if self.env_steps >= budget and self.settings.evaluation.final_episodes:
            return
        if self._evaluated != self.env_steps and (self.agent_steps == 0 or self._due(self.settings.evaluation.every)):
            self._evaluate()
            self._warn_of_no_reward()

    def _warn_of_no_reward(self) -> None:
        """Once, at an evaluation: without any reward there is nothing to learn."""
        if self.agent_steps and not self._warned and not self.replay.rewarded:
            self._warned = True
            way = (
                ""
                if self.agent.explores_at_random
                else f"; a new run begins with uniform actions under --set {RANDOM_START}"
            )
            self.logger.message(f"no reward in the replay after {self.env_steps:,} env steps{way}")

    def _evaluate(self, episodes: int | None = None) -> np.ndarray:
        """Raises Interrupted, with nothing logged, where the user asks to stop meanwhile."""
        episodes = episodes or self.settings.evaluation.episodes
        returns = _evaluate_policy(
            self.settings, self.agent, episodes, self.settings.seed, self.env_steps, self._stop.check
        )
        self._evaluated = self.env_steps
        self.logger.evaluation(self.env_steps, returns)
        return returns

    def _finish(self) -> None:
        """The last evaluation, and a checkpoint that is kept with the policy beside it."""
        final = self.settings.evaluation.final_episodes
        if final or self._evaluated != self.env_steps:
            self.logger.message(score_line(self.settings.task, self._evaluate(final or None)))
        self._save(final=True)

    def _save(self, *, final: bool = False) -> None:
        state = self.state_dict()
        self.run.checkpoint(self.env_steps, state, policy=self.agent.policy_state() if final else None)
        # Rows that the ring has overwritten go once no kept checkpoint needs them.
        self._kept = [*self._kept, state["replay"]["oldest"]][-KEPT:]
        prune(self.run.replay_folder, min(self._kept))
        if speed := self._speed.lap(self.env_steps):
            self.logger.speed(self.env_steps, speed)
        self.logger.flush()

    # State

    def state_dict(self) -> dict[str, Any]:
        """Everything that the rest of the run depends on."""
        self._reprioritise()
        return {
            "agent": self.agent.state_dict(),
            "replay": self.replay.write(self.run.replay_folder),
            "env": self._env_state(),
            "generators": self.generators.state_dict(),
            "torch": torch_state(self.compute.device),
            "metrics": self.logger.state_dict(),
            "clock": {
                "agent_steps": self.agent_steps,
                "episode_return": self.episode_return,
                "episode_length": self.episode_length,
                "evaluated": self._evaluated,
            },
            "observation": self.observation,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.agent.load_state_dict(state["agent"])
        self.replay.read(self.run.replay_folder, state["replay"])
        self._kept = [0, state["replay"]["oldest"]]
        self.logger.load_state_dict(state["metrics"])
        clock = state["clock"]
        self.agent_steps, self._evaluated = clock["agent_steps"], clock["evaluated"]
        self.episode_return, self.episode_length = clock["episode_return"], clock["episode_length"]
        self._restore_env(state)
        # Last: opening an environment or an episode may draw.
        self.generators.load_state_dict(state["generators"])
        restore_torch_state(state["torch"], self.compute.device)

    def _env_state(self) -> dict[str, Any] | None:
        try:
            return self.beside.state_dict()
        except CannotSave:
            return None

    def _restore_env(self, state: dict[str, Any]) -> None:
        if state["env"] is not None:
            self.beside.load_state_dict(state["env"])
            self.observation = state["observation"]
            return
        self.logger.message(
            "not exact: this environment cannot save its state; the episode that was open ends as truncated"
        )
        self.replay.close_as_truncated()
        self._begin_episode()


def score_line(task: str, returns: np.ndarray) -> str:
    """A policy's score in words; on the benchmark's Atari games human-normalised too."""
    line = f"score {returns.mean():.1f} ± {returns.std():.1f} over {len(returns)} episodes"
    suite, _, game = task.partition("/")
    if suite != "atari" or game not in atari_random_and_human():
        return line
    return f"{line}, human-normalised {human_normalised(game, float(returns.mean())):.3f}"


def _evaluate_policy(
    settings: TrainSettings,
    agent: Any,
    episodes: int,
    seed: int,
    env_steps: int,
    watch: Callable[[], None] | None = None,
) -> np.ndarray:
    """The policy as it is evaluated, with seeds of its own and no trace in the training's generators."""
    return evaluate(
        lambda observations: agent.act(observations, explore=False),
        lambda env_seed: build_env(settings, env_seed),
        episodes,
        seed,
        env_steps=env_steps,
        parallel=settings.evaluation.parallel,
        epsilon=agent.evaluation_epsilon,
        watch=watch,
    )
