"""Layers on the matrix units of x86 processors (AMX), each one operation with one gradient; see README.md beside this
file.

Each module has ``supports`` and ``apply``, which the layer's plain twin in ``mcurl.networks`` calls, and below them
``forward`` and ``backward``, the functions of the C.
"""

from mcurl.native.amx import dueling, encoder, head, transformer

__all__ = ["dueling", "encoder", "head", "transformer"]
