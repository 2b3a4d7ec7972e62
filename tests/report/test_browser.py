"""The page in headless Chromium, narrow and wide, light and dark."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from browser import CHROMIUM, Browser
from examples import HOSTILE, report

from mcurl.report import contents, files
from mcurl.report.store import read
from mcurl.suites.suite import Suite

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium")
RESULTS = Path(__file__).parents[2] / "results"
SCREENS = [(width, scheme) for width in (400, 1400) for scheme in ("light", "dark")]

OVERFLOW = """
[...document.querySelectorAll("body *")].filter((item) => {
  const box = item.getBoundingClientRect();
  const hidden = item.closest(".visually-hidden, .skip, .scroll, svg") !== null;
  return !hidden && box.width > 0 && (box.right > innerWidth + 1 || box.left < -1);
}).map((item) => item.outerHTML.slice(0, 120))
"""
# Text of plots that leaves its plot or lies on other text of it.
PLOTS = """
[...document.querySelectorAll("figure > svg")].flatMap((plot) => {
  const frame = plot.getBoundingClientRect();
  const boxes = [...plot.querySelectorAll("text")].map((item) => [item.getBoundingClientRect(), item.textContent]);
  const outside = boxes.filter(([box]) => box.left < frame.left - 8 || box.right > frame.right + 8);
  const over = boxes.filter(([a], i) => boxes.slice(i + 1).some(([b]) =>
    a.left < b.right - 1 && b.left < a.right - 1 && a.top < b.bottom - 3 && b.top < a.bottom - 3));
  return [...outside, ...over].map(([, text]) => text);
})
"""
# Of each text element, the contrast of its colour with what it stands on.
CONTRAST = """
(() => {
  const parse = (text) => text.match(/[\\d.]+/g).map(Number);
  const linear = (v) => v <= .04045 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4;
  const light = ([r, g, b]) => [r, g, b].map((v) => linear(v / 255))
    .reduce((sum, v, i) => sum + v * [.2126, .7152, .0722][i], 0);
  const ground = (item) => {
    for (let at = item; at; at = at.parentElement) {
      const colour = parse(getComputedStyle(at).backgroundColor);
      if (colour.length === 3 || colour[3] > 0) return colour;
    }
    return [255, 255, 255];
  };
  const found = [];
  for (const item of document.querySelectorAll("body *")) {
    if (![...item.childNodes].some((node) => node.nodeType === 3 && node.textContent.trim())) continue;
    if (["SCRIPT", "TITLE", "title"].includes(item.tagName)) continue;
    const style = getComputedStyle(item);
    const ink = parse(item instanceof SVGElement ? style.fill : style.color);
    const [low, high] = [light(ink), light(ground(item))].sort((a, b) => a - b);
    const ratio = (high + .05) / (low + .05);
    if (ratio < 4.5) found.push(`${ratio.toFixed(2)} ${item.outerHTML.slice(0, 100)}`);
  }
  return found;
})()
"""
SMALL = """
[...document.querySelectorAll("body *")].filter((item) => item.childNodes.length)
  .filter((item) => parseFloat(getComputedStyle(item).fontSize) < 9.5)
  .filter((item) => !item.closest("sup, title, script")).map((item) => item.outerHTML.slice(0, 100))
"""


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with Browser(tmp_path_factory.mktemp("profile")) as browser:
        yield browser


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The page over the shipped results, and of a suite with many missing runs."""
    folder = tmp_path_factory.mktemp("report")
    runs = read([RESULTS])
    files.write(contents.report(runs), folder / "all", png=False)
    files.write(contents.report(runs, [Suite.load("figure3")]), folder / "figure3", png=False)
    files.write(report(HOSTILE), folder / "hostile", png=False)
    return folder


def column(browser: Browser, index: int) -> Any:
    rows = "[...document.querySelector('table').tBodies[0].rows]"
    return browser.evaluate(f"{rows}.map((row) => row.cells[{index}].innerText)")


def scores(browser: Browser, index: int) -> list[float]:
    """Of a column; games without a run must follow the others."""
    cells = [text.split("\n")[0].replace("\u2212", "-") for text in column(browser, index)]
    made = [cell for cell in cells if cell != "\u2013"]
    assert cells == made + ["\u2013"] * (len(cells) - len(made))
    return [float(cell) for cell in made]


@pytest.mark.parametrize(("width", "scheme"), SCREENS)
@pytest.mark.parametrize("name", ["all", "figure3"])
def test_nothing_overflows_and_all_text_can_be_read(
    browser: Browser, page: Path, name: str, width: int, scheme: str
) -> None:
    browser.open(page / name / "index.html", width, scheme)
    assert browser.evaluate("document.documentElement.scrollWidth") == width
    assert browser.evaluate(OVERFLOW) == []
    assert browser.evaluate(PLOTS) == []
    assert browser.evaluate(CONTRAST) == []
    assert browser.evaluate(SMALL) == []


def test_light_and_dark_follow_the_reader(browser: Browser, page: Path) -> None:
    colours = {}
    for scheme in ("light", "dark"):
        browser.open(page / "all" / "index.html", 1400, scheme)
        colours[scheme] = browser.evaluate("getComputedStyle(document.body).backgroundColor")
    assert colours == {"light": "rgb(251, 250, 248)", "dark": "rgb(29, 32, 36)"}


def test_tables_are_sorted_with_the_mouse_and_with_the_keyboard(browser: Browser, page: Path) -> None:
    browser.open(page / "all" / "index.html", 1400)
    games = column(browser, 0)
    assert games == sorted(games)
    browser.evaluate("document.querySelectorAll('th button')[3].click()")  # RL alone
    falling = scores(browser, 3)
    assert len(falling) >= 4
    assert falling == sorted(falling, reverse=True)
    assert browser.evaluate("document.querySelector('th[aria-sort]').ariaSort") == "descending"
    assert browser.evaluate("document.getElementById('sorted').textContent") == "Sorted by RL alone, descending"
    browser.evaluate("document.querySelectorAll('th button')[3].focus()")
    browser.press("Enter", 13, "\r")
    assert scores(browser, 3) == falling[::-1]
    browser.evaluate("document.querySelectorAll('th button')[0].focus()")
    browser.press(" ", 32, " ")
    assert column(browser, 0) == games
    browser.press(" ", 32, " ")
    assert column(browser, 0) == games[::-1]
    assert browser.evaluate("document.querySelectorAll('th[aria-sort]').length") == 1


def test_decimal_points_stand_below_each_other(browser: Browser, page: Path) -> None:
    browser.open(page / "all" / "index.html", 1400)
    ends = browser.evaluate("""
[...document.querySelectorAll("table")[0].tBodies[0].rows].map((row) => row.cells[6].firstChild).map((item) => {
  const range = document.createRange(), text = item.firstChild, point = text.data.indexOf(".");
  range.setStart(text, 0); range.setEnd(text, point < 0 ? text.data.length : point);
  return range.getBoundingClientRect().right;
})""")
    assert max(ends) - min(ends) < 1


def test_a_page_of_hostile_names_runs_nothing_and_asks_for_nothing(browser: Browser, page: Path) -> None:
    browser.requests.clear()
    browser.messages.clear()
    browser.open(page / "hostile" / "index.html", 400)
    assert browser.evaluate("document.querySelectorAll('img, iframe, object, link').length") == 0
    browser.evaluate("document.querySelector('th button').click()")
    assert browser.requests == [(page / "hostile" / "index.html").as_uri()]
    assert browser.messages == []
    assert browser.evaluate("document.documentElement.scrollWidth") == 400
