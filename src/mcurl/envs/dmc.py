"""DeepMind Control: the tasks of dm_control's suite, from pixels or states.

All 51 tasks of the suite are offered. `lqr-*` has neither bounds nor a time limit of its own: its controls are taken
from [-1, 1] and its episodes end after 1000 steps, as everywhere else; its springs come from the seed that the
environment is made with. `quadruped-escape` needs OpenGL even for states.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from mcurl.envs import CannotSave
from mcurl.envs.opengl import choose
from mcurl.envs.stack import Rescaling, StackedEnv, check_settings
from mcurl.errors import UserError, suggest

Observation = Literal["pixels", "state"]
Shadows = Literal["full", "1024", "512", "off"]

# dm_control 1.0.50's, written down so that a name can be checked without its library and without OpenGL.
_TASKS = {
    "acrobot": "swingup swingup_sparse",
    "ball_in_cup": "catch",
    "cartpole": "balance balance_sparse swingup swingup_sparse three_poles two_poles",
    "cheetah": "run",
    "dog": "fetch run stand trot walk",
    "finger": "spin turn_easy turn_hard",
    "fish": "swim upright",
    "hopper": "hop stand",
    "humanoid": "run run_pure_state stand walk",
    "humanoid_CMU": "run stand walk",
    "lqr": "lqr_2_1 lqr_6_2",
    "manipulator": "bring_ball bring_peg insert_ball insert_peg",
    "pendulum": "swingup",
    "point_mass": "easy hard",
    "quadruped": "escape fetch run walk",
    "reacher": "easy hard",
    "stacker": "stack_2 stack_4",
    "swimmer": "swimmer15 swimmer6",
    "walker": "run stand walk",
}
# Draws its terrain anew at each reset, into an OpenGL context that it makes.
_NEEDS_OPENGL = "quadruped-escape"
# Where a task has no limit of its own. All others have this one.
_STEP_LIMIT = 1000
# What MuJoCo gives as the bounds of a control that has none.
_UNBOUNDED = 1e10


@dataclass(frozen=True)
class DmcSettings:
    """Which task of DeepMind Control, and how it is seen. The defaults are CURL's."""

    task: str = "cartpole-swingup"
    """the task, as domain-task: cartpole-swingup, finger-turn_hard"""
    observation: Observation = "pixels"
    """what the agent sees: pictures, or the simulator's own quantities"""
    image_size: int = 100
    """height and width of a frame in pixels, before any crop"""
    frame_stack: int = 3
    """how many of the last frames an observation holds"""
    action_repeat: int = 4
    """simulator steps per agent step; rewards are summed over them"""
    camera: int = 0
    """which of the task's cameras looks on; -1 is a free one, off to the side"""
    shadows: Shadows = "full"
    """size of the shadow map; full is MuJoCo's 2048, which takes most of the time in software rendering. Others change
    the pictures"""

    def __post_init__(self) -> None:
        least = {"image_size": 1, "frame_stack": 1, "action_repeat": 1}
        check_settings(self, least, {"observation": get_args(Observation), "shadows": get_args(Shadows)})


def tasks() -> list[str]:
    """All tasks of the suite, as ``domain-task``."""
    return [f"{domain}-{task}" for domain, names in _TASKS.items() for task in names.split()]


def resolve(name: str) -> str:
    """A task's own name for any spelling of it: case, dashes and underscores don't matter. Raises UserError for an
    unknown task.

    >>> resolve("Finger_TurnHard")
    'finger-turn_hard'
    """
    for task in tasks():
        if _plain(task) == _plain(name):
            return task
    raise UserError(f"there is no DMControl task {name!r}: {suggest(name, tasks())}")


def _plain(name: str) -> str:
    return re.sub(r"[^a-z0-9]", "", name.lower())


def make(settings: DmcSettings, seed: int) -> DmcEnv:
    """The task that the settings name. Raises UserError for an unknown task or camera, and where dm_control or OpenGL
    is missing."""
    return DmcEnv(settings, seed)


class DmcEnv(StackedEnv):
    """One task of the suite. Actions: float32 ``[A]`` in ``[-1, 1]``.

    Observations: pixels uint8 ``[3 * frame_stack, image_size, image_size]`` or states float32 ``[D]``. The suite's time
        limit truncates; nothing but `lqr`
    terminates. dm_control raises PhysicsError where a simulation diverges.
    """

    def __init__(self, settings: DmcSettings, seed: int) -> None:
        self.settings = settings
        self.task = resolve(settings.task)
        pixels = settings.observation == "pixels"
        _import_dm_control(pictures=pixels or self.task == _NEEDS_OPENGL)
        self._env = _load_task(self.task, seed)
        self._physics = self._env.physics
        self._check_camera()
        self._cameras: dict[int, Any] = {}
        self._set_quality(settings.image_size)
        self._last: Any = None

        size, repeat = settings.image_size, settings.action_repeat
        shape = (
            (3, size, size)
            if pixels
            else (sum(int(np.prod(part.shape)) for part in self._env.observation_spec().values()),)
        )
        super().__init__(shape, settings.frame_stack, repeat, 1 / (self._env.control_timestep() * repeat))
        self._to_bounds = _rescaling(self._env.action_spec())
        self.action_space = self._to_bounds.space

    def render(self, width: int | None = None) -> NDArray[np.uint8]:  # type: ignore[override]
        """What the camera sees now, uint8 ``[width, width, 3]``; ``image_size`` wide by default. Raises UserError where
        there is no OpenGL."""
        if self.settings.observation == "state":
            _import_dm_control(pictures=True)
        return self._picture(width or self.settings.image_size).copy()

    def close(self) -> None:
        """Free the simulator and its OpenGL context. Nothing else can be called afterwards."""
        self._forget_cameras()
        self._physics.free()

    def _begin(self, seed: int | None) -> None:
        if seed is not None:
            self._env.task.random.seed(seed)
        self._last = self._env.reset()

    def _translate(self, action: Any) -> NDArray[np.float64]:
        return self._to_bounds(action)

    def _advance(self, action: Any) -> tuple[float, bool, bool]:
        self._last = self._env.step(action)
        terminated = self._last.last() and self._last.discount == 0.0
        return float(self._last.reward), terminated, self._last.last() and not terminated

    def _look(self) -> NDArray[Any]:
        if self._stack is not None:
            return self._picture(self.settings.image_size).transpose(2, 0, 1)
        return np.concatenate([np.ravel(part) for part in self._last.observation.values()]).astype(np.float32)

    # Pictures

    def _picture(self, size: int) -> NDArray[np.uint8]:
        """A view of a camera's buffer, uint8 [size, size, 3]: the next picture overwrites it."""
        physics = self._physics
        if self._drawn is not physics.data or size > physics.model.vis.global_.offwidth:
            # The task loaded another model, or a larger picture is wanted.
            self._forget_cameras()
            with physics._contexts_lock:
                if physics._contexts:
                    physics._free_rendering_contexts()
            self._set_quality(size)
        if size not in self._cameras:
            # dm_control's own physics.render() makes a new one for each picture, which takes 1.5 ms.
            from dm_control.mujoco import engine

            self._cameras[size] = engine.Camera(physics, size, size, self.settings.camera)
        picture: NDArray[np.uint8] = self._cameras[size].render()
        return picture

    def _set_quality(self, size: int) -> None:
        """Set what an OpenGL context reads when it is made, at the first picture."""
        model = self._physics.model
        if self.settings.shadows != "full":
            model.vis.quality.shadowsize = 0 if self.settings.shadows == "off" else int(self.settings.shadows)
        # No larger than needed: clearing and copying MuJoCo's 640 x 480 takes 1 ms more.
        model.vis.global_.offwidth = model.vis.global_.offheight = size
        self._drawn = self._physics.data

    def _forget_cameras(self) -> None:
        for camera in self._cameras.values():
            camera.scene.free()
        self._cameras = {}

    def _check_camera(self) -> None:
        last = int(self._physics.model.ncam) - 1
        if not -1 <= self.settings.camera <= last:
            raise UserError(
                f"camera must be from 0 to {last} for {self.task} (or -1, a free one), not {self.settings.camera}"
            )

    # State

    def _save(self) -> dict[str, Any]:
        task = self._env.task
        return {
            "task": self.task,
            "physics": self._physics.get_state(_everything()),
            "model": _changes(self.task, self._physics.model.ptr),
            "attributes": {
                name: _to_leaf(value, name) for name, value in vars(task).items() if value is not task.random
            },
            "random": task.random.get_state(legacy=False),
            "step_count": self._env._step_count,
            "reset_next_step": self._env._reset_next_step,
        }

    def _load(self, state: dict[str, Any]) -> None:
        if state["task"] != self.task:
            raise UserError(f"the saved state is of {state['task']}, not of {self.task}")
        task = self._env.task
        _change(self.task, self._physics.model.ptr, state["model"])
        self._restore_physics(np.asarray(state["physics"]))
        for name, value in state["attributes"].items():
            setattr(task, name, _from_leaf(value, getattr(task, name, None)))
        task.random.set_state(state["random"])
        self._env._step_count = state["step_count"]
        self._env._reset_next_step = state["reset_next_step"]

    def _restore_physics(self, saved: NDArray[np.float64]) -> None:
        import mujoco

        model, data = self._physics.model.ptr, self._physics.data.ptr
        self._physics.set_state(saved, _everything())
        # Fills in what follows from the state, such as contacts; it may overwrite what the solver starts from, hence
        # once more.
        mujoco.mj_forward(model, data)
        self._physics.set_state(saved, _everything())
        if model.nhfield and self._physics._contexts:
            # The terrain was copied into the OpenGL context.
            with self._physics.contexts.gl.make_current() as context:
                for field in range(model.nhfield):
                    context.call(mujoco.mjr_uploadHField, model, self._physics.contexts.mujoco.ptr, field)


def _import_dm_control(*, pictures: bool) -> Any:
    """dm_control's suite. Raises UserError where it is not installed or, if pictures are wanted, where nothing can draw
    them."""
    chosen = choose(required=pictures)
    # Unset or empty, on a machine without OpenGL, dm_control would try a window system, and fail.
    os.environ["MUJOCO_GL"] = chosen
    try:
        from dm_control import _render, suite
    except ModuleNotFoundError as error:
        raise UserError(f"DMControl tasks need dm_control ({error}): pip install 'mcurl[dmc]'") from error
    except (ImportError, AttributeError, RuntimeError) as error:
        raise UserError(
            f"dm_control does not load with MUJOCO_GL={chosen} ({error}): unset MUJOCO_GL, "
            "or apt-get install libegl1 libgl1"
        ) from error
    if pictures and chosen in ("egl", "osmesa") and chosen != _render.BACKEND:
        raise UserError(
            f"dm_control was imported before OpenGL was chosen: set MUJOCO_GL={chosen}, or import dm_control later"
        )
    return suite


def _load_task(task: str, seed: int) -> Any:
    domain, name = task.split("-")
    env = _import_dm_control(pictures=False).load(domain, name, task_kwargs={"random": seed})
    env._step_limit = min(env._step_limit, _STEP_LIMIT)
    return env


def _rescaling(spec: Any) -> Rescaling:
    unbounded = np.abs(spec.minimum) >= _UNBOUNDED
    return Rescaling(np.where(unbounded, -1.0, spec.minimum), np.where(unbounded, 1.0, spec.maximum))


def _everything() -> int:
    """Of a simulation: the state proper, the controls, and what the solver starts from."""
    import mujoco

    return int(mujoco.mjtState.mjSTATE_INTEGRATION)


@lru_cache(maxsize=4)
def _fresh_model(task: str) -> Any:
    """A task's model as it is loaded. Always from one seed: an environment of another seed, whose model was drawn from
    it, differs from this one."""
    return _load_task(task, seed=0).physics.model.ptr


def _arrays(model: Any) -> dict[str, NDArray[Any]]:
    found = {name: getattr(model, name) for name in dir(model) if not name.startswith("_")}
    return {name: value for name, value in found.items() if isinstance(value, np.ndarray)}


def _changes(task: str, model: Any) -> dict[str, NDArray[Any]]:
    """The model's arrays that are not as loaded: some tasks keep their targets there."""
    fresh = _arrays(_fresh_model(task))
    return {name: array.copy() for name, array in _arrays(model).items() if array.tobytes() != fresh[name].tobytes()}


def _change(task: str, model: Any, changes: dict[str, NDArray[Any]]) -> None:
    """Make the model as loaded but for the changes."""
    fresh = _arrays(_fresh_model(task))
    for name, array in _arrays(model).items():
        wanted = np.asarray(changes.get(name, fresh[name]))
        if array.tobytes() != wanted.tobytes():
            array[:] = wanted


def _to_leaf(value: Any, name: str) -> Any:
    """A task's attribute, as leaves. Raises CannotSave for what has no such form."""
    if isinstance(value, np.ndarray | np.generic):
        return np.array(value)
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, list | tuple):
        return [_to_leaf(item, name) for item in value]
    if isinstance(value, dict) and all(isinstance(key, str) for key in value):
        return {key: _to_leaf(item, name) for key, item in value.items()}
    raise CannotSave(f"the task's {name} is a {type(value).__name__}")


def _from_leaf(saved: Any, now: Any) -> Any:
    """The attribute again; ``now`` is what the task holds there, for what leaves do not tell (a tuple from a list)."""
    if isinstance(saved, np.ndarray):
        return saved.copy() if saved.ndim else saved[()]
    return tuple(saved) if isinstance(now, tuple) else saved
