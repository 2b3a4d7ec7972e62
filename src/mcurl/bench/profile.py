"""Profile of an update: time of the profiler's operations by group, as numbers and as a bar chart."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from torch import Tensor
from torch.profiler import ProfilerActivity, profile, record_function

from mcurl.bench.update import Learner
from mcurl.errors import UserError
from mcurl.native import adam
from mcurl.runtime.device import Compute

GROUPS = {
    "convolutions, forward": (
        "mkldnn::_convolution_pointwise",
        "aten::mkldnn_convolution",
        "aten::cudnn_convolution",
        "_AmxEncoder",
        "_CompiledConvolutions",
    ),
    "convolutions, backward": (
        "aten::convolution_backward",
        "_AmxEncoderBackward",
        "_CompiledConvolutionsBackward",
    ),
    "heads and Transformer, forward": ("_AmxTransformer", "_AmxDueling", "_AmxFeatures", "_AmxMlp"),
    "heads and Transformer, backward": (
        "_AmxTransformerBackward",
        "_AmxDuelingBackward",
        "_AmxFeaturesBackward",
        "_AmxMlpBackward",
    ),
    "ReLU, backward": ("aten::threshold_backward",),
    "matrix products": ("aten::mm", "aten::addmm", "aten::bmm", "mkldnn::_linear_pointwise"),
    "copies and casts": ("aten::copy_", "aten::cat"),
    "optimizers and momentum": (
        "aten::_fused_adam_",
        "aten::lerp_",
        "aten::_foreach_lerp_",
        "aten::_foreach_add_",
        "compiled Adam",
    ),
}
"""Name of each group -> names of its operations in PyTorch's profiler."""
SAMPLING, OTHER = "sampling the batch", "everything else"
"""Names of the remaining groups."""


def time_by_group(
    suite: str, method: str, compute: Compute, *, overrides: list[str] | None = None, updates: int = 6
) -> dict[str, float]:
    """CPU time of one update by group.

    Args:
        suite: ``"dmc"`` or ``"atari"``.
        method: name of a method.
        compute: device and precision.
        overrides: ``section.name=value``.
        updates: number of updates to average over.

    Returns:
        Group -> milliseconds per update, largest first. The time of an operation excludes the operations that it calls.
    """
    learner = Learner(suite, method, compute, overrides=overrides or ())
    spent: dict[str, float] = defaultdict(float)

    def update() -> None:
        start = time.perf_counter()
        batch = learner.sample()
        spent[SAMPLING] += (time.perf_counter() - start) * 1e3
        learner.learn(batch)

    for _ in range(4):
        update()
    spent.clear()
    with _named_adam(), profile(activities=[ProfilerActivity.CPU]) as profiler:
        for _ in range(updates):
            update()
    group_of = {operation: group for group, operations in GROUPS.items() for operation in operations}
    for row in profiler.key_averages():
        spent[group_of.get(row.key, OTHER)] += row.self_cpu_time_total / 1e3
    return {group: value / updates for group, value in sorted(spent.items(), key=lambda item: -item[1])}


@contextmanager
def _named_adam() -> Iterator[None]:
    """A context manager in which the profiler records the compiled Adam, which is not a PyTorch operation."""
    step = adam.step

    def recorded_step(*arguments: Any, **keywords: Any) -> Tensor:
        with record_function("compiled Adam"):
            return step(*arguments, **keywords)

    adam.step = recorded_step
    try:
        yield
    finally:
        adam.step = step


def plot(parts: dict[str, float], title: str, target: Path) -> None:
    """Plot a bar chart of the groups, in ms. Raises UserError if matplotlib is not installed."""
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise UserError("plotting needs matplotlib: pip install 'mcurl[report]'") from None
    figure = Figure(figsize=(7.0, 0.42 * len(parts) + 1.0), dpi=150, layout="constrained")
    axes: Any = figure.subplots()
    total, names = sum(parts.values()), list(reversed(parts))
    bars = axes.barh(names, [parts[name] for name in names], color="#1f5fa8")
    digits = 0 if total > 100 else 1
    axes.bar_label(
        bars, [f"{parts[name]:.{digits}f} ms, {parts[name] / total:.0%}" for name in names], padding=4, fontsize=8
    )
    axes.set_xlim(0, 1.2 * max(parts.values()))
    axes.set_title(title, fontsize=10)
    axes.set_xlabel("ms per update")
    axes.spines[["top", "right"]].set_visible(False)
    target.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(target)
