"""Draws docs/pictures/method.svg, the figure of docs/method.md: `python docs/pictures/method.py`."""

from __future__ import annotations

from collections.abc import Iterable
from html import escape
from pathlib import Path

INK, MUTED, PAPER = "#1f2933", "#6b7785", "#ffffff"
BLUE, ORANGE, GREEN, GREY = "#dbe9f6", "#fde3cf", "#dcefe0", "#eceff2"
WIDTH, HEIGHT = 1000, 560
MASKED = (1, 4)
"""Masked time steps of the six that are shown."""
STEPS = 6


def text(x: float, y: float, words: str, size: int = 14, *, colour: str = INK, weight: int = 400) -> str:
    style = f'font-size="{size}" fill="{colour}" font-weight="{weight}" text-anchor="middle"'
    return f'<text x="{x}" y="{y}" {style}>{escape(words)}</text>'


def box(x: float, y: float, width: float, height: float, fill: str, lines: Iterable[str] = (), dash: str = "") -> str:
    shape = f'x="{x}" y="{y}" width="{width}" height="{height}" rx="8"'
    stroke = f'stroke="{INK if not dash else MUTED}" stroke-width="1.5" stroke-dasharray="{dash}"'
    words = list(lines)
    first = y + height / 2 + 5 - 9 * (len(words) - 1)
    labels = [text(x + width / 2, first + 18 * i, line, weight=400 if i else 600) for i, line in enumerate(words)]
    return "".join([f'<rect {shape} fill="{fill}" {stroke}/>', *labels])


def arrow(points: str, *, dash: str = "", colour: str = INK) -> str:
    style = f'fill="none" stroke="{colour}" stroke-width="1.8" stroke-dasharray="{dash}" marker-end="url(#head)"'
    return f'<polyline points="{points}" {style}/>'


def frames(x: float, y: float, masked: Iterable[int]) -> str:
    """Six frames of a pole on a cart; masked ones are crossed out."""
    parts = []
    for step in range(STEPS):
        left = x + 27 * step
        parts.append(f'<rect x="{left}" y="{y}" width="24" height="24" fill="{GREY}" stroke="{INK}"/>')
        if step in masked:
            parts.append(f'<rect x="{left}" y="{y}" width="24" height="24" fill="url(#hidden)" stroke="{INK}"/>')
            continue
        cart, tip = left + 8 + step, left + 3 + 3.4 * step
        parts.append(f'<line x1="{cart}" y1="{y + 17}" x2="{tip}" y2="{y + 5}" stroke="#c05a00" stroke-width="2.5"/>')
        parts.append(f'<rect x="{cart - 5}" y="{y + 16}" width="10" height="5" fill="{INK}"/>')
    return "".join(parts)


def tokens(x: float, y: float, fill: str, masked: Iterable[int]) -> str:
    """The features of six time steps."""
    parts = []
    for step in range(STEPS):
        paint = "url(#hidden)" if step in masked else fill
        parts.append(f'<rect x="{x}" y="{y + 21 * step}" width="30" height="17" rx="3" fill="{paint}" stroke="{INK}"/>')
    return "".join(parts)


def figure() -> str:
    parts = [
        f'<rect width="{WIDTH}" height="{HEIGHT}" rx="12" fill="{PAPER}"/>',
        # The part that acts.
        box(14, 360, 756, 186, "#f7f9fb", dash="6 5"),
        text(600, 386, "acting needs this part alone", colour=MUTED, weight=600),
        # Queries.
        text(110, 56, "T consecutive observations", weight=600),
        frames(30, 70, MASKED),
        text(110, 114, "about half are masked", colour=MUTED),
        arrow("196,82 226,82 226,112 248,112"),
        box(250, 72, 130, 80, BLUE, ["CNN", "encoder θ"]),
        arrow("380,112 428,112"),
        tokens(432, 50, BLUE, MASKED),
        text(447, 194, "masked sequence", colour=MUTED),
        text(447, 212, "+ positions", colour=MUTED),
        arrow("466,112 518,112"),
        box(520, 72, 150, 80, ORANGE, ["Transformer", "2 blocks"]),
        text(595, 174, "thrown away", colour=MUTED),
        text(595, 192, "when acting", colour=MUTED),
        arrow("670,112 712,112"),
        tokens(716, 50, ORANGE, ()),
        text(731, 36, "queries", weight=600),
        arrow("750,112 806,112 806,182 826,182"),
        # Keys.
        text(110, 256, "the same, other crops", weight=600),
        frames(30, 268, ()),
        text(110, 312, "nothing is masked", colour=MUTED),
        arrow("196,280 248,280"),
        box(250, 240, 130, 80, GREEN, ["CNN", "momentum copy"]),
        arrow("315,152 315,238", dash="4 4", colour=MUTED),
        text(352, 198, "follows", colour=MUTED),
        arrow("380,280 712,280"),
        tokens(716, 220, GREEN, ()),
        text(778, 340, "keys", weight=600),
        arrow("750,280 806,280 806,206 826,206"),
        box(828, 150, 150, 90, PAPER, ["InfoNCE", "each masked query", "must find its key"]),
        # Reinforcement learning, on the same encoder.
        text(110, 440, "observation", weight=600),
        frames(70, 452, (3, 4, 5)).split('<rect x="151"')[0],
        arrow("155,464 248,464"),
        box(250, 424, 130, 80, BLUE, ["CNN", "encoder θ"]),
        f'<path d="M250 132 H228 V452 H248" fill="none" stroke="{MUTED}" stroke-width="1.8" stroke-dasharray="4 4"/>',
        arrow("380,464 518,464"),
        box(520, 424, 150, 80, GREY, ["policy", "SAC, Rainbow"]),
        arrow("670,464 826,464"),
        text(716, 454, "action", colour=MUTED),
        box(828, 424, 150, 80, PAPER, ["RL loss", "on the same encoder"]),
        text(447, 448, "features", colour=MUTED),
        text(220, 404, "the same", colour=MUTED).replace('"middle"', '"end"'),
    ]
    hidden = (
        '<pattern id="hidden" width="6" height="6" patternUnits="userSpaceOnUse" patternTransform="rotate(45)">'
        '<rect width="6" height="6" fill="#8a94a0"/><rect width="3" height="6" fill="#5d6772"/></pattern>'
    )
    head = (
        '<marker id="head" viewBox="0 0 10 10" refX="9" refY="5" markerWidth="7" markerHeight="7" orient="auto">'
        f'<path d="M0 0 L10 5 L0 10 z" fill="{INK}"/></marker>'
    )
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" width="{WIDTH}" height="{HEIGHT}" '
        'role="img" font-family="Helvetica, Arial, sans-serif">'
        "<title>M-CURL: masked sequences through CNN and Transformer find their momentum keys; "
        "reinforcement learning uses the same CNN</title>"
        f"<defs>{hidden}{head}</defs>" + "\n".join(parts) + "</svg>\n"
    )


if __name__ == "__main__":
    Path(__file__).with_suffix(".svg").write_text(figure())
