"""The class that docs/in-your-agent.md shows."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from bar import Bar

pytest.importorskip("stable_baselines3")
PAGE = (Path(__file__).parents[2] / "docs" / "in-your-agent.md").read_text()
(SHOWN,) = re.findall(r"```python\n# my_dqn.py\n(.*?)```", PAGE, re.S)


def test_the_class_has_at_most_25_lines_and_learns() -> None:
    assert len(SHOWN.strip().splitlines()) <= 25
    names: dict[str, Any] = {}
    exec(SHOWN, names)
    small = {"features_extractor_kwargs": {"features_dim": 16, "filters": 8, "layers": 1}, "net_arch": []}
    from mcurl.sb3 import CurlEncoder

    model = names["ContrastiveDQN"](
        *("CnnPolicy", Bar(discrete=True)),
        policy_kwargs=small | {"features_extractor_class": CurlEncoder},
        buffer_size=50,
        learning_starts=40,
        train_freq=1,
        seed=0,
        device="cpu",
    )
    found: list[float] = []
    update = None

    def recorded(*args: Any, **kwargs: Any) -> Any:
        metrics = update(*args, **kwargs)  # type: ignore[misc]
        found.append(metrics["contrast/loss"].item())
        return metrics

    update, model.contrast.update = model.contrast.update, recorded
    model.learn(60)
    assert len(found) == 20
    assert np.isfinite(found).all()
