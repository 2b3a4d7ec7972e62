"""Trained policies: loading one, acting, its environment, and evaluation.

A policy comes from a folder. Each kind of folder has a loader in :data:`LOADERS`.
"""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol, get_args, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from mcurl.errors import UserError, one_line, suggest
from mcurl.files import as_path

if TYPE_CHECKING:
    import gymnasium

    from mcurl.agents.base import Agent, Clock
    from mcurl.config.settings import TrainSettings

Device = Literal["auto", "cpu", "cuda"]


class Policy:
    """A trained policy, without exploration.

    A loader makes it after :func:`mcurl.runtime.device.prepare`, whose choice of accelerated operations it keeps.

    Args:
        settings: of the run that it comes from.
        agent: with the weights of the policy.
        clock: the counters of the run at these weights.
        observation_shape: ``(K*C, H, W)`` of stacked pixels or ``(D,)`` of states.
        action_space: Box in [-1, 1], or Discrete.
        foreign: the settings come from another person, so no code that they name is run.
    """

    def __init__(
        self,
        settings: TrainSettings,
        agent: Agent,
        clock: Clock,
        observation_shape: tuple[int, ...],
        action_space: gymnasium.Space[Any],
        foreign: bool = False,
    ) -> None:
        from mcurl import native

        self._settings, self._agent, self._clock = settings, agent, clock
        self.observation_shape, self.action_space = observation_shape, action_space
        self._foreign = foreign
        self._disabled = native.disabled()

    def __repr__(self) -> str:
        run = self._settings
        return f"<mcurl.Policy {run.method} on {run.task}, seed {run.seed}, {self.env_steps:,} env steps>"

    @property
    def task(self) -> str:
        """The task that it was trained on, ``suite/name``."""
        return self._settings.task

    @property
    def env_steps(self) -> int:
        """Simulator steps that it was trained for, action repeat included."""
        return self._clock.env_steps

    @property
    def settings(self) -> dict[str, Any]:
        """All settings of its run, as JSON values."""
        return self._settings.to_json()

    def act(self, observation: NDArray[Any]) -> NDArray[Any]:
        """Select the action of one observation, or the actions of a batch.

        The policy is deterministic. The evaluations of an agent may differ from it: Rainbow's take a random action with
        a probability of 0.001, see :meth:`evaluate`.

        Args:
            observation: ``[*observation_shape]`` or ``[N, *observation_shape]``; pixels are uint8, states floats.

        Returns:
            ``float32 [A]`` in [-1, 1], or an ``int64`` scalar for discrete actions; ``[N, A]`` or ``[N]`` for a batch.

        Raises:
            UserError: the shape or the dtype is another one.
        """
        try:
            observation = np.asarray(observation)
        except ValueError as error:  # lists of unequal lengths
            raise UserError(f"an observation of {self.task} is one array, not {one_line(observation)}") from error
        pixels, shape = len(self.observation_shape) == 3, self.observation_shape
        kind = "uint8" if pixels else "float32"
        if observation.shape[-len(shape) :] != shape or observation.ndim not in (len(shape), len(shape) + 1):
            raise UserError(
                f"an observation of {self.task} is {kind} {list(shape)}, or [N, ...] of them, "
                f"not {observation.dtype} {list(observation.shape)}"
            )
        if (observation.dtype != np.uint8) if pixels else not np.issubdtype(observation.dtype, np.floating):
            raise UserError(f"an observation of {self.task} is {kind} {list(shape)}, not {observation.dtype}")
        single = observation.ndim == len(shape)
        batch = observation[None] if single else observation
        if not len(batch):
            return np.zeros((0, *self.action_space.shape), self.action_space.dtype)  # type: ignore[misc]
        from mcurl import native

        with native.disabled_only(self._disabled):  # what fits the precision of the policy
            actions: NDArray[Any] = self._agent.act(
                batch if pixels else batch.astype(np.float32), explore=False, clock=self._clock
            )
        first: NDArray[Any] = actions[0]
        return first if single else actions

    def env(self, seed: int | None = None) -> gymnasium.Env[Any, Any]:
        """Make the environment that it was trained in, with the run's settings.

        Args:
            seed: seed of the environment's random numbers; None: the run's seed.

        Raises:
            UserError: the seed is not an integer from 0, the library of the environment is not installed, or making it
                would run code that an exported policy names.
        """
        from mcurl.config.resolve import read_seed
        from mcurl.envs import make_env

        seed = self._settings.seed if seed is None else read_seed(seed)
        self._check_env()
        return make_env(self._settings.env, seed)

    def evaluate(self, episodes: int | None = None, seed: int | None = None) -> NDArray[np.float64]:
        """Play episodes as the evaluations of a run do.

        With the default arguments, after the last step of a run, these are the episodes of its final evaluation.

        Args:
            episodes: number of episodes, at least 1; None: as many as in the run's final evaluation.
            seed: seed of the episodes; None: the run's seed.

        Returns:
            Undiscounted returns, ``float64 [episodes]``.

        Raises:
            UserError: ``episodes`` is less than 1, or as for :meth:`env`.
        """
        from mcurl.config.fields import read_value
        from mcurl.config.resolve import read_seed
        from mcurl.evaluate import evaluate_policy
        from mcurl.runtime.device import prepare, process_state_restored

        seed = self._settings.seed if seed is None else read_seed(seed)
        self._check_env()
        schedule = self._settings.evaluation
        count = schedule.final_episodes or schedule.episodes if episodes is None else episodes
        count = int(read_value("episodes", int, count))
        if count < 1:
            raise UserError(f"episodes must be at least 1, not {count}")
        with process_state_restored():
            prepare(self._settings.compute)
            return evaluate_policy(self._settings, self._agent, self._clock, count, seed)

    def _check_env(self) -> None:
        """Raise UserError if the environment would run code that the folder of a stranger names."""
        from mcurl.export.folder import foreign_code

        settings = self._settings
        if self._foreign and (code := foreign_code(settings.task, settings.to_json()["env"])):
            how = "if you trust it, import the module first, or make the environment with gymnasium.make"
            raise UserError(f"the exported policy names code of another person for its environment: {code}; {how}")


@runtime_checkable
class HasPolicy(Protocol):
    """An object that :func:`load` accepts beside a folder, such as the result of a run."""

    def load_policy(self, device: Device = "auto") -> Policy:
        """The policy. Raises UserError if there is none, or if it does not fit this machine."""


class Loader(Protocol):
    """Loads policies from one kind of folder. Nothing in the folder is changed or executed."""

    kind: str
    """The kind of folder in words, such as ``"a run folder"``."""

    def recognises(self, folder: Path) -> bool:
        """Whether this is a folder of this kind."""

    def load(self, folder: Path, device: Device) -> Policy:
        """Load the policy. Raises UserError if it is incomplete or damaged, or does not fit this machine."""


class RunFolderLoader:
    """Loads the policy of a run's latest checkpoint."""

    kind = "a run folder"

    def recognises(self, folder: Path) -> bool:
        from mcurl.run.folder import is_run

        return is_run(folder)

    def load(self, folder: Path, device: Device) -> Policy:
        from mcurl.config.settings import TrainSettings
        from mcurl.loading import load_agent
        from mcurl.run.folder import Run
        from mcurl.runtime.device import process_state_restored

        with Run.open(folder) as run, process_state_restored():
            settings = TrainSettings.from_json(run.settings)
            if device != "auto":
                compute = dataclasses.replace(settings.compute, device=device)
                settings = dataclasses.replace(settings, compute=compute)
            loaded = load_agent(run, settings)
            return Policy(settings, loaded.agent, loaded.clock, loaded.observation_shape, loaded.action_space)


class ExportLoader:
    """Loads an exported policy, see :mod:`mcurl.export.folder`. It needs no environment."""

    kind = "an exported policy"

    def recognises(self, folder: Path) -> bool:
        from mcurl.export.folder import is_export

        return is_export(folder)

    def load(self, folder: Path, device: Device) -> Policy:
        from mcurl.build import build_agent_for
        from mcurl.config.settings import TrainSettings
        from mcurl.export.folder import read
        from mcurl.runtime.device import ComputeSettings, prepare, process_state_restored

        exported = read(folder)
        shape, actions = exported.observation_shape, exported.action_space
        with process_state_restored():
            settings = TrainSettings.from_json(exported.config["settings"], environment=False)
            # The machine is another one: only float32 and plain operations are kept, which fit every machine.
            exact = settings.compute.precision == "fp32"
            compute = ComputeSettings(device, "fp32" if exact else "auto", native=settings.compute.native)
            settings = dataclasses.replace(settings, compute=compute)
            try:
                agent = build_agent_for(settings, shape, actions, prepare(compute))
                agent.load_policy_state(dict(exported.state))
            except (KeyError, RuntimeError, TypeError, ValueError, AttributeError) as error:
                reason = " ".join(f"{type(error).__name__} {error}".split())[:200]
                raise UserError(f"the weights in {folder} do not fit the agent of its settings: {reason}") from error
            return Policy(settings, agent, exported.clock, shape, actions, foreign=True)


LOADERS: list[Loader] = [RunFolderLoader(), ExportLoader()]
"""The kinds of folders that :func:`load` reads, in the order in which they are tried."""


def load(source: str | os.PathLike[str] | HasPolicy, *, device: Device = "auto") -> Policy:
    """Load a trained policy. Nothing is changed or executed in a folder.

    Args:
        source: a run folder, an exported policy (``mcurl export``), the result of :func:`mcurl.train` or
            :func:`mcurl.resume`, or another object with a method ``load_policy(device)``. Of a run, the latest
            checkpoint is loaded.
        device: where it computes; auto: as the run's settings say, which is the GPU if there is one.

    Raises:
        UserError: there is no policy in the folder, or it does not fit this machine.
    """
    if device not in get_args(Device):
        raise UserError(f"unknown device {device!r}: {suggest(str(device), get_args(Device))}")
    if isinstance(source, HasPolicy) and not isinstance(source, type):
        return source.load_policy(device)
    folder = as_path("what is loaded", source)
    for loader in LOADERS:
        if loader.recognises(folder):
            return loader.load(folder, device)
    from mcurl.run.folder import Run, suggest_runs

    if not folder.exists():
        raise UserError(f"{folder} does not exist: expected a run folder or an exported policy; {suggest_runs(folder)}")
    Run.open(folder)  # raises an error that suggests runs nearby
    raise AssertionError(folder)
