"""What `make` installs, and what it says before. Nothing is installed here: the commands are only printed."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import time
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
EXTRAS: dict[str, list[str]] = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
pytestmark = pytest.mark.skipif(shutil.which("make") is None, reason="needs make")


def commands(*words: str) -> str:
    """What `make` would do."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("MAKE")}
    command = ["make", "--dry-run", "--no-print-directory", "-C", str(ROOT), *words]
    return subprocess.run(command, capture_output=True, text=True, check=True, env=environment).stdout


def said(*words: str) -> str:
    """What `make` prints before it installs."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("MAKE")}
    command = ["make", "--silent", "--no-print-directory", "-C", str(ROOT), *words]
    return subprocess.run(command, capture_output=True, text=True, check=True, env=environment).stdout


@pytest.fixture
def new(tmp_path: Path) -> str:
    return f"VENV={tmp_path / 'venv'}"


def test_users_get_every_extra_but_no_tools() -> None:
    [everything] = EXTRAS["all"]
    others = set(re.findall(r"[\w-]+", everything.partition("[")[2]))
    # Not for all users: publishing, and agents of other libraries.
    assert others == set(EXTRAS) - {"all", "dev", "docs", "hub", "sb3", "torchrl"}
    tools = {"mypy", "ruff", "pytest", "pytest-xdist", "hypothesis"}
    assert "mcurl[all]" in EXTRAS["dev"]
    assert {re.split(r"[>=<]", name)[0] for name in EXTRAS["dev"]} == tools | {"mcurl[all]"}
    for name in set(EXTRAS) - {"dev"}:
        assert not tools & {re.split(r"[>=<\[]", requirement)[0] for requirement in EXTRAS[name]}


def test_train_installs_what_users_need_and_test_the_rest(new: str) -> None:
    train, test = commands("train", new), commands("test", new)
    assert "'.[all]'" in train
    assert "'.[dev,sb3]'" not in train
    assert "'.[docs]'" not in train + test
    assert train.index("'.[all]'") < train.index("mcurl train dmc/cartpole-swingup")
    assert test.index("'.[all]'") < test.index("'.[dev,sb3]'") < test.index("-m pytest")
    assert "--quiet" not in train + test


def test_the_lowest_versions_are_tested_without_sb3(tmp_path: Path) -> None:
    lowest = f"LOWEST={tmp_path / 'venv'}"  # not the one that may be there
    install = [line for line in commands("test-lowest", lowest).splitlines() if "pip install" in line]
    assert install[-1].endswith("'.[dev]'")
    assert all("--constraint constraints-lowest.txt" in line for line in install)


def test_dm_control_without_labmaze_is_a_step_of_its_own(new: str) -> None:
    step = "pip install --constraint constraints.txt --no-deps dm_control"
    assert commands("train", new).index("'.[all]'") < commands("train", new).index(step)


def test_docs_installs_what_the_site_needs(new: str) -> None:
    docs = commands("docs", new)
    assert docs.index("'.[all]'") < docs.index("'.[docs]'") < docs.index("sphinx -E -W --keep-going -b html docs")
    assert "'.[dev]'" not in docs
    assert {re.split(r"[>=<]", name)[0] for name in EXTRAS["docs"]} == {"sphinx", "furo", "myst-parser"}


def test_nothing_is_installed_twice(new: str) -> None:
    folder = Path(new.partition("=")[2])
    folder.mkdir()
    (folder / ".installed-all").touch()
    assert "pip" not in commands("train", new)
    assert "'.[all]'" not in commands("test", new)
    assert "'.[dev,sb3]'" in commands("test", new)
    time.sleep(0.01)
    (folder / ".installed-dev").touch()
    assert "pip" not in commands("test", new)


def test_the_small_pytorch_comes_from_its_own_index(new: str) -> None:
    install = [
        line for line in commands("train", new, "TORCH_INDEX=https://example.org/cpu").splitlines() if "pip" in line
    ]
    assert ["--index-url https://example.org/cpu" in line for line in install] == [True, False, False]
    assert install[0].endswith(" torch")
    assert not any("--index-url" in line for line in commands("train", new).splitlines() if "pip install" in line)


def test_time_and_disk_are_said_first(new: str) -> None:
    plan = commands("train", new)
    assert plan.index('"$RUN"') < plan.index('"$SETUP"') < plan.index("pip install")
    text = said("about")
    assert "53 minutes on two cores with AMX" in text
    assert "0.8 GB of disk" in text
    assert said("about", "TASK=toy/reach") == ""
    makefile = (ROOT / "Makefile").read_text()
    assert "make $(MAKECMDGOALS) TORCH_INDEX=URL, the --index-url for CPUs on pytorch.org" in makefile


def test_the_disk_that_is_said_is_what_a_run_takes() -> None:
    """Frames of 100 × 100 pixels in three colours, and three checkpoints of 120 MB (measured)."""
    from mcurl.config.resolve import resolve

    settings = resolve("dmc/cartpole-swingup")
    frames = settings.env_steps // settings.env.action_repeat * 3 * settings.env.image_size**2
    assert settings.env.image_size == 100
    assert frames < settings.replay.capacity * 30_000
    assert (frames + 3 * 120e6) / 1e9 == pytest.approx(0.8, abs=0.1)
