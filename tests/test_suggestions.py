"""Words of other programs are answered with what they are here; most mistakes before PyTorch is imported."""

from __future__ import annotations

import json
import logging
import subprocess
import sys
from pathlib import Path

import pytest

from mcurl import envs
from mcurl.cli import main
from mcurl.errors import UserError

Capture = pytest.CaptureFixture[str]


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


FAST = [
    # First: ale-py, which the others import, registers its games.
    ("train gym/ALE/MsPacman-v5", "did you mean atari/MsPacman?"),
    ("help", "did you mean `mcurl --help`?"),
    ("help train", "did you mean `mcurl train --help`?"),
    ("train toy/reach --device cuda", "unknown option --device: did you mean --set compute.device=cuda?"),
    ("train --gpu toy/reach", "did you mean --set compute.device=cuda?"),
    ("train toy/reach --lr 1e-4", "did you mean --set sac.learning_rate=1e-4?"),
    ("train atari/Pong --lr=1e-4", "did you mean --set rainbow.learning_rate=1e-4?"),
    ("train toy/reach --lr", "did you mean --set sac.learning_rate=VALUE?"),
    ("train toy/reach --total_timesteps 1000", "did you mean --env-steps 1000?"),
    ("train --env toy/reach", "the task is an argument of its own: did you mean toy/reach?"),
    ("train toy/reach --seed 1 2 3", "several seeds are written with commas: did you mean --seed 1,2,3?"),
    ("train --seed 1 2 toy/reach", "did you mean --seed 1,2?"),
    ("train ALE/Pong-v5", "ALE/Pong-v5 is a name of Gymnasium's: did you mean atari/Pong?"),
    ("train PongNoFrameskip-v4", "did you mean atari/Pong?"),
    ("train atari/PongDeterministic-v4", "did you mean atari/Pong?"),
    ("train mcurl/dmc-cartpole-swingup-v0", "did you mean dmc/cartpole-swingup?"),
    ("train dm_control/finger-turn_easy-v0", "did you mean dmc/finger-turn_easy?"),
    ("train dmc/cartpole-swingp", "did you mean cartpole-swingup?"),
    ("train toy/reech", "did you mean reach?"),
    ("train gym/CartPool-v1", "did you mean CartPole-v1?"),
    ("train gym/:CartPole-v1", "':CartPole-v1' has a colon without a module in front: write gym/CartPole-v1"),
    ("evaluate x --seed 9999999999999999999", "the seed must be an integer from 0 to 4611686018427387903"),
    ("watch x --seed 99999999999999999999", "expected an integer from 0 to 4611686018427387903, not one of 20 digits"),
    ("train toy/reach --method sac", "sac is an agent, not a method: did you mean --method rl-only"),
    ("train toy/reach --method Rainbow", "or --agent rainbow?"),
    ("train toy/reach --method crul", "did you mean curl?"),
    ("train toy/reach --agent sak", "did you mean sac?"),
    ("train toy/reach --set sac.lr", "--set takes key=value, not 'sac.lr'"),
    ("train toy/reach --env-steps many", "env_steps is a whole number"),
    ("train toy/reach --preset no.toml", "there is no preset 'no.toml'"),
    ("settings dmc/cartpole-swingp", "did you mean cartpole-swingup?"),
    (
        "train toy/reach --import my_envs",
        "unknown option --import: a module of yours is part of a name: task gym/",
    ),
    ("settings toy/reach --import x", "unknown option --import: a module of yours is part of a name"),
    ("report runs --import x", "unknown option --import: it is an option of the commands that open a run"),
]


def test_words_of_other_programs_are_answered_before_pytorch_is_imported() -> None:
    """In one process: had one line imported it, the next ones would show it."""
    code = """
import contextlib, io, json, sys
from mcurl.cli import main
for line in json.load(sys.stdin):
    err = io.StringIO()
    with contextlib.redirect_stderr(err):
        status = main(line.split())
    print(json.dumps([status, err.getvalue(), "torch" in sys.modules]))
"""
    lines = json.dumps([line for line, _ in FAST])
    done = subprocess.run(
        [sys.executable, "-c", code], input=lines, capture_output=True, text=True, check=True, timeout=60
    )
    said = [json.loads(answer) for answer in done.stdout.splitlines()]
    for (line, expected), (status, err, torch) in zip(FAST, said, strict=True):
        assert status == 2, line
        assert err.startswith("mcurl: "), line
        assert err.count("\n") == 1, line
        assert expected in err, line
        assert not torch, line


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("train toy/reach --set sac.lr=1", "there is no setting sac.lr: did you mean sac.learning_rate?"),
        ("train toy/catch --set lr=1", "did you mean rainbow.learning_rate?"),
        ("train toy/reach --set mcurl.mask_rat=1", "did you mean mcurl.mask_rate?"),
        ("train toy/reach --method seq-curl --set seq_curl.lenght=8", "did you mean seq_curl.length?"),
        ("train toy/reach --set compute.thread=1", "did you mean compute.threads?"),
        ("train toy/reach --set env.image=1", "there is no setting env.image: did you mean env.image_size?"),
        ("train toy/reach --set env.shadows=1", "env.shadows has no effect here: it is a setting of dmc/, not of toy/"),
        ("train gym/CartPole-v1 --set env.kwarg.x=1", "there is no setting env.kwarg.x: did you mean env.kwargs?"),
        ("train toy/reach --set sac.gamma=1", "did you mean sac.discount?"),
        ("train toy/reach --set mcurl.lr=1", "there is no setting mcurl.lr: "),
    ],
)
def test_common_names_of_settings(capsys: Capture, line: str, expected: str) -> None:
    assert main(line.split()) == 2
    assert expected in capsys.readouterr().err


def test_what_gymnasium_knows_is_used() -> None:
    import gymnasium

    gymnasium.register("Pong-v4", "mcurl.envs.toy:CatchEnv")
    try:
        assert envs.parse_task("gym/Pong-v4") == ("gym", "Pong-v4")
    finally:
        del gymnasium.registry["Pong-v4"]
    with pytest.raises(UserError, match="there is no Atari game 'Pongg': did you mean Pong"):
        envs.parse_task("ALE/Pongg-v5")
    with pytest.raises(UserError, match="did you mean gym/CartPole-v0"):
        envs.parse_task("CartPole-v0")


def test_the_former_name_of_an_option_still_counts_and_is_not_shown(capsys: Capture) -> None:
    from mcurl.parsers import build_parsers

    parser, _ = build_parsers()
    for option in ("--at-once", "--max-parallel"):
        assert parser.parse_args(["train", "toy/reach", option, "3"]).max_parallel == 3
    with pytest.raises(SystemExit):
        main(["train", "--help"])
    out = capsys.readouterr().out
    assert "--max-parallel" in out
    assert "--at-once" not in out


@pytest.mark.parametrize("task", ["dmc/cartpole-balance", "gym/CartPole-v1"])
def test_libraries_say_nothing_of_themselves(task: str) -> None:
    """Even where the user's program logs everything."""
    suite, _, name = task.partition("/")
    if suite == "dmc":
        pytest.importorskip("dm_control")
    else:
        pytest.importorskip("pygame")
    code = f"""
import logging
logging.basicConfig(level=logging.INFO)
from mcurl.envs import make_env, settings_class
for _ in range(2):
    env = make_env(settings_class({suite!r})(task={name!r}), 0)
    env.reset(seed=1)
    env.close()
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == ""
    assert done.stderr == ""


def test_a_note_on_a_model_of_dm_control_is_left_out_and_other_warnings_are_not() -> None:
    code = """
import logging
from mcurl import envs
envs.suite_module("dmc")
import absl.logging
absl.logging.warning("compiler attribute 'settotalmass' is deprecated and will be removed in a future release")
absl.logging.warning("the simulation is unstable")
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert "settotalmass" not in done.stderr
    assert "the simulation is unstable" in done.stderr


def test_a_level_that_the_user_set_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    logger = logging.getLogger("absl")
    monkeypatch.setattr(logger, "level", logging.DEBUG)
    envs.suite_module("toy")
    assert logger.level == logging.DEBUG
