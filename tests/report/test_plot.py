"""Figures as pictures."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from examples import run

from mcurl.report import plot
from mcurl.report.contents import report
from mcurl.report.model import Figure

METHODS = {"mcurl": "M-CURL", "curl": "CURL", "sac-state": "SAC on states"}


@pytest.mark.parametrize("methods", [1, 2, 3])
def test_the_legend_fits_into_the_picture(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, methods: int) -> None:
    figures: list[Any] = []
    drawn = pytest.importorskip("matplotlib.figure").Figure
    save = drawn.savefig

    def kept(self: Any, *args: Any, **options: Any) -> None:
        figures.append(self)
        save(self, *args, **options)

    monkeypatch.setattr(drawn, "savefig", kept)
    points = {0: 1.0, 100_000: 300.0}
    runs = [run("cartpole-swingup", name, 1, points, label=METHODS[name]) for name in list(METHODS)[:methods]]
    runs.append(run("cartpole-balance", "drqv2-rl-only", 1, points, label="DrQ-v2, RL alone"))
    curves = next(block for block in report(runs).blocks() if isinstance(block, Figure))
    assert len(curves.panels) == 2
    plot.save(curves, tmp_path / "curves.png")
    legend = figures[0].legends[0].get_window_extent()
    assert 0 <= legend.x0 < legend.x1 <= figures[0].bbox.x1
