"""An objective of the user's, by the name of its class."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from mcurl.agents.base import Agent
from mcurl.agents.sac import SAC, SacSettings
from mcurl.bench.update import EnvSpec
from mcurl.build import build_agent
from mcurl.config import resolve as config
from mcurl.config.settings import TrainSettings, describe
from mcurl.errors import UserError
from mcurl.objectives.base import Objective
from mcurl.objectives.contrast import Curl
from mcurl.objectives.masked import MCurl, MCurlSettings
from mcurl.runtime.device import Compute

MODULE = """
from dataclasses import dataclass
from mcurl.config.fields import setting
from mcurl.objectives.base import ContrastSpec, Objective
from mcurl.objectives.contrast import Curl
from mcurl.objectives.masked import MCurl, MCurlSettings

class Blocks(MCurl):
    pass

class Bilinear(Curl):
    label = "CURL of mine"

@dataclass(frozen=True)
class WideSettings(MCurlSettings):
    width: int = setting(3, low=1)
    \"\"\"Of something.\"\"\"

class Wide(MCurl):
    Settings = WideSettings

@dataclass(frozen=True)
class Settings:
    weight: float = setting(0.5, low=0, high=2)
    \"\"\"Of the loss.\"\"\"

class PlainLoss(Objective):
    Settings = Settings
    def __init__(self, settings, feature_dim):
        super().__init__()
        self.settings, self.width = settings, feature_dim
        self.contrast_spec = ContrastSpec("rl")
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


def objective_of(settings: TrainSettings, device: str = "cpu") -> Objective:
    """The objective of a run's agent, as ``build_agent`` makes it; it stays on the CPU."""
    spec: Any = EnvSpec(settings.task.partition("/")[0])
    cls = settings.parts.objective
    assert cls is not None
    if device != "cpu":  # the objective alone: the agent would need the device
        width = settings.parts.agent.feature_dim(settings.agent_settings, spec.observation_space.shape)
        objective = cls(settings.objective_settings, width)
        objective.set_compute(fixed_shapes=True, dtype=torch.float32)
        return objective
    agent = build_agent(settings, spec, Compute(torch.device("cpu"), torch.float32, graphs=False))
    assert agent.objective is not None
    return agent.objective


def test_its_settings_are_settings() -> None:
    settings = config.resolve("atari/Pong", "own_losses:PlainLoss", overrides=["plain_loss.weight=0.1"])
    found = {setting.key: setting for setting in describe(settings)}
    row = found["plain_loss.weight"]
    assert (row.value, row.default, row.help) == (0.1, 0.5, "Of the loss.")
    assert not any(key.startswith(("mcurl.", "curl.", "seq_curl.")) for key in found)
    with pytest.raises(UserError, match=r"no setting plain_loss\.weigth: did you mean plain_loss\.weight"):
        config.resolve("atari/Pong", "own_losses:PlainLoss", overrides=["plain_loss.weigth=0.1"])
    with pytest.raises(UserError, match=r"plain_loss\.weight must be from 0 to 2"):
        config.resolve("atari/Pong", "own_losses:PlainLoss", overrides=["plain_loss.weight=3"])
    assert TrainSettings.from_json(settings.to_json()) == settings


@pytest.mark.parametrize(("task", "width"), [("atari/RoadRunner", 128), ("dmc/cartpole-swingup", 50)])
def test_it_is_made_for_the_width_of_the_features(task: str, width: int) -> None:
    made: Any = objective_of(config.resolve(task, "own_losses:PlainLoss"))
    assert (made.width, made.settings.weight) == (width, 0.5)


@pytest.mark.parametrize("name", ["Blocks", "Wide"])
def test_a_kind_of_m_curl_gets_what_m_curl_gets(name: str) -> None:
    """Section, the suite's values, limits; fixed spec on a GPU."""
    method = f"own_losses:{name}"
    settings = config.resolve("dmc/cartpole-swingup", method, overrides=["mcurl.length=8"])
    made = objective_of(settings, "cuda")
    assert isinstance(made, MCurl)
    assert made.settings == type(made).Settings(length=8)
    assert not made.compact
    for task in ("dmc/walker-walk", "dmc/cartpole-swingup", "atari/RoadRunner"):
        theirs = config.resolve(task, "mcurl").objective_settings
        ours = config.resolve(task, method).objective_settings
        assert all(getattr(ours, field) == getattr(theirs, field) for field in MCurlSettings.__dataclass_fields__)
    assert config.resolve("dmc/walker-walk", method).objective_settings.mask_rate == 0.6
    assert config.resolve("atari/RoadRunner", method).objective_settings.length == 16
    with pytest.raises(UserError, match=r"mcurl\.mask_rate must be from 0 to 1"):
        config.resolve("atari/RoadRunner", method, overrides=["mcurl.mask_rate=7"])


def test_a_kind_of_curl_gets_what_curl_gets() -> None:
    settings = config.resolve("atari/RoadRunner", "own_losses:Bilinear")
    assert settings.objective_settings.scale == 0.1
    made = objective_of(settings)
    assert isinstance(made, Curl)
    assert made.contrast_spec.head_init == "uniform"
    assert type(made).label == "CURL of mine"


@pytest.mark.parametrize(
    ("method", "says"),
    [
        ("own_losse:PlainLoss", "cannot import own_losse: No module named"),
        ("own_losses:PlaneLoss", "own_losses has no PlaneLoss: did you mean PlainLoss"),
        ("own_losses:number", "own_losses:number is not a subclass of Objective"),
        ("own_losses:Bare", "needs Settings"),
        ("own_losses", "a user-defined objective is named MODULE:CLASS"),
    ],
)
def test_what_is_no_method_is_one_line(method: str, says: str) -> None:
    with pytest.raises(UserError, match=says) as raised:
        config.resolve("toy/reach", method)
    assert "\n" not in str(raised.value)


def test_a_class_has_the_section_of_its_name_or_of_its_parent() -> None:
    class TwoWords(Agent):
        Settings = SacSettings

    class Child(TwoWords):
        pass

    class SlowSAC(SAC):
        pass

    assert (TwoWords.section, Child.section, SlowSAC.section) == ("two_words", "two_words", "sac")
    assert (TwoWords.label, Child.label, SlowSAC.label) == ("TwoWords", "Child", "SlowSAC")
