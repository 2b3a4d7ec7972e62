"""What the replay refuses, and what batches carry."""

from __future__ import annotations

import numpy as np
import pytest
from replay_twin import FRAME, Setup

from mcurl.errors import UserError
from mcurl.replay import Replay, bytes_needed


def test_more_memory_than_there_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mcurl.runtime.memory.process_memory", lambda: 10**9)
    needed = bytes_needed(100_000, (3, 100, 100), "uint8", (6,), "float32")
    assert needed == 100_000 * (30_000 + 4 + 1 + 4 + 24 + 32)
    with pytest.raises(UserError, match=r"100,000 rows would take 3\.0 GB, more than the 1\.0 GB"):
        Replay(
            capacity=100_000,
            frame_shape=(3, 100, 100),
            frame_dtype="uint8",
            frame_stack=3,
            stack_start="repeat",
            action_shape=(6,),
            action_dtype="float32",
        )


def test_too_small_for_one_return() -> None:
    with pytest.raises(UserError, match="at least 25"):
        Setup(24, 4, "blank", 20).replay()


def test_what_is_stored_must_fit() -> None:
    replay = Setup(20, 1, "repeat", 1).replay()
    frame = np.zeros(FRAME, np.uint8)
    with pytest.raises(RuntimeError, match="open episode"):
        replay.append(np.zeros(2), 0.0, frame, False, False)
    with pytest.raises(ValueError, match="expected a frame"):
        replay.begin(frame.astype(np.float32))
    with pytest.raises(ValueError, match="expected a frame"):
        replay.begin(frame[:, 1:])
    replay.begin(frame)
    with pytest.raises(ValueError, match="expected an action"):
        replay.append(0.0, 0.0, frame, False, False)
    replay.append(np.zeros(2), 0.0, frame, terminated=True, truncated=False)
    with pytest.raises(RuntimeError, match="open episode"):
        replay.append(np.zeros(2), 0.0, frame, False, False)


def test_frames_are_copied() -> None:
    replay = Setup(20, 1, "repeat", 1).replay()
    frame = np.ones(FRAME, np.uint8)
    replay.begin(frame)
    frame[:] = 2
    assert (replay.gather_stacks(np.array([0])) == 1).all()
