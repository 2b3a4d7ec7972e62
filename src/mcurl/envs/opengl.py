"""Choice of MuJoCo's OpenGL backend, which has to be set before MuJoCo is imported."""

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
    if preset in OFF and required:
        raise UserError(f"MUJOCO_GL={preset} disables rendering: unset it, and {_INSTALL} if you have no OpenGL")
    backend = preset or _working_backend()
    if backend is None and required:
        raise UserError(f"no OpenGL for rendering: {_INSTALL}")
    if backend is None:
        return "off"
    if backend == "osmesa":
        # dm_control's render thread would end before its contexts are freed, with tracebacks at exit.
        os.environ.setdefault("DISABLE_RENDER_THREAD_OFFLOADING", "1")
    os.environ["MUJOCO_GL"] = backend
    return backend


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
    return devices[int(number) : int(number) + 1] if number.isdecimal() else devices


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
    """Whether OSMesa, a software renderer, can be loaded under one of the names that PyOpenGL tries."""
    for name in ("libOSMesa.so", *(f"libOSMesa.so.{version}" for version in range(9, -1, -1))):
        try:
            ctypes.CDLL(name)
        except OSError:
            continue
        return True
    return False


_BACKENDS: dict[str, Callable[[], bool]] = {"egl": lambda: egl_works(), "osmesa": lambda: osmesa_works()}
