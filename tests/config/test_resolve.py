"""Settings: one default each, layers in order, everything that a user may get wrong in one line, an exact round
trip."""

from __future__ import annotations

import contextlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mcurl import envs
from mcurl.agents.registry import AGENTS
from mcurl.config.fields import as_toml, field_help, read_value
from mcurl.config.resolve import resolve
from mcurl.config.settings import Parts, Setting, TrainSettings, describe, known_settings
from mcurl.config.tasks import EXPERIMENTS, flatten, methods, read_experiments, read_toml, task_names, task_overview
from mcurl.errors import UserError
from mcurl.objectives.registry import OBJECTIVES

SAC_METHODS = list(methods())
RAINBOW_METHODS = ["mcurl", "curl", "seq-curl", "sym-curl", "rl-only"]
EVERY_KIND = [
    *(("dmc/cheetah-run", method) for method in SAC_METHODS),
    *(("atari/Pong", method) for method in RAINBOW_METHODS),
    *(("toy/reach", method) for method in SAC_METHODS),
    *(("toy/catch", method) for method in RAINBOW_METHODS),
    *(("gym/Pendulum-v1", method) for method in SAC_METHODS if method != "sac-state"),
    *(("gym/CartPole-v1", method) for method in RAINBOW_METHODS),
]
"""A task of each suite and agent, with every method that goes with it."""


def refused(*arguments: Any, **keywords: Any) -> str:
    with pytest.raises(UserError) as caught:
        resolve(*arguments, **keywords)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def value(settings: TrainSettings, key: str) -> Any:
    section, _, name = key.partition(".")
    return getattr(settings.sections[section], name)


def every_setting(suite: str) -> dict[str, Setting]:
    """What a run of a suite may have, whatever its method and agent."""
    found = {}
    for agent in AGENTS:
        for method in methods():
            found |= known_settings(Parts.of(suite, method, agent))
    return found


@pytest.mark.parametrize(
    ("task", "expected"),
    [
        ("dmc/cartpole-swingup", {"env.action_repeat": 8, "sac.batch_size": 128, "sac.learning_rate": 1e-3,
            "mcurl.mask_rate": 0.5}),
        ("dmc/hopper-hop", {"mcurl.length": 32, "mcurl.batch": 16, "sac.updates_per_step": 1,
            "sac.learning_starts": 1000, "replay.capacity": 100_000}),
        ("dmc/finger-spin", {"env.action_repeat": 2, "mcurl.mask_rate": 0.6}),
        ("dmc/walker-walk", {"env.action_repeat": 2, "mcurl.mask_rate": 0.6}),
        ("dmc/cheetah-run", {"env.action_repeat": 4, "sac.batch_size": 512, "sac.learning_rate": 2e-4}),
        ("dmc/quadruped-walk", {"env.camera": 2, "env.action_repeat": 4}),
        ("dmc/reacher-easy", {"env.action_repeat": 4, "env.camera": 0, "evaluation.every": 20_000,
            "evaluation.episodes": 10, "mcurl.warmup": 24_000}),
        ("atari/Qbert", {"mcurl.length": 16, "mcurl.batch": 16, "rainbow.learning_starts": 1600,
            "rainbow.batch_size": 32}),
        ("atari/Pong", {"evaluation.every": 40_000, "evaluation.final_episodes": 100, "rainbow.n_step": 20,
            "rainbow.key_momentum": 0.001}),
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
    used = {method: set(resolve("dmc/reacher-easy", method).to_json()) for method in methods()}
    common = {"task", "method", "agent", "seed", "env_steps", "env", "replay", "sac", "evaluation", "checkpoint"}
    common |= {"compute"}
    assert used == {
        "mcurl": common | {"mcurl"},
        "curl": common | {"curl"},
        "seq-curl": common | {"seq_curl"},
        "sym-curl": common | {"mcurl"},
        "rl-only": common,
        "rl-only-nocrop": common,
        "sac-state": common,
    }


@pytest.mark.parametrize(
    ("task", "agent"),
    [
        ("dmc/reacher-easy", "sac"),
        ("atari/Pong", "rainbow"),
        ("toy/reach", "sac"),
        ("toy/catch", "rainbow"),
        ("gym/CartPole-v1", "rainbow"),
        ("gym/Pendulum-v1", "sac"),
    ],
)
def test_the_agent_is_the_one_that_learns_the_tasks_actions(task: str, agent: str) -> None:
    settings = resolve(task, "rl-only")
    other = "sac" if agent == "rainbow" else "rainbow"
    assert settings.agent == agent
    assert agent in settings.sections
    assert other not in settings.sections
    assert resolve(task, "rl-only", agent=other).agent == other  # what it cannot learn, it says when it is made


def test_rl_only_nocrop_is_rl_only_without_the_crop() -> None:
    plain, cropless = resolve("dmc/reacher-easy", "rl-only"), resolve("dmc/reacher-easy", "rl-only-nocrop")
    assert value(plain, "sac.augmentation") == "crop"
    assert value(cropless, "sac.augmentation") == "none"
    assert cropless.to_json() | {"sac": None, "method": ""} == plain.to_json() | {"sac": None, "method": ""}
    for task in ("atari/Pong", "gym/CartPole-v1", "toy/catch"):
        message = refused(task, "rl-only-nocrop")
        assert "method='rl-only-nocrop' is for SAC; Rainbow learns" in message
        assert "use the method rl-only" in message


def test_sac_state_sees_states_in_larger_batches() -> None:
    pixels, states = resolve("dmc/cheetah-run", "rl-only"), resolve("dmc/cheetah-run", "sac-state")
    assert value(states, "env.observation") == "state"
    assert value(states, "sac.batch_size") == 1024
    assert value(states, "env.action_repeat") == value(pixels, "env.action_repeat")
    assert value(states, "sac.learning_rate") == value(pixels, "sac.learning_rate") == 2e-4
    assert value(resolve("toy/reach", "sac-state"), "sac.batch_size") == 32
    assert "env.observation, which gym does not have" in refused("gym/Pendulum-v1", "sac-state")
    assert "SAC is the agent that learns from states" in refused("atari/Pong", "sac-state")
    assert "env.observation, which atari does not have" in refused("atari/Pong", "sac-state", agent="sac")


def test_layers_in_order(tmp_path: Path) -> None:
    preset = tmp_path / "mine.toml"
    preset.write_text('env_steps = "50k"\n[sac]\nbatch_size = 64\nlearning_rate = 5e-4\n[env]\naction_repeat = 3\n')
    settings = resolve("dmc/cheetah-run", preset=str(preset), overrides=["sac.batch_size=32", "sac.batch_size=16"])
    assert (
        value(settings, "sac.batch_size") == 16
    )  # The last --set, over the preset's 64, the task's 512 and the class's 128.
    assert value(settings, "sac.learning_rate") == 5e-4
    assert settings.env.action_repeat == 3
    assert settings.env_steps == 50_000
    with pytest.raises(UserError, match="there is no preset ''"):
        resolve("dmc/cheetah-run", preset="")
    with pytest.raises(UserError, match=r"sac\.batch_size is set twice"):
        resolve("dmc/cheetah-run", values={"sac.batch_size": 4, "sac": {"batch_size": 8}})
    paper = resolve("dmc/cheetah-run", "rl-only", preset="paper-rate")
    assert value(paper, "sac.learning_rate") == 1e-4  # over the task's 2e-4
    assert value(paper, "sac.batch_size") == 512
    states = resolve("toy/reach", "sac-state", preset=str(preset))  # over the method's own
    assert value(states, "sac.batch_size") == 64


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
        (("dmc/reacher-easy", "rl_only"), "unknown method 'rl_only': did you mean rl-only?"),
    ],
)
def test_unknown_names_have_a_nearest(arguments: tuple[str, ...], expected: str) -> None:
    assert expected in refused(*arguments)


def test_an_unknown_agent_has_a_nearest() -> None:
    assert "unknown agent 'rainbw': did you mean rainbow?" in refused("toy/catch", agent="rainbw")
    unlike = refused("toy/catch", agent="xyz")
    assert "choose from drqv2, rainbow, sac; a user-defined agent is named MODULE:CLASS" in unlike
    assert "cannot import no_such_module_here: No module named" in refused("toy/catch", agent="no_such_module_here:Dqn")
    assert "mcurl.agents.sac has no Sac: did you mean SAC?" in refused("toy/reach", agent="mcurl.agents.sac:Sac")
    assert "is not a subclass of Agent" in refused("toy/reach", agent="mcurl.objectives.masked:MCurl")


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
        ("sac.temperature_beta=1", "sac.temperature_beta must be at least 0 and below 1, not 1.0"),
        ("sac.learning_rate=inf", "must be above 0"),
        ("mcurl.mask_rate=50", "mcurl.mask_rate must be from 0 to 1, not 50.0"),
        ("mcurl.negatives=sequences", "mcurl.negatives is batch or sequence, not 'sequences': did you mean sequence?"),
        ("mcurl.projection=maybe", "mcurl.projection is true or false, not 'maybe'"),
        ("env.action_repeat=0", "env.action_repeat must be at least 1, not 0"),
        ("env.task=walker-walk", "env.task is not a setting: pass it as the first argument"),
        ("seed=3", "seed is not a setting: pass it as seed="),
        ("method=curl", "method is not a setting: pass it as method="),
        ("agent=sac", "agent is not a setting: pass it as agent="),
        ("curl.scale=1", "curl.scale has no effect here"),
        ("rainbow.n_step=3", "rainbow.n_step has no effect here"),
        ("rainbow.feature_source=conv", "rainbow.feature_source has no effect here"),
        ("sac.contrast_weight=2",
            "sac.contrast_weight has no effect with sac.joint_optimizer=false: it needs sac.joint_optimizer=true"),
        ("mcurl.block_length=8",
            "mcurl.block_length has no effect with mcurl.mask=iid: it needs mcurl.mask=block or mcurl.mask=frames"),
        ("env_steps=0", "env_steps must be at least 1"),
        ("=3", "--set takes key=value, not '=3'"),
        ("env.kwargs.width=3", "env.kwargs.width has no effect here: it is a setting of gym/, not of dmc/"),
        ("compute.device=gpu", "compute.device is auto, cpu or cuda, not 'gpu': did you mean cuda?"),
    ],
)  # fmt: skip
def test_bad_settings_are_one_line(override: str, expected: str) -> None:
    assert expected in refused("dmc/reacher-easy", overrides=[override])


def test_a_misspelt_setting_of_an_environment_is_found_before_it_is_made() -> None:
    message = refused("gym/CartPole-v1", overrides=["env.kwargs.sutton_barto_reward=7", "env.kwarg.level=3"])
    assert message.startswith("there is no setting env.kwarg.level: did you mean env.kwargs?")


def test_bad_presets_are_one_line(tmp_path: Path) -> None:
    assert "did you mean paper-rate?" in refused("dmc/reacher-easy", preset="paper-rates")
    assert "neither a file nor a name" in refused("toy/reach", preset="none.toml")
    (tmp_path / "a.toml").write_text("x = ")
    assert "is not TOML" in refused("dmc/reacher-easy", preset=str(tmp_path / "a.toml"))
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
        assert set(experiments) <= {"defaults", "task", "agent", "method", "preset", "lists"}
        assert set(experiments.get("agent", {})) <= set(AGENTS)
        assert set(experiments.get("method", {})) <= set(methods())
        found.append((suite, "defaults", experiments.get("defaults", {})))
        for section in ("task", "method", "preset"):
            found += [(suite, f"{section}.{name}", table) for name, table in experiments.get(section, {}).items()]
        for name, table in experiments.get("agent", {}).items():
            own = {key: value for key, value in table.items() if key != "task"}
            found.append((suite, f"agent.{name}", own))
            found += [(suite, f"task.{task}", values) for task, values in table.get("task", {}).items()]
    return found


@pytest.mark.parametrize(
    ("suite", "part", "table"), every_layer(), ids=lambda part: part if isinstance(part, str) else ""
)
def test_every_value_in_the_experiments_is_a_setting_that_takes_it(
    suite: str, part: str, table: dict[str, Any]
) -> None:
    known = every_setting(suite)
    for key, raw in flatten(table):
        if key == "agent":
            assert raw in AGENTS
            continue
        assert key in known, f"{suite}.toml, {part}"
        known[key].meta.check(key, read_value(key, known[key].hint, raw))
    section, _, name = part.partition(".")
    if section == "task":
        assert envs.suite_module(suite).resolve(name) == name


def test_every_method_is_one_that_there_is() -> None:
    for name, table in read_toml(EXPERIMENTS / "methods.toml").items():
        method = methods()[name]
        sections = {key.partition(".")[0] for key in method.values}
        assert set(table) <= {"label", "objective", "agents", "reason"} | sections
        assert method.objective is None or method.objective in OBJECTIVES
        assert set(method.agents) <= set(AGENTS)
        assert bool(method.agents) == bool(method.reason)
        assert method.values.keys() <= every_setting("dmc").keys()


def test_the_lists_of_tasks() -> None:
    ten, sixteen, twenty = (set(task_names(name)) for name in ("dmc10", "dmc16", "dmc20"))
    assert (len(ten), len(sixteen), len(twenty)) == (10, 16, 20)
    assert ten < sixteen < twenty <= set(task_names("dmc"))
    games = task_names("atari26")
    assert len(games) == len(set(games)) == 26
    assert set(games) <= set(task_names("atari"))
    assert task_names("toy") == ["toy/reach", "toy/catch"]
    assert any(line.startswith("dmc16") for line in task_overview())
    with pytest.raises(UserError, match="did you mean dmc16"):
        task_names("dmc61")


def test_every_task_of_the_lists_resolves_with_every_method() -> None:
    for task in (*task_names("dmc20"), *task_names("atari26")[:3], *task_names("toy")):
        for method in SAC_METHODS if resolve(task).agent == "sac" else RAINBOW_METHODS:
            assert resolve(task, method).task == task


@pytest.mark.parametrize(("task", "method"), EVERY_KIND)
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
        for key, setting in every_setting(suite).items():
            assert setting.help, f"{key} has no help"
            assert key.startswith("env") or setting.default is not None


@pytest.mark.parametrize(("task", "method"), EVERY_KIND)
def test_what_is_shown_is_what_has_an_effect(task: str, method: str) -> None:
    """A setting that `mcurl settings` does not show is one that a user may not change, and the other way round."""
    settings = resolve(task, method)
    shown = {setting.key for setting in describe(settings)}
    for key, setting in known_settings(settings.parts).items():
        if key == "env_steps" or key.startswith("env."):
            continue
        override = f"{key}={another_value(setting)}"
        if key in shown:
            resolve(task, method, overrides=[override])
        else:
            assert f"{key} has no effect" in refused(task, method, overrides=[override])
    contrast = {"sac.joint_optimizer", "sac.contrast_encoder_lr", "rainbow.feature_source", "rainbow.contrast_weight"}
    has_contrast = method in OBJECTIVES
    assert bool(contrast & shown) == has_contrast
    assert "compute.overlap" in shown  # false: the main thread, for every agent


def another_value(setting: Setting) -> Any:
    """One that a setting takes and that is not its default."""
    if isinstance(setting.default, bool):
        return str(not setting.default).lower()
    if isinstance(setting.default, int | float):
        meta = setting.meta
        return setting.default + 1 if min(meta.high, meta.below) == float("inf") else setting.default / 2
    return next(choice for choice in setting.hint.__args__ if choice != setting.default)


@pytest.mark.parametrize(
    ("task", "method", "override", "why"),
    [
        ("dmc/reacher-easy", "rl-only", "sac.contrast_encoder_lr=1", "the method has no contrastive loss"),
        ("dmc/reacher-easy", "sac-state", "sac.joint_optimizer=true", "the method has no contrastive loss"),
        ("atari/Pong", "rl-only", "rainbow.contrast_weight=2", "the method has no contrastive loss"),
        ("atari/Pong", "mcurl", "sac.batch_size=3", "the run's sections are env, replay, rainbow, mcurl"),
        ("dmc/reacher-easy", "curl", "mcurl.length=3",
            "the run's sections are env, replay, sac, curl"),
    ],
)  # fmt: skip
def test_a_setting_without_effect_is_refused_with_the_reason(task: str, method: str, override: str, why: str) -> None:
    message = refused(task, method, overrides=[override])
    assert message.startswith(f"{override.partition('=')[0]} has no effect here: ")
    assert why in message


def test_a_setting_that_needs_another_is_taken_with_it_in_any_order() -> None:
    joint = resolve("dmc/reacher-easy", overrides=["sac.contrast_weight=2", "sac.joint_optimizer=true"])
    assert value(joint, "sac.contrast_weight") == 2
    assert "sac.contrast_encoder_lr has no effect with sac.joint_optimizer=true" in refused(
        "dmc/reacher-easy", overrides=["sac.joint_optimizer=true", "sac.contrast_encoder_lr=1"]
    )
    for mask in ("block", "frames"):
        blocks = resolve("dmc/reacher-easy", overrides=["mcurl.block_length=8", f"mcurl.mask={mask}"])
        assert value(blocks, "mcurl.block_length") == 8
    assert "mcurl.block_length" in {setting.key for setting in describe(blocks)}
    assert "mcurl.block_length" not in {setting.key for setting in describe(resolve("dmc/reacher-easy"))}


def test_every_number_has_limits_and_its_default_is_within() -> None:
    """A new setting says its range, or is named here because any number will do. Environments check their own."""
    unlimited = {"rainbow.v_min", "rainbow.v_max"}
    numbers = {
        key: setting
        for key, setting in every_setting("toy").items()
        if setting.hint in (int, float) and not key.startswith("env.")
    }
    assert {key for key, setting in numbers.items() if not setting.meta.bounded} == unlimited
    for key, setting in numbers.items():
        setting.meta.check(key, setting.default)
        for beyond in (setting.meta.low - 1, setting.meta.above, setting.meta.high + 1, setting.meta.below):
            if abs(beyond) < float("inf"):
                with pytest.raises(UserError, match=f"^{key} must be "):
                    setting.meta.check(key, beyond)


def test_described_settings_are_those_in_use() -> None:
    settings = resolve("dmc/reacher-easy", "curl", overrides=["sac.batch_size=7"])
    found = {setting.key: setting for setting in describe(settings)}
    assert found["sac.batch_size"].value == 7
    assert found["sac.batch_size"].default == 128
    assert found["env_steps"].value == 100_000
    assert "curl.scale" in found
    assert not any(key.startswith(("mcurl.", "rainbow.")) for key in found)
    assert "env.task" not in found


@pytest.mark.parametrize(("task", "method"), EVERY_KIND)
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
        (Choice, "3", 3), (Choice, "none", "none"), (int | None, "none", None), (int | None, "2k", 2000),
        (float | None, None, None),
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
        (int, "x"), (int, "1.5"), (int, ""), (int, True), (int, None), (int, "k"), (int, float("nan")), (int, "inf"),
        (int, "9e999999999"),
        (float, "x"), (float, True), (float, ""),
        (bool, "maybe"), (bool, 1),
        (str, 3), (Path, 3), (Choice, "4"), (int | None, "x"), (tuple[int, ...], "1,x"), (tuple[int, ...], 3),
        (tuple[int, float], "1"),
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


@pytest.mark.parametrize("values", [("10", "-10"), ("1", "1"), ("nan", "10"), ("-10", "inf")])
def test_the_first_atom_is_below_the_last(values: tuple[str, str]) -> None:
    low, high = values
    with pytest.raises(UserError, match=r"^rainbow\.v_min must be a number below v_max, not "):
        resolve("toy/catch", "rl-only", overrides=[f"rainbow.v_min={low}", f"rainbow.v_max={high}"])
