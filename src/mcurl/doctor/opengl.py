"""OpenGL: whether MuJoCo renders, with which renderer, and how fast. It is tried in a separate process.

A broken OpenGL library ends its process, so this module runs itself: ``python -m mcurl.doctor.opengl TASK``.
"""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path
from statistics import median
from typing import Any

from mcurl.doctor.findings import Finding, Section
from mcurl.envs import make_env, settings_class
from mcurl.envs.opengl import choose_backend
from mcurl.errors import UserError

SOFTWARE = ("llvmpipe", "softpipe", "swrast", "software", "swiftshader")
"""Parts of the names of renderers that use the CPU."""
FRAMES = 20
"""Number of frames that are timed."""
TIMEOUT = 300
"""Seconds until a renderer that does not answer is given up."""


def opengl(task: str, *, gpu: bool) -> Section:
    """Render frames of a DMControl task in a separate process.

    Args:
        task: ``dmc/...``.
        gpu: whether there is a GPU, on which OpenGL should render.
    """
    values = _try(task)
    if "error" in values:
        return Section("opengl", "OpenGL", values, [("works", "no")], [Finding("error", values["error"])])
    software = any(part in values["renderer"].lower() for part in SOFTWARE)
    values["software"] = software
    size = values["image_size"]
    rows = [
        ("renderer", f"{values['renderer']}{' (on the CPU)' if software else ''}"),
        ("back end", f"{values['back_end']} (MUJOCO_GL)"),
        ("frame", f"{values['milliseconds']:.1f} ms for {size} × {size} pixels of {task}"),
    ]
    findings = []
    if values["black"]:
        findings.append(Finding("error", f"OpenGL gives black images: {_other(values['back_end'])}"))
    if software and gpu:
        text = "OpenGL renders on the CPU although there is a GPU: install the OpenGL part of its driver (libnvidia-gl)"
        findings.append(Finding("warning", f"{text}, in a container with NVIDIA_DRIVER_CAPABILITIES=all"))
    return Section("opengl", "OpenGL", values, rows, findings)


def _try(task: str) -> dict[str, Any]:
    # -P: modules of the current folder are not imported.
    command = [sys.executable, "-P", "-m", "mcurl.doctor.opengl", task]
    try:
        process = subprocess.run(
            command, capture_output=True, text=True, errors="replace", timeout=TIMEOUT, check=False
        )
    except subprocess.TimeoutExpired:
        return {"error": f"OpenGL renders nothing within {TIMEOUT} s: {_other('egl')}"}
    if process.returncode < 0:
        name = signal.Signals(-process.returncode).name
        return {"error": f"OpenGL ends its process ({name}): {_other('egl')}"}
    try:
        values: dict[str, Any] = json.loads(process.stdout.splitlines()[-1])
    except (ValueError, IndexError):
        last = (process.stderr.strip().splitlines() or ["no message"])[-1]
        return {"error": f"OpenGL does not work ({last}): {_other('egl')}"}
    return values


def _other(backend: str) -> str:
    return "unset MUJOCO_GL" if backend == "osmesa" else "apt-get install libosmesa6, and set MUJOCO_GL=osmesa"


def measure(task: str) -> dict[str, Any]:
    """Render frames in this process.

    Returns:
        ``back_end``, ``renderer``, ``milliseconds`` of a frame (median), ``image_size`` in pixels and ``black``
        (bool); or ``error``.
    """
    suite, _, name = task.partition("/")
    settings = settings_class(suite)(task=name)
    try:
        backend = choose_backend()
        with closing(make_env(settings, 0)) as env:
            env.reset(seed=0)
            times, images = [], []
            for _ in range(FRAMES):
                start = time.perf_counter()
                images.append(env.render())
                times.append(1000 * (time.perf_counter() - start))
            renderer = env.get_wrapper_attr("renderer")()
    except UserError as error:
        return {"error": str(error)}
    black = not any(image.any() for image in images)  # type: ignore[union-attr]
    size = settings.image_size
    values = {"back_end": backend, "renderer": renderer, "milliseconds": round(median(times), 2)}
    return values | {"image_size": size, "black": black}


def nvidia_gpu() -> bool:
    """Whether the driver of an NVIDIA GPU is loaded, also where PyTorch does not use it."""
    return Path("/proc/driver/nvidia/version").exists()


if __name__ == "__main__":
    print(json.dumps(measure(sys.argv[1])))
