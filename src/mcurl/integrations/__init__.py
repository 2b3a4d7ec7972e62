"""The contrastive losses in other people's agents: what an agent needs beside :meth:`Objective.prepare`.

- :class:`Episodes`: padded windows of any buffer that knows where its episodes end;
- :func:`random_crop`, :func:`random_shift`: augmentations of tensors, on their device;
- :func:`parameter_groups`, :func:`set_learning_rates`: an optimizer's groups, and their schedule;
- :func:`make_objective`: an objective by its name;
- :class:`ContrastiveLearner`: all of these in one object, with one call per update.

Ready-made: ``mcurl.integrations.sb3`` (Stable-Baselines3), ``mcurl.integrations.torchrl`` (TorchRL).
"""

from mcurl.integrations.augment import random_crop, random_shift
from mcurl.integrations.learner import ContrastiveLearner
from mcurl.integrations.objective import make_objective
from mcurl.integrations.optim import parameter_groups, set_learning_rates
from mcurl.integrations.windows import Episodes

__all__ = [
    "ContrastiveLearner",
    "Episodes",
    "make_objective",
    "parameter_groups",
    "random_crop",
    "random_shift",
    "set_learning_rates",
]
