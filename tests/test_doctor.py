"""`mcurl doctor`: what it says of this machine, and of machines on which something is missing."""

from __future__ import annotations

import json
import shutil
import subprocess
from typing import Any, NamedTuple

import pytest

from mcurl.cli import main
from mcurl.doctor import machine, opengl, packages, report
from mcurl.doctor.findings import Finding, Section
from mcurl.envs import dmc
from mcurl.envs.opengl import egl_works, osmesa_works
from mcurl.runtime.limits import Memory

Capture = pytest.CaptureFixture[str]
GB = 10**9


@pytest.fixture(scope="module")
def here() -> report.Report:
    return report.examine()


def test_the_report_of_this_machine(here: report.Report) -> None:
    values = json.loads(json.dumps(here.to_json()))
    assert {"machine", "compute", "native", "opengl", "packages"} < values.keys()
    assert values["compute"]["threads"] >= 1
    assert values["compute"]["precision"] in ("fp32", "tf32", "bf16")
    assert values["can_train"] == all(finding["level"] == "warning" for finding in values["findings"])
    assert values["machine"]["needed_disk_bytes"] > GB // 4
    text = here.to_text()
    assert max(map(len, text.splitlines())) <= 80
    for section in here.sections:
        assert section.title in text


def test_native_layers_are_those_of_native_status(here: report.Report) -> None:
    from mcurl import native

    section = next(section for section in here.sections if section.key == "native")
    assert section.values.keys() == native.ALL
    assert all(state in here.to_text() for state in set(section.values.values()) if len(state) < 40)


@pytest.mark.skipif(not (egl_works() or osmesa_works()), reason="no OpenGL")
def test_opengl_is_tried(here: report.Report) -> None:
    section = next(section for section in here.sections if section.key == "opengl")
    assert section.values["back_end"] in ("egl", "osmesa")
    assert section.values["milliseconds"] > 0
    assert section.values["renderer"] in here.to_text().replace("\n" + " " * 18, " ")
    assert not section.values["black"]


def fake(monkeypatch: Any, *sections: Section) -> None:
    monkeypatch.setattr(report, "examine", lambda progress: report.Report(list(sections)))


@pytest.mark.parametrize(("level", "status"), [("warning", 0), ("error", 1)])
def test_exit_status(monkeypatch: Any, capsys: Capture, level: Any, status: int) -> None:
    fake(monkeypatch, Section("opengl", "OpenGL", {"works": False}, [("works", "no")], [Finding(level, "no OpenGL")]))
    assert main(["doctor"]) == status
    out = capsys.readouterr().out
    assert f"{level} " in out
    assert ("cannot be trained" in out) == bool(status)
    assert main(["doctor", "--json"]) == status
    values = json.loads(capsys.readouterr().out)
    assert values["can_train"] == (not status)
    assert values["findings"] == [{"level": level, "text": "no OpenGL"}]
    assert values["opengl"] == {"works": False}


def test_what_breaks_in_an_unforeseen_way_does_not_end_the_report(monkeypatch: Any) -> None:
    def broken(*_: Any, **__: Any) -> Section:
        raise ZeroDivisionError("odd")

    monkeypatch.setattr(report, "opengl", broken)
    monkeypatch.setattr(report, "packages", broken)
    monkeypatch.setattr("mcurl.doctor.compute.compute", broken)
    found = report.examine()
    assert [section.key for section in found.sections] == ["machine", "compute", "opengl", "packages"]
    assert not found.can_train
    assert "ZeroDivisionError: odd" in found.to_text()


def test_without_opengl(monkeypatch: Any) -> None:
    monkeypatch.setenv("MUJOCO_GL", "off")
    section = opengl.opengl("dmc/cartpole-swingup", gpu=False)
    assert [finding.level for finding in section.findings] == ["error"]
    assert "MUJOCO_GL=off" in section.findings[0].text


@pytest.mark.parametrize(
    ("status", "stdout", "stderr", "text"),
    [
        (-11, "", "", "OpenGL ends its process (SIGSEGV)"),
        (1, "", "Traceback\nImportError: libGL.so.1\n", "(ImportError: libGL.so.1)"),
    ],
)
def test_a_broken_library(monkeypatch: Any, status: int, stdout: str, stderr: str, text: str) -> None:
    done = subprocess.CompletedProcess([], status, stdout, stderr)
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: done)
    (finding,) = opengl.opengl("dmc/cartpole-swingup", gpu=False).findings
    assert finding.level == "error"
    assert text in finding.text
    assert "libosmesa6" in finding.text


def rendered(monkeypatch: Any, **changes: Any) -> list[Finding]:
    values = {"back_end": "egl", "renderer": "llvmpipe (LLVM 15)", "milliseconds": 9.0, "image_size": 100}
    done = subprocess.CompletedProcess([], 0, json.dumps(values | {"black": False} | changes), "")
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: done)
    return list(opengl.opengl("dmc/cartpole-swingup", gpu=True).findings)


def test_software_rendering_beside_a_gpu_and_black_images(monkeypatch: Any) -> None:
    assert rendered(monkeypatch, renderer="NVIDIA H200/PCIe/SSE2") == []
    (slow,) = rendered(monkeypatch)
    assert slow.level == "warning"
    assert "renders on the CPU" in slow.text
    (black,) = rendered(monkeypatch, renderer="NVIDIA", black=True)
    assert black.level == "error"


class Usage(NamedTuple):
    free: int


@pytest.mark.parametrize(
    ("total", "free", "disk", "levels"),
    [(32, 16, 90, []), (32, 1, 90, ["warning"]), (1, 1, 90, ["error"]), (32, 16, 1, ["error"])],
)
def test_memory_and_disk(monkeypatch: Any, total: int, free: int, disk: int, levels: list[str]) -> None:
    monkeypatch.setattr(machine, "machine_memory", lambda: Memory(total * GB, free * GB))
    monkeypatch.setattr(shutil, "disk_usage", lambda path: Usage(disk * GB))
    monkeypatch.setattr("os.getloadavg", lambda: (0.0, 0.0, 0.0))
    section = machine.machine(machine.Need(2 * GB, 2 * GB))
    assert [finding.level for finding in section.findings] == levels


def required(monkeypatch: Any, lines: list[str], installed: dict[str, str]) -> Section:
    def find(name: str) -> Any:
        if name not in installed:
            raise packages.PackageNotFoundError(name)
        return type("Found", (), {"version": installed[name]})

    monkeypatch.setattr(packages, "requires", lambda name: lines)
    monkeypatch.setattr(packages, "distribution", find)
    return packages.packages()


LINES = [
    "numpy>=1.26.4",
    "mujoco<4,>=3.17; extra == 'dmc'",
    "av>=14; extra == 'video'",
    "pillow>=10.1; extra == 'video'",
    "old>=1; python_version < '3'",
    "mcurl[dmc]; extra == 'dev'",
    "ruff; extra == 'dev'",
]


@pytest.mark.parametrize(
    ("installed", "findings"),
    [
        ({"numpy": "2.0", "mujoco": "3.17.0"}, []),
        ({"numpy": "2.0"}, [("error", f"mujoco is not installed: {dmc.install_command()}")]),
        ({"mujoco": "3.17.0"}, [("error", "numpy is not installed: pip install mcurl")]),
        (
            {"numpy": "2.0", "mujoco": "4.0.0"},
            [("warning", f"mujoco is 4.0.0, but <4,>=3.17 is supported: {dmc.install_command()}")],
        ),
        (
            {"numpy": "2.0", "mujoco": "3.18", "av": "15"},
            [("warning", "pillow is not installed: pip install 'mcurl[video]'")],
        ),
    ],
)
def test_packages(monkeypatch: Any, installed: dict[str, str], findings: list[Finding]) -> None:
    section = required(monkeypatch, LINES, installed)
    assert section.findings == findings
    rows = dict(section.rows)
    assert rows.keys() == {"mcurl", "required", "[dmc]", "[video]"}
    if "av" not in installed:
        assert rows["[video]"] == "missing: av, pillow (pip install 'mcurl[video]', for videos)"


@pytest.mark.parametrize("name", ["dm_control", "dm-control"])  # the second one is in the metadata of a wheel
def test_dm_control_is_a_second_step_where_it_is_no_requirement(monkeypatch: Any, name: str) -> None:
    command = "pip install 'mcurl[dmc]' && pip install --no-deps dm_control==1.0.50"
    monkeypatch.setattr(dmc, "install_command", lambda: command)
    lines = ["numpy>=1.26.4", f"{name}==1.0.50; (python_version < '3') and extra == 'dmc'"]
    section = required(monkeypatch, lines, {"numpy": "2.0"})
    assert section.findings == [("error", f"{name} is not installed: {command}")]
    assert required(monkeypatch, lines, {"numpy": "2.0", name: "1.0.50"}).findings == []
