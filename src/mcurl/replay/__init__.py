"""The replay buffer: a ring of single frames, sampling, augmentation, typed batches, and files."""

from mcurl.replay.augment import (
    Augmentation,
    CentreCrop,
    Intensity,
    PaddedCrop,
    RandomCrop,
    RandomShift,
    WholeFrame,
    Window,
    apply_intensity,
)
from mcurl.replay.batch import Batch, Contrast, Transitions
from mcurl.replay.buffer import Replay, bytes_needed
from mcurl.replay.files import prune
from mcurl.replay.sampling import NothingToSample

__all__ = [
    "Augmentation",
    "Batch",
    "CentreCrop",
    "Contrast",
    "Intensity",
    "NothingToSample",
    "PaddedCrop",
    "RandomCrop",
    "RandomShift",
    "Replay",
    "Transitions",
    "WholeFrame",
    "Window",
    "apply_intensity",
    "bytes_needed",
    "prune",
]
