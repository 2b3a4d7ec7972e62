"""Settings: one default each, layers in order, everything that a user may get wrong in one line, an exact round
trip."""

from __future__ import annotations

import contextlib
import json
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mcurl import envs
from mcurl.config import resolve as config
from mcurl.config.fields import LIMITS, as_toml, field_help, read_value
from mcurl.config.resolve import METHODS, NEEDS, TrainSettings, describe, known_keys, read_experiments, resolve
from mcurl.errors import UserError


def refused(*arguments: Any, **keywords: Any) -> str:
    with pytest.raises(UserError) as caught:
        resolve(*arguments, **keywords)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def value(settings: TrainSettings, key: str) -> Any:
    section, _, name = key.partition(".")
    return getattr(getattr(settings, section), name)


@pytest.mark.parametrize(
    ("task", "expected"),
    [
        ("dmc/cartpole-swingup", {"env.action_repeat": 8, "sac.batch_size": 128, "sac.learning_rate": 1e-3, "mcurl.mask_rate": 0.5}),
        ("dmc/hopper-hop", {"mcurl.length": 32, "mcurl.batch": 16, "sac.updates_per_step": 1, "sac.learning_starts": 1000, "replay.capacity": 100_000}),
        ("dmc/finger-spin", {"env.action_repeat": 2, "mcurl.mask_rate": 0.6}),
        ("dmc/walker-walk", {"env.action_repeat": 2, "mcurl.mask_rate": 0.6}),
        ("dmc/cheetah-run", {"env.action_repeat": 4, "sac.batch_size": 512, "sac.learning_rate": 2e-4}),
        ("dmc/quadruped-walk", {"env.camera": 2, "env.action_repeat": 4}),
        ("dmc/reacher-easy", {"env.action_repeat": 4, "env.camera": 0, "evaluation.every": 20_000, "evaluation.episodes": 10, "mcurl.warmup": 24_000}),
        ("atari/Qbert", {"mcurl.length": 16, "mcurl.batch": 16, "rainbow.learning_starts": 1600, "rainbow.batch_size": 32}),
        ("atari/Pong", {"evaluation.every": 40_000, "evaluation.final_episodes": 100, "rainbow.n_step": 20, "rainbow.key_momentum": 0.001}),
    ],
)  # fmt: skip
def test_tasks_have_the_values_of_the_paper(task: str, expected: dict[str, Any]) -> None:
    settings = resolve(task)
    assert {key: value(settings, key) for key in expected} == expected


def test_budgets() -> None:
    assert resolve("dmc/reacher-easy").env_steps == 100_000
    assert resolve("atari/Pong").env_steps == 400_000
    assert resolve("atari/Pong", env_steps="1.5k").env_steps == 1500
    assert (
        resolve("dmc/reacher-easy", env_steps="500k").env_steps
        == resolve("dmc/reacher-easy", overrides=["env_steps=5e5"]).env_steps
        == 500_000
    )
    assert resolve("dmc/reacher-easy", env_steps=7, overrides=["env_steps=9"]).env_steps == 7


def test_only_what_a_run_uses_is_there() -> None:
    used = {
        method: {
            f.name for f in fields(TrainSettings) if getattr(resolve("dmc/reacher-easy", method), f.name) is not None
        }
        for method in METHODS
    }
    common = {"task", "method", "seed", "env_steps", "env", "replay", "sac", "evaluation", "checkpoint", "compute"}
    assert used == {"mcurl": common | {"mcurl"}, "curl": common | {"curl"}, "none": common, "none-nocrop": common}
    assert resolve("atari/Pong").sac is None
    assert resolve("toy/reach").rainbow is None
    assert resolve("toy/catch").sac is None
    gym = resolve("gym/CartPole-v1", "none")  # Its actions decide when it is made.
    assert gym.sac is not None
    assert gym.rainbow is not None


def test_none_nocrop_is_none_without_the_crop() -> None:
    plain, cropless = resolve("dmc/reacher-easy", "none"), resolve("dmc/reacher-easy", "none-nocrop")
    assert plain.sac is not None
    assert cropless.sac is not None
    assert plain.sac.random_crop
    assert not cropless.sac.random_crop
    assert "use --method none" in refused("atari/Pong", "none-nocrop")


def test_layers_in_order(tmp_path: Path) -> None:
    preset = tmp_path / "mine.toml"
    preset.write_text('env_steps = "50k"\n[sac]\nbatch_size = 64\nlearning_rate = 5e-4\n[env]\naction_repeat = 3\n')
    settings = resolve("dmc/cheetah-run", preset=str(preset), overrides=["sac.batch_size=32", "sac.batch_size=16"])
    assert settings.sac is not None
    assert settings.sac.batch_size == 16  # The last --set, over the preset's 64, the task's 512 and the class's 128.
    assert settings.sac.learning_rate == 5e-4
    assert settings.env.action_repeat == 3
    assert settings.env_steps == 50_000
    states = resolve("dmc/cheetah-run", "none", preset="states")
    assert states.env.observation == "state"
    assert states.sac is not None
    assert states.sac.batch_size == 1024


def test_forgiving_names() -> None:
    assert resolve("dmc/Cartpole_Swingup").task == "dmc/cartpole-swingup"
    assert resolve("dmc/Cartpole_Swingup").env.action_repeat == 8
    assert resolve("atari/road_runner").env.task == "RoadRunner"


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (("dmc/cartpole-swngup",), "did you mean cartpole-swingup?"),
        (("dcm/cartpole-swingup",), "did you mean dmc?"),
        (("cartpole-swingup",), "did you mean dmc/cartpole-swingup?"),
        (("dmc/reacher-easy", "mcrl"), "unknown method 'mcrl': did you mean mcurl?"),
    ],
)
def test_unknown_names_have_a_nearest(arguments: tuple[str, ...], expected: str) -> None:
    assert expected in refused(*arguments)


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("sac.batchsize=3", "there is no setting sac.batchsize: did you mean sac.batch_size?"),
        ("batch_size=3", "there is no setting batch_size: did you mean sac.batch_size?"),
        ("sac.batch_size", "--set takes key=value, not 'sac.batch_size'"),
        ("sac.batch_size=", "sac.batch_size is a whole number such as 400_000, 100k or 1e5, not ''"),
        ("sac.batch_size=3.5", "not '3.5'"),
        ("sac.batch_size=0", "sac.batch_size must be at least 1, not 0"),
        ("sac.learning_rate=fast", "sac.learning_rate is a number, not 'fast'"),
        ("sac.learning_rate=0", "sac.learning_rate must be above 0, not 0.0"),
        ("sac.learning_rate=nan", "must be above 0"),
        ("sac.learning_rate=inf", "must be above 0"),
        ("mcurl.mask_rate=50", "mcurl.mask_rate must be from 0 to 1, not 50.0"),
        ("mcurl.negatives=sequences", "mcurl.negatives is batch or sequence, not 'sequences': did you mean sequence?"),
        ("mcurl.projection=maybe", "mcurl.projection is true or false, not 'maybe'"),
        ("env.action_repeat=0", "env.action_repeat must be at least 1, not 0"),
        ("env.task=walker-walk", "argument of the command"),
        ("seed=3", "argument of the command"),
        ("curl.scale=1", "curl.scale has no effect here"),
        ("rainbow.n_step=3", "rainbow.n_step has no effect here"),
        ("mcurl.features=conv", "mcurl.features has no effect here: it is for rainbow"),
        ("env_steps=0", "env_steps must be at least 1"),
    ],
)  # fmt: skip
def test_bad_settings_are_one_line(override: str, expected: str) -> None:
    assert expected in refused("dmc/reacher-easy", overrides=[override])


def test_bad_presets_are_one_line(tmp_path: Path) -> None:
    assert "did you mean states?" in refused("dmc/reacher-easy", preset="state")
    assert "neither a file nor a name" in refused("toy/reach", preset="none.toml")
    (tmp_path / "a.toml").write_text("x = ")
    assert "is no TOML" in refused("dmc/reacher-easy", preset=str(tmp_path / "a.toml"))
    (tmp_path / "b.toml").write_text("sac.batchsize = 3")
    assert "did you mean sac.batch_size?" in refused("dmc/reacher-easy", preset=str(tmp_path / "b.toml"))
    (tmp_path / "c.toml").write_text("sac.batch_size = true")
    assert "not True" in refused("dmc/reacher-easy", preset=str(tmp_path / "c.toml"))
    assert "cannot be read" in refused("dmc/reacher-easy", preset=str(tmp_path))
    assert "the seed" in refused("dmc/reacher-easy", seed=-1)


def every_layer() -> list[tuple[str, str, dict[str, Any]]]:
    found = []
    for suite in envs.SUITES:
        experiments = read_experiments(suite)
        assert set(experiments) <= {"defaults", "task", "method", "preset", "lists"}
        found.append((suite, "defaults", experiments.get("defaults", {})))
        for section in ("task", "method", "preset"):
            found += [(suite, f"{section}.{name}", table) for name, table in experiments.get(section, {}).items()]
    return found


@pytest.mark.parametrize(
    ("suite", "part", "table"), every_layer(), ids=lambda part: part if isinstance(part, str) else ""
)
def test_every_value_in_the_experiments_is_a_setting_that_takes_it(
    suite: str, part: str, table: dict[str, Any]
) -> None:
    known = known_keys(suite)
    for key, raw in config._flatten(table):
        if key == "agent":
            assert raw in ("sac", "rainbow")
            continue
        assert key in known, f"{suite}.toml, {part}"
        assert read_value(key, known[key].hint, raw) is not None
    section, _, name = part.partition(".")
    if section == "task":
        assert envs.suite_module(suite).resolve(name) == name
    if section == "method":
        assert name in METHODS


def test_the_lists_of_tasks() -> None:
    ten, sixteen, twenty = (set(config.task_names(name)) for name in ("dmc10", "dmc16", "dmc20"))
    assert (len(ten), len(sixteen), len(twenty)) == (10, 16, 20)
    assert ten < sixteen < twenty <= set(config.task_names("dmc"))
    games = config.task_names("atari26")
    assert len(games) == len(set(games)) == 26
    assert set(games) <= set(config.task_names("atari"))
    assert config.task_names("toy") == ["toy/reach", "toy/catch"]
    assert any(line.startswith("dmc16") for line in config.task_overview())
    with pytest.raises(UserError, match="did you mean dmc16"):
        config.task_names("dmc61")


def test_every_task_of_the_lists_resolves_with_every_method() -> None:
    for task in (*config.task_names("dmc20"), *config.task_names("atari26")[:3], *config.task_names("toy")):
        for method in METHODS if task.startswith("dmc") else ("mcurl", "curl", "none"):
            assert resolve(task, method).task == task


@pytest.mark.parametrize(
    ("task", "method"),
    [("dmc/cheetah-run", "mcurl"), ("atari/Pong", "curl"), ("toy/reach", "none-nocrop"), ("gym/CartPole-v1", "none")],
)
def test_json_comes_back_exactly(task: str, method: str) -> None:
    settings = resolve(
        task, method, seed=2**40, env_steps=10**12, overrides=["compute.threads=3", "evaluation.every=1e5"]
    )
    written = json.dumps(settings.to_json())
    assert TrainSettings.from_json(json.loads(written)) == settings
    assert json.dumps(TrainSettings.from_json(json.loads(written)).to_json()) == written


def test_older_settings_get_defaults_and_foreign_ones_are_refused() -> None:
    whole = resolve("dmc/reacher-easy").to_json()
    older = json.loads(json.dumps(whole))
    del older["mcurl"]["dropout"], older["compute"]
    assert TrainSettings.from_json(older) == TrainSettings.from_json(whole)
    older["mcurl"]["drop"] = 1
    with pytest.raises(UserError, match=r"there is no setting mcurl\.drop: did you mean mcurl\.dropout"):
        TrainSettings.from_json(older)
    with pytest.raises(UserError, match="task is missing"):
        TrainSettings.from_json({})


def test_every_setting_is_described() -> None:
    for suite in envs.SUITES:
        for key, setting in known_keys(suite).items():
            assert setting.help, f"{key} has no help"
            assert key.startswith("env") or setting.default is not None


def test_what_is_for_one_agent_is_not_shown_to_the_other() -> None:
    for task, agent, other in (("dmc/reacher-easy", "sac", "rainbow"), ("atari/Pong", "rainbow", "sac")):
        for method in ("mcurl", "curl"):
            shown = {setting.key for setting in describe(resolve(task, method))}
            mine = {
                key for key, needs in NEEDS.items() if needs == agent and key.startswith((f"{method}.", "compute."))
            }
            assert mine <= shown
            assert not {key for key, needs in NEEDS.items() if needs == other} & shown
    both = {setting.key for setting in describe(resolve("gym/CartPole-v1", "mcurl"))}  # the actions decide later
    assert {"mcurl.features", "mcurl.encoder_rate"} <= both


def test_every_number_has_limits() -> None:
    """A new setting finds its place in LIMITS, or is named here because any number will do."""
    unlimited = {"rainbow.v_min", "rainbow.v_max"}
    numbers = {
        key for key, setting in known_keys("toy").items() if setting.hint in (int, float) and not key.startswith("env.")
    }
    assert numbers == set(LIMITS) | unlimited


def test_defaults_are_within_the_limits() -> None:
    for key, (low, high) in LIMITS.items():
        assert low <= known_keys("toy")[key].default <= high


def test_described_settings_are_those_in_use() -> None:
    settings = resolve("dmc/reacher-easy", "curl", overrides=["sac.batch_size=7"])
    found = {setting.key: setting for setting in describe(settings)}
    assert found["sac.batch_size"].value == 7
    assert found["sac.batch_size"].default == 128
    assert found["env_steps"].value == 100_000
    assert "curl.scale" in found
    assert not any(key.startswith(("mcurl.", "rainbow.")) for key in found)
    assert "env.task" not in found


@pytest.mark.parametrize(
    ("task", "method"), [("dmc/cheetah-run", "mcurl"), ("atari/Pong", "curl"), ("gym/CartPole-v1", "none")]
)
def test_what_settings_prints_can_be_given_back(tmp_path: Path, task: str, method: str) -> None:
    settings = resolve(task, method, env_steps=12345)
    text = as_toml("a title\nof two lines", describe(settings))
    assert text.startswith("# a title\n# of two lines\n")
    assert max(map(len, text.splitlines())) <= 112
    (tmp_path / "all.toml").write_text(text)
    assert resolve(task, method, preset=str(tmp_path / "all.toml")) == settings


Choice = Literal["auto", "none", 3]


@pytest.mark.parametrize(
    ("hint", "raw", "expected"),
    [
        (int, "100k", 100_000), (int, "1e5", 100_000), (int, "400_000", 400_000), (int, "1.5M", 1_500_000),
        (int, " 7 ", 7), (int, -3, -3), (int, 1e5, 100_000), (int, "-1", -1),
        (int, "123456789012345678901", 123456789012345678901),
        (float, "1e-4", 1e-4), (float, 3, 3.0), (float, "2k", 2000.0), (float, "inf", float("inf")), (float, ".5", 0.5),
        (bool, "true", True), (bool, "Off", False), (bool, True, True), (str, "x=y", "x=y"), (Path, "~/a", Path("~/a")),
        (Choice, "3", 3), (Choice, "none", "none"), (int | None, "none", None), (int | None, "2k", 2000), (float | None, None, None),
        (tuple[int, ...], "1,2k", (1, 2000)), (tuple[int, ...], [1, 2], (1, 2)),
        (tuple[int, ...], "[]", ()), (tuple[int, float], "(1, 2)", (1, 2.0)), (tuple[str, ...], "a, b", ("a", "b")),
    ],
)  # fmt: skip
def test_values_are_read_by_their_type(hint: Any, raw: Any, expected: Any) -> None:
    found = read_value("key", hint, raw)
    assert found == expected
    assert type(found) is type(expected)


@pytest.mark.parametrize(
    ("hint", "raw"),
    [
        (int, "x"), (int, "1.5"), (int, ""), (int, True), (int, None), (int, "k"), (int, float("nan")), (int, "inf"), (int, "9e999999999"),
        (float, "x"), (float, True), (float, ""),
        (bool, "maybe"), (bool, 1),
        (str, 3), (Path, 3), (Choice, "4"), (int | None, "x"), (tuple[int, ...], "1,x"), (tuple[int, ...], 3), (tuple[int, float], "1"),
    ],
)  # fmt: skip
def test_values_that_do_not_fit_are_one_line(hint: Any, raw: Any) -> None:
    with pytest.raises(UserError, match=r"^key is ") as caught:
        read_value("key", hint, raw)
    assert "\n" not in str(caught.value)


@given(st.text(max_size=12))
def test_no_text_breaks_the_reader(text: str) -> None:
    for hint in (int, float, bool, Choice, int | None, tuple[int, ...]):
        with contextlib.suppress(UserError):
            read_value("key", hint, text)


def test_help_comes_from_below_the_fields() -> None:
    @dataclass
    class Parent:
        """Not this."""

        a: int = 1
        """What a is,
        on two lines."""

    @dataclass
    class Child(Parent):
        b: int = 2
        c: int = 3
        """What c is."""

    assert field_help(Child) == {"a": "What a is, on two lines.", "b": "", "c": "What c is."}
