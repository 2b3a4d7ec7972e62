"""What the package declares: requirements of what it imports, extra by extra, and their lower bounds."""

from __future__ import annotations

import ast
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from importlib.metadata import requires
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import mcurl
from mcurl.envs import dmc

ROOT = Path(__file__).parents[1]
PACKAGE = Path(mcurl.__file__).parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
OLD, NEW = "3.12", "3.13"
"""The last Python for which labmaze has a wheel, and the next."""

DISTRIBUTIONS = {"PIL": "pillow", "cv2": "opencv-python-headless", "OpenGL": "pyopengl"}
"""Module -> distribution, where the names differ."""
EXTRAS = {
    "envs/dmc.py": "dmc",
    "envs/atari.py": "atari",
    "envs/images.py": "gym",
    "pictures.py": "video",
    "report/plot.py": "report",
    "report/export.py": "parquet",
    "bench/profile.py": "report",
    "suites/ray.py": "ray",
    "export/hub.py": "hub",
    "integrations/sb3.py": "sb3",
    "integrations/torchrl.py": "torchrl",
}
"""File -> the extra that serves it. The others need none."""
AT_THE_TOP = {"integrations/sb3.py", "integrations/torchrl.py"}
"""Files that are imported only where their extra is there."""


def names(lines: list[str], python: str = OLD) -> set[str]:
    """The distributions that requirements name, on a version of Python."""
    environment = {"python_version": python, "extra": ""}
    found = [Requirement(line) for line in lines]
    return {canonicalize_name(one.name) for one in found if one.marker is None or one.marker.evaluate(environment)}


def imports(path: Path, *, top: bool) -> Iterator[str]:
    """The distributions whose modules a file imports: at module level, or anywhere."""
    tree = ast.parse(path.read_text())
    for node in _statements(tree) if top else ast.walk(tree):
        modules: list[str] = []
        if isinstance(node, ast.Import):
            modules = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and not node.level:
            modules = [node.module or ""]
        for module in {name.partition(".")[0] for name in modules} - sys.stdlib_module_names - {"mcurl"}:
            yield canonicalize_name(DISTRIBUTIONS.get(module, module))


def _statements(node: ast.AST) -> Iterator[ast.AST]:
    """What runs when a module is imported: neither functions nor `if TYPE_CHECKING`."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            continue
        if isinstance(child, ast.If) and ast.unparse(child.test) == "TYPE_CHECKING":
            continue
        yield child
        yield from _statements(child)


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("*.py")), ids=lambda path: path.relative_to(PACKAGE).as_posix())
def test_what_is_imported_is_declared(path: Path) -> None:
    file, core = path.relative_to(PACKAGE).as_posix(), names(PROJECT["dependencies"])
    extra = names(PROJECT["optional-dependencies"][EXTRAS[file]]) if file in EXTRAS else set()
    assert set(imports(path, top=False)) <= core | extra
    assert set(imports(path, top=True)) <= core | (extra if file in AT_THE_TOP else set())


def test_every_extra_that_is_named_is_imported() -> None:
    """Otherwise an entry of the table above is outdated."""
    for file in EXTRAS:
        assert set(imports(PACKAGE / file, top=False)) - names(PROJECT["dependencies"]), file


def test_dmc_without_labmaze_has_all_else_that_dm_control_requires() -> None:
    pytest.importorskip("dm_control")
    lines = PROJECT["optional-dependencies"]["dmc"]
    needed = {canonicalize_name(Requirement(line).name) for line in requires("dm_control") or [] if "extra" not in line}
    assert "labmaze" in needed
    assert needed - {"labmaze"} <= names(lines, NEW) | names(PROJECT["dependencies"])
    assert "dm-control" in names(lines, OLD) - names(lines, NEW)


def test_the_second_step_installs_the_version_of_the_extra() -> None:
    [version] = [line.partition(";")[0] for line in PROJECT["optional-dependencies"]["dmc"] if "dm_control" in line]
    assert dmc.install_command((3, 12)) == "pip install 'mcurl[dmc]'"
    for python in [(3, 13), (3, 14)]:
        assert dmc.install_command(python) == f"pip install 'mcurl[dmc]' && pip install --no-deps {version}"
    assert f"pip install --no-deps {version}" in (ROOT / "docs" / "install.md").read_text()


def test_dmc_needs_no_labmaze() -> None:
    pytest.importorskip("dm_control")
    program = """
import sys
sys.modules["labmaze"] = None  # its import raises ModuleNotFoundError
from mcurl.envs import dmc, make_env
for task in ("cartpole-swingup", "quadruped-walk", "dog-run", "humanoid_CMU-run"):
    env = make_env(dmc.DmcSettings(task=task, observation="state"), seed=0)
    env.reset(seed=0)
    env.step(env.action_space.sample())
"""
    subprocess.run([sys.executable, "-c", program], check=True, timeout=120)


def test_lowest_versions_are_the_lower_bounds() -> None:
    """Those of `make test-lowest`: of what `dev` installs on Python 3.11, but for the tools of `make lint`."""
    extras = PROJECT["optional-dependencies"]
    lines = [*PROJECT["dependencies"], *extras["dev"]]
    for extra in set(extras) - {"all", "dev", "sb3", "torchrl"}:
        lines += extras[extra]
    bounds = {}
    for one in map(Requirement, lines):
        if one.name not in ("mcurl", "mypy", "ruff") and (
            one.marker is None or one.marker.evaluate({"python_version": "3.11"})
        ):
            bounds[canonicalize_name(one.name)] = one.specifier
    pins = [Requirement(line) for line in (ROOT / "constraints-lowest.txt").read_text().splitlines() if line[0] != "#"]
    assert {canonicalize_name(pin.name) for pin in pins} == bounds.keys()
    for pin in pins:
        version = str(pin.specifier).removeprefix("==")
        [lowest] = [one.version for one in bounds[canonicalize_name(pin.name)] if one.operator in (">=", "==")]
        # A release of these numbers, which may have more of them: 4.9 is 4.9.0.80.
        assert version == lowest or version.startswith(f"{lowest}."), f"{pin.name}: {version} is not {lowest}"


def test_pythons_are_those_of_the_classifiers() -> None:
    versions = [
        line.rpartition(" ")[2] for line in PROJECT["classifiers"] if line.startswith("Programming Language ::")
    ]
    # Those on which something was run, see docs/install.md.
    assert [version for version in versions if version.startswith("3.")] == ["3.11", "3.12", "3.13", "3.14"]
    assert PROJECT["requires-python"] == ">=3.11"
