"""Provenance of a result: versions, commit, machine, command line."""

from __future__ import annotations

import contextlib
import os
import platform
import subprocess
import sys
from collections.abc import Iterable
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, packages_distributions, version
from pathlib import Path
from typing import Any

PACKAGES = (
    *("torch", "numpy", "gymnasium", "safetensors", "mujoco", "dm_control", "ale-py"),
    *("opencv-python-headless", "opencv-python", "shimmy"),
)
"""Packages whose versions are recorded, where they are installed."""


def run_metadata() -> dict[str, Any]:
    """Metadata of this process for ``run.json``, as JSON values. Unknown values are None."""
    import torch

    from mcurl import __version__

    return {
        "mcurl": __version__,
        **_commit(Path(__file__).parents[1]),
        "torch": torch.__version__,
        "python": platform.python_version(),
        "packages": package_versions(),
        **machine_metadata(),
        "command": ["mcurl", *sys.argv[1:]],
        "started_at": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def machine_metadata() -> dict[str, Any]:
    """What tells machines apart: ``platform``, ``cpu``, ``cores`` and ``gpu``, as JSON values."""
    import torch

    return {
        "platform": platform.platform(),
        "cpu": processor(),
        "cores": os.cpu_count(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
    }


def package_versions(names: Iterable[str] = PACKAGES) -> dict[str, str]:
    """Name -> version of those packages that are installed."""
    versions = {}
    for name in names:
        with contextlib.suppress(PackageNotFoundError):
            versions[name] = version(name)
    return versions


def environment_packages(entry_point: object) -> dict[str, str]:
    """Name -> version of the packages that provide an environment; empty if it belongs to none.

    Args:
        entry_point: that of the environment's Gymnasium spec: text (``"module:Class"``), a class or a function.
    """
    module = str(entry_point if isinstance(entry_point, str) else getattr(entry_point, "__module__", ""))
    return package_versions(packages_distributions().get(module.partition(":")[0].partition(".")[0], ()))


def _commit(package: Path) -> dict[str, Any]:
    """The commit of the checkout that the package is imported from, and whether its files were changed.

    Both are None if the package was installed from a wheel.
    """
    # A virtual environment may lie in the checkout of another project, which does not track the package.
    if _git(package, "ls-files", "--error-unmatch", "__init__.py") is None:
        return {"commit": None, "dirty": None}
    commit, status = _git(package, "rev-parse", "HEAD"), _git(package, "status", "--porcelain", "--", ".")
    return {"commit": commit, "dirty": None if status is None else status != ""}


def _git(folder: Path, *arguments: str) -> str | None:
    try:
        process = subprocess.run(
            ["git", "-C", str(folder), *arguments],
            capture_output=True,
            text=True,
            timeout=20,
            check=False,
            env={**os.environ, "GIT_OPTIONAL_LOCKS": "0"},
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return process.stdout.strip() if process.returncode == 0 else None


def processor() -> str | None:
    """The name of the CPU, if it is known."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or None
    return next(
        (line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.processor() or None
    )
