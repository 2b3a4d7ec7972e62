"""Colours that everyone can tell apart, on light and on dark pages."""

from __future__ import annotations

import re
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

import mcurl.report
from mcurl.report.palette import STEPS, STYLES, steps, styles

Array = NDArray[np.float64]
# Machado et al. (2009), severity 1: linear RGB as it is seen.
SEEN = {
    "normal": np.eye(3),
    "protanopia": np.array(
        [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]]
    ),
    "deuteranopia": np.array(
        [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]]
    ),
    "tritanopia": np.array(
        [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.303900]]
    ),
}
METHODS = ("mcurl", "curl", "rl-only", "seq-curl", "sym-curl", "sac-state", "rl-only-nocrop", "other-1", "other-2")
CSS = (Path(mcurl.report.__file__).parent / "page.css").read_text()
TOGETHER = {"methods": METHODS, "sweep": (*STEPS, "curl")}


def linear(colour: str) -> Array:
    values = np.array([int(colour[i : i + 2], 16) for i in (1, 3, 5)]) / 255
    return np.asarray(np.where(values <= 0.04045, values / 12.92, ((values + 0.055) / 1.055) ** 2.4))


def lab(rgb: Array) -> Array:
    matrix = np.array(
        [[0.4124564, 0.3575761, 0.1804375], [0.2126729, 0.7151522, 0.0721750], [0.0193339, 0.1191920, 0.9503041]]
    )
    xyz = matrix @ np.clip(rgb, 0, 1) / np.array([0.95047, 1, 1.08883])
    f = np.where(xyz > 216 / 24389, np.cbrt(xyz), (24389 / 27 * xyz + 16) / 116)
    return np.array([116 * f[1] - 16, 500 * (f[0] - f[1]), 200 * (f[1] - f[2])])


def contrast(first: str, second: str) -> float:
    low, high = sorted(float(linear(colour) @ [0.2126, 0.7152, 0.0722]) for colour in (first, second))
    return (high + 0.05) / (low + 0.05)


def page_colours(name: str) -> tuple[str, str]:
    """A colour of the page's style sheet, light and dark."""
    light, dark = re.findall(rf"--{name}: (#\w+);", CSS)
    return light, dark


@pytest.mark.parametrize("seen", SEEN)
@pytest.mark.parametrize("group", TOGETHER)
@pytest.mark.parametrize("mode", ["light", "dark"])
def test_curves_can_be_told_apart(mode: str, group: str, seen: str) -> None:
    places = {name: lab(SEEN[seen] @ linear(getattr(STYLES[name], mode))) for name in TOGETHER[group]}
    for first, second in combinations(places, 2):
        assert np.linalg.norm(places[first] - places[second]) > 13, (first, second)


def test_curves_and_text_stand_out_from_the_page() -> None:
    papers = page_colours("paper")
    for name, style in STYLES.items():
        for colour, paper in zip((style.light, style.dark), papers, strict=True):
            assert contrast(colour, paper) >= 3, name
    for name in ("ink", "soft", "link", "yes", "no"):
        for background in ("paper", "faint"):
            for colour, paper in zip(page_colours(name), page_colours(background), strict=True):
                assert contrast(colour, paper) >= 4.5, (name, background)


def test_no_two_curves_look_alike_in_black_and_white() -> None:
    for group in (METHODS, STEPS):
        assert len({STYLES[name].dash for name in group}) == len(group)


def test_methods_keep_their_colours_and_others_take_the_rest() -> None:
    found = styles(["mine", "curl", "yours"])
    assert found["curl"] == "curl"
    assert len(set(found.values())) == 3
    assert all(name in STYLES for name in found.values())
    assert list(steps(["a", "b", "c"]).values()) == ["step-1", "step-3", "step-5"]
