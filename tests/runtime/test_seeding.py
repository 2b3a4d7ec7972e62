"""Global generators of their own for code that takes turns with other code."""

from __future__ import annotations

import random
import threading

import numpy as np

from mcurl.runtime.seeding import SeparateGlobals
from mcurl.runtime.threads import TRAINING


def draw() -> tuple[float, float]:
    return random.random(), float(np.random.rand())


def test_separate_globals_continue_and_leave_the_others_alone() -> None:
    random.seed(3)
    np.random.seed(3)
    alone = [draw() for _ in range(4)]
    with SeparateGlobals(1, "evaluate"):
        own = [draw() for _ in range(2)]
    random.seed(3)
    np.random.seed(3)
    separate, seen, others = SeparateGlobals(1, "evaluate"), [], []
    for _ in range(2):
        others.append(draw())
        with separate:
            seen.append(draw())
        others.append(draw())
    assert (others, seen) == (alone, own)


def test_beside_a_run_in_another_thread_they_are_left_as_they_are() -> None:
    """That run draws from them, too: seeding and restoring them would change what it draws."""
    random.seed(3)
    np.random.seed(3)
    alone = [draw() for _ in range(3)]
    random.seed(3)
    np.random.seed(3)
    begin, end = threading.Event(), threading.Event()

    def train() -> None:
        assert TRAINING.acquire()
        begin.set()
        end.wait()
        TRAINING.release()

    thread = threading.Thread(target=train)
    thread.start()
    begin.wait()
    try:
        seen = [draw()]
        with SeparateGlobals(1, "evaluate"):
            seen.append(draw())
        seen.append(draw())
    finally:
        end.set()
        thread.join()
    assert seen == alone
