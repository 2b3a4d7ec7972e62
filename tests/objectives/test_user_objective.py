"""A method of one's own, by the name of its class."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch

from mcurl.build import build_objective
from mcurl.config import resolve as config
from mcurl.errors import UserError
from mcurl.objectives.masked import MCurl, MCurlSettings
from mcurl.runtime.device import Compute

MODULE = """
from dataclasses import dataclass
from mcurl.objectives.base import Objective
from mcurl.objectives.masked import MCurl, MCurlSettings

class Blocks(MCurl):
    Settings = MCurlSettings

@dataclass(frozen=True)
class Settings:
    weight: float = 0.5
    \"\"\"Of the loss.\"\"\"

class Plain(Objective):
    Settings = Settings
    def __init__(self, settings, features):
        super().__init__()
        self.settings, self.width = settings, features
    def loss(self, query_pixels, key_pixels, plan, encode_query, encode_key):
        return None

class Bare(Objective):
    pass

number = 3
"""


@pytest.fixture(autouse=True)
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "own_losses.py").write_text(MODULE)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "own_losses", raising=False)
    config.known_keys.cache_clear()


def test_its_settings_are_settings() -> None:
    settings = config.resolve("atari/Pong", "own_losses:Plain", overrides=["own.weight=0.1"])
    found = {setting.key: setting for setting in config.describe(settings)}
    assert (found["own.weight"].value, found["own.weight"].default, found["own.weight"].help) == (
        0.1,
        0.5,
        "Of the loss.",
    )
    assert not any(key.startswith(("mcurl.", "curl.")) for key in found)
    with pytest.raises(UserError, match=r"no setting own\.weigth: did you mean own\.weight"):
        config.resolve("atari/Pong", "own_losses:Plain", overrides=["own.weigth=0.1"])
    assert config.TrainSettings.from_json(settings.to_json()) == settings


def test_it_is_made_for_the_width_of_the_features() -> None:
    settings = config.resolve("atari/Pong", "own_losses:Plain")
    made = build_objective(settings, 128, Compute(torch.device("cpu"), torch.float32, graphs=False))
    assert made is not None
    assert (made.width, made.settings.weight) == (128, 0.5)  # type: ignore[union-attr]


def test_a_kind_of_m_curl_gets_what_m_curl_gets() -> None:
    settings = config.resolve("dmc/cartpole-swingup", "own_losses:Blocks", overrides=["own.length=8"])
    made = build_objective(settings, 50, Compute(torch.device("cuda"), torch.float32, graphs=True))
    assert isinstance(made, MCurl)
    assert made.settings == MCurlSettings(length=8)
    assert not made.compact


@pytest.mark.parametrize(
    ("method", "says"),
    [
        ("own_losse:Plain", "cannot import own_losse for its method"),
        ("own_losses:Plane", "own_losses has no Plane: did you mean Plain"),
        ("own_losses:number", "own_losses:number is no Objective"),
        ("own_losses:Bare", "needs Settings"),
        ("own_losses", "a user-defined objective is named MODULE:CLASS"),
    ],
)
def test_what_is_no_method_is_one_line(method: str, says: str) -> None:
    with pytest.raises(UserError, match=says) as raised:
        config.resolve("toy/reach", method)
    assert "\n" not in str(raised.value)
