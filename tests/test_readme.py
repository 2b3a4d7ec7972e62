"""What README.md and docs/ show can be typed, and runs."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from mcurl import cli, envs
from mcurl.config.resolve import resolve
from mcurl.config.settings import TrainSettings
from mcurl.parsers import build_parsers
from mcurl.run.folder import Run
from mcurl.suites.suite import Suite, check_runs, suite_names

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
PAGES = {path.name: path.read_text() for path in [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]}


def blocks(language: str, text: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", text, re.S)


def commands(text: str) -> list[str]:
    """Lines of the shell blocks, without comments and variables before them."""
    lines = [line.split("#")[0].strip() for block in blocks("sh", text) for line in block.splitlines()]
    lines = [re.sub(r"^([A-Z_]+=\S+ )+", "", line) for line in lines]
    return [line for line in lines if line.startswith("mcurl ")]


MODULES = {
    block.partition("\n")[0].removeprefix("# "): block
    for text in PAGES.values()
    for block in blocks("python", text)
    if re.match(r"# \w+\.py\n", block)
}
LINES = [pytest.param(line, id=f"{name}: {line}") for name, text in PAGES.items() for line in commands(text)]
SHORT = ["--threads", "1", "--set", "evaluation.every=0", "evaluation.episodes=1"]


@pytest.fixture
def modules(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The modules that the pages show, in the current folder."""
    for name, text in MODULES.items():
        (tmp_path / name).write_text(text)
        monkeypatch.delitem(sys.modules, name.removesuffix(".py"), raising=False)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))


def test_the_readme_is_short() -> None:
    assert len(README.splitlines()) <= 120


def test_links_lead_somewhere() -> None:
    pages = [ROOT / "README.md", ROOT / "CHANGELOG.md", ROOT / "results" / "README.md", *(ROOT / "docs").glob("*.md")]
    for page in pages:
        for link in re.findall(r"\]\(([^)#]+)[^)]*\)", page.read_text()):
            assert link.startswith("https://") or (page.parent / link).exists(), f"{page.name}: {link}"


def test_the_loss_in_an_agent_of_ones_own_learns() -> None:
    [code] = blocks("python", README)
    names: dict[str, Any] = {}
    exec(code, names)
    before = [parameter.clone() for parameter in names["encoder"].parameters()]
    first = names["loss"].value.item()
    assert 0 < first < 10
    update = code.partition("# The five lines of an update:\n")[2]
    assert len(update.splitlines()) == 5
    for _ in range(2):
        exec(update, names)
    for old, new, key in zip(before, names["encoder"].parameters(), names["key_encoder"].parameters(), strict=True):
        assert torch.isfinite(new).all()
        assert not torch.equal(old, new)
        assert not torch.equal(key, new)
    assert names["loss"].value.item() < first


@pytest.mark.usefixtures("modules")
@pytest.mark.parametrize("line", LINES)
def test_commands_are_known(line: str) -> None:
    parser, _ = build_parsers()
    options = parser.parse_args(shlex.split(line)[1:])
    if options.run.__name__ in ("train", "settings"):
        resolve(
            options.task,
            options.method,
            agent=options.agent,
            env_steps=options.env_steps,
            preset=options.preset,
            overrides=options.overrides,
        )


@pytest.mark.parametrize(
    ("name", "least"), [("README.md", 8), ("methods.md", 10), ("add-an-objective.md", 6), ("add-an-agent.md", 4)]
)
def test_there_are_commands_to_check(name: str, least: int) -> None:
    assert len(commands(PAGES[name])) >= least


@pytest.mark.usefixtures("modules")
@pytest.mark.parametrize(
    ("task", "parts", "values"),
    [
        ("toy/reach", ["--method", "my_loss:TwoViews"], {"two_views.temperature": "0.2"}),
        ("toy/catch", ["--method", "my_loss:TwoViews"], {"two_views.temperature": "0.2"}),
        ("toy/reach", ["--method", "my_sequences:NextStep"], {"sac.joint_optimizer": "true"}),
        ("toy/catch", ["--method", "my_sequences:NextStep"], {}),
        ("toy/reach", ["--method", "my_mcurl:NoisyKeys"], {"mcurl.key_noise": "0.2", "mcurl.mask": "block"}),
        ("toy/catch", ["--method", "rl-only", "--agent", "my_agent:DQN"], {"dqn.epsilon": "0.2"}),
        ("toy/catch", ["--method", "mcurl", "--agent", "my_contrast_agent:ContrastDQN"], {"dqn.epsilon": "0.2"}),
        ("toy/reach", ["--method", "curl", "--agent", "my_augment:SidewaysSAC"], {"sac.crop": "26"}),
        ("gym/my_envs:Corridor-v0", ["--method", "curl"], {"env.image_size": "25"}),
    ],
)
def test_an_example_trains_resumes_and_is_evaluated(task: str, parts: list[str], values: dict[str, str]) -> None:
    agent = resolve(task, parts[1], agent=parts[3] if len(parts) > 2 else None).parts.agent
    small = [] if agent.section == "dqn" else [f"{agent.section}.learning_starts=30", f"{agent.section}.hidden=16"]
    settings = [f"{key}={value}" for key, value in values.items()]
    line = ["--env-steps", "330" if agent.section == "dqn" else "140", *SHORT, *small, *settings]
    assert cli.main(["train", task, *parts, *line]) == 0
    [folder] = Path("runs").glob("*/*")
    run = Run.open(folder)
    read = TrainSettings.from_json(run.settings)
    for key, value in values.items():
        section, _, name = key.partition(".")
        assert str(getattr(read.sections[section], name)).lower() == value
    assert any(name.endswith("/loss") for _, metrics in run.metrics() for name in metrics)
    assert cli.main(["resume", str(folder), "--env-steps", str(read.env_steps + 10)]) == 0
    assert cli.main(["evaluate", str(folder), "--episodes", "1"]) == 0
    assert cli.main(["report", "runs"]) == 0
    assert cli.main(["collect", "runs"]) == 0


@pytest.mark.usefixtures("modules")
def test_a_suite_of_ones_own_trains_in_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(envs, "SUITES", {**envs.SUITES, "mine": "my_suite"})
    line = ["train", "mine/corridor", "--env-steps", "60", *SHORT, "rainbow.learning_starts=30"]
    assert cli.main(line) == 0


def own_suites(value: str, *words: str) -> subprocess.CompletedProcess[str]:
    """A command with this value of ``MCURL_SUITES``."""
    line, environ = [sys.executable, "-P", "-m", "mcurl", *words], {**os.environ, envs.OWN_SUITES: value}
    return subprocess.run(line, env=environ, capture_output=True, text=True, check=False)


@pytest.mark.usefixtures("modules")
def test_a_suite_of_ones_own_trains_several_seeds_and_is_evaluated() -> None:
    small = ["--env-steps", "60", *SHORT, "rainbow.learning_starts=30"]
    trained = own_suites("mine=my_suite", "train", "mine/corridor", "--seed", "1,2", *small)
    assert (trained.returncode, trained.stderr) == (0, "")
    for seed in (1, 2):
        run = f"runs/mine-corridor/mcurl-learning_starts=30-seed{seed}"
        assert own_suites("mine=my_suite", "evaluate", run, "--episodes", "1").returncode == 0


@pytest.mark.usefixtures("modules")
@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("mine", "MCURL_SUITES has 'mine'; write NAME=MODULE,NAME=MODULE with lower-case names"),
        ("dmc=my_suite", "MCURL_SUITES names dmc, which is a suite of this package: choose another name"),
        ("mine=nowhere", "cannot import nowhere: No module named 'nowhere'; is its folder in PYTHONPATH?"),
        ("other=my_suite", "the suite other needs OtherSettings in my_suite"),
    ],
)
def test_a_suite_that_is_none_is_one_line(value: str, message: str) -> None:
    refused = own_suites(value, "train", f"{value.partition('=')[0]}/corridor")
    assert (refused.returncode, refused.stderr) == (2, f"mcurl: {message}\n")


def test_an_unknown_suite_names_the_variable(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["train", "mine/corridor"]) == 2
    assert "unknown suite 'mine' (MCURL_SUITES names suites of your own): choose from" in capsys.readouterr().err


TESTED_ELSEWHERE = {"README.md", "in-your-agent.md", "python.md", "tune.md"}
"""Here, in tests/integrations/test_page.py, and in tests/test_python.py. The blocks of export.md need a folder of
tests/test_export_policy.py, and the hub; they have names, as modules."""


@pytest.mark.usefixtures("modules")
def test_code_on_the_pages_runs() -> None:
    shutil.copytree(ROOT / "results", "results")
    assert (
        cli.main(
            ["train", "toy/reach", "--method", "curl", "--name", "curl", "--env-steps", "330", *SHORT, "sac.hidden=16"]
        )
        == 0
    )
    for name, text in PAGES.items():
        for code in blocks("python", text):
            if name not in TESTED_ELSEWHERE and code not in MODULES.values():
                exec(code, {})


@pytest.mark.usefixtures("modules")
def test_the_suite_on_its_page_is_one() -> None:
    [text] = [block for block in blocks("toml", PAGES["suites.md"]) if block.startswith("# my_suite.toml")]
    Path("my_suite.toml").write_text(text)
    runs = Suite.load("my_suite.toml").runs()
    check_runs(runs)
    assert len(runs) == 3 * 2 * 3


def test_the_page_of_suites_counts_their_runs() -> None:
    rows = dict(re.findall(r"^\| `([\w-]+)` \|.*\| (\d+) \|$", PAGES["suites.md"], re.MULTILINE))
    assert {name: int(count) for name, count in rows.items()} == {
        name: len(Suite.load(name).runs()) for name in suite_names()
    }
