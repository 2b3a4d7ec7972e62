"""The command ``mcurl bench``: times the parts of a run, and prints a table or writes JSON."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table

from mcurl.bench import parts
from mcurl.bench.memory import time_memory
from mcurl.bench.profile import plot, time_by_group
from mcurl.bench.runs import time_runs
from mcurl.bench.timing import Timing, time_peak_throughput
from mcurl.bench.update import operations, resolve, time_ablations, time_busy, time_update
from mcurl.errors import UserError
from mcurl.run import provenance
from mcurl.runtime.device import Compute, ComputeSettings, prepare
from mcurl.runtime.threads import available_cores

PARTS = ("update", "busy", "act", "run", "memory", "replay", "render", "env", "checkpoint", "profile")
"""Names of the parts that can be timed."""
PARTS_WITH_SETTINGS = ("update", "busy", "profile")
"""Parts to which ``--set`` applies."""


@dataclass
class Results:
    """The results of one benchmark."""

    timings: list[Timing] = field(default_factory=list)
    """Timings, in the order of the table."""
    ratios: dict[str, float] = field(default_factory=dict)
    """Name of a timing -> its time relative to the timing that it is compared with."""
    peaks: dict[str, float] = field(default_factory=dict)
    """Name of a timing -> peak of resident memory in GB."""


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
    plot_dir: Path,
) -> None:
    """Time parts of a run and print a table.

    Args:
        what: names of :data:`PARTS`.
        suites: ``"dmc"`` or ``"atari"``.
        methods: names of methods; all combinations with ``suites`` are timed.
        overrides: ``section.name=value``, for :data:`PARTS_WITH_SETTINGS` only.
        threads: CPU threads; 0: all cores.
        precision: as the setting ``compute.precision``.
        repeats: number of repetitions of each timing.
        plain: also time the textbook version of each update, in a separate process.
        without: also time each update without each of these accelerated operations.
        target: JSON file for the results, if any.
        plot_dir: folder of the figures of ``profile``.

    Raises:
        UserError: ``overrides`` or ``without`` do not apply to a part or are invalid, or a folder is not writable.
    """
    pairs = list(product(suites, methods))
    _check(what, pairs, overrides, without, ([target.parent] if target else []) + [plot_dir] * ("profile" in what))
    compute = prepare(ComputeSettings(threads=threads, precision=precision))  # type: ignore[arg-type]
    results = Results()
    if "update" in what:
        results.timings += time_peak_throughput(compute.device)
        for suite, method in pairs:
            _time_updates(results, suite, method, compute, overrides, threads, repeats, plain, without)
    for suite, method in pairs if "busy" in what else ():
        alone, busy = time_busy(suite, method, compute, overrides=overrides, repeats=repeats)
        results.timings += [alone, busy]
        results.ratios[busy.name] = busy.milliseconds / alone.milliseconds
    for suite in suites if "act" in what else ():
        results.timings += parts.time_act(suite, compute, repeats)
    for suite, method in pairs if "memory" in what else ():
        timing, results.peaks[timing.name] = time_memory(suite, method, threads)
        results.timings.append(timing)
    for suite, method in pairs if "run" in what else ():
        single, parallel = time_runs(suite, method, threads, repeats)
        results.timings += [single, parallel]
        results.ratios[parallel.name] = parallel.milliseconds / single.milliseconds
    _time_parts(results, what, compute, repeats)
    if results.timings:
        _print(results, compute)
    for suite, method in pairs if "profile" in what else ():
        _profile(suite, method, overrides, compute, plot_dir)
    if target is not None:
        _write(results, compute, target)


def textbook(suite: str, method: str, overrides: list[str], threads: int, repeats: int) -> None:
    """Time the textbook update in this process, in float32 and on the GPU if there is one; print the timing as JSON."""
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


def _check(
    what: list[str], pairs: list[tuple[str, str]], overrides: list[str], without: list[str], folders: list[Path]
) -> None:
    """Check the arguments before anything is timed, and create the output folders. Raises UserError."""
    others = [part for part in what if part not in PARTS_WITH_SETTINGS]
    if overrides and others:
        raise UserError(f"bench: --set is for {', '.join(PARTS_WITH_SETTINGS)}, not for {', '.join(others)}")
    if without and "update" not in what:
        raise UserError(f"bench: --without is for update, not for {', '.join(what)}")
    for name in without:
        operations(name)
    for suite, method in pairs if overrides else ():
        resolve(suite, method, overrides)
    for folder in folders:
        folder.mkdir(parents=True, exist_ok=True)
        if not os.access(folder, os.W_OK):
            raise UserError(f"bench: {folder} is not writable")


def _time_updates(
    results: Results,
    suite: str,
    method: str,
    compute: Compute,
    overrides: list[str],
    threads: int,
    repeats: int,
    plain: bool,
    without: list[str],
) -> None:
    fast = time_update(suite, method, compute, overrides=overrides, repeats=repeats)
    results.timings.append(fast)
    if plain:
        slow = _time_textbook(suite, method, overrides, threads, repeats)
        results.timings.append(slow)
        results.ratios[slow.name] = slow.milliseconds / fast.milliseconds
    if without:
        full, *ablations = time_ablations(suite, method, compute, without, overrides=overrides, repeats=repeats)
        results.timings += [full, *ablations]
        results.ratios |= {ablation.name: ablation.milliseconds / full.milliseconds for ablation in ablations}


def _time_textbook(suite: str, method: str, overrides: list[str], threads: int, repeats: int) -> Timing:
    """Time the textbook update in a new process, which has the default memory allocator."""
    call = f"textbook({suite!r}, {method!r}, {overrides!r}, {threads}, {repeats})"
    code = f"from mcurl.bench.command import textbook; {call}"
    process = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    values = json.loads(process.stdout.splitlines()[-1])
    return Timing(**{name: values[name] for name in Timing.__dataclass_fields__})


def _time_parts(results: Results, what: list[str], compute: Compute, repeats: int) -> None:
    if "replay" in what:
        results.timings += parts.time_replay(compute, repeats)
    if "render" in what:
        results.timings += parts.time_render(repeats)
    if "env" in what:
        results.timings += parts.time_env(repeats)
    if "checkpoint" in what:
        results.timings += parts.time_checkpoint(compute, max(repeats // 4, 2))


def _profile(suite: str, method: str, overrides: list[str], compute: Compute, folder: Path) -> None:
    groups = time_by_group(suite, method, compute, overrides=overrides)
    for group, milliseconds in groups.items():
        print(f"{group:32} {milliseconds:8.1f} ms")
    target = folder / f"profile-{suite}-{method}.png"
    plot(groups, f"one {suite} {method} update, {compute.name}", target)
    print(target)


def _print(results: Results, compute: Compute) -> None:
    table = Table(title=f"{compute.name}, PyTorch {torch.__version__}")
    table.add_column("part")
    for column in ("median ms", "quartiles ms", "GFLOP/s", "GB/s", "relative time", "peak GB"):
        table.add_column(column, justify="right")
    for timing in results.timings:
        name = timing.name
        table.add_row(
            name,
            f"{timing.milliseconds:.2f}",
            f"{timing.low:.2f} to {timing.high:.2f}",
            f"{timing.gflops:.0f}" if timing.gflop else "",
            f"{timing.gigabytes_per_second:.1f}" if timing.megabytes else "",
            f"{results.ratios[name]:.2f}" if name in results.ratios else "",
            f"{results.peaks[name]:.2f}" if name in results.peaks else "",
        )
    console = Console()
    console.width = max(console.width, 120)  # complete rows, even if the output is not a terminal
    console.print(table)


def _write(results: Results, compute: Compute, target: Path) -> None:
    document = provenance.run_metadata() | {
        "compute": compute.name,
        "timings": [timing.to_json() for timing in results.timings],
        "times_slower": results.ratios,
        "peak_gigabytes": results.peaks,
    }
    target.write_text(json.dumps(document, indent=1, default=str) + "\n")
