"""Which OpenGL draws MuJoCo's pictures: chosen before MuJoCo is imported, because it reads the choice then and never
again."""

from __future__ import annotations

import ctypes
import os
import sys
from collections.abc import Callable

from mcurl.errors import UserError

OFF = ("off", "disable", "disabled", "false", "0")
"""Values of MUJOCO_GL that mean: no pictures."""

_INSTALL = "apt-get install libegl1 libgl1 (or libosmesa6)"

# Of EGL's headers.
_PLATFORM_DEVICE = 0x313F
_SURFACE_TYPE, _PBUFFER_BIT = 0x3033, 0x0001
_RENDERABLE_TYPE, _OPENGL_BIT = 0x3040, 0x0008
_NONE = 0x3038
_MOST_DEVICES = 32


def choose(*, required: bool = True) -> str:
    """Set MUJOCO_GL, unless it is set, to what works here: EGL, else OSMesa. Returns its value.

    With ``required=False`` (states only) the answer on a machine without OpenGL is ``"off"``. Call it before dm_control
    or mujoco is imported. Raises UserError, naming the packages to install, where nothing draws and pictures are
    required.
    """
    wanted = os.environ.get("MUJOCO_GL", "").lower()
    if wanted in OFF and required:
        raise UserError(f"MUJOCO_GL={wanted} turns pictures off: unset it, and {_INSTALL} if you have no OpenGL")
    chosen = wanted or _find()
    if chosen is None and required:
        raise UserError(f"no OpenGL to draw with: {_INSTALL}")
    if chosen is None:
        return "off"
    if chosen == "osmesa":
        # Otherwise dm_control draws in a thread that is gone before its pictures are, and leaves tracebacks at exit.
        os.environ.setdefault("DISABLE_RENDER_THREAD_OFFLOADING", "1")
    os.environ["MUJOCO_GL"] = chosen
    return chosen


def _find() -> str | None:
    if sys.platform != "linux":
        return "glfw"  # a system library there
    for name, works in _BACKENDS.items():
        # PyOpenGL can be bound to one of them from outside; the other would then fail.
        if os.environ.get("PYOPENGL_PLATFORM") in (None, "", name) and works():
            return name
    return None


def egl_works() -> bool:
    """Whether EGL opens a display without a screen, as MuJoCo will: the library alone does not tell, its driver may be
    missing. Takes milliseconds."""
    try:
        egl = ctypes.CDLL("libEGL.so.1")
    except OSError:
        return False
    egl.eglGetProcAddress.restype = ctypes.c_void_p
    query, open_display = (
        egl.eglGetProcAddress(b"eglQueryDevicesEXT"),
        egl.eglGetProcAddress(b"eglGetPlatformDisplayEXT"),
    )
    if not query or not open_display:
        return False
    handle, integer = ctypes.c_void_p, ctypes.c_int
    query_devices = ctypes.CFUNCTYPE(ctypes.c_uint, integer, ctypes.POINTER(handle), ctypes.POINTER(integer))(query)
    get_display = ctypes.CFUNCTYPE(handle, integer, handle, ctypes.POINTER(integer))(open_display)
    devices, count = (handle * _MOST_DEVICES)(), integer()
    if not query_devices(_MOST_DEVICES, devices, ctypes.byref(count)):
        return False
    return any(
        _draws(egl, get_display(_PLATFORM_DEVICE, device, None)) for device in _allowed(list(devices[: count.value]))
    )


def _allowed(devices: list[int | None]) -> list[int | None]:
    """All devices, or the one that MUJOCO_EGL_DEVICE_ID names."""
    chosen = os.environ.get("MUJOCO_EGL_DEVICE_ID", "")
    return devices[int(chosen) : int(chosen) + 1] if chosen.isdecimal() else devices


def _draws(egl: ctypes.CDLL, display: int | None) -> bool:
    """Whether the display starts and has a way to draw desktop OpenGL off screen."""
    # It stays open: MuJoCo opens the same one next and closes it at exit.
    if not display or not egl.eglInitialize(ctypes.c_void_p(display), None, None):
        return False
    wish = (ctypes.c_int * 5)(_SURFACE_TYPE, _PBUFFER_BIT, _RENDERABLE_TYPE, _OPENGL_BIT, _NONE)
    config, count = ctypes.c_void_p(), ctypes.c_int()
    chosen = egl.eglChooseConfig(ctypes.c_void_p(display), wish, ctypes.byref(config), 1, ctypes.byref(count))
    return bool(chosen) and count.value > 0


def osmesa_works() -> bool:
    """Whether OSMesa, drawing in software, can be loaded (under any of the names that PyOpenGL tries)."""
    for name in ("libOSMesa.so", *(f"libOSMesa.so.{version}" for version in range(9, -1, -1))):
        try:
            ctypes.CDLL(name)
        except OSError:
            continue
        return True
    return False


_BACKENDS: dict[str, Callable[[], bool]] = {"egl": lambda: egl_works(), "osmesa": lambda: osmesa_works()}
