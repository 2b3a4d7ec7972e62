"""Who imports whom: the table of docs/architecture.md. A room is a package or a module."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

import pytest

import mcurl

PACKAGE = Path(mcurl.__file__).parent
EVERYWHERE = {"errors", "files", "__init__"}
"""Rooms that every other may import (``__init__`` holds the version)."""
RULES: dict[str, set[str]] = {
    "__init__": {"api", "callbacks", "policy", "objectives.contrast", "objectives.masked"},
    "errors": set(),
    "files": set(),
    "registry": set(),
    "envs": {"registry", "runtime.limits"},
    "pictures": set(),
    "published": set(),
    "native": set(),
    "native.amx": {"native"},
    "networks": {"native.amx", "native.convolutions", "native.dense", "native.frames", "native.onednn"},
    "replay": {"native.frames", "runtime.memory"},
    "config.fields": set(),
    "config.sections": {"config.fields"},
    "config.tasks": {"envs"},
    "config": {
        *("config.fields", "config.sections", "config.tasks", "envs", "run.names", "runtime.device"),
        *("agents.base", "agents.registry", "objectives.base", "objectives.registry", "registry"),
    },
    "objectives.base": {"registry"},
    "objectives.registry": {"registry", "objectives.base"},
    "objectives": {"objectives.base", "config.fields", "networks"},
    "agents.base": {"registry", "objectives.base", "replay.augment", "replay.batch"},
    "agents.registry": {"registry", "agents.base"},
    "agents": {
        *("agents.base", "objectives.base", "config.fields", "networks"),
        *("replay.augment", "replay.batch", "native.adam"),
    },
    "runtime": set(),
    "runtime.seeding": {"runtime.threads"},
    "runtime.signals": set(),
    "runtime.threads": {"runtime.limits"},
    "runtime.waiting": {"native.teams"},
    "runtime.parallel": {"runtime.program", "runtime.signals"},
    "runtime.program": set(),
    "runtime.cuda_graphs": {"replay.batch"},
    "runtime.limits": set(),
    "runtime.memory": {"runtime.limits"},
    "runtime.device": {"runtime.threads", "config.fields", "native"},
    "recording": {"run.provenance", "runtime.seeding"},
    "run": set(),
    "run.names": set(),
    "run.format": set(),
    "run.eta": set(),
    "run.status": set(),
    "run.display": {"run.eta", "run.status"},
    "run.provenance": set(),
    "run.evaluations": {"run.format"},
    "run.checkpoint": {"runtime.limits"},
    "run.folder": {
        *("recording", "run.checkpoint", "run.evaluations", "run.format", "run.names", "run.provenance"),
        "runtime.program",
    },
    "run.logger": {"run.display", "run.folder"},
    "batches": {"agents.base", "objectives.base", "replay", "runtime.seeding"},
    "build": {
        *("agents.base", "objectives.base", "config", "envs", "replay", "run.names"),
        *("runtime.device", "runtime.memory"),
    },
    "loading": {"agents.base", "build", "config", "envs", "run.checkpoint", "run.folder", "runtime.device"},
    "episodes": {"build", "envs", "recording", "runtime.seeding"},
    "evaluate": {
        *("agents.base", "build", "config", "episodes", "loading", "published", "recording", "run.checkpoint"),
        *("run.folder", "runtime.seeding"),
    },
    "training": {
        *("agents.base", "batches", "build", "config", "envs", "evaluate", "recording", "replay"),
        *("published", "run.checkpoint", "run.folder", "run.logger"),
        *("runtime.cuda_graphs", "runtime.device", "runtime.seeding", "runtime.signals", "runtime.waiting"),
    },
    "watch": {"build", "config", "evaluate", "loading", "pictures", "run.folder"},
    "export.folder": {"agents.base", "run.checkpoint"},
    "export": {
        *("config", "config.tasks", "export.folder", "loading", "run.checkpoint", "run.folder", "runtime.program"),
        "watch",
    },
    "doctor": {"config", "envs", "native", "run.provenance", "runtime.device", "runtime.limits", "runtime.threads"},
    "report": {"config", "config.tasks", "published", "recording", "run.evaluations", "run.format", "run.names"},
    "verify": {
        *("config.fields", "config.tasks", "envs", "pictures", "published", "recording", "registry", "report"),
        *("run.checkpoint", "run.evaluations", "run.format", "run.names"),
    },
    "bench": {
        *("agents.base", "agents.rainbow", "agents.sac", "batches", "build", "config", "episodes", "native"),
        *("networks.encoders", "objectives.masked", "replay", "run.checkpoint", "run.provenance"),
        *("runtime.cuda_graphs", "runtime.device", "runtime.program", "runtime.seeding", "runtime.threads"),
        "runtime.waiting",
    },
    "suites.suite": {"config", "config.fields", "config.tasks", "envs", "run.folder", "run.names"},
    "suites": {
        *("bench.runs", "config", "config.tasks", "run.status", "run.eta", "run.folder", "run.names"),
        *("run.provenance", "runtime.parallel", "runtime.threads", "suites.suite"),
    },
    "suites.ray": {"runtime.parallel", "runtime.program", "runtime.signals", "runtime.threads", "suites.suite"},
    "commands": {
        *("build", "doctor", "export", "export.folder", "pictures", "registry", "runtime.memory", "watch"),
        *("bench", "config", "config.fields", "config.tasks", "evaluate", "recording", "report", "training", "verify"),
        *("run.display", "run.eta", "run.folder", "run.logger", "run.status", "runtime.parallel", "runtime.program"),
        *("runtime.signals", "runtime.threads", "envs", "episodes", "suites", "suites.ray", "suites.suite"),
    },
    "callbacks": {"run.logger", "runtime.signals"},
    "policy": {
        *("agents.base", "build", "config", "config.fields", "envs", "evaluate", "export.folder", "loading"),
        *("native", "run.folder", "runtime.device"),
    },
    "api": {
        *("callbacks", "config", "config.fields", "envs", "policy", "run.display", "run.eta", "run.status"),
        *("run.folder", "run.logger", "runtime.device", "runtime.signals", "runtime.threads", "training"),
    },
    "gymnasium": {"api", "envs"},
    "integrations": {
        *("agents.optim", "config.fields", "networks.ema", "objectives.base", "objectives.registry"),
        *("replay.sampling",),
    },
    "integrations.sb3": {"config.fields", "integrations", "networks.encoders", "objectives.base"},
    "sb3": {"integrations.sb3"},
    "torchrl": {"integrations.torchrl"},
    "parsers": {"commands", "run.names"},
    "cli": {"parsers", "runtime.threads"},
    "__main__": {"cli"},
}
"""Room -> what it may import beside itself and EVERYWHERE: a room, or one module of it. A module belongs to the room
with the longest name: ``config.fields`` to itself, ``config.resolve`` to ``config``."""
NO_TORCH = {
    *(
        "__init__",
        "__main__",
        "api",
        "callbacks",
        "cli",
        "parsers",
        "commands",
        "gymnasium",
        "policy",
        "errors",
        "files",
        "registry",
        "envs",
        "published",
        "recording",
    ),
    *("doctor", "pictures", "report", "verify"),
    *("config", "config.fields", "config.sections", "config.tasks", "agents.registry", "objectives.registry"),
    *(
        "run.names",
        "run.format",
        "run.evaluations",
        "run.display",
        "run.eta",
        "run.logger",
        "run.provenance",
        "run.status",
    ),
    *("runtime.seeding", "runtime.signals", "runtime.parallel", "runtime.program", "runtime.threads"),
    "runtime.limits",
    *("suites.ray", "suites.suite"),
}
"""Rooms that must not import torch when they are imported."""


class Arrow(NamedTuple):
    """One import of one module of the package by another, by dotted names below ``mcurl``."""

    source: str
    target: str
    lazy: bool
    """Inside a function or under TYPE_CHECKING: no import when the module is loaded."""


def modules(package: Path) -> dict[str, Path]:
    """Dotted name below the package -> file; a package's own name stands for its ``__init__``."""
    found = {}
    for path in sorted(package.rglob("*.py")):
        parts = path.relative_to(package).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" and len(parts) > 1 else parts)] = path
    return found


def imports(tree: ast.Module, module: str, is_package: bool) -> Iterator[tuple[str, bool]]:
    """Every imported dotted name, with whether it is lazy. ``from a import b`` gives ``a.b``: b may be a module."""

    def walk(node: ast.AST, lazy: bool) -> Iterator[tuple[str, bool]]:
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.Import):
                yield from ((alias.name, lazy) for alias in child.names)
            elif isinstance(child, ast.ImportFrom):
                base = child.module or ""
                if child.level:
                    parents = ["mcurl", *module.split(".")]
                    kept = len(parents) - child.level + is_package
                    base = ".".join([*parents[:kept], *([base] if base else [])])
                yield from ((f"{base}.{alias.name}", lazy) for alias in child.names)
            elif isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test):
                yield from walk(ast.Module(child.body, []), True)
                yield from walk(ast.Module(child.orelse, []), lazy)
            else:
                yield from walk(child, lazy or isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda))

    yield from walk(tree, False)


def arrows(package: Path) -> list[Arrow]:
    known, found = modules(package), []
    for module, path in known.items():
        for name, lazy in imports(ast.parse(path.read_text()), module, path.name == "__init__.py"):
            if name.partition(".")[0] != "mcurl":
                continue
            target = name.removeprefix("mcurl").lstrip(".")
            while target and target not in known:  # A class or a function: its module.
                target = target.rpartition(".")[0]
            found.append(Arrow(module, target or "__init__", lazy))
    return found


def room_of(module: str, rules: Mapping[str, set[str]]) -> str:
    """The room with the longest name that a module is in; the module's first name where the table has none."""
    name = module
    while name not in rules and "." in name:
        name = name.rpartition(".")[0]
    return name


def forbidden(found: list[Arrow], rules: Mapping[str, set[str]]) -> list[str]:
    """What the table does not allow, in words."""
    wrong = []
    for arrow in found:
        source, target = room_of(arrow.source, rules), room_of(arrow.target, rules)
        if source not in rules:
            wrong.append(f"{source} is not in the table")
        elif source != target and target not in EVERYWHERE and not {target, arrow.target} & rules[source]:
            wrong.append(f"{arrow.source} imports {arrow.target}")
    return sorted(set(wrong))


def unused(found: list[Arrow], rules: Mapping[str, set[str]]) -> list[str]:
    """What the table allows and nobody imports, in words."""
    used = {
        (room_of(arrow.source, rules), name) for arrow in found for name in (arrow.target, room_of(arrow.target, rules))
    }
    return sorted(f"{room} -> {name}" for room, names in rules.items() for name in names if (room, name) not in used)


def cycle(found: list[Arrow]) -> list[str]:
    """Modules that import each other when they are loaded, in a ring; empty where there is none."""
    graph: dict[str, set[str]] = {}
    for arrow in found:
        if not arrow.lazy and arrow.source != arrow.target:
            graph.setdefault(arrow.source, set()).add(arrow.target)
    done: set[str] = set()

    def visit(module: str, path: list[str]) -> list[str]:
        if module in path:
            return [*path[path.index(module) :], module]
        if module not in done:
            for target in sorted(graph.get(module, ())):
                if ring := visit(target, [*path, module]):
                    return ring
            done.add(module)
        return []

    return next((ring for module in sorted(graph) if (ring := visit(module, []))), [])


def test_no_room_imports_what_it_may_not() -> None:
    assert forbidden(arrows(PACKAGE), RULES) == []


def test_the_table_allows_no_more_than_there_is() -> None:
    assert unused(arrows(PACKAGE), RULES) == []


def test_every_room_is_in_the_table() -> None:
    assert {room_of(module, RULES) for module in modules(PACKAGE)} == set(RULES)


def test_the_documentation_has_the_same_table() -> None:
    text = (Path(__file__).parents[1] / "docs" / "architecture.md").read_text()
    rows = re.findall(r"^\| `([\w./]+)` \|.*\| ([^|]*) \|$", text, re.MULTILINE)
    table = {name: set(re.findall(r"`([\w.]+)`", cell)) for name, cell in rows}
    assert table == {room: allowed for room, allowed in RULES.items() if room not in ("__init__", "run", "runtime")}


def test_no_cycle() -> None:
    assert cycle(arrows(PACKAGE)) == []


def test_rooms_that_need_no_torch_do_not_import_it() -> None:
    reached: dict[str, set[str]] = {}
    for arrow in arrows(PACKAGE):
        if not arrow.lazy:
            reached.setdefault(arrow.source, set()).add(arrow.target)
    uses = {
        module
        for module, path in modules(PACKAGE).items()
        if any(
            name.partition(".")[0] == "torch" and not lazy
            for name, lazy in imports(ast.parse(path.read_text()), module, path.name == "__init__.py")
        )
    }
    while grown := {module for module, targets in reached.items() if targets & uses} - uses:
        uses |= grown
    assert {module for module in uses if room_of(module, RULES) in NO_TORCH} == set()
    assert {"training", "run.folder", "runtime.device"} <= uses


def make(folder: Path, **files: str) -> Path:
    for name, text in files.items():
        path = folder / (name.replace("__", "/") + ".py")
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
    return folder


@pytest.mark.parametrize(
    ("text", "lazy"),
    [
        ("from mcurl.train import Trainer", False),
        ("import mcurl.train", False),
        ("from mcurl import train", False),
        ("from . import train", False),
        ("from .train import Trainer", False),
        ("def f():\n    from mcurl.train import Trainer", True),
        ("from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from mcurl import train", True),
        ("try:\n    import mcurl.train\nexcept ImportError:\n    pass", False),
    ],
)
def test_the_checker_sees_a_forbidden_arrow(tmp_path: Path, text: str, lazy: bool) -> None:
    found = arrows(make(tmp_path, build=text, train=""))
    assert found == [Arrow("build", "train", lazy)]
    assert forbidden(found, RULES) == ["build imports train"]


def test_the_checker_sees_packages_and_single_modules(tmp_path: Path) -> None:
    found = arrows(
        make(
            tmp_path,
            agents__sac="from mcurl.replay.batch import Batch\nfrom mcurl.replay import buffer",
            replay__batch="",
            replay__buffer="from ..errors import UserError",
            errors="",
        )
    )
    assert forbidden(found, RULES) == ["agents.sac imports replay.buffer"]
    assert "agents -> replay.augment" in unused(found, RULES)
    assert "agents -> replay.batch" not in unused(found, RULES)
    assert Arrow("replay.buffer", "errors", False) in found


def test_the_checker_sees_single_modules_that_are_rooms(tmp_path: Path) -> None:
    found = arrows(
        make(
            tmp_path,
            config__fields="from mcurl.config import tasks",
            config__tasks="",
            config__resolve="from mcurl.config.fields import x",
            objectives__masked="from mcurl.config.fields import x\nfrom mcurl.config.resolve import y",
        )
    )
    assert forbidden(found, RULES) == [
        "config.fields imports config.tasks",
        "objectives.masked imports config.resolve",
    ]


def test_the_checker_sees_unknown_rooms_and_cycles(tmp_path: Path) -> None:
    found = arrows(
        make(
            tmp_path,
            attic="import mcurl.errors",
            errors="",
            a="from mcurl import b",
            b="from mcurl import c",
            c="from mcurl.a import x",
        )
    )
    assert "attic is not in the table" in forbidden(found, RULES)
    assert cycle(found) == ["a", "b", "c", "a"]
    lazily = arrows(make(tmp_path, c="def f():\n    from mcurl.a import x"))
    assert cycle(lazily) == []
