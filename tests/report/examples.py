"""Small reports and runs for tests."""

from __future__ import annotations

from mcurl.report.model import (
    Cell,
    CheckedClaim,
    Claims,
    Column,
    Figure,
    Line,
    Mark,
    Panel,
    Points,
    Report,
    Section,
    Series,
    Table,
)
from mcurl.report.scores import RunScores

HOSTILE = "</script><img src=x onerror=alert(1)>\"'|`&\n](javascript:1) ${x}"


def run(
    task: str,
    name: str,
    seed: int,
    points: dict[int, float],
    *,
    benchmark: str = "dmc",
    label: str | None = None,
    method: str | None = None,
    budget: int | None = None,
    note: str = "",
    packages: dict[str, str] | None = None,
) -> RunScores:
    """Scores of one run."""
    settings = {"task": f"{benchmark.removesuffix('100k')}/{task}", "method": method or name}
    provenance = {"settings": settings, "note": note, "packages": packages or {}, "commit": "0123456789"}
    episodes = {step: [value] for step, value in points.items()}
    return RunScores(benchmark, task, name, label or name, seed, episodes, budget or max(points), provenance=provenance)


def table(text: str = "a task", key: str = "scores") -> Table:
    """A table with a number of every kind."""
    return Table(
        key,
        f"Scores {text}",
        (Column("task", "Task", numeric=False), Column("own", text, "This package"), Column("other", "B", "P", text)),
        (
            (Cell(text), Cell(value=1234.5, std=10.2, seeds=3, note=text), Cell(value=-2.25, digits=1)),
            (Cell("second"), Cell(missing=True), Cell(value=0.5, digits=1, interval=(0.25, 0.75), strong=True)),
            (Cell("third"), Cell(value=20.0, seeds=1, expected=5), Cell()),
        ),
        ((Cell("Median"), Cell(value=5.0), Cell(missing=True)),),
        text,
    )


def figure(text: str = "a task", key: str = "curves") -> Figure:
    """A figure with a curve of every kind."""
    mean: Points = ((0.0, 1.0), (1000.0, 2.0))
    band = tuple((x, y - 1, y + 1) for x, y in mean)
    panels = (
        Panel(text, (Series("mcurl", text, mean, band, (mean, mean)),), (Mark("curl", text, 1000, 1.5, 0.5),)),
        Panel(
            "two", (Series("curl", "b", mean, (), (mean, mean), (), True),), (), (Line(text, 3.0), Line("far", 90.0))
        ),
        Panel("single", (Series("other-1", "c", ((500.0, 2.0),)),)),
        Panel("empty", note="no run yet"),
    )
    return Figure(key, f"Curves {text}", panels, text, text, text)


def claims(text: str = "a task") -> Claims:
    """Two claims."""
    return Claims(
        "claims",
        text,
        (
            CheckedClaim(text, text, text, text, "agrees", text, "unknown"),
            CheckedClaim("b", "", "c", "d", "disagrees", "e", "agrees"),
        ),
    )


def report(text: str = "a task") -> Report:
    """A report with a block of every kind."""
    blocks = (table(text), figure(text), claims(text))
    return Report(f"Title {text}", (text,), (Section("first", text, (text,), blocks),), f"mcurl report {text}")
