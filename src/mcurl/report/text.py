"""Tables, figures, claims and whole reports as CSV and Markdown."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterable, Sequence

from mcurl.report.model import Block, Cell, Claims, Column, Figure, Report, Table

VERDICTS = {"agrees": "yes", "disagrees": "no", "unknown": "not known"}
"""What a verdict is called: does the claim hold?"""


def table_csv(table: Table) -> str:
    """A table as CSV. A number has its full precision; its spread, seeds and notes have columns of their own."""
    header: list[str] = []
    for i, column in enumerate(table.columns):
        cells = [row[i] for row in (*table.rows, *table.footer)]
        header += [column.key, *(f"{column.key}_{name}" for name in _extras(cells))]
    lines = [header]
    for row in (*table.rows, *table.footer):
        line: list[str] = []
        for i, cell in enumerate(row):
            cells = [other[i] for other in (*table.rows, *table.footer)]
            values = _values(cell)
            line += [values["value"], *(values[name] for name in _extras(cells))]
        lines.append(line)
    return _csv(lines)


def figure_csv(figure: Figure) -> str:
    """The points of a figure as CSV: means, seeds and published marks."""
    lines = [["panel", "series", "kind", "seed", "x", "y", "low", "high"]]
    for panel in figure.panels:
        for series in panel.series:
            band = {x: (low, high) for x, low, high in series.band}
            for x, y in series.mean:
                ends = [_number(end) for end in band[x]] if x in band else ["", ""]
                lines.append([panel.title, series.label, "mean", "", _number(x), _number(y), *ends])
            runs = [("seed", points) for points in series.seeds] + [("unfinished", p) for p in series.unfinished]
            for i, (kind, points) in enumerate(runs):
                name = [panel.title, series.label, kind, str(i + 1)]
                lines += [[*name, _number(x), _number(y), "", ""] for x, y in points]
        for mark in panel.marks:
            ends = ["", ""] if mark.std is None else [_number(mark.y - mark.std), _number(mark.y + mark.std)]
            lines.append([panel.title, mark.label, "published", "", _number(mark.x), _number(mark.y), *ends])
        lines += [[panel.title, line.label, "line", "", "", _number(line.y), "", ""] for line in panel.lines]
    return _csv(lines)


def claims_csv(claims: Claims) -> str:
    """Claims as CSV."""
    lines = [["claim", "quote", "source", "published_numbers", "published_verdict", "our_numbers", "our_verdict"]]
    lines += [
        [claim.text, claim.quote, claim.source, claim.published, claim.published_verdict, claim.ours, claim.our_verdict]
        for claim in claims.claims
    ]
    return _csv(lines)


def table_markdown(table: Table) -> str:
    """A table as Markdown, with numbered footnotes below it."""
    numbers = {note: i + 1 for i, note in enumerate(table.notes())}
    header = [_escape(f"{column.label}{_group(column)}") + _reference(column.note, numbers) for column in table.columns]
    rule = ["---:" if column.numeric else "---" for column in table.columns]
    rows = [[_markdown_cell(cell, numbers) for cell in row] for row in (*table.rows, *table.footer)]
    lines = [_row(header), _row(rule), *(_row(row) for row in rows)]
    notes = [f"{number}. {_escape(note)}" for note, number in numbers.items()]
    return "\n".join([*lines, *(["", *notes] if notes else [])])


def claims_markdown(claims: Claims) -> str:
    """Claims as a Markdown table."""
    lines = [_row(["claim", "the paper's own numbers", "holds there", "our scores", "holds here"]), _row(["---"] * 5)]
    for claim in claims.claims:
        published, ours = VERDICTS[claim.published_verdict], VERDICTS[claim.our_verdict]
        texts = (f"{claim.text} ({claim.source}: “{claim.quote}”)", claim.published, published, claim.ours, ours)
        lines += [_row(_escape(text) for text in texts)]
    return "\n".join(lines)


def report_markdown(report: Report, pictures: str = "svg") -> str:
    """A whole report as Markdown. Figures are pictures beside it, named by their keys.

    Args:
        report: the report.
        pictures: ending of the figures' names.
    """
    parts = [f"# {_escape(report.title)}", *(_escape(text) for text in report.paragraphs)]
    if report.command:
        parts.append(f"Made by `{' '.join(report.command.replace('`', '').split())}`.")
    for section in report.sections:
        parts += [f"## {_escape(section.title)}", *(_escape(text) for text in section.paragraphs)]
        for block in section.blocks:
            parts += _block(block, pictures)
    return "\n\n".join(parts) + "\n"


def _block(block: Block, pictures: str) -> list[str]:
    parts = [f"### {_escape(block.title)}"]
    if block.caption:
        parts.append(_escape(block.caption))
    if isinstance(block, Figure):
        return [*parts, f"![{_escape(block.title)}]({block.key}.{pictures})"]
    return [*parts, table_markdown(block) if isinstance(block, Table) else claims_markdown(block)]


def _markdown_cell(cell: Cell, numbers: dict[str, int]) -> str:
    main, detail = _escape(cell.main()), cell.detail()
    if cell.strong:
        main = f"**{main}**"
    if detail:
        main = f"{main} {detail}" if detail.startswith(("±", "[")) else f"{main} ({detail})"
    return main + _reference(cell.note, numbers)


def _reference(note: str, numbers: dict[str, int]) -> str:
    return f" [{numbers[note]}]" if note else ""


def _group(column: Column) -> str:
    return f", {column.group}" if column.group else ""


def _row(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _escape(text: str) -> str:
    """Text that Markdown shows as it is: no cell, tag, link, emphasis or line of its own comes out of it."""
    text = re.sub(r"\s+", " ", text)
    text = re.sub(r"([\\`*\[\]|#])", r"\\\1", text)
    # An underscore within a word, as in reacher_easy, is no emphasis.
    text = re.sub(r"(?<!\w)_|_(?!\w)", r"\\_", text)
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def _extras(cells: Sequence[Cell]) -> list[str]:
    """What the cells of a column have beside their value, in the order of the columns of CSV."""
    names = ("std", "low", "high", "seeds", "note")
    return [name for name in names if any(_values(cell)[name] for cell in cells)]


def _values(cell: Cell) -> dict[str, str]:
    low, high = cell.interval or (None, None)
    return {
        "value": cell.text if cell.value is None else _number(cell.value),
        "std": _number(cell.std),
        "low": _number(low),
        "high": _number(high),
        "seeds": "" if cell.seeds is None else str(cell.seeds),
        "note": cell.note,
    }


def _number(value: float | None) -> str:
    """A number with all its digits; a whole one without a point."""
    if value is None:
        return ""
    return str(int(value)) if float(value).is_integer() else repr(value)


def _csv(lines: Iterable[Sequence[str]]) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(lines)
    return text.getvalue()
