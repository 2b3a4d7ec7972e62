"""Which OpenGL is chosen."""

from __future__ import annotations

import ctypes
import os

import pytest

from mcurl.envs import opengl
from mcurl.errors import UserError


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing set; what ``choose_backend`` sets goes away with the test."""
    for name in ("MUJOCO_GL", "PYOPENGL_PLATFORM", "DISABLE_RENDER_THREAD_OFFLOADING", "MUJOCO_EGL_DEVICE_ID"):
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)
    monkeypatch.setattr(opengl.sys, "platform", "linux")


def have(monkeypatch: pytest.MonkeyPatch, *names: str) -> None:
    monkeypatch.setattr(opengl, "egl_works", lambda: "egl" in names)
    monkeypatch.setattr(opengl, "osmesa_works", lambda: "osmesa" in names)


def test_the_user_s_choice_stands(monkeypatch: pytest.MonkeyPatch) -> None:
    have(monkeypatch, "egl")
    monkeypatch.setenv("MUJOCO_GL", "glfw")
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


def test_a_device_that_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MUJOCO_EGL_DEVICE_ID", "31")
    assert not opengl.egl_works()
