"""Trees come back exactly; damage is one line; a kill leaves the old or the new."""

from __future__ import annotations

import json
import math
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mcurl.errors import UserError
from mcurl.run.checkpoint import load_tree, recover, save_tree, write_atomically, write_file


def same(a: Any, b: Any) -> bool:
    """Equal to the last bit, types included."""
    if isinstance(a, torch.Tensor):
        return isinstance(b, torch.Tensor) and a.dtype == b.dtype and a.shape == b.shape and _bytes(a).equal(_bytes(b))
    if isinstance(a, np.ndarray | np.generic):
        return type(a) is type(b) and a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes()
    if type(a) is not type(b):
        return False
    if isinstance(a, dict):
        return list(a) == list(b) and [type(k) for k in a] == [type(k) for k in b] and all(same(a[k], b[k]) for k in a)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(map(same, a, b))
    if isinstance(a, float):
        return (math.isnan(a) and math.isnan(b)) or (a == b and math.copysign(1, a) == math.copysign(1, b))
    return bool(a == b)


def _bytes(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.detach().resolve_conj().contiguous().view(-1).view(torch.uint8)


def round_trip(folder: Path, tree: Any) -> Any:
    save_tree(folder, tree)
    return load_tree(folder)


LEAVES = [
    None, True, False, 0, -1, 2**53 - 1, 2**53, -(2**64), 7**4000, "", "a\nb ü \ud83d", 0.1, -0.0, 5e-324, 1e308,
    math.inf, -math.inf, math.nan,
    torch.tensor(1.5), torch.zeros(0, 3), torch.arange(6).view(2, 3).T, torch.randn(4, 4)[::2, 1:],
    torch.tensor([True, False]), torch.randn(3).bfloat16(),
    torch.randn(3, dtype=torch.float64), torch.randn(2).half(), torch.arange(3, dtype=torch.uint8),
    torch.tensor([math.nan, math.inf]),
    torch.randn(2, 3, 4, 5).to(memory_format=torch.channels_last), torch.nn.Parameter(torch.ones(2)),
    torch.ones(3).expand(4, 3),
    torch.tensor([1 + 2j]), torch.tensor([1 + 2j]).conj(), torch.tensor([2**15], dtype=torch.uint16),
    np.array(3), np.zeros((0, 2), np.int16), np.arange(6, dtype=np.uint64).reshape(2, 3).T,
    np.asfortranarray(np.eye(2)), np.arange(3, dtype=">i4"),
    np.array([1 + 2j]), np.array([True]), np.array(["ab", "c"]), np.float32(0.1), np.float64(0.1), np.int64(3),
    np.bool_(True),
]  # fmt: skip


@pytest.mark.parametrize("leaf", LEAVES, ids=[f"{type(leaf).__name__}-{i}" for i, leaf in enumerate(LEAVES)])
def test_every_leaf_comes_back_exactly(tmp_path: Path, leaf: Any) -> None:
    assert same(leaf, round_trip(tmp_path, leaf))
    assert same({"a": [leaf, (leaf,)]}, round_trip(tmp_path, {"a": [leaf, (leaf,)]}))


def test_containers_keep_their_kind_and_their_keys(tmp_path: Path) -> None:
    one = torch.randn(3)
    tree = {
        "state": {0: {"step": one, "exp_avg": one}, 1: {}, -(2**70): ()},
        "mixed": {1: one, "1": one * 2},
        "a/b": one * 3, "a": {"b": one * 4},
        "tied": [one, one[1:], one], "empty": [{}, [], ()],
    }  # fmt: skip
    assert same(tree, round_trip(tmp_path, tree))


def test_what_training_saves_goes_on_as_if_nothing_had_happened(tmp_path: Path) -> None:
    model = torch.nn.Linear(3, 2)
    adam = torch.optim.Adam(model.parameters())
    rng, old = np.random.Generator(np.random.PCG64(1)), np.random.RandomState(1)
    model(torch.randn(4, 3)).sum().backward()
    adam.step()
    tree = {
        "model": dict(model.state_dict()), "adam": adam.state_dict(), "rng": rng.bit_generator.state,
        "old": old.get_state(legacy=False),
        "torch": torch.get_rng_state(), "python": random.Random(1).getstate(),
    }  # fmt: skip
    loaded = round_trip(tmp_path, tree)
    assert same(tree, loaded)
    adam.load_state_dict(loaded["adam"])
    expected = rng.random(3)
    rng.bit_generator.state = loaded["rng"]
    assert (rng.random(3) == expected).all()
    old.set_state(loaded["old"])


text = st.text(st.characters(codec="utf-8"))
values = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | text
    | st.binary(max_size=9).map(lambda b: np.frombuffer(b, np.uint8))
)
trees = st.recursive(
    values, lambda t: st.lists(t) | st.lists(t).map(tuple) | st.dictionaries(text | st.integers(), t), max_leaves=12
)


@settings(max_examples=60, deadline=None)
@given(trees)
def test_any_tree_comes_back(tmp_path_factory: pytest.TempPathFactory, tree: Any) -> None:
    assert same(tree, round_trip(tmp_path_factory.mktemp("tree"), tree))


@pytest.mark.parametrize(
    "leaf",
    [object(), {1, 2}, np.array([object()]), torch.ones(2).to_sparse(), b"x", torch.ones(2, dtype=torch.complex128)],
)
def test_what_cannot_be_saved_names_its_place(tmp_path: Path, leaf: Any) -> None:
    with pytest.raises(TypeError, match="/agent/1"):
        save_tree(tmp_path, {"agent": [0, leaf]})


def test_a_bad_key_is_refused(tmp_path: Path) -> None:
    with pytest.raises(TypeError, match="keys are strings or integers"):
        save_tree(tmp_path, {"a": {True: 1}})


def test_loaded_arrays_and_tensors_can_be_written_to(tmp_path: Path) -> None:
    tree = round_trip(tmp_path, {"t": torch.zeros(2), "a": np.zeros(2)})
    tree["t"] += 1
    tree["a"] += 1


def test_the_same_tree_gives_the_same_bytes(tmp_path: Path) -> None:
    tree = {str(i): torch.full((3,), i) for i in range(20)}
    written = set()
    for _ in range(3):
        save_tree(tmp_path, tree)
        written.add((tmp_path / "state.safetensors").read_bytes() + (tmp_path / "state.json").read_bytes())
    assert len(written) == 1


@pytest.mark.parametrize("name", ["state.json", "state.safetensors"])
def test_any_flipped_byte_is_one_line(tmp_path: Path, name: str) -> None:
    save_tree(tmp_path, {"weight": torch.arange(5.0), "step": 12345, "lr": [0.25, "x"]})
    whole = (tmp_path / name).read_bytes()
    for position in range(0, len(whole), 7):
        broken = bytearray(whole)
        broken[position] ^= 1
        (tmp_path / name).write_bytes(broken)
        if name == "state.json" and _json(broken) == json.loads(whole):
            continue  # White space carries nothing.
        with pytest.raises(UserError, match=name.replace(".", r"\.")) as caught:
            load_tree(tmp_path)
        assert "\n" not in str(caught.value)


def _json(data: bytes | bytearray) -> Any:
    try:
        return json.loads(data)
    except ValueError:
        return None


@pytest.mark.parametrize(
    "content", [b"", b"{", b"[]", b"{}", b"\xff\xfe", b'{"format": "mcurl-tree", "version": 99}', b"[" * 100_000]
)
def test_a_foreign_file_is_one_line(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "state.json").write_bytes(content)
    with pytest.raises(UserError, match=r"state\.json") as caught:
        load_tree(tmp_path)
    assert "\n" not in str(caught.value)


def test_missing_files_are_one_line(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="does not exist"):
        load_tree(tmp_path / "none")
    save_tree(tmp_path, {})
    (tmp_path / "state.safetensors").unlink()
    with pytest.raises(UserError, match="cannot be read"):
        load_tree(tmp_path)


def test_a_node_that_lies_is_one_line(tmp_path: Path) -> None:
    """A tree with a valid checksum that asks for what is not there, or for Python objects."""
    from mcurl.run import checkpoint

    for node in [
        ["tensor", "none"],
        ["array", "w", "O", [1]],
        ["array", "w", "<f8", [7]],
        ["call", "os.system"],
        [[]],
        ["int"],
        ["tensor", []],
        [],
    ]:
        save_tree(tmp_path, {"w": np.zeros(2)})
        document = json.loads((tmp_path / "state.json").read_text())
        document |= {"tree": {"x": node}, "tree_crc32": checkpoint._crc32({"x": node})}
        (tmp_path / "state.json").write_text(json.dumps(document))
        with pytest.raises(UserError, match="damaged"):
            load_tree(tmp_path)


def test_write_atomically_replaces_and_keeps_the_old_on_an_error(tmp_path: Path) -> None:
    final = tmp_path / "deep" / "folder"
    write_atomically(final, lambda folder: save_tree(folder, 1))
    write_atomically(final, lambda folder: save_tree(folder, 2))
    assert load_tree(final) == 2

    def fail(folder: Path) -> None:
        save_tree(folder, 3)
        raise RuntimeError("disk full")

    with pytest.raises(RuntimeError):
        write_atomically(final, fail)
    assert load_tree(final) == 2
    assert [path.name for path in final.parent.iterdir()] == ["folder"]


def test_recover_settles_what_a_kill_between_two_renames_left(tmp_path: Path) -> None:
    final = tmp_path / "folder"
    write_atomically(final, lambda folder: save_tree(folder, "old"))
    final.rename(tmp_path / ".folder.old")
    recover(final)
    assert load_tree(final) == "old"
    recover(final)
    assert load_tree(final) == "old"


WRITER = """
import sys
from pathlib import Path
import torch
from mcurl.run.checkpoint import save_tree, write_atomically
final = Path(sys.argv[1])
print("ready", flush=True)
for i in range(10**9):
    write_atomically(final, lambda folder: save_tree(folder, {"i": i, "same": torch.full((1000,), i)}))
"""


def test_sigkill_at_any_moment_leaves_a_whole_folder(tmp_path: Path) -> None:
    final, seen, wait = tmp_path / "c", [], random.Random(0)
    for _ in range(20):
        process = subprocess.Popen(
            [sys.executable, "-c", WRITER, str(final)],
            stdout=subprocess.PIPE,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )
        assert process.stdout is not None
        process.stdout.readline()
        while not (final.exists() or (tmp_path / ".c.old").exists()):
            time.sleep(0.001)
        time.sleep(wait.uniform(0, 0.1))
        process.send_signal(signal.SIGKILL)
        process.wait()
        process.stdout.close()
        recover(final)
        tree = load_tree(final)
        assert (tree["same"] == tree["i"]).all()
        seen.append(tree["i"])
        if len(seen) >= 4 and max(seen) > 0:  # some were killed while an old folder was being replaced
            return
    pytest.fail(f"it never came to a second folder: {seen}")


def test_write_file_replaces_whole_files(tmp_path: Path) -> None:
    write_file(tmp_path / "run.json", "{}")
    write_file(tmp_path / "run.json", '{"a": 1}')
    assert (tmp_path / "run.json").read_text() == '{"a": 1}'
    assert len(list(tmp_path.iterdir())) == 1
