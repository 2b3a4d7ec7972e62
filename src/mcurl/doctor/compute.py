"""Device, precision, threads and native layers, as a run with default settings would use them."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from mcurl.doctor.findings import Finding, Section
from mcurl.doctor.opengl import nvidia_gpu

if TYPE_CHECKING:
    from mcurl.runtime.device import Compute

_REMEDIES = {
    "no C compiler": "apt-get install gcc; until then plain PyTorch is used, which is slower",
    "built, without OpenMP": "the compiler has no OpenMP: apt-get install gcc, whose OpenMP is PyTorch's, too",
    "build failed": "please report it; until then plain PyTorch is used, which is slower",
}
"""Start of a state of :func:`mcurl.native.status` -> what to do."""


def compute() -> Section:
    """The device, its precision and the threads. One product of matrices is computed on the device.

    The section has no value ``device`` if PyTorch does not load.
    """
    try:
        import torch
    except (ImportError, OSError) as error:
        reason = f"PyTorch does not load ({error}): pip install torch"
        return Section("compute", "Compute", {}, [("device", "none")], [Finding("error", reason)])
    from mcurl.native.processor import processor_flags
    from mcurl.runtime.device import ComputeSettings, prepare

    chosen = prepare(ComputeSettings())
    name = torch.cuda.get_device_name() if chosen.device.type == "cuda" else "cpu"
    values = {
        "device": name,
        "cuda": torch.version.cuda,
        "precision": chosen.precision,
        "threads": torch.get_num_threads(),
        "processor_flags": processor_flags(),
        "gpu_memory_bytes": torch.cuda.mem_get_info()[1] if chosen.device.type == "cuda" else None,
    }
    rows = [
        ("device", f"{name}{_no_gpu(chosen)}"),
        ("precision", f"{chosen.precision}: {_why(chosen)}"),
        ("threads", f"{values['threads']}{_limit()}"),
    ]
    return Section("compute", "Compute", values, rows, _findings(chosen))


def _no_gpu(chosen: Compute) -> str:
    import torch

    if chosen.device.type == "cuda":
        return ""
    return f" (no GPU found; PyTorch is built {'with' if torch.version.cuda else 'without'} CUDA)"


def _why(chosen: Compute) -> str:
    from mcurl.runtime.device import bf16_instructions

    if chosen.device.type == "cuda":
        return "the GPU has fast bf16" if chosen.precision == "bf16" else "the GPU is older than Ampere"
    flags = bf16_instructions()
    return f"the processor has {' and '.join(flags)}" if flags else "the processor has no bf16 instructions"


def _limit() -> str:
    limit = os.environ.get("OMP_NUM_THREADS")
    return f" (OMP_NUM_THREADS={limit})" if limit else ""


def _findings(chosen: Compute) -> list[Finding]:
    import torch

    findings = []
    if chosen.device.type == "cpu" and nvidia_gpu():
        text = (
            "the GPU's driver is too old for PyTorch's CUDA, or hides it: compare nvidia-smi and CUDA_VISIBLE_DEVICES"
            if torch.version.cuda
            else "there is a GPU, but PyTorch is built without CUDA: https://pytorch.org/get-started/locally"
        )
        findings.append(Finding("warning", text))
    try:
        ones = torch.ones(8, 8, device=chosen.device, dtype=chosen.dtype)
        (ones @ ones).sum().item()
    except RuntimeError as error:
        reason = " ".join(str(error).split())[:200]
        findings.append(Finding("error", f"PyTorch does not compute here ({reason}): try --set compute.device=cpu"))
    return findings


def native() -> Section:
    """The native layers: which are built, and why others are not. They are compiled if that was not done yet."""
    import torch  # noqa: F401 - first: its OpenMP serves the compiled code

    from mcurl import native

    states = native.status()
    grouped: dict[str, list[str]] = {}
    for name, state in states.items():
        grouped.setdefault(state, []).append(name)
    rows = [(state, ", ".join(names)) for state, names in grouped.items()]
    findings = [
        Finding("warning", f"{state} ({', '.join(names)}): {remedy}")
        for state, names in grouped.items()
        for start, remedy in _REMEDIES.items()
        if state.startswith(start)
    ]
    return Section("native", "Native layers", states, rows, findings)
