"""What is in C is built where there is a compiler, without a warning; where there is none, nothing breaks."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from mcurl import native
from mcurl.native import adam, frames
from mcurl.native.amx import dueling, encoder, head, transformer

SOURCES = sorted(Path(native.__file__).parent.glob("*.c"))
COMPILER = shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
needs_compiler = pytest.mark.skipif(COMPILER is None, reason="no C compiler here")


@needs_compiler
@pytest.mark.parametrize("source", SOURCES, ids=lambda path: path.name)
@pytest.mark.parametrize("threads", [[], ["-fopenmp"]])
def test_compiles_without_a_warning(source: Path, threads: list[str], tmp_path: Path) -> None:
    flags = ["-O3", "-fno-math-errno", "-fPIC", "-Wall", "-Wextra", "-Werror", "-Wno-unknown-pragmas", *threads]
    subprocess.run([COMPILER, *flags, "-c", str(source), "-o", str(tmp_path / "made.o")], check=True, timeout=60)


@needs_compiler
def test_what_compiles_is_used() -> None:
    """Falling back is silent: a mistake in the C would only show as slowness."""
    assert frames.available()
    assert adam.available()
    flags = Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").exists() else ""
    on_tiles = all(
        flag in flags
        for flag in ("amx_tile", "amx_int8", "amx_bf16", "avx512_bf16", "avx512bw", "avx512dq", "avx512vl")
    )
    for module in (encoder, transformer, head, dueling):
        assert module.available() == on_tiles


def test_it_can_be_switched_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(native, "unused", native.ALL)
    assert not any(module.available() for module in (adam, dueling, encoder, frames, head, transformer))


@needs_compiler
def test_a_changed_header_is_built_anew(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(native, "__file__", str(tmp_path / "__init__.py"))
    (tmp_path / "small.c").write_text('#include "number.h"\nint number(void) { return NUMBER; }')
    found = []
    for number in (1, 2):
        (tmp_path / "number.h").write_text(f"#define NUMBER {number}")
        native._library.cache_clear()
        library = native.library("small")
        assert library is not None
        found.append(library.number())
    native._library.cache_clear()
    assert found == [1, 2]


def test_without_a_compiler_there_is_no_library(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(shutil, "which", lambda name: None)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    native._library.cache_clear()
    try:
        assert native.library("frames") is None
        assert not list(tmp_path.rglob("*.so"))
    finally:
        native._library.cache_clear()


@needs_compiler
def test_a_broken_source_is_no_library(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    broken = tmp_path / "broken.c"
    broken.write_text("int broken(void) { return 0;")
    monkeypatch.setattr(native, "__file__", str(tmp_path / "__init__.py"))
    native._library.cache_clear()
    try:
        assert native.library("broken") is None
    finally:
        native._library.cache_clear()
