"""Choice of device, precision, threads and memory allocator for a run, from its settings and the machine."""

from __future__ import annotations

import ctypes
import os
import platform
import random
import sys
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch

from mcurl import native
from mcurl.config.fields import setting
from mcurl.errors import UserError
from mcurl.native import onednn
from mcurl.native.processor import processor_flags
from mcurl.runtime.threads import TRAINING, available_cores

MAX_THREADS = 256
"""So many threads may be asked for on any machine; on one with more cores, four for each."""


@dataclass(frozen=True)
class ComputeSettings:
    """Device, precision and acceleration."""

    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Device; auto is the GPU if there is one."""
    precision: Literal["auto", "fp32", "tf32", "bf16"] = "auto"
    """Precision of the expensive matrix products (see docs/deviations.md); the rest is fp32. auto is bf16 if the device
    has instructions for it, else fp32. tf32 needs a GPU, and applies to all matrix products."""
    threads: int = setting(0, low=0)
    """CPU threads; 0: all cores."""
    overlap: bool = True
    """Step the environment in a thread of its own, with SAC and DrQ-v2 while the update runs; false: in the main
    thread. The results are the same, bit for bit."""
    graphs: bool = True
    """Replay each update as a CUDA graph (GPU only)."""
    native: Literal["auto", "off"] = "auto"
    """Accelerated operations: C that is compiled on first use, and oneDNN's fused operations. off is plain PyTorch and
    NumPy: slower, and equal up to rounding."""


@dataclass(frozen=True)
class Compute:
    """The device and precision of a run, as :func:`prepare` chose them."""

    device: torch.device
    """Device of the networks."""
    dtype: torch.dtype
    """Dtype of expensive matrix products, float32 or bfloat16."""
    graphs: bool
    """Whether updates are replayed as CUDA graphs."""

    @property
    def precision(self) -> str:
        """``"bf16"``, ``"tf32"`` or ``"fp32"``."""
        if self.dtype == torch.bfloat16:
            return "bf16"
        return "tf32" if self.device.type == "cuda" and torch.backends.cuda.matmul.allow_tf32 else "fp32"

    @property
    def name(self) -> str:
        """Description for the user, such as ``"2 threads, bf16"``."""
        threads = torch.get_num_threads()
        cpu = f"{threads} thread{'s' if threads > 1 else ''}"
        device = torch.cuda.get_device_name() if self.device.type == "cuda" else cpu
        return f"{device}, {self.precision}"


def prepare(settings: ComputeSettings) -> Compute:
    """Choose device and precision, and configure this process: threads, memory allocator, native operations.

    Call it before the first environment is made, see :func:`load_compiler`.

    Raises:
        UserError: the settings need a GPU, and there is none, or far more threads than there are cores.
    """
    cuda = torch.cuda.is_available()
    if settings.device == "cuda" and not cuda:
        raise UserError("compute.device=cuda, but PyTorch finds no GPU: use auto or cpu")
    device = torch.device("cuda" if cuda and settings.device != "cpu" else "cpu")
    if settings.precision == "tf32" and device.type != "cuda":
        raise UserError("compute.precision=tf32 needs a GPU: on a CPU, use auto, fp32 or bf16")
    if settings.threads > max(MAX_THREADS, 4 * (os.cpu_count() or 1)):
        count = f"{os.cpu_count()} cores"
        raise UserError(f"compute.threads={settings.threads:,} are too many for this machine, which has {count}")
    torch.set_num_threads(settings.threads or available_cores())
    keep_freed_memory()
    load_compiler()
    if device.type == "cuda":
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = settings.precision == "tf32"
        torch.backends.cudnn.benchmark = True
    bf16 = settings.precision == "bf16" or (settings.precision == "auto" and has_fast_bf16(device))
    native.enable_all()
    if settings.native == "off":
        native.disable(native.ALL, "compute.native=off")
    elif not bf16:  # They are less exact than float32.
        native.disable(native.AMX, "the precision is fp32")
    return Compute(device, torch.bfloat16 if bf16 else torch.float32, settings.graphs and device.type == "cuda")


@contextmanager
def process_state_restored() -> Iterator[None]:
    """A context manager that restores at exit what :func:`prepare` and a run change in this process.

    These are PyTorch's number of threads, its precision on GPUs, the native operations that are disabled, and the
    global random generators of PyTorch, NumPy and Python. Not restored: the memory allocator keeps freed memory from
    the first call of :func:`prepare` on. Nor are the generators where a run trains in another thread: what it has drawn
    meanwhile would be drawn again.
    """
    beside_a_run = TRAINING.elsewhere
    threads = torch.get_num_threads()
    matmul, cudnn = torch.backends.cuda.matmul, torch.backends.cudnn
    flags = matmul.allow_tf32, cudnn.allow_tf32, cudnn.benchmark
    generators = torch.get_rng_state(), np.random.get_state(), random.getstate()
    gpus = torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else []
    try:
        with native.disabled_only(native.disabled()):
            yield
    finally:
        torch.set_num_threads(threads)
        matmul.allow_tf32, cudnn.allow_tf32, cudnn.benchmark = flags
        if not (beside_a_run or TRAINING.elsewhere):
            torch.set_rng_state(generators[0])
            np.random.set_state(generators[1])
            random.setstate(generators[2])
            if gpus:
                torch.cuda.set_rng_state_all(gpus)


def has_fast_bf16(device: torch.device) -> bool:
    """Whether bfloat16 is faster than float32: a GPU from Ampere on, or a CPU with instructions for it."""
    if device.type == "cuda":
        return torch.cuda.get_device_capability()[0] >= 8
    return bool(bf16_instructions())


def bf16_instructions() -> list[str]:
    """The instruction sets of this CPU for products of bfloat16; empty: it has none.

    On x86 they are AMX and AVX-512 BF16: PyTorch supports bf16 on less, slowly. On other processors PyTorch is asked,
    and ``"bf16"`` is the answer where oneDNN has instructions for it.
    """
    if platform.machine().lower() in ("x86_64", "amd64"):
        return [flag for flag in processor_flags() if flag in ("amx_bf16", "avx512_bf16")]
    return ["bf16"] if onednn.multiplies_bf16() else []


def compute_metadata(compute: Compute) -> dict[str, Any]:
    """Metadata about device and acceleration for ``run.json``.

    Returns:
        ``device`` (name of the GPU, or cpu), ``precision`` (bf16, tf32 or fp32), ``threads``, ``native``
        (accelerated operations that ran so far, see :func:`mcurl.native.operations_used`; complete after the first
        updates) and ``processor_flags``.
    """
    return {
        "device": torch.cuda.get_device_name(compute.device) if compute.device.type == "cuda" else "cpu",
        "precision": compute.precision,
        "threads": torch.get_num_threads(),
        "native": native.operations_used(),
        "processor_flags": processor_flags(),
    }


def arithmetic(compute: Compute) -> dict[str, str]:
    """What the last bits of a run's results depend on, each in words: device, precision, threads, PyTorch, ...

    A run that is continued with other values is not the one that never stopped.
    """
    values = compute_metadata(compute)
    threads = values["threads"]
    off = native.disabled().keys() >= native.ALL
    return {
        "device": f"device {values['device']}",
        "threads": f"{threads} thread{'' if threads == 1 else 's'}",
        "precision": values["precision"],
        "native": f"compute.native={'off' if off else 'auto'}",
        "torch": f"PyTorch {torch.__version__}",
        "processor": f"a processor with {' '.join(values['processor_flags']) or 'no known extension'}",
    }


def arithmetic_changes(before: Mapping[str, str], operations: Iterable[str], compute: Compute) -> str:
    """What this process computes with that a checkpoint was not made with, in words; empty if nothing.

    Args:
        before: :func:`arithmetic` at the checkpoint; empty in checkpoints of older versions.
        operations: native operations that the run used before.
        compute: of this process.
    """
    now = arithmetic(compute)
    changed = [name for name in now if name in before and before[name] != now[name]]
    # Which operations can serve follows from these two.
    missing = {} if {"native", "precision"} & set(changed) else native.unavailable(operations)
    if not changed and not missing:
        return ""
    words = [[str(values[name]) for name in changed] for values in (before, now)]
    reasons = [f"{name}: {reason}" for name, reason in missing.items()]
    return f"{', '.join([*words[0], *missing])} before; {', '.join([*words[1], *reasons])} now"


def keep_freed_memory() -> None:
    """Tell glibc's allocator to keep freed memory.

    Otherwise activations of tens of megabytes are mapped, zeroed and unmapped in every update. It has no effect on
    other systems than Linux.
    """
    if sys.platform != "linux":
        return
    try:
        mallopt = ctypes.CDLL("libc.so.6").mallopt
    except (OSError, AttributeError):
        return
    m_trim_threshold, m_mmap_max = -1, -4
    mallopt(m_mmap_max, 0)
    mallopt(m_trim_threshold, 2**31 - 1)


def load_compiler() -> None:
    """Import PyTorch's compiler, before an environment loads OpenGL.

    PyTorch's optimizers import it on first use. The CUDA builds of PyTorch contain Triton, whose LLVM crashes if
    software OpenGL loaded its own LLVM before.
    """
    import torch._dynamo  # noqa: F401


def torch_state(device: torch.device) -> dict[str, Any]:
    """State of PyTorch's random generators, which sample dropout, noise and actions."""
    return {"cpu": torch.get_rng_state(), "cuda": torch.cuda.get_rng_state(device) if device.type == "cuda" else None}


def restore_torch_state(state: dict[str, Any], device: torch.device) -> None:
    """Restore a state from :func:`torch_state`; a state of a GPU generator is ignored on the CPU."""
    torch.set_rng_state(state["cpu"])
    if device.type == "cuda" and state["cuda"] is not None:
        torch.cuda.set_rng_state(state["cuda"], device)
