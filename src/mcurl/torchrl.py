"""A short name for :mod:`mcurl.integrations.torchrl`."""

from mcurl.integrations.torchrl import MCurlLoss

__all__ = ["MCurlLoss"]
