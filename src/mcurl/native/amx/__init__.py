"""Layers in C for the matrix units (AMX) of x86 processors, or for AVX-512, see README.md in this folder.

Each module defines ``supports`` and ``apply``, which the plain version in ``mcurl.networks`` calls, and ``forward`` and
``backward``, which call the functions in C.
"""

from mcurl.native.amx import dueling, encoder, features, mlp, transformer

__all__ = ["dueling", "encoder", "features", "mlp", "transformer"]
