"""The settings of a run: dataclasses, TOML layers, overrides, and what a user reads of them."""
