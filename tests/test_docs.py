"""The documentation's site: every page has a place, the reference is complete, links lead somewhere on both sides."""

from __future__ import annotations

import importlib
import importlib.util
import re
import sys
import types
from operator import attrgetter
from pathlib import Path
from typing import Any

import pytest

from mcurl import envs
from mcurl.agents.registry import AGENTS
from mcurl.config.fields import read_value
from mcurl.config.settings import Parts, known_settings
from mcurl.config.tasks import methods
from mcurl.parsers import build_parsers

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
TREES = re.findall(r"```\{toctree\}\n(.*?)```", (DOCS / "index.md").read_text(), re.DOTALL)
LISTED = [line for tree in TREES for line in tree.split("\n") if line and not line.startswith(":")]


def module(name: str) -> types.ModuleType:
    """A module of docs/."""
    spec = importlib.util.spec_from_file_location(name, DOCS / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    found = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(found)
    return found


@pytest.fixture(scope="module")
def settings() -> dict[str, Any]:
    """Full name -> description of each setting."""
    parts = [Parts.of(f"{suite}/x", method, agent) for suite in envs.SUITES for agent in AGENTS for method in methods()]
    return {key: setting for part in parts for key, setting in known_settings(part).items()}


@pytest.fixture(scope="module")
def reference() -> dict[str, str]:
    return dict(module("reference").pages())


@pytest.fixture
def conf(monkeypatch: pytest.MonkeyPatch) -> types.ModuleType:
    """conf.py, without Sphinx."""
    monkeypatch.setattr(sys, "path", list(sys.path))
    for name in ("sphinx", "sphinx.ext", "sphinx.ext.napoleon", "sphinx.ext.napoleon.docstring"):
        monkeypatch.setitem(sys.modules, name, types.ModuleType(name))
    napoleon = sys.modules["sphinx.ext.napoleon.docstring"]
    napoleon.GoogleDocstring = type("GoogleDocstring", (), {})  # type: ignore[attr-defined]
    return module("conf")


def test_every_page_is_in_the_toctree_once(conf: types.ModuleType, reference: dict[str, str]) -> None:
    pages = {str(path.relative_to(DOCS).with_suffix("")) for path in DOCS.rglob("*.md")} - {"index"}
    made = {name.removesuffix(".md") for name in reference} | set(conf.OUTSIDE.values())
    pages = {page for page in pages if not page.startswith("reference/")} | made
    assert sorted(LISTED) == sorted(pages)


def test_every_setting_is_in_the_reference(reference: dict[str, str], settings: dict[str, Any]) -> None:
    text = reference["reference/settings.md"]
    assert len(settings) > 80
    assert {key for key in settings if f"`{key}`\n: " not in text} == set()
    assert set(re.findall(r"^`([\w.]+)`\n: ", text, re.MULTILINE)) == settings.keys()


def test_ranges_units_and_defaults_are_in_the_reference(reference: dict[str, str]) -> None:
    text = reference["reference/settings.md"]
    [line] = re.findall(r"^`evaluation.every`\n: (.*)$", text, re.MULTILINE)
    assert "Default `20000`; a whole number; at least 0; in env steps" in line
    assert "atari `40000`" in line
    [line] = re.findall(r"^`mcurl.mask_rate`\n: (.*)$", text, re.MULTILINE)
    assert "Default `0.5`; a number; 0 to 1" in line


def rows(page: str) -> list[list[str]]:
    """The cells of the tables of a page."""
    lines = (DOCS / f"{page}.md").read_text().split("\n")
    return [re.split(r"(?<!\\) \| ", line.strip("| ")) for line in lines if line.startswith("| ")]


def named_code(cell: str) -> list[tuple[str, str]]:
    """The module and the name of what a cell like ``a/b.py: C.d``, ``e`` names."""
    found, module = [], ""
    for span in re.findall(r"`([^`]+)`", cell):
        path, colon, name = span.partition(".py: ")
        if colon:
            module = f"mcurl.{path.replace('/', '.')}"
        found.append((module, name if colon else span))
    return found


def has(module: str, name: str) -> bool:
    try:
        attrgetter(name)(importlib.import_module(module))
    except AttributeError:
        return False
    return True


def test_the_paper_map_names_what_there_is(settings: dict[str, Any]) -> None:
    named = [code for row in rows("paper_map")[1:] for code in named_code(row[-1]) if code[0]]
    assert len(named) > 40
    assert [code for code in named if code[1] not in settings and not has(*code)] == []


@pytest.mark.parametrize("page", sorted(path.stem for path in DOCS.glob("*.md") if path.stem != "paper_map"))
def test_code_that_a_page_names_with_its_file_is_there(page: str) -> None:
    named = re.findall(r"`([\w/]+\.py: [\w.]+)`", (DOCS / f"{page}.md").read_text())
    assert [code for code in named if not has(*named_code(f"`{code}`")[0])] == []


def test_settings_of_the_deviations_are_settings_that_take_their_values(settings: dict[str, Any]) -> None:
    named = [span for row in rows("deviations") if len(row) == 5 for span in re.findall(r"`([^`]+)`", row[-1])]
    assert len(named) > 25
    for span in named:
        key, _, text = span.partition("=")
        assert key in settings
        if text:
            settings[key].meta.check(key, read_value(key, settings[key].hint, text))


def test_every_command_and_option_is_in_the_reference(reference: dict[str, str]) -> None:
    _, parsers = build_parsers()
    pattern = re.compile(r"^## mcurl ([\w ]+)\n(.*?)(?=^## |\Z)", re.MULTILINE | re.DOTALL)
    sections = dict(pattern.findall(reference["reference/commands.md"]))
    assert set(sections) == set(parsers)
    for name, parser in parsers.items():
        for option in parser.options():
            assert f"\n`{option}" in sections[name], (name, option)


def test_every_module_of_the_python_reference_is_there(reference: dict[str, str]) -> None:
    names = re.findall(r"automodule:: (\S+)", reference["reference/api.md"])
    assert names[0] == "mcurl"
    for name in names:
        assert importlib.util.find_spec(name) is not None, name


@pytest.mark.parametrize(
    ("page", "folder", "text", "expected"),
    [
        ("scores", "docs", "[a](tune.md#x) [b](https://x.org)", "[a](tune.md#x) [b](https://x.org)"),
        ("scores", "docs", "![p](../y.png) [a](#here)", "![p](../y.png) [a](#here)"),
        ("report", "docs", "[`r`](report/index.html)", '<a href="report/index.html">r</a>'),
        ("report", "docs", "[r](../results/README.md#x)", "[r](reference/results.md#x)"),
        ("reference/results", "results", "[r](../docs/report/index.html)", '<a href="../report/index.html">r</a>'),
        (
            "reference/results",
            "results",
            "[c](../CHANGELOG.md) [d](../docs/a.md)",
            "[c](../reference/changelog.md) [d](../a.md)",
        ),
        ("reference/results", "results", "![p](../docs/plots/p.png)", "![p](../plots/p.png)"),
        ("reference/changelog", "", "[d](docs/a.md#b)", "[d](../a.md#b)"),
    ],
)
def test_links_are_adapted_to_the_site(
    conf: types.ModuleType, page: str, folder: str, text: str, expected: str
) -> None:
    assert conf.adapt_links(page, text, folder) == expected


def test_files_of_the_repository_are_linked_where_its_address_is_known(
    conf: types.ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(conf, "_source_url", lambda: "")
    assert conf.adapt_links("x", "[b](../results/bench/)") == "b"
    monkeypatch.setattr(conf, "_source_url", lambda: "https://x.org/blob/main/")
    assert conf.adapt_links("x", "[b](../results/bench/)") == "[b](https://x.org/blob/main/results/bench)"


def test_the_figure_is_the_one_that_its_script_draws() -> None:
    spec = importlib.util.spec_from_file_location("method", DOCS / "pictures" / "method.py")
    assert spec is not None
    assert spec.loader is not None
    method = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(method)
    figure = (DOCS / "pictures" / "method.svg").read_text()
    assert figure == method.figure()
    words = ("CNN", "masked sequence", "Transformer", "InfoNCE", "keys", "momentum copy", "RL loss", "thrown away")
    for word in words:
        assert word in figure


def test_the_pictures_are_small() -> None:
    assert (DOCS / "pictures" / "agent.gif").stat().st_size < 2e6
    assert all(path.stat().st_size < 2e5 for path in (DOCS / "pictures").glob("*.svg"))


def test_the_messages_of_the_troubleshooting_page_are_those_of_the_program() -> None:
    """The first words of each line in backticks that is a symptom, up to what depends on the user."""
    source = " ".join(path.read_text() for path in (ROOT / "src").rglob("*.py"))
    source = re.sub(r'"\s+f?"', "", source)  # strings over several lines
    page = (DOCS / "troubleshooting.md").read_text()
    symptoms = re.findall(r"^\| `([^`|]+)`", page, re.MULTILINE)
    phrases = [re.split(r"\.\.\.|settings.json|[=:{]|\d", symptom)[0].strip() for symptom in symptoms]
    assert len(symptoms) > 15
    assert [
        phrase for phrase in phrases if phrase.count(" ") > 1 and phrase not in source and "AVX" not in phrase
    ] == []
