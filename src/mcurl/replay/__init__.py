"""Frames stored once; which rows may be drawn; typed batches."""

from mcurl.replay.batch import Batch, Contrast, Crop, Shift, Transitions, Window
from mcurl.replay.buffer import Replay, bytes_needed
from mcurl.replay.files import prune
from mcurl.replay.sampling import NothingToDraw

__all__ = [
    "Batch",
    "Contrast",
    "Crop",
    "NothingToDraw",
    "Replay",
    "Shift",
    "Transitions",
    "Window",
    "bytes_needed",
    "prune",
]
