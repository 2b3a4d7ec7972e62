"""Axes of plots: their ends, their ticks, and how the ticks are written."""

from __future__ import annotations

import math
from collections.abc import Sequence

from mcurl.report.model import Figure, Panel, Points, Series

MARGIN = 0.04
"""Room beyond the data, as a part of the axis."""


FAR = 1.7
"""A horizontal line higher than this many times the highest score is beyond the axis."""


def x_range(figure: Figure, panel: Panel) -> tuple[float, float]:
    """The ends of the horizontal axis: from 0 (or the first step) to a little beyond the last step of curve or mark."""
    if figure.x_range is not None:
        return figure.x_range
    curves = [x for series in panel.series for x, _ in _drawn(series)]
    values = [*curves, *(mark.drawn_x for mark in panel.marks)]
    if not values:
        return 0.0, 1.0
    low, high = min(0.0, min(values)), max(values)
    return (low, high + MARGIN * (high - low)) if high > low else (low - 0.5, high + 0.5)


def y_range(figure: Figure, panel: Panel) -> tuple[float, float]:
    """The ends of the vertical axis. It begins at 0 unless a value is negative."""
    if figure.y_range is not None:
        return figure.y_range
    centres = [y for series in panel.series for _, y in _drawn(series)]
    centres += [mark.y for mark in panel.marks]
    # A line far above the curves, such as a human's score, would flatten them: it is named at the edge instead.
    reach = max(centres, default=0.0)
    centres += [line.y for line in panel.lines if not centres or line.y <= max(FAR * reach, reach / FAR)]
    values = [*centres, *(end for series in panel.series for _, low, high in series.band for end in (low, high))]
    values += [mark.y + sign * (mark.std or 0.0) for mark in panel.marks for sign in (-1, 1)]
    if not values:
        return 0.0, 1.0
    # A bar that reaches below 0 does not pull the axis down where no score is negative.
    low = min(0.0, min(values)) if min(centres) < 0 else 0.0
    high = max(values)
    if high <= low:
        high = low + 1.0
    room = MARGIN * (high - low)
    return (low - room if low < 0 else low), high + room


def _drawn(series: Series) -> Points:
    """All points of a curve, of its mean and of single runs."""
    return tuple(point for points in (series.mean, *series.seeds, *series.unfinished) for point in points)


def beyond(figure: Figure, panel: Panel) -> list[str]:
    """The horizontal lines above the axis, in words, such as ``"human: 42055 ↑"``."""
    high = y_range(figure, panel)[1]
    return [f"{line.label}: {line.y:.{0 if abs(line.y) >= 100 else 1}f} ↑" for line in panel.lines if line.y > high]


def ticks(low: float, high: float, most: int = 6) -> list[float]:
    """Round values from ``low`` to ``high``: multiples of 1, 2, 2.5 or 5 times a power of ten, at most ``most``.

    >>> ticks(0, 2000), ticks(0, 1)
    ([0.0, 500.0, 1000.0, 1500.0, 2000.0], [0.0, 0.2, 0.4, 0.6, 0.8, 1.0])
    """
    span = high - low
    power = 10.0 ** math.floor(math.log10(span / most))
    for step in (power * factor for factor in (1, 2, 2.5, 5, 10, 20)):
        first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
        if last - first + 1 <= most:
            break
    return [round(i * step, 12) + 0.0 for i in range(first, last + 1)]


def tick_labels(values: Sequence[float], kilo: bool = True) -> list[str]:
    """The ticks as text, all in one unit and with the same decimals, so that no two look alike.

    >>> tick_labels([0, 500, 1000]), tick_labels([0, 2500, 5000]), tick_labels([0, 100_000])
    (['0', '500', '1000'], ['0', '2.5k', '5k'], ['0', '100k'])
    >>> tick_labels([0, 5e-6, 1e-5])
    ['0', '0.000005', '0.00001']
    """
    largest = max((abs(value) for value in values), default=0.0)
    unit, suffix = (1.0, "")
    if kilo and largest >= 2_000_000:
        unit, suffix = 1e6, "M"
    elif kilo and largest >= 2000:
        unit, suffix = 1000.0, "k"
    for decimals in range(4, 13):
        labels = [_trimmed(value / unit, decimals) for value in values]
        if len(set(labels)) == len(values):
            break
    return [label + (suffix if value else "") for label, value in zip(labels, values, strict=True)]


def _trimmed(value: float, decimals: int) -> str:
    text = f"{value:.{decimals}f}".rstrip("0").rstrip(".")
    return text.replace("-", "−")
