"""The documentation's site: `make docs` builds it in build/docs. The pages are also read in the repository itself."""

from __future__ import annotations

import posixpath
import re
import shutil
import sys
import tomllib
from pathlib import Path
from typing import Any

from sphinx.ext.napoleon.docstring import GoogleDocstring

DOCS = Path(__file__).parent
ROOT = DOCS.parent
sys.path[:0] = [str(ROOT / "src"), str(DOCS)]

project = "mcurl"
author = "The mcurl authors"
release = re.search(r'__version__ = "(.+)"', (ROOT / "src/mcurl/__init__.py").read_text())[1]
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx.ext.viewcode"]
exclude_patterns = ["pictures", "plots"]

html_theme = "furo"
html_title = f"mcurl {release}"
html_copy_source = False
toc_object_entries = False
myst_heading_anchors = 4
myst_enable_extensions = ["deflist"]

autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_typehints_format = "short"
autodoc_mock_imports = ["stable_baselines3", "torchrl", "tensordict"]
napoleon_numpy_docstring = False
napoleon_use_ivar = True
# Napoleon would read the docstring of an attribute up to a colon as its type.
GoogleDocstring._parse_attribute_docstring = lambda self: self._consume_to_end()

OUTSIDE = {"results/README.md": "reference/results", "CHANGELOG.md": "reference/changelog"}
"""Pages outside docs/ -> their copies in docs/reference/. All of docs/reference/ is made at each build."""


def _source_url() -> str:
    """Address of the repository's files, from pyproject.toml; empty if that has none."""
    urls = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"].get("urls", {})
    found = {name.lower(): url for name, url in urls.items()}
    url = next((found[name] for name in ("source", "repository", "homepage") if name in found), "")
    return f"{url.rstrip('/')}/blob/main/" if url else ""


def adapt_links(page: str, text: str, folder: str = "docs") -> str:
    """A page with its relative links as the site needs them.

    Pages outside docs/ have copies; the report's page is copied as it is; other files are at the repository.

    Args:
        page: path of the page from docs/, without its suffix.
        text: the page.
        folder: path from the root that the links are relative to.
    """
    up = "../" * page.count("/")

    def link(match: re.Match[str]) -> str:
        image, label, target, anchor = match[1], match[2], match[3], match[4] or ""
        if "://" in target:
            return match[0]
        path = posixpath.normpath(posixpath.join(folder, target))
        if image and not path.startswith("docs/"):
            return match[0]
        if path == "docs/report/index.html":
            return f'<a href="{up}report/index.html">{label.replace("`", "")}</a>'
        if path in OUTSIDE:
            return f"[{label}]({up}{OUTSIDE[path]}.md{anchor})"
        if path.startswith("docs/"):
            return f"{image}[{label}]({up}{path.removeprefix('docs/')}{anchor})"
        return f"[{label}]({url}{path}{anchor})" if (url := _source_url()) else label

    return re.sub(r"(!?)\[([^\]]+)\]\(([^)#\s]+)(#[^)]*)?\)", link, text)


def _write_reference(app: Any) -> None:
    import reference

    pages = dict(reference.pages())
    for source, page in OUTSIDE.items():
        pages[f"{page}.md"] = adapt_links(page, (ROOT / source).read_text(), posixpath.dirname(source))
    for name, text in pages.items():
        path = DOCS / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)


def _read(app: Any, page: str, source: list[str]) -> None:
    if not page.startswith("reference/"):
        source[0] = adapt_links(page, source[0], posixpath.dirname(f"docs/{page}"))


def _copy_report(app: Any, error: Exception | None) -> None:
    """The report's page, as a file of its own beside the page of the same contents."""
    if error is None:
        shutil.copy(DOCS / "report/index.html", Path(app.outdir) / "report/index.html")


def setup(app: Any) -> None:
    """Called by Sphinx."""
    app.connect("builder-inited", _write_reference)
    app.connect("source-read", _read)
    app.connect("build-finished", _copy_report)
