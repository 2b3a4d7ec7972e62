"""A report as plain data: tables, figures, claims and sections. Nothing here reads a file or knows a method.

The renderers (``text``, ``svg``, ``plot``, ``html``) turn these classes into files. All text is plain: each renderer
escapes it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Points = tuple[tuple[float, float], ...]
"""Pairs (env steps, return), in the order of the env steps."""


@dataclass(frozen=True)
class Cell:
    """A cell of a table: a text, or a number with what is known of its spread."""

    text: str = ""
    """What a cell without a number says."""
    value: float | None = None
    """The number; None: a text."""
    std: float | None = None
    """Standard deviation over seeds."""
    interval: tuple[float, float] | None = None
    """Confidence interval of the number."""
    seeds: int | None = None
    """How many seeds the number is the mean of, if known."""
    expected: int | None = None
    """How many seeds there should be; shown where they are not all there."""
    digits: int = 0
    """Decimals that are shown."""
    note: str = ""
    """What a reader must know of this number. It becomes a footnote."""
    strong: bool = False
    """The best number of its row among those that can be compared."""
    missing: bool = False
    """A run that was asked for and does not exist. It is shown as such, unlike an empty cell."""

    def main(self) -> str:
        """The number or the text alone, such as ``"3044"``; an en dash for a missing run."""
        if self.missing:
            return "–"
        return self.text if self.value is None else number(self.value, self.digits)

    def detail(self) -> str:
        """What stands beside the number, such as ``"± 505, 2 seeds"``; empty if nothing is known."""
        if self.value is None:
            return ""
        parts = []
        if self.interval is not None:
            parts.append(f"[{number(self.interval[0], self.digits)}, {number(self.interval[1], self.digits)}]")
        if self.std is not None:
            parts.append(f"± {number(self.std, self.digits)}")
        if self.seeds is not None:
            of = self.expected or 0
            parts.append(f"{self.seeds} of {count(of, 'seed')}" if self.seeds < of else count(self.seeds, "seed"))
        return ", ".join(parts)


@dataclass(frozen=True)
class Column:
    """A column of a table."""

    key: str
    """Name in CSV files."""
    label: str
    """Heading."""
    group: str = ""
    """Heading that neighbouring columns share; empty: none."""
    note: str = ""
    """What a reader must know of all numbers of the column. It becomes a footnote."""
    numeric: bool = True
    """False: a column of text."""


@dataclass(frozen=True)
class Table:
    """A table. Each row has as many cells as there are columns."""

    key: str
    """Name of its files."""
    title: str
    columns: tuple[Column, ...]
    rows: tuple[tuple[Cell, ...], ...]
    footer: tuple[tuple[Cell, ...], ...] = ()
    """Rows of summaries. They stay below the others when a reader sorts."""
    caption: str = ""

    def __post_init__(self) -> None:
        for row in (*self.rows, *self.footer):
            if len(row) != len(self.columns):
                raise ValueError(f"{self.key}: a row has {len(row)} cells, not {len(self.columns)}")

    def notes(self) -> tuple[str, ...]:
        """The footnotes, each once: those of the columns, then those of the cells, row by row."""
        cells = (cell for row in (*self.rows, *self.footer) for cell in row)
        texts = [*(column.note for column in self.columns), *(cell.note for cell in cells)]
        return tuple(dict.fromkeys(filter(None, texts)))


@dataclass(frozen=True)
class Series:
    """The curve of one method on one task."""

    style: str
    """A name of ``palette.STYLES``."""
    label: str
    mean: Points
    """Means over seeds."""
    band: tuple[tuple[float, float, float], ...] = ()
    """Triples (env steps, lower end, upper end) around the mean; empty: no band."""
    seeds: tuple[Points, ...] = ()
    """The curve of each seed, if there are several; drawn where there is no band."""
    unfinished: tuple[Points, ...] = ()
    """The curves of unfinished runs beside finished ones. They are drawn thin and dotted."""
    partial: bool = False
    """True: no run of it is finished. It is drawn dotted."""


@dataclass(frozen=True)
class Mark:
    """A published score at an env step."""

    style: str
    """A name of ``palette.STYLES``."""
    label: str
    x: float
    y: float
    std: float | None = None
    """Standard deviation over seeds, drawn as a bar."""
    shape: int = 0
    """0, 1, 2, ...: tells sources of one method apart. See ``palette.SHAPES``."""
    offset: float = 0.0
    """How far to the right of ``x`` it is drawn, in env steps, so that marks do not hide each other."""

    @property
    def drawn_x(self) -> float:
        """Where it is drawn."""
        return self.x + self.offset


@dataclass(frozen=True)
class Line:
    """A horizontal line over the whole panel, such as the score of a human."""

    label: str
    y: float
    dash: tuple[int, int] = (6, 3)
    """Lengths of dashes and gaps in pixels."""


@dataclass(frozen=True)
class Panel:
    """One plot of a figure."""

    title: str
    series: tuple[Series, ...] = ()
    marks: tuple[Mark, ...] = ()
    lines: tuple[Line, ...] = ()
    note: str = ""
    """One line inside of the plot, such as ``"no run yet"``."""


@dataclass(frozen=True)
class Figure:
    """Plots that share a legend, axis labels and a caption."""

    key: str
    """Name of its files."""
    title: str
    panels: tuple[Panel, ...]
    x_label: str
    y_label: str
    caption: str = ""
    x_range: tuple[float, float] | None = None
    """Ends of the horizontal axis; None: those of each panel's data."""
    y_range: tuple[float, float] | None = None
    """Ends of the vertical axis; None: those of each panel's data."""
    kilo: bool = True
    """Thousands on the horizontal axis are written with k: 100k."""

    def legend(self) -> tuple[Series | Mark | Line, ...]:
        """One entry for each label, in the order in which they come up: curves, marks, lines."""
        entries: dict[tuple[int, str, str], Series | Mark | Line] = {}
        for panel in self.panels:
            items: tuple[Series | Mark | Line, ...] = (*panel.series, *panel.marks, *panel.lines)
            for item in items:
                rank = (Series, Mark, Line).index(type(item))
                style = "" if isinstance(item, Line) else item.style
                entries.setdefault((rank, style, item.label), item)
        return tuple(entries[key] for key in sorted(entries, key=lambda key: key[0]))


Verdict = Literal["agrees", "disagrees", "unknown"]


@dataclass(frozen=True)
class CheckedClaim:
    """A claim of the paper beside what numbers say of it."""

    text: str
    """The claim, in short."""
    quote: str
    """The paper's words; empty: none."""
    source: str
    """Where it stands."""
    published: str
    """What the paper's own numbers say."""
    published_verdict: Verdict
    ours: str
    """What our scores say."""
    our_verdict: Verdict


@dataclass(frozen=True)
class Claims:
    """A list of claims."""

    key: str
    """Name of its files."""
    title: str
    claims: tuple[CheckedClaim, ...]
    caption: str = ""


Block = Table | Figure | Claims


@dataclass(frozen=True)
class Section:
    """A part of a report with a heading."""

    key: str
    """Name of its anchor."""
    title: str
    paragraphs: tuple[str, ...] = ()
    blocks: tuple[Block, ...] = ()


@dataclass(frozen=True)
class Report:
    """A report."""

    title: str
    paragraphs: tuple[str, ...]
    sections: tuple[Section, ...]
    command: str = ""
    """The command that makes it."""

    def blocks(self) -> tuple[Block, ...]:
        """Tables, figures and claims of all sections."""
        return tuple(block for section in self.sections for block in section.blocks)


def number(value: float, digits: int) -> str:
    """A number with a true minus sign and without a negative zero.

    >>> number(-3.14159, 2), number(-0.001, 1)
    ('−3.14', '0.0')
    """
    text = f"{value:.{digits}f}"
    if float(text) == 0:
        text = text.lstrip("-")
    return text.replace("-", "−")


def count(number: int, noun: str) -> str:
    """A number with its noun.

    >>> count(1, "seed"), count(1200, "seed")
    ('1 seed', '1,200 seeds')
    """
    return f"{number:,} {noun}{'' if number == 1 else 's'}"
