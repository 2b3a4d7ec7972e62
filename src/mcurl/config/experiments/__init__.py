"""The paper's experiments: one TOML file per suite, with the source of each value in a comment."""
