"""Runs that differ in a setting have different names."""

from __future__ import annotations

from typing import Any

import pytest

from mcurl.config.resolve import resolve
from mcurl.errors import UserError
from mcurl.run.names import MAX_LENGTH, append_changes, changed_settings, check_name


@pytest.mark.parametrize(
    ("task", "arguments", "name", "label"),
    [
        ("toy/reach", {}, "mcurl", "M-CURL"),
        ("toy/reach", {"overrides": ["mcurl.mask_rate=0.3"]}, "mcurl-mask_rate=0.3", "M-CURL, mask_rate=0.3"),
        ("toy/reach", {"overrides": ["mcurl.mask_rate=0.5"]}, "mcurl", "M-CURL"),
        ("toy/reach", {"overrides": ["sac.layers=3"]}, "mcurl-sac.layers=3", "M-CURL, sac.layers=3"),
        ("toy/reach", {"overrides": ["mcurl.projection=true"]}, "mcurl-projection=true", "M-CURL, projection=true"),
        ("toy/reach", {"method": "rl-only", "seed": 7}, "rl-only", "RL alone"),
        ("toy/reach", {"method": "sac-state"}, "sac-state", "SAC on states"),
        (
            "toy/reach",
            {"method": "rl-only", "overrides": ["env.observation=state", "sac.augmentation=none"]},
            "rl-only-observation=state-augmentation=none",
            "RL alone, observation=state, augmentation=none",
        ),
        ("toy/reach", {"overrides": ["compute.precision=fp32"]}, "mcurl-precision=fp32", "M-CURL, precision=fp32"),
    ],
)
def test_the_name_says_what_the_user_changed(task: str, arguments: dict[str, Any], name: str, label: str) -> None:
    settings = resolve(task, **arguments)
    assert (settings.name, settings.label) == (name, label)


def test_what_does_not_change_the_learning_is_not_in_the_name() -> None:
    overrides = ["compute.threads=1", "compute.native=off", "evaluation.every=7", "checkpoint.every=7"]
    assert resolve("toy/reach", seed=3, env_steps="300", overrides=overrides).name == "mcurl"


def test_the_values_of_the_suite_are_its_defaults() -> None:
    """walker-walk's mask rate of 0.6 is the paper's: it is no change, and 0.5 is one."""
    assert resolve("dmc/walker-walk").name == "mcurl"
    assert resolve("dmc/walker-walk", overrides=["mcurl.mask_rate=0.5"]).name == "mcurl-mask_rate=0.5"


def test_a_name_fits_into_a_path() -> None:
    changed = changed_settings({"a": {"text": "x/../y z", "none": None}}, {"a": {"text": "", "none": 1}})
    assert append_changes("mcurl", changed) == "mcurl-text=x-..-y-z-none=none"
    # Files of unknown origin have any keys, too: half a character of UTF-16 is in no file name, and in no hash.
    assert append_changes("mcurl", {"../a/\ud800": 1, "b" * MAX_LENGTH: 2}).startswith("mcurl-..-a-=1-bbb")
    many = {f"setting_{number}": number for number in range(40)}
    long, other = (append_changes("mcurl", many | {"setting_39": value}) for value in (39, 40))
    assert len(long) <= MAX_LENGTH
    assert long != other
    for name in ("mcurl", "mcurl-mask_rate=0.3", "sac-1e-05", long):
        assert check_name(name) == name
    for name in ("", "../evil", "a/b", "-a", ".a", "a b", "a\n", "x" * 101):
        with pytest.raises(UserError, match="a name has letters, digits and"):
            check_name(name)
