"""The page and its plots as text: well-formed, escaped, self-contained."""

from __future__ import annotations

import base64
import hashlib
import re
from html.parser import HTMLParser
from xml.etree import ElementTree

from examples import HOSTILE, figure, report

from mcurl.report.html import page
from mcurl.report.svg import describe, figure_svg, panel_svg

VOID = {"meta", "img", "br", "hr", "link", "input"}


class Parser(HTMLParser):
    """Collects elements and text, and checks that every element is closed."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.text = ""
        self.feed(text)
        assert not self.open

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attributes)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attributes)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


def test_hostile_names_are_only_text() -> None:
    harmless, hostile = Parser(page(report())), Parser(page(report(HOSTILE), {"scores": (HOSTILE,)}))
    kinds = {tag for tag, _ in harmless.elements}
    assert {tag for tag, _ in hostile.elements} == kinds
    names = {name for _, attributes in hostile.elements for name in attributes}
    assert not any(name.startswith("on") for name in names)
    assert hostile.text.count("onerror=alert(1)") > 10
    assert [tag for tag, _ in hostile.elements].count("script") == 1


def test_only_the_page_s_own_script_and_style_may_run() -> None:
    text = page(report())
    policy = re.search(r'Content-Security-Policy" content="([^"]*)"', text)
    assert policy is not None
    assert policy[1].startswith("default-src 'none'")
    for tag in ("script", "style"):
        content = re.search(rf"<{tag}>(.*?)</{tag}>", text, re.DOTALL)
        assert content is not None
        assert base64.b64encode(hashlib.sha256(content[1].encode()).digest()).decode() in policy[1]
    assert not re.search(r"(src|href)=\"?(https?:|//)", text)
    assert " style=" not in text


def test_tables_and_plots_can_be_read_without_eyes() -> None:
    parsed = Parser(page(report()))
    ids = [attributes["id"] for _, attributes in parsed.elements if "id" in attributes]
    assert len(set(ids)) == len(ids)
    for tag, attributes in parsed.elements:
        if "aria-labelledby" in attributes:
            assert attributes["aria-labelledby"] in ids, tag
        if tag == "a" and str(attributes.get("href")).startswith("#"):
            assert str(attributes["href"])[1:] in ids
    scopes = {attributes.get("scope") for tag, attributes in parsed.elements if tag == "th"}
    assert scopes == {"col", "row", "colgroup"}
    plots = [attributes for tag, attributes in parsed.elements if tag == "svg" and attributes.get("role") == "img"]
    assert len(plots) == 4
    assert plots[0]["aria-label"] == "a task. a task: 2.0 at 1000; a task: 1.50 at 1000."
    assert describe(figure(), figure().panels[3]) == "empty. no run yet."


def test_pictures_are_well_formed_and_inside_their_frame() -> None:
    for text in ("a task", HOSTILE):
        root = ElementTree.fromstring(figure_svg(figure(text)))
        width, height = (float(root.attrib[name]) for name in ("width", "height"))
        assert width > height > 300
        for panel in figure(text).panels:
            ElementTree.fromstring(panel_svg(figure(text), panel))
    legend = "".join(root.itertext())
    assert "onerror" in legend
    assert not root.findall(".//{*}img")


def test_a_single_point_is_a_dot_and_a_few_points_have_dots() -> None:
    single, pair = (panel_svg(figure(), figure().panels[i]) for i in (2, 0))
    assert re.findall(r'class="dot" [^>]*r="([\d.]+)"', single) == ["3.5"]
    assert len(re.findall('class="dot"', pair)) == 2
    assert 'class="seed"' not in pair, "a band stands for the seeds"
    assert panel_svg(figure(), figure().panels[1]).count('class="seed"') == 2


def test_equal_reports_are_equal_pages() -> None:
    assert page(report()) == page(report())
    assert figure_svg(figure()) == figure_svg(figure())
