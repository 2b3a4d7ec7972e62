"""Draws docs/pictures/training-panel.svg, the panel of `mcurl train`, from the logs of a run.

    python docs/pictures/panel.py runs/toy-reach/mcurl-seed1 2600

The second argument is the number of env steps at which the panel is drawn.
"""

from __future__ import annotations

import io
import re
import sys
from collections.abc import Iterator
from pathlib import Path

from rich.console import Console

from mcurl.run.display import Display
from mcurl.run.eta import EvaluationSchedule
from mcurl.run.folder import Run

TARGET = Path(__file__).with_name("training-panel.svg")
WIDTH = 80
"""Columns of the picture."""


def seconds(run: Run, env_steps: int) -> float:
    """Wall-clock seconds of the run at a number of env steps, from its ``speed.jsonl``."""
    return env_steps / 100_000 * hours_per_100k(run) * 3600


def hours_per_100k(run: Run) -> float:
    found = re.findall(r'"hours_per_100k_env_steps": ([\d.]+)', (run.folder / "speed.jsonl").read_text())
    return float(found[-1])


def events(run: Run, until: int) -> Iterator[tuple[int, dict[str, float], list[float]]]:
    """Env steps, metrics and returns of evaluations, in the order in which the panel received them."""
    evaluations = run.evaluations(until)
    for env_steps, metrics in run.metrics():
        if env_steps <= until:
            yield env_steps, metrics, []
    for env_steps, returns in evaluations.items():
        yield env_steps, {}, returns


def panel(folder: Path, until: int) -> str:
    """The panel as SVG."""
    now = 0.0
    console = Console(file=io.StringIO(), record=True, force_terminal=True, width=WIDTH, color_system="truecolor")
    with Run.open(folder) as run:
        settings = run.settings
        display = Display(
            run.env_steps,
            f"{run.name} · {settings['task']} · seed {settings['seed']}",
            f"runs/{folder.parent.name}/{folder.name}",
            console=Console(file=io.StringIO(), width=WIDTH + 3),
            evaluations=EvaluationSchedule.of(settings["evaluation"]),
            tick=0,
            clock=lambda: now,
        )
        updates = 0
        for env_steps, metrics, returns in sorted(events(run, until), key=lambda event: (event[0], bool(event[2]))):
            now = seconds(run, env_steps)
            if returns:
                display.evaluation(env_steps, returns)
                continue
            values = {name: value for name, value in metrics.items() if not name.startswith("episode/")}
            if "episode/return" in metrics:
                display.episode(metrics["episode/return"])
            updates += 100 * bool(values)
            display.update(env_steps, values, updates)
        console.print(display.panel())
    svg = console.export_svg(title=f"mcurl train {settings['task']}", unique_id="panel")
    # Without the fonts that Rich would load from the network.
    return re.sub(r"@font-face \{.*?\}\s*", "", svg, flags=re.DOTALL)


if __name__ == "__main__":
    TARGET.write_text(panel(Path(sys.argv[1]), int(sys.argv[2])))
