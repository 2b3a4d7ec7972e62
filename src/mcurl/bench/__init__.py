"""Benchmarks of the parts of a run.

The reference of an update is its textbook version, timed on the same machine in the same run of the command.
"""
