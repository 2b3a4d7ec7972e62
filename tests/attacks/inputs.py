"""Inputs that nobody would write, near to valid ones: values, JSON trees, texts, bytes, command lines."""

from __future__ import annotations

import copy
import json
from typing import Any

from hypothesis import strategies as st

UGLY_TEXTS = (
    *(
        "",
        ":",
        "::",
        ":x",
        "x:",
        "..",
        "../x",
        "/",
        "/etc/x",
        "dmc/../../x",
        "\x1b[31mred",
        "\u202eabc",
        "\ud800",
        "\0",
    ),
    *("a\nb", "[", "{", "=", "none", "nan", "inf", "-1", "1e400", "9" * 5000, "x" * 3000, "½", "٣", "True", "os:path"),
    *("toy/reach", "gym/:x", "gym/no_such_module_x:Y-v0", "toy/", "/reach", "no_such_module_x:Y", "mcurl", "--seed"),
)
NUMBERS = (0, -1, 1, 2**31, 2**63, 10**30, 10**400, 0.5, -0.0, 1e308, float("nan"), float("inf"), True, False)
"""Numbers at the edges of types. 10**400 is too long for text: Python refuses to convert it."""

texts = st.one_of(st.sampled_from(UGLY_TEXTS), st.text(max_size=30))
scalars = st.one_of(st.none(), st.sampled_from(NUMBERS), texts, st.floats(), st.integers())
values = st.recursive(
    scalars,
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(texts, inner, max_size=3)),
    max_leaves=6,
)
"""JSON values."""


@st.composite
def changed_trees(draw: st.DrawFn, tree: Any, changes: int = 3) -> Any:
    """A JSON tree with a few places changed, removed or renamed."""
    tree = copy.deepcopy(tree)
    for _ in range(draw(st.integers(1, changes))):
        tree = draw(_changed_once(tree))
    return tree


@st.composite
def _changed_once(draw: st.DrawFn, tree: Any) -> Any:
    if not isinstance(tree, dict | list) or not tree or draw(st.integers(0, 9)) == 0:
        return draw(values)
    key = draw(st.sampled_from(sorted(tree) if isinstance(tree, dict) else range(len(tree))))
    action = draw(st.sampled_from(("inside", "inside", "inside", "value", "remove", "rename")))
    if action == "inside":
        tree[key] = draw(_changed_once(tree[key]))
    elif action == "value":
        tree[key] = draw(values)
    elif action == "remove":
        del tree[key]
    elif isinstance(tree, dict):
        tree[draw(texts)] = tree.pop(key)
    return tree


@st.composite
def changed_bytes(draw: st.DrawFn, data: bytes) -> bytes:
    """The contents of a file after bits, pieces or its end were lost, or something was put between."""
    for _ in range(draw(st.integers(1, 3))):
        start = draw(st.integers(0, len(data)))
        stop = draw(st.integers(start, min(len(data), start + 40)))
        between = draw(st.one_of(st.binary(max_size=12), texts.map(_encode), st.just(b"\0" * 50)))
        data = data[:start] + between + (b"" if draw(st.integers(0, 5)) == 0 else data[stop:])
    return data


def json_bytes(tree: Any) -> bytes:
    """A JSON file with a tree, as another program may have written it: surrogates, NaN and long numbers included."""
    try:
        return json.dumps(tree).encode()
    except ValueError:  # a number with too many digits for Python's own conversion
        return b'{"task": ' + b"9" * 5000 + b"}"


def _encode(text: str) -> bytes:
    return text.encode("utf-8", "surrogatepass")
