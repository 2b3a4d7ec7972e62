"""What the README shows can be typed."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import Any

import pytest

from mcurl import cli, config
from mcurl.errors import UserError

README = (Path(__file__).parents[1] / "README.md").read_text()
LINES = [line.split("#")[0].strip() for block in re.findall(r"```sh\n(.*?)```", README, re.S) for line in block.splitlines()]
COMMANDS = [line for line in LINES if line.startswith("mcurl ")]


def test_python_runs() -> None:
    (code,) = re.findall(r"```python\n(.*?)```", README, re.S)
    names: dict[str, Any] = {}
    exec(code, names)
    assert names["loss"].value > 0


@pytest.mark.parametrize("line", COMMANDS)
def test_commands_are_known(line: str) -> None:
    parser, _ = cli._build_parsers()
    given = parser.parse_args(shlex.split(line)[1:])
    if given.run.__name__ == "_train" and not given.task.startswith("gym/"):
        try:
            config.resolve(given.task, given.method, seed=given.seed[0], env_steps=given.env_steps, overrides=given.overrides)
        except UserError as error:
            pytest.fail(f"{line}: {error}")


def test_there_are_commands_to_check() -> None:
    assert len(COMMANDS) > 8
