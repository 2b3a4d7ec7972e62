"""Who imports whom: the table of docs/architecture.md. A room is a module or a package right below ``mcurl``."""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

import pytest

import mcurl

PACKAGE = Path(mcurl.__file__).parent
EVERYWHERE = {"errors", "__init__"}
"""Rooms that every other may import (``__init__`` holds the version)."""
PARTS = {
    "envs",
    "replay",
    "networks",
    "objectives",
    "agents",
    "device",
    "checkpoint",
    "runs",
    "config",
    "evaluate",
    "display",
    "batches",
    "seeding",
    "stop_on_signal",
}
RULES: dict[str, set[str]] = {
    "__init__": set(),
    "errors": set(),
    "seeding": set(),
    "stop_on_signal": set(),
    "provenance": set(),
    "settings_help": set(),
    "device": {"provenance", "native"},
    "side_by_side": {"stop_on_signal"},
    "checkpoint": set(),
    "display": set(),
    "published": set(),
    "experiments": set(),
    "envs": set(),
    "native": set(),
    "replay": {"native"},
    "networks": {"native"},
    "objectives": {"networks"},
    "agents": {"objectives", "networks", "replay.batch", "replay.augment", "native"},
    "graphs": {"replay.batch"},
    "runs": {"checkpoint", "provenance"},
    "config": {"settings_help", "envs", "replay", "objectives", "agents", "device"},
    "evaluate": {"envs", "seeding"},
    "batches": {"replay", "objectives", "agents.base", "seeding"},
    "assemble": PARTS,
    "train": PARTS | {"assemble", "graphs", "published"},
    "bench": PARTS | {"assemble", "graphs", "provenance", "native"},
    "report": {"published"},
    "cli": {
        "config",
        "settings_help",
        "train",
        "evaluate",
        "runs",
        "display",
        "stop_on_signal",
        "report",
        "bench",
        "side_by_side",
        "provenance",
    },
    "__main__": {"cli"},
}
"""Room -> what it may import beside itself and EVERYWHERE: a room, or one module of it."""
NO_TORCH = {
    "report",
    "published",
    "display",
    "settings_help",
    "errors",
    "seeding",
    "stop_on_signal",
    "side_by_side",
    "cli",
    "envs",
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


def forbidden(found: list[Arrow], rules: Mapping[str, set[str]]) -> list[str]:
    """What the table does not allow, in words."""
    wrong = []
    for arrow in found:
        source, target = arrow.source.partition(".")[0], arrow.target.partition(".")[0]
        if source not in rules:
            wrong.append(f"{source} is not in the table")
        elif source != target and target not in EVERYWHERE and not {target, arrow.target} & rules[source]:
            wrong.append(f"{arrow.source} imports {arrow.target}")
    return sorted(set(wrong))


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


def test_every_room_is_in_the_table() -> None:
    assert {module.partition(".")[0] for module in modules(PACKAGE)} <= set(RULES)


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
    assert {module for module in uses if module.partition(".")[0] in NO_TORCH} == set()
    assert "train" in uses


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
    found = arrows(make(tmp_path, runs=text, train=""))
    assert found == [Arrow("runs", "train", lazy)]
    assert forbidden(found, RULES) == ["runs imports train"]


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
    assert Arrow("replay.buffer", "errors", False) in found


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
