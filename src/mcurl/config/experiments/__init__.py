"""The paper's experiments as data: one TOML file a suite, with the source of each value beside it."""
