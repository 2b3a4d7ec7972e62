"""Device, precision, threads, allocator: decided once, from what the machine has."""

from __future__ import annotations

import ctypes
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch

from mcurl import native
from mcurl.errors import UserError
from mcurl.runtime.threads import available_cores


@dataclass(frozen=True)
class ComputeSettings:
    """Where and in which arithmetic a run computes."""

    device: Literal["auto", "cpu", "cuda"] = "auto"
    """auto: a GPU where there is one."""
    precision: Literal["auto", "fp32", "tf32", "bf16"] = "auto"
    """Arithmetic of the products that take the time (docs/deviations.md names them). auto: bf16 where there are
    instructions for it, else fp32. All else is fp32; tf32 is a GPU's, for every product."""
    threads: int = 0
    """Threads of the processor; 0: all cores."""
    overlap: bool = True
    """SAC: the environment steps while the update runs; bit for bit the same result."""
    graphs: bool = True
    """On a GPU: replay each update as one CUDA graph."""


@dataclass(frozen=True)
class Compute:
    """What was decided."""

    device: torch.device
    dtype: torch.dtype
    graphs: bool

    @property
    def name(self) -> str:
        where = torch.cuda.get_device_name() if self.device.type == "cuda" else f"{torch.get_num_threads()} threads"
        return f"{where}, {'bf16' if self.dtype == torch.bfloat16 else 'tf32' if torch.backends.cuda.matmul.allow_tf32 else 'fp32'}"


def prepare(settings: ComputeSettings) -> Compute:
    """Set threads, allocator and which compiled layers serve for this process, and choose device and precision.

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
    native.unused = frozenset() if bf16 else native.LAYERS  # their products are not quite float32's
    return Compute(device, torch.bfloat16 if bf16 else torch.float32, settings.graphs and device.type == "cuda")


def has_fast_bf16(device: torch.device) -> bool:
    """Whether bfloat16 convolutions are faster than float32 here: Ampere or later, or a processor with AMX or AVX-512
    BF16."""
    if device.type == "cuda":
        return torch.cuda.get_device_capability()[0] >= 8
    try:
        flags = Path("/proc/cpuinfo").read_text()
    except OSError:
        return False
    return "amx_bf16" in flags or "avx512_bf16" in flags


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
