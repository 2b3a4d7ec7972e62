"""M-CURL: masked contrastive representation learning for reinforcement learning from pixels.

From Python (see docs/python.md)::

    import mcurl

    result = mcurl.train("dmc/cartpole-swingup", env_steps=20_000, settings={"mcurl.mask_rate": 0.3})
    policy = mcurl.load(result)
    returns = policy.evaluate(10)

This module imports nothing by itself, so that ``import mcurl`` is fast: a name is imported when it is first used.
"""

from typing import TYPE_CHECKING

__version__ = "0.2.0.dev0"

_HOMES = {
    "train": "mcurl.api",
    "resume": "mcurl.api",
    "RunResult": "mcurl.api",
    "make_env": "mcurl.api",
    "load": "mcurl.policy",
    "Policy": "mcurl.policy",
    "Callback": "mcurl.callbacks",
    "Progress": "mcurl.callbacks",
    "MCurl": "mcurl.objectives.masked",
    "MCurlSettings": "mcurl.objectives.masked",
    "Curl": "mcurl.objectives.contrast",
    "CurlSettings": "mcurl.objectives.contrast",
    "UserError": "mcurl.errors",
}
"""Name -> the module that defines it."""

if TYPE_CHECKING:  # the same names, for type checkers and editors
    from mcurl.api import RunResult, make_env, resume, train
    from mcurl.callbacks import Callback, Progress
    from mcurl.errors import UserError
    from mcurl.objectives.contrast import Curl, CurlSettings
    from mcurl.objectives.masked import MCurl, MCurlSettings
    from mcurl.policy import Policy, load
else:

    def __getattr__(name):
        """Import a name on first use."""
        if name not in _HOMES:
            raise AttributeError(f"module 'mcurl' has no attribute {name!r}")
        from importlib import import_module

        value = globals()[name] = getattr(import_module(_HOMES[name]), name)
        return value

    def __dir__():
        return sorted({*globals(), *_HOMES})


__all__ = [
    "Callback",
    "Curl",
    "CurlSettings",
    "MCurl",
    "MCurlSettings",
    "Policy",
    "Progress",
    "RunResult",
    "UserError",
    "load",
    "make_env",
    "resume",
    "train",
]
