"""A command that is printed can be typed as it stands."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

from mcurl.runtime.program import command_line

SCRIPTS = Path(sys.executable).parent


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def environment(folder: Path, monkeypatch: pytest.MonkeyPatch, *, script: bool = True) -> Path:
    """A stand-in for the virtual environment that this process runs in, which is not activated."""
    (folder / "bin").mkdir(parents=True)
    (folder / "bin" / "python").symlink_to(sys.executable)
    if script:
        (folder / "bin" / "mcurl").write_text('#!/bin/sh\nfor word; do echo "$word"; done\n')
        (folder / "bin" / "mcurl").chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(folder / "bin" / "python"))
    monkeypatch.setattr(sysconfig, "get_path", lambda name: str(folder / "bin"))
    monkeypatch.setenv("PATH", "/usr/bin:/bin")
    return folder / "bin"


def test_the_name_is_enough_where_the_shell_finds_it() -> None:
    assert command_line("resume", "runs/x") == "mcurl resume runs/x"


def test_the_path_is_printed_where_it_does_not(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = environment(here / ".venv", monkeypatch)
    assert command_line("resume", "runs/x") == ".venv/bin/mcurl resume runs/x"
    (here / "elsewhere").mkdir()
    monkeypatch.chdir(here / "elsewhere")
    assert command_line("resume", "runs/x") == f"{folder}/mcurl resume runs/x"
    monkeypatch.setenv("PATH", f"/usr/bin:/bin:{folder}")
    assert command_line("resume", "runs/x") == "mcurl resume runs/x"


def test_another_installation_is_not_called(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    environment(here / ".venv", monkeypatch)
    (here / "other").mkdir()
    shutil.copy(here / ".venv" / "bin" / "mcurl", here / "other" / "mcurl")
    monkeypatch.setenv("PATH", f"{here / 'other'}{os.pathsep}/usr/bin:/bin")
    assert command_line("resume", "x") == ".venv/bin/mcurl resume x"


def test_without_a_script_the_interpreter_is_called(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    environment(here / ".venv", monkeypatch, script=False)
    assert command_line("resume", "x") == ".venv/bin/python -m mcurl resume x"


def test_a_shell_reads_paths_with_spaces_as_one_word(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    environment(here / "my own" / ".venv", monkeypatch)
    line = command_line("resume", Path("my runs/it's-seed1"))
    assert shlex.split(line) == ["my own/.venv/bin/mcurl", "resume", "my runs/it's-seed1"]
    said = subprocess.run(line, shell=True, capture_output=True, text=True, check=True).stdout
    assert said == "resume\nmy runs/it's-seed1\n"
