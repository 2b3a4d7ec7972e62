"""An agent of the user's, in one file: trained, killed, resumed, evaluated and reported by the commands."""

from __future__ import annotations

import csv
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

import mcurl
from mcurl.cli import main
from mcurl.config import resolve as config
from mcurl.config.settings import TrainSettings, describe
from mcurl.run import logger
from mcurl.run.folder import Run

AGENT = '''
from dataclasses import dataclass
from functools import partial

import torch
import torch.nn.functional as F
from torch import nn

from mcurl.agents.base import Agent, BatchSpec, Update, UpdateSchedule
from mcurl.config.fields import setting
from mcurl.networks.ema import ema_update, momentum_copy

@dataclass(frozen=True)
class LinearSettings:
    width: int = setting(8, low=1)
    """Features."""

class LinearQ(Agent):
    """Q-learning on a linear encoder: explores at random in a tenth of its steps."""
    Settings = LinearSettings
    label = "Linear Q"

    @classmethod
    def feature_dim(cls, settings, observation_shape):
        return settings.width

    def __init__(self, settings, observation_shape, action_space, objective=None, *, device, dtype=torch.float32):
        self.objective, self.actions = objective, int(action_space.n)
        self.batch_spec = BatchSpec(16, discount=0.9)
        self.schedule = UpdateSchedule(learning_starts=40, random_steps=20)
        pooled = 49 * observation_shape[0]
        encoder = nn.Sequential(nn.AdaptiveMaxPool2d(7), nn.Flatten(), nn.Linear(pooled, settings.width))
        self.net = nn.ModuleDict({"encoder": encoder, "q": nn.Linear(settings.width, self.actions)})
        self.net["key"] = momentum_copy(encoder)
        if objective is not None:
            self.net["objective"] = objective
        learned = (parameter for parameter in self.net.parameters() if parameter.requires_grad)
        self.optimizer = torch.optim.Adam(learned, 1e-2)

    def encode(self, name, pixels):
        return self.net[name](pixels.float() / 255)

    def act(self, observations, *, explore, clock):
        action = self.net["q"](self.encode("encoder", torch.as_tensor(observations))).argmax(1)
        if explore:  # by PyTorch's generator, which the run saves
            action = torch.where(torch.rand(len(action)) < 0.1, torch.randint(self.actions, action.shape), action)
        return action.numpy()

    def update(self, batch, clock):
        t = batch.transitions
        with torch.no_grad():
            ahead = self.net["q"](self.encode("encoder", t.next_obs)).amax(1)
        q = self.net["q"](self.encode("encoder", t.obs)).gather(1, t.action.view(-1, 1))
        loss = F.mse_loss(q.flatten(), t.reward.flatten() + t.discount.flatten() * ahead)
        metrics = {"q/loss": loss.detach()}
        if batch.contrast is not None:
            views, encoders = batch.contrast, (partial(self.encode, "encoder"), partial(self.encode, "key"))
            contrast = self.objective.loss(views.query, views.key, views.plan, *encoders)
            loss, metrics = loss + contrast.value, metrics | contrast.metrics
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        ema_update(self.net["key"].parameters(), self.net["encoder"].parameters(), 0.05)
        return Update(metrics)

    def state_dict(self):
        return {"net": self.net.state_dict(), "optimizer": self.optimizer.state_dict()}

    def load_state_dict(self, state):
        self.net.load_state_dict(state["net"])
        self.optimizer.load_state_dict(state["optimizer"])

class PlainQ(LinearQ):
    """Takes no objective."""
    @classmethod
    def feature_dim(cls, settings, observation_shape):
        return super(LinearQ, cls).feature_dim(settings, observation_shape)

class Bare(Agent):
    pass
'''
SMALL = [
    *("--env-steps", "500", "--threads", "1", "--set", "compute.device=cpu", "evaluation.every=200"),
    *("evaluation.episodes=3", "checkpoint.every=150"),
]
METHODS = {"rl-only": [], "mcurl": ["mcurl.batch=2", "mcurl.length=4"], "curl": []}


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "linear_agent.py").write_text(AGENT)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "linear_agent", raising=False)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def train(out: str, method: str) -> tuple[int, Path]:
    line = ["train", "toy/catch", "--agent", "linear_agent:LinearQ", "--method", method, "--out", out]
    line += ["--name", f"linear_agent-LinearQ-{method}"] if METHODS[method] else []
    status = main([*line, *SMALL, *METHODS[method]])
    return status, Path(out, "toy-catch", f"linear_agent-LinearQ-{method}-seed1")


class Kill(logger.Sink):
    """Ends the run between two checkpoints, with nothing saved."""

    def progress(self, env_steps: int, updates: int) -> None:
        if env_steps == 380:
            raise OSError("the machine is gone")


@pytest.mark.parametrize("method", METHODS)
def test_killed_and_resumed_is_as_never_stopped(method: str, monkeypatch: pytest.MonkeyPatch) -> None:
    status, whole = train("whole", method)
    assert status == 0
    make_sinks = logger.make_sinks
    with monkeypatch.context() as patch:
        patch.setattr(logger, "make_sinks", lambda *arguments: [*make_sinks(*arguments), Kill()])
        status, killed = train("killed", method)
    assert status == 2
    assert Run.open(killed).latest_checkpoint().env_steps == 300
    assert main(["resume", str(killed)]) == 0
    for name in ("metrics.jsonl", "evaluations.csv", "settings.json"):
        assert (whole / name).read_bytes() == (killed / name).read_bytes()
    expected, found = (load_file(run / "checkpoints/000000500/state.safetensors") for run in (whole, killed))
    assert expected.keys() == found.keys()
    assert all(torch.equal(expected[name], found[name]) for name in expected)
    metrics = [values for _, values in Run.open(whole).metrics()]
    assert any("contrast/loss" in values for values in metrics) == (method != "rl-only")
    assert any("q/loss" in values for values in metrics)


def test_it_is_evaluated_and_reported_under_a_name_of_its_own(capsys: pytest.CaptureFixture[str]) -> None:
    for method in ("rl-only", "curl"):
        assert train("runs", method)[0] == 0
    assert main(["train", "toy/catch", "--method", "rl-only", *SMALL]) == 0
    folder = Path("runs/toy-catch/linear_agent-LinearQ-rl-only-seed1")
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    capsys.readouterr()
    assert main(["evaluate", str(folder), "--episodes", "4"]) == 0
    assert "4 episodes: mean" in capsys.readouterr().out
    kept = folder / "results"  # of the evaluation; nothing else in the folder changes
    after = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file() and path.parent != kept}
    assert before == after
    assert json.loads((folder / "run.json").read_text())["label"] == "Linear Q, RL alone"
    assert json.loads((folder / "settings.json").read_text())["agent"] == "linear_agent:LinearQ"

    assert main(["collect", "runs"]) == 0
    names = ["linear_agent-LinearQ-curl", "linear_agent-LinearQ-rl-only", "rl-only"]
    added = [line.split(",")[0] for line in capsys.readouterr().out.splitlines()]
    assert sorted(added) == [f"added scores/toy/{name}/catch.csv" for name in names]
    labels = {}
    for name in names:
        with Path(f"scores/toy/{name}/catch.csv").open(newline="") as file:
            steps = [int(row["env_steps"]) for row in csv.DictReader(file)]
        assert steps == [step for step in (0, 200, 400, 500) for _ in range(3)]
        labels[name] = json.loads(Path(f"scores/toy/{name}/catch.json").read_text())["seed 1"]["label"]
    assert list(labels.values()) == ["Linear Q, CURL", "Linear Q, RL alone", "RL alone"]


def test_its_policy_is_exported(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """By a new process, which has not imported it."""
    status, run = train("runs", "rl-only")
    assert status == 0
    line = ["export", str(run), "--to", "policy", "--no-video"]
    monkeypatch.delitem(sys.modules, "linear_agent")
    assert main(line) == 2
    assert "add --import linear_agent" in capsys.readouterr().err
    assert not Path("policy").exists()
    assert main([*line, "--import", "linear_agent"]) == 0
    policy = mcurl.load("policy")
    assert policy.act(np.zeros(policy.observation_shape, np.uint8)) in range(3)


def test_curves_have_its_label(monkeypatch: pytest.MonkeyPatch) -> None:
    figure = pytest.importorskip("matplotlib.figure")
    labels: list[str] = []

    def look(self: Any, target: Any, **options: Any) -> None:
        labels.extend(line.get_label() for line in self.axes[0].get_lines())

    monkeypatch.setattr(figure.Figure, "savefig", look)
    assert train("runs", "rl-only")[0] == 0
    assert main(["report", "runs", "--plot", "plots"]) == 0
    assert labels == ["Linear Q, RL alone (1 seed)"]


def test_its_settings_are_settings() -> None:
    settings = config.resolve("toy/catch", "mcurl", agent="linear_agent:LinearQ", overrides=["linear_q.width=4"])
    assert settings.agent_settings.width == 4
    assert list(settings.to_json())[5:] == [
        *("env", "replay", "linear_q", "mcurl", "evaluation", "checkpoint", "compute"),
    ]
    assert settings.objective_settings.length == 8  # the suite's, whatever the agent
    shown = {setting.key: setting for setting in describe(settings)}
    assert (shown["linear_q.width"].default, shown["linear_q.width"].help) == (8, "Features.")
    assert TrainSettings.from_json(settings.to_json()) == settings


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("--agent linear_agent:LinearQ --set linear_q.width=0", "linear_q.width must be at least 1, not 0"),
        ("--agent linear_agent:LinearQ --set linear_q.widht=2", "did you mean linear_q.width?"),
        ("--agent linear_agent:LinearQ --set rainbow.n_step=2", "rainbow.n_step has no effect here"),
        ("--agent linear_agent:LinearQ --method rl-only-nocrop", "is for SAC; Linear Q learns toy/catch"),
        ("--agent linear_agent:LinarQ", "linear_agent has no LinarQ: did you mean LinearQ?"),
        ("--agent linear_agent:Bare", "linear_agent:Bare needs Settings"),
        ("--agent linear_agent:partial", "linear_agent:partial is not a subclass of Agent"),
        ("--agent linear_agnt:LinearQ", "cannot import linear_agnt: No module named"),
        (
            "--agent linear_agent:PlainQ --method curl",
            "PlainQ does not support contrastive objectives: use --method rl-only",
        ),
    ],
)
def test_a_mistake_is_one_line(line: str, says: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "toy/catch", "--threads", "1", *line.split()]) == 2
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    assert says in err
    assert not Path("runs").exists()
