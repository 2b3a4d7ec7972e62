"""Training: the loop, and the evaluations and checkpoints that it makes on the way."""

from mcurl.training.start import resume, train
from mcurl.training.trainer import Trainer

__all__ = ["Trainer", "resume", "train"]
