"""Layers on the matrix units of x86 processors (AMX)."""
