"""A report as one HTML page without any other file: no network, light and dark, sortable tables, readable at any width.

Everything that comes from files is escaped. A content security policy allows the page's own script and style alone, so
that not even a mistake here would run a stranger's.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping
from html import escape
from importlib import resources

from mcurl.report import svg
from mcurl.report.model import Cell, CheckedClaim, Claims, Column, Figure, Report, Section, Table
from mcurl.report.palette import STYLES
from mcurl.report.text import VERDICTS

SIGNS = {"agrees": "✓", "disagrees": "✗", "unknown": "·"}


def page(report: Report, files: Mapping[str, tuple[str, ...]] | None = None) -> str:
    """The page.

    Args:
        report: the report.
        files: key of a table, figure or list of claims -> names of its files, which the page links to.
    """
    style, script = _asset("page.css") + _colours(), _asset("page.js")
    policy = f"default-src 'none'; style-src {_hash(style)}; script-src {_hash(script)}; base-uri 'none'"
    links = "".join(f'<li><a href="#{escape(item.key)}">{escape(item.title)}</a></li>' for item in report.sections)
    body = "".join(_section(section, files or {}) for section in report.sections)
    command = f'<p class="command">Made by <code>{escape(report.command)}</code></p>' if report.command else ""
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<meta name="color-scheme" content="light dark">\n<meta name="generator" content="mcurl report">\n'
        f"<title>{escape(report.title)}</title>\n<style>{style}</style>\n</head>\n<body>\n"
        '<a class="skip" href="#content">Skip to the content</a>\n'
        f"<header><h1>{escape(report.title)}</h1>{_paragraphs(report.paragraphs)}{command}"
        f'<nav aria-label="Sections"><ul>{links}</ul></nav></header>\n'
        f'<main id="content">{body}</main>\n'
        '<p class="visually-hidden" role="status" aria-live="polite" id="sorted"></p>\n'
        f"<script>{script}</script>\n</body>\n</html>\n"
    )


def _section(section: Section, files: Mapping[str, tuple[str, ...]]) -> str:
    parts = []
    for block in section.blocks:
        if isinstance(block, Table):
            parts.append(_table(block, files.get(block.key, ())))
        elif isinstance(block, Figure):
            parts.append(_figure(block, files.get(block.key, ())))
        else:
            parts.append(_claims(block, files.get(block.key, ())))
    return (
        f'<section id="{escape(section.key)}" aria-labelledby="{escape(section.key)}-title">'
        f'<h2 id="{escape(section.key)}-title">{escape(section.title)}</h2>'
        f"{_paragraphs(section.paragraphs)}{''.join(parts)}</section>\n"
    )


def _table(table: Table, files: tuple[str, ...]) -> str:
    notes = {note: i + 1 for i, note in enumerate(table.notes())}
    decimals = [_decimals(table, i) for i in range(len(table.columns))]

    def row(cells: tuple[Cell, ...]) -> str:
        inner = [
            _cell(cell, column, notes, table.key, decimals[i], i == 0)
            for i, (cell, column) in enumerate(zip(cells, table.columns, strict=True))
        ]
        return f"<tr>{''.join(inner)}</tr>"

    body = "".join(row(cells) for cells in table.rows)
    footer = f"<tfoot>{''.join(row(cells) for cells in table.footer)}</tfoot>" if table.footer else ""
    title = f"{table.key}-title"
    footnotes = "".join(
        f'<li id="{escape(table.key)}-note-{number}">{escape(note)}</li>' for note, number in notes.items()
    )
    return (
        f'<section class="block" aria-labelledby="{escape(title)}">{_heading(table, files)}'
        f'<div class="scroll" role="region" tabindex="0" aria-labelledby="{escape(title)}">'
        f'<table aria-labelledby="{escape(title)}"><thead>{_table_head(table, notes)}</thead>'
        f"<tbody>{body}</tbody>{footer}</table></div>"
        f"{f'<ol class=notes>{footnotes}</ol>' if footnotes else ''}</section>"
    )


def _table_head(table: Table, notes: dict[str, int]) -> str:
    heads = []
    for i, column in enumerate(table.columns):
        kind = "" if column.numeric else ' class="text"'
        # The footnote's number belongs to the heading's last word; a link cannot stand in a button.
        sign = f"\u2060<sup>{notes[column.note]}</sup>" if column.note else ""
        data = f'data-column="{i}" data-label="{escape(column.label)}" title="{escape(column.note)}"'
        heads.append(
            f'<th scope="col"{kind}><button type="button" {data}>{escape(column.label)}{sign}'
            f'<span class="arrow" aria-hidden="true"></span></button></th>'
        )
    groups = [column.group for column in table.columns]
    line = ""
    if any(groups):
        spans: list[tuple[str, int]] = []
        for group in groups:
            if spans and spans[-1][0] == group:
                spans[-1] = (group, spans[-1][1] + 1)
            else:
                spans.append((group, 1))
        line = f'<tr class="groups">{"".join(_group_head(group, span) for group, span in spans)}</tr>'
    return f"{line}<tr>{''.join(heads)}</tr>"


def _group_head(group: str, span: int) -> str:
    if not group:
        return f'<td colspan="{span}"></td>'
    return f'<th scope="colgroup" colspan="{span}"><span><span>{escape(group)}</span></span></th>'


def _cell(cell: Cell, column: Column, notes: dict[str, int], key: str, decimals: int, first: bool) -> str:
    tag = "th" if first else "td"
    scope = ' scope="row"' if first else ""
    kinds = []
    if not column.numeric:
        kinds.append("text")
    if cell.missing:
        kinds.append("missing")
    classes = f' class="{" ".join(kinds)}"' if kinds else ""
    sort = "" if cell.value is None else f' data-value="{cell.value!r}"'
    main = escape(cell.main())
    if cell.missing:
        main = '<span aria-hidden="true">–</span><span class="visually-hidden">no run</span>'
    elif cell.value is not None:
        # Points of numbers stand below each other: shorter numbers get invisible decimals after them.
        name = f"pad-{decimals - cell.digits}{'-int' if cell.digits == 0 else ''}"
        pad = f' class="{name}"' if decimals > cell.digits else ""
        tags = "b" if cell.strong else "span"
        # The reference takes no room, so that it stands where the invisible decimals would.
        main = f"<{tags}{pad}>{main}{_reference(cell.note, notes, key)}</{tags}>"
    detail = cell.detail()
    # A line may break between the parts alone.
    parts = escape(detail).replace(" ", "\xa0").replace(",\xa0", ", ")
    small = f'<span class="detail">{parts}</span>' if detail else ""
    reference = _reference(cell.note, notes, key) if cell.value is None else ""
    return f"<{tag}{scope}{classes}{sort}>{main}{reference}{small}</{tag}>"


def _decimals(table: Table, i: int) -> int:
    cells = [row[i] for row in (*table.rows, *table.footer)]
    return max((cell.digits for cell in cells if cell.value is not None), default=0)


def _reference(note: str, notes: dict[str, int], key: str) -> str:
    if not note:
        return ""
    number = notes[note]
    target = f'href="#{escape(key)}-note-{number}"'
    return f'<sup><a {target} title="{escape(note)}" aria-label="note {number}">{number}</a></sup>'


def _figure(figure: Figure, files: tuple[str, ...]) -> str:
    entries = "".join(f"<li>{svg.swatch(item)}{escape(item.label)}</li>" for item in figure.legend())
    legend = f'<ul class="legend" aria-label="Legend">{entries}</ul>' if entries else ""
    single = " single" if len(figure.panels) == 1 else ""
    panels = "".join(
        f"<figure><figcaption>{escape(panel.title)}</figcaption>{svg.panel_svg(figure, panel)}</figure>"
        for panel in figure.panels
    )
    title = f"{figure.key}-title"
    axes = f'<p class="axes">Vertical: {escape(figure.y_label)}. Horizontal: {escape(figure.x_label)}.</p>'
    return (
        f'<section class="block" aria-labelledby="{escape(title)}">{_heading(figure, files)}{legend}{axes}'
        f'<div class="panels{single}">{panels}</div></section>'
    )


def _claims(claims: Claims, files: tuple[str, ...]) -> str:
    rows = "".join(_claim(claim) for claim in claims.claims)
    title = f"{claims.key}-title"
    return (
        f'<section class="block" aria-labelledby="{escape(title)}">{_heading(claims, files)}'
        f'<ul class="claims">{rows}</ul></section>'
    )


def _claim(claim: CheckedClaim) -> str:
    def verdict(label: str, text: str, verdict: str) -> str:
        badge = f'<span class="badge"><span aria-hidden="true">{SIGNS[verdict]}</span> {VERDICTS[verdict]}</span>'
        return f'<div class="verdict {verdict}"><dt>{escape(label)} {badge}</dt><dd>{escape(text)}</dd></div>'

    quote = f"“{escape(claim.quote)}” " if claim.quote else ""
    return (
        f'<li><p>{escape(claim.text)}</p><p class="quote">{quote}{escape(claim.source)}</p><dl>'
        f"{verdict('The paper’s own numbers', claim.published, claim.published_verdict)}"
        f"{verdict('Our scores', claim.ours, claim.our_verdict)}</dl></li>"
    )


def _heading(block: Table | Figure | Claims, files: tuple[str, ...]) -> str:
    links = " ".join(f'<a href="{escape(name)}">{escape(name.rpartition(".")[2].upper())}</a>' for name in files)
    downloads = f'<span class="files"><span class="visually-hidden">Files: </span>{links}</span>' if links else ""
    caption = f'<p class="caption">{escape(block.caption)}</p>' if block.caption else ""
    return f'<div class="head"><h3 id="{escape(block.key)}-title">{escape(block.title)}</h3>{downloads}</div>{caption}'


def _paragraphs(texts: tuple[str, ...]) -> str:
    return "".join(f"<p>{escape(text)}</p>" for text in texts)


def _colours() -> str:
    """The colours of the methods as a style sheet, for light and for dark pages."""
    light = "".join(f".c-{name}{{--c:{style.light}}}" for name, style in STYLES.items())
    dark = "".join(f".c-{name}{{--c:{style.dark}}}" for name, style in STYLES.items())
    return f"{light}\n@media screen and (prefers-color-scheme:dark){{{dark}}}\n"


def _hash(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


def _asset(name: str) -> str:
    return resources.files("mcurl.report").joinpath(name).read_text(encoding="utf-8")
