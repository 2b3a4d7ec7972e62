"""The training loop: act, step, store, update (with SAC: act, update, step, store)."""

from __future__ import annotations

import contextlib
from typing import Any, Self

import gymnasium
import numpy as np
import torch
from torch import Tensor

from mcurl.agents.base import Clock
from mcurl.batches import sample_batch
from mcurl.build import build_agent, build_env, build_replay, newest_frame
from mcurl.config.settings import TrainSettings
from mcurl.envs import release
from mcurl.envs.foreign import EnvironmentFailure
from mcurl.envs.threaded import StepOutcome, ThreadedEnv
from mcurl.run.folder import Run
from mcurl.run.logger import Logger, NotFinite
from mcurl.runtime import seeding
from mcurl.runtime.cuda_graphs import use_cuda_graphs
from mcurl.runtime.device import arithmetic, arithmetic_changes, prepare, restore_torch_state, torch_state
from mcurl.runtime.signals import Interrupted, Stop, stop_on_signal
from mcurl.runtime.waiting import AdaptiveWaiting
from mcurl.training.checkpoints import CheckpointSchedule
from mcurl.training.checks import Checks
from mcurl.training.environment import EnvironmentState
from mcurl.training.evaluations import Evaluations


class Trainer:
    """One training run: environment, agent, replay, logger, and the clock that counts their steps."""

    def __init__(self, settings: TrainSettings, run: Run, logger: Logger, stop: Stop | None = None) -> None:
        self.settings, self.run, self.logger = settings, run, logger
        self.compute = prepare(settings.compute)
        torch.manual_seed(seeding.integer(settings.seed, "torch"))
        seeding.seed_globals(settings.seed)
        self.generators = seeding.Generators(settings.seed)
        overlap = settings.compute.overlap
        if not overlap:
            release()  # what was made in a thread, to look at its actions
        self.env = ThreadedEnv(lambda: build_env(settings, seeding.integer(settings.seed, "env")), in_thread=overlap)
        try:
            self._build(stop or Stop())
        except BaseException:
            with contextlib.suppress(EnvironmentFailure):  # the first one says more
                self.env.close()
            raise

    def _build(self, stop: Stop) -> None:
        """Make what fits the environment."""
        settings, run, logger = self.settings, self.run, self.logger
        if spec := self.env.env.get_wrapper_attr("spec"):
            run.record_environment(spec.entry_point)
        self.action_repeat = int(self.env.env.get_wrapper_attr("action_repeat"))
        self.agent = build_agent(settings, self.env.env, self.compute)
        if self.compute.graphs:
            use_cuda_graphs(self.agent)
        self.replay = build_replay(settings, self.env.env, self.agent.batch_spec, self.compute)
        self.agent_steps = self.updates = 0
        self.episode_return, self.episode_length = 0.0, 0
        self.observation: np.ndarray | None = None
        self._priorities: tuple[Tensor, Tensor] | None = None
        self._warned = False
        self._saved_evaluation = -1  # env steps of the latest evaluation that a checkpoint knows
        self._stop = stop
        self._waiting = AdaptiveWaiting(torch.get_num_threads())
        self.checks = Checks(settings.task, self.agent, run)
        self.checkpoints = CheckpointSchedule(run, self.replay, self.compute, logger)
        self.evaluations = Evaluations(settings, run, self.agent, logger, self.checks, self._stop)
        self.env_state = EnvironmentState(self.env, settings.task, logger.message)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self._waiting.close()
        try:
            self.env.close()
        except EnvironmentFailure as failure:  # hides neither a run that is finished nor what went wrong before
            self.logger.message(str(failure))

    @property
    def clock(self) -> Clock:
        """The counters of the run, which drive the agent's schedules."""
        return Clock(self.agent_steps, self.updates, self.action_repeat, self.settings.env_steps)

    # The loop

    def learn(self, budget: int) -> None:
        """Train until ``budget`` env steps, with evaluations and checkpoints on their schedules."""
        with stop_on_signal(self._stop):
            title = f"{self.settings.task}, {self.settings.method}, seed {self.settings.seed}"
            self.logger.message(f"{title}: {self.compute.name}; {self.run.folder}")
            if self.run.lock_note:
                self.logger.message(self.run.lock_note)
            if self.observation is None:
                self._begin_episode()
            self._describe_environment()
            self._warn_without_updates(budget)
            self.checkpoints.start(self.clock.env_steps)
            try:
                self._evaluate_if_due(budget)
                while self.clock.env_steps < budget:
                    self._stop.check()
                    self._step()
                    self._stop.check()
                    self._evaluate_if_due(budget)
                    if self.clock.is_due(self.settings.checkpoint.every) and self.clock.env_steps < budget:
                        self._save()
                self._finish()
            except Interrupted:  # between two steps, or in an evaluation, which a resumed run repeats
                if self._unsaved or self.evaluations.at != self._saved_evaluation:
                    self._save()
                raise
            except EnvironmentFailure:
                if self.agent_steps and self._unsaved:
                    self._save()
                raise

    def _describe_environment(self) -> None:
        """Say what a user should know of the environment at the start."""
        self._say_notes()
        if self.env.in_main_thread and self.settings.compute.overlap:
            self.logger.message("the environment works only in the main thread: no step overlaps with an update")
        if clip := self.agent.batch_spec.reward_clip:
            self.logger.message(f"rewards are clipped to ±{clip:g} for learning; returns are sums of unclipped rewards")

    def _warn_without_updates(self, budget: int) -> None:
        """Say that a budget is too small for the first update."""
        schedule = self.agent.schedule
        last_step = -(-budget // self.action_repeat) - self.agent.update_before_step
        if not self.updates and last_step < schedule.learning_starts:
            section = self.settings.parts.agent.section
            needed = (schedule.learning_starts + self.agent.update_before_step) * self.action_repeat
            name = f"{section}.learning_starts={schedule.learning_starts:,} agent steps"
            self.logger.message(f"no update will be made: the first one takes {needed:,} env steps ({name})")

    def _say_notes(self) -> None:
        """Say what the environment has noticed since the last time."""
        notes = getattr(self.env.env.unwrapped, "notes", [])
        for note in notes:
            self.logger.message(note)
        notes.clear()

    def _step(self) -> None:
        """One agent step. With ``update_before_step``, the environment steps in its thread during the update."""
        action = self._act()
        outcome = self.env.step_async(action)
        if self.agent.update_before_step:
            if not self.settings.compute.overlap:
                outcome.exception()  # waits
            self._update()
        done = self._store(action, outcome.result())
        if not self.agent.update_before_step:
            self._update()
        self._say_notes()
        if done:
            self._end_episode()
        self._waiting.check()
        self.logger.progress(self.clock.env_steps, self.updates)

    def _act(self) -> Any:
        if self.agent_steps < self.agent.schedule.random_steps:
            return self._random_action()
        assert self.observation is not None
        action = self.agent.act(self.observation[None], explore=True, clock=self.clock)[0]
        self.checks.check_action(action, self.clock)
        self._set_priorities()  # acting has synchronised the device: the last update's priorities are ready
        return action

    def _random_action(self) -> Any:
        rng, space = self.generators["actions"], self.env.env.action_space
        if isinstance(space, gymnasium.spaces.Discrete):
            return rng.integers(space.n)
        return rng.uniform(-1, 1, space.shape or ()).astype(np.float32)

    def _store(self, action: Any, outcome: StepOutcome) -> bool:
        """Add the transition to the replay; return whether the episode ended.

        A step in which the simulator diverged is counted, but there is nothing to store.
        """
        observation, reward, terminated, truncated, info = outcome
        if info.get("diverged"):
            self.replay.close_as_truncated()
            self.agent_steps += 1
            return True
        learned = self._clip(reward)
        try:
            self.checks.check_outcome(observation, reward, learned, self.clock, self.episode_length + 1)
        except EnvironmentFailure:
            self.env.failed = True
            raise
        self.observation = observation
        frame, life_lost = newest_frame(self.observation, self.env.env), info.get("life_lost", False)
        self.replay.append(action, learned, frame, terminated, truncated, life_lost=life_lost)
        self.agent_steps += 1
        self.episode_return += float(reward)
        self.episode_length += 1
        return terminated or truncated

    def _clip(self, reward: Any) -> float:
        """The reward that is learned from."""
        clip = self.agent.batch_spec.reward_clip
        return float(np.clip(reward, -clip, clip)) if clip else float(reward)

    def _update(self) -> None:
        """Run the updates of one agent step, after ``learning_starts``."""
        schedule = self.agent.schedule
        if self.agent_steps < schedule.learning_starts or self.agent_steps % schedule.update_every:
            return
        if self.replay.sampleable == 0:
            return
        for _ in range(schedule.updates_per_step):
            self._set_priorities()
            beta = self.agent.priority_beta(self.clock)
            batch = sample_batch(self.replay, self.agent.batch_spec, self.agent.objective, self.generators, beta=beta)
            update = self.agent.update(batch, self.clock)
            self.updates += 1
            if update.priorities is not None:
                self._priorities = batch.transitions.rows, update.priorities
            self._log(update.metrics)

    def _log(self, metrics: dict[str, Tensor]) -> None:
        try:
            self.logger.add(metrics, self.updates, self.clock.env_steps)
        except NotFinite as error:
            raise self.checks.diverged(str(error), self.clock) from error

    def _set_priorities(self) -> None:
        """Set the new priorities of the last batch. Delayed until acting synchronises the device anyway."""
        if self._priorities is None:
            return
        try:
            self.replay.update_priorities(*self._priorities)
        except ValueError as error:
            raise self.checks.diverged(str(error), self.clock) from error
        self._priorities = None

    # Episodes

    def _begin_episode(self, seed: int | None = None) -> None:
        self.observation, _ = self.env.reset(seed)
        self.replay.begin(newest_frame(self.observation, self.env.env))
        self.episode_return, self.episode_length = 0.0, 0

    def _end_episode(self) -> None:
        self.logger.episode(self.clock.env_steps, self.episode_return, self.episode_length)
        self._begin_episode()

    # Evaluations and checkpoints

    def _evaluate_if_due(self, budget: int) -> None:
        if self.evaluations.make_if_due(self.clock, budget):
            self._warn_without_reward()

    def _warn_without_reward(self) -> None:
        """Warn once, after an evaluation, if the replay holds no reward: the agent has nothing to learn from."""
        if self.agent_steps and not self._warned and not self.replay.rewarded:
            self._warned = True
            hint = f"; {self.agent.no_reward_hint}" if self.agent.no_reward_hint else ""
            self.logger.message(f"no reward in the replay after {self.clock.env_steps:,} env steps{hint}")

    def _finish(self) -> None:
        """Run the last evaluation, and save the last checkpoint with the policy."""
        self.evaluations.make_final(self.clock)
        if not self.updates:
            self.logger.message("no update was made: the policy is as it was initialised")
        self._save(final=True)

    @property
    def _unsaved(self) -> bool:
        """Whether there is no checkpoint of this step."""
        return self.checkpoints.at != self.clock.env_steps

    def _save(self, *, final: bool = False) -> None:
        self._set_priorities()
        self.checks.check_agent(self.clock)
        policy = self.agent.policy_state() if final else None
        self.checkpoints.save(self.clock.env_steps, self.state_dict(), policy)
        self._saved_evaluation = self.evaluations.at

    # State

    def state_dict(self) -> dict[str, Any]:
        """Everything that the rest of the run depends on, except the replay."""
        return {
            "agent": self.agent.state_dict(),
            "env": self.env_state.save(),
            "generators": self.generators.state_dict(),
            "torch": torch_state(self.compute.device),
            "globals": seeding.global_state(),
            "metrics": self.logger.state_dict(),
            "clock": {
                "agent_steps": self.agent_steps,
                "updates": self.updates,
                "episode_return": self.episode_return,
                "episode_length": self.episode_length,
                "evaluated_at": self.evaluations.at,
            },
            "observation": self.observation,
            "compute": arithmetic(self.compute),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore a checkpoint: :meth:`state_dict`, and the state of the replay under ``"replay"``."""
        self.agent.load_state_dict(state["agent"])
        self.logger.load_state_dict(state["metrics"])
        clock = state["clock"]
        self.agent_steps, self.updates = clock["agent_steps"], clock["updates"]
        self.checkpoints.load_replay(state["replay"], self.clock.env_steps)
        self.episode_return, self.episode_length = clock["episode_return"], clock["episode_length"]
        self.evaluations.at = self._saved_evaluation = clock["evaluated_at"]
        self._restore_env(state)
        # Last: making an environment or resetting it may consume random numbers.
        self.generators.load_state_dict(state["generators"])
        restore_torch_state(state["torch"], self.compute.device)
        self._compare_compute(state.get("compute", {}))
        if "globals" in state:  # checkpoints of older versions have none
            seeding.load_global_state(state["globals"])

    def _compare_compute(self, before: dict[str, str]) -> None:
        """Say what this process computes with that a checkpoint was not made with."""
        operations = self.run.metadata.get("compute", {}).get("native", [])
        if changes := arithmetic_changes(before, operations, self.compute):
            self.logger.message(f"resume is not exact: {changes}")

    def _restore_env(self, state: dict[str, Any]) -> None:
        problem = self.env_state.load(state["env"])
        if not problem:
            self.observation = state["observation"]
            return
        episodes = "the unfinished episode is truncated, and the next ones have a seed of their own"
        self.logger.message(f"resume is not exact: {problem}; {episodes}")
        self.replay.close_as_truncated()
        self._begin_episode(seeding.integer(self.settings.seed, "env", self.clock.env_steps))
