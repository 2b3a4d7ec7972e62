"""A report as a folder: the page, Markdown, and the CSV, SVG and PNG files of each table and figure.

The folder is written beside its place and renamed: a reader finds the old report or the new one, never half of one. A
list of files with their hashes tells a report of ours from anything else, which is never touched.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from pathlib import Path

from mcurl import files as plain
from mcurl.errors import UserError
from mcurl.report import plot
from mcurl.report.html import page
from mcurl.report.model import Block, Claims, Figure, Report, Table
from mcurl.report.svg import figure_svg
from mcurl.report.text import claims_csv, figure_csv, report_markdown, table_csv

MANIFEST = "files.json"
"""File that lists the others, with their hashes."""
FORMAT = "mcurl report 1"


def write(report: Report, folder: Path, png: bool = True) -> list[Path]:
    """Write a report into a folder, in place of an earlier report there.

    Args:
        report: the report.
        folder: the folder; it is made if there is none.
        png: also draw each figure as PNG, which needs matplotlib.

    Returns:
        The files, ``index.html`` first.

    Raises:
        UserError: the folder holds anything else than an unchanged report, or matplotlib is not installed.
    """
    if png:
        plot.check_matplotlib()
    folder = Path(os.path.realpath(folder))
    check_replaceable(folder)
    folder.parent.mkdir(parents=True, exist_ok=True)
    with plain.folder_aside(folder) as aside:
        names = _write_files(report, aside, png)
        aside.chmod(0o755)
        plain.sync_all(aside)
        _replace(aside, folder)
    return [folder / name for name in names]


def check_replaceable(folder: Path) -> None:
    """Raise UserError if a folder holds a file that is not part of a report, or that was changed after it was made."""
    if not folder.exists():
        return
    if not folder.is_dir():
        raise UserError(f"{folder} is a file; choose a folder for the report with --out")
    found = {path.relative_to(folder).as_posix() for path in folder.rglob("*")}
    if not found:
        return
    try:
        manifest = plain.read_object(folder / MANIFEST)
        files = dict(manifest["files"]) if manifest["format"] == FORMAT else {}
    except (UserError, ValueError, KeyError, TypeError):
        raise UserError(f"{folder} is not empty and not a report: choose another folder with --out") from None
    for name in sorted(found - {MANIFEST}):
        if name not in files:
            raise UserError(f"{folder / name} is not part of the report: move it, or choose another folder with --out")
        if _hash(folder / name) != files[name]:
            raise UserError(f"{folder / name} was changed by hand: move it, or choose another folder with --out")


def _replace(aside: Path, folder: Path) -> None:
    """Put a folder in the place of another, which goes when the new one stands."""
    if not folder.exists():
        aside.rename(folder)
        plain.sync(folder.parent)
        return
    old = Path(tempfile.mkdtemp(prefix=f".{folder.name}-old-", dir=folder.parent))
    folder.rename(old / folder.name)
    try:
        aside.rename(folder)
    except BaseException:
        (old / folder.name).rename(folder)
        old.rmdir()
        raise
    plain.sync(folder.parent)
    shutil.rmtree(old)


def _write_files(report: Report, folder: Path, png: bool) -> list[str]:
    files = {block.key: _block_files(block, folder, png) for block in report.blocks()}
    (folder / "report.md").write_text(report_markdown(report), encoding="utf-8")
    (folder / "index.html").write_text(page(report, files), encoding="utf-8")
    names = ["index.html", "report.md", *(name for group in files.values() for name in group)]
    manifest = {"format": FORMAT, "files": {name: _hash(folder / name) for name in sorted(names)}}
    (folder / MANIFEST).write_text(json.dumps(manifest, indent=1) + "\n", encoding="utf-8")
    return names


def _block_files(block: Block, folder: Path, png: bool) -> tuple[str, ...]:
    texts = {f"{block.key}.csv": _csv(block)}
    if isinstance(block, Figure):
        texts[f"{block.key}.svg"] = figure_svg(block)
    for name, text in texts.items():
        if (folder / name).exists():
            raise UserError(f"two parts of the report are called {block.key}: report their suites apart")
        (folder / name).write_text(text, encoding="utf-8")
    if isinstance(block, Figure) and png:
        plot.save(block, folder / f"{block.key}.png")
        return (*texts, f"{block.key}.png")
    return tuple(texts)


def _csv(block: Block) -> str:
    if isinstance(block, Table):
        return table_csv(block)
    return claims_csv(block) if isinstance(block, Claims) else figure_csv(block)


def _hash(path: Path) -> str:
    """SHA-256 of a file; empty if it is no plain file, or too large for a file of a report."""
    try:
        return hashlib.sha256(plain.read_bytes(path, plain.TEXT_BYTES)).hexdigest()
    except (UserError, OSError):
        return ""
