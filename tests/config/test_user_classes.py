"""A user's kind of M-CURL or CURL is trained as its parent is: same values on every task, same limits, same start."""

from __future__ import annotations

import sys
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import torch

from mcurl.agents.rainbow import Rainbow
from mcurl.build import build_agent, build_env
from mcurl.cli import main
from mcurl.config.resolve import resolve
from mcurl.config.settings import TrainSettings
from mcurl.config.tasks import task_names
from mcurl.errors import UserError
from mcurl.objectives.contrast import Curl
from mcurl.objectives.masked import MCurl
from mcurl.runtime.device import Compute

MODULE = """
from dataclasses import dataclass
from mcurl.config.fields import setting
from mcurl.objectives.base import Objective
from mcurl.objectives.contrast import Curl
from mcurl.objectives.masked import MCurl, MCurlSettings
from mcurl.objectives.sequence import SymCurl

class MyMCurl(MCurl):
    def keys(self, features, padded):
        return features + 0

class MyCurl(Curl):
    label = "CURL, mine"

class MySymCurl(SymCurl):
    pass

@dataclass(frozen=True)
class MoreSettings(MCurlSettings):
    sharpness: float = setting(1.0, above=0)
    \"\"\"Of the keys.\"\"\"

class More(MyMCurl):
    Settings = MoreSettings

class Rainbow2(Objective):  # its section would hide an agent's
    Settings = MCurlSettings
    section = "sac"

class Agent(Objective):  # its section would hide an argument
    Settings = MCurlSettings
"""
PARENTS = {"my_losses:MyMCurl": "mcurl", "my_losses:MyCurl": "curl", "my_losses:MySymCurl": "sym-curl"}
TASKS = [*task_names("dmc"), *task_names("atari26"), *task_names("toy")]
CPU = Compute(torch.device("cpu"), torch.float32, graphs=False)


@pytest.fixture(autouse=True)
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "my_losses.py").write_text(MODULE)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "my_losses", raising=False)


def test_a_module_that_exits_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "quitter.py").write_text("raise SystemExit(0)")
    with pytest.raises(UserError, match="cannot import quitter: SystemExit: 0"):
        resolve("toy/reach", "quitter:Loss")


@pytest.mark.parametrize(("method", "parent"), PARENTS.items())
def test_on_every_task_it_has_the_settings_of_its_parent(method: str, parent: str) -> None:
    for task in TASKS:
        mine, theirs = resolve(task, method), resolve(task, parent)
        assert mine.sections == theirs.sections, task
        assert mine.to_json() == theirs.to_json() | {"method": method}
        assert TrainSettings.from_json(mine.to_json()) == mine


def test_the_papers_values_reach_it() -> None:
    settings = {task: resolve(task, "my_losses:MyMCurl").objective_settings for task in TASKS}
    assert {settings[f"dmc/{task}"].mask_rate for task in ("walker-walk", "finger-spin")} == {0.6}
    assert settings["dmc/hopper-hop"].mask_rate == 0.5
    assert (settings["atari/Pong"].length, settings["atari/Pong"].batch) == (16, 16)
    assert (settings["dmc/hopper-hop"].length, settings["toy/reach"].length) == (32, 8)
    assert resolve("atari/Pong", "my_losses:MyCurl").objective_settings.scale == 0.1
    assert resolve("dmc/hopper-hop", "my_losses:MyCurl").objective_settings.scale == 1


def test_settings_of_its_own_stand_beside_its_parents() -> None:
    settings = resolve("dmc/walker-walk", "my_losses:More", overrides=["mcurl.sharpness=3"])
    assert (settings.objective_settings.sharpness, settings.objective_settings.mask_rate) == (3, 0.6)
    assert TrainSettings.from_json(settings.to_json()) == settings
    with pytest.raises(UserError, match=r"^mcurl\.sharpness must be above 0, not 0\.0$"):
        resolve("dmc/walker-walk", "my_losses:More", overrides=["mcurl.sharpness=0"])


@pytest.mark.parametrize("task", ["dmc/walker-walk", "atari/Pong", "toy/catch"])
@pytest.mark.parametrize(
    ("override", "says"),
    [
        ("mcurl.mask_rate=7", "mcurl.mask_rate must be from 0 to 1, not 7.0"),
        ("mcurl.length=0", "mcurl.length must be at least 1, not 0"),
        ("mcurl.block_length=8", "it needs mcurl.mask=block or mcurl.mask=frames"),
        ("own.mask_rate=.5", "there is no setting own.mask_rate: did you mean mcurl.mask_rate?"),
    ],
)
def test_the_limits_of_its_parent_hold(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, task: str, override: str, says: str
) -> None:
    line = ["train", task, "--method", "my_losses:MyMCurl", "--out", str(tmp_path / "runs"), "--set", override]
    assert main(line) == 2
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    assert says in err
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(("name", "section"), [("Rainbow2", "sac"), ("Agent", "agent")])
def test_a_section_that_is_taken_is_one_line(name: str, section: str) -> None:
    with pytest.raises(
        UserError, match=f"^the section name '{section}' is already used: set another `section` in the class$"
    ):
        resolve("toy/reach", f"my_losses:{name}")


def on_atari(method: str) -> Rainbow:
    settings = resolve("atari/Pong", method)
    with closing(build_env(settings, 0)) as env:
        agent: Any = build_agent(settings, env, CPU)
    assert isinstance(agent, Rainbow)
    return agent


def test_on_atari_it_begins_as_its_parent_does() -> None:
    curl, masked = on_atari("my_losses:MyCurl"), on_atari("my_losses:MyMCurl")
    assert type(curl.objective).__name__ == "MyCurl"
    assert isinstance(curl.objective, Curl)
    assert curl.objective.settings.scale == 0.1
    assert isinstance(masked.objective, MCurl)
    assert (masked.objective.contrast_spec.batch, masked.objective.contrast_spec.length) == (16, 16)
    for agent, uniform in ((curl, True), (masked, False)):
        assert agent.query is not None
        matrices = [weight for weight in agent.query.head.parameters() if weight.ndim == 2]
        assert len(matrices) == 2
        for weight in matrices:  # U[0, 1) as CURL's release has it, or PyTorch's, which is about 0
            assert (weight.min() >= 0) == uniform
            assert abs(weight.mean() - (0.5 if uniform else 0.0)) < 0.01


def test_its_label_is_its_own() -> None:
    assert resolve("toy/reach", "my_losses:MyMCurl").label == "MyMCurl"
    assert resolve("toy/reach", "my_losses:MyCurl").label == "CURL, mine"
    assert resolve("toy/reach", "mcurl").label == "M-CURL"
