"""The settings of a run: dataclasses, TOML files, overrides, and help texts."""
