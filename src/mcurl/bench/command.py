"""`mcurl bench`: what to time, as a table and as JSON."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from itertools import product
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table

from mcurl.bench import parts
from mcurl.bench.memory import time_memory
from mcurl.bench.profile import picture, shares
from mcurl.bench.runs import time_runs
from mcurl.bench.timing import Timing, ceilings
from mcurl.bench.update import operations, resolve, time_update, time_without
from mcurl.errors import UserError
from mcurl.run import provenance
from mcurl.runtime.device import Compute, ComputeSettings, prepare
from mcurl.runtime.threads import available_cores

PARTS = ("update", "run", "memory", "replay", "render", "env", "checkpoint", "profile")
TAKE_SETTINGS = ("update", "profile")


def run(
    what: list[str],
    *,
    suites: list[str],
    methods: list[str],
    overrides: list[str],
    threads: int,
    precision: str,
    repeats: int,
    plain: bool,
    without: list[str],
    target: Path | None,
    draw: Path,
) -> None:
    """Time the named parts and print a table.

    Args:
        plain: beside each update the textbook's, in a process of its own.
        without: beside each update one without each of these accelerated operations.

    Raises:
        UserError: ``overrides`` or ``without`` are given for a part that takes none, or name nothing that there is.
    """
    fixed = [part for part in what if part not in TAKE_SETTINGS]
    if overrides and fixed:
        raise UserError(f"bench: --set is for {' and '.join(TAKE_SETTINGS)}, not for {', '.join(fixed)}")
    if without and "update" not in what:
        raise UserError(f"bench: --without is for update, not for {', '.join(what)}")
    for name in without:
        operations(name)
    pairs = list(product(suites, methods))
    for suite, method in pairs if overrides else ():
        resolve(suite, method, overrides)  # before any time is spent
    for folder in ([target.parent] if target else []) + ([draw] if "profile" in what else []):
        folder.mkdir(parents=True, exist_ok=True)
        if not os.access(folder, os.W_OK):
            raise UserError(f"bench: {folder} may not be written")
    compute = prepare(ComputeSettings(threads=threads, precision=precision))  # type: ignore[arg-type]
    timings: list[Timing] = []
    ratios: dict[str, float] = {}
    peaks: dict[str, float] = {}
    if "update" in what:
        timings += ceilings(compute.device)
        for suite, method in pairs:
            ours = time_update(suite, method, compute, overrides=overrides, repeats=repeats)
            timings.append(ours)
            if plain:
                slow = _apart(suite, method, overrides, threads, repeats)
                timings.append(slow)
                ratios[slow.name] = slow.milliseconds / ours.milliseconds
            if without:
                full, *others = time_without(suite, method, compute, without, overrides=overrides, repeats=repeats)
                timings += [full, *others]
                ratios |= {other.name: other.milliseconds / full.milliseconds for other in others}
    for suite, method in pairs if "memory" in what else ():
        full, peak = time_memory(suite, method, threads)
        timings.append(full)
        peaks[full.name] = peak
    for suite, method in pairs if "run" in what else ():
        alone, together = time_runs(suite, method, threads, repeats)
        timings += [alone, together]
        ratios[together.name] = together.milliseconds / alone.milliseconds
    if "replay" in what:
        timings += parts.time_replay(compute, repeats)
    if "render" in what:
        timings += parts.time_render(repeats)
    if "env" in what:
        timings += parts.time_env(repeats)
    if "checkpoint" in what:
        timings += parts.time_checkpoint(compute, max(repeats // 4, 2))
    if timings:
        _show(timings, ratios, peaks, compute)
    for suite, method in pairs if "profile" in what else ():
        _profile(suite, method, overrides, compute, draw)
    if target is not None:
        about = provenance.run_metadata() | {
            "compute": compute.name,
            "timings": [t.to_json() for t in timings],
            "times_slower": ratios,
            "peak_gigabytes": peaks,
        }
        target.write_text(json.dumps(about, indent=1, default=str) + "\n")


def _profile(suite: str, method: str, overrides: list[str], compute: Compute, folder: Path) -> None:
    parts_of_it = shares(suite, method, compute, overrides=overrides)
    for group, milliseconds in parts_of_it.items():
        print(f"{group:32} {milliseconds:8.1f} ms")
    target = folder / f"profile-{suite}-{method}.png"
    picture(parts_of_it, f"one {suite} {method} update, {compute.name}", target)
    print(target)


def _apart(suite: str, method: str, overrides: list[str], threads: int, repeats: int) -> Timing:
    """The textbook's update in a fresh process, whose allocator is as it comes."""
    call = f"textbook({suite!r}, {method!r}, {overrides!r}, {threads}, {repeats})"
    code = f"from mcurl.bench.command import textbook; {call}"
    answer = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    values = json.loads(answer.stdout.splitlines()[-1])
    return Timing(**{name: values[name] for name in Timing.__dataclass_fields__})


def textbook(suite: str, method: str, overrides: list[str], threads: int, repeats: int) -> None:
    """Print the textbook's timing as JSON: float32 on the processor, or on the GPU where there is one."""
    torch.set_num_threads(threads or available_cores())
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    timing = time_update(
        suite,
        method,
        Compute(device, torch.float32, graphs=False),
        overrides=overrides,
        plain=True,
        repeats=max(repeats // 4, 4),
    )
    print(json.dumps(timing.to_json()))


def _show(timings: list[Timing], ratios: dict[str, float], peaks: dict[str, float], compute: Compute) -> None:
    table = Table(title=f"{compute.name}, PyTorch {torch.__version__}")
    table.add_column("what")
    for column in ("median ms", "quartiles ms", "GFLOP/s", "GB/s", "times slower", "peak GB"):
        table.add_column(column, justify="right")
    for t in timings:
        ratio = f"{ratios[t.name]:.2f}" if t.name in ratios else ""
        table.add_row(
            t.name,
            f"{t.milliseconds:.2f}",
            f"{t.low:.2f} to {t.high:.2f}",
            f"{t.gflops:.0f}" if t.gflop else "",
            f"{t.gigabytes_per_second:.1f}" if t.megabytes else "",
            ratio,
            f"{peaks[t.name]:.2f}" if t.name in peaks else "",
        )
    console = Console()
    console.width = max(console.width, 120)  # whole rows, also where the output is no terminal
    console.print(table)
