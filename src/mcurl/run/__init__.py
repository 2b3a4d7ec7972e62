"""A run on disk and on the screen: run folder, checkpoints, logs, display and provenance."""
