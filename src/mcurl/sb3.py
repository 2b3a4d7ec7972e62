"""A short name for :mod:`mcurl.integrations.sb3`."""

from mcurl.integrations.sb3 import ContrastOptions, CurlEncoder, CurlSACPolicy, MCurlDQN, MCurlSAC

__all__ = ["ContrastOptions", "CurlEncoder", "CurlSACPolicy", "MCurlDQN", "MCurlSAC"]
