"""Colours, dashes and markers of methods, the same in every plot.

The colours can be told apart with every common kind of colour blindness and have a contrast of at least 3 to 1 with
their background; a test computes both. A line also has dashes and a marker of its own, for print in black and white.
"""

from __future__ import annotations

from typing import NamedTuple


class Style(NamedTuple):
    """How one method looks."""

    light: str
    """Colour on white, as #rrggbb."""
    dark: str
    """Colour on a dark page."""
    dash: tuple[int, ...] = ()
    """Lengths of dashes and gaps in pixels; empty: an unbroken line."""


STYLES = {
    "mcurl": Style("#dd2712", "#f4502c"),
    "curl": Style("#225fd0", "#4b86f5", (6, 2)),
    "rl-only": Style("#11683d", "#68bb78", (2, 2)),
    "seq-curl": Style("#4d1383", "#aa65b9", (8, 2, 2, 2)),
    "sym-curl": Style("#a28939", "#fdd26e", (4, 2, 1, 2)),
    "sac-state": Style("#191b1c", "#f3f1ec", (10, 3)),
    "rl-only-nocrop": Style("#868a84", "#7f7d74", (1, 2)),
    "other-1": Style("#7a2f59", "#f686bb", (7, 2, 1, 2)),
    "other-2": Style("#1099b3", "#33e4fd", (3, 3)),
    # Seven colours and two more are as many as everyone can tell apart: further ones differ in dashes alone.
    "other-3": Style("#7a2f59", "#f686bb", (3, 3)),
    "other-4": Style("#1099b3", "#33e4fd", (9, 3, 3, 3)),
    # A sweep over one number, in order.
    "step-1": Style("#a7801a", "#ead57e", (1, 2)),
    "step-2": Style("#b3613e", "#e87d27", (3, 2)),
    "step-3": Style("#ae1343", "#f34a5c", (6, 2)),
    "step-4": Style("#7a1760", "#c46c9a", (9, 2)),
    "step-5": Style("#3e2d97", "#9874bb"),
}
"""Names of styles: methods, others in the order in which they come up, and the steps of a sweep."""

OTHERS = tuple(name for name in STYLES if name.startswith("other-"))
STEPS = tuple(name for name in STYLES if name.startswith("step-"))
SHAPES = ("diamond", "circle", "square", "triangle")
"""Markers of published scores. Several sources of one method have different ones."""


def styles(names: list[str]) -> dict[str, str]:
    """Names of methods or arms -> names of styles. Unknown ones take the remaining styles, in their order, in turn."""
    unknown = [name for name in names if name not in STYLES]
    return {name: name if name in STYLES else OTHERS[unknown.index(name) % len(OTHERS)] for name in names}


def steps(names: list[str]) -> dict[str, str]:
    """Names of the arms of a sweep, in order -> names of styles, spread over the scale."""
    last = max(len(names) - 1, 1)
    return {name: STEPS[round(i * (len(STEPS) - 1) / last) % len(STEPS)] for i, name in enumerate(names)}
