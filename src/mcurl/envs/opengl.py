"""Choice of the OpenGL backend, which has to be set before MuJoCo or another renderer is imported."""

from __future__ import annotations

import ctypes
import os
import sys
from collections.abc import Callable

from mcurl.errors import UserError

OFF = ("off", "disable", "disabled", "false", "0")
"""Values of MUJOCO_GL that disable rendering."""

_INSTALL = "apt-get install libegl1 libgl1 (or libosmesa6)"

# Constants from EGL's headers.
_PLATFORM_DEVICE = 0x313F
_SURFACE_TYPE, _PBUFFER_BIT = 0x3033, 0x0001
_RENDERABLE_TYPE, _OPENGL_BIT = 0x3040, 0x0008
_NONE = 0x3038
_MOST_DEVICES = 32


def choose_backend(*, required: bool = True) -> str:
    """Set MUJOCO_GL to a backend that works here, EGL or OSMesa, unless it is set already.

    Call it before dm_control or mujoco is imported.

    Args:
        required: whether rendering is needed. If not (states only), OpenGL may be missing.

    Returns:
        The value of MUJOCO_GL, or ``"off"`` if OpenGL is missing and not required.

    Raises:
        UserError: OpenGL is required, and missing or disabled. The message names the packages to install.
    """
    preset = os.environ.get("MUJOCO_GL", "").lower()
    backend = preset or _working_backend()
    if required and (reason := complaint()):
        raise UserError(reason)
    if backend is None:
        return "off"
    if backend == "osmesa":
        # dm_control's render thread would end before its contexts are freed, with tracebacks at exit.
        os.environ.setdefault("DISABLE_RENDER_THREAD_OFFLOADING", "1")
    os.environ["MUJOCO_GL"] = backend
    return backend


def choose_backends() -> None:
    """Set the variables by which MuJoCo, PyOpenGL and pyglet render without a screen, unless they are set already.

    SDL's is set by :func:`mcurl.envs.quiet.silence_libraries`.

    Call it before the package of an environment is imported. Nothing is raised where OpenGL is missing: an environment
    may do without.
    """
    backend = choose_backend(required=False)
    if sys.platform != "linux" or has_screen():
        return
    if backend in _BACKENDS and _BACKENDS[backend]():
        os.environ.setdefault("PYOPENGL_PLATFORM", backend)
        if backend == "egl":
            os.environ.setdefault("PYGLET_HEADLESS", "true")


def has_screen() -> bool:
    """Whether a display server is named."""
    return bool(os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY"))


def complaint() -> str | None:
    """Why OpenGL cannot render: the variable that prevents it, or the packages to install. None: it can."""
    preset = os.environ.get("MUJOCO_GL", "").lower()
    if preset in OFF:
        return f"MUJOCO_GL={preset} disables rendering: unset it, and {_INSTALL} if you have no OpenGL"
    if sys.platform != "linux":
        return None
    if preset in ("glfw", "glx") and not has_screen():
        return f"MUJOCO_GL={preset} needs a screen, and there is none: unset it"
    bound = os.environ.get("PYOPENGL_PLATFORM", "").lower()
    if preset in _BACKENDS and bound not in ("", preset):
        return f"MUJOCO_GL={preset} and PYOPENGL_PLATFORM={bound} contradict each other: unset one of them"
    if preset and (preset not in _BACKENDS or _BACKENDS[preset]()):
        return None
    if not preset and _working_backend():
        return None
    variables = [name for name in ("PYOPENGL_PLATFORM", "MUJOCO_EGL_DEVICE_ID") if os.environ.get(name)]
    for names in ([], *([name] for name in variables), variables):
        if _works_without("MUJOCO_GL", *names):
            blamed = " ".join(f"{name}={os.environ[name]}" for name in (names or ["MUJOCO_GL"]))
            return f"{blamed} prevents rendering with OpenGL: unset it"
    return f"no OpenGL for rendering: {_INSTALL}"


def _works_without(*names: str) -> bool:
    """Whether a backend works if some environment variables are not set."""
    values = {name: os.environ.pop(name) for name in names if name in os.environ}
    try:
        return _working_backend() is not None
    finally:
        os.environ.update(values)


def _working_backend() -> str | None:
    if sys.platform != "linux":
        return "glfw"  # a system library there
    for name, works in _BACKENDS.items():
        # PYOPENGL_PLATFORM may bind PyOpenGL to one backend; the other one fails then.
        if os.environ.get("PYOPENGL_PLATFORM") in (None, "", name) and works():
            return name
    return None


def egl_works() -> bool:
    """Whether EGL can open a display without a screen. It is tried, because the library may lack a driver."""
    try:
        egl = ctypes.CDLL("libEGL.so.1")
    except OSError:
        return False
    # EGL without a library of OpenGL: PyOpenGL would fail at its first call.
    if not any(_loads(name) for name in ("OpenGL", "GL", "GLESv2")):
        return False
    egl.eglGetProcAddress.restype = ctypes.c_void_p
    query = egl.eglGetProcAddress(b"eglQueryDevicesEXT")
    open_display = egl.eglGetProcAddress(b"eglGetPlatformDisplayEXT")
    if not query or not open_display:
        return False
    handle, integer = ctypes.c_void_p, ctypes.c_int
    query_devices = ctypes.CFUNCTYPE(ctypes.c_uint, integer, ctypes.POINTER(handle), ctypes.POINTER(integer))(query)
    get_display = ctypes.CFUNCTYPE(handle, integer, handle, ctypes.POINTER(integer))(open_display)
    devices, count = (handle * _MOST_DEVICES)(), integer()
    if not query_devices(_MOST_DEVICES, devices, ctypes.byref(count)):
        return False
    return any(
        _can_render(egl, get_display(_PLATFORM_DEVICE, device, None))
        for device in _allowed_devices(list(devices[: count.value]))
    )


def _allowed_devices(devices: list[int | None]) -> list[int | None]:
    """The device with the number MUJOCO_EGL_DEVICE_ID, or all devices if it is not set."""
    number = os.environ.get("MUJOCO_EGL_DEVICE_ID", "")
    if not number:
        return devices
    return devices[int(number) : int(number) + 1] if number.isdecimal() else []


def _can_render(egl: ctypes.CDLL, display: int | None) -> bool:
    """Whether the display can be initialised and supports off-screen rendering with desktop OpenGL."""
    # It stays open: MuJoCo opens the same display next, and closes it at exit.
    if not display or not egl.eglInitialize(ctypes.c_void_p(display), None, None):
        return False
    attributes = (ctypes.c_int * 5)(_SURFACE_TYPE, _PBUFFER_BIT, _RENDERABLE_TYPE, _OPENGL_BIT, _NONE)
    config, count = ctypes.c_void_p(), ctypes.c_int()
    success = egl.eglChooseConfig(ctypes.c_void_p(display), attributes, ctypes.byref(config), 1, ctypes.byref(count))
    return bool(success) and count.value > 0


def osmesa_works() -> bool:
    """Whether OSMesa, a software renderer, can be loaded."""
    return _loads("OSMesa")


def _loads(name: str) -> bool:
    """Whether a library can be loaded under one of the names that PyOpenGL tries."""
    for version in ("", *(f".{number}" for number in range(9, -1, -1))):
        try:
            ctypes.CDLL(f"lib{name}.so{version}")
        except OSError:
            continue
        return True
    return False


_BACKENDS: dict[str, Callable[[], bool]] = {"egl": lambda: egl_works(), "osmesa": lambda: osmesa_works()}
