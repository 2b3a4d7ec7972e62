"""Learning curves: our seeds, each as a line, their mean on top, and what others published as a mark."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

from mcurl.errors import UserError
from mcurl.published import FOLDER
from mcurl.report.collect import load

NAMES = {"mcurl": "M-CURL", "curl": "CURL", "none": "RL alone", "none-nocrop": "RL alone, no crops"}
COLOURS = {"mcurl": "#c8102e", "curl": "#1f5fa8", "none": "#5b8c3a", "none-nocrop": "#8a8a8a"}
PUBLISHED = FOLDER / "dmc_published_tables.csv"


def draw(results: Path, benchmark: str, name: str, target: Path) -> None:
    """Draw one task's curves into ``target`` (png, svg or pdf).

    Raises:
        UserError: there are no results of the task, or matplotlib is not installed.
    """
    found = load(results, benchmark, name)
    if not found:
        raise UserError(f"{results} has no results of {benchmark}/{name}")
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise UserError("drawing needs matplotlib: pip install 'mcurl[report]'") from None
    figure = Figure(figsize=(6.4, 4.0), dpi=150, layout="constrained")
    axes = figure.subplots()
    for method in sorted(found, key=lambda name: list(NAMES).index(name) if name in NAMES else len(NAMES)):
        _draw_method(axes, method, found[method])
    for label, steps, mean, deviation in published(benchmark, name):
        axes.errorbar([steps], [mean], [deviation], fmt="D", color="#444444", markersize=4, capsize=3, label=label)
    axes.set_title(f"{benchmark}/{name}")
    axes.set_xlabel("env steps (action repeat included)")
    axes.set_ylabel("evaluation return, mean of the episodes")
    axes.set_ylim(bottom=0)
    axes.xaxis.set_major_formatter(lambda value, _: f"{value / 1000:.0f}k")
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, fontsize=8, loc="upper left")
    target.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(target)


def _draw_method(axes: Any, method: str, seeds: dict[int, dict[int, float]]) -> None:
    colour = COLOURS.get(method)
    shared = sorted(set.intersection(*(set(points) for points in seeds.values())))
    mean = [sum(points[step] for points in seeds.values()) / len(seeds) for step in shared]
    if len(seeds) > 1:
        for points in seeds.values():
            axes.plot(list(points), list(points.values()), color=colour, linewidth=0.8, alpha=0.35)
    count = f"{len(seeds)} seed{'s' if len(seeds) > 1 else ''}"
    axes.plot(shared, mean, color=colour, linewidth=2, label=f"{NAMES.get(method, method)} ({count})")


def published(benchmark: str, name: str) -> list[tuple[str, int, float, float]]:
    """CURL's own score on a DMControl task at 100k env steps, where its paper has one: label, env steps, mean, standard deviation over seeds."""
    if benchmark != "dmc":
        return []
    with PUBLISHED.open(newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["method"] == "CURL" and row["task"] == name.replace("-", "_") and row["env_steps"] == "100000"]
    return [("CURL, its paper (10 seeds)", 100_000, float(row["mean"]), float(row["std"])) for row in rows if "CURL paper" in row["source"]][:1]
