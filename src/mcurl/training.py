"""The training loop: act, step, store, update (with SAC: act, update, step, store)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import closing
from typing import Any, Self

import gymnasium
import numpy as np
import torch
from torch import Tensor

from mcurl.agents.base import Clock, nonfinite
from mcurl.batches import sample_batch
from mcurl.build import build_agent, build_env, build_replay, newest_frame
from mcurl.config.settings import TrainSettings
from mcurl.envs import CannotSave, release
from mcurl.envs.foreign import EnvironmentFailure
from mcurl.envs.threaded import Outcome, ThreadedEnv
from mcurl.errors import UserError, argument
from mcurl.evaluate import evaluate_policy, is_score, record_policy, score_line
from mcurl.recording import Recording
from mcurl.replay import prune
from mcurl.run.checkpoint import WRONG_VALUES, check_tree, first_line
from mcurl.run.folder import RECENT_CHECKPOINTS, Checkpoint, Run, earlier_hint
from mcurl.run.logger import Logger, NotFinite, Sink, SpeedMeter
from mcurl.runtime import seeding
from mcurl.runtime.cuda_graphs import CudaGraphStep
from mcurl.runtime.device import (
    arithmetic,
    arithmetic_changes,
    compute_metadata,
    prepare,
    restore_torch_state,
    torch_state,
)
from mcurl.runtime.signals import Interrupted, Stop, stop_on_signal
from mcurl.runtime.waiting import AdaptiveWaiting

_LARGEST_REWARD = float(np.finfo(np.float32).max)
"""The replay stores rewards in single precision."""


def train(settings: TrainSettings, run: Run, sinks: Sequence[Sink], stop: Stop | None = None) -> None:
    """Train from the beginning.

    Args:
        settings: see :func:`mcurl.config.resolve.resolve`.
        run: a new run folder, or one that begins anew.
        sinks: receive the metrics, see :func:`mcurl.run.logger.make_sinks`.
        stop: a request to stop, which a sink may set; None: only signals stop the run.

    Raises:
        Interrupted: the user stopped the run; a checkpoint is saved.
        UserError: the environment or the settings do not fit the method or the machine, or training diverged.
    """
    with closing(Logger(sinks)) as logger, Trainer(settings, run, logger, stop) as trainer:
        if run.begun_anew:
            logger.message(f"{run.folder} was stopped before its first checkpoint: it begins anew")
        trainer.learn(settings.env_steps)


def resume(
    run: Run, sinks: Sequence[Sink], env_steps: int | None = None, stop: Stop | None = None, at: int | None = None
) -> None:
    """Continue from a checkpoint, exactly as if the run had not stopped.

    A run that was stopped before its first checkpoint starts from the beginning.

    Args:
        run: a run folder, opened for training.
        sinks: as for :func:`train`.
        env_steps: extend the budget to this many simulator steps; schedules keep their original horizon.
        stop: as for :func:`train`.
        at: simulator steps of the checkpoint; None: the latest. Later ones are renamed.

    Raises:
        Interrupted: the user stopped the run; a checkpoint is saved.
        UserError: the checkpoint or the run folder is damaged, or the settings changed after it was saved.
    """
    checkpoint = run.start(at)
    changes = run.check_settings(checkpoint)
    settings = TrainSettings.from_json(run.settings)
    with closing(Logger(sinks)) as logger, Trainer(settings, run, logger, stop) as trainer:
        if checkpoint is not None:
            _load(run, checkpoint, trainer)
        else:
            run.restart()
        if changes:
            logger.message(f"settings were changed: {'; '.join(changes)}")
        logger.rewind(trainer.clock.env_steps)
        run.record_resume(env_steps)
        logger.message(f"resumed at {trainer.clock.env_steps:,} env steps")
        if run.env_steps != settings.env_steps:
            horizon = f"schedules keep the horizon of {settings.env_steps:,} that the run began with"
            logger.message(f"extended to {run.env_steps:,} env steps; {horizon}")
        trainer.learn(run.env_steps)


def _load(run: Run, checkpoint: Checkpoint, trainer: Trainer) -> None:
    """Load a checkpoint, and truncate the logs to it."""
    state = checkpoint.load()
    try:
        trainer.load_state_dict(state)
        if (steps := trainer.clock.env_steps) != checkpoint.env_steps:
            raise UserError(f"{checkpoint.folder} holds the state of {steps:,} env steps: it was renamed")
        aside = run.rewind(checkpoint)
    except UserError as error:
        hint = "" if argument("checkpoint") in str(error) else earlier_hint(checkpoint)
        again = run.command("evaluate", "--checkpoint", checkpoint.env_steps)
        raise UserError(f"{error}{hint}; the policy can be evaluated with: {again}") from error
    except WRONG_VALUES as error:
        path = run.folder / "settings.json"
        reason = f"one of the two was changed since, or is damaged: {first_line(error)}"
        raise UserError(f"{checkpoint.folder} does not fit {path}: {reason}") from error
    for path in aside:
        trainer.logger.message(f"a later checkpoint was renamed to {path}")


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
        if spec := self.env.env.get_wrapper_attr("spec"):
            run.record_environment(spec.entry_point)
        self.action_repeat = int(self.env.env.get_wrapper_attr("action_repeat"))
        self.agent = build_agent(settings, self.env.env, self.compute)
        if self.compute.graphs and hasattr(self.agent, "step"):
            self.agent.step = CudaGraphStep(self.agent.step)
        self.replay = build_replay(settings, self.env.env, self.agent.batch_spec, self.compute)
        self.agent_steps = self.updates = 0
        self.episode_return, self.episode_length = 0.0, 0
        self.observation: np.ndarray | None = None
        self._priorities: tuple[Tensor, Tensor] | None = None
        self._evaluated_at = self._saved_at = -1
        self._warned = self._said_unsaved = False
        self._stop = stop or Stop()
        self._speed = SpeedMeter()
        self._waiting = AdaptiveWaiting(torch.get_num_threads())
        self._oldest_rows: list[int] = []
        self._infinite_from_start = set(nonfinite(self.agent.state_dict()))

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
            self._speed.start(self.clock.env_steps)
            try:
                self._evaluate_if_due(budget)
                while self.clock.env_steps < budget:
                    self._stop.check()
                    self._step()
                    self._stop.check()
                    self._evaluate_if_due(budget)
                    if self._due(self.settings.checkpoint.every) and self.clock.env_steps < budget:
                        self._save()
                self._finish()
            except Interrupted:  # between two steps, or in an evaluation, which a resumed run repeats
                if self._saved_at != self.clock.env_steps:
                    self._save()
                raise
            except EnvironmentFailure:
                if self.agent_steps:
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
        if not np.isfinite(action).all():
            raise self._diverged("an action is not a number")
        self._set_priorities()  # acting has synchronised the device: the last update's priorities are ready
        return action

    def _random_action(self) -> Any:
        rng, space = self.generators["actions"], self.env.env.action_space
        if isinstance(space, gymnasium.spaces.Discrete):
            return rng.integers(space.n)
        return rng.uniform(-1, 1, space.shape or ()).astype(np.float32)

    def _store(self, action: Any, outcome: Outcome) -> bool:
        """Add the transition to the replay; return whether the episode ended.

        A step in which the simulator diverged is counted, but there is nothing to store.
        """
        observation, reward, terminated, truncated, info = outcome
        if info.get("diverged"):
            self.replay.close_as_truncated()
            self.agent_steps += 1
            return True
        learned = self._clip(reward)
        self._check_outcome(observation, reward, learned)
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

    def _check_outcome(self, observation: np.ndarray, reward: Any, learned: float) -> None:
        """Raise EnvironmentFailure if what a step returned is not finite; ``learned`` is the clipped reward."""
        what = ""
        if not math.isfinite(reward):
            what = f"the reward {float(reward)}, which is"
        elif not abs(learned) <= _LARGEST_REWARD:
            what = f"the reward {float(reward):g}, which is, in single precision,"
        elif observation.dtype.kind == "f" and not np.isfinite(observation).all():
            what = "an observation with numbers that are"
        if what:
            self.env.failed = True
            where = f"step {self.episode_length + 1:,} of an episode, at {self.clock.env_steps:,} env steps,"
            raise EnvironmentFailure(f"{self.settings.task}: {where} returned {what} not finite")

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
            raise self._diverged(str(error)) from error

    def _set_priorities(self) -> None:
        """Set the new priorities of the last batch. Delayed until acting synchronises the device anyway."""
        if self._priorities is None:
            return
        try:
            self.replay.update_priorities(*self._priorities)
        except ValueError as error:
            raise self._diverged(str(error)) from error
        self._priorities = None

    def _diverged(self, reason: str) -> UserError:
        good = self.run.checkpoints()
        kept = f"the last good checkpoint is {good[-1].folder}" if good else "there is no checkpoint"
        return UserError(
            f"training diverged: {reason} at {self.clock.env_steps:,} env steps; "
            f"is a learning rate too high, or are rewards too large? {kept}"
        )

    def _check_state(self) -> None:
        """Raise UserError if the agent's weights or its optimizers' are broken, so that they are never saved."""
        for name in nonfinite(self.agent.state_dict()):
            if name not in self._infinite_from_start:
                raise self._diverged(f"{name} is not finite")

    # Episodes

    def _begin_episode(self, seed: int | None = None) -> None:
        self.observation, _ = self.env.reset(seed)
        self.replay.begin(newest_frame(self.observation, self.env.env))
        self.episode_return, self.episode_length = 0.0, 0

    def _end_episode(self) -> None:
        self.logger.episode(self.clock.env_steps, self.episode_return, self.episode_length)
        self._begin_episode()

    # Evaluations and checkpoints

    def _due(self, every: int) -> bool:
        """Whether the last agent step reached or passed a multiple of ``every`` env steps."""
        now = self.clock.env_steps
        return every > 0 and now // every > (now - self.action_repeat) // every

    def _evaluate_if_due(self, budget: int) -> None:
        """Evaluate at the start and at every multiple of ``evaluation.every``.

        A resumed run does not repeat an evaluation. With ``final_episodes``, the final evaluation replaces the regular
        one at the end of the budget.
        """
        now = self.clock.env_steps
        if now >= budget and self.settings.evaluation.final_episodes:
            return
        if self._evaluated_at != now and (self.agent_steps == 0 or self._due(self.settings.evaluation.every)):
            self._evaluate(self.settings.evaluation.episodes)
            self._warn_without_reward()

    def _warn_without_reward(self) -> None:
        """Warn once, after an evaluation, if the replay holds no reward: the agent has nothing to learn from."""
        if self.agent_steps and not self._warned and not self.replay.rewarded:
            self._warned = True
            hint = f"; {self.agent.no_reward_hint}" if self.agent.no_reward_hint else ""
            self.logger.message(f"no reward in the replay after {self.clock.env_steps:,} env steps{hint}")

    def _evaluate(self, episodes: int) -> np.ndarray:
        """Evaluate the policy, log and return the returns ``float64 [episodes]``.

        Raises:
            Interrupted: the user stopped the run during the evaluation; nothing is logged.
            UserError: the agent has diverged, or the environment failed.
        """
        settings, now = self.settings, self.clock
        self._check_state()

        def watch(finished: int) -> None:
            self._stop.check()
            self.logger.evaluating(now.env_steps, finished, episodes)

        watch(0)
        if is_score(settings.task, now.env_steps, self.action_repeat, self.run.env_steps):
            recording = record_policy(
                settings, self.agent, now, episodes, settings.seed, watch, message=self.logger.message
            )
            returns = np.array(recording.returns)
            self._save_recording(recording)
        else:
            returns = evaluate_policy(
                settings, self.agent, now, episodes, settings.seed, watch, message=self.logger.message
            )
        self._evaluated_at = now.env_steps
        self.logger.evaluation(now.env_steps, returns.tolist())
        return returns

    def _save_recording(self, recording: Recording) -> None:
        """Save the episodes of an evaluation. Training goes on if they cannot be recorded."""
        try:
            self.run.save_recording(recording.env_steps, recording.to_bytes())
        except UserError as error:
            self.logger.message(f"the score cannot be verified by playing its episodes again: {error}")

    def _finish(self) -> None:
        """Run the last evaluation, and save the last checkpoint with the policy."""
        schedule = self.settings.evaluation
        if schedule.final_episodes or self._evaluated_at != self.clock.env_steps:
            returns = self._evaluate(schedule.final_episodes or schedule.episodes)
            self.logger.message(score_line(self.settings.task, returns))
        if not self.updates:
            self.logger.message("no update was made: the policy is as it was initialised")
        self._save(final=True)

    def _save(self, *, final: bool = False) -> None:
        self._set_priorities()
        self._check_state()
        self.run.check_owner()
        replay = self.replay.save_files(self.run.replay_folder)
        policy = self.agent.policy_state() if final else None
        self.run.checkpoint(self.clock.env_steps, {**self.state_dict(), "replay": replay}, policy=policy)
        # Overwritten rows stay on disk as long as a kept checkpoint needs them.
        self._oldest_rows = [*self._oldest_rows, replay["oldest"]][-RECENT_CHECKPOINTS:]
        prune(self.run.replay_folder, min(self._oldest_rows))
        self.run.record_compute(compute_metadata(self.compute))
        if speed := self._speed.lap(self.clock.env_steps):
            self.logger.speed(self.clock.env_steps, speed)
        self.logger.flush()
        self._saved_at = self.clock.env_steps
        self.logger.checkpoint(self.clock.env_steps)

    # State

    def state_dict(self) -> dict[str, Any]:
        """Everything that the rest of the run depends on, except the replay."""
        return {
            "agent": self.agent.state_dict(),
            "env": self._env_state(),
            "generators": self.generators.state_dict(),
            "torch": torch_state(self.compute.device),
            "globals": seeding.global_state(),
            "metrics": self.logger.state_dict(),
            "clock": {
                "agent_steps": self.agent_steps,
                "updates": self.updates,
                "episode_return": self.episode_return,
                "episode_length": self.episode_length,
                "evaluated_at": self._evaluated_at,
            },
            "observation": self.observation,
            "compute": arithmetic(self.compute),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore a checkpoint: :meth:`state_dict`, and the state of the replay under ``"replay"``."""
        self.agent.load_state_dict(state["agent"])
        self.replay.load_files(self.run.replay_folder, state["replay"])
        # An older checkpoint may exist; assume that it needs all rows.
        self._oldest_rows = [0, state["replay"]["oldest"]]
        self.logger.load_state_dict(state["metrics"])
        clock = state["clock"]
        self.agent_steps, self.updates = clock["agent_steps"], clock["updates"]
        self.episode_return, self.episode_length = clock["episode_return"], clock["episode_length"]
        self._evaluated_at = clock["evaluated_at"]
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

    def _env_state(self) -> dict[str, Any] | None:
        """The state of the environment; None if it cannot be saved, or after the environment has failed.

        A run is not lost because of an environment that does not save its state as it promises; that is said once.
        """
        if self.env.failed:
            return None
        try:
            state = self.env.state_dict()
            check_tree(state)
            return state
        except CannotSave:
            return None
        except EnvironmentFailure as error:
            problem = str(error)
        except TypeError as error:
            problem = f"{self.settings.task}: state_dict() returned what cannot be saved: {error}"
        if not self._said_unsaved:
            self._said_unsaved = True
            self.logger.message(f"{problem}; a resume will not be exact")
        return None

    def _restore_env(self, state: dict[str, Any]) -> None:
        reason = "the environment's state was not saved"
        if state["env"] is not None:
            try:
                self.env.load_state_dict(state["env"])
                self.observation = state["observation"]
                return
            except EnvironmentFailure as error:
                reason = str(error)
        episodes = "the unfinished episode is truncated, and the next ones have a seed of their own"
        self.logger.message(f"resume is not exact: {reason}; {episodes}")
        self.replay.close_as_truncated()
        self._begin_episode(seeding.integer(self.settings.seed, "env", self.clock.env_steps))
