"""DeepMind Control: all 51 tasks of dm_control's suite, from pixels or states.

`lqr-*` has neither action bounds nor a time limit; here its actions are in [-1, 1], and its episodes are truncated
after 1000 steps, as those of the other tasks. The seed of the environment determines the stiffness of its springs.
`quadruped-escape` needs OpenGL even for states.
"""

from __future__ import annotations

import os
import re
import sys
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from mcurl.envs import CannotSave
from mcurl.envs.foreign import call
from mcurl.envs.opengl import choose_backend
from mcurl.envs.stack import Rescaling, StackedEnv, check_settings
from mcurl.errors import UserError, one_line, suggest

Observation = Literal["pixels", "state"]
Shadows = Literal["full", "1024", "512", "off"]

_VERSION = "1.0.50"  # of dm_control, as pyproject.toml has it
# The tasks of this version, so that names can be checked without the library and without OpenGL.
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
_NEEDS_OPENGL = "quadruped-escape"  # renders a new terrain at each reset
_STEP_LIMIT = 1000  # also for tasks without a time limit
_PHYSICS = ("time", "qpos", "qvel", "act", "qacc_warmstart")  # MuJoCo's names of the parts of physics_state
_UNBOUNDED = 1e10  # MuJoCo's bound of controls without bounds


@dataclass(frozen=True)
class DmcSettings:
    """The DeepMind Control task and its observations. The defaults are CURL's."""

    task: str = "cartpole-swingup"
    """The task, as domain-task: cartpole-swingup, finger-turn_hard."""
    observation: Observation = "pixels"
    """Observations: pixels, or the simulator's state."""
    image_size: int = 100
    """Height and width of a frame in pixels, before any crop."""
    frame_stack: int = 3
    """Frames in an observation."""
    action_repeat: int = 4
    """Simulator steps per agent step; rewards are summed."""
    camera: int = 0
    """Index of the task's camera; -1 is the free camera."""
    shadows: Shadows = "full"
    """Size of the shadow map in pixels; full is MuJoCo's default of 2048, and the slowest in software rendering. The
    other values change the images."""

    def __post_init__(self) -> None:
        minima = {"image_size": 1, "frame_stack": 1, "action_repeat": 1}
        check_settings(self, minima, {"observation": get_args(Observation), "shadows": get_args(Shadows)})


def tasks() -> list[str]:
    """All tasks of the suite, as ``domain-task``."""
    return [f"{domain}-{task}" for domain, names in _TASKS.items() for task in names.split()]


def resolve(name: str) -> str:
    """The canonical name of a task; case, dashes and underscores of ``name`` are ignored.

    Raises:
        UserError: the task is unknown.

    >>> resolve("Finger_TurnHard")
    'finger-turn_hard'
    """
    for task in tasks():
        if _plain(task) == _plain(name):
            return task
    raise UserError(f"there is no DMControl task {name!r}: {suggest(name, tasks())}")


def _plain(name: str) -> str:
    return re.sub(r"[^a-z0-9]", "", name.lower())


def install_command(python: tuple[int, int] = sys.version_info[:2]) -> str:
    """The command that installs what this suite needs, on a version of Python.

    dm_control requires labmaze, which its suite does not import, and which has no wheel after Python 3.12. There, the
    extra installs what else dm_control requires, and dm_control itself is a second step.
    """
    command = "pip install 'mcurl[dmc]'"
    return command if python < (3, 13) else f"{command} && pip install --no-deps dm_control=={_VERSION}"


def make_without_pixels(settings: DmcSettings, seed: int) -> DmcEnv:
    """Make the environment with states as its observations, which are not rendered."""
    return DmcEnv(replace(settings, observation="state"), seed)


def make(settings: DmcSettings, seed: int) -> DmcEnv:
    """Make the environment. Raises UserError for an unknown task or camera, and if dm_control or OpenGL is missing."""
    return DmcEnv(settings, seed)


class DmcEnv(StackedEnv):
    """One task of the suite.

    Observations: pixels ``uint8 [3 * frame_stack, image_size, image_size]`` or states ``float32 [D]``. Actions:
    ``float32 [A]`` in [-1, 1]. The time limit truncates an episode; only `lqr` terminates. A simulation that diverges
    (dm_control's PhysicsError) truncates it too.
    """

    def __init__(self, settings: DmcSettings, seed: int) -> None:
        self.settings = settings
        self.task = resolve(settings.task)
        pixels = settings.observation == "pixels"
        _import_dm_control(rendering=pixels or self.task == _NEEDS_OPENGL)
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
        """The current image, ``uint8 [width, width, 3]``.

        Args:
            width: height and width of the image in pixels; None: ``image_size``.

        Raises:
            UserError: OpenGL is missing.
        """
        if self.settings.observation == "state":
            _import_dm_control(rendering=True)
        return self._image(width or self.settings.image_size).copy()

    def renderer(self) -> str:
        """Name of OpenGL's renderer, such as ``"llvmpipe (LLVM 15.0.6, 256 bits)"``. Call it after :meth:`render`."""
        from OpenGL import GL

        with self._physics.contexts.gl.make_current() as context:
            name: bytes = context.call(GL.glGetString, GL.GL_RENDERER)
        return name.decode(errors="replace")

    def close(self) -> None:
        """Free the simulator and its OpenGL context. The environment cannot be used afterwards."""
        self._free_cameras()
        self._physics.free()

    def _begin(self, seed: int | None) -> None:
        if seed is not None:
            self._env.task.random.seed(seed)
        self._last = call(f"dmc/{self.task}", "reset()", self._env.reset)

    def _translate(self, action: Any) -> NDArray[np.float64]:
        return self._to_bounds(action)

    def _advance(self, action: Any) -> tuple[float, bool, bool]:
        self._last = call(f"dmc/{self.task}", "step()", self._env.step, action)
        terminated = self._last.last() and self._last.discount == 0.0
        return float(self._last.reward), terminated, self._last.last() and not terminated

    def _look(self) -> NDArray[Any]:
        if self._stack is not None:
            return self._image(self.settings.image_size).transpose(2, 0, 1)
        return np.concatenate([np.ravel(part) for part in self._last.observation.values()]).astype(np.float32)

    # Rendering

    def _image(self, size: int) -> NDArray[np.uint8]:
        """A view of the camera's buffer, ``uint8 [size, size, 3]``; the next image overwrites it."""
        physics = self._physics
        if self._rendered_data is not physics.data or size > physics.model.vis.global_.offwidth:
            # The task has loaded another model, or the image is larger than the buffers.
            self._free_cameras()
            with physics._contexts_lock:
                if physics._contexts:
                    physics._free_rendering_contexts()
            self._set_quality(size)
        if size not in self._cameras:
            # physics.render() of dm_control makes a new camera for each image, which takes 1.5 ms.
            from dm_control.mujoco import engine

            self._cameras[size] = engine.Camera(physics, size, size, self.settings.camera)
        image: NDArray[np.uint8] = self._cameras[size].render()
        return image

    def _set_quality(self, size: int) -> None:
        """Set the options that an OpenGL context reads when it is created, before the first image."""
        model = self._physics.model
        if self.settings.shadows != "full":
            model.vis.quality.shadowsize = 0 if self.settings.shadows == "off" else int(self.settings.shadows)
        # As small as possible: clearing and copying MuJoCo's default of 640 × 480 pixels takes 1 ms more.
        model.vis.global_.offwidth = model.vis.global_.offheight = size
        self._rendered_data = self._physics.data

    def _free_cameras(self) -> None:
        for camera in self._cameras.values():
            camera.scene.free()
        self._cameras = {}

    def _check_camera(self) -> None:
        last = int(self._physics.model.ncam) - 1
        if not -1 <= self.settings.camera <= last:
            raise UserError(
                f"camera must be from 0 to {last} for {self.task} (or -1, the free camera), not {self.settings.camera}"
            )

    # State

    def physics_state(self) -> NDArray[np.float64]:
        """The state of the simulation, ``float64 [D]``: time, positions, velocities, activations, and the solver's
        warm start. The rest of the state follows from the reset and the actions.
        """
        return np.concatenate([np.ravel(getattr(self._physics.data, name)) for name in _PHYSICS], dtype=np.float64)

    def load_physics_state(self, state: NDArray[np.float64]) -> None:
        """Set the state of :meth:`physics_state`. Raises ValueError if it has another length."""
        import mujoco

        data, size = self._physics.data.ptr, 0
        if state.shape != self.physics_state().shape:
            raise ValueError(f"the state has the shape {state.shape}, not {self.physics_state().shape}")
        for name in _PHYSICS:
            values = getattr(data, name)
            count = int(np.size(values))
            part = state[size : size + count]
            size += count
            if name == "time":
                data.time = float(part[0])
            else:
                values[:] = part
        warm_start = data.qacc_warmstart.copy()
        mujoco.mj_forward(self._physics.model.ptr, data)
        data.qacc_warmstart[:] = warm_start

    def _save(self) -> dict[str, Any]:
        task = self._env.task
        return {
            "task": self.task,
            "physics": self._physics.get_state(_integration_state()),
            "model": _changed_arrays(self.task, self._physics.model.ptr),
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
        _restore_arrays(self.task, self._physics.model.ptr, state["model"])
        self._restore_physics(np.asarray(state["physics"]))
        for name, value in state["attributes"].items():
            setattr(task, name, _from_leaf(value, getattr(task, name, None)))
        task.random.set_state(state["random"])
        self._env._step_count = state["step_count"]
        self._env._reset_next_step = state["reset_next_step"]

    def _restore_physics(self, state: NDArray[np.float64]) -> None:
        import mujoco

        model, data = self._physics.model.ptr, self._physics.data.ptr
        self._physics.set_state(state, _integration_state())
        # mj_forward computes derived quantities such as contacts. It may overwrite the solver's warm start: set the
        # state again.
        mujoco.mj_forward(model, data)
        self._physics.set_state(state, _integration_state())
        if model.nhfield and self._physics._contexts:
            # The OpenGL context has a copy of the terrain.
            with self._physics.contexts.gl.make_current() as context:
                for field in range(model.nhfield):
                    context.call(mujoco.mjr_uploadHField, model, self._physics.contexts.mujoco.ptr, field)


def _import_dm_control(*, rendering: bool) -> Any:
    """Import dm_control's suite.

    Raises:
        UserError: dm_control is not installed, or ``rendering`` is needed and OpenGL is missing.
    """
    backend = choose_backend(required=rendering)
    # If it is unset or empty and there is no OpenGL, dm_control would try a window system, and fail.
    os.environ["MUJOCO_GL"] = backend
    try:
        from dm_control import _render, suite
    except ModuleNotFoundError as error:
        raise UserError(f"DMControl tasks need dm_control ({error}): {install_command()}") from error
    except Exception as error:  # of PyOpenGL, too: ctypes.ArgumentError where a library is missing
        raise UserError(
            f"dm_control does not load with MUJOCO_GL={backend} ({one_line(error)}): unset MUJOCO_GL, "
            "or apt-get install libegl1 libgl1"
        ) from error
    if rendering and backend in ("egl", "osmesa") and backend != _render.BACKEND:
        raise UserError(
            f"dm_control was imported before OpenGL was chosen: set MUJOCO_GL={backend}, or import dm_control later"
        )
    return suite


def _load_task(task: str, seed: int) -> Any:
    domain, name = task.split("-")
    env = _import_dm_control(rendering=False).load(domain, name, task_kwargs={"random": seed})
    env._step_limit = min(env._step_limit, _STEP_LIMIT)
    return env


def _rescaling(spec: Any) -> Rescaling:
    unbounded = np.abs(spec.minimum) >= _UNBOUNDED
    return Rescaling(np.where(unbounded, -1.0, spec.minimum), np.where(unbounded, 1.0, spec.maximum))


def _integration_state() -> int:
    """MuJoCo's flag for the full state of a simulation, with the controls and the solver's warm start."""
    import mujoco

    return int(mujoco.mjtState.mjSTATE_INTEGRATION)


@lru_cache(maxsize=4)
def _reference_model(task: str) -> Any:
    """A newly loaded model of a task, with seed 0. Models that depend on the seed differ from it."""
    return _load_task(task, seed=0).physics.model.ptr


def _arrays(model: Any) -> dict[str, NDArray[Any]]:
    """Name -> array attribute of a model."""
    attributes = {name: getattr(model, name) for name in dir(model) if not name.startswith("_")}
    return {name: value for name, value in attributes.items() if isinstance(value, np.ndarray)}


def _changed_arrays(task: str, model: Any) -> dict[str, NDArray[Any]]:
    """The arrays of a model that differ from the reference model; some tasks store their targets there."""
    reference = _arrays(_reference_model(task))
    return {
        name: array.copy() for name, array in _arrays(model).items() if array.tobytes() != reference[name].tobytes()
    }


def _restore_arrays(task: str, model: Any, changes: dict[str, NDArray[Any]]) -> None:
    """Set all arrays of a model to those of the reference model, except for ``changes``."""
    reference = _arrays(_reference_model(task))
    for name, array in _arrays(model).items():
        restored = np.asarray(changes.get(name, reference[name]))
        if array.tobytes() != restored.tobytes():
            array[:] = restored


def _to_leaf(value: Any, name: str) -> Any:
    """Convert a task's attribute to plain values and arrays. Raises CannotSave for other types."""
    if isinstance(value, np.ndarray | np.generic):
        return np.array(value)
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, list | tuple):
        return [_to_leaf(item, name) for item in value]
    if isinstance(value, dict) and all(isinstance(key, str) for key in value):
        return {key: _to_leaf(item, name) for key, item in value.items()}
    raise CannotSave(f"the task's {name} is a {type(value).__name__}")


def _from_leaf(leaf: Any, current: Any) -> Any:
    """Inverse of :func:`_to_leaf`. The attribute's current value tells tuples from lists."""
    if isinstance(leaf, np.ndarray):
        return leaf.copy() if leaf.ndim else leaf[()]
    return tuple(leaf) if isinstance(current, tuple) else leaf
