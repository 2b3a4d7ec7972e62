"""Runs that differ in a setting have different names."""

from __future__ import annotations

from typing import Any

import pytest

from mcurl.config.resolve import resolve
from mcurl.errors import UserError
from mcurl.run.names import MAX_LENGTH, append_changes, changed_settings, check_meaning, check_name


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


SETTINGS = {
    "method": "mcurl",
    "agent": "sac",
    "mcurl": {"mask_rate": 0.3, "projection": True},
    "sac": {"batch": 64, "capacity": 1000},
}


@pytest.mark.parametrize(
    "name",
    [
        *("mcurl", "mcurl-mask_rate=0.3", "mcurl-mcurl.mask_rate=0.30-projection=True", "mcurl-try=2", "curl-50k"),
        *("mcurl-mask_rate=0.3-v2", "mcurl-mask_rate=0.30-50k-batch=64", "mcurl-capacity=1k", "mine-mask_rate=0.1"),
    ],
)
def test_a_name_says_what_the_settings_say_or_nothing(name: str) -> None:
    check_meaning(name, SETTINGS, ["mcurl", "curl"])


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("curl", "the name 'curl' is that of the method curl, but this run is of mcurl"),
        ("curl-mask_rate=0.3", "that of the method curl, but this run is of mcurl"),
        ("mcurl-mask_rate=0.1", "says mask_rate=0.1, but this run has mask_rate=0.3"),
        ("mcurl-mask_rate=0.35", "says mask_rate=0.35, but this run has mask_rate=0.3"),
        ("drqv2-mcurl", "that of the method drqv2-mcurl, but this run is of mcurl"),
        ("mcurl-method=curl", "says method=curl, but this run has method=mcurl"),
        ("mcurl-mask_rate=0.3-projection=false", "says projection=false, but this run has projection=true"),
    ],
)
def test_a_name_that_says_another_method_or_setting_is_refused(name: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        check_meaning(name, SETTINGS, ["mcurl", "curl"])


def test_a_method_of_another_agent_has_another_name() -> None:
    with pytest.raises(UserError, match="but this run is of drqv2-mcurl"):
        check_meaning("mcurl", SETTINGS | {"agent": "drqv2"}, ["mcurl", "curl"])


def test_default_names_say_what_the_settings_say() -> None:
    many = ("hidden=40", "filters=2", "batch_size=4", "feature_dim=8", "learning_starts=30", "crop=26")
    overrides = [*(f"sac.{text}" for text in many), "env.image_size=32", "replay.capacity=300"]
    overrides += ["mcurl.mask=block", "mcurl.block_length=3"]
    cut = resolve("toy/reach", overrides=overrides)
    assert "=" not in cut.name[-9:]  # a hash
    for settings in (cut, resolve("toy/reach", "rl-only", agent="drqv2")):
        check_meaning(settings.name, settings.to_json(), ["mcurl", "curl", "rl-only"])
    with pytest.raises(UserError, match="says image_size=33"):
        check_meaning(cut.name.replace("image_size=32", "image_size=33"), cut.to_json(), ["mcurl"])
