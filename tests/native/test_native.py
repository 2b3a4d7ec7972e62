"""The C is built where there is a compiler, without a warning; where there is none, the plain twin serves, and
``status`` says why."""

from __future__ import annotations

import ctypes
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from mcurl import native
from mcurl.native import adam, convolutions, dense, frames, onednn, teams
from mcurl.native.amx import dueling, encoder, features, mlp, transformer
from mcurl.networks.acting import PixelPolicy
from mcurl.networks.atari import DataEfficientEncoder
from mcurl.networks.encoders import Convolutions, FeatureHead, PixelEncoder
from mcurl.networks.heads import GaussianActor
from mcurl.networks.noisy import DuelingHead
from mcurl.networks.transformer import Transformer

FOLDER = Path(native.__file__).parent
SOURCES = sorted(FOLDER.rglob("*.c"))
COMPILED: dict[str, Callable[[], bool]] = {
    "frames": frames.available,
    "adam": adam.available,
    "dense": dense.available,
    "teams": teams.available,
    "winograd": partial(convolutions.available, "winograd"),
    "amx.convolutions": partial(convolutions.available, "amx.convolutions"),
    "amx.dueling": dueling.available,
    "amx.encoder": encoder.available,
    "amx.features": features.available,
    "amx.mlp": mlp.available,
    "amx.transformer": transformer.available,
}
"""Whether each is available."""
COMPILER = shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
needs_compiler = pytest.mark.skipif(COMPILER is None, reason="no C compiler here")


@pytest.fixture
def fresh_builds(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Path]:
    """An empty folder of builds, and no memory of earlier ones."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    native._build.cache_clear()
    yield tmp_path
    native._build.cache_clear()


def processor_has(*flags: str) -> bool:
    about = Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").exists() else ""
    return all(flag in about for flag in flags)


AVX512 = ("avx512_bf16", "avx512bw", "avx512dq", "avx512vl")
AMX = ("amx_tile", "amx_int8", "amx_bf16")


def test_every_source_has_a_name() -> None:
    assert {".".join(path.relative_to(FOLDER).with_suffix("").parts) for path in SOURCES} == set(COMPILED)
    assert set(COMPILED) | native.ONEDNN == native.ALL


@needs_compiler
@pytest.mark.parametrize("source", SOURCES, ids=lambda path: path.name)
@pytest.mark.parametrize("more", [[], ["-fopenmp"], ["-fopenmp", "-DVECTOR_TILES"], ["-fopenmp", "-DLANES_8"]])
def test_compiles_without_a_warning(source: Path, more: list[str], tmp_path: Path) -> None:
    flags = ["-O3", "-fno-math-errno", "-fPIC", "-Wall", "-Wextra", "-Werror", "-Wno-unknown-pragmas", *more]
    subprocess.run([COMPILER, *flags, "-c", str(source), "-o", str(tmp_path / "object.o")], check=True, timeout=60)


def test_lines_of_c_have_120_columns() -> None:
    for path in [*SOURCES, *FOLDER.rglob("*.h")]:
        assert max(map(len, path.read_text().splitlines())) <= 120, path


@needs_compiler
def test_what_compiles_is_used() -> None:
    """Falling back is silent: a mistake in the C would only show as slowness."""
    units, vectors = processor_has(*AVX512, *AMX), processor_has(*AVX512, "avx512_vnni", "GenuineIntel")
    here = native.ALL - native.ONEDNN
    here -= frozenset() if units or vectors else native.AMX
    here -= frozenset() if processor_has("avx2", "fma") else {"winograd"}
    assert {name for name, available in COMPILED.items() if available()} == here
    status = native.status()
    assert status.keys() == native.ALL
    for name in COMPILED:
        needs = "AMX" if name in native.AMX else "AVX2"
        assert status[name].startswith("built") if name in here else status[name] == f"processor without {needs}"
        assert status[name].endswith(", for AVX-512") == (name in native.AMX and vectors and not units)
        narrow = name == "winograd" and name in here and not processor_has(*AVX512[1:])
        assert status[name].endswith(", for AVX2") == narrow
    for name in native.ONEDNN:
        assert status[name] == ("built" if onednn.available(name) else "no bfloat16 in oneDNN here")


@needs_compiler
def test_libraries_load_before_pytorch_does() -> None:
    """OpenMP's functions are those of PyTorch's library."""
    program = "from mcurl import native; assert native.library('adam'); print(native._build('adam').message)"
    output = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True, timeout=60)
    assert output.stdout.strip() == native.status()["adam"]


def test_it_can_be_switched_off() -> None:
    native.disable(native.AMX, "no AMX, please")
    assert not any(COMPILED[name]() for name in native.AMX)
    assert native.status()["amx.dueling"] == "disabled: no AMX, please"
    native.disable({"frames"}, "no C, please")
    assert native.disabled().keys() == native.AMX | {"frames"}
    assert not frames.available()
    with native.without_operations(native.ALL, "for a moment"):
        assert not any(available() for available in COMPILED.values())
        assert not onednn.supports_conv_relu(torch.zeros(1, 1, 3, 3))
        assert not onednn.supports_linear_relu(torch.zeros(1, 1, dtype=torch.bfloat16))
        assert set(native.status().values()) == {"disabled: for a moment"}
    assert native.disabled().keys() == native.AMX | {"frames"}


def test_each_thread_has_its_own() -> None:
    """Two policies that act at one time, in any order, and a run in a third thread."""
    native.disable({"frames"}, "in this thread")
    seen = []

    def act(reason: str, enter: threading.Event, leave: threading.Event) -> None:
        with native.disabled_only({"adam": reason}):
            enter.set()
            leave.wait()
            seen.append(native.disabled())
        seen.append(native.disabled())

    events = [threading.Event() for _ in range(4)]
    threads = [threading.Thread(target=act, args=(name, *events[2 * i : 2 * i + 2])) for i, name in enumerate("ab")]
    for thread, enter in zip(threads, events[::2], strict=True):
        thread.start()
        enter.wait()
    assert native.disabled() == {"frames": "in this thread"}
    for thread, leave in zip(threads, events[1::2], strict=True):
        leave.set()
        thread.join()
    assert seen == [{"adam": "a"}, {}, {"adam": "b"}, {}]
    assert native.disabled() == {"frames": "in this thread"}


def test_an_empty_library_in_the_cache_is_built_anew(fresh_builds: Path) -> None:
    if shutil.which("cc") is None:
        pytest.skip("no compiler")
    assert native.status()["adam"] == "built"
    [path] = fresh_builds.rglob("adam-*.so")
    path.unlink()  # the one that is loaded keeps its content
    path.write_bytes(b"")
    native._build.cache_clear()
    assert native.status()["adam"] == "built"
    assert path.stat().st_size > 1000


def test_a_user_without_a_home_has_no_library(monkeypatch: pytest.MonkeyPatch, fresh_builds: Path) -> None:
    def no_home() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr(Path, "home", no_home)
    assert native.status()["adam"].startswith("build failed: this user has no home folder for the cache")


def test_unknown_operations_are_refused() -> None:
    with pytest.raises(ValueError, match=r"unknown native operations: amx\.decoder"):
        native.disable({"amx.decoder", "adam"}, "a slip")
    assert "adam" not in native.disabled()


@needs_compiler
def test_a_changed_header_is_built_anew(monkeypatch: pytest.MonkeyPatch, fresh_builds: Path) -> None:
    monkeypatch.setattr(native, "__file__", str(fresh_builds / "__init__.py"))
    (fresh_builds / "small.c").write_text('#include "number.h"\nint number(void) { return NUMBER; }')
    numbers = []
    for number in (1, 2):
        (fresh_builds / "number.h").write_text(f"#define NUMBER {number}")
        native._build.cache_clear()
        library = native.library("small")
        assert library is not None
        numbers.append(library.number())
    assert numbers == [1, 2]


def test_without_a_compiler_there_is_no_library(monkeypatch: pytest.MonkeyPatch, fresh_builds: Path) -> None:
    monkeypatch.setenv("PATH", str(fresh_builds))
    assert native.library("frames") is None
    assert not frames.available()
    assert not list(fresh_builds.rglob("*.so"))
    status = native.status()
    assert {status[name] for name in COMPILED} == {"no C compiler"}


@needs_compiler
def test_a_broken_source_is_no_library(monkeypatch: pytest.MonkeyPatch, fresh_builds: Path) -> None:
    (fresh_builds / "frames.c").write_text("int broken(void) { return 0;")
    monkeypatch.setattr(native, "__file__", str(fresh_builds / "__init__.py"))
    assert native.library("frames") is None
    assert native._status("frames").startswith("build failed: ")
    assert "error" in native._status("frames")
    assert "\n" not in native._status("frames")


def test_a_folder_that_cannot_be_written_is_no_library(monkeypatch: pytest.MonkeyPatch, fresh_builds: Path) -> None:
    (fresh_builds / "cache").write_text("a file where a folder should be")
    assert native.library("frames") is None
    assert COMPILER is None or native._status("frames").startswith("build failed: ")


def test_a_processor_without_amx_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    class Unsupported:
        def supported(self) -> int:
            return 0

    library: Any = Unsupported()
    monkeypatch.setattr(native, "_build", lambda name: native.Build(library, "built"))
    status = native.status()
    assert {status[name] for name in native.AMX} == {"processor without AMX"}
    assert status["winograd"] == "processor without AVX2"
    monkeypatch.setattr(Unsupported, "supported", lambda self: 1)
    for units, expected in ((True, "built"), (False, "built, for AVX-512")):
        monkeypatch.setattr(native, "has_matrix_units", lambda units=units: units)
        monkeypatch.setattr(native, "VECTORS", frozenset({"amx.features"}))
        status = native.status()
        assert status["amx.features"] == expected
        assert status["amx.mlp"] == ("built" if units else "processor without AMX")
    assert status["adam"] == status["frames"] == "built"
    for flags, expected in ((["avx512f", "avx2"], "built"), (["avx2"], "built, for AVX2")):
        monkeypatch.setattr(native, "processor_flags", lambda flags=flags: flags)
        assert native.status()["winograd"] == expected
    assert not isinstance(library, ctypes.CDLL)


def test_bfloat16_that_onednn_does_not_multiply_is_left_to_pytorch(monkeypatch: pytest.MonkeyPatch) -> None:
    """PyTorch 2.13's private operations raise then, on x86 with AVX2 alone."""
    monkeypatch.setattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", lambda: False)
    for x in (torch.zeros(1, 1, 3, 3), torch.zeros(1, 1, 3, 3).bfloat16()):
        assert onednn.supports_conv_relu(x) == (x.dtype == torch.float32 and onednn.available("onednn.conv_relu"))
    assert not onednn.supports_linear_relu(torch.zeros(1, 1).bfloat16())
    native.disable(native.ALL - native.ONEDNN, "oneDNN is tested")
    maps = Convolutions(6, 32, 2, dtype=torch.bfloat16)(torch.zeros(1, 6, 20, 20, dtype=torch.uint8))
    assert maps.dtype == torch.bfloat16
    assert native.operations_used() == []


def run_everything() -> dict[str, list[Tensor]]:
    """Every network forward and backward, and a step of Adam: name -> output and gradients."""
    torch.manual_seed(0)
    results: dict[str, list[Tensor]] = {}

    def backward(name: str, out: Tensor, module: torch.nn.Module) -> None:
        upstream = torch.linspace(-1, 1, out.numel()).view(out.shape)
        gradients = torch.autograd.grad(out, list(module.parameters()), upstream, allow_unused=True)
        results[name] = [out.detach(), *(gradient for gradient in gradients if gradient is not None)]

    atari = torch.randint(0, 256, (5, 4, 84, 84), dtype=torch.uint8)
    data_efficient = DataEfficientEncoder((4, 84, 84), dtype=torch.bfloat16)
    backward("amx.encoder", data_efficient(atari), data_efficient)
    with native.without_operations({"amx.encoder"}, "its plain twin uses oneDNN"):
        backward("onednn.linear_relu", data_efficient(atari), data_efficient)
    features = torch.rand(40, 576)
    duel = DuelingHead(576, 3, 51, 64)
    backward("amx.dueling", duel(features, duel.weights(duel.sample_noise())), duel)
    blocks = Transformer(64, 2, 96)
    padded = torch.zeros(3, 8, dtype=torch.bool)
    padded[:, 5:] = True
    backward("amx.transformer", blocks(torch.randn(3, 8, 64), padded), blocks)
    actor = GaussianActor(50, 3, 64)
    backward("amx.mlp", torch.cat(actor(torch.randn(40, 50))), actor)
    rounded = PixelEncoder(Convolutions(6, 32, 3, dtype=torch.bfloat16), 20, 10)
    frames_ = torch.randint(0, 256, (4, 6, 20, 20), dtype=torch.uint8)
    backward("amx.convolutions", rounded(frames_), rounded)
    with native.without_operations({"amx.convolutions"}, "the next one serves"):
        backward("winograd", rounded(frames_), rounded)
    head, actor = FeatureHead(32, rounded.convolutions.output_size(20), 10), GaussianActor(10, 2, 16)
    policy = PixelPolicy(20, rounded.convolutions, head, actor)
    results["dense"] = list(policy(torch.randint(0, 256, (1, 6, 24, 24), dtype=torch.uint8)))
    pixels = PixelEncoder(Convolutions(6, 8, 3), 20, 10)
    backward("onednn.conv_relu", pixels(torch.randint(0, 256, (4, 6, 20, 20), dtype=torch.uint8)), pixels)
    return results


def test_off_is_plain_pytorch(monkeypatch: pytest.MonkeyPatch) -> None:
    """No accelerated operation runs, and the results are those of the formulas with nothing dispatched at all."""
    native.disable(native.ALL, "compute.native=off")
    off = run_everything()
    assert native.operations_used() == []
    for module in (dense, frames, onednn, convolutions, encoder, features, mlp, dueling, transformer):
        for name in [name for name in vars(module) if name.startswith("supports")]:
            monkeypatch.setattr(module, name, lambda *_: False)
    native.enable_all()
    plain = run_everything()
    assert native.operations_used() == []
    for name in plain:
        assert all(map(torch.equal, off[name], plain[name])), name


def test_off_is_the_textbook() -> None:
    native.disable(native.ALL, "compute.native=off")
    torch.manual_seed(0)
    encoder_, pixels = DataEfficientEncoder((4, 84, 84)), torch.randint(0, 256, (5, 4, 84, 84), dtype=torch.uint8)
    h = F.relu(encoder_.conv2(F.relu(encoder_.conv1(pixels / 255)))).flatten(1)
    torch.testing.assert_close(encoder_(pixels), h)
    module = Convolutions(6, 8, 2)
    x = torch.rand(2, 6, 20, 20) * 255
    w, b = module.weights, module.biases
    textbook = F.relu(F.conv2d(F.relu(F.conv2d(x / 255, w[0], b[0], stride=2)), w[1], b[1]))
    torch.testing.assert_close(module(x), textbook)
    assert native.operations_used() == []


def test_operations_used_are_those_that_ran() -> None:
    on = run_everything()
    available = {name for name, is_available in COMPILED.items() if is_available()}
    available |= {name for name in native.ONEDNN if onednn.available(name)}
    if not available & convolutions.DTYPES.keys():  # acting uses both or none
        available -= {"dense"}
    assert native.operations_used() == sorted(available - {"adam", "teams"})
    native.disable(native.ALL, "the plain twin")
    plain = run_everything()
    for name in plain:
        for ours, theirs in zip(on[name], plain[name], strict=True):
            assert F.cosine_similarity(ours.flatten(), theirs.flatten(), 0) > 0.99, name


@needs_compiler
def test_operations_used_include_adam() -> None:
    value, zeros = torch.ones(3), torch.zeros(3)
    parameter = adam.Parameter(value, torch.ones(3), zeros.clone(), zeros.clone(), torch.zeros(()), 0.1)
    adam.step([parameter], beta1=0.9, beta2=0.999, eps=1e-8, max_norm=1.0)
    assert native.operations_used() == ["adam"]
