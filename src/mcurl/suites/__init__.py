"""Suites: the experiments of the paper as data, and running them."""
