"""Device, precision, threads, allocator: decided once, from what the machine has."""

from __future__ import annotations

import ctypes
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch

from mcurl import native
from mcurl.config.fields import setting
from mcurl.errors import UserError
from mcurl.runtime.threads import available_cores

FLAGS = ("amx_tile", "amx_bf16", "amx_int8", "avx512f", "avx512_bf16", "avx2")
"""Of processors: instruction sets that products here can use."""


@dataclass(frozen=True)
class ComputeSettings:
    """Where and in which arithmetic a run computes."""

    device: Literal["auto", "cpu", "cuda"] = "auto"
    """auto: a GPU where there is one."""
    precision: Literal["auto", "fp32", "tf32", "bf16"] = "auto"
    """Arithmetic of the products that take the time (docs/deviations.md names them). auto: bf16 where there are
    instructions for it, else fp32. All else is fp32; tf32 is a GPU's, for every product."""
    threads: int = setting(0, low=0)
    """Threads of the processor; 0: all cores."""
    overlap: bool = True
    """SAC: the environment steps while the update runs; bit for bit the same result."""
    graphs: bool = True
    """On a GPU: replay each update as one CUDA graph."""
    native: Literal["auto", "off"] = "auto"
    """auto: this package's C, compiled at first use, and oneDNN's fused operations where they apply. off: plain
    PyTorch and NumPy only; slower, and equal but for rounding."""


@dataclass(frozen=True)
class Compute:
    """What was decided."""

    device: torch.device
    dtype: torch.dtype
    graphs: bool

    @property
    def precision(self) -> str:
        """bf16, tf32 or fp32."""
        if self.dtype == torch.bfloat16:
            return "bf16"
        return "tf32" if torch.backends.cuda.matmul.allow_tf32 else "fp32"

    @property
    def name(self) -> str:
        where = torch.cuda.get_device_name() if self.device.type == "cuda" else f"{torch.get_num_threads()} threads"
        return f"{where}, {self.precision}"


def prepare(settings: ComputeSettings) -> Compute:
    """Set threads, allocator and the native operations in use for this process, and choose device and precision.

    Comes before the first environment: see `load_compiler`.

    Raises:
        UserError: a GPU, or its TF32, is asked for where there is none.
    """
    cuda = torch.cuda.is_available()
    if settings.device == "cuda" and not cuda:
        raise UserError("compute.device=cuda, but PyTorch sees no GPU here; leave it at auto or cpu")
    device = torch.device("cuda" if cuda and settings.device != "cpu" else "cpu")
    if settings.precision == "tf32" and device.type != "cuda":
        raise UserError("compute.precision=tf32 needs a GPU; on a processor: auto, fp32 or bf16")
    torch.set_num_threads(settings.threads or available_cores())
    keep_freed_memory()
    load_compiler()
    if device.type == "cuda":
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = settings.precision == "tf32"
        torch.backends.cudnn.benchmark = True
    bf16 = settings.precision == "bf16" or (settings.precision == "auto" and has_fast_bf16(device))
    native.disabled = {}
    if settings.native == "off":
        native.disable(native.ALL, "compute.native=off")
    elif not bf16:  # Their products are not quite float32's.
        native.disable(native.AMX, "the precision is fp32")
    return Compute(device, torch.bfloat16 if bf16 else torch.float32, settings.graphs and device.type == "cuda")


def has_fast_bf16(device: torch.device) -> bool:
    """Whether bfloat16 convolutions are faster than float32 here: Ampere or later, or a processor with AMX or AVX-512
    BF16."""
    if device.type == "cuda":
        return torch.cuda.get_device_capability()[0] >= 8
    return bool({"amx_bf16", "avx512_bf16"} & set(processor_flags()))


def processor_flags() -> list[str]:
    """Instruction sets that matter here and that this processor has: amx_tile, amx_bf16, amx_int8, avx512f,
    avx512_bf16, avx2. Empty where /proc/cpuinfo cannot be read."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return []
    flags = next((line.partition(":")[2].split() for line in lines if line.startswith("flags")), [])
    return [flag for flag in FLAGS if flag in flags]


def compute_metadata(compute: Compute) -> dict[str, Any]:
    """Plain values about what this process computes with, for ``run.json``.

    Returns:
        ``device`` (the GPU's name, or cpu), ``precision`` (bf16, tf32 or fp32), ``threads`` in effect, ``native``
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


def keep_freed_memory() -> None:
    """Tell glibc to keep freed blocks: activations of tens of megabytes are otherwise mapped, zeroed page by page and
    unmapped in every update."""
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
    """Import now what PyTorch's optimizers import later. Its CUDA builds bring Triton, whose LLVM crashes where
    software OpenGL has loaded another before."""
    import torch._dynamo  # noqa: F401


def torch_state(device: torch.device) -> dict[str, Any]:
    """State of PyTorch's own generators: dropout, noise, sampled actions."""
    return {"cpu": torch.get_rng_state(), "cuda": torch.cuda.get_rng_state(device) if device.type == "cuda" else None}


def restore_torch_state(state: dict[str, Any], device: torch.device) -> None:
    """Put back what :func:`torch_state` gave; a GPU's where there is one."""
    torch.set_rng_state(state["cpu"])
    if device.type == "cuda" and state["cuda"] is not None:
        torch.cuda.set_rng_state(state["cuda"], device)
