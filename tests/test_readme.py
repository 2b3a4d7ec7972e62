"""What the README shows can be typed."""

from __future__ import annotations

import re
import shlex
import sys
from pathlib import Path
from typing import Any

import pytest

from mcurl import cli
from mcurl.config import resolve as config
from mcurl.config.resolve import TrainSettings
from mcurl.errors import UserError
from mcurl.run.folder import Run

README = (Path(__file__).parents[1] / "README.md").read_text()
LINES = [
    line.split("#")[0].strip() for block in re.findall(r"```sh\n(.*?)```", README, re.S) for line in block.splitlines()
]
COMMANDS = [line for line in LINES if line.startswith("mcurl ")]


LOSS_IN_AN_AGENT, OWN_METHOD = re.findall(r"```python\n(.*?)```", README, re.S)


def test_the_loss_in_an_agent_of_ones_own_runs() -> None:
    names: dict[str, Any] = {}
    exec(LOSS_IN_AN_AGENT, names)
    assert names["loss"].value > 0


@pytest.fixture
def own_method(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "my_loss.py").write_text(OWN_METHOD)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.delitem(sys.modules, "my_loss", raising=False)


@pytest.mark.usefixtures("own_method")
@pytest.mark.parametrize(("task", "agent"), [("toy/reach", "sac"), ("toy/catch", "rainbow")])
def test_a_method_of_ones_own_trains_on_both_agents(task: str, agent: str) -> None:
    small = [
        f"{agent}.learning_starts=30",
        f"{agent}.hidden=16",
        "evaluation.every=0",
        "evaluation.episodes=1",
        "evaluation.final_episodes=1",
    ]
    line = ["--env-steps", "60", "--threads", "1", "--set", "own.temperature=0.2", *small]
    assert cli.main(["train", task, "--method", "my_loss:TwoViews", *line]) == 0
    folder = f"runs/{task.replace('/', '-')}/my_loss-TwoViews-seed1"
    run = Run.open(Path(folder))
    assert run.settings["own"] == {"temperature": 0.2}
    assert TrainSettings.from_json(run.settings).own.temperature == 0.2
    assert cli.main(["evaluate", folder, "--episodes", "1"]) == 0
    assert cli.main(["report", "runs"]) == 0
    assert Path(f"results/toy/my_loss-TwoViews/{task.partition('/')[2]}.csv").exists()


@pytest.mark.usefixtures("own_method")
@pytest.mark.parametrize("line", COMMANDS)
def test_commands_are_known(line: str) -> None:
    parser, _ = cli._build_parsers()
    given = parser.parse_args(shlex.split(line)[1:])
    if given.run.__name__ == "_train" and not given.task.startswith("gym/"):
        try:
            config.resolve(
                given.task, given.method, seed=given.seed[0], env_steps=given.env_steps, overrides=given.overrides
            )
        except UserError as error:
            pytest.fail(f"{line}: {error}")


def test_there_are_commands_to_check() -> None:
    assert len(COMMANDS) > 8
