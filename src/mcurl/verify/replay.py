"""Plays the recorded episodes of an evaluation again, without the policy and without rendering observations.

Returns and lengths must be those of the recording, exactly. For DMControl, so must the recorded states. Where the
simulator's build is another one, rounding makes its unstable motions drift apart: then each stretch of 25 agent steps
begins at the recorded state, and must end at the next one within ``STATE_TOLERANCE``, and returns must be within
``RETURN_TOLERANCE``.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from contextlib import closing
from typing import Any, NamedTuple, Protocol

import gymnasium
import numpy as np

from mcurl.config.fields import field_hints, read_value
from mcurl.envs import make_env, settings_class
from mcurl.errors import UserError, suggest
from mcurl.recording import MAX_EPISODE_STEPS, STATE_INTERVAL, Recording, differences

STATE_TOLERANCE = 1e-3
"""Largest difference between two states, relative to the larger of 1 and the recorded value."""
RETURN_TOLERANCE = 1e-3
"""Largest difference between two returns, relative to the larger of 1 and the recorded return."""
LIMITS = {"action_repeat": 1000, "frame_skip": 1000, "frame_stack": 1000, "image_size": 4096, "max_noops": 10_000}
"""Largest values of settings in a recording of unknown origin, so that it takes neither all memory nor for ever."""


class Mismatch(Exception):  # noqa: N818 - a result, not an error
    """The episodes do not come out as recorded."""


class ReplayOutcome(NamedTuple):
    """How the episodes of one environment came out."""

    returns: dict[int, float]
    """Episode -> sum of rewards."""
    deviation: float
    """Largest relative difference of a state or a return; 0: exact."""


class ReplayCamera(Protocol):
    """Receives each step of an episode that is shown."""

    def step(self, env: gymnasium.Env[Any, Any]) -> None:
        """The environment was reset, or has taken a step."""

    def close(self) -> None:
        """The episode has ended."""


Cameras = Mapping[int, Callable[[], ReplayCamera]]
"""Episode -> makes its camera."""


def env_settings(recording: Recording, modules: Collection[str] = ()) -> Any:
    """The settings of a recording's environment.

    Args:
        recording: of unknown origin.
        modules: modules whose environments may be made, beside those of Gymnasium's registry.

    Raises:
        UserError: a setting is unknown, invalid or too large, or the task is in another module.
    """
    suite, _, task = recording.task.partition("/")
    module, colon, _ = task.partition(":")
    if colon and module not in modules:
        raise UserError(f"{recording.task} runs code of {module}: allow it with --import {module}")
    provider = module or "gymnasium"
    if _has_text(recording.env.get("kwargs")) and provider not in modules:
        # A constructor may open or import what a text names.
        raise UserError(f"{recording.task} has texts as arguments: allow them with --import {provider}")
    cls = settings_class(suite)
    hints, values = field_hints(cls), {}
    for name, value in recording.env.items():
        if name not in hints:
            raise UserError(f"the recording has an unknown setting env.{name}: {suggest(name, hints)}")
        values[name] = read_value(f"env.{name}", hints[name], value)
        if name in LIMITS and values[name] > LIMITS[name]:
            raise UserError(f"env.{name} is {values[name]:,} in the recording; at most {LIMITS[name]:,} is played")
    if values.get("task") != task:
        raise UserError(f"the recording is of {recording.task}, but its settings of {values.get('task')}")
    return cls(**values)


def _has_text(value: Any) -> bool:
    """Whether a nested value contains a text, other than the keys of tables."""
    if isinstance(value, Mapping | list | tuple):
        return any(map(_has_text, value.values() if isinstance(value, Mapping) else value))
    return isinstance(value, str)


def play(
    recording: Recording,
    environment: int,
    modules: Collection[str] = (),
    *,
    cameras: Cameras | None = None,
    tick: Callable[[], None] = lambda: None,
) -> ReplayOutcome:
    """Play the episodes of one environment again: exactly or, on another build of the simulator, within a tolerance.

    Args:
        recording: the episodes.
        environment: number of the environment, from 0.
        modules: see :func:`env_settings`.
        cameras: make the cameras of the episodes that are shown.
        tick: called after each step; it may raise an exception to stop.

    Raises:
        Mismatch: they do not come out as recorded.
        UserError: the environment cannot be made.
    """
    other = differences(recording)
    try:
        return _Replay(recording, environment, modules, cameras or {}, tick).play()
    except Mismatch as mismatch:
        if not other:
            raise
        if recording.states is None:
            raise Mismatch(f"{mismatch} (recorded with {'; '.join(other)})") from mismatch
    try:
        return _Replay(recording, environment, modules, cameras or {}, tick, exact=False).play()
    except Mismatch as mismatch:
        raise Mismatch(f"{mismatch} (recorded with {'; '.join(other)})") from mismatch


class _Replay:
    """One environment and its episodes."""

    def __init__(
        self,
        recording: Recording,
        environment: int,
        modules: Collection[str],
        cameras: Cameras,
        tick: Callable[[], None],
        *,
        exact: bool = True,
    ) -> None:
        self.recording, self.number, self.exact, self.tick, self.cameras = recording, environment, exact, tick, cameras
        self.settings = env_settings(recording, modules)
        cut, limit = recording.max_episode_steps, recording.env.get("evaluation_limit", MAX_EPISODE_STEPS)
        if cut != limit:
            raise Mismatch(f"the episodes were cut off after {cut:,} agent steps; an evaluation plays up to {limit:,}")
        self.deviation = 0.0

    def play(self) -> ReplayOutcome:
        recording = self.recording
        returns = {}
        with closing(make_env(self.settings, recording.seeds[self.number], pixels=False)) as env:
            self._check_actions(env)
            for episode in range(self.number, recording.episodes, recording.parallel):
                camera = self.cameras[episode]() if episode in self.cameras else None
                try:
                    returns[episode] = self._episode(env, episode, camera)
                finally:
                    if camera is not None:
                        camera.close()
        return ReplayOutcome(returns, self.deviation)

    def _check_actions(self, env: gymnasium.Env[Any, Any]) -> None:
        actions, space = self.recording.actions, env.action_space
        if actions.shape[1:] != space.shape:
            raise Mismatch(f"the recorded actions have the shape {actions.shape[1:]}, not {space.shape}")
        if isinstance(space, gymnasium.spaces.Discrete) and not (
            actions.dtype.kind in "iu" and actions.min() >= 0 and actions.max() < space.n
        ):
            raise Mismatch(f"a recorded action is not one of 0 to {space.n - 1}")
        if not np.isfinite(actions).all():
            raise Mismatch("a recorded action is not finite")

    def _episode(self, env: gymnasium.Env[Any, Any], episode: int, camera: ReplayCamera | None) -> float:
        recording = self.recording
        actions, states = recording.episode_actions(episode), recording.episode_states(episode)
        env.reset(seed=recording.seeds[episode])
        if camera is not None:
            camera.step(env)
        total, over, steps = 0.0, False, 0
        while steps < len(actions) and not over:
            _, reward, terminated, truncated, _ = env.step(actions[steps])
            total += float(reward)
            steps += 1
            over = bool(terminated or truncated) or steps >= recording.max_episode_steps
            if states is not None and not over and steps % STATE_INTERVAL == 0 and steps < len(actions):
                self._check_state(env, states[steps // STATE_INTERVAL - 1], episode, steps)
            if camera is not None:
                camera.step(env)
            self.tick()
        if not over or steps < len(actions):
            end = f"ends after {steps:,}" if over else f"goes on after {steps:,}"
            raise Mismatch(f"episode {episode} {end} steps; recorded: {len(actions):,} steps")
        self._check_return(total, episode)
        return total

    def _check_state(self, env: Any, recorded: np.ndarray, episode: int, steps: int) -> None:
        state = env.unwrapped.physics_state()
        if state.shape != recorded.shape:
            raise Mismatch(f"the recorded states have {recorded.size} numbers, not {state.size}")
        if np.array_equal(state, recorded):
            return
        difference = float(np.max(np.abs(state - recorded) / np.maximum(np.abs(recorded), 1)))
        if self.exact or not difference <= STATE_TOLERANCE:
            raise Mismatch(f"episode {episode}: after {steps} steps the simulator's state is {difference:.1g} off")
        self.deviation = max(self.deviation, difference)
        env.unwrapped.load_physics_state(recorded)

    def _check_return(self, value: float, episode: int) -> None:
        recorded = self.recording.returns[episode]
        if value == recorded or (np.isnan(value) and np.isnan(recorded)):
            return
        difference = abs(value - recorded) / max(abs(recorded), 1)
        if self.exact or not difference <= RETURN_TOLERANCE:
            raise Mismatch(f"episode {episode}: the return is {value!r}, recorded: {recorded!r}")
        self.deviation = max(self.deviation, difference)
