"""Which OpenGL is chosen."""

from __future__ import annotations

import ctypes
import os
import subprocess
import sys

import pytest

from mcurl.envs import opengl
from mcurl.envs.quiet import silence_libraries
from mcurl.errors import UserError


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing set; what ``choose_backend`` sets goes away with the test."""
    for name in (
        "MUJOCO_GL",
        "PYOPENGL_PLATFORM",
        "DISABLE_RENDER_THREAD_OFFLOADING",
        "MUJOCO_EGL_DEVICE_ID",
        "DISPLAY",
        "WAYLAND_DISPLAY",
        "PYGLET_HEADLESS",
        "SDL_VIDEODRIVER",
    ):
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)
    monkeypatch.setattr(opengl.sys, "platform", "linux")


def have(monkeypatch: pytest.MonkeyPatch, *names: str) -> None:
    monkeypatch.setattr(opengl, "egl_works", lambda: "egl" in names)
    monkeypatch.setattr(opengl, "osmesa_works", lambda: "osmesa" in names)


def test_the_user_s_choice_stands(monkeypatch: pytest.MonkeyPatch) -> None:
    have(monkeypatch, "egl")
    monkeypatch.setenv("MUJOCO_GL", "glfw")
    monkeypatch.setenv("DISPLAY", ":0")
    assert opengl.choose_backend() == "glfw"
    assert os.environ["MUJOCO_GL"] == "glfw"


@pytest.mark.parametrize(("there", "chosen"), [(("egl", "osmesa"), "egl"), (("osmesa",), "osmesa")])
def test_egl_before_osmesa(monkeypatch: pytest.MonkeyPatch, there: tuple[str, ...], chosen: str) -> None:
    have(monkeypatch, *there)
    assert opengl.choose_backend() == chosen
    assert os.environ["MUJOCO_GL"] == chosen


def test_none_available(monkeypatch: pytest.MonkeyPatch) -> None:
    have(monkeypatch)
    with pytest.raises(UserError, match=r"apt-get install libegl1 libgl1 \(or libosmesa6\)"):
        opengl.choose_backend()
    assert opengl.choose_backend(required=False) == "off"


def test_turned_off_by_the_user(monkeypatch: pytest.MonkeyPatch) -> None:
    have(monkeypatch, "egl")
    monkeypatch.setenv("MUJOCO_GL", "disable")
    assert opengl.choose_backend(required=False) == "disable"
    with pytest.raises(UserError, match="unset it"):
        opengl.choose_backend()


def test_pyopengl_bound_to_one(monkeypatch: pytest.MonkeyPatch) -> None:
    have(monkeypatch, "egl", "osmesa")
    monkeypatch.setenv("PYOPENGL_PLATFORM", "osmesa")
    assert opengl.choose_backend() == "osmesa"


def test_elsewhere_the_system_s_own(monkeypatch: pytest.MonkeyPatch) -> None:
    have(monkeypatch)
    monkeypatch.setattr(opengl.sys, "platform", "darwin")
    assert opengl.choose_backend() == "glfw"


def test_missing_libraries_are_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> None:
        raise OSError(f"{name}: cannot open shared object file")

    monkeypatch.setattr(ctypes, "CDLL", missing)
    assert not opengl.egl_works()
    assert not opengl.osmesa_works()


def test_egl_without_a_library_of_opengl(monkeypatch: pytest.MonkeyPatch) -> None:
    """Debian's libegl1 comes without libgl1. PyOpenGL 3.1.10 then fails while it reports an error."""
    load = ctypes.CDLL

    def only_egl(name: str) -> ctypes.CDLL:
        if name.startswith(("libGL", "libOpenGL", "libOSMesa")):
            raise OSError(f"{name}: cannot open shared object file")
        return load(name)

    for variable in ("MUJOCO_GL", "PYOPENGL_PLATFORM", "MUJOCO_EGL_DEVICE_ID"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setattr(ctypes, "CDLL", only_egl)
    assert not opengl.egl_works()
    assert opengl.complaint() == "no OpenGL for rendering: apt-get install libegl1 libgl1 (or libosmesa6)"


def test_a_device_that_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MUJOCO_EGL_DEVICE_ID", "31")
    assert not opengl.egl_works()


@pytest.mark.parametrize(
    ("variables", "works", "says"),
    [
        ({"MUJOCO_GL": "glfw"}, ("egl",), "MUJOCO_GL=glfw needs a screen, and there is none: unset it"),
        ({"MUJOCO_GL": "osmesa"}, ("egl",), "MUJOCO_GL=osmesa prevents rendering with OpenGL: unset it"),
        ({"PYOPENGL_PLATFORM": "osmesa"}, ("egl",), "PYOPENGL_PLATFORM=osmesa prevents rendering"),
        ({"MUJOCO_GL": "egl", "PYOPENGL_PLATFORM": "osmesa"}, ("egl", "osmesa"), "contradict each other: unset one"),
    ],
)
def test_the_variable_that_prevents_rendering_is_named(
    monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], works: tuple[str, ...], says: str
) -> None:
    have(monkeypatch, *works)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(UserError, match=says):
        opengl.choose_backend()
    assert {name: os.environ[name] for name in variables} == variables


@pytest.mark.parametrize("number", ["31", "x"])
def test_the_device_that_prevents_rendering_is_named(monkeypatch: pytest.MonkeyPatch, number: str) -> None:
    if not opengl.egl_works():
        pytest.skip("no EGL here")
    monkeypatch.setattr(opengl, "osmesa_works", lambda: False)
    monkeypatch.setenv("MUJOCO_EGL_DEVICE_ID", number)
    with pytest.raises(UserError, match=f"MUJOCO_EGL_DEVICE_ID={number} prevents rendering with OpenGL: unset it"):
        opengl.choose_backend()


def test_back_ends_of_other_people_s_environments(monkeypatch: pytest.MonkeyPatch) -> None:
    names = ("MUJOCO_GL", "PYOPENGL_PLATFORM", "PYGLET_HEADLESS", "SDL_VIDEODRIVER")
    have(monkeypatch, "egl")
    monkeypatch.setenv("SDL_VIDEODRIVER", "dummy")
    silence_libraries()
    opengl.choose_backends()
    assert [os.environ.get(name) for name in names] == ["egl", "egl", "true", "dummy"]
    for name in names:
        monkeypatch.delenv(name)
    have(monkeypatch, "osmesa")
    silence_libraries()
    opengl.choose_backends()
    assert [os.environ.get(name) for name in names] == ["osmesa", "osmesa", None, "offscreen"]
    for name in names:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("DISPLAY", ":0")
    silence_libraries()
    opengl.choose_backends()
    assert [os.environ.get(name) for name in names[1:]] == [None, None, None]
    have(monkeypatch)
    opengl.choose_backends()


def test_an_environment_that_draws_with_sdl_is_not_black(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its driver ``dummy``, which makes some games black, is not chosen before ``offscreen`` is."""
    pytest.importorskip("pygame")
    for name in ("DISPLAY", "WAYLAND_DISPLAY", "SDL_VIDEODRIVER"):
        monkeypatch.delenv(name, raising=False)
    code = "import os, mcurl; mcurl.make_env('gym/CartPole-v1'); print(os.environ['SDL_VIDEODRIVER'])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split()[-1] == "offscreen"
